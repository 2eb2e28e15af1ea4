//! [`authorize`]: may this account do this operation? Decided once, by the cleaned path.
//!
//! Everything is denied that no rule grants. Two decisions change the operation instead of refusing it, and the permit
//! carries the changed one: an account without `overwrite` opens files for writing exclusively, and its
//! `posix-rename@openssh.com` is done as the RENAME that fails if the destination exists.

mod effective;
mod extent;
mod gateway;
mod intent;
mod path_rules;
mod permissions;
mod place;
mod rules;
mod step;
mod stored;
#[cfg(test)]
mod tests;

pub use effective::{Effective, effective};
pub use extent::{DataOps, Direction, Extent};
pub use gateway::{FileLook, KeyFile, Look, Naming, Verify};
pub use intent::{describe, encryption};
pub use path_rules::{PathRule, PathRuleError, PathRules};
pub use permissions::{Permission, PermissionError, Permissions};
pub use stored::Stored;

use std::{net::SocketAddr, sync::Arc};

use portcullis_journal::{Actor, OperationId, SessionId};
use serde_json::Value;

use crate::{
    allowance::Allowance,
    extensions::Extensions,
    operation::{Access, HandleId, Operation},
    path::{RelativePath, VirtualPath},
};

/// A directory of a backend, shown to an account at a virtual path. A mount below another one hides what the other has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub at: VirtualPath,
    /// Name of a `[backends.NAME]` section.
    pub backend: String,
    /// Directory on the backend, as bytes: absolute there, or relative to the login directory.
    pub directory: Vec<u8>,
    pub permissions: Permissions,
    /// What is permitted at single places of it instead.
    pub rules: PathRules,
    /// The group that the account has it from; `None` if it is the account's own.
    pub group: Option<String>,
    pub allowance: Allowance,
    /// Those of the extensions that are off by default; `None` where the server's hold, for which the gate puts them in.
    pub extensions: Option<Extensions>,
    /// Whether interrupted uploads can be continued; `None` where it is as the backend has it.
    pub resume: Option<bool>,
}

/// Index of a mount in its account's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Who asks, as every record of the session says it.
#[derive(Debug, Clone)]
pub struct Requester {
    pub session: SessionId,
    pub user: Actor,
    pub source: SocketAddr,
    /// When the window began by which the session is in, if it is by one.
    pub mfa_window: Option<Value>,
}

/// Proof that policy allows `operation` to the account. Only [`authorize`] makes one, and [`Permit::measuring`],
/// [`Permit::reconciling`], [`Permit::settling`], [`Permit::verifying`], [`Permit::tending`] and [`Permit::naming`] for the gateway.
#[derive(Debug, Clone)]
pub struct Permit {
    id: OperationId,
    operation: Operation,
    route: Route,
    decision: Decision,
    requester: Arc<Requester>,
}

/// How the permitted operation relates to the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    AsAsked,
    /// Existing files are left alone, although the client asked to replace them.
    WithoutOverwrite,
    /// Nobody asked: the gateway looks what lies on a mount that has a quota.
    Measuring,
    /// Nobody asked: the gateway looks what became of an operation that was under way when it crashed, and may end it.
    Reconciling,
    /// Nobody asked: the gateway compares what lies on a backend with the log.
    Verifying,
    /// An operator asked: the keys of stored files are wrapped to other keys.
    Rotating,
    /// Nobody asked: the gateway reads or makes the key of a backend's names, or the directory of a mount.
    Naming,
    /// An operator asked: stored files that are not encrypted are.
    Migrating,
    /// An operator asked: a stored file is destroyed.
    Shredding,
}

/// An open file or directory, as far as policy needs to know it. Only [`Permit::opens`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHandle {
    id: HandleId,
    path: VirtualPath,
    route: Route,
    kind: HandleKind,
}

/// What a handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleKind {
    /// As the policy granted it, which may be less than what was asked for.
    File(Access),
    Directory,
}

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    #[error("no mount of the account holds the path")]
    Nowhere,
    #[error("the directories above the mounts can only be listed")]
    AboveMounts,
    #[error(
        "the directory of a mount, or one on the way to it, can't be changed, removed or replaced"
    )]
    MountPoint,
    #[error("the account lacks the permission {0} on the mount")]
    Missing(Permission),
    #[error("source and destination are on different mounts")]
    AcrossMounts,
    #[error("the handle is not open")]
    UnknownHandle,
    #[error("the handle was not opened for this")]
    WrongHandle,
    #[error(
        "other rules hold for what may lie below a directory of that name: move the files one by one"
    )]
    RulesBelow,
    #[error("the new name would give more than the other one does")]
    Widens,
    #[error("a link may only name something below its own directory")]
    LinkTarget,
    #[error("a file can't be copied onto itself")]
    SameFile,
    #[error("the extension is off on the mount")]
    DisabledExtension,
    #[error("only the gateway itself does this")]
    GatewayOnly,
}

impl Denied {
    /// The code that the record carries.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Nowhere => "no_such_mount",
            Self::AboveMounts => "above_mounts",
            Self::MountPoint => "mount_point",
            Self::Missing(_) => "missing_permission",
            Self::AcrossMounts => "across_mounts",
            Self::UnknownHandle => "unknown_handle",
            Self::WrongHandle => "wrong_handle",
            Self::RulesBelow => "rules_below",
            Self::Widens => "widens",
            Self::LinkTarget => "link_target",
            Self::SameFile => "same_file",
            Self::DisabledExtension => "disabled_extension",
            Self::GatewayOnly => "gateway_only",
        }
    }
}

/// What stands in a channel's handle table under the handles that an operation names, as far as it names any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'a> {
    pub handle: Option<&'a OpenHandle>,
    /// Of [`Operation::second_handle`].
    pub second: Option<&'a OpenHandle>,
}

impl<'a> Named<'a> {
    pub fn one(handle: Option<&'a OpenHandle>) -> Self {
        Self {
            handle,
            second: None,
        }
    }

    fn file(handle: Option<&'a OpenHandle>) -> Result<(&'a OpenHandle, Access), Denied> {
        let handle = handle.ok_or(Denied::UnknownHandle)?;
        Ok((handle, handle.file().ok_or(Denied::WrongHandle)?))
    }

    fn read(&self) -> Result<&'a OpenHandle, Denied> {
        let (handle, access) = Self::file(self.handle)?;
        access.read.then_some(handle).ok_or(Denied::WrongHandle)
    }

    fn written(handle: Option<&'a OpenHandle>) -> Result<&'a OpenHandle, Denied> {
        let (handle, access) = Self::file(handle)?;
        access.writes().then_some(handle).ok_or(Denied::WrongHandle)
    }
}

/// Decides whether `requester`, who sees `mounts`, may do `operation` on the handles that it names.
///
/// # Errors
/// If no rule grants it.
pub fn authorize(
    requester: &Arc<Requester>,
    mounts: &[Mount],
    id: OperationId,
    operation: Operation,
    named: Named<'_>,
) -> Result<Permit, Denied> {
    let asked = std::mem::discriminant(&operation);
    let exclusive_asked = matches!(&operation, Operation::Open { access, .. } if access.exclusive);
    let (operation, route) = rules::decide(mounts, operation, named)?;
    let exclusive_now = matches!(&operation, Operation::Open { access, .. } if access.exclusive);
    let decision =
        if std::mem::discriminant(&operation) != asked || exclusive_now != exclusive_asked {
            Decision::WithoutOverwrite
        } else {
            Decision::AsAsked
        };
    Ok(Permit {
        id,
        operation,
        route,
        decision,
        requester: Arc::clone(requester),
    })
}

impl Permit {
    pub fn id(&self) -> OperationId {
        self.id
    }

    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    pub fn route(&self) -> &Route {
        &self.route
    }

    pub fn requester(&self) -> &Arc<Requester> {
        &self.requester
    }

    /// The gateway looks what lies there, and compares it with the log.
    pub fn is_verifying(&self) -> bool {
        self.decision == Decision::Verifying
    }

    /// The operation's path below the mount's directory; `None` if the gateway serves it.
    pub fn target(&self) -> Option<&RelativePath> {
        match &self.route {
            Route::Gateway => None,
            Route::Mount { target, .. } => Some(target),
        }
    }

    /// True if nobody asked for it but the gateway itself.
    pub fn is_of_the_gateway(&self) -> bool {
        !matches!(
            self.decision,
            Decision::AsAsked | Decision::WithoutOverwrite
        )
    }

    /// True for the gateway's own work on stored files.
    pub fn is_tending(&self) -> bool {
        matches!(
            self.decision,
            Decision::Rotating | Decision::Migrating | Decision::Shredding
        )
    }

    /// The second path of a rename, below the mount's directory.
    pub fn second_target(&self) -> Option<&RelativePath> {
        match &self.route {
            Route::Gateway => None,
            Route::Mount { second, .. } => second.as_ref(),
        }
    }

    /// What stands in the handle table once this OPEN or OPENDIR has succeeded; `None` for other operations.
    pub fn opens(&self) -> Option<OpenHandle> {
        let (id, path, kind) = if let Operation::Open {
            path,
            handle,
            access,
            ..
        } = &self.operation
        {
            (*handle, path.clone(), HandleKind::File(*access))
        } else if let Operation::Opendir { path, handle } = &self.operation {
            (*handle, path.clone(), HandleKind::Directory)
        } else {
            return None;
        };
        Some(OpenHandle {
            id,
            path,
            route: self.route.clone(),
            kind,
        })
    }
}

impl OpenHandle {
    pub fn id(&self) -> HandleId {
        self.id
    }

    pub fn path(&self) -> &VirtualPath {
        &self.path
    }

    pub fn route(&self) -> &Route {
        &self.route
    }

    pub fn kind(&self) -> HandleKind {
        self.kind
    }

    /// True if the file was opened for writing.
    pub fn is_written(&self) -> bool {
        matches!(self.kind, HandleKind::File(access) if access.writes())
    }
}

impl OpenHandle {
    fn file(&self) -> Option<Access> {
        match self.kind {
            HandleKind::File(access) => Some(access),
            HandleKind::Directory => None,
        }
    }
}
