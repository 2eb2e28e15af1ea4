//! Groups that an account is in because the directory says so at a login, and for the session that begins with it.
//!
//! They give what membership gives. What is stored of them is for two readers: a change that takes something away from a
//! group has to end these sessions too, and an operator wants to see what the last login was given.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension as _, Transaction};

use super::{Accounts, AccountsError, mounts};
use crate::{auth::flow::UserId, policy::Mount};

impl Accounts {
    /// The account's mounts as [`Accounts::mounts`] has them, and those of `groups`, which the directory named at this
    /// login. A group that there is not gives nothing.
    ///
    /// # Errors
    /// If the database can't be read or written, or two groups have a mount at one place: then nothing is stored.
    pub fn mounts_at_login(
        &self,
        uid: UserId,
        groups: &BTreeSet<String>,
    ) -> Result<Vec<Mount>, AccountsError> {
        // In one transaction: whatever a group loses after this ends the session, and before it was not given.
        self.transaction(|transaction| {
            store(transaction, uid, groups)?;
            mounts::of_account_by_directory(transaction, uid)
        })
    }

    /// The account's mounts, with those of the groups that the directory named at its last login.
    ///
    /// # Errors
    /// If the database can't be read, or two groups have a mount at one place.
    pub fn mounts_by_directory(&self, uid: UserId) -> Result<Vec<Mount>, AccountsError> {
        mounts::of_account_by_directory(&self.connection(), uid)
    }

    /// The names of the groups that the directory named at the account's last login by it, in their order.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn directory_groups_of(&self, uid: UserId) -> Result<Vec<String>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT name FROM account_group JOIN directory_member ON account_group = id
             WHERE account = ?1 AND of_last_login = 1 ORDER BY name",
        )?;
        let names = statement.query_map([uid.0], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }
}

/// Groups of earlier logins stay, since their sessions may still run.
fn store(
    transaction: &Transaction<'_>,
    uid: UserId,
    groups: &BTreeSet<String>,
) -> Result<(), AccountsError> {
    transaction
        .prepare_cached("UPDATE directory_member SET of_last_login = 0 WHERE account = ?1")?
        .execute([uid.0])?;
    for name in groups {
        let group: Option<i64> = transaction
            .prepare_cached("SELECT id FROM account_group WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let Some(group) = group else {
            tracing::warn!(
                group = name,
                "[auth.ldap.groups] names a group that there is not; `group add` makes it"
            );
            continue;
        };
        transaction
            .prepare_cached(
                "INSERT INTO directory_member (account_group, account, of_last_login) VALUES (?1, ?2, 1)
                 ON CONFLICT (account_group, account) DO UPDATE SET of_last_login = 1",
            )?
            .execute((group, uid.0))?;
    }
    Ok(())
}

/// The directory is not asked about the account any more. Its sessions have to end in the same change.
pub(super) fn forget(transaction: &Transaction<'_>, uid: UserId) -> Result<(), AccountsError> {
    transaction
        .prepare_cached("DELETE FROM directory_member WHERE account = ?1")?
        .execute([uid.0])?;
    Ok(())
}
