//! Accounts, their factors and mounts, in one SQLite file that the daemon and the command line share.
//!
//! [`login`] is what a login reads and writes, [`administration`] what an administrator changes, [`passwords`] and [`codes`]
//! have both for one kind of factor, [`audit`] how those
//! changes reach the journal. Every commit is synced before it returns. All calls block: async callers use a blocking
//! thread.

pub mod administration;
pub mod admission;
pub mod audit;
pub mod break_glass;
pub mod bulk;
pub mod codes;
mod directory_groups;
pub mod enrolment;
mod error;
pub mod groups;
pub mod hours;
pub mod keys;
pub mod limits;
pub mod login;
pub mod login_options;
pub mod machine;
pub mod mounts;
pub mod passwords;
pub mod remote;
pub mod restrictions;
pub mod review;
mod schema;
pub mod sources;

pub use administration::Administration;
pub use codes::{CodeVerdict, RecoveryHash};
pub use error::AccountsError;
pub use keys::{AccountKey, KeyTerms};
pub use passwords::PasswordTry;

use admission::{Restrictions, Standing};
use restrictions::Usage;

use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::NaiveDate;
use portcullis_journal::AccountKind;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, Transaction, TransactionBehavior};

use crate::{
    auth::flow::{FactorPolicy, LoginOptions, UserId},
    exception::Exception,
};

/// How long a transaction waits for that of another process, and for its turn before.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements that stay prepared: more than an import uses.
const STATEMENTS: usize = 128;

/// Longest account name, in bytes.
pub const NAME_MAX: usize = 32;

/// A name that can be written anywhere: `[a-z0-9._-]`, at most 32, a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

/// Why a text is not an account name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an account name: use 1 to {NAME_MAX} of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
)]
pub struct NameError {
    text: String,
}

impl AccountName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let begins_well = text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
        let all_allowed = text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
        });
        if begins_well && all_allowed && text.len() <= NAME_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError {
                text: text.chars().take(2 * NAME_MAX).collect(),
            })
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An account as `account list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub uid: UserId,
    pub name: String,
    pub kind: AccountKind,
    /// Who answers for it.
    pub owner: Option<String>,
    pub disabled: bool,
    pub epoch: i64,
    pub policy: FactorPolicy,
    /// RFC 3339, UTC.
    pub created: String,
    pub password: FactorState,
    pub totp: FactorState,
    pub restrictions: Restrictions,
    pub usage: Usage,
    pub login: LoginOptions,
    /// Recovery codes that are left.
    pub recovery_codes: u32,
    pub keys: Vec<AccountKey>,
}

impl Account {
    /// As far as it is judged by, if it is enabled.
    pub fn standing(&self) -> Standing {
        Standing {
            epoch: self.epoch,
            window_era: self.login.window_era,
            kind: self.kind,
            restrictions: self.restrictions.clone(),
            last_used: self.usage.last_used(),
            open: None,
        }
    }
}

/// Where a secret factor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorState {
    Absent,
    Usable {
        failures: u32,
    },
    /// Too many wrong tries: to be set or enrolled again.
    Locked,
    /// A recovery code was used in the authenticator's place: to be enrolled again.
    Lost,
}

/// The account database. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Accounts {
    connection: Arc<Mutex<Connection>>,
}

impl Accounts {
    /// Opens the database, or makes it with mode 0600 (its directory with 0700), and brings its schema up to date.
    ///
    /// # Errors
    /// If file or directory is open to others, not a database, or of a newer program.
    pub fn open(path: &Path) -> Result<Self, AccountsError> {
        prepare_file(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        if connection.is_readonly(c"main")? {
            return Err(AccountsError::ReadOnly);
        }
        let _: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // In WAL mode only FULL syncs at each commit: a code that was accepted stays spent after a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        schema::migrate(&mut connection)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Changes the accounts in the name of `actor`; each change leaves a note for the journal.
    pub fn administer(&self, actor: impl Into<String>) -> Administration<'_> {
        Administration::new(self, actor.into())
    }

    /// All accounts, by name.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn list(&self) -> Result<Vec<Account>, AccountsError> {
        select_accounts(&self.connection(), "ORDER BY account.name", [])
    }

    /// One account.
    ///
    /// # Errors
    /// If there is none of that name, or the database can't be read.
    pub fn account(&self, name: &AccountName) -> Result<Account, AccountsError> {
        select_accounts(
            &self.connection(),
            "WHERE account.name = ?1",
            [name.as_str()],
        )?
        .pop()
        .ok_or_else(|| AccountsError::NoSuchAccount { name: name.clone() })
    }

    /// A number that changes when another connection has changed the database.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn data_version(&self) -> Result<i64, AccountsError> {
        let connection = self.connection();
        Ok(connection.query_row("PRAGMA data_version", [], |row| row.get(0))?)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic within a transaction rolled it back: the connection is good.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As on a file system that is mounted read-only.
    #[cfg(test)]
    pub(crate) fn forbid_writes(&self, forbid: bool) {
        self.connection()
            .pragma_update(None, "query_only", forbid)
            .expect("a pragma that SQLite knows");
    }

    /// Runs `work` in a transaction that no other process writes beside. Synced when this returns.
    fn transaction<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, AccountsError>,
    ) -> Result<T, AccountsError> {
        let begin = Instant::now();
        let mut connection = self.connection();
        // While another process holds the database, those who wait here must not wait one after the other.
        if begin.elapsed() >= BUSY_TIMEOUT {
            return Err(AccountsError::Locked);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::refuse_newer(&transaction)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

fn select_accounts(
    connection: &Connection,
    condition: &'static str,
    parameters: impl Params,
) -> Result<Vec<Account>, AccountsError> {
    let mut accounts = connection
        .prepare_cached(&format!("{SELECT_ACCOUNT} {condition}"))?
        .query_map(parameters, |row| Ok(account(row)))?
        .map(|row| row.map_err(AccountsError::from).flatten())
        .collect::<Result<Vec<_>, _>>()?;
    for account in &mut accounts {
        account.keys = keys::of_account(connection, account.uid)?;
        account.restrictions.sources = restrictions::sources(connection, account.uid)?;
    }
    Ok(accounts)
}

const SELECT_ACCOUNT: &str = "
    SELECT account.id, account.name, account.kind, account.owner, account.disabled, account.epoch, account.created,
           account.policy, account.policy_reason, account.policy_approver, account.policy_expires,
           account.expires, account.idle_days, account.hours, account.last_login, account.active_since,
           account.prompts, account.appended_code, account.mfa_window, account.window_era,
           password.failures AS password_failures, password.disabled AS password_disabled,
           totp.failures AS totp_failures, totp.disabled AS totp_disabled, totp.lost AS totp_lost,
           (SELECT count(*) FROM recovery_code WHERE account = account.id AND used IS NULL) AS recovery_codes
    FROM account
    LEFT JOIN password ON password.account = account.id
    LEFT JOIN totp ON totp.account = account.id";

fn account(row: &Row<'_>) -> Result<Account, AccountsError> {
    Ok(Account {
        uid: UserId(row.get("id")?),
        name: row.get("name")?,
        kind: kind_from(&row.get::<_, String>("kind")?)?,
        owner: row.get("owner")?,
        disabled: row.get("disabled")?,
        epoch: row.get("epoch")?,
        policy: policy(row)?,
        created: row.get("created")?,
        password: factor_state(row.get("password_failures")?, row.get("password_disabled")?),
        totp: totp_state(row)?,
        recovery_codes: row.get("recovery_codes")?,
        restrictions: restrictions::restrictions(row)?,
        usage: restrictions::usage(row)?,
        login: login_options::read(row)?,
        keys: Vec::new(),
    })
}

fn totp_state(row: &Row<'_>) -> rusqlite::Result<FactorState> {
    let state = factor_state(row.get("totp_failures")?, row.get("totp_disabled")?);
    let is_lost = row.get::<_, Option<String>>("totp_lost")?.is_some();
    Ok(if is_lost && matches!(state, FactorState::Usable { .. }) {
        FactorState::Lost
    } else {
        state
    })
}

fn factor_state(failures: Option<u32>, disabled: Option<bool>) -> FactorState {
    match (failures, disabled) {
        (Some(failures), Some(false)) => FactorState::Usable { failures },
        (_, Some(true)) => FactorState::Locked,
        (_, None) | (None, Some(false)) => FactorState::Absent,
    }
}

fn policy(row: &Row<'_>) -> Result<FactorPolicy, AccountsError> {
    let name: String = row.get("policy")?;
    match name.as_str() {
        "two-class" => Ok(FactorPolicy::TwoClass),
        "possession-pair" => {
            let expires: String = row.get("policy_expires")?;
            Ok(FactorPolicy::PossessionPair(Exception {
                reason: row.get("policy_reason")?,
                approver: row.get("policy_approver")?,
                expires: expires
                    .parse::<NaiveDate>()
                    .map_err(|_| damaged("policy_expires", &expires))?,
            }))
        }
        _ => Err(damaged("policy", &name)),
    }
}

/// The word on the command line and in the database.
pub fn kind_name(kind: AccountKind) -> &'static str {
    match kind {
        AccountKind::Human => "human",
        AccountKind::Machine => "machine",
        AccountKind::BreakGlass => "break-glass",
        AccountKind::Admin => "admin",
    }
}

fn kind_from(name: &str) -> Result<AccountKind, AccountsError> {
    match name {
        "human" => Ok(AccountKind::Human),
        "machine" => Ok(AccountKind::Machine),
        "break-glass" => Ok(AccountKind::BreakGlass),
        "admin" => Ok(AccountKind::Admin),
        _ => Err(damaged("kind", name)),
    }
}

fn damaged(column: &str, value: &str) -> AccountsError {
    AccountsError::Damaged {
        what: format!("{column} is {value:?}"),
    }
}

fn uid_of(transaction: &Transaction<'_>, name: &AccountName) -> Result<UserId, AccountsError> {
    transaction
        .query_row(
            "SELECT id FROM account WHERE name = ?1",
            [name.as_str()],
            |row| row.get(0),
        )
        .optional()?
        .map(UserId)
        .ok_or_else(|| AccountsError::NoSuchAccount { name: name.clone() })
}

/// Makes the file and its directory so that SQLite never makes them with the umask's mode, and refuses exposed ones.
pub(crate) fn prepare_file(path: &Path) -> Result<(), AccountsError> {
    let create_error = |source| AccountsError::Create {
        path: path.to_owned(),
        source,
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(create_error)?;
    let about_directory = fs::metadata(directory).map_err(create_error)?;
    if about_directory.mode() & 0o022 != 0 {
        return Err(AccountsError::DirectoryExposed {
            path: directory.to_owned(),
            mode: about_directory.mode() & 0o7777,
        });
    }
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(file) if rustix::process::geteuid().is_root() => {
            // An administrator may make what the unprivileged daemon will open.
            fchown(
                &file,
                Some(about_directory.uid()),
                Some(about_directory.gid()),
            )
            .map_err(create_error)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(create_error)?.mode() & 0o7777;
            if mode & 0o077 == 0 {
                Ok(())
            } else {
                Err(AccountsError::Exposed {
                    path: path.to_owned(),
                    mode,
                })
            }
        }
        Err(error) => Err(create_error(error)),
    }
}

#[cfg(test)]
mod tests;
