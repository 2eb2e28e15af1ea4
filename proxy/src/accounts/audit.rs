//! How account changes reach the journal.
//!
//! The daemon holds the journal's lock, so the command line can't append to it. A change writes a note into the table
//! `audit_pending` in its own transaction; the daemon appends the notes to the journal and then deletes them. A crash in
//! between repeats a record, under the same `change_id`; none is lost.

use portcullis_journal::{AccountKind, Actor, AppendError, Event, EventKind, Verdict};
use rusqlite::Transaction;
use serde_json::{Map, Value};

use super::{AccountName, Accounts, AccountsError};
use crate::{
    auth::{AuditLog, flow::UserId},
    metrics,
};

/// Number in the notes of changes that are not those of one account.
const NO_ACCOUNT: i64 = 0;

/// What the actions about break-glass accounts begin with.
const BREAK_GLASS: &str = "break-glass-";
/// The action of someone who asks the log a question.
pub(super) const READING: &str = "log-read";
/// The action of someone who signs for a period.
pub(super) const ATTESTATION: &str = "activity-review";
/// A legal hold was laid or released.
pub(super) const HOLD: &str = "legal-hold";
/// Notes moved at a time.
const BATCH: u32 = 256;

/// A change that is not in the journal yet.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingChange {
    pub id: i64,
    pub event: Event,
}

/// Why changes stay behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error(transparent)]
    Journal(#[from] AppendError),
    #[error("the task that reads the account database ended")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Accounts {
    /// The oldest changes that are not in the journal.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn pending_changes(&self) -> Result<Vec<PendingChange>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, at, actor, action, account, name, details FROM audit_pending ORDER BY id LIMIT ?1",
        )?;
        let changes = statement
            .query_map([BATCH], |row| {
                let id: i64 = row.get("id")?;
                let details: String = row.get("details")?;
                let mut body: Map<String, Value> =
                    serde_json::from_str(&details).unwrap_or_default();
                body.insert("change_id".to_owned(), id.into());
                body.insert("changed_at".to_owned(), row.get::<_, String>("at")?.into());
                let uid: i64 = row.get("account")?;
                if uid != NO_ACCOUNT {
                    body.insert("account".to_owned(), row.get::<_, String>("name")?.into());
                    body.insert("account_uid".to_owned(), uid.into());
                }
                let action: String = row.get("action")?;
                let mut event = Event::new(kind_of(&action));
                event.outcome = Some(if body.contains_key("refused") {
                    Verdict::Deny
                } else {
                    Verdict::Success
                });
                event.user = Some(Actor {
                    uid: None,
                    name: row.get("actor")?,
                    kind: Some(AccountKind::Admin),
                });
                body.insert("action".to_owned(), action.into());
                event.body = body;
                Ok(PendingChange { id, event })
            })?
            .collect::<Result<_, _>>()?;
        Ok(changes)
    }

    /// Deletes the notes up to `id`, which are in the journal.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn forget_changes(&self, id: i64) -> Result<(), AccountsError> {
        self.transaction(|transaction| {
            transaction.execute("DELETE FROM audit_pending WHERE id <= ?1", [id])?;
            Ok(())
        })
    }
}

fn kind_of(action: &str) -> EventKind {
    match action {
        READING => EventKind::LogRead,
        ATTESTATION => EventKind::AdminReview,
        HOLD => EventKind::LogHold,
        action if action.starts_with(BREAK_GLASS) => EventKind::AdminBreakGlass,
        _ => EventKind::AdminAccount,
    }
}

/// Moves all changes into the journal; returns how many.
///
/// # Errors
/// If database or journal can't be written; what was not moved stays for the next time.
pub async fn relay(accounts: &Accounts, log: &dyn AuditLog) -> Result<usize, RelayError> {
    let mut moved = 0;
    loop {
        let reader = accounts.clone();
        let changes = tokio::task::spawn_blocking(move || reader.pending_changes()).await??;
        let Some(last) = changes.last().map(|change| change.id) else {
            return Ok(moved);
        };
        moved += changes.len();
        let loud: Vec<_> = changes
            .iter()
            .filter(|change| change.event.kind == EventKind::AdminBreakGlass)
            .map(|change| change.event.body.clone())
            .collect();
        let appends: Vec<_> = changes
            .into_iter()
            .map(|change| log.append(change.event))
            .collect();
        for append in appends {
            append.await?;
        }
        for body in loud {
            let field = |name: &str| body.get(name).map(Value::to_string).unwrap_or_default();
            metrics::break_glass(
                body.get("action")
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
            );
            tracing::warn!(
                action = field("action"),
                account = field("account"),
                custodians = field("custodians"),
                reason = field("reason"),
                until = field("until"),
                "break-glass account"
            );
        }
        let writer = accounts.clone();
        tokio::task::spawn_blocking(move || writer.forget_changes(last)).await??;
    }
}

/// Of a change that is not that of one account; the details say of what.
pub(super) fn note_of_none(
    transaction: &Transaction<'_>,
    at: &str,
    actor: &str,
    action: &'static str,
    details: &Value,
) -> Result<(), AccountsError> {
    insert(transaction, at, actor, action, (NO_ACCOUNT, ""), details)
}

pub(super) fn note(
    transaction: &Transaction<'_>,
    at: &str,
    actor: &str,
    action: &'static str,
    uid: UserId,
    name: &AccountName,
    details: &Value,
) -> Result<(), AccountsError> {
    let account = (uid.0, name.as_str());
    insert(transaction, at, actor, action, account, details)
}

fn insert(
    transaction: &Transaction<'_>,
    at: &str,
    actor: &str,
    action: &'static str,
    (uid, name): (i64, &str),
    details: &Value,
) -> Result<(), AccountsError> {
    transaction
        .prepare_cached(
            "INSERT INTO audit_pending (at, actor, action, account, name, details) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((at, actor, action, uid, name, details.to_string()))?;
    Ok(())
}
