//! Break-glass accounts: sealed, but for openings that two custodians made, with a reason and an end.
//!
//! An opening holds once its record is durable in the journal: the daemon deletes the change's note then, and nobody gets in
//! before. Each opening has to be reviewed before the account can be opened again.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde_json::{Value, json};

use super::{AccountName, Accounts, AccountsError, Administration, administration, audit, damaged};
use crate::auth::{break_glass::Custodian, flow::UserId};

/// The longest that an account may be open.
pub const OPEN_MAX: TimeDelta = TimeDelta::hours(24);
/// The kind as the database writes it.
const KIND: &str = "break-glass";

/// Number of an opening; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpeningId(pub i64);

/// A change whose record has to be durable before what it changes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoteId(pub(super) i64);

/// Why a break-glass account stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakGlassError {
    #[error("account {name} is not of the kind break-glass")]
    OtherKind { name: AccountName },
    #[error("account {name} is disabled; `account enable` it first")]
    Disabled { name: AccountName },
    #[error("account {name} is open already, until {until}")]
    Open { name: AccountName, until: String },
    #[error(
        "the last opening of account {name} was not reviewed; `break-glass review {name}` it first"
    )]
    Unreviewed { name: AccountName },
    #[error("account {name} is not open")]
    Sealed { name: AccountName },
    #[error("account {name} has no opening to review")]
    NothingToReview { name: AccountName },
    #[error("the end has to be later than now and no later than {latest}")]
    End { latest: String },
    #[error("{custodian} can't be both custodians; two people are needed")]
    OneCustodian { custodian: String },
    #[error("account {name} is of the kind break-glass: it always needs two classes of factors")]
    TwoClasses { name: AccountName },
    #[error("{reviewer} was a custodian of the opening; someone else has to review it")]
    OwnReview { reviewer: String },
}

/// One opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub id: OpeningId,
    pub account: UserId,
    pub name: String,
    pub reason: String,
    pub custodians: [String; 2],
    pub opened: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// False while its record is not durable: nobody gets in.
    pub on_record: bool,
    /// When and how it ended.
    pub ended: Option<(DateTime<Utc>, String)>,
    /// Who reviewed it, and what was found.
    pub review: Option<(String, String)>,
}

/// Where a break-glass account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    Sealed,
    /// An opening waits for its record.
    Opening,
    Open,
    /// Sealed, and can't be opened before the last opening is reviewed.
    Unreviewed,
}

impl Seal {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Unreviewed => "unreviewed",
        }
    }
}

impl Opening {
    /// True if logins are admitted at `now`.
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        self.on_record && self.ended.is_none() && self.opened <= now && now < self.until
    }

    /// As records show it.
    pub fn describe(&self) -> Value {
        json!({
            "opening": self.id.0,
            "reason": self.reason,
            "custodians": self.custodians,
            "opened": timestamp(self.opened),
            "until": timestamp(self.until),
        })
    }
}

/// What an administrator asks for.
#[derive(Debug, Clone)]
pub struct OpeningRequest<'a> {
    pub reason: &'a str,
    /// Each has shown two factors.
    pub custodians: [&'a Custodian; 2],
    pub until: DateTime<Utc>,
    /// No more than [`OPEN_MAX`].
    pub longest: TimeDelta,
}

impl Administration<'_> {
    /// Opens a sealed account. It holds once [`Accounts::is_on_record`] says so of the note.
    ///
    /// # Errors
    /// If the account is of another kind, disabled, open or not reviewed, if the end is too late or past, or if the
    /// custodians are not two.
    pub fn open_break_glass(
        &self,
        name: &AccountName,
        request: &OpeningRequest<'_>,
        now: DateTime<Utc>,
    ) -> Result<(OpeningId, NoteId), AccountsError> {
        let [one, other] = request.custodians;
        if one.uid() == other.uid() {
            let custodian = one.name().to_owned();
            return Err(BreakGlassError::OneCustodian { custodian }.into());
        }
        let latest = now + request.longest.min(OPEN_MAX);
        if request.until <= now || request.until > latest {
            let latest = timestamp(latest);
            return Err(BreakGlassError::End { latest }.into());
        }
        self.accounts.transaction(|transaction| {
            let uid = break_glass_account(transaction, name)?;
            let is_disabled: bool = transaction.query_row(
                "SELECT disabled FROM account WHERE id = ?1",
                [uid.0],
                |row| row.get(0),
            )?;
            if is_disabled {
                return Err(BreakGlassError::Disabled { name: name.clone() }.into());
            }
            if let Some(last) = latest_opening(transaction, uid)?.filter(|last| last.review.is_none()) {
                let name = name.clone();
                return Err(if last.ended.is_none() && now < last.until {
                    let until = timestamp(last.until);
                    BreakGlassError::Open { name, until }
                } else {
                    BreakGlassError::Unreviewed { name }
                }
                .into());
            }
            transaction.execute(
                "INSERT INTO break_glass (account, reason, custodian, second_custodian, opened, until, note)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
                (
                    uid.0,
                    request.reason,
                    one.uid().0,
                    other.uid().0,
                    now.timestamp(),
                    request.until.timestamp(),
                ),
            )?;
            let opening = OpeningId(transaction.last_insert_rowid());
            let details = json!({
                "opening": opening.0,
                "reason": request.reason,
                "custodians": [one.name(), other.name()],
                "until": timestamp(request.until),
            });
            self.note(transaction, "break-glass-open", uid, name, &details)?;
            let note = transaction.last_insert_rowid();
            transaction.execute(
                "UPDATE break_glass SET note = ?2 WHERE id = ?1",
                (opening.0, note),
            )?;
            Ok((opening, NoteId(note)))
        })
    }

    /// Takes back an opening that could not be put on record.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn withdraw_break_glass(
        &self,
        name: &AccountName,
        opening: OpeningId,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = break_glass_account(transaction, name)?;
            transaction.execute("DELETE FROM break_glass WHERE id = ?1", [opening.0])?;
            administration::end_sessions(transaction, uid)?;
            let details = json!({ "opening": opening.0 });
            self.note(transaction, "break-glass-withdraw", uid, name, &details)
        })
    }

    /// Seals an account before its end, and ends its sessions.
    ///
    /// # Errors
    /// If it is not open.
    pub fn close_break_glass(
        &self,
        name: &AccountName,
        now: DateTime<Utc>,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = break_glass_account(transaction, name)?;
            let open = latest_opening(transaction, uid)?.filter(|last| last.ended.is_none());
            let Some(open) = open else {
                return Err(BreakGlassError::Sealed { name: name.clone() }.into());
            };
            end(transaction, &open, now, "closed")?;
            self.note(
                transaction,
                "break-glass-close",
                uid,
                name,
                &open.describe(),
            )
        })
    }

    /// Notes what a look at the records of the last opening found.
    ///
    /// # Errors
    /// If the account is open, has no opening without a review, or the reviewer was one of its custodians.
    pub fn review_break_glass(
        &self,
        name: &AccountName,
        reviewer: &str,
        finding: &str,
        now: DateTime<Utc>,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = break_glass_account(transaction, name)?;
            let last = latest_opening(transaction, uid)?.filter(|last| last.review.is_none());
            let Some(last) = last else {
                return Err(BreakGlassError::NothingToReview { name: name.clone() }.into());
            };
            if last.ended.is_none() {
                if now < last.until {
                    let (name, until) = (name.clone(), timestamp(last.until));
                    return Err(BreakGlassError::Open { name, until }.into());
                }
                end(transaction, &last, last.until, "expired")?;
            }
            if last
                .custodians
                .iter()
                .any(|custodian| custodian.eq_ignore_ascii_case(reviewer.trim()))
            {
                let reviewer = reviewer.to_owned();
                return Err(BreakGlassError::OwnReview { reviewer }.into());
            }
            transaction.execute(
                "UPDATE break_glass SET reviewer = ?2, finding = ?3, reviewed = ?4 WHERE id = ?1",
                (last.id.0, reviewer, finding, now.timestamp()),
            )?;
            let mut details = last.describe();
            if let Some(details) = details.as_object_mut() {
                details.insert("reviewer".to_owned(), reviewer.into());
                details.insert("finding".to_owned(), finding.into());
            }
            self.note(transaction, "break-glass-review", uid, name, &details)
        })
    }

    /// Puts on record that someone was not accepted as a custodian.
    ///
    /// # Errors
    /// If there is no such break-glass account.
    pub fn refuse_custodian(
        &self,
        name: &AccountName,
        custodian: &AccountName,
        reason: &'static str,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = break_glass_account(transaction, name)?;
            let details = json!({ "custodian": custodian.as_str(), "refused": reason });
            self.note(transaction, "break-glass-refuse", uid, name, &details)
        })
    }
}

impl Accounts {
    /// True once the change's record is durable in the journal.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn is_on_record(&self, note: NoteId) -> Result<bool, AccountsError> {
        let connection = self.connection();
        let waits = connection
            .prepare_cached("SELECT 1 FROM audit_pending WHERE id = ?1")?
            .exists([note.0])?;
        Ok(!waits)
    }

    /// The opening under which a break-glass account may log in at `now`.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn opening(
        &self,
        uid: UserId,
        now: DateTime<Utc>,
    ) -> Result<Option<Opening>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!("{SELECT} {OF_ACCOUNT}"))?;
        let last = statement
            .query_row([uid.0], |row| Ok(opening(row)))
            .optional()?
            .transpose()?;
        Ok(last.filter(|last| last.holds(now)))
    }

    /// Every break-glass account by name, with its last opening.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn break_glass(
        &self,
        now: DateTime<Utc>,
    ) -> Result<Vec<(String, Seal, Option<Opening>)>, AccountsError> {
        let connection = self.connection();
        let accounts: Vec<(i64, String)> = connection
            .prepare_cached("SELECT id, name FROM account WHERE kind = ?1 ORDER BY name")?
            .query_map([KIND], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut statement = connection.prepare_cached(&format!("{SELECT} {OF_ACCOUNT}"))?;
        accounts
            .into_iter()
            .map(|(uid, name)| {
                let last = statement
                    .query_row([uid], |row| Ok(opening(row)))
                    .optional()?
                    .transpose()?;
                Ok((name, seal(last.as_ref(), now), last))
            })
            .collect()
    }

    /// Seals the accounts whose time is over, and ends their sessions.
    ///
    /// # Errors
    /// If the database can't be read or written.
    pub fn seal_expired(&self, now: DateTime<Utc>) -> Result<Vec<Opening>, AccountsError> {
        let is_over = |connection: &Connection| {
            connection
                .prepare_cached("SELECT 1 FROM break_glass WHERE ended IS NULL AND until <= ?1")?
                .exists([now.timestamp()])
        };
        // Most of the time there is nothing to write.
        if !is_over(&self.connection())? {
            return Ok(Vec::new());
        }
        self.transaction(|transaction| {
            let over = transaction
                .prepare_cached(&format!("{SELECT} WHERE ended IS NULL AND until <= ?1"))?
                .query_map([now.timestamp()], |row| Ok(opening(row)))?
                .map(|row| row.map_err(AccountsError::from).flatten())
                .collect::<Result<Vec<_>, _>>()?;
            for opening in &over {
                end(transaction, opening, opening.until, "expired")?;
                let name: AccountName = opening.name.parse()?;
                audit::note(
                    transaction,
                    &now.to_rfc3339_opts(SecondsFormat::Micros, true),
                    "gateway",
                    "break-glass-expire",
                    opening.account,
                    &name,
                    &opening.describe(),
                )?;
            }
            Ok(over)
        })
    }
}

fn seal(last: Option<&Opening>, now: DateTime<Utc>) -> Seal {
    match last {
        None => Seal::Sealed,
        Some(last) if last.holds(now) => Seal::Open,
        Some(last) if last.ended.is_none() && now < last.until => Seal::Opening,
        Some(last) if last.review.is_none() => Seal::Unreviewed,
        Some(_) => Seal::Sealed,
    }
}

/// From when until when an account is open.
type Window = (DateTime<Utc>, DateTime<Utc>);

/// From when until when the account is open, if its opening is on record and has not been ended.
pub(super) fn window(
    connection: &Connection,
    uid: UserId,
) -> Result<Option<Window>, AccountsError> {
    let last = connection
        .prepare_cached(&format!("{SELECT} {OF_ACCOUNT}"))?
        .query_row([uid.0], |row| Ok(opening(row)))
        .optional()?
        .transpose()?;
    let open = last.filter(|last| last.on_record && last.ended.is_none());
    Ok(open.map(|open| (open.opened, open.until)))
}

const SELECT: &str = "
    SELECT break_glass.id, account, account.name, reason, one.name AS custodian, other.name AS second_custodian,
           opened, until, ended, ended_how, reviewer, finding,
           NOT EXISTS (SELECT 1 FROM audit_pending WHERE audit_pending.id = break_glass.note) AS on_record
    FROM break_glass
    JOIN account ON account.id = break_glass.account
    JOIN account AS one ON one.id = break_glass.custodian
    JOIN account AS other ON other.id = break_glass.second_custodian";
const OF_ACCOUNT: &str = "WHERE account = ?1 ORDER BY break_glass.id DESC LIMIT 1";

fn latest_opening(
    transaction: &Transaction<'_>,
    uid: UserId,
) -> Result<Option<Opening>, AccountsError> {
    transaction
        .prepare_cached(&format!("{SELECT} {OF_ACCOUNT}"))?
        .query_row([uid.0], |row| Ok(opening(row)))
        .optional()?
        .transpose()
}

fn opening(row: &Row<'_>) -> Result<Opening, AccountsError> {
    let time = |column: &str| -> Result<Option<DateTime<Utc>>, AccountsError> {
        let seconds: Option<i64> = row.get(column)?;
        seconds
            .map(|seconds| {
                DateTime::from_timestamp(seconds, 0)
                    .ok_or_else(|| damaged(column, &seconds.to_string()))
            })
            .transpose()
    };
    let needed = |column: &str| time(column)?.ok_or_else(|| damaged(column, "NULL"));
    let ended_how: Option<String> = row.get("ended_how")?;
    let reviewer: Option<String> = row.get("reviewer")?;
    let finding: Option<String> = row.get("finding")?;
    Ok(Opening {
        id: OpeningId(row.get("id")?),
        account: UserId(row.get("account")?),
        name: row.get("name")?,
        reason: row.get("reason")?,
        custodians: [row.get("custodian")?, row.get("second_custodian")?],
        opened: needed("opened")?,
        until: needed("until")?,
        on_record: row.get("on_record")?,
        ended: time("ended")?.zip(ended_how),
        review: reviewer.zip(finding),
    })
}

fn end(
    transaction: &Transaction<'_>,
    opening: &Opening,
    at: DateTime<Utc>,
    how: &'static str,
) -> Result<(), AccountsError> {
    transaction.execute(
        "UPDATE break_glass SET ended = ?2, ended_how = ?3 WHERE id = ?1",
        (opening.id.0, at.timestamp(), how),
    )?;
    administration::end_sessions(transaction, opening.account)
}

fn break_glass_account(
    transaction: &Transaction<'_>,
    name: &AccountName,
) -> Result<UserId, AccountsError> {
    let uid = super::uid_of(transaction, name)?;
    if !is_break_glass(transaction, uid)? {
        let name = name.clone();
        return Err(BreakGlassError::OtherKind { name }.into());
    }
    Ok(uid)
}

pub(super) fn is_break_glass(
    transaction: &Transaction<'_>,
    uid: UserId,
) -> Result<bool, AccountsError> {
    let kind: String =
        transaction.query_row("SELECT kind FROM account WHERE id = ?1", [uid.0], |row| {
            row.get(0)
        })?;
    Ok(kind == KIND)
}

fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
