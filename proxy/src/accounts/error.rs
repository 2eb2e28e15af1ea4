//! Why accounts can't be used as asked.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;

use super::{AccountName, BUSY_TIMEOUT, NameError, break_glass, enrolment, machine};
use crate::policy::PermissionError;

/// Why the account database can't be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountsError {
    #[error("make the account database {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "the account database {} has mode {mode:o}: it holds secrets; `chmod 600` it",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "the directory {} has mode {mode:o}: others could replace the account database in it; `chmod 700` it",
        path.display()
    )]
    DirectoryExposed { path: PathBuf, mode: u32 },
    #[error(
        "the account database has schema {found}, this program knows up to {known}; run the newer program"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error(
        "another process has held the account database locked for {} s; end what holds it, such as a `sqlite3` in a transaction",
        BUSY_TIMEOUT.as_secs()
    )]
    Locked,
    #[error(
        "the account database can't be written; it, its directory and the files beside it have to belong to the daemon's user, \
         on a file system that is mounted for writing"
    )]
    ReadOnly,
    #[error(
        "the account database is no SQLite database or damaged; restore a backup and run `account after-restore`"
    )]
    Corrupt(#[source] rusqlite::Error),
    #[error("the disk of the account database is full")]
    DiskFull,
    #[error("account database")]
    Database(#[source] rusqlite::Error),
    #[error("the account database is damaged: {what}")]
    Damaged { what: String },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no account {name}; `account list` shows all")]
    NoSuchAccount { name: AccountName },
    #[error("account {name} exists already")]
    AccountExists { name: AccountName },
    #[error("key {fingerprint} belongs to account {owner}; a key can't be shared")]
    KeyTaken { fingerprint: String, owner: String },
    #[error(
        "account {name} has key {fingerprint} already, with another source or end; `account key` changes them"
    )]
    KeyPresent {
        name: AccountName,
        fingerprint: String,
    },
    #[error("account {name} has no key {fingerprint}; `account list --json` shows its keys")]
    NoSuchKey {
        name: AccountName,
        fingerprint: String,
    },
    #[error("account {name} has no authenticator; enrol one with `account enroll-totp {name}`")]
    NotEnrolled { name: AccountName },
    #[error(
        "the authenticator of account {name} is locked or lost; enrol another with `account enroll-totp {name}`"
    )]
    EnrolAgain { name: AccountName },
    #[error(
        "these are no two codes in a row of account {name}'s authenticator that are unused and within ten minutes; \
         wait for the next two and give them in their order"
    )]
    NotConsecutive { name: AccountName },
    #[error("account {name} has no mount at {at}")]
    NoSuchMount { name: AccountName, at: String },
    #[error(
        "groups {first} and {second} both have a mount at {at} for account number {account}; give the account its own mount there, or take it out of one"
    )]
    GroupsConflict {
        account: i64,
        at: String,
        first: String,
        second: String,
    },
    #[error("there is no group {name}; `group list` shows all")]
    NoSuchGroup { name: AccountName },
    #[error("group {name} exists already")]
    GroupExists { name: AccountName },
    #[error("group {name} has no mount at {at}")]
    NoSuchGroupMount { name: AccountName, at: String },
    #[error("account {account} is not in group {name}")]
    NotAMember {
        name: AccountName,
        account: AccountName,
    },
    #[error(transparent)]
    Permission(#[from] PermissionError),
    #[error(transparent)]
    BreakGlass(#[from] break_glass::BreakGlassError),
    #[error(transparent)]
    Machine(#[from] machine::MachineError),
    #[error(transparent)]
    Issue(#[from] enrolment::IssueError),
    #[error("the system has no randomness")]
    NoRandomness,
}

impl AccountsError {
    /// The code in the record of a login that was refused for it.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others are about changes, which a login does not make"
    )]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Locked => "accounts_locked",
            Self::ReadOnly => "accounts_read_only",
            Self::Corrupt(_) | Self::Damaged { .. } => "accounts_damaged",
            Self::NewerSchema { .. } => "accounts_newer",
            Self::DiskFull => "accounts_disk_full",
            _ => "accounts_unavailable",
        }
    }
}

impl From<rusqlite::Error> for AccountsError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::ReadOnly
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error),
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Database(error),
        }
    }
}
