//! Passwords: what a login checks them against, and how they are set.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{OptionalExtension as _, Row, named_params};
use serde_json::json;

use super::{
    AccountName, Accounts, AccountsError, Administration,
    administration::{Sessions, timestamp},
    login::count_failure,
    uid_of,
};
use crate::auth::{flow::UserId, lockout, password::policy::HISTORY_MAX};

/// What a password has to be checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordTry {
    /// The hash. Whoever counts a try has counted it as failed until [`Accounts::password_was_right`].
    Open {
        phc: String,
        failures: u32,
    },
    /// Not to be looked at: earlier failures.
    Delayed,
    /// Not to be looked at: too many failures.
    Disabled,
    /// Not to be looked at: older than the policy allows.
    Expired,
    NotSet,
}

impl Accounts {
    /// Begins a password try. A counted one is on disk as failed before this returns, so that neither parallel tries
    /// nor a crash escape the count.
    ///
    /// # Errors
    /// If the database can't be read or written.
    pub fn try_password(
        &self,
        uid: UserId,
        counted: bool,
        now: DateTime<Utc>,
        max_age: Option<TimeDelta>,
    ) -> Result<PasswordTry, AccountsError> {
        let password_try = |row: &Row<'_>| password_try(row, now, max_age);
        if !counted {
            let connection = self.connection();
            return Ok(connection
                .prepare_cached(SELECT_PASSWORD)?
                .query_row([uid.0], password_try)
                .optional()?
                .unwrap_or(PasswordTry::NotSet));
        }
        self.transaction(|transaction| {
            let found = transaction
                .prepare_cached(SELECT_PASSWORD)?
                .query_row([uid.0], password_try)
                .optional()?;
            let Some(PasswordTry::Open { phc, failures }) = found else {
                return Ok(found.unwrap_or(PasswordTry::NotSet));
            };
            let failures = failures.saturating_add(1);
            count_failure(transaction, "password", uid, failures, now)?;
            Ok(PasswordTry::Open { phc, failures })
        })
    }

    /// Ends a counted password try that succeeded.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn password_was_right(&self, uid: UserId) -> Result<(), AccountsError> {
        self.transaction(|transaction| {
            transaction.execute(
                "UPDATE password SET failures = 0, not_before = 0, disabled = 0 WHERE account = ?1",
                [uid.0],
            )?;
            Ok(())
        })
    }

    /// Puts another hash of the same password in the place of `old`; false if that is not the account's hash any more.
    /// Neither the password's age nor its failures change.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn upgrade_password(
        &self,
        uid: UserId,
        old: &str,
        new: &str,
    ) -> Result<bool, AccountsError> {
        self.transaction(|transaction| {
            let upgraded = transaction.execute(
                "UPDATE password SET phc = :new WHERE account = :account AND phc = :old",
                named_params! { ":new": new, ":old": old, ":account": uid.0 },
            )?;
            Ok(upgraded == 1)
        })
    }

    /// The hashes of the account's present password and of those before, newest first, at most [`HISTORY_MAX`].
    ///
    /// # Errors
    /// If there is no such account.
    pub fn former_passwords(&self, name: &AccountName) -> Result<Vec<String>, AccountsError> {
        self.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let mut statement = transaction.prepare_cached(
                "SELECT phc FROM (
                    SELECT phc, 9223372036854775807 AS id FROM password WHERE account = ?1
                    UNION ALL SELECT phc, id FROM former_password WHERE account = ?1
                 ) ORDER BY id DESC LIMIT ?2",
            )?;
            let hashes = statement
                .query_map((uid.0, history_max()), |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            Ok(hashes)
        })
    }
}

impl Administration<'_> {
    /// Sets the hash of a new password, remembers the one before, and forgets failures with it.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn set_password(&self, name: &AccountName, phc: &str) -> Result<(), AccountsError> {
        self.change(name, "set-password", Sessions::End, |transaction, uid| {
            let now = timestamp();
            transaction.execute(
                "INSERT INTO former_password (account, phc, replaced)
                 SELECT account, phc, ?2 FROM password WHERE account = ?1",
                (uid.0, &now),
            )?;
            transaction.execute(
                "DELETE FROM former_password WHERE account = ?1 AND id NOT IN
                    (SELECT id FROM former_password WHERE account = ?1 ORDER BY id DESC LIMIT ?2)",
                (uid.0, history_max()),
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO password (account, phc, changed) VALUES (?1, ?2, ?3)",
                (uid.0, phc, &now),
            )?;
            Ok(json!({}))
        })
    }
}

const SELECT_PASSWORD: &str =
    "SELECT phc, failures, not_before, disabled, changed FROM password WHERE account = ?1";

fn history_max() -> i64 {
    i64::try_from(HISTORY_MAX).unwrap_or(i64::MAX)
}

fn password_try(
    row: &Row<'_>,
    now: DateTime<Utc>,
    max_age: Option<TimeDelta>,
) -> rusqlite::Result<PasswordTry> {
    let changed: String = row.get("changed")?;
    // A time that can't be read is no proof of youth.
    let is_too_old = max_age.is_some_and(|max_age| {
        DateTime::parse_from_rfc3339(&changed)
            .map_or(true, |changed| now.signed_duration_since(changed) > max_age)
    });
    Ok(if row.get("disabled")? {
        PasswordTry::Disabled
    } else if lockout::rests(now.timestamp(), row.get("not_before")?) {
        PasswordTry::Delayed
    } else if is_too_old {
        PasswordTry::Expired
    } else {
        PasswordTry::Open {
            phc: row.get("phc")?,
            failures: row.get("failures")?,
        }
    })
}
