//! What the gateway does by itself, or because an operator asked: it needs no permission of an account, and is on record like any
//! other operation.

use std::sync::Arc;

use bytes::Bytes;
use portcullis_at_rest::names;
use portcullis_journal::OperationId;

use super::{Decision, Mount, MountId, Permit, Requester, Route};
use crate::{
    operation::{Access, Attributes, Care, HandleId, Operation},
    path::{RelativePath, VirtualPath},
};

/// A step of the gateway's own look at a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLook {
    Stat,
    Open(HandleId),
    Read {
        handle: HandleId,
        offset: u64,
        length: u32,
    },
    Close(HandleId),
}

/// A step of the gateway's own look at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    Directory(Look),
    File(FileLook),
}

/// A step of the gateway's own at the root of a backend whose names are encrypted.
#[derive(Debug, Clone)]
pub enum Naming {
    /// The file with the key of the names.
    Key(KeyFile),
    /// What the root holds.
    Root(Look),
    /// Whether there is the directory of a mount, or one on the way to it.
    Look(VirtualPath),
    /// Makes it.
    Make(VirtualPath),
}

/// A step at the file with the key of a backend's names.
#[derive(Debug, Clone)]
pub enum KeyFile {
    Open(HandleId),
    Read {
        handle: HandleId,
        offset: u64,
        length: u32,
    },
    /// Where there is none.
    Create(HandleId),
    /// In the place of the one that is there.
    Replace(HandleId),
    Write {
        handle: HandleId,
        data: Bytes,
    },
    Close(HandleId),
}

/// A step of the gateway's own look at a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Open(HandleId),
    Next(HandleId),
    Close(HandleId),
}

impl Permit {
    /// For a look at a directory of a mount, which needs no permission of the account: it learns nothing by it. `None` if the
    /// directory is not on the mount.
    pub fn measuring(
        requester: &Arc<Requester>,
        mounts: &[Mount],
        mount: MountId,
        id: OperationId,
        directory: &VirtualPath,
        look: Look,
    ) -> Option<Self> {
        let target = directory.below(&mounts.get(mount.0)?.at)?;
        let operation = match look {
            Look::Open(handle) => Operation::Opendir {
                path: directory.clone(),
                handle,
            },
            Look::Next(handle) => Operation::Readdir { handle },
            Look::Close(handle) => Operation::Close { handle },
        };
        Some(Self {
            id,
            operation,
            route: Route::Mount {
                mount,
                target,
                second: None,
            },
            decision: Decision::Measuring,
            requester: Arc::clone(requester),
        })
    }

    /// For a look at one path of an account's mounts after a crash, which needs no permission of the account: it learns nothing
    /// by it. `None` if no mount holds the path.
    pub fn reconciling(
        requester: &Arc<Requester>,
        mounts: &[Mount],
        id: OperationId,
        path: &VirtualPath,
    ) -> Option<Self> {
        let (mount, target) = holding(mounts, path)?;
        Some(Self {
            id,
            operation: Operation::Lstat { path: path.clone() },
            route: Route::Mount {
                mount,
                target,
                second: None,
            },
            decision: Decision::Reconciling,
            requester: Arc::clone(requester),
        })
    }

    /// For ending a rename that was permitted, announced, and under way at a crash: see
    /// [`HalfwayRenames`](crate::backend::HalfwayRenames). `None` for other operations, and unless one mount holds both paths.
    pub fn settling(
        requester: &Arc<Requester>,
        mounts: &[Mount],
        id: OperationId,
        operation: Operation,
    ) -> Option<Self> {
        let (Operation::Rename { from, to } | Operation::PosixRename { from, to }) = &operation
        else {
            return None;
        };
        let (mount, target) = holding(mounts, from)?;
        let (mount_of_second, second) = holding(mounts, to)?;
        (mount == mount_of_second).then(|| Self {
            id,
            route: Route::Mount {
                mount,
                target,
                second: Some(second),
            },
            operation: operation.clone(),
            decision: Decision::Reconciling,
            requester: Arc::clone(requester),
        })
    }

    /// For a look at what lies on a backend, which is mounted for nobody but the gateway. It changes nothing. `None` if the path
    /// is not on the mount.
    pub fn verifying(
        requester: &Arc<Requester>,
        mount: &Mount,
        id: OperationId,
        path: &VirtualPath,
        look: Verify,
    ) -> Option<Self> {
        let target = path.below(&mount.at)?;
        let operation = match look {
            Verify::Directory(Look::Open(handle)) => Operation::Opendir {
                path: path.clone(),
                handle,
            },
            Verify::Directory(Look::Next(handle)) => Operation::Readdir { handle },
            Verify::File(FileLook::Stat) => Operation::Lstat { path: path.clone() },
            Verify::File(FileLook::Open(handle)) => Operation::Open {
                path: path.clone(),
                handle,
                access: Access {
                    read: true,
                    ..Access::default()
                },
                attributes: Attributes::default(),
            },
            Verify::File(FileLook::Read {
                handle,
                offset,
                length,
            }) => Operation::Read {
                handle,
                offset,
                length,
            },
            Verify::Directory(Look::Close(handle)) | Verify::File(FileLook::Close(handle)) => {
                Operation::Close { handle }
            }
        };
        Some(Self {
            id,
            operation,
            route: Route::Mount {
                mount: MountId(0),
                target,
                second: None,
            },
            decision: Decision::Verifying,
            requester: Arc::clone(requester),
        })
    }

    /// For work on what lies on a backend that changes nothing of what clients see there. `None` if the path is not on the mount.
    pub fn tending(
        requester: &Arc<Requester>,
        mount: &Mount,
        id: OperationId,
        path: &VirtualPath,
        care: Care,
    ) -> Option<Self> {
        Some(Self {
            id,
            operation: Operation::Tend {
                path: path.clone(),
                care,
            },
            route: Route::Mount {
                mount: MountId(0),
                target: path.below(&mount.at)?,
                second: None,
            },
            decision: match care {
                Care::Rewrap => Decision::Rotating,
                Care::Encrypt { .. } => Decision::Migrating,
                Care::Identify | Care::Shred { .. } => Decision::Shredding,
            },
            requester: Arc::clone(requester),
        })
    }

    /// For what names need to be encrypted. `mount` is the root of a backend that is mounted for nobody but the gateway. `None` if
    /// the path is not on the mount.
    pub fn naming(
        requester: &Arc<Requester>,
        mount: &Mount,
        id: OperationId,
        step: Naming,
    ) -> Option<Self> {
        let key = mount.at.reserved(names::FILE);
        let open = |handle, access| Operation::Open {
            path: key.clone(),
            handle,
            access,
            attributes: Attributes::default(),
        };
        let (path, operation) = match step {
            Naming::Key(step) => {
                let operation = match step {
                    KeyFile::Open(handle) => open(handle, Access::READ),
                    KeyFile::Read {
                        handle,
                        offset,
                        length,
                    } => Operation::Read {
                        handle,
                        offset,
                        length,
                    },
                    KeyFile::Create(handle) => open(
                        handle,
                        Access {
                            create: true,
                            exclusive: true,
                            ..Access::REPLACE
                        },
                    ),
                    KeyFile::Replace(handle) => open(handle, Access::REPLACE),
                    KeyFile::Write { handle, data } => Operation::Write {
                        handle,
                        offset: 0,
                        data,
                    },
                    KeyFile::Close(handle) => Operation::Close { handle },
                };
                (key, operation)
            }
            Naming::Root(step) => {
                let path = mount.at.clone();
                let operation = match step {
                    Look::Open(handle) => Operation::Opendir {
                        path: path.clone(),
                        handle,
                    },
                    Look::Next(handle) => Operation::Readdir { handle },
                    Look::Close(handle) => Operation::Close { handle },
                };
                (path, operation)
            }
            Naming::Look(path) => (path.clone(), Operation::Lstat { path }),
            Naming::Make(path) => {
                let attributes = Attributes::default();
                (path.clone(), Operation::Mkdir { path, attributes })
            }
        };
        Some(Self {
            id,
            route: Route::Mount {
                mount: MountId(0),
                target: path.below(&mount.at)?,
                second: None,
            },
            operation,
            decision: Decision::Naming,
            requester: Arc::clone(requester),
        })
    }
}

/// The mount that a path is on, and where below its directory.
fn holding(mounts: &[Mount], path: &VirtualPath) -> Option<(MountId, RelativePath)> {
    mounts
        .iter()
        .enumerate()
        .filter_map(|(at, mount)| Some((MountId(at), path.below(&mount.at)?)))
        .min_by_key(|(_, target)| target.components().count())
}
