//! The tables, and how a database of an older program becomes one of this.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::AccountsError;

/// Step N brings a database from `user_version` N to N + 1. Steps are only ever added.
const MIGRATIONS: &[&str] = &["
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
", "
    -- A CHECK can't be altered: the table is made anew (https://sqlite.org/lang_altertable.html#otheralter).
    CREATE TABLE account_new (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('human', 'machine', 'break-glass', 'admin')),
        owner TEXT,
        disabled INTEGER NOT NULL DEFAULT 0,
        -- Grows when something is taken from the account; sessions of an older epoch end.
        epoch INTEGER NOT NULL DEFAULT 0,
        policy TEXT NOT NULL DEFAULT 'two-class' CHECK (policy IN ('two-class', 'possession-pair')),
        policy_reason TEXT,
        policy_approver TEXT,
        policy_expires TEXT,
        created TEXT NOT NULL,
        -- Over all mounts and sessions; NULL is no limit.
        max_sessions INTEGER CHECK (max_sessions > 0),
        read_rate INTEGER CHECK (read_rate > 0),
        write_rate INTEGER CHECK (write_rate > 0),
        -- The last day, UTC; NULL is no end.
        expires TEXT,
        -- As the configuration has it, where NULL.
        idle_days INTEGER CHECK (idle_days > 0),
        hours TEXT,
        -- Seconds since 1970: the last login, and when the account was made or enabled.
        last_login INTEGER,
        active_since INTEGER NOT NULL DEFAULT (unixepoch()),
        CHECK (policy = 'two-class'
               OR (policy_reason IS NOT NULL AND policy_approver IS NOT NULL AND policy_expires IS NOT NULL))
    ) STRICT;
    INSERT INTO account_new
        (id, name, kind, owner, disabled, epoch, policy, policy_reason, policy_approver, policy_expires, created,
         max_sessions, read_rate, write_rate)
        SELECT id, name, kind, owner, disabled, epoch, policy, policy_reason, policy_approver, policy_expires, created,
               max_sessions, read_rate, write_rate
        FROM account;
    -- An id that was given once is never given again.
    DELETE FROM sqlite_sequence WHERE name = 'account_new';
    INSERT INTO sqlite_sequence (name, seq) SELECT 'account_new', seq FROM sqlite_sequence WHERE name = 'account';
    DROP TABLE account;
    ALTER TABLE account_new RENAME TO account;
    -- Where logins may come from; without a row, from anywhere.
    CREATE TABLE account_source (
        account INTEGER NOT NULL REFERENCES account (id),
        network TEXT NOT NULL,
        PRIMARY KEY (account, network)
    ) STRICT;
", "
    -- As the server has it, where NULL.
    ALTER TABLE account ADD COLUMN prompts TEXT CHECK (prompts IN ('two-rounds', 'one-round'));
    ALTER TABLE account ADD COLUMN appended_code INTEGER NOT NULL DEFAULT 0 CHECK (appended_code IN (0, 1));
    -- Seconds; NULL is no window. window_era grows when the windows that are open are to be forgotten.
    ALTER TABLE account ADD COLUMN mfa_window INTEGER CHECK (mfa_window BETWEEN 900 AND 28800);
    ALTER TABLE account ADD COLUMN window_era INTEGER NOT NULL DEFAULT 0;
", "
    -- Hashes of passwords before the present one; the greatest id is the newest.
    CREATE TABLE former_password (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        account INTEGER NOT NULL REFERENCES account (id),
        phc TEXT NOT NULL,
        replaced TEXT NOT NULL
    ) STRICT;
    CREATE INDEX former_password_account ON former_password (account);
    ALTER TABLE totp ADD COLUMN algorithm TEXT NOT NULL DEFAULT 'sha1' CHECK (algorithm IN ('sha1', 'sha256', 'sha512'));
    ALTER TABLE totp ADD COLUMN digits INTEGER NOT NULL DEFAULT 6 CHECK (digits IN (6, 8));
    -- Steps by which the authenticator is ahead, and the side of it on which the last code lay.
    ALTER TABLE totp ADD COLUMN drift INTEGER NOT NULL DEFAULT 0 CHECK (drift BETWEEN -20 AND 20);
    ALTER TABLE totp ADD COLUMN lean INTEGER NOT NULL DEFAULT 0 CHECK (lean BETWEEN -1 AND 1);
    -- When a recovery code was used in its place: its own codes are refused from then on.
    ALTER TABLE totp ADD COLUMN lost TEXT;
    CREATE TABLE recovery_code (
        account INTEGER NOT NULL REFERENCES account (id),
        number INTEGER NOT NULL,
        phc TEXT NOT NULL,
        used TEXT,
        PRIMARY KEY (account, number)
    ) STRICT;
", "
    -- Networks joined by commas; the empty text is anywhere. Seconds since 1970 from which the key does not count.
    ALTER TABLE public_key ADD COLUMN sources TEXT NOT NULL DEFAULT '';
    ALTER TABLE public_key ADD COLUMN expires INTEGER;
", "
    -- A JSON list of PATTERN=PERMISSIONS; NULL is none.
    ALTER TABLE mount ADD COLUMN rules TEXT;
    CREATE TABLE account_group (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        created TEXT NOT NULL
    ) STRICT;
    CREATE TABLE group_member (
        account_group INTEGER NOT NULL REFERENCES account_group (id),
        account INTEGER NOT NULL REFERENCES account (id),
        PRIMARY KEY (account_group, account)
    ) STRICT;
    CREATE INDEX group_member_account ON group_member (account);
    CREATE TABLE group_mount (
        account_group INTEGER NOT NULL REFERENCES account_group (id),
        at BLOB NOT NULL,
        backend TEXT NOT NULL,
        directory BLOB NOT NULL,
        permissions TEXT NOT NULL,
        read_rate INTEGER CHECK (read_rate > 0),
        write_rate INTEGER CHECK (write_rate > 0),
        quota INTEGER CHECK (quota >= 0),
        extensions TEXT,
        resume INTEGER CHECK (resume IN (0, 1)),
        rules TEXT,
        PRIMARY KEY (account_group, at)
    ) STRICT;
", "
    -- An account's enrolment token, and the enrolment that it began. Times are seconds since 1970.
    CREATE TABLE enrolment (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        account INTEGER NOT NULL UNIQUE REFERENCES account (id),
        token_sha256 BLOB NOT NULL,
        expires INTEGER NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        begun INTEGER
    ) STRICT;
    -- Openings of break-glass accounts. note: the change that has to be in the journal before the opening holds.
    CREATE TABLE break_glass (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        account INTEGER NOT NULL REFERENCES account (id),
        reason TEXT NOT NULL,
        custodian INTEGER NOT NULL REFERENCES account (id),
        second_custodian INTEGER NOT NULL REFERENCES account (id),
        opened INTEGER NOT NULL,
        until INTEGER NOT NULL,
        note INTEGER NOT NULL,
        ended INTEGER,
        ended_how TEXT CHECK (ended_how IN ('closed', 'expired')),
        reviewer TEXT,
        finding TEXT,
        reviewed INTEGER,
        CHECK (custodian <> second_custodian),
        CHECK (until > opened)
    ) STRICT;
    -- One opening at a time, and none before the last one was reviewed.
    CREATE UNIQUE INDEX break_glass_unreviewed ON break_glass (account) WHERE reviewed IS NULL;
    -- Machine accounts that log in with a key alone, and the bytes that they moved on each day, UTC.
    CREATE TABLE machine_policy (
        account INTEGER PRIMARY KEY REFERENCES account (id),
        reason TEXT NOT NULL,
        approver TEXT NOT NULL,
        expires TEXT NOT NULL,
        direction TEXT NOT NULL CHECK (direction IN ('put', 'get')),
        daily_bytes INTEGER NOT NULL CHECK (daily_bytes > 0)
    ) STRICT;
    CREATE TABLE machine_volume (
        account INTEGER NOT NULL REFERENCES account (id),
        day TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (account, day)
    ) STRICT;
", "
    -- Accounts whose codes a RADIUS server judges, and whose passwords the directory does. login: the user's name there,
    -- if it is not the account's.
    CREATE TABLE radius (
        account INTEGER PRIMARY KEY REFERENCES account (id),
        login TEXT,
        salt BLOB NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        not_before INTEGER NOT NULL DEFAULT 0,
        disabled INTEGER NOT NULL DEFAULT 0,
        since TEXT NOT NULL
    ) STRICT;
    CREATE TABLE directory (
        account INTEGER PRIMARY KEY REFERENCES account (id),
        login TEXT,
        failures INTEGER NOT NULL DEFAULT 0,
        not_before INTEGER NOT NULL DEFAULT 0,
        disabled INTEGER NOT NULL DEFAULT 0,
        since TEXT NOT NULL
    ) STRICT;
    -- Codes that RADIUS accepted, and until when they are not accepted again.
    CREATE TABLE radius_spent (
        account INTEGER NOT NULL REFERENCES account (id),
        digest BLOB NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (account, digest)
    ) STRICT;
", "
    -- Groups that the directory named at a login of the account: at its last one, or at one before whose session may run.
    CREATE TABLE directory_member (
        account_group INTEGER NOT NULL REFERENCES account_group (id),
        account INTEGER NOT NULL REFERENCES account (id),
        of_last_login INTEGER NOT NULL,
        PRIMARY KEY (account_group, account)
    ) STRICT;
    CREATE INDEX directory_member_account ON directory_member (account);
"];

/// Runs the steps that are missing, each in a transaction of its own. Foreign keys hold from here on.
///
/// # Errors
/// If the database is of a newer program, can't be written, or has a reference to a row that is not there.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), AccountsError> {
    // A table that others refer to can only be made anew while nobody looks; a transaction can't change this.
    connection.pragma_update(None, "foreign_keys", false)?;
    run_steps(connection, MIGRATIONS)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}

/// A database that lacks none of the steps is not locked for it.
fn run_steps(connection: &mut Connection, steps: &[&str]) -> Result<(), AccountsError> {
    let wanted = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    while refuse_newer(connection)? < wanted {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have done it meanwhile.
        let found = refuse_newer(&transaction)?;
        let step = usize::try_from(found).ok();
        let Some(migration) = step.and_then(|step| steps.get(step)) else {
            continue;
        };
        transaction.execute_batch(migration)?;
        check_references(&transaction)?;
        transaction.pragma_update(None, "user_version", found + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The schema's version, unless only a newer program knows what to do with it. A newer command line may bring it there
/// under a running daemon.
pub(super) fn refuse_newer(connection: &Connection) -> Result<i64, AccountsError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if (0..=known()).contains(&found) {
        Ok(found)
    } else {
        Err(AccountsError::NewerSchema {
            found,
            known: known(),
        })
    }
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn check_references(transaction: &Transaction<'_>) -> Result<(), AccountsError> {
    let broken: Option<String> = transaction
        .prepare("PRAGMA foreign_key_check")?
        .query_row([], |row| row.get(0))
        .optional()?;
    match broken {
        None => Ok(()),
        Some(table) => Err(AccountsError::Damaged {
            what: format!("a row of {table} belongs to no account"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database as the program before account types and restrictions left it.
    fn of_the_third_step() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .pragma_update(None, "foreign_keys", false)
            .unwrap();
        run_steps(&mut connection, &MIGRATIONS[..3]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO account (id, name, kind, created, epoch, max_sessions) VALUES
                     (3, 'alice', 'human', 'then', 7, 5), (8, 'robot', 'machine', 'then', 0, NULL),
                     (41, 'gone', 'human', 'then', 0, NULL);
                 DELETE FROM account WHERE id = 41;
                 INSERT INTO password (account, phc, changed) VALUES (3, 'phc', 'then');
                 INSERT INTO mount (account, at, backend, directory, permissions)
                     VALUES (8, x'2f61', 'b', x'2f', 'list');",
            )
            .unwrap();
        connection
    }

    #[test]
    fn accounts_keep_their_ids_factors_and_limits_when_the_table_is_made_anew() {
        let mut connection = of_the_third_step();
        migrate(&mut connection).unwrap();
        let alice: (i64, i64, i64, String) = connection
            .query_row(
                "SELECT account.id, epoch, max_sessions, phc FROM account
                 JOIN password ON password.account = account.id WHERE name = 'alice'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .unwrap();
        assert_eq!(alice, (3, 7, 5, "phc".to_owned()));
        // Nobody is idle because the program is new.
        let recent: i64 = connection
            .query_row(
                "SELECT count(*) FROM account WHERE active_since > unixepoch() - 3600",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(recent, 2);
        for kind in ["break-glass", "admin"] {
            connection
                .execute(
                    "INSERT INTO account (name, kind, created) VALUES (?1, ?1, 'now')",
                    [kind],
                )
                .unwrap();
        }
        assert!(
            connection
                .execute(
                    "INSERT INTO account (name, kind, created) VALUES ('x', 'robot', 'now')",
                    []
                )
                .is_err()
        );
        let highest: i64 = connection
            .query_row("SELECT max(id) FROM account", [], |row| row.get(0))
            .unwrap();
        assert_eq!(highest, 43, "the number of a deleted account came again");
    }

    #[test]
    fn references_hold_after_the_migration_and_a_broken_one_stops_it() {
        let mut connection = of_the_third_step();
        migrate(&mut connection).unwrap();
        let orphan = "INSERT INTO password (account, phc, changed) VALUES (99, 'phc', 'now')";
        assert!(connection.execute(orphan, []).is_err());
        assert!(
            connection
                .execute("DELETE FROM account WHERE id = 3", [])
                .is_err()
        );

        let mut broken = of_the_third_step();
        broken.execute(orphan, []).unwrap();
        assert!(matches!(
            migrate(&mut broken),
            Err(AccountsError::Damaged { what }) if what.contains("password")
        ));
        let version: i64 = broken
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 3, "nothing is left half done");
    }
}
