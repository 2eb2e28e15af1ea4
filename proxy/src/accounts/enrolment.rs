//! Enrolment tokens in the database: one an account, used once, in time.
//!
//! The new authenticator's secret is not stored before it is active: it lives in the memory of the connection that shows
//! it, so that no other connection can read it and an abandoned enrolment leaves nothing.

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use rusqlite::{OptionalExtension as _, Transaction};
use serde_json::json;

use super::{AccountName, Accounts, AccountsError, Administration, audit, uid_of};
use crate::auth::{
    enrolment::{Enrolling, EnrolmentId, TokenHash},
    flow::UserId,
    totp::Authenticator,
};

/// How long a token is valid unless the administrator says otherwise.
pub const VALID: Duration = Duration::minutes(15);
/// The longest that an administrator may say.
pub const VALID_MAX: Duration = Duration::hours(24);
/// From the token's use to the second code.
pub const TIME_LIMIT: Duration = Duration::minutes(10);
/// Wrong tokens, each after a right first factor, that void the account's token.
const FAILURES_MAX: u32 = 5;

/// Why a token can't be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    #[error(
        "account {name} has neither password nor key to show beside the token; set one with `account set-password` or `account add-key`"
    )]
    NoFirstFactor { name: AccountName },
    #[error("account {name} is a machine's: nobody is there to scan a code")]
    Machine { name: AccountName },
    #[error("account {name} is disabled; `account enable` it first")]
    Disabled { name: AccountName },
}

/// What became of a token that was shown after a right first factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVerdict {
    /// Right, and spent: on disk.
    Right(EnrolmentId),
    /// Counted, on disk.
    Wrong,
    Expired,
    Spent,
    /// Too many wrong ones: not looked at.
    Void,
    /// The account has none.
    NotIssued,
}

impl TokenVerdict {
    /// The code in records; `None` for the right one.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Right(_) => None,
            Self::Wrong => Some("bad_token"),
            Self::Expired => Some("token_expired"),
            Self::Spent => Some("token_spent"),
            Self::Void => Some("token_void"),
            Self::NotIssued => Some("token_not_issued"),
        }
    }
}

/// What became of an enrolment whose two codes were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The authenticator is in force, on disk.
    Done,
    /// The time is over, another token was issued, or the account was disabled or changed meanwhile.
    Overtaken,
}

impl Administration<'_> {
    /// Makes the token with this hash the account's only one until `expires`.
    ///
    /// # Errors
    /// If there is no such account, or nothing that could be shown beside the token.
    pub fn issue_token(
        &self,
        name: &AccountName,
        hash: &TokenHash,
        expires: DateTime<Utc>,
    ) -> Result<(), AccountsError> {
        self.accounts.transaction(|transaction| {
            let uid = uid_of(transaction, name)?;
            may_enrol(transaction, uid, name)?;
            transaction.execute("DELETE FROM enrolment WHERE account = ?1", [uid.0])?;
            transaction.execute(
                "INSERT INTO enrolment (account, token_sha256, expires) VALUES (?1, ?2, ?3)",
                (uid.0, hash.as_bytes(), expires.timestamp()),
            )?;
            let details = json!({
                "enrolment": transaction.last_insert_rowid(),
                "expires": expires.to_rfc3339_opts(SecondsFormat::Secs, true),
            });
            self.note(transaction, "issue-token", uid, name, &details)
        })
    }
}

fn may_enrol(
    transaction: &Transaction<'_>,
    uid: UserId,
    name: &AccountName,
) -> Result<(), AccountsError> {
    let (kind, disabled, has_factor): (String, bool, bool) = transaction.query_row(
        "SELECT kind, disabled,
                EXISTS (SELECT 1 FROM password WHERE account = id)
                OR EXISTS (SELECT 1 FROM public_key WHERE account = id)
         FROM account WHERE id = ?1",
        [uid.0],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let name = name.clone();
    if kind == "machine" {
        return Err(IssueError::Machine { name }.into());
    }
    if disabled {
        return Err(IssueError::Disabled { name }.into());
    }
    if !has_factor {
        return Err(IssueError::NoFirstFactor { name }.into());
    }
    Ok(())
}

impl Accounts {
    /// Compares a token that was shown after a right first factor, and spends it. On disk when this returns.
    ///
    /// # Errors
    /// If the database can't be read or written; the token then counts as not shown.
    pub fn redeem_token(
        &self,
        uid: UserId,
        shown: &TokenHash,
        now: DateTime<Utc>,
    ) -> Result<TokenVerdict, AccountsError> {
        self.transaction(|transaction| {
            let found = transaction
                .prepare_cached(
                    "SELECT id, token_sha256, expires, failures, begun FROM enrolment WHERE account = ?1",
                )?
                .query_row([uid.0], |row| {
                    Ok(Issued {
                        id: row.get("id")?,
                        hash: row.get("token_sha256")?,
                        expires: row.get("expires")?,
                        failures: row.get("failures")?,
                        begun: row.get("begun")?,
                    })
                })
                .optional()?;
            let Some(issued) = found else {
                return Ok(TokenVerdict::NotIssued);
            };
            let is_right = shown.is(&issued.hash);
            if issued.failures >= FAILURES_MAX {
                return Ok(TokenVerdict::Void);
            }
            if !is_right {
                transaction.execute(
                    "UPDATE enrolment SET failures = failures + 1 WHERE id = ?1",
                    [issued.id],
                )?;
                return Ok(TokenVerdict::Wrong);
            }
            if issued.begun.is_some() {
                return Ok(TokenVerdict::Spent);
            }
            if now.timestamp() >= issued.expires {
                return Ok(TokenVerdict::Expired);
            }
            transaction.execute(
                "UPDATE enrolment SET begun = ?2 WHERE id = ?1",
                (issued.id, now.timestamp()),
            )?;
            Ok(TokenVerdict::Right(EnrolmentId(issued.id)))
        })
    }

    /// Puts the new authenticator in the place of any other. `step` is that of the last code shown: it and earlier ones are
    /// spent. Live sessions of the account end.
    ///
    /// # Errors
    /// If the database can't be read or written; nothing is changed then.
    pub fn activate_enrolment(
        &self,
        user: &Enrolling,
        device: &Authenticator,
        step: u64,
        now: DateTime<Utc>,
    ) -> Result<Activation, AccountsError> {
        let name: AccountName = user.name().parse()?;
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let at = now.to_rfc3339_opts(SecondsFormat::Micros, true);
        self.transaction(|transaction| {
            let (uid, enrolment) = (user.uid(), user.enrolment());
            let begun_after = (now - TIME_LIMIT).timestamp();
            let in_force = transaction
                .prepare_cached(
                    "SELECT 1 FROM enrolment JOIN account ON account.id = enrolment.account
                     WHERE enrolment.id = ?1 AND account.id = ?2 AND begun > ?3 AND disabled = 0 AND epoch = ?4",
                )?
                .exists((enrolment.0, uid.0, begun_after, user.epoch()))?;
            if !in_force {
                return Ok(Activation::Overtaken);
            }
            transaction.execute("DELETE FROM enrolment WHERE id = ?1", [enrolment.0])?;
            // Those of the authenticator before.
            transaction.execute("DELETE FROM recovery_code WHERE account = ?1", [uid.0])?;
            transaction.execute(
                "INSERT OR REPLACE INTO totp (account, secret, algorithm, digits, last_step, enrolled)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    uid.0,
                    device.secret.expose(),
                    device.algorithm.name(),
                    device.digits.count(),
                    step,
                    &at,
                ),
            )?;
            super::administration::end_sessions(transaction, uid)?;
            let details = json!({ "enrolment": enrolment.0, "by": "the user, with a token" });
            audit::note(transaction, &at, name.as_str(), "enroll-totp", uid, &name, &details)?;
            Ok(Activation::Done)
        })
    }

    /// Forgets the token of an enrolment that was not ended.
    ///
    /// # Errors
    /// If the database can't be written; the token is spent all the same.
    pub fn abandon_enrolment(&self, enrolment: EnrolmentId) -> Result<(), AccountsError> {
        self.transaction(|transaction| {
            transaction.execute("DELETE FROM enrolment WHERE id = ?1", [enrolment.0])?;
            Ok(())
        })
    }
}

struct Issued {
    id: i64,
    hash: Vec<u8>,
    expires: i64,
    failures: u32,
    begun: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::CodeVerdict,
        auth::{
            Secret,
            enrolment::Token,
            public_key::{self, samples},
            totp::Code,
        },
    };
    use portcullis_journal::AccountKind;

    struct World {
        _directory: tempfile::TempDir,
        accounts: Accounts,
        uid: UserId,
        now: DateTime<Utc>,
    }

    fn device(byte: u8) -> Authenticator {
        Authenticator {
            secret: Secret::from(vec![byte; 20]),
            ..Authenticator::decoy()
        }
    }

    fn alice() -> AccountName {
        "alice".parse().unwrap()
    }

    fn world() -> World {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
        let admin = accounts.administer("test");
        let uid = admin.add(&alice(), AccountKind::Human, None).unwrap();
        let key = public_key::parse(samples::ED25519).unwrap();
        admin.add_key(&alice(), &key).unwrap();
        World {
            _directory: directory,
            accounts,
            uid,
            now: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        }
    }

    impl World {
        fn issue(&self) -> Token {
            let token = Token::generate().unwrap();
            self.accounts
                .administer("test")
                .issue_token(&alice(), &token.hash(), self.now + VALID)
                .unwrap();
            token
        }

        fn redeem(&self, token: &Token, after: Duration) -> TokenVerdict {
            self.accounts
                .redeem_token(self.uid, &token.hash(), self.now + after)
                .unwrap()
        }

        fn begin(&self) -> Enrolling {
            let TokenVerdict::Right(enrolment) = self.redeem(&self.issue(), Duration::zero())
            else {
                panic!("the token is right")
            };
            let epoch = self.accounts.standing(self.uid).unwrap().unwrap().epoch;
            Enrolling::for_test(self.uid, "alice", epoch, enrolment)
        }

        fn activate(&self, user: &Enrolling, after: Duration) -> Activation {
            let now = self.now + after;
            let step = u64::try_from(now.timestamp()).unwrap() / 30;
            self.accounts
                .activate_enrolment(user, &device(7), step, now)
                .unwrap()
        }
    }

    #[test]
    fn a_token_is_right_once_in_time_and_for_its_account_only() {
        let world = world();
        assert_eq!(
            world.redeem(&Token::generate().unwrap(), Duration::zero()),
            TokenVerdict::NotIssued
        );
        let token = world.issue();
        let bob: AccountName = "bob".parse().unwrap();
        let admin = world.accounts.administer("test");
        let other = admin.add(&bob, AccountKind::Human, None).unwrap();
        assert_eq!(
            world
                .accounts
                .redeem_token(other, &token.hash(), world.now)
                .unwrap(),
            TokenVerdict::NotIssued
        );
        let last = VALID - Duration::seconds(1);
        assert!(matches!(world.redeem(&token, last), TokenVerdict::Right(_)));
        assert_eq!(world.redeem(&token, last), TokenVerdict::Spent);
        let late = world.issue();
        assert_eq!(world.redeem(&late, VALID), TokenVerdict::Expired);
    }

    #[test]
    fn a_new_token_takes_the_place_of_the_one_before() {
        let world = world();
        let first = world.issue();
        let second = world.issue();
        assert_eq!(world.redeem(&first, Duration::zero()), TokenVerdict::Wrong);
        assert!(matches!(
            world.redeem(&second, Duration::zero()),
            TokenVerdict::Right(_)
        ));
    }

    #[test]
    fn four_wrong_tokens_leave_the_right_one_and_five_void_it() {
        for (wrong, is_void) in [(4, false), (5, true)] {
            let world = world();
            let token = world.issue();
            for _ in 0..wrong {
                let other = Token::generate().unwrap();
                assert_eq!(world.redeem(&other, Duration::zero()), TokenVerdict::Wrong);
            }
            let verdict = world.redeem(&token, Duration::zero());
            assert_eq!(verdict == TokenVerdict::Void, is_void, "{verdict:?}");
        }
    }

    #[test]
    fn twenty_uses_of_one_token_at_once_begin_one_enrolment() {
        let world = world();
        let token = world.issue();
        let begun = std::thread::scope(|scope| {
            let uses: Vec<_> = (0..20)
                .map(|_| scope.spawn(|| world.redeem(&token, Duration::zero())))
                .collect();
            uses.into_iter()
                .map(|used| used.join().unwrap())
                .filter(|verdict| matches!(verdict, TokenVerdict::Right(_)))
                .count()
        });
        assert_eq!(begun, 1);
    }

    #[test]
    fn an_active_authenticator_replaces_the_one_before_and_its_codes_are_spent() {
        let world = world();
        world
            .accounts
            .administer("test")
            .enroll_totp(&alice(), &device(1))
            .unwrap();
        let user = world.begin();
        let profile = || world.accounts.profile("alice").unwrap().unwrap();
        let before = profile().epoch;
        assert_eq!(world.activate(&user, Duration::zero()), Activation::Done);
        assert!(profile().epoch > before, "sessions end");
        let redeem = |seconds: i64| {
            let now = world.now + Duration::seconds(seconds);
            let at = u64::try_from(now.timestamp()).unwrap();
            let code = device(7).code_at(at);
            world
                .accounts
                .redeem_code(world.uid, Code::parse(code.as_bytes()), now)
                .unwrap()
        };
        assert_eq!(redeem(0), CodeVerdict::Replayed);
        assert_eq!(redeem(30), CodeVerdict::Right);
        assert_eq!(
            world.activate(&user, Duration::zero()),
            Activation::Overtaken
        );
    }

    #[test]
    fn an_abandoned_or_overtaken_enrolment_leaves_the_account_as_it_was() {
        let has_totp = |world: &World| {
            let profile = world.accounts.profile("alice").unwrap();
            profile.is_some_and(|profile| profile.has_code)
        };
        let late = world();
        let user = late.begin();
        assert_eq!(late.activate(&user, TIME_LIMIT), Activation::Overtaken);
        assert!(!has_totp(&late));
        assert_eq!(
            late.activate(&user, TIME_LIMIT - Duration::seconds(1)),
            Activation::Done
        );

        let abandoned = world();
        let user = abandoned.begin();
        abandoned
            .accounts
            .abandon_enrolment(user.enrolment())
            .unwrap();
        assert_eq!(
            abandoned.activate(&user, Duration::zero()),
            Activation::Overtaken
        );
        assert!(!has_totp(&abandoned));

        let replaced = world();
        let user = replaced.begin();
        replaced.issue();
        assert_eq!(
            replaced.activate(&user, Duration::zero()),
            Activation::Overtaken
        );

        let disabled = world();
        let user = disabled.begin();
        disabled
            .accounts
            .administer("test")
            .disable(&alice())
            .unwrap();
        assert_eq!(
            disabled.activate(&user, Duration::zero()),
            Activation::Overtaken
        );
        assert!(!has_totp(&disabled));
    }

    #[test]
    fn a_token_needs_a_person_with_a_first_factor() {
        let world = world();
        let admin = world.accounts.administer("test");
        let issue = |name: &AccountName| {
            let hash = Token::generate().unwrap().hash();
            admin.issue_token(name, &hash, world.now + VALID)
        };
        let refused = |name: &AccountName| match issue(name) {
            Err(AccountsError::Issue(error)) => error,
            other => panic!("not refused: {other:?}"),
        };
        issue(&alice()).unwrap();
        let bob: AccountName = "bob".parse().unwrap();
        admin.add(&bob, AccountKind::Human, None).unwrap();
        assert!(matches!(refused(&bob), IssueError::NoFirstFactor { .. }));
        let scanner: AccountName = "scanner".parse().unwrap();
        admin.add(&scanner, AccountKind::Machine, None).unwrap();
        assert!(matches!(refused(&scanner), IssueError::Machine { .. }));
        admin.disable(&alice()).unwrap();
        assert!(matches!(refused(&alice()), IssueError::Disabled { .. }));
    }

    #[test]
    fn the_database_has_no_token_in_clear() {
        let world = world();
        let token = world.issue();
        let connection = world.accounts.connection();
        let stored: Vec<u8> = connection
            .query_row("SELECT token_sha256 FROM enrolment", [], |row| row.get(0))
            .unwrap();
        assert_eq!(stored, token.hash().as_bytes());
        let note: String = connection
            .query_row(
                "SELECT details FROM audit_pending WHERE action = 'issue-token'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!(!note.contains(&**token.text()), "{note}");
    }
}
