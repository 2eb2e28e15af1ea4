//! Limits of accounts in the database.

use std::num::{NonZeroU32, NonZeroU64};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde_json::{Value, json};

use super::{Accounts, AccountsError, damaged};
use crate::{allowance::AccountLimits, auth::flow::UserId};

const SELECT: &str = "SELECT max_sessions, read_rate, write_rate FROM account WHERE id = ?1";

impl Accounts {
    /// The account's limits.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn limits(&self, uid: UserId) -> Result<AccountLimits, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(SELECT)?;
        statement
            .query_row([uid.0], |row| Ok(limits(row)))
            .optional()?
            .unwrap_or_else(|| Ok(AccountLimits::default()))
    }
}

/// As [`Accounts::limits`], within a change.
pub(super) fn read(connection: &Connection, uid: UserId) -> Result<AccountLimits, AccountsError> {
    connection
        .prepare_cached(SELECT)?
        .query_row([uid.0], |row| Ok(limits(row)))?
}

pub(super) fn store(
    transaction: &Transaction<'_>,
    uid: UserId,
    limits: &AccountLimits,
) -> Result<(), AccountsError> {
    let column = |rate: NonZeroU64| i64::try_from(rate.get()).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "UPDATE account SET max_sessions = ?2, read_rate = ?3, write_rate = ?4 WHERE id = ?1",
        )?
        .execute((
            uid.0,
            limits.sessions.map(NonZeroU32::get),
            limits.read_rate.map(column),
            limits.write_rate.map(column),
        ))?;
    Ok(())
}

/// Limits as records and `--json` show them: `null` is none.
pub fn describe(limits: &AccountLimits) -> Value {
    json!({
        "sessions": limits.sessions.map(NonZeroU32::get),
        "read_rate": limits.read_rate.map(NonZeroU64::get),
        "write_rate": limits.write_rate.map(NonZeroU64::get),
    })
}

fn limits(row: &Row<'_>) -> Result<AccountLimits, AccountsError> {
    let number = |column: &str| -> Result<Option<u64>, AccountsError> {
        let stored: Option<i64> = row.get(column)?;
        stored
            .map(|stored| {
                u64::try_from(stored)
                    .map_err(|_| damaged("account", &format!("{column} = {stored}")))
            })
            .transpose()
    };
    let sessions =
        number("max_sessions")?.map(|sessions| u32::try_from(sessions).unwrap_or(u32::MAX));
    Ok(AccountLimits {
        sessions: sessions.and_then(NonZeroU32::new),
        read_rate: number("read_rate")?.and_then(NonZeroU64::new),
        write_rate: number("write_rate")?.and_then(NonZeroU64::new),
    })
}
