//! Factors that a server elsewhere judges: which accounts have one, and how often it said no.
//!
//! The counts are as durable as those of local factors, so that the gateway is no faster way to guess at a server than
//! it is to guess at itself.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, Transaction, named_params};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    AccountName, Accounts, AccountsError, Administration, FactorState, administration,
    directory_groups,
};
use crate::auth::{Secret, flow::UserId, lockout::Lockout};

/// How long a code that RADIUS accepted is not accepted again, in seconds: longer than any server's window for codes
/// that follow a clock.
const SPENT_SECONDS: i64 = 600;
/// Longest name of a user on a server elsewhere, in bytes.
pub const LOGIN_MAX: usize = 128;

/// A factor that a server elsewhere judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteFactor {
    /// The one-time code, by RADIUS.
    Radius,
    /// The password, by the directory.
    Directory,
}

impl RemoteFactor {
    fn table(self) -> &'static str {
        match self {
            Self::Radius => "radius",
            Self::Directory => "directory",
        }
    }
}

/// Which of an account's factors are judged elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteFactors {
    pub radius: bool,
    pub directory: bool,
}

/// Whether a server is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteTry {
    /// Yes, about the user of that name, or about the account's own. A counted try has been counted as failed until
    /// [`Accounts::remote_was_right`] or [`Accounts::remote_gave_no_verdict`].
    Open {
        login: Option<String>,
        failures: u32,
    },
    /// No: earlier failures.
    Delayed,
    /// No: too many failures.
    Disabled,
    /// The account's factor is not judged there.
    NotSet,
}

impl Accounts {
    /// Which factors of the account are judged elsewhere.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn remote_factors(&self, uid: UserId) -> Result<RemoteFactors, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM radius WHERE account = ?1) AS radius,
                    EXISTS (SELECT 1 FROM directory WHERE account = ?1) AS directory",
        )?;
        Ok(statement.query_row([uid.0], remote_factors)?)
    }

    /// The remote factors of some account, always the same one for the same `draw`. Who has no account is treated as if
    /// it had these: what a name costs to refuse tells then nothing of whether there is such an account.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn remote_factors_of_a_stranger(&self, draw: u64) -> Result<RemoteFactors, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM radius WHERE account = id) AS radius,
                    EXISTS (SELECT 1 FROM directory WHERE account = id) AS directory
             FROM account WHERE id > ?1 % (SELECT max(id) FROM account) ORDER BY id LIMIT 1",
        )?;
        let draw = i64::try_from(draw >> 1).unwrap_or(0);
        let found = statement.query_row([draw], remote_factors).optional()?;
        Ok(found.unwrap_or_default())
    }

    /// By what name the directory knows the account: `None` if its password is not judged there.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn directory_login(&self, uid: UserId) -> Result<Option<String>, AccountsError> {
        let connection = self.connection();
        let found = connection
            .prepare_cached(
                "SELECT coalesce(login, name) FROM directory JOIN account ON id = account WHERE id = ?1",
            )?
            .query_row([uid.0], |row| row.get(0))
            .optional()?;
        Ok(found)
    }

    /// Begins a try. A counted one is on disk as failed before this returns, so that neither parallel tries nor a crash
    /// escape the count.
    ///
    /// # Errors
    /// If the database can't be read or written.
    pub fn try_remote(
        &self,
        uid: UserId,
        factor: RemoteFactor,
        counted: bool,
        now: DateTime<Utc>,
    ) -> Result<RemoteTry, AccountsError> {
        let table = factor.table();
        self.transaction(|transaction| {
            let found = transaction
                .prepare_cached(&format!(
                    "SELECT login, failures, not_before, disabled FROM {table} WHERE account = ?1"
                ))?
                .query_row([uid.0], |row| {
                    let not_before: i64 = row.get("not_before")?;
                    Ok(if row.get("disabled")? {
                        RemoteTry::Disabled
                    } else if now.timestamp() < not_before {
                        RemoteTry::Delayed
                    } else {
                        RemoteTry::Open {
                            login: row.get("login")?,
                            failures: row.get("failures")?,
                        }
                    })
                })
                .optional()?
                .unwrap_or(RemoteTry::NotSet);
            Ok(match found {
                RemoteTry::Open { login, failures } if counted => {
                    let failures = failures.saturating_add(1);
                    count(transaction, table, uid, failures, now)?;
                    RemoteTry::Open { login, failures }
                }
                RemoteTry::Open { .. }
                | RemoteTry::Delayed
                | RemoteTry::Disabled
                | RemoteTry::NotSet => found,
            })
        })
    }

    /// Ends a counted try that the server found right.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn remote_was_right(&self, uid: UserId, factor: RemoteFactor) -> Result<(), AccountsError> {
        self.transaction(|transaction| forget_failures(transaction, factor.table(), uid))
    }

    /// Ends a counted try on which no server gave a verdict: it was none.
    ///
    /// # Errors
    /// If the database can't be written; the try then counts.
    pub fn remote_gave_no_verdict(
        &self,
        uid: UserId,
        factor: RemoteFactor,
    ) -> Result<(), AccountsError> {
        let table = factor.table();
        self.transaction(|transaction| take_back(transaction, table, uid))
    }

    /// As [`Self::remote_was_right`] for a code that RADIUS accepted: spends it, on disk when this returns. False if it
    /// was spent before, by whatever connection; then it was no failure, and no success.
    ///
    /// # Errors
    /// If the database can't be written; the code then counts as not shown.
    pub fn spend_radius_code(
        &self,
        uid: UserId,
        code: &Secret,
        now: DateTime<Utc>,
    ) -> Result<bool, AccountsError> {
        self.transaction(|transaction| {
            let salt: Vec<u8> = transaction.query_row(
                "SELECT salt FROM radius WHERE account = ?1",
                [uid.0],
                |row| row.get(0),
            )?;
            let digest = Sha256::new()
                .chain_update(&salt)
                .chain_update(&*without_spelling(code))
                .finalize();
            transaction.execute(
                "DELETE FROM radius_spent WHERE account = ?1 AND until <= ?2",
                (uid.0, now.timestamp()),
            )?;
            let spent = transaction.execute(
                "INSERT OR IGNORE INTO radius_spent (account, digest, until) VALUES (?1, ?2, ?3)",
                (
                    uid.0,
                    digest.as_slice(),
                    now.timestamp().saturating_add(SPENT_SECONDS),
                ),
            )?;
            if spent == 1 {
                forget_failures(transaction, "radius", uid)?;
            } else {
                take_back(transaction, "radius", uid)?;
            }
            Ok(spent == 1)
        })
    }

    /// How the account's remote factors stand, as `account list` shows them: RADIUS, directory.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn remote_states(&self, uid: UserId) -> Result<(FactorState, FactorState), AccountsError> {
        let connection = self.connection();
        let state = |factor: RemoteFactor| {
            let found = connection
                .prepare_cached(&format!(
                    "SELECT failures, disabled FROM {} WHERE account = ?1",
                    factor.table()
                ))?
                .query_row([uid.0], |row| {
                    Ok(if row.get("disabled")? {
                        FactorState::Locked
                    } else {
                        FactorState::Usable {
                            failures: row.get("failures")?,
                        }
                    })
                })
                .optional()?;
            Ok::<_, AccountsError>(found.unwrap_or(FactorState::Absent))
        };
        Ok((
            state(RemoteFactor::Radius)?,
            state(RemoteFactor::Directory)?,
        ))
    }
}

impl Administration<'_> {
    /// Has the account's codes judged by RADIUS, where it is called `login` if that differs from its name. Forgets
    /// failures.
    ///
    /// # Errors
    /// If there is no such account, or the system has no randomness.
    pub fn set_radius(&self, name: &AccountName, login: Option<&str>) -> Result<(), AccountsError> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|_| AccountsError::NoRandomness)?;
        self.change(name, "second-factor", administration::Sessions::End, |transaction, uid| {
            transaction.execute(
                // The salt stays: what was spent stays spent.
                "INSERT INTO radius (account, login, salt, since) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (account) DO UPDATE SET
                     login = excluded.login, since = excluded.since, failures = 0, not_before = 0, disabled = 0",
                (uid.0, login, salt, administration::timestamp()),
            )?;
            Ok(json!({ "second_factor": "radius", "login": login }))
        })
    }

    /// Has the account's codes judged by its authenticator again.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn unset_radius(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.change(
            name,
            "second-factor",
            administration::Sessions::End,
            |transaction, uid| {
                transaction.execute("DELETE FROM radius_spent WHERE account = ?1", [uid.0])?;
                transaction.execute("DELETE FROM radius WHERE account = ?1", [uid.0])?;
                Ok(json!({ "second_factor": "totp" }))
            },
        )
    }

    /// Has the account's password judged by the directory, where it is called `login` if that differs from its name.
    /// Forgets failures.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn set_directory(
        &self,
        name: &AccountName,
        login: Option<&str>,
    ) -> Result<(), AccountsError> {
        self.change(
            name,
            "password-source",
            administration::Sessions::End,
            |transaction, uid| {
                directory_groups::forget(transaction, uid)?;
                transaction.execute(
                    "INSERT OR REPLACE INTO directory (account, login, since) VALUES (?1, ?2, ?3)",
                    (uid.0, login, administration::timestamp()),
                )?;
                Ok(json!({ "password_source": "ldap", "login": login }))
            },
        )
    }

    /// Has the account's password judged by the hash here again.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn unset_directory(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.change(
            name,
            "password-source",
            administration::Sessions::End,
            |transaction, uid| {
                directory_groups::forget(transaction, uid)?;
                transaction.execute("DELETE FROM directory WHERE account = ?1", [uid.0])?;
                Ok(json!({ "password_source": "local" }))
            },
        )
    }
}

fn remote_factors(row: &rusqlite::Row<'_>) -> rusqlite::Result<RemoteFactors> {
    Ok(RemoteFactors {
        radius: row.get("radius")?,
        directory: row.get("directory")?,
    })
}

/// The code without what a server may not look at: case, spaces and other characters that can't be seen. Whatever else it
/// takes for the same code, this is for its own replay protection to know.
fn without_spelling(code: &Secret) -> Zeroizing<Vec<u8>> {
    let seen = code
        .expose()
        .iter()
        .filter(|byte| **byte > b' ' && **byte != 0x7f);
    Zeroizing::new(seen.map(u8::to_ascii_lowercase).collect())
}

fn count(
    transaction: &Transaction<'_>,
    table: &'static str,
    uid: UserId,
    failures: u32,
    now: DateTime<Utc>,
) -> Result<(), AccountsError> {
    let (delay, disabled) = match Lockout::after(failures) {
        Lockout::Open => (0, false),
        Lockout::Delay(delay) => (i64::try_from(delay.as_secs()).unwrap_or(i64::MAX), false),
        Lockout::Disable => (0, true),
    };
    transaction.execute(
        &format!(
            "UPDATE {table} SET failures = :failures, not_before = :not_before, disabled = :disabled
             WHERE account = :account"
        ),
        named_params! {
            ":failures": failures,
            ":not_before": now.timestamp().saturating_add(delay),
            ":disabled": disabled,
            ":account": uid.0,
        },
    )?;
    Ok(())
}

fn forget_failures(
    transaction: &Transaction<'_>,
    table: &'static str,
    uid: UserId,
) -> Result<(), AccountsError> {
    transaction.execute(
        &format!(
            "UPDATE {table} SET failures = 0, not_before = 0, disabled = 0 WHERE account = ?1"
        ),
        [uid.0],
    )?;
    Ok(())
}

/// One failure less. Its delay goes with it only where the rest have none: an outage frees nobody who guesses.
fn take_back(
    transaction: &Transaction<'_>,
    table: &'static str,
    uid: UserId,
) -> Result<(), AccountsError> {
    let failures: u32 = transaction
        .query_row(
            &format!("SELECT failures FROM {table} WHERE account = ?1"),
            [uid.0],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0);
    let failures = failures.saturating_sub(1);
    let lockout = Lockout::after(failures);
    transaction.execute(
        &format!(
            "UPDATE {table} SET failures = ?2, disabled = ?3, not_before = CASE WHEN ?4 THEN 0 ELSE not_before END
             WHERE account = ?1"
        ),
        (
            uid.0,
            failures,
            lockout == Lockout::Disable,
            lockout == Lockout::Open,
        ),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
