//! Where a path lies in the account's view, and what is granted there.

use super::{Denied, Mount, MountId, Permission, Route};
use crate::{
    extensions::Extensions,
    path::{RelativePath, VirtualPath},
};

/// Where a path lies in the account's view.
pub(super) enum Place<'a> {
    /// An ancestor of a mount point; the root always counts as one.
    Above,
    Below(OnMount<'a>),
}

pub(super) struct OnMount<'a> {
    pub(super) id: MountId,
    mount: &'a Mount,
    pub(super) target: RelativePath,
    /// Another mount lies below the path.
    pub(super) leads_to_mount: bool,
}

impl<'a> Place<'a> {
    pub(super) fn of(mounts: &'a [Mount], path: &VirtualPath) -> Result<Self, Denied> {
        let innermost = mounts
            .iter()
            .enumerate()
            .filter_map(|(index, mount)| Some((index, mount, path.below(&mount.at)?)))
            .max_by_key(|(_, mount, _)| mount.at.components().count());
        if let Some((index, mount, target)) = innermost {
            return Ok(Self::Below(OnMount {
                id: MountId(index),
                leads_to_mount: mounts
                    .iter()
                    .any(|other| other.at != mount.at && other.at.below(path).is_some()),
                mount,
                target,
            }));
        }
        if path.is_root() || mounts.iter().any(|mount| mount.at.below(path).is_some()) {
            return Ok(Self::Above);
        }
        Err(Denied::Nowhere)
    }

    pub(super) fn on_mount(self) -> Result<OnMount<'a>, Denied> {
        match self {
            Self::Above => Err(Denied::AboveMounts),
            Self::Below(place) => Ok(place),
        }
    }
}

impl OnMount<'_> {
    pub(super) fn grants(&self, permission: Permission) -> bool {
        let granted = &self.mount.permissions;
        match permission {
            Permission::List => granted.list,
            Permission::Read => granted.read,
            Permission::Write => granted.write,
            Permission::Overwrite => granted.overwrite,
            Permission::Rename => granted.rename,
            Permission::Delete => granted.delete,
            Permission::Mkdir => granted.mkdir,
            Permission::Rmdir => granted.rmdir,
            Permission::Setattr => granted.setattr,
            Permission::Symlink => granted.symlink,
        }
    }

    pub(super) fn needs(&self, permission: Permission) -> Result<(), Denied> {
        if self.grants(permission) {
            Ok(())
        } else {
            Err(Denied::Missing(permission))
        }
    }

    /// Of a mount that nobody decided for, none is on.
    pub(super) fn has_on(&self, extension: impl FnOnce(Extensions) -> bool) -> Result<(), Denied> {
        if extension(self.mount.extensions.unwrap_or_default()) {
            Ok(())
        } else {
            Err(Denied::DisabledExtension)
        }
    }

    pub(super) fn needs_either(&self, one: Permission, other: Permission) -> Result<(), Denied> {
        self.needs(other).or_else(|_| self.needs(one))
    }

    /// Neither the directory of a mount nor one on the way to a mount below: those stay as they are.
    pub(super) fn not_its_directory(self) -> Result<Self, Denied> {
        if self.target.is_empty() || self.leads_to_mount {
            Err(Denied::MountPoint)
        } else {
            Ok(self)
        }
    }

    pub(super) fn route(self, second: Option<RelativePath>) -> Route {
        Route::Mount {
            mount: self.id,
            target: self.target,
            second,
        }
    }
}
