//! Why an operation on the server failed, and what the client hears of it.

use super::wire::Malformed;
use crate::backend::{
    BackendError, ErrorKind, Origin,
    staging::{Refusal, WatchError},
};

/// A failed operation, before it is told which path and server it belongs to.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    #[error("the server answered: {}", said(*.code, .message))]
    Answered { code: u32, message: String },
    #[error("the server has no room left: {}", said(FAILURE, .0))]
    NoSpace(String),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Lost(#[from] Loss),
    #[error("the server does not announce {0}")]
    NotAnnounced(&'static str),
    #[error(
        "the file has {size} bytes, and the gateway copies at most {limit} to change an existing one (copy_limit_bytes), since the server does not announce copy-data; upload the whole file"
    )]
    TooLargeToCopy { size: u64, limit: u64 },
    #[error("the file was changed by someone else since it was opened; the upload is withdrawn")]
    ChangedMeanwhile,
    #[error(
        "the staging file has {length} bytes and not the {expected} that were written; the upload is withdrawn"
    )]
    OtherLength { expected: u64, length: u64 },
    #[error("{0}")]
    Watch(#[from] WatchError),
    #[error(
        "the server made {length} bytes of {expected} when the first ones were written over: restore the file from a backup, and rotate no more on this server"
    )]
    LengthChanged { expected: u64, length: u64 },
    #[error(
        "an interrupted upload was opened and nothing written to it; it stays as it was: remove it, or upload the file again"
    )]
    NothingWritten,
    #[error(
        "the server can't replace a file in one step (it does not announce posix-rename@openssh.com); remove the old file first"
    )]
    NoReplace,
    #[error("the server allows {most} open handles at a time; close some first")]
    TooManyHandles { most: u64 },
    #[error("uploads through a symbolic link are not supported on this backend")]
    ThroughLink,
    #[error("a write to this file failed ({0}); the upload is withdrawn")]
    Spoiled(String),
    #[error("the server gave an answer that does not belong to the request")]
    WrongAnswer,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("no such handle is open")]
    NoSuchHandle,
    #[error("the handle is a directory's")]
    HandleOfDirectory,
    #[error("the handle is a file's")]
    HandleOfFile,
    #[error("the mount's directory itself can't be removed, renamed or replaced")]
    MountItself,
    #[error("this request is for the gateway and not for a backend")]
    ForTheGateway,
    #[error("no randomness for the name of a staging file")]
    NoRandomness,
}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(super) struct Loss {
    pub(super) kind: ErrorKind,
    pub(super) why: String,
}

impl Loss {
    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            why: why.into(),
        }
    }
}

impl Fault {
    /// The error that the gate records and the client's status is made from.
    pub(super) fn on(&self, what: &str, server: &str) -> BackendError {
        let (kind, origin) = self.class();
        BackendError::new(
            kind,
            origin,
            format!("{what} on sftp server {server}: {self}"),
        )
    }

    fn class(&self) -> (ErrorKind, Origin) {
        match self {
            Self::Answered { code, .. } => status_class(*code),
            Self::NoSpace(_) => (ErrorKind::NoSpace, Origin::Backend),
            Self::Refused(refusal) => (refusal.kind(), Origin::Client),
            Self::Lost(loss) => (loss.kind, Origin::Backend),
            Self::NotAnnounced(_)
            | Self::TooLargeToCopy { .. }
            | Self::NoReplace
            | Self::ThroughLink => (ErrorKind::Unsupported, Origin::Backend),
            Self::Spoiled(_)
            | Self::WrongAnswer
            | Self::Malformed(_)
            | Self::ChangedMeanwhile
            | Self::Watch(_)
            | Self::LengthChanged { .. }
            | Self::TooManyHandles { .. }
            | Self::OtherLength { .. } => (ErrorKind::Failure, Origin::Backend),
            Self::NothingWritten => (ErrorKind::Failure, Origin::Client),
            Self::NoSuchHandle | Self::HandleOfDirectory | Self::HandleOfFile => {
                (ErrorKind::InvalidHandle, Origin::Client)
            }
            Self::MountItself => (ErrorKind::PermissionDenied, Origin::Client),
            Self::ForTheGateway => (ErrorKind::Unsupported, Origin::Gateway),
            Self::NoRandomness => (ErrorKind::Failure, Origin::Gateway),
        }
    }
}

/// Status codes: 0 to 8 of version 3 (filexfer-02 section 7), and those of later versions, which some servers send in
/// version 3 too (filexfer-13 section 9.1).
fn status_class(code: u32) -> (ErrorKind, Origin) {
    match code {
        2 | 10 => (ErrorKind::NotFound, Origin::Client),
        3 | 12 => (ErrorKind::PermissionDenied, Origin::Client),
        6 | 7 | 13 => (ErrorKind::Unavailable, Origin::Backend),
        8 => (ErrorKind::Unsupported, Origin::Backend),
        9 => (ErrorKind::InvalidHandle, Origin::Backend),
        11 => (ErrorKind::AlreadyExists, Origin::Client),
        14 | 15 => (ErrorKind::NoSpace, Origin::Backend),
        18 => (ErrorKind::NotEmpty, Origin::Client),
        19 => (ErrorKind::NotADirectory, Origin::Client),
        20 | 23 => (ErrorKind::InvalidArgument, Origin::Client),
        24 => (ErrorKind::IsADirectory, Origin::Client),
        _ => (ErrorKind::Failure, Origin::Backend),
    }
}

const FAILURE: u32 = 4;

fn said(code: u32, message: &str) -> String {
    if message.is_empty() {
        format!("status {code}")
    } else {
        format!("{message} (status {code})")
    }
}
