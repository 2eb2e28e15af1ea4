//! The control interface's vocabulary, version 1: what goes over the socket, in both directions.

pub mod client;
pub mod peer;
pub mod server;

use std::error::Error;

use portcullis_journal::AppendError;
use serde::{Deserialize, Serialize};

use crate::{
    bans::BanError,
    datapath::{Counters, DatapathError, InterfaceStatus},
    state::StateError,
};

/// Body of `POST /v1/bans`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// An address or a prefix.
    pub source: String,
    pub lifetime_seconds: u64,
    #[serde(default)]
    pub reason: String,
}

/// Body of `DELETE /v1/bans`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnbanRequest {
    pub source: String,
}

/// Body of `POST /v1/allow` (entries to put in) and `PUT /v1/allow` (the whole list).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    pub entries: Vec<AllowEntry>,
}

/// One entry as it is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowEntry {
    /// An address or a prefix.
    pub prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Body of `DELETE /v1/allow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisallowRequest {
    pub prefixes: Vec<String>,
}

/// What a change of the allowlist did. When it is answered, every packet to come meets the new list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowSummary {
    pub put: usize,
    pub removed: usize,
    pub entries: usize,
    pub generation: u64,
}

/// Answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub generation: u64,
    /// Fingerprint of the layout of the maps.
    pub layout: String,
    pub monitor: bool,
    pub interfaces: Vec<InterfaceStatus>,
    pub allowed: usize,
    pub protected: usize,
    pub banned: usize,
    pub journal_healthy: bool,
    /// Why the kernel does not enforce what is wanted, while it does not.
    pub lag: Option<String>,
    pub counters: Counters,
}

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
    /// There is no such thing. 404.
    NotFound,
    /// The source is protected. 409.
    Protected,
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

    pub fn stopping() -> Self {
        Self {
            code: Code::Stopping,
            message: "the agent is stopping".to_owned(),
        }
    }

    pub(crate) fn kernel(error: &DatapathError) -> Self {
        Self {
            code: Code::Kernel,
            message: chain(error),
        }
    }

    pub(crate) fn state(error: &StateError) -> Self {
        tracing::error!(
            error = chain(error),
            "the change can't be kept, so it is not made"
        );
        Self {
            code: Code::State,
            message: chain(error),
        }
    }

    pub(crate) fn journal(error: &AppendError) -> Self {
        Self {
            code: Code::Journal,
            message: chain(error),
        }
    }

    pub(crate) fn ban(error: &BanError) -> Self {
        let code = match error {
            BanError::Protected { .. } => Code::Protected,
            BanError::TooMany { .. } => Code::Limit,
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

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
