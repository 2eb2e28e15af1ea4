//! The one trait of all backends, what they can do as data, and how they fail.
//!
//! Nothing under `backend/` knows users, policies or SSH. A backend can't be called with less than a
//! [`Recorded`]`<`[`Permit`]`>`.

mod asked;
mod buffers;
#[cfg(test)]
pub(crate) mod conformance;
pub mod encrypted;
pub mod failover;
pub mod ftp;
pub mod gateway;
pub mod limited;
pub mod local;
#[cfg(test)]
pub mod memory;
pub mod named;
pub mod object;
pub mod sftp;
pub mod staging;
pub mod union;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::Recorded;

use self::staging::Watched;
use crate::{
    operation::{Attributes, HandleId, Outcome},
    pace::Pace,
    policy::Permit,
};

/// An operation under way. It goes on only while it is polled.
pub type Execution = BoxFuture<'static, Result<Outcome, BackendError>>;

/// One session's use of one mount: it owns the open handles and, for a remote server, the connection.
pub trait Backend: Send + Sync + fmt::Debug {
    /// What this backend can do.
    fn capabilities(&self) -> Capabilities;

    /// The member of a failover list that serves this session; `None` where there is no list.
    fn member(&self) -> Option<&str> {
        None
    }

    /// Starts the operation. Where order matters (one handle, one server connection) it is the order of these calls:
    /// what must be queued is queued before this returns, what must wait waits in the [`Execution`].
    fn execute(&self, recorded: Recorded<Permit>) -> Execution;

    /// Ends the session: uploads that were not closed are withdrawn, handles and connections released.
    fn end(&self) -> BoxFuture<'static, ()>;

    /// What the journal says of the whole content of the file that is open under `handle`, where it vouches for that. Does no
    /// I/O.
    fn on_record(&self, _handle: HandleId) -> Option<OnRecord> {
        None
    }

    /// What changes stored files while clients use them; `None` where that can't be done.
    fn tending(&self) -> Option<&dyn Tending> {
        None
    }

    /// What finds and ends renames that stopped half-way; `None` where a rename is one step.
    fn halfway_renames(&self) -> Option<&dyn HalfwayRenames> {
        None
    }
}

/// Of a backend whose stored files the gateway itself can change while clients use them.
pub trait Tending: Send + Sync {
    /// True if first bytes are exchanged where they lie, so that a disk that loses power may tear them. Otherwise a copy takes the
    /// file's place.
    fn is_in_place(&self) -> bool;

    /// Exchanges the first bytes of the file at the operation's path, unless somebody changes it meanwhile: whoever has it open
    /// goes on. Gives how many bytes were read and written for it. It is as durable as an upload when this ends.
    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>>;

    /// Removes the file at the operation's path if it begins so; where first bytes are exchanged where they lie, they are before.
    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution;

    /// What the file at the operation's path is. It is asked before the file is opened.
    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>>;

    /// A CLOSE that publishes an upload only in the place of that version, whose times it gets where they can be set.
    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution;
}

/// Tells a file, its content and its attributes from all others and earlier ones.
#[derive(Debug, Clone)]
pub enum FileVersion {
    /// Of a file system.
    Inode(InodeVersion),
    /// Of a bucket.
    Object {
        size: u64,
        tag: Option<String>,
        generation: Option<String>,
    },
    /// Of a server that tells little, and what this gateway's clients have done since.
    Watched {
        attributes: Attributes,
        watched: Arc<Watched>,
    },
}

impl FileVersion {
    /// In bytes, if it is known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Inode(version) => u64::try_from(version.size).ok(),
            Self::Object { size, .. } => Some(*size),
            Self::Watched { attributes, .. } => attributes.size,
        }
    }
}

/// What a file system tells of a file.
#[derive(Debug, Clone)]
pub struct InodeVersion {
    pub device: u64,
    pub inode: u64,
    pub size: i64,
    /// Seconds and nanoseconds since 1970, as the next ones.
    pub modified: (i64, i64),
    /// When attributes were changed last.
    pub changed: (i64, i64),
    pub accessed: (i64, i64),
}

impl InodeVersion {
    /// True unless somebody has done more than read the file.
    pub fn is_same(&self, other: &Self) -> bool {
        let facts = |version: &Self| {
            let Self {
                device,
                inode,
                size,
                modified,
                changed,
                accessed: _,
            } = *version;
            (device, inode, size, modified, changed)
        };
        facts(self) == facts(other)
    }
}

/// The first bytes of a stored file.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// What must be there.
    pub before: Bytes,
    /// As many others.
    pub after: Bytes,
    /// What the file's times are afterwards, in seconds since 1970; `None` for what they were.
    pub times: Option<(u32, u32)>,
    /// Where the rest of the file is copied, each piece takes its share of it before it is moved.
    pub pace: Pace,
}

/// Of a backend whose rename is a copy and a removal: what dies between the two leaves both files.
pub trait HalfwayRenames: Send + Sync {
    /// Looks what a RENAME or `posix-rename@openssh.com` has left that was under way at a crash, and removes the original if
    /// nothing is lost by it. `announced` is when the rename was, in seconds since 1970. The look stops where it is dropped.
    fn settle(
        &self,
        recorded: Recorded<Permit>,
        announced: i64,
    ) -> BoxFuture<'static, Result<Settled, BackendError>>;
}

/// What a rename has left that was under way at a crash.
#[derive(Debug, Clone)]
pub enum Settled {
    /// Nothing stands under the old name.
    Removed,
    /// Nothing stands under the new name.
    NotCopied,
    /// Everything was copied, and the original stood there still.
    Copied {
        files: usize,
        /// Whether it could be removed by this look.
        removed: Result<(), BackendError>,
    },
    /// A directory of which some files have a copy and others have none. Nothing was changed.
    CopiedInPart { copied: usize, files: usize },
    /// Both stand there, and which of them the rename left can't be told. Nothing was changed.
    Both(Content),
}

/// How what stands under two names compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Same,
    Different,
    Unknown,
}

/// Whose uploads a session's are. Backends know no users: they only compare.
#[derive(Debug, Clone)]
pub struct Owner {
    identity: Box<[u8]>,
    resume: Option<bool>,
    is_beneath: bool,
    pace: Pace,
}

impl Owner {
    /// `identity` must be the same in each session of an account, and another in those of any other.
    pub fn new(identity: impl Into<Box<[u8]>>) -> Self {
        Self {
            identity: identity.into(),
            resume: None,
            is_beneath: false,
            pace: Pace::default(),
        }
    }

    /// Whether it can go on with uploads that were interrupted; `None` leaves that to the backend.
    #[must_use]
    pub fn resuming(self, resume: Option<bool>) -> Self {
        Self { resume, ..self }
    }

    /// For a layer that stores other bytes than its clients send: see [`Capabilities::rereads`].
    #[must_use]
    pub fn beneath_a_layer(self) -> Self {
        Self {
            is_beneath: true,
            ..self
        }
    }

    pub fn is_beneath_a_layer(&self) -> bool {
        self.is_beneath
    }

    /// How fast files are copied by what the gateway does by itself.
    #[must_use]
    pub fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// What [`paced`](Self::paced) was told.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.identity
    }

    /// What [`resuming`](Self::resuming) was told.
    pub fn resume(&self) -> Option<bool> {
        self.resume
    }
}

/// A configured backend. It opens one [`Backend`] for each session and mount that uses it.
pub trait BackendService: Send + Sync + fmt::Debug {
    /// A backend whose root is `directory`. An interrupted upload is continued by sessions of the same `owner` only. Does no
    /// I/O: a server is first reached by the first operation.
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend>;
}

/// What a backend can do, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// READ and WRITE at any offset in any order.
    pub random_access: bool,
    /// Existing files can be opened for writing without truncation.
    pub update: bool,
    /// An interrupted upload of so many bytes or more can be continued by a later session of its owner.
    pub resume_from: Option<u64>,
    /// What a session uploads can be opened for reading in that session before CLOSE publishes it.
    pub read_back: bool,
    /// The handle of an upload can be read, before its first WRITE and after its last one; and what goes on with an interrupted
    /// upload may differ from what was there behind its first WRITE.
    pub rereads: bool,
    /// Rename replaces an existing file in one step.
    pub atomic_replace: bool,
    pub symlinks: bool,
    pub set_times: bool,
    pub set_permissions: bool,
    pub filesystem_status: bool,
    /// Names of any bytes; without it only names in UTF-8.
    pub any_name: bool,
    pub shows: Shown,
}

/// What STAT and listings tell of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// STAT tells the size.
    pub sizes: bool,
    /// Listings do.
    pub listed_sizes: bool,
    /// Permission bits are those that were set.
    pub permissions: bool,
    /// Times are those that were set, to the second.
    pub exact_times: bool,
}

impl Shown {
    pub const ALL: Self = Self {
        sizes: true,
        listed_sizes: true,
        permissions: true,
        exact_times: true,
    };
}

/// What kind of failure it was; decides the SFTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    NotFound,
    PermissionDenied,
    AlreadyExists,
    NotADirectory,
    IsADirectory,
    NotEmpty,
    NoSpace,
    InvalidHandle,
    InvalidArgument,
    Unsupported,
    /// What lies there is not what was written there.
    NotAuthentic,
    /// The keys of what lies there were destroyed on record.
    Shredded,
    /// The server can't be reached, refused the login, or broke off.
    Unavailable,
    /// No answer within the deadline.
    TimedOut,
    Failure,
}

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    Client,
    Backend,
    Gateway,
}

impl Origin {
    /// Of a failure of which no more is known than its kind.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidHandle | ErrorKind::InvalidArgument | ErrorKind::Unsupported => {
                Self::Client
            }
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::NotEmpty
            | ErrorKind::NoSpace
            | ErrorKind::NotAuthentic
            | ErrorKind::Shredded
            | ErrorKind::Unavailable
            | ErrorKind::TimedOut
            | ErrorKind::Failure => Self::Backend,
        }
    }
}

impl ErrorKind {
    pub const ALL: [Self; 15] = [
        Self::NotFound,
        Self::NotADirectory,
        Self::PermissionDenied,
        Self::InvalidArgument,
        Self::Unsupported,
        Self::AlreadyExists,
        Self::IsADirectory,
        Self::NotEmpty,
        Self::NoSpace,
        Self::InvalidHandle,
        Self::NotAuthentic,
        Self::Shredded,
        Self::Unavailable,
        Self::TimedOut,
        Self::Failure,
    ];

    /// The code that records carry.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::AlreadyExists => "already_exists",
            Self::NotADirectory => "not_a_directory",
            Self::IsADirectory => "is_a_directory",
            Self::NotEmpty => "not_empty",
            Self::NoSpace => "no_space",
            Self::InvalidHandle => "invalid_handle",
            Self::InvalidArgument => "invalid_argument",
            Self::Unsupported => "unsupported",
            Self::NotAuthentic => "not_authentic",
            Self::Shredded => "shredded",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Failure => "failure",
        }
    }
}

impl Origin {
    /// The code that records carry.
    pub fn code(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Gateway => "gateway",
        }
    }
}

/// A failed operation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    pub kind: ErrorKind,
    pub origin: Origin,
    /// For the log and the record; the client hears only the kind.
    pub message: String,
}

impl BackendError {
    pub fn new(kind: ErrorKind, origin: Origin, message: impl Into<String>) -> Self {
        Self {
            kind,
            origin,
            message: message.into(),
        }
    }
}
