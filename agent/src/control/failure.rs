//! Why a request was not carried out.

use std::error::Error;

use portcullis_journal::AppendError;
use serde::{Deserialize, Serialize};

use crate::{
    answers::why::WhyError, bans::BanError, datapath::DatapathError, guard::Refusal,
    state::StateError,
};

/// Why a request was not carried out; the body of every error reply, under the key `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

/// The body of an error reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReply {
    pub error: Failure,
}

/// Kinds of failure, each with one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request can't be understood, or asks for what can't be. 400.
    Invalid,
    /// The caller's role does not allow it. 403.
    Forbidden,
    /// The resource has no such method. 405.
    NotAllowed,
    /// There is no such thing. 404.
    NotFound,
    /// The source is protected, or never to be banned. 409.
    Protected,
    /// It would cut live sessions; it may be forced. 409.
    Guard,
    /// It does not go with what is under way, such as a change that waits for its confirmation. 409.
    Conflict,
    /// The lists are at another revision than `If-Match` says. 412.
    Precondition,
    /// The body is too large. 413.
    TooLarge,
    /// The body did not come in time. 408.
    Slow,
    /// Too many requests. 429.
    Busy,
    /// The idempotency key was used for another request. 422.
    Reused,
    /// A limit of the configuration or the kernel. 422.
    Limit,
    /// The kernel refuses; it is retried. 500.
    Kernel,
    /// The change can't be kept; nothing was changed. 500.
    State,
    /// The change can't be recorded; nothing was changed. 503.
    Journal,
    /// The daemon is ending. 503.
    Stopping,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: Code::Invalid,
            message: message.into(),
        }
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self {
            code: Code::Forbidden,
            message: message.into(),
        }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            code: Code::NotFound,
            message: message.into(),
        }
    }

    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub fn stopping() -> Self {
        Self {
            code: Code::Stopping,
            message: "the agent is stopping".to_owned(),
        }
    }

    pub(crate) fn kernel(error: &DatapathError) -> Self {
        let code = match error {
            DatapathError::Rules(_) | DatapathError::TooLarge(_) => Code::Limit,
            DatapathError::BuildTrie { .. }
            | DatapathError::Kernel { .. }
            | DatapathError::Random { .. }
            | DatapathError::NoSlot
            | DatapathError::NoGeneration
            | DatapathError::TooManyMonitored { .. }
            | DatapathError::NotArmed
            | DatapathError::TooLate
            | DatapathError::AlreadyArmed
            | DatapathError::Probe { .. }
            | DatapathError::Refused => Code::Kernel,
        };
        Self {
            code,
            message: chain(error),
        }
    }

    pub(crate) fn why(error: &WhyError) -> Self {
        let code = match error {
            WhyError::NoSuchInterface { .. } => Code::Invalid,
            WhyError::Program(_) | WhyError::Rules(_) => Code::Kernel,
        };
        Self::new(code, chain(error))
    }

    pub(crate) fn state(error: &StateError) -> Self {
        Self {
            code: match error {
                StateError::NoSuchRevision { .. } => Code::NotFound,
                StateError::Directory { .. }
                | StateError::Read { .. }
                | StateError::Write { .. }
                | StateError::Malformed { .. } => Code::State,
            },
            message: chain(error),
        }
    }

    pub(crate) fn refused(refusal: &Refusal) -> Self {
        Self::new(Code::Guard, refusal.to_string())
    }

    pub(crate) fn journal(error: &AppendError) -> Self {
        Self {
            code: Code::Journal,
            message: chain(error),
        }
    }

    pub(crate) fn ban(error: &BanError) -> Self {
        let code = match error {
            BanError::Protected { .. } | BanError::Never { .. } => Code::Protected,
            BanError::TooMany { .. } | BanError::Crowded { .. } => Code::Limit,
            BanError::LifetimeTooLong { .. }
            | BanError::NoLifetime
            | BanError::TooWide { .. }
            | BanError::Reason => Code::Invalid,
        };
        Self {
            code,
            message: error.to_string(),
        }
    }
}

pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
