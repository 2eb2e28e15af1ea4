//! Where a path lies in the account's view, and what is granted there.

use super::{Denied, Mount, MountId, Permission, Route};
use crate::{
    extensions::Extensions,
    path::{RelativePath, VirtualPath},
};

/// How something gets another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renaming {
    /// A second name, of a file.
    OfFile,
    /// Another name, of a file, directory or link.
    OfAny,
}

/// Where a path lies in the account's view.
pub(super) enum Place<'a> {
    /// An ancestor of a mount point; the root always counts as one.
    Above,
    Below(OnMount<'a>),
}

pub(super) struct OnMount<'a> {
    pub(super) id: MountId,
    pub(super) mount: &'a Mount,
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
        self.mount.ruling(&self.target, permission).0
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

    /// A name that what is at `self` gets beside or instead of its own: it must not give more. What lies below, if it is a
    /// directory, has to be under one rule on either side.
    pub(super) fn may_become(&self, other: &RelativePath, kind: Renaming) -> Result<(), Denied> {
        if self.mount.rules.is_empty() {
            return Ok(());
        }
        let mount = self.mount;
        let is_within = || {
            let (here, there) = (
                mount.permissions_at(&self.target),
                mount.permissions_at(other),
            );
            there.is_within(&here)
        };
        let below = |target| mount.deciding_below(target).map_err(|_| Denied::RulesBelow);
        let is_kept = match kind {
            Renaming::OfFile => is_within(),
            Renaming::OfAny => {
                let same_rule = below(&self.target)? == below(other)?;
                // What a link leads to counts from the directory in which the link is.
                !mount.grants_symlinks()
                    || (same_rule && is_within() && self.target.parent() == other.parent())
            }
        };
        if is_kept { Ok(()) } else { Err(Denied::Widens) }
    }

    /// What a symbolic link at `self` leads to must give as much as the link does, and all below it too.
    pub(super) fn leading_to(&self, target: &RelativePath) -> Result<(), Denied> {
        let mount = self.mount;
        if mount.rules.is_empty() {
            return Ok(());
        }
        let below = |target| mount.deciding_below(target).map_err(|_| Denied::RulesBelow);
        let is_same_below = below(&self.target)? == below(target)?;
        let (link, led_to) = (
            mount.permissions_at(&self.target),
            mount.permissions_at(target),
        );
        if is_same_below && link.is_within(&led_to) {
            Ok(())
        } else {
            Err(Denied::Widens)
        }
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
