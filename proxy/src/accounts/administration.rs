//! What an administrator changes. Each change and its note for the journal are one transaction.

use chrono::Utc;
use portcullis_journal::AccountKind;
use rusqlite::{ErrorCode, Transaction};
use serde_json::{Value, json};

use super::{
    AccountName, Accounts, AccountsError, audit,
    break_glass::{self, BreakGlassError},
    kind_name, limits,
    mounts::{self, Holder},
    uid_of,
};
use crate::{
    allowance::AccountLimits,
    auth::flow::{FactorPolicy, UserId},
    path::VirtualPath,
    policy::Mount,
};

/// The accounts, in the hands of `actor`.
#[derive(Debug)]
pub struct Administration<'a> {
    pub(super) accounts: &'a Accounts,
    pub(super) actor: String,
}

/// Whether live sessions of the account outlast a change: they do when something is only given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sessions {
    Keep,
    End,
}

impl<'a> Administration<'a> {
    pub(super) fn new(accounts: &'a Accounts, actor: String) -> Self {
        Self { accounts, actor }
    }

    /// Makes an account without factors and mounts.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add(
        &self,
        name: &AccountName,
        kind: AccountKind,
        owner: Option<&str>,
    ) -> Result<UserId, AccountsError> {
        self.accounts.transaction(|transaction| {
            let inserted = transaction.execute(
                "INSERT INTO account (name, kind, owner, created) VALUES (?1, ?2, ?3, ?4)",
                (name.as_str(), kind_name(kind), owner, timestamp()),
            );
            match inserted {
                Ok(_) => {}
                Err(error) if is_unique_violation(&error) => {
                    return Err(AccountsError::AccountExists { name: name.clone() });
                }
                Err(error) => return Err(error.into()),
            }
            let uid = UserId(transaction.last_insert_rowid());
            let details = json!({ "kind": kind_name(kind), "owner": owner });
            self.note(transaction, "add", uid, name, &details)?;
            Ok(uid)
        })
    }

    /// Ends the account's sessions within seconds and admits no new one.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn disable(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.change(name, "disable", Sessions::End, |transaction, uid| {
            transaction.execute("UPDATE account SET disabled = 1 WHERE id = ?1", [uid.0])?;
            Ok(json!({}))
        })
    }

    /// Admits logins again, also those of an account that was idle for too long.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn enable(&self, name: &AccountName) -> Result<(), AccountsError> {
        self.change(name, "enable", Sessions::Keep, |transaction, uid| {
            transaction.execute(
                "UPDATE account SET disabled = 0, active_since = unixepoch() WHERE id = ?1",
                [uid.0],
            )?;
            Ok(json!({}))
        })
    }

    /// Adds a mount, or replaces the one at the same place.
    ///
    /// # Errors
    /// If the account does not exist.
    pub fn mount(&self, name: &AccountName, mount: &Mount) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let replaced = mounts::store(transaction, Holder::Account(uid.0), mount)?;
            if replaced {
                end_sessions(transaction, uid)?;
            }
            self.note(transaction, "mount", uid, name, &mounts::describe(mount))
        })
    }

    /// # Errors
    /// If there is no mount at that place.
    pub fn unmount(&self, name: &AccountName, at: &VirtualPath) -> Result<(), AccountsError> {
        self.change(name, "unmount", Sessions::End, |transaction, uid| {
            if !mounts::remove(transaction, Holder::Account(uid.0), at)? {
                return Err(AccountsError::NoSuchMount {
                    name: name.clone(),
                    at: String::from_utf8_lossy(at.as_bytes()).into_owned(),
                });
            }
            // Refuses to leave it with two groups' mounts there.
            mounts::of_account(transaction, uid)?;
            Ok(json!({ "at": portcullis_journal::record::untrusted(at.as_bytes()) }))
        })
    }

    /// Gives the account other limits; `change` gets those that it has. Sessions end if one of them becomes narrower.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn limit(
        &self,
        name: &AccountName,
        change: impl FnOnce(AccountLimits) -> AccountLimits,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let before = limits::read(transaction, uid)?;
            let after = change(before);
            limits::store(transaction, uid, &after)?;
            if !after.allow_all_of(&before) {
                end_sessions(transaction, uid)?;
            }
            self.note(transaction, "limit", uid, name, &limits::describe(&after))
        })
    }

    /// # Errors
    /// If there is no such account.
    pub fn set_policy(
        &self,
        name: &AccountName,
        policy: &FactorPolicy,
    ) -> Result<(), AccountsError> {
        let (exception, sessions) = match policy {
            FactorPolicy::TwoClass => (None, Sessions::End),
            FactorPolicy::PossessionPair(exception) => (Some(exception), Sessions::Keep),
        };
        let expires = exception.map(|exception| exception.expires.to_string());
        self.change(name, "policy", sessions, |transaction, uid| {
            if exception.is_some() && break_glass::is_break_glass(transaction, uid)? {
                return Err(BreakGlassError::TwoClasses { name: name.clone() }.into());
            }
            let was_machine =
                transaction.execute("DELETE FROM machine_policy WHERE account = ?1", [uid.0])?;
            if was_machine > 0 {
                end_sessions(transaction, uid)?;
            }
            transaction.execute(
                "UPDATE account SET policy = ?2, policy_reason = ?3, policy_approver = ?4, policy_expires = ?5
                 WHERE id = ?1",
                (
                    uid.0,
                    policy.name(),
                    exception.map(|exception| exception.reason.as_str()),
                    exception.map(|exception| exception.approver.as_str()),
                    expires.as_deref(),
                ),
            )?;
            Ok(json!({
                "policy": policy.name(),
                "reason": exception.map(|exception| &exception.reason),
                "approver": exception.map(|exception| &exception.approver),
                "expires": expires.as_deref(),
            }))
        })
    }

    /// One change of one account, with its note; `work` says what the note has.
    pub(super) fn change(
        &self,
        name: &AccountName,
        action: &'static str,
        sessions: Sessions,
        work: impl FnOnce(&Transaction<'_>, UserId) -> Result<Value, AccountsError>,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            let details = work(transaction, uid)?;
            if sessions == Sessions::End {
                end_sessions(transaction, uid)?;
            }
            self.note(transaction, action, uid, name, &details)
        })
    }

    pub(super) fn note(
        &self,
        transaction: &Transaction<'_>,
        action: &'static str,
        uid: UserId,
        name: &AccountName,
        details: &Value,
    ) -> Result<(), AccountsError> {
        audit::note(
            transaction,
            &timestamp(),
            &self.actor,
            action,
            uid,
            name,
            details,
        )
    }
}

pub(super) fn end_sessions(
    transaction: &Transaction<'_>,
    uid: UserId,
) -> Result<(), AccountsError> {
    transaction
        .prepare_cached("UPDATE account SET epoch = epoch + 1 WHERE id = ?1")?
        .execute([uid.0])?;
    Ok(())
}

fn is_unique_violation(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

pub(super) fn timestamp() -> String {
    Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
