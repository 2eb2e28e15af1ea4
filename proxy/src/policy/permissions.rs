//! What may be permitted, and the names of it.

use std::fmt;

/// What an account may do at a place. Each name stands for itself in `account mount --permissions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions {
    pub list: bool,
    pub read: bool,
    /// Create files that do not exist.
    pub write: bool,
    /// Replace and change files that exist.
    pub overwrite: bool,
    /// Add to the end of files that exist; `overwrite` includes it.
    pub append: bool,
    pub rename: bool,
    pub delete: bool,
    pub mkdir: bool,
    pub rmdir: bool,
    pub setattr: bool,
    pub symlink: bool,
}

/// A single name of [`Permissions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    List,
    Read,
    Write,
    Overwrite,
    Append,
    Rename,
    Delete,
    Mkdir,
    Rmdir,
    Setattr,
    Symlink,
}

/// Why a text is not a list of permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is not a permission; use list, read, write, overwrite, append, rename, delete, mkdir, rmdir, setattr, symlink, or none alone"
)]
pub struct PermissionError {
    word: String,
}

impl Permission {
    /// In the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::List,
        Self::Read,
        Self::Write,
        Self::Overwrite,
        Self::Append,
        Self::Rename,
        Self::Delete,
        Self::Mkdir,
        Self::Rmdir,
        Self::Setattr,
        Self::Symlink,
    ];

    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Overwrite => "overwrite",
            Self::Append => "append",
            Self::Rename => "rename",
            Self::Delete => "delete",
            Self::Mkdir => "mkdir",
            Self::Rmdir => "rmdir",
            Self::Setattr => "setattr",
            Self::Symlink => "symlink",
        }
    }
}

impl Permissions {
    /// Reads names joined by commas, or `none`.
    ///
    /// # Errors
    /// For a name that is none.
    pub fn parse(text: &str) -> Result<Self, PermissionError> {
        let mut permissions = Self::default();
        if text.trim() == "none" {
            return Ok(permissions);
        }
        for word in text.split(',').map(str::trim) {
            let permission = Permission::ALL
                .into_iter()
                .find(|permission| permission.name() == word)
                .ok_or_else(|| PermissionError {
                    word: word.to_owned(),
                })?;
            *permissions.place_of(permission) = true;
        }
        Ok(permissions)
    }

    pub fn has(&self, permission: Permission) -> bool {
        let mut copy = *self;
        *copy.place_of(permission)
    }

    /// As [`parse`](Self::parse) reads it.
    pub fn names(&self) -> Vec<&'static str> {
        Permission::ALL
            .into_iter()
            .filter(|&permission| self.has(permission))
            .map(Permission::name)
            .collect()
    }

    /// True if `other` has all of these.
    pub fn is_within(&self, other: &Self) -> bool {
        Permission::ALL
            .into_iter()
            .all(|permission| !self.has(permission) || other.has(permission))
    }

    /// Those for which `has` is true.
    pub fn of(has: impl Fn(Permission) -> bool) -> Self {
        let mut permissions = Self::default();
        for permission in Permission::ALL {
            *permissions.place_of(permission) = has(permission);
        }
        permissions
    }

    fn place_of(&mut self, permission: Permission) -> &mut bool {
        match permission {
            Permission::List => &mut self.list,
            Permission::Read => &mut self.read,
            Permission::Write => &mut self.write,
            Permission::Overwrite => &mut self.overwrite,
            Permission::Append => &mut self.append,
            Permission::Rename => &mut self.rename,
            Permission::Delete => &mut self.delete,
            Permission::Mkdir => &mut self.mkdir,
            Permission::Rmdir => &mut self.rmdir,
            Permission::Setattr => &mut self.setattr,
            Permission::Symlink => &mut self.symlink,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        f.write_str(&if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(",")
        })
    }
}
