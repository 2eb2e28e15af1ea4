//! What a client hears of an outcome, a failure or a refusal: little. The record hears all.

use crate::{
    backend::{BackendError, ErrorKind},
    operation::Outcome,
    policy::Denied,
};

/// The status codes of filexfer-02 section 7 that a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Ok,
    Eof,
    NoSuchFile,
    PermissionDenied,
    Failure,
    BadMessage,
    OpUnsupported,
}

impl Status {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Eof => 1,
            Self::NoSuchFile => 2,
            Self::PermissionDenied => 3,
            Self::Failure => 4,
            Self::BadMessage => 5,
            Self::OpUnsupported => 8,
        }
    }

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "SSH_FX_OK",
            Self::Eof => "SSH_FX_EOF",
            Self::NoSuchFile => "SSH_FX_NO_SUCH_FILE",
            Self::PermissionDenied => "SSH_FX_PERMISSION_DENIED",
            Self::Failure => "SSH_FX_FAILURE",
            Self::BadMessage => "SSH_FX_BAD_MESSAGE",
            Self::OpUnsupported => "SSH_FX_OP_UNSUPPORTED",
        }
    }

    /// The text that the client may show.
    pub fn message(self) -> &'static str {
        match self {
            Self::Ok => "Success",
            Self::Eof => "End of file",
            Self::NoSuchFile => "No such file",
            Self::PermissionDenied => "Permission denied",
            Self::Failure => "Failure",
            Self::BadMessage => "Bad message",
            Self::OpUnsupported => "Operation unsupported",
        }
    }
}

impl From<&Outcome> for Status {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::End => Self::Eof,
            Outcome::Done
            | Outcome::Published { .. }
            | Outcome::Opened
            | Outcome::Data(_)
            | Outcome::Names(_)
            | Outcome::Attributes(_)
            | Outcome::Target(_)
            | Outcome::FilesystemStatus(_)
            | Outcome::Path(_)
            | Outcome::Limits { .. }
            | Outcome::UsersGroups { .. }
            | Outcome::Digests { .. }
            | Outcome::Tended(_) => Self::Ok,
        }
    }
}

/// What is to be done about a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It would fail again, whoever asks.
    Pointless,
    /// Later, or on another server with the same content. The gateway itself repeats nothing.
    Elsewhere,
}

impl Retry {
    /// The label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pointless => "pointless",
            Self::Elsewhere => "elsewhere",
        }
    }
}

impl ErrorKind {
    /// The one table of what follows from a failure: what the client hears, and what helps. `docs/backends.md` shows it.
    pub fn consequence(self) -> (Status, Retry) {
        match self {
            Self::NotFound | Self::NotADirectory => (Status::NoSuchFile, Retry::Pointless),
            Self::PermissionDenied | Self::Shredded => (Status::PermissionDenied, Retry::Pointless),
            Self::InvalidArgument => (Status::BadMessage, Retry::Pointless),
            Self::Unsupported => (Status::OpUnsupported, Retry::Pointless),
            // Version 3 has no code for these. NO_CONNECTION and CONNECTION_LOST are the client library's own.
            Self::AlreadyExists
            | Self::IsADirectory
            | Self::NotEmpty
            | Self::NoSpace
            | Self::InvalidHandle
            | Self::NotAuthentic
            | Self::Failure => (Status::Failure, Retry::Pointless),
            Self::Unavailable | Self::TimedOut => (Status::Failure, Retry::Elsewhere),
        }
    }
}

impl From<ErrorKind> for Status {
    fn from(kind: ErrorKind) -> Self {
        kind.consequence().0
    }
}

impl From<&BackendError> for Status {
    fn from(error: &BackendError) -> Self {
        error.kind.into()
    }
}

impl From<&Denied> for Status {
    fn from(denied: &Denied) -> Self {
        match denied {
            Denied::Nowhere => Self::NoSuchFile,
            Denied::DisabledExtension => Self::OpUnsupported,
            Denied::AboveMounts
            | Denied::MountPoint
            | Denied::Missing(_)
            | Denied::RulesBelow
            | Denied::Widens
            | Denied::LinkTarget
            | Denied::GatewayOnly
            | Denied::WrongHandle => Self::PermissionDenied,
            // Clients copy and delete when a rename across file systems fails so.
            Denied::AcrossMounts | Denied::UnknownHandle | Denied::SameFile => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_of_failures_is_the_one_in_force() {
        let documented: Vec<&str> = include_str!("../../docs/backends.md")
            .lines()
            .filter(|line| line.contains("| `SSH_FX_"))
            .collect();
        let in_force: Vec<String> = ErrorKind::ALL
            .into_iter()
            .map(|kind| {
                let (status, retry) = kind.consequence();
                format!(
                    "| `{}` | `{}` | {} |",
                    kind.code(),
                    status.name(),
                    retry.label()
                )
            })
            .collect();
        assert_eq!(documented.len(), in_force.len());
        for (documented, in_force) in documented.iter().zip(&in_force) {
            assert!(
                documented.starts_with(in_force.as_str()),
                "{documented} is {in_force}"
            );
        }
    }
}
