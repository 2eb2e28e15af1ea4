//! Authenticators and recovery codes: spent at logins, enrolled and set right by administrators.
//!
//! What is spent is compared and set in one transaction that is synced before it returns: of parallel logins with one code
//! one succeeds, and after a crash the code stays spent.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, Row, Transaction, named_params};
use serde_json::json;

use super::{
    AccountName, Accounts, AccountsError, Administration,
    administration::{Sessions, timestamp},
    audit, damaged,
    login::count_failure,
};
use crate::auth::{
    Secret,
    flow::UserId,
    lockout::{self, Lockout},
    totp::{self, Authenticator, Code, Digits, Drift},
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
    /// Right, but it was spent before; of one-time codes, its step or a later one was. No guess, so it does not count.
    Replayed,
    /// Not looked at: earlier failures.
    Delayed,
    /// Not looked at: too many failures.
    Disabled,
    /// Not looked at: a recovery code was used in the authenticator's place.
    Lost,
    NotEnrolled,
}

/// A recovery code as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryHash {
    /// [`crate::auth::recovery::RecoveryCode::number`]
    pub number: u8,
    /// Argon2id, as a PHC string.
    pub phc: String,
}

impl Accounts {
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
            let Some(enrolment) = enrolment(transaction, uid)? else {
                return Ok(CodeVerdict::NotEnrolled);
            };
            let present = step_of(now);
            let step = enrolment
                .authenticator
                .matching_step(code, present, enrolment.drift);
            if let Some(verdict) = enrolment.not_looked_at(now) {
                return Ok(verdict);
            }
            if enrolment.lost {
                return Ok(CodeVerdict::Lost);
            }
            let Some(step) = step else {
                return enrolment.count(transaction, uid, now);
            };
            let drift = enrolment.drift.after(step, present);
            let spent = transaction.execute(
                "UPDATE totp SET last_step = :step, drift = :drift, lean = :lean, failures = 0, not_before = 0
                 WHERE account = :account AND last_step < :step",
                named_params! {
                    ":step": stored(step),
                    ":drift": drift.steps(),
                    ":lean": drift.lean(),
                    ":account": uid.0,
                },
            )?;
            Ok(if spent == 1 {
                CodeVerdict::Right
            } else {
                CodeVerdict::Replayed
            })
        })
    }

    /// The hash of a recovery code, used or not.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn recovery_code(&self, uid: UserId, number: u8) -> Result<Option<String>, AccountsError> {
        let connection = self.connection();
        Ok(connection
            .prepare_cached("SELECT phc FROM recovery_code WHERE account = ?1 AND number = ?2")?
            .query_row((uid.0, number), |row| row.get(0))
            .optional()?)
    }

    /// Spends a recovery code, or counts a wrong one. `right` is the hash from [`Accounts::recovery_code`] if it was the
    /// code's. The account's authenticator is lost from then on. On disk when this returns, with a note for the journal.
    ///
    /// # Errors
    /// If the database can't be read or written; the code then counts as not shown.
    pub fn redeem_recovery_code(
        &self,
        uid: UserId,
        number: u8,
        right: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<CodeVerdict, AccountsError> {
        self.transaction(|transaction| {
            let Some(enrolment) = enrolment(transaction, uid)? else {
                return Ok(CodeVerdict::NotEnrolled);
            };
            if let Some(verdict) = enrolment.not_looked_at(now) {
                return Ok(verdict);
            }
            let Some(phc) = right else {
                return enrolment.count(transaction, uid, now);
            };
            let at = timestamp();
            let spent = transaction.execute(
                "UPDATE recovery_code SET used = :at
                 WHERE account = :account AND number = :number AND phc = :phc AND used IS NULL",
                named_params! { ":at": at, ":account": uid.0, ":number": number, ":phc": phc },
            )?;
            if spent == 0 {
                return Ok(CodeVerdict::Replayed);
            }
            transaction.execute(
                "UPDATE totp SET lost = coalesce(lost, :at), failures = 0, not_before = 0 WHERE account = :account",
                named_params! { ":at": at, ":account": uid.0 },
            )?;
            let name: String =
                transaction.query_row("SELECT name FROM account WHERE id = ?1", [uid.0], |row| {
                    row.get(0)
                })?;
            let details = json!({ "number": number, "left": codes_left(transaction, uid)? });
            let actor = format!("login of {name}");
            audit::note(
                transaction,
                &at,
                &actor,
                "use-recovery-code",
                uid,
                &name.parse()?,
                &details,
            )?;
            Ok(CodeVerdict::Right)
        })
    }

    /// How many recovery codes the account has left.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn recovery_codes_left(&self, uid: UserId) -> Result<u32, AccountsError> {
        let connection = self.connection();
        Ok(connection
            .prepare_cached(CODES_LEFT)?
            .query_row([uid.0], |row| row.get(0))?)
    }
}

impl Administration<'_> {
    /// Enrols a new authenticator in place of any other, and voids the recovery codes that stood for that.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn enroll_totp(
        &self,
        name: &AccountName,
        authenticator: &Authenticator,
    ) -> Result<(), AccountsError> {
        self.change(name, "enroll-totp", Sessions::End, |transaction, uid| {
            let (algorithm, digits) = (authenticator.algorithm, authenticator.digits);
            transaction.execute("DELETE FROM recovery_code WHERE account = ?1", [uid.0])?;
            transaction.execute(
                "INSERT OR REPLACE INTO totp (account, secret, algorithm, digits, enrolled)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                (
                    uid.0,
                    authenticator.secret.expose(),
                    algorithm.name(),
                    digits.count(),
                    timestamp(),
                ),
            )?;
            Ok(json!({ "algorithm": algorithm.name(), "digits": digits.count() }))
        })
    }

    /// Learns the drift of an authenticator from two codes in a row, which are spent, and forgets failures.
    ///
    /// # Errors
    /// If there is no authenticator, it is locked or lost, or these are no two codes in a row that are unspent and
    /// within ten minutes of `now`.
    pub fn resync_totp(
        &self,
        name: &AccountName,
        codes: [Option<Code>; 2],
        now: DateTime<Utc>,
    ) -> Result<Drift, AccountsError> {
        let mut learned = Drift::default();
        self.change(name, "resync-totp", Sessions::Keep, |transaction, uid| {
            let enrolment = enrolment(transaction, uid)?
                .ok_or_else(|| AccountsError::NotEnrolled { name: name.clone() })?;
            if enrolment.disabled || enrolment.lost {
                return Err(AccountsError::EnrolAgain { name: name.clone() });
            }
            let [first, second] = codes;
            let present = step_of(now);
            let step = enrolment
                .authenticator
                .consecutive_steps(first, second, present)
                .filter(|second| stored(*second) - 1 > enrolment.last_step)
                .ok_or_else(|| AccountsError::NotConsecutive { name: name.clone() })?;
            learned = Drift::between(step, present);
            transaction.execute(
                "UPDATE totp SET last_step = :step, drift = :drift, lean = 0, failures = 0, not_before = 0
                 WHERE account = :account",
                named_params! {
                    ":step": stored(step),
                    ":drift": learned.steps(),
                    ":account": uid.0,
                },
            )?;
            Ok(json!({ "drift_seconds": learned.seconds() }))
        })?;
        Ok(learned)
    }

    /// Puts these recovery codes in the place of any others.
    ///
    /// # Errors
    /// If the account has no authenticator that they could stand for.
    pub fn set_recovery_codes(
        &self,
        name: &AccountName,
        codes: &[RecoveryHash],
    ) -> Result<(), AccountsError> {
        self.change(
            name,
            "set-recovery-codes",
            Sessions::Keep,
            |transaction, uid| {
                if enrolment(transaction, uid)?.is_none() {
                    return Err(AccountsError::NotEnrolled { name: name.clone() });
                }
                transaction.execute("DELETE FROM recovery_code WHERE account = ?1", [uid.0])?;
                for code in codes {
                    transaction.execute(
                        "INSERT INTO recovery_code (account, number, phc) VALUES (?1, ?2, ?3)",
                        (uid.0, code.number, &code.phc),
                    )?;
                }
                Ok(json!({ "codes": codes.len() }))
            },
        )
    }

    /// Makes a database that was restored from a backup safe: no code that could be valid at `now` is accepted, whether
    /// or not it was used after the backup; recovery codes, of which nobody knows, are void; sessions end. Returns the
    /// accounts that had recovery codes left.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn after_restore(&self, now: DateTime<Utc>) -> Result<Vec<AccountName>, AccountsError> {
        self.accounts.transaction(|transaction| {
            // The latest code that is accepted is one step ahead of the authenticator's.
            transaction.execute(
                "UPDATE totp SET last_step = max(last_step, ?1 + drift)",
                [stored(step_of(now).saturating_add(totp::SKEW_STEPS))],
            )?;
            let accounts: Vec<(i64, String)> = transaction
                .prepare("SELECT id, name FROM account ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut without = Vec::new();
            for (uid, name) in accounts {
                let (uid, name) = (UserId(uid), name.parse::<AccountName>()?);
                let void = codes_left(transaction, uid)?;
                self.note(
                    transaction,
                    "after-restore",
                    uid,
                    &name,
                    &json!({ "void_recovery_codes": void }),
                )?;
                if void > 0 {
                    without.push(name);
                }
            }
            transaction.execute("DELETE FROM recovery_code", [])?;
            transaction.execute("UPDATE account SET epoch = epoch + 1", [])?;
            Ok(without)
        })
    }
}

const CODES_LEFT: &str = "SELECT count(*) FROM recovery_code WHERE account = ?1 AND used IS NULL";

fn codes_left(transaction: &Transaction<'_>, uid: UserId) -> Result<u32, AccountsError> {
    Ok(transaction.query_row(CODES_LEFT, [uid.0], |row| row.get(0))?)
}

/// An account's authenticator, as it stands.
struct Enrolment {
    authenticator: Authenticator,
    last_step: i64,
    drift: Drift,
    failures: u32,
    not_before: i64,
    disabled: bool,
    lost: bool,
}

impl Enrolment {
    fn not_looked_at(&self, now: DateTime<Utc>) -> Option<CodeVerdict> {
        if self.disabled {
            Some(CodeVerdict::Disabled)
        } else if lockout::rests(now.timestamp(), self.not_before) {
            Some(CodeVerdict::Delayed)
        } else {
            None
        }
    }

    fn count(
        &self,
        transaction: &Transaction<'_>,
        uid: UserId,
        now: DateTime<Utc>,
    ) -> Result<CodeVerdict, AccountsError> {
        let failures = self.failures.saturating_add(1);
        let lockout = count_failure(transaction, "totp", uid, failures, now)?;
        Ok(CodeVerdict::Wrong { failures, lockout })
    }
}

fn enrolment(
    transaction: &Transaction<'_>,
    uid: UserId,
) -> Result<Option<Enrolment>, AccountsError> {
    transaction
        .prepare_cached(
            "SELECT secret, algorithm, digits, last_step, drift, lean, failures, not_before, disabled,
                    lost IS NOT NULL AS lost
             FROM totp WHERE account = ?1",
        )?
        .query_row([uid.0], |row| Ok(read_enrolment(row)))
        .optional()?
        .transpose()
}

fn read_enrolment(row: &Row<'_>) -> Result<Enrolment, AccountsError> {
    let algorithm: String = row.get("algorithm")?;
    let digits: u8 = row.get("digits")?;
    Ok(Enrolment {
        authenticator: Authenticator {
            secret: Secret::from(row.get::<_, Vec<u8>>("secret")?),
            algorithm: algorithm
                .parse()
                .map_err(|_| damaged("algorithm", &algorithm))?,
            digits: Digits::from_count(digits)
                .ok_or_else(|| damaged("digits", &digits.to_string()))?,
        },
        last_step: row.get("last_step")?,
        drift: Drift::new(row.get("drift")?, row.get("lean")?),
        failures: row.get("failures")?,
        not_before: row.get("not_before")?,
        disabled: row.get("disabled")?,
        lost: row.get("lost")?,
    })
}

/// A clock before 1970 counts as 1970.
fn step_of(now: DateTime<Utc>) -> u64 {
    totp::step_at(u64::try_from(now.timestamp()).unwrap_or(0))
}

/// A step as SQLite has it; those of this era fit.
fn stored(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}
