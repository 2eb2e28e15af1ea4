//! Mounts in the database, and the names of permissions.

use rusqlite::{OptionalExtension as _, Row, Transaction};
use serde_json::{Value, json};

use super::{Accounts, AccountsError, damaged};
use crate::{
    auth::flow::UserId,
    path::VirtualPath,
    policy::{Mount, Permissions},
};

/// Why a text is not a list of permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is not a permission; use list, read, write, overwrite, rename, delete, mkdir, rmdir, setattr, symlink"
)]
pub struct PermissionError {
    word: String,
}

/// Reads names joined by commas.
///
/// # Errors
/// For a name that is none.
pub fn parse_permissions(text: &str) -> Result<Permissions, PermissionError> {
    let mut permissions = Permissions::default();
    for word in text.split(',') {
        let permission = match word.trim() {
            "list" => &mut permissions.list,
            "read" => &mut permissions.read,
            "write" => &mut permissions.write,
            "overwrite" => &mut permissions.overwrite,
            "rename" => &mut permissions.rename,
            "delete" => &mut permissions.delete,
            "mkdir" => &mut permissions.mkdir,
            "rmdir" => &mut permissions.rmdir,
            "setattr" => &mut permissions.setattr,
            "symlink" => &mut permissions.symlink,
            other => {
                return Err(PermissionError {
                    word: other.to_owned(),
                });
            }
        };
        *permission = true;
    }
    Ok(permissions)
}

/// The names of what is permitted.
pub fn permission_names(permissions: &Permissions) -> Vec<&'static str> {
    let Permissions {
        list,
        read,
        write,
        overwrite,
        rename,
        delete,
        mkdir,
        rmdir,
        setattr,
        symlink,
    } = *permissions;
    [
        (list, "list"),
        (read, "read"),
        (write, "write"),
        (overwrite, "overwrite"),
        (rename, "rename"),
        (delete, "delete"),
        (mkdir, "mkdir"),
        (rmdir, "rmdir"),
        (setattr, "setattr"),
        (symlink, "symlink"),
    ]
    .into_iter()
    .filter_map(|(permitted, name)| permitted.then_some(name))
    .collect()
}

/// A mount as records and `--json` show it.
pub fn describe(mount: &Mount) -> Value {
    json!({
        "at": portcullis_journal::record::untrusted(mount.at.as_bytes()),
        "backend": mount.backend,
        "directory": portcullis_journal::record::untrusted(&mount.directory),
        "permissions": permission_names(&mount.permissions),
    })
}

impl Accounts {
    /// The account's mounts, by place.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn mounts(&self, uid: UserId) -> Result<Vec<Mount>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT at, backend, directory, permissions FROM mount WHERE account = ?1 ORDER BY at",
        )?;
        statement
            .query_map([uid.0], |row| Ok(mount(row)))?
            .map(|row| row.map_err(AccountsError::from).flatten())
            .collect()
    }
}

/// Writes the mount; true if it took the place of another.
pub(super) fn store(
    transaction: &Transaction<'_>,
    uid: UserId,
    mount: &Mount,
) -> Result<bool, AccountsError> {
    let replaced = transaction
        .query_row(
            "SELECT 1 FROM mount WHERE account = ?1 AND at = ?2",
            (uid.0, mount.at.as_bytes()),
            |_| Ok(()),
        )
        .optional()?
        .is_some();
    transaction.execute(
        "INSERT OR REPLACE INTO mount (account, at, backend, directory, permissions) VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            uid.0,
            mount.at.as_bytes(),
            &mount.backend,
            &mount.directory,
            permission_names(&mount.permissions).join(","),
        ),
    )?;
    Ok(replaced)
}

fn mount(row: &Row<'_>) -> Result<Mount, AccountsError> {
    let permissions: String = row.get("permissions")?;
    Ok(Mount {
        at: place(&row.get::<_, Vec<u8>>("at")?)?,
        backend: row.get("backend")?,
        directory: row.get("directory")?,
        permissions: if permissions.is_empty() {
            Permissions::default()
        } else {
            parse_permissions(&permissions)?
        },
    })
}

fn place(bytes: &[u8]) -> Result<VirtualPath, AccountsError> {
    VirtualPath::clean(bytes).map_err(|_| damaged("mount.at", &String::from_utf8_lossy(bytes)))
}
