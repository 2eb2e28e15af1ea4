//! Groups: mounts that several accounts share.

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction};
use serde_json::{Value, json};

use super::{
    AccountName, Accounts, AccountsError, Administration,
    administration::{end_sessions, timestamp},
    audit,
    mounts::{self, Holder},
    uid_of,
};
use crate::{auth::flow::UserId, path::VirtualPath, policy::Mount};

/// A group as `group list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// Names of accounts, in their order.
    pub members: Vec<String>,
    /// By place.
    pub mounts: Vec<Mount>,
}

impl Accounts {
    /// All groups, by name.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn groups(&self) -> Result<Vec<Group>, AccountsError> {
        let connection = self.connection();
        let named: Vec<(i64, String)> = connection
            .prepare_cached("SELECT id, name FROM account_group ORDER BY name")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut members = connection.prepare_cached(
            "SELECT name FROM account JOIN group_member ON account = id WHERE account_group = ?1 ORDER BY name",
        )?;
        named
            .into_iter()
            .map(|(id, name)| {
                Ok(Group {
                    name,
                    members: members
                        .query_map([id], |row| row.get(0))?
                        .collect::<Result<_, _>>()?,
                    mounts: mounts::of_group(&connection, id)?,
                })
            })
            .collect()
    }

    /// The names of the account's groups, in their order.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn groups_of(&self, uid: UserId) -> Result<Vec<String>, AccountsError> {
        names_of(&self.connection(), uid)
    }
}

impl Administration<'_> {
    /// Makes a group without members and mounts.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add_group(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let inserted = transaction.execute(
                "INSERT INTO account_group (name, created) VALUES (?1, ?2)",
                (name.as_str(), timestamp()),
            );
            match inserted {
                Ok(_) => {}
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    return Err(AccountsError::GroupExists { name: name.clone() });
                }
                Err(error) => return Err(error.into()),
            }
            self.note_group(transaction, "group-add", name, json!({}))
        })
    }

    /// Takes the group and its mounts away. Its members' sessions end.
    ///
    /// # Errors
    /// If there is no such group.
    pub fn remove_group(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let group = group_of(transaction, name)?;
            end_sessions_of_members(transaction, group)?;
            for statement in [
                "DELETE FROM group_member WHERE account_group = ?1",
                "DELETE FROM directory_member WHERE account_group = ?1",
                "DELETE FROM group_mount WHERE account_group = ?1",
                "DELETE FROM account_group WHERE id = ?1",
            ] {
                transaction.execute(statement, [group])?;
            }
            self.note_group(transaction, "group-remove", name, json!({}))
        })
    }

    /// Puts the account into the group. Doing so again changes nothing.
    ///
    /// # Errors
    /// If there is no such group or account, or another group of the account has a mount at the same place.
    pub fn add_member(
        &self,
        name: &AccountName,
        account: &AccountName,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let group = group_of(transaction, name)?;
            let uid = uid_of(transaction, account)?;
            if join(transaction, group, uid)? {
                let details = json!({ "group": name.as_str() });
                self.note(transaction, "join-group", uid, account, &details)?;
            }
            Ok(())
        })
    }

    /// Takes the account out of the group. Its sessions end.
    ///
    /// # Errors
    /// If there is no such group or account, or the account is not in it.
    pub fn remove_member(
        &self,
        name: &AccountName,
        account: &AccountName,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let group = group_of(transaction, name)?;
            let uid = uid_of(transaction, account)?;
            if !leave(transaction, group, uid)? {
                return Err(AccountsError::NotAMember {
                    name: name.clone(),
                    account: account.clone(),
                });
            }
            let details = json!({ "group": name.as_str() });
            self.note(transaction, "leave-group", uid, account, &details)
        })
    }

    /// Adds a mount for all members, or replaces the one at the same place, which ends their sessions.
    ///
    /// # Errors
    /// If there is no such group, or a member has a mount there from another group.
    pub fn mount_for_group(&self, name: &AccountName, mount: &Mount) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let group = group_of(transaction, name)?;
            let replaced = mounts::store(transaction, Holder::Group(group), mount)?;
            for member in members(transaction, group)? {
                mounts::of_account(transaction, member)?;
            }
            if replaced {
                end_sessions_of_members(transaction, group)?;
            }
            self.note_group(transaction, "group-mount", name, mounts::describe(mount))
        })
    }

    /// Takes a mount away from all members. Their sessions end.
    ///
    /// # Errors
    /// If there is no such group, or no mount at that place.
    pub fn unmount_for_group(
        &self,
        name: &AccountName,
        at: &VirtualPath,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let group = group_of(transaction, name)?;
            if !mounts::remove(transaction, Holder::Group(group), at)? {
                return Err(AccountsError::NoSuchGroupMount {
                    name: name.clone(),
                    at: String::from_utf8_lossy(at.as_bytes()).into_owned(),
                });
            }
            end_sessions_of_members(transaction, group)?;
            let details = json!({ "at": portcullis_journal::record::untrusted(at.as_bytes()) });
            self.note_group(transaction, "group-unmount", name, details)
        })
    }

    fn note_group(
        &self,
        transaction: &Transaction<'_>,
        action: &'static str,
        name: &AccountName,
        mut details: Value,
    ) -> Result<(), AccountsError> {
        if let Some(details) = details.as_object_mut() {
            details.insert("group".to_owned(), name.as_str().into());
        }
        audit::note_of_none(transaction, &timestamp(), &self.actor, action, &details)
    }
}

/// As [`Accounts::groups_of`], also within a change.
pub(super) fn names_of(connection: &Connection, uid: UserId) -> Result<Vec<String>, AccountsError> {
    let mut statement = connection.prepare_cached(
        "SELECT name FROM account_group JOIN group_member ON account_group = id
         WHERE account = ?1 ORDER BY name",
    )?;
    let names = statement.query_map([uid.0], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// True if the account was not in the group.
pub(super) fn join(
    transaction: &Transaction<'_>,
    group: i64,
    uid: UserId,
) -> Result<bool, AccountsError> {
    let joined = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO group_member (account_group, account) VALUES (?1, ?2)",
        )?
        .execute((group, uid.0))?;
    // Refuses two groups with a mount at one place.
    mounts::of_account(transaction, uid)?;
    Ok(joined > 0)
}

/// True if the account was in the group; its sessions end then.
pub(super) fn leave(
    transaction: &Transaction<'_>,
    group: i64,
    uid: UserId,
) -> Result<bool, AccountsError> {
    let left = transaction
        .prepare_cached("DELETE FROM group_member WHERE account_group = ?1 AND account = ?2")?
        .execute((group, uid.0))?;
    if left > 0 {
        end_sessions(transaction, uid)?;
    }
    Ok(left > 0)
}

pub(super) fn group_of(
    transaction: &Transaction<'_>,
    name: &AccountName,
) -> Result<i64, AccountsError> {
    transaction
        .prepare_cached("SELECT id FROM account_group WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| AccountsError::NoSuchGroup { name: name.clone() })
}

/// Those by what the directory said at a login among them.
fn end_sessions_of_members(transaction: &Transaction<'_>, group: i64) -> Result<(), AccountsError> {
    transaction
        .prepare_cached(
            "UPDATE account SET epoch = epoch + 1 WHERE id IN (
                 SELECT account FROM group_member WHERE account_group = ?1
                 UNION SELECT account FROM directory_member WHERE account_group = ?1)",
        )?
        .execute([group])?;
    Ok(())
}

fn members(transaction: &Transaction<'_>, group: i64) -> Result<Vec<UserId>, AccountsError> {
    let mut statement =
        transaction.prepare_cached("SELECT account FROM group_member WHERE account_group = ?1")?;
    let members = statement.query_map([group], |row| row.get(0).map(UserId))?;
    Ok(members.collect::<Result<_, _>>()?)
}
