//! Mounts in the database, and the names of permissions.

use std::num::NonZeroU64;

use rusqlite::{OptionalExtension as _, Row, Transaction};
use serde_json::{Value, json};

use super::{Accounts, AccountsError, damaged};
use crate::{
    allowance::Allowance,
    auth::flow::UserId,
    extensions::{Extensions, UnknownExtension},
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

/// Why a text is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected bytes, such as 500000, 512K, 20M, 5G or 1T (powers of 1024)")]
pub struct SizeError;

/// Reads a number of bytes.
///
/// # Errors
/// For anything else, or more than 2^63.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (text.get(..at), 10),
        Some((at, 'M')) => (text.get(..at), 20),
        Some((at, 'G')) => (text.get(..at), 30),
        Some((at, 'T')) => (text.get(..at), 40),
        Some(_) | None => (Some(text), 0),
    };
    digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or(SizeError)
}

/// Slowest rate, in bytes a second: an operation has to end within the minutes that a session may stall.
const MIN_RATE: u64 = 4096;

/// Reads a rate in bytes a second.
///
/// # Errors
/// For anything but a size of at least 4 KiB.
pub fn parse_rate(text: &str) -> Result<NonZeroU64, RateError> {
    let rate = parse_size(text)?;
    NonZeroU64::new(rate)
        .filter(|rate| rate.get() >= MIN_RATE)
        .ok_or(RateError::TooSlow)
}

/// Why a text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("expected at least {MIN_RATE} bytes a second")]
    TooSlow,
}

/// Reads names of extensions joined by commas, or `none`.
///
/// # Errors
/// For a name that can't be switched on.
pub fn parse_extensions(text: &str) -> Result<Extensions, UnknownExtension> {
    let mut extensions = Extensions::default();
    if text != "none" {
        for name in text.split(',') {
            extensions.switch_on(name.trim())?;
        }
    }
    Ok(extensions)
}

/// As [`parse_extensions`] reads it.
fn extension_list(extensions: Extensions) -> String {
    let names = extensions.names();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    }
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
    let mut shown = json!({
        "at": portcullis_journal::record::untrusted(mount.at.as_bytes()),
        "backend": mount.backend,
        "directory": portcullis_journal::record::untrusted(&mount.directory),
        "permissions": permission_names(&mount.permissions),
    });
    let Allowance {
        read_rate,
        write_rate,
        quota,
    } = mount.allowance;
    for (name, limit) in [
        ("read_rate", read_rate.map(NonZeroU64::get)),
        ("write_rate", write_rate.map(NonZeroU64::get)),
        ("quota", quota),
    ] {
        if let (Some(limit), Some(shown)) = (limit, shown.as_object_mut()) {
            shown.insert(name.to_owned(), limit.into());
        }
    }
    if let Some(shown) = shown.as_object_mut() {
        if let Some(extensions) = mount.extensions {
            shown.insert("extensions".to_owned(), extensions.names().into());
        }
        if let Some(resume) = mount.resume {
            shown.insert("resume".to_owned(), resume.into());
        }
    }
    shown
}

impl Accounts {
    /// The account's mounts, by place.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn mounts(&self, uid: UserId) -> Result<Vec<Mount>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume
             FROM mount WHERE account = ?1 ORDER BY at",
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
        "INSERT OR REPLACE INTO mount
             (account, at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            uid.0,
            mount.at.as_bytes(),
            &mount.backend,
            &mount.directory,
            permission_names(&mount.permissions).join(","),
            mount.allowance.read_rate.map(column),
            mount.allowance.write_rate.map(column),
            mount.allowance.quota.map(signed),
            mount.extensions.map(extension_list),
            mount.resume,
        ),
    )?;
    Ok(replaced)
}

/// As SQLite stores numbers; nobody has 2^63 bytes.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn column(rate: NonZeroU64) -> i64 {
    signed(rate.get())
}

fn allowance(row: &Row<'_>) -> Result<Allowance, AccountsError> {
    let number = |column: &str| -> Result<Option<u64>, AccountsError> {
        let stored: Option<i64> = row.get(column)?;
        stored
            .map(|stored| {
                u64::try_from(stored).map_err(|_| damaged("mount", &format!("{column} = {stored}")))
            })
            .transpose()
    };
    Ok(Allowance {
        read_rate: number("read_rate")?.and_then(NonZeroU64::new),
        write_rate: number("write_rate")?.and_then(NonZeroU64::new),
        quota: number("quota")?,
    })
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
        allowance: allowance(row)?,
        extensions: extensions(row)?,
        resume: row.get("resume")?,
    })
}

fn extensions(row: &Row<'_>) -> Result<Option<Extensions>, AccountsError> {
    let stored: Option<String> = row.get("extensions")?;
    stored
        .map(|list| parse_extensions(&list).map_err(|_| damaged("mount.extensions", &list)))
        .transpose()
}

fn place(bytes: &[u8]) -> Result<VirtualPath, AccountsError> {
    VirtualPath::clean(bytes).map_err(|_| damaged("mount.at", &String::from_utf8_lossy(bytes)))
}
