//! Why an operation on the disk failed, and what the client hears of it.

use std::time::Duration;

use rustix::io::Errno;

use crate::backend::{BackendError, ErrorKind, Origin, staging::Refusal};

/// A failed operation, before it is told which path and backend it belongs to.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Os(#[from] Errno),
    #[error("a symbolic link or the path leads out of the mount's directory")]
    LeavesTheMount,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the name is reserved for uploads in progress")]
    ReservedName,
    #[error("another file system: rename works only within one")]
    OtherFileSystem,
    #[error("the file was changed by someone else since it was opened; the upload is withdrawn")]
    ChangedMeanwhile,
    #[error("the file does not begin as it did: somebody has replaced it meanwhile")]
    OtherBeginning,
    #[error("other files of the backend are changed without a pause; nothing was done")]
    NeverAlone,
    #[error("a write to this file failed ({0}); the upload is withdrawn")]
    Spoiled(Errno),
    #[error("no such handle is open")]
    NoSuchHandle,
    #[error("the handle is a directory's")]
    HandleOfDirectory,
    #[error("the handle is a file's")]
    HandleOfFile,
    #[error("the file is not open for reading")]
    NotReadable,
    #[error("the file is not open for writing")]
    NotWritable,
    #[error("the mount's directory itself can't be removed, renamed or replaced")]
    MountItself,
    #[error("this request is for the gateway and not for a backend")]
    ForTheGateway,
    #[error("the session has ended")]
    Ended,
    #[error("no randomness for the name of a staging file")]
    NoRandomness,
    #[error("the thread that did the work died")]
    ThreadDied,
    #[error(
        "the file system did not answer within {} s; whether the operation was carried out is not known",
        .0.as_secs_f32()
    )]
    Hangs(Duration),
    #[error("an earlier operation on this handle got no answer from the file system")]
    GivenUp,
    #[error(
        "an interrupted upload was opened and nothing written to it; it stays as it was: remove it, or upload the file again"
    )]
    NothingWritten,
}

impl Fault {
    /// The error that the gate records and the client's status is made from.
    pub(super) fn on(&self, what: &str, place: &str) -> BackendError {
        let (kind, origin) = self.class();
        BackendError::new(kind, origin, format!("{what} on {place}: {self}"))
    }

    fn class(&self) -> (ErrorKind, Origin) {
        match self {
            Self::Os(errno) => os_class(*errno),
            Self::LeavesTheMount | Self::ReservedName | Self::MountItself => {
                (ErrorKind::PermissionDenied, Origin::Client)
            }
            Self::Refused(refusal) => (refusal.kind(), Origin::Client),
            Self::OtherFileSystem => (ErrorKind::Unsupported, Origin::Backend),
            Self::ChangedMeanwhile | Self::OtherBeginning | Self::NeverAlone => {
                (ErrorKind::Failure, Origin::Backend)
            }
            Self::Spoiled(errno) => os_class(*errno),
            Self::NoSuchHandle
            | Self::HandleOfDirectory
            | Self::HandleOfFile
            | Self::NotReadable
            | Self::NotWritable => (ErrorKind::InvalidHandle, Origin::Client),
            Self::ForTheGateway => (ErrorKind::Unsupported, Origin::Gateway),
            Self::Ended => (ErrorKind::Unavailable, Origin::Gateway),
            Self::NoRandomness | Self::ThreadDied => (ErrorKind::Failure, Origin::Gateway),
            Self::Hangs(_) | Self::GivenUp => (ErrorKind::TimedOut, Origin::Backend),
            Self::NothingWritten => (ErrorKind::Failure, Origin::Client),
        }
    }
}

fn os_class(errno: Errno) -> (ErrorKind, Origin) {
    match errno {
        // A link that leads round in circles leads nowhere, as OpenSSH has it.
        Errno::NOENT | Errno::LOOP => (ErrorKind::NotFound, Origin::Client),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => (ErrorKind::PermissionDenied, Origin::Client),
        Errno::EXIST => (ErrorKind::AlreadyExists, Origin::Client),
        Errno::NOTDIR => (ErrorKind::NotADirectory, Origin::Client),
        Errno::ISDIR => (ErrorKind::IsADirectory, Origin::Client),
        Errno::NOTEMPTY => (ErrorKind::NotEmpty, Origin::Client),
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => (ErrorKind::NoSpace, Origin::Backend),
        Errno::INVAL | Errno::NAMETOOLONG => (ErrorKind::InvalidArgument, Origin::Client),
        Errno::NOTSUP | Errno::NOSYS => (ErrorKind::Unsupported, Origin::Backend),
        _ => (ErrorKind::Failure, Origin::Backend),
    }
}
