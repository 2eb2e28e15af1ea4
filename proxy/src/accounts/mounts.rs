//! Mounts of accounts and groups in the database.

use std::num::NonZeroU64;

use rusqlite::{Connection, Row, Transaction};
use serde_json::{Value, json};

use super::{Accounts, AccountsError, damaged};
use crate::{
    allowance::Allowance,
    auth::flow::UserId,
    extensions::{Extensions, UnknownExtension},
    path::VirtualPath,
    policy::{Mount, PathRules, Permissions},
};

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

/// A mount as records and `--json` show it.
pub fn describe(mount: &Mount) -> Value {
    let mut shown = json!({
        "at": portcullis_journal::record::untrusted(mount.at.as_bytes()),
        "backend": mount.backend,
        "directory": portcullis_journal::record::untrusted(&mount.directory),
        "permissions": mount.permissions.names(),
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
        if !mount.rules.is_empty() {
            shown.insert("rules".to_owned(), mount.rules.texts().into());
        }
        if let Some(group) = &mount.group {
            shown.insert("group".to_owned(), group.as_str().into());
        }
    }
    shown
}

impl Accounts {
    /// The account's mounts, by place: its own, and those of its groups where it has none of its own.
    ///
    /// # Errors
    /// If the database can't be read, or two groups have a mount at one place.
    pub fn mounts(&self, uid: UserId) -> Result<Vec<Mount>, AccountsError> {
        of_account(&self.connection(), uid)
    }
}

const OWN: &str =
    "SELECT at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume, rules,
            NULL AS origin
     FROM mount WHERE account = ?1 ORDER BY at";
const OF_ITS_GROUPS: &str =
    "SELECT at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume, rules,
            account_group.name AS origin
     FROM group_mount
     JOIN group_member ON group_member.account_group = group_mount.account_group
     JOIN account_group ON account_group.id = group_mount.account_group
     WHERE group_member.account = ?1 ORDER BY at, origin";
/// Those that the directory named at the account's last login among them.
const OF_ALL_ITS_GROUPS: &str =
    "SELECT at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume, rules,
            account_group.name AS origin
     FROM group_mount JOIN account_group ON account_group.id = group_mount.account_group
     WHERE account_group.id IN (
         SELECT account_group FROM group_member WHERE account = ?1
         UNION SELECT account_group FROM directory_member WHERE account = ?1 AND of_last_login = 1)
     ORDER BY at, origin";
const OF_GROUP: &str =
    "SELECT at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume, rules,
            (SELECT name FROM account_group WHERE id = account_group) AS origin
     FROM group_mount WHERE account_group = ?1 ORDER BY at";

/// As [`Accounts::mounts`], also within a change.
pub(super) fn of_account(
    connection: &Connection,
    uid: UserId,
) -> Result<Vec<Mount>, AccountsError> {
    with_groups(connection, uid, OF_ITS_GROUPS)
}

/// As [`of_account`], with the groups that the directory named at the account's last login.
pub(super) fn of_account_by_directory(
    connection: &Connection,
    uid: UserId,
) -> Result<Vec<Mount>, AccountsError> {
    with_groups(connection, uid, OF_ALL_ITS_GROUPS)
}

fn with_groups(
    connection: &Connection,
    uid: UserId,
    of_groups: &str,
) -> Result<Vec<Mount>, AccountsError> {
    let mut mounts = own(connection, uid)?;
    for mount in select(connection, of_groups, uid.0)? {
        match mounts.iter().find(|other| other.at == mount.at) {
            None => mounts.push(mount),
            Some(Mount { group: None, .. }) => {}
            Some(Mount {
                group: Some(first), ..
            }) => {
                return Err(AccountsError::GroupsConflict {
                    account: uid.0,
                    at: String::from_utf8_lossy(mount.at.as_bytes()).into_owned(),
                    first: first.clone(),
                    second: mount.group.unwrap_or_default(),
                });
            }
        }
    }
    mounts.sort_by(|one, other| one.at.cmp(&other.at));
    Ok(mounts)
}

/// The account's own mounts, by place.
pub(super) fn own(connection: &Connection, uid: UserId) -> Result<Vec<Mount>, AccountsError> {
    select(connection, OWN, uid.0)
}

/// The mounts of a group, by place.
pub(super) fn of_group(connection: &Connection, group: i64) -> Result<Vec<Mount>, AccountsError> {
    select(connection, OF_GROUP, group)
}

fn select(connection: &Connection, query: &str, owner: i64) -> Result<Vec<Mount>, AccountsError> {
    connection
        .prepare_cached(query)?
        .query_map([owner], |row| Ok(mount(row)))?
        .map(|row| row.map_err(AccountsError::from).flatten())
        .collect()
}

/// Whose mounts a table holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holder {
    Account(i64),
    Group(i64),
}

impl Holder {
    /// Table, column and value.
    fn place(self) -> (&'static str, &'static str, i64) {
        match self {
            Self::Account(id) => ("mount", "account", id),
            Self::Group(id) => ("group_mount", "account_group", id),
        }
    }
}

/// Writes the mount; true if it took the place of another.
pub(super) fn store(
    transaction: &Transaction<'_>,
    holder: Holder,
    mount: &Mount,
) -> Result<bool, AccountsError> {
    let replaced = remove(transaction, holder, &mount.at)?;
    let (table, column, id) = holder.place();
    let rules = mount.rules.texts();
    transaction
        .prepare_cached(&format!(
            "INSERT INTO {table}
                 ({column}, at, backend, directory, permissions, read_rate, write_rate, quota, extensions, resume, rules)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        ))?
        .execute((
            id,
            mount.at.as_bytes(),
            &mount.backend,
            &mount.directory,
            mount.permissions.names().join(","),
            mount.allowance.read_rate.map(rate_column),
            mount.allowance.write_rate.map(rate_column),
            mount.allowance.quota.map(signed),
            mount.extensions.map(extension_list),
            mount.resume,
            (!rules.is_empty()).then(|| json!(rules).to_string()),
        ))?;
    Ok(replaced)
}

/// True if there was a mount at that place.
pub(super) fn remove(
    transaction: &Transaction<'_>,
    holder: Holder,
    at: &VirtualPath,
) -> Result<bool, AccountsError> {
    let (table, column, id) = holder.place();
    let removed = transaction
        .prepare_cached(&format!(
            "DELETE FROM {table} WHERE {column} = ?1 AND at = ?2"
        ))?
        .execute((id, at.as_bytes()))?;
    Ok(removed > 0)
}

/// As SQLite stores numbers; nobody has 2^63 bytes.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn rate_column(rate: NonZeroU64) -> i64 {
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
            Permissions::parse(&permissions)?
        },
        rules: rules(row)?,
        group: row.get("origin")?,
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

fn rules(row: &Row<'_>) -> Result<PathRules, AccountsError> {
    let stored: Option<String> = row.get("rules")?;
    let Some(stored) = stored else {
        return Ok(PathRules::default());
    };
    serde_json::from_str::<Vec<String>>(&stored)
        .ok()
        .and_then(|texts| PathRules::parse(&texts).ok())
        .ok_or_else(|| damaged("mount.rules", &stored))
}

fn place(bytes: &[u8]) -> Result<VirtualPath, AccountsError> {
    VirtualPath::clean(bytes).map_err(|_| damaged("mount.at", &String::from_utf8_lossy(bytes)))
}
