//! [`effective`]: what holds at a path, and which rule says so. The same answers as [`super::authorize`] gives, with origin.

use super::{Denied, Mount, MountId, PathRule, Permission, place::Place};
use crate::path::VirtualPath;

/// What holds at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effective {
    /// A directory above the mounts: it can be listed, and nothing else.
    Above,
    Mount {
        mount: MountId,
        /// The mount's own directory, or one on the way to another mount: it can't be changed, removed or replaced.
        is_fixed: bool,
        /// Each permission, whether it holds, and the number of the mount's rule that says so; `None` where the mount's own
        /// permissions do.
        permissions: Vec<(Permission, bool, Option<usize>)>,
    },
}

/// Says what holds at `path` for an account that sees `mounts`.
///
/// # Errors
/// If no mount holds the path.
pub fn effective(mounts: &[Mount], path: &VirtualPath) -> Result<Effective, Denied> {
    let place = match Place::of(mounts, path)? {
        Place::Above => return Ok(Effective::Above),
        Place::Below(place) => place,
    };
    let permissions = Permission::ALL.into_iter().map(|permission| {
        let (holds, rule) = place.mount.ruling(&place.target, permission);
        (permission, holds, rule)
    });
    Ok(Effective::Mount {
        mount: place.id,
        is_fixed: place.target.is_empty() || place.leads_to_mount,
        permissions: permissions.collect(),
    })
}

impl Mount {
    /// The rule with that number, as [`Effective`] names it.
    pub fn rule(&self, number: usize) -> Option<&PathRule> {
        self.rules.get(number)
    }

    /// Where a ruling comes from, in words: account or group, mount, and the rule with that number.
    pub fn origin(&self, rule: Option<usize>) -> String {
        let holder = match &self.group {
            None => "account".to_owned(),
            Some(group) => format!("group {group}"),
        };
        let at = String::from_utf8_lossy(self.at.as_bytes());
        let rule = rule.and_then(|number| Some((number, self.rule(number)?)));
        match rule {
            None => format!("{holder}, mount {at}, permissions"),
            Some((number, rule)) => format!("{holder}, mount {at}, rule {}: {rule}", number + 1),
        }
    }
}
