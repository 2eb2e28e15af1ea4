//! The tables, and how a database of an older program becomes one of this.

use rusqlite::{Connection, TransactionBehavior};

use super::AccountsError;

/// Step N brings a database from `user_version` N to N + 1. Steps are only ever added.
const MIGRATIONS: [&str; 3] = ["
    CREATE TABLE account (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('human', 'machine')),
        owner TEXT,
        disabled INTEGER NOT NULL DEFAULT 0,
        -- Grows when something is taken from the account; sessions of an older epoch end.
        epoch INTEGER NOT NULL DEFAULT 0,
        policy TEXT NOT NULL DEFAULT 'two-class' CHECK (policy IN ('two-class', 'possession-pair')),
        policy_reason TEXT,
        policy_approver TEXT,
        policy_expires TEXT,
        created TEXT NOT NULL,
        CHECK (policy = 'two-class'
               OR (policy_reason IS NOT NULL AND policy_approver IS NOT NULL AND policy_expires IS NOT NULL))
    ) STRICT;
    -- not_before: seconds since 1970 until which a try is not looked at.
    CREATE TABLE password (
        account INTEGER PRIMARY KEY REFERENCES account (id),
        phc TEXT NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        not_before INTEGER NOT NULL DEFAULT 0,
        disabled INTEGER NOT NULL DEFAULT 0,
        changed TEXT NOT NULL
    ) STRICT;
    CREATE TABLE totp (
        account INTEGER PRIMARY KEY REFERENCES account (id),
        secret BLOB NOT NULL,
        last_step INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        not_before INTEGER NOT NULL DEFAULT 0,
        disabled INTEGER NOT NULL DEFAULT 0,
        enrolled TEXT NOT NULL
    ) STRICT;
    CREATE TABLE public_key (
        fingerprint TEXT PRIMARY KEY,
        account INTEGER NOT NULL REFERENCES account (id),
        line TEXT NOT NULL,
        comment TEXT NOT NULL,
        added TEXT NOT NULL
    ) STRICT;
    CREATE INDEX public_key_account ON public_key (account);
    CREATE TABLE mount (
        account INTEGER NOT NULL REFERENCES account (id),
        at BLOB NOT NULL,
        backend TEXT NOT NULL,
        directory BLOB NOT NULL,
        permissions TEXT NOT NULL,
        PRIMARY KEY (account, at)
    ) STRICT;
    -- Changes that are not in the journal yet.
    CREATE TABLE audit_pending (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        account INTEGER NOT NULL,
        name TEXT NOT NULL,
        details TEXT NOT NULL
    ) STRICT;
", "
    -- Bytes a second, and bytes; NULL is no limit.
    ALTER TABLE mount ADD COLUMN read_rate INTEGER CHECK (read_rate > 0);
    ALTER TABLE mount ADD COLUMN write_rate INTEGER CHECK (write_rate > 0);
    ALTER TABLE mount ADD COLUMN quota INTEGER CHECK (quota >= 0);
", "
    -- Over all mounts and sessions; NULL is no limit.
    ALTER TABLE account ADD COLUMN max_sessions INTEGER CHECK (max_sessions > 0);
    ALTER TABLE account ADD COLUMN read_rate INTEGER CHECK (read_rate > 0);
    ALTER TABLE account ADD COLUMN write_rate INTEGER CHECK (write_rate > 0);
    -- As the server or the backend has it, where NULL.
    ALTER TABLE mount ADD COLUMN extensions TEXT;
    ALTER TABLE mount ADD COLUMN resume INTEGER CHECK (resume IN (0, 1));
"];

/// Runs the steps that are missing, each in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), AccountsError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let step = usize::try_from(found).ok();
        let Some(migration) = step.and_then(|step| MIGRATIONS.get(step)) else {
            return if found == known {
                Ok(())
            } else {
                Err(AccountsError::NewerSchema { found, known })
            };
        };
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", found + 1)?;
        transaction.commit()?;
    }
}
