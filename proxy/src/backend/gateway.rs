//! What the gateway serves itself: the directories above the mounts, and requests about the gateway.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use portcullis_journal::Recorded;

use super::{Backend, BackendError, Capabilities, ErrorKind, Execution, Origin, Shown};
use crate::{
    operation::{
        Attributes, Entry, HandleId, MAX_DATA, MAX_OPEN_HANDLES, MAX_PACKET, Operation, Outcome,
    },
    path::VirtualPath,
    policy::Permit,
};

/// Read-only directories that hold the mount points, and the gateway's answers about itself.
#[derive(Debug)]
pub struct Gateway {
    mount_points: Vec<VirtualPath>,
    open: Mutex<HashMap<HandleId, Listing>>,
}

#[derive(Debug)]
struct Listing {
    rest: Vec<Entry>,
}

impl Gateway {
    pub fn new(mount_points: Vec<VirtualPath>) -> Self {
        Self {
            mount_points,
            open: Mutex::default(),
        }
    }

    fn answer(&self, operation: &Operation) -> Result<Outcome, BackendError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match operation {
            Operation::Realpath { path } => Ok(Outcome::Path(path.clone())),
            Operation::HomeDirectory => Ok(Outcome::Path(VirtualPath::root())),
            Operation::Limits => Ok(Outcome::Limits {
                packet: MAX_PACKET.into(),
                read: MAX_DATA.into(),
                write: MAX_DATA.into(),
                open_handles: MAX_OPEN_HANDLES as u64,
            }),
            // An empty name means that the id has none (OpenSSH PROTOCOL section 4.11).
            Operation::UsersGroupsById { users, groups } => Ok(Outcome::UsersGroups {
                users: vec![Bytes::new(); users.len()],
                groups: vec![Bytes::new(); groups.len()],
            }),
            Operation::Stat { .. } | Operation::Lstat { .. } => {
                Ok(Outcome::Attributes(directory()))
            }
            Operation::Fstat { handle } if open.contains_key(handle) => {
                Ok(Outcome::Attributes(directory()))
            }
            Operation::Opendir { path, handle } => {
                let rest = self.children(path);
                open.insert(*handle, Listing { rest });
                Ok(Outcome::Opened)
            }
            Operation::Readdir { handle } => match open.get_mut(handle) {
                Some(listing) if listing.rest.is_empty() => Ok(Outcome::End),
                Some(listing) => Ok(Outcome::Names(std::mem::take(&mut listing.rest))),
                None => Err(not_open()),
            },
            Operation::Close { handle } => match open.remove(handle) {
                Some(_) => Ok(Outcome::Done),
                None => Err(not_open()),
            },
            Operation::Fstat { .. } => Err(not_open()),
            Operation::Statvfs { .. }
            | Operation::Fstatvfs { .. }
            | Operation::Open { .. }
            | Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Setstat { .. }
            | Operation::Lsetstat { .. }
            | Operation::Fsetstat { .. }
            | Operation::Remove { .. }
            | Operation::Mkdir { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::PosixRename { .. }
            | Operation::Readlink { .. }
            | Operation::Symlink { .. }
            | Operation::Hardlink { .. }
            | Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Fsync { .. }
            | Operation::Tend { .. } => Err(BackendError::new(
                ErrorKind::Unsupported,
                Origin::Client,
                "the directories above the mounts can only be listed",
            )),
        }
    }

    /// The next names on the way from `path` to each mount point below it.
    fn children(&self, path: &VirtualPath) -> Vec<Entry> {
        let names: BTreeSet<Bytes> = self
            .mount_points
            .iter()
            .filter_map(|point| {
                let below = point.below(path)?;
                below.components().next().map(Bytes::copy_from_slice)
            })
            .collect();
        names.into_iter().map(directory_entry).collect()
    }
}

impl Backend for Gateway {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_access: false,
            update: false,
            resume_from: None,
            read_back: false,
            rereads: false,
            atomic_replace: false,
            symlinks: false,
            set_times: false,
            set_permissions: false,
            filesystem_status: false,
            any_name: true,
            shows: Shown::ALL,
        }
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        ready(self.answer(recorded.intent().operation())).boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        ready(()).boxed()
    }
}

/// A directory that is there because a mount lies below it, or is mounted there.
pub(super) fn directory_entry(name: Bytes) -> Entry {
    Entry {
        name,
        attributes: directory(),
    }
}

pub(super) fn directory() -> Attributes {
    Attributes {
        size: Some(0),
        owner: Some((0, 0)),
        permissions: Some(Attributes::DIRECTORY | 0o555),
        times: Some((0, 0)),
        is_interrupted: false,
        is_foreign: false,
    }
}

fn not_open() -> BackendError {
    BackendError::new(
        ErrorKind::InvalidHandle,
        Origin::Client,
        "the handle is not open",
    )
}
