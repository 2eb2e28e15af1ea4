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
            | Outcome::Digests { .. } => Self::Ok,
        }
    }
}

impl From<ErrorKind> for Status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::NoSuchFile,
            ErrorKind::PermissionDenied => Self::PermissionDenied,
            ErrorKind::InvalidArgument => Self::BadMessage,
            ErrorKind::Unsupported => Self::OpUnsupported,
            // Version 3 has no code for these. NO_CONNECTION and CONNECTION_LOST are the client library's own.
            ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::NotEmpty
            | ErrorKind::NoSpace
            | ErrorKind::InvalidHandle
            | ErrorKind::Unavailable
            | ErrorKind::TimedOut
            | ErrorKind::Failure => Self::Failure,
        }
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
            Denied::AboveMounts
            | Denied::MountPoint
            | Denied::Missing(_)
            | Denied::LinkTarget
            | Denied::WrongHandle => Self::PermissionDenied,
            // Clients copy and delete when a rename across file systems fails so.
            Denied::AcrossMounts | Denied::UnknownHandle | Denied::SameFile => Self::Failure,
        }
    }
}
