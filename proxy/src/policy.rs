//! `authorize`: may this user do this operation? Decided once, by the cleaned path.

use std::sync::Arc;

use portcullis_journal::{Event, Intent};

use crate::{
    operation::Operation,
    path::{RelativePath, VirtualPath},
};

/// What an account may do below a mount. Each name stands for itself in `account mount --permissions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions {
    pub list: bool,
    pub read: bool,
    /// Create files that do not exist.
    pub write: bool,
    /// Replace files that exist.
    pub overwrite: bool,
    pub rename: bool,
    pub delete: bool,
    pub mkdir: bool,
    pub rmdir: bool,
    pub setattr: bool,
    pub symlink: bool,
}

/// A directory of a backend, shown to an account at a virtual path. Mounts of one account do not nest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub at: VirtualPath,
    /// Name of a `[backends.NAME]` section.
    pub backend: String,
    /// Directory on the backend, as bytes: absolute there, or relative to the login directory.
    pub directory: Vec<u8>,
    pub permissions: Permissions,
}

/// Index of a mount in its account's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountId(pub usize);

/// Who serves an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The gateway: the directories above the mounts, and requests about the gateway itself.
    Gateway,
    /// The mount's backend. `target` is the operation's path (or its handle's) below the mount's directory, `second` the
    /// path that a rename names as its destination.
    Mount {
        mount: MountId,
        target: RelativePath,
        second: Option<RelativePath>,
    },
}

/// Proof that policy allows `operation` to the account. Only [`authorize`] makes one.
#[derive(Debug, Clone)]
pub struct Permit {
    operation: Operation,
    route: Route,
    announcement: Arc<Announcement>,
}

/// What the intent record says of the session beside the operation.
#[derive(Debug)]
struct Announcement {}

impl Permit {
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The operation's path below the mount's directory; `None` if the gateway serves it.
    pub fn target(&self) -> Option<&RelativePath> {
        match &self.route {
            Route::Gateway => None,
            Route::Mount { target, .. } => Some(target),
        }
    }

    /// The second path of a rename, below the mount's directory.
    pub fn second_target(&self) -> Option<&RelativePath> {
        match &self.route {
            Route::Gateway => None,
            Route::Mount { second, .. } => second.as_ref(),
        }
    }
}

impl Intent for Permit {
    fn event(&self) -> Event {
        let _ = &self.announcement;
        todo!("the SFTP engine's engineer writes this")
    }
}
