//! What a login reads and writes of an account as a whole; its secrets are in [`super::passwords`] and [`super::codes`].

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, Row, Transaction, named_params};

use super::{Accounts, AccountsError, kind_from, login_options, policy, schema};
use crate::auth::{
    flow::{Profile, UserId},
    lockout::Lockout,
};

impl Accounts {
    /// The account of that name, if there is one and it is enabled.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn profile(&self, name: &str) -> Result<Option<Profile>, AccountsError> {
        let connection = self.connection();
        schema::refuse_newer(&connection)?;
        let mut statement = connection.prepare_cached(
            "SELECT id, name, kind, epoch, policy, policy_reason, policy_approver, policy_expires,
                    prompts, appended_code, mfa_window, window_era,
                    EXISTS (SELECT 1 FROM totp WHERE account = id)
                        OR EXISTS (SELECT 1 FROM radius WHERE account = id) AS has_code,
                    EXISTS (SELECT 1 FROM public_key WHERE account = id) AS has_key,
                    EXISTS (SELECT 1 FROM machine_policy WHERE account = id) AS key_alone
             FROM account WHERE name = ?1 AND disabled = 0",
        )?;
        statement
            .query_row([name], |row| Ok(profile(row)))
            .optional()?
            .transpose()
    }
}

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
        key_alone: row.get("key_alone")?,
    })
}

/// Writes the count and what follows from it; `table` is `password` or `totp`.
pub(super) fn count_failure(
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
