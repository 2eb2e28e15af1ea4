//! What a login reads and writes.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, Row, Transaction, named_params};

use super::{Accounts, AccountsError, kind_from, login_options, policy};
use crate::auth::{
    Secret,
    flow::{Profile, UserId},
    lockout::Lockout,
    totp::{self, Code},
};

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeVerdict {
    /// Accepted, and spent: on disk.
    Right,
    /// Counted, on disk.
    Wrong {
        failures: u32,
        lockout: Lockout,
    },
    /// Right, but its step or a later one was accepted before. No guess, so it does not count.
    Replayed,
    /// Not looked at: earlier failures.
    Delayed,
    /// Not looked at: too many failures.
    Disabled,
    NotEnrolled,
}

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
    NotSet,
}

impl Accounts {
    /// The account of that name, if there is one and it is enabled.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn profile(&self, name: &str) -> Result<Option<Profile>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, name, kind, epoch, policy, policy_reason, policy_approver, policy_expires,
                    prompts, appended_code, mfa_window, window_era,
                    EXISTS (SELECT 1 FROM totp WHERE account = id) AS has_code,
                    EXISTS (SELECT 1 FROM public_key WHERE account = id) AS has_key
             FROM account WHERE name = ?1 AND disabled = 0",
        )?;
        statement
            .query_row([name], |row| Ok(profile(row)))
            .optional()?
            .transpose()
    }

    /// True if the key with this fingerprint belongs to the account.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn has_key(&self, uid: UserId, fingerprint: &str) -> Result<bool, AccountsError> {
        let connection = self.connection();
        let found = connection
            .prepare_cached("SELECT 1 FROM public_key WHERE fingerprint = ?1 AND account = ?2")?
            .exists((fingerprint, uid.0))?;
        Ok(found)
    }

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
    ) -> Result<PasswordTry, AccountsError> {
        if !counted {
            let connection = self.connection();
            return Ok(connection
                .prepare_cached(SELECT_PASSWORD)?
                .query_row([uid.0], |row| password_try(row, now))
                .optional()?
                .unwrap_or(PasswordTry::NotSet));
        }
        self.transaction(|transaction| {
            let found = transaction
                .prepare_cached(SELECT_PASSWORD)?
                .query_row([uid.0], |row| password_try(row, now))
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

    /// Checks a code and spends it: a step is accepted once, and none before it afterwards. On disk when this returns.
    ///
    /// # Errors
    /// If the database can't be read or written; the code then counts as not shown.
    pub fn redeem_code(
        &self,
        uid: UserId,
        code: Option<Code>,
        now: DateTime<Utc>,
    ) -> Result<CodeVerdict, AccountsError> {
        self.transaction(|transaction| {
            let Some(authenticator) = transaction
                .prepare_cached(
                    "SELECT secret, last_step, failures, not_before, disabled FROM totp WHERE account = ?1",
                )?
                .query_row([uid.0], authenticator)
                .optional()?
            else {
                return Ok(CodeVerdict::NotEnrolled);
            };
            let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
            let step = totp::matching_step(&authenticator.secret, code, seconds)
                .and_then(|step| i64::try_from(step).ok());
            if authenticator.disabled {
                return Ok(CodeVerdict::Disabled);
            }
            if now.timestamp() < authenticator.not_before {
                return Ok(CodeVerdict::Delayed);
            }
            let Some(step) = step else {
                let failures = authenticator.failures.saturating_add(1);
                let lockout = count_failure(transaction, "totp", uid, failures, now)?;
                return Ok(CodeVerdict::Wrong { failures, lockout });
            };
            let spent = transaction.execute(
                "UPDATE totp SET last_step = :step, failures = 0, not_before = 0
                 WHERE account = :account AND last_step < :step",
                named_params! { ":step": step, ":account": uid.0 },
            )?;
            Ok(if spent == 1 {
                CodeVerdict::Right
            } else {
                CodeVerdict::Replayed
            })
        })
    }
}

const SELECT_PASSWORD: &str =
    "SELECT phc, failures, not_before, disabled FROM password WHERE account = ?1";

fn profile(row: &Row<'_>) -> Result<Profile, AccountsError> {
    Ok(Profile {
        uid: UserId(row.get("id")?),
        name: row.get("name")?,
        kind: kind_from(&row.get::<_, String>("kind")?)?,
        policy: policy(row)?,
        epoch: row.get("epoch")?,
        has_code: row.get("has_code")?,
        has_key: row.get("has_key")?,
        login: login_options::read(row)?,
    })
}

fn password_try(row: &Row<'_>, now: DateTime<Utc>) -> rusqlite::Result<PasswordTry> {
    let not_before: i64 = row.get("not_before")?;
    Ok(if row.get("disabled")? {
        PasswordTry::Disabled
    } else if now.timestamp() < not_before {
        PasswordTry::Delayed
    } else {
        PasswordTry::Open {
            phc: row.get("phc")?,
            failures: row.get("failures")?,
        }
    })
}

struct Authenticator {
    secret: Secret,
    failures: u32,
    not_before: i64,
    disabled: bool,
}

fn authenticator(row: &Row<'_>) -> rusqlite::Result<Authenticator> {
    Ok(Authenticator {
        secret: Secret::from(row.get::<_, Vec<u8>>("secret")?),
        failures: row.get("failures")?,
        not_before: row.get("not_before")?,
        disabled: row.get("disabled")?,
    })
}

/// Writes the count and what follows from it; `table` is `password` or `totp`.
fn count_failure(
    transaction: &Transaction<'_>,
    table: &'static str,
    uid: UserId,
    failures: u32,
    now: DateTime<Utc>,
) -> Result<Lockout, AccountsError> {
    let lockout = Lockout::after(failures);
    let (delay, disabled) = match lockout {
        Lockout::Open => (0, false),
        Lockout::Delay(delay) => (delay.as_secs(), false),
        Lockout::Disable => (0, true),
    };
    let not_before = now
        .timestamp()
        .saturating_add(i64::try_from(delay).unwrap_or(i64::MAX));
    transaction.execute(
        &format!(
            "UPDATE {table} SET failures = :failures, not_before = :not_before, disabled = :disabled
             WHERE account = :account"
        ),
        named_params! {
            ":failures": failures,
            ":not_before": not_before,
            ":disabled": disabled,
            ":account": uid.0,
        },
    )?;
    Ok(lockout)
}
