//! Uploads that are not yet published: their names and their rules, the same on every backend.
//!
//! What a client writes goes to a staging file beside the path it named. CLOSE renames it into place. An upload that is
//! interrupted leaves its staging file behind if the account can resume it, and is removed otherwise; either way a file under
//! its own name is always one that its writer closed.

mod name;
mod progress;
mod unreadable;
mod watch;

pub use self::{
    name::{Claim, Claims, SessionNames, StagingName, StagingNames, UploadSettings},
    progress::{Beginning, LEAST_RESUMABLE, Landing, Progress, shown_length},
    unreadable::Unreadable,
    watch::{Changing, Held, WatchError, Watched},
};
use crate::{backend::ErrorKind, operation::Access, path::RESERVED_PREFIX};

/// True for the names that clients neither see nor use.
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

/// What stands at the path that a client opens for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Nothing,
    File,
    Directory,
    /// A device, a pipe, a socket.
    Special,
}

/// What an upload starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Empty,
    /// A copy of the existing file: the client updates or continues it.
    Existing,
}

/// What CLOSE does with a file that stands at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    Replace,
    /// It makes CLOSE fail.
    MustNotExist,
}

/// How an upload begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadPlan {
    pub content: Content,
    pub publish: Publish,
}

impl UploadPlan {
    /// Of a file that is not there and must not be made: only what an interrupted upload left can be opened so. PuTTY's
    /// programs do that to resume.
    pub const RESUME: Self = Self {
        content: Content::Empty,
        publish: Publish::Replace,
    };
}

/// What OPEN asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intention {
    Download,
    Upload,
}

/// Why a file can't be opened so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("no such file")]
    NotFound,
    #[error("the file exists already")]
    AlreadyExists,
    #[error("this is a directory")]
    IsADirectory,
    #[error("this is not a regular file")]
    NotRegular,
    #[error("the file is opened neither for reading nor for writing")]
    NoAccess,
}

impl Refusal {
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::AlreadyExists => ErrorKind::AlreadyExists,
            Self::IsADirectory => ErrorKind::IsADirectory,
            Self::NotRegular => ErrorKind::PermissionDenied,
            Self::NoAccess => ErrorKind::InvalidArgument,
        }
    }
}

/// Whether OPEN begins a download or an upload.
///
/// # Errors
/// [`Refusal::NoAccess`], also for creation or truncation without the right to write.
pub fn intention(access: Access) -> Result<Intention, Refusal> {
    if access.write || access.append {
        Ok(Intention::Upload)
    } else if access.read && !access.create && !access.truncate {
        Ok(Intention::Download)
    } else {
        Err(Refusal::NoAccess)
    }
}

/// Decides how an upload to a path begins and ends, as open(2) would.
///
/// # Errors
/// If what was found does not go with the flags.
pub fn plan(access: Access, found: Found) -> Result<UploadPlan, Refusal> {
    let publish = if access.create && access.exclusive {
        Publish::MustNotExist
    } else {
        Publish::Replace
    };
    match found {
        Found::Nothing if access.create => Ok(UploadPlan {
            content: Content::Empty,
            publish,
        }),
        Found::Nothing => Err(Refusal::NotFound),
        Found::File | Found::Directory | Found::Special if publish == Publish::MustNotExist => {
            Err(Refusal::AlreadyExists)
        }
        Found::File => Ok(UploadPlan {
            content: if access.truncate {
                Content::Empty
            } else {
                Content::Existing
            },
            publish,
        }),
        Found::Directory => Err(Refusal::IsADirectory),
        Found::Special => Err(Refusal::NotRegular),
    }
}

/// What a resumed upload needs, if it is there. A new one does without, and may begin only where OPEN may create.
///
/// # Errors
/// [`Refusal::NotFound`] if it is not there and must not be made.
pub fn unless_missing<T>(access: Access, found: Option<T>) -> Result<Option<T>, Refusal> {
    if found.is_none() && !access.create {
        return Err(Refusal::NotFound);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Access = Access {
        read: false,
        write: true,
        append: false,
        create: false,
        truncate: false,
        exclusive: false,
    };

    #[test]
    fn an_upload_begins_and_ends_as_its_flags_and_the_existing_file_say() {
        let create = Access {
            create: true,
            ..WRITE
        };
        let replace = Access {
            truncate: true,
            ..create
        };
        let exclusive = Access {
            exclusive: true,
            ..create
        };
        let planned = |content, publish| Ok(UploadPlan { content, publish });
        for (access, found, expected) in [
            (WRITE, Found::Nothing, Err(Refusal::NotFound)),
            (
                WRITE,
                Found::File,
                planned(Content::Existing, Publish::Replace),
            ),
            (
                create,
                Found::Nothing,
                planned(Content::Empty, Publish::Replace),
            ),
            (
                create,
                Found::File,
                planned(Content::Existing, Publish::Replace),
            ),
            (
                replace,
                Found::File,
                planned(Content::Empty, Publish::Replace),
            ),
            (
                exclusive,
                Found::Nothing,
                planned(Content::Empty, Publish::MustNotExist),
            ),
            (exclusive, Found::File, Err(Refusal::AlreadyExists)),
            (exclusive, Found::Directory, Err(Refusal::AlreadyExists)),
            (replace, Found::Directory, Err(Refusal::IsADirectory)),
            (replace, Found::Special, Err(Refusal::NotRegular)),
        ] {
            assert_eq!(plan(access, found), expected, "{access:?} {found:?}");
        }
    }

    #[test]
    fn creation_without_the_right_to_write_is_refused_and_plain_reading_passes() {
        let read = Access {
            read: true,
            ..Access::default()
        };
        assert_eq!(intention(read), Ok(Intention::Download));
        assert_eq!(
            intention(Access {
                create: true,
                ..read
            }),
            Err(Refusal::NoAccess)
        );
        assert_eq!(
            intention(Access {
                truncate: true,
                ..read
            }),
            Err(Refusal::NoAccess)
        );
        assert_eq!(intention(Access::default()), Err(Refusal::NoAccess));
        assert_eq!(intention(WRITE), Ok(Intention::Upload));
        assert_eq!(
            intention(Access {
                append: true,
                ..Access::default()
            }),
            Ok(Intention::Upload)
        );
    }
}
