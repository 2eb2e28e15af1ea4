//! Codes and passwords: what is spent, counted, delayed and locked.

use std::path::PathBuf;

use tempfile::TempDir;

use super::{super::*, database, epoch_of, instant, name, with_account};
use crate::auth::{
    lockout::Lockout,
    password::policy::HISTORY_MAX,
    totp::{Algorithm, Authenticator, Code, Digits},
};

pub(super) struct Enrolled {
    _directory: TempDir,
    pub(super) path: PathBuf,
    pub(super) accounts: Accounts,
    pub(super) uid: UserId,
    pub(super) authenticator: Authenticator,
}

pub(super) fn enrolled() -> Enrolled {
    enrolled_with(Algorithm::Sha1, Digits::Six)
}

fn enrolled_with(algorithm: Algorithm, digits: Digits) -> Enrolled {
    let (directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let authenticator = Authenticator::generate(algorithm, digits).unwrap();
    accounts
        .administer("test")
        .enroll_totp(&name("alice"), &authenticator)
        .unwrap();
    Enrolled {
        _directory: directory,
        path,
        accounts,
        uid,
        authenticator,
    }
}

impl Enrolled {
    pub(super) fn right(&self, at: i64) -> Option<Code> {
        let seconds = instant(at).timestamp() as u64;
        Code::parse(self.authenticator.code_at(seconds).as_bytes())
    }

    pub(super) fn redeem_right(&self, at: i64) -> CodeVerdict {
        let code = self.right(at);
        self.accounts
            .redeem_code(self.uid, code, instant(at))
            .unwrap()
    }

    pub(super) fn redeem_wrong(&self, at: i64) -> CodeVerdict {
        self.accounts
            .redeem_code(self.uid, None, instant(at))
            .unwrap()
    }
}

#[test]
fn a_code_is_accepted_once_and_none_of_an_earlier_step_afterwards() {
    let alice = enrolled();
    let (earlier, present) = (alice.right(0), alice.right(30));
    let redeem = |code| {
        alice
            .accounts
            .redeem_code(alice.uid, code, instant(30))
            .unwrap()
    };
    assert_eq!(redeem(present), CodeVerdict::Right);
    assert_eq!(redeem(present), CodeVerdict::Replayed);
    assert_eq!(redeem(earlier), CodeVerdict::Replayed);
    assert_eq!(alice.redeem_right(60), CodeVerdict::Right);
}

#[test]
fn a_spent_code_stays_spent_after_a_restart() {
    let alice = enrolled();
    let code = alice.right(0);
    assert_eq!(alice.redeem_right(0), CodeVerdict::Right);
    let Enrolled {
        accounts,
        path,
        uid,
        ..
    } = &alice;
    let _ = accounts;
    let again = Accounts::open(path).unwrap();
    let verdict = again.redeem_code(*uid, code, instant(0)).unwrap();
    assert_eq!(verdict, CodeVerdict::Replayed);
}

#[test]
fn four_wrong_codes_leave_the_fifth_try_open_and_five_delay_it_by_30_seconds() {
    let alice = enrolled();
    for _ in 0..4 {
        alice.redeem_wrong(0);
    }
    assert_eq!(
        alice.redeem_right(0),
        CodeVerdict::Right,
        "and resets the count"
    );
    for failures in 1..=5 {
        let CodeVerdict::Wrong {
            failures: counted, ..
        } = alice.redeem_wrong(60)
        else {
            panic!("not counted")
        };
        assert_eq!(counted, failures);
    }
    assert_eq!(alice.redeem_right(89), CodeVerdict::Delayed);
    let restarted = Accounts::open(&alice.path).unwrap();
    let verdict = restarted
        .redeem_code(alice.uid, alice.right(89), instant(89))
        .unwrap();
    assert_eq!(verdict, CodeVerdict::Delayed, "a restart changes nothing");
    assert_eq!(alice.redeem_right(90), CodeVerdict::Right);
}

#[test]
fn twenty_wrong_codes_over_any_time_disable_the_authenticator_until_it_is_enrolled_again() {
    let alice = enrolled();
    let mut now = 0;
    for failures in 1..=20 {
        now += 7 * 24 * 3600;
        let CodeVerdict::Wrong { lockout, .. } = alice.redeem_wrong(now) else {
            panic!("failure {failures} was not looked at")
        };
        assert_eq!(lockout == Lockout::Disable, failures == 20);
    }
    now += 365 * 24 * 3600;
    assert_eq!(alice.redeem_right(now), CodeVerdict::Disabled);
    let account = alice.accounts.list().unwrap().remove(0);
    assert_eq!(account.totp, FactorState::Locked);
    alice
        .accounts
        .administer("test")
        .enroll_totp(&name("alice"), &alice.authenticator)
        .unwrap();
    assert_eq!(alice.redeem_right(now), CodeVerdict::Right);
}

#[test]
fn a_counted_password_try_is_on_disk_as_failed_before_it_is_judged() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    accounts
        .administer("test")
        .set_password(&name("alice"), "hash")
        .unwrap();
    let tried = |accounts: &Accounts, counted| {
        accounts
            .try_password(uid, counted, instant(0), None)
            .unwrap()
    };
    for _ in 0..5 {
        assert!(matches!(tried(&accounts, true), PasswordTry::Open { .. }));
    }
    let restarted = Accounts::open(&path).unwrap();
    assert_eq!(tried(&restarted, true), PasswordTry::Delayed);
    assert_eq!(tried(&restarted, false), PasswordTry::Delayed);
    restarted.password_was_right(uid).unwrap();
    assert!(matches!(
        tried(&restarted, true),
        PasswordTry::Open { failures: 1, .. }
    ));
}

#[test]
fn uncounted_password_tries_never_lock_the_account() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    accounts
        .administer("test")
        .set_password(&name("alice"), "hash")
        .unwrap();
    for _ in 0..100 {
        let tried = accounts.try_password(uid, false, instant(0), None).unwrap();
        assert!(matches!(tried, PasswordTry::Open { failures: 0, .. }));
    }
}

#[test]
fn authenticators_of_every_algorithm_and_length_are_kept_as_they_were_enrolled() {
    for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512] {
        for digits in [Digits::Six, Digits::Eight] {
            let alice = enrolled_with(algorithm, digits);
            assert_eq!(alice.redeem_right(0), CodeVerdict::Right);
            assert_eq!(alice.redeem_right(0), CodeVerdict::Replayed);
        }
    }
}

#[test]
fn a_slow_clock_is_learned_from_logins_and_a_jump_is_not() {
    let alice = enrolled();
    // The authenticator shows the code of `behind` steps ago.
    let redeem = |at: i64, behind: i64| {
        let code = alice.right(at - 30 * behind);
        let verdict = alice.accounts.redeem_code(alice.uid, code, instant(at));
        verdict.unwrap()
    };
    assert!(matches!(redeem(0, 2), CodeVerdict::Wrong { .. }));
    assert_eq!(redeem(60, 1), CodeVerdict::Right);
    assert!(matches!(redeem(120, 2), CodeVerdict::Wrong { .. }));
    assert_eq!(redeem(180, 1), CodeVerdict::Right);
    assert_eq!(redeem(240, 2), CodeVerdict::Right, "learned");
    assert_eq!(redeem(300, 0), CodeVerdict::Right, "and not too fast");
    assert!(matches!(redeem(360, -1), CodeVerdict::Wrong { .. }));
}

#[test]
fn resynchronising_takes_two_unspent_codes_in_a_row_and_spends_them() {
    let alice = enrolled();
    let admin = alice.accounts.administer("test");
    let resync = |codes, at| admin.resync_totp(&name("alice"), codes, instant(at));
    for _ in 0..5 {
        alice.redeem_wrong(0);
    }
    let pair = |at: i64| [alice.right(at - 30), alice.right(at)];
    // The authenticator is five minutes behind.
    let drift = resync(pair(-300), 0).unwrap();
    assert_eq!(drift.seconds(), -300);
    assert_eq!(
        alice
            .accounts
            .redeem_code(alice.uid, alice.right(-300), instant(0))
            .unwrap(),
        CodeVerdict::Replayed,
        "the delay is over, and both are spent"
    );
    let next = alice
        .accounts
        .redeem_code(alice.uid, alice.right(-270), instant(30));
    assert_eq!(next.unwrap(), CodeVerdict::Right);
    for refused in [
        pair(-300),
        [alice.right(60), alice.right(30)],
        [alice.right(60), alice.right(120)],
        pair(900),
        [None, None],
    ] {
        let error = resync(refused, 90).unwrap_err();
        assert!(matches!(error, AccountsError::NotConsecutive { .. }));
    }
    with_account(&alice.accounts, "bob");
    let error = admin.resync_totp(&name("bob"), pair(600), instant(600));
    assert!(matches!(error, Err(AccountsError::NotEnrolled { .. })));
    let mut now = 900;
    while alice.redeem_wrong(now) != CodeVerdict::Disabled {
        now += 3600;
    }
    let error = resync(pair(now), now).unwrap_err();
    assert!(matches!(error, AccountsError::EnrolAgain { .. }), "locked");
}

#[test]
fn a_clock_that_is_set_back_revives_no_code_and_stretches_no_delay() {
    let alice = enrolled();
    assert_eq!(alice.redeem_right(0), CodeVerdict::Right);
    let day = 24 * 3600;
    assert_eq!(alice.redeem_right(-day), CodeVerdict::Replayed);
    assert_eq!(alice.redeem_right(-30), CodeVerdict::Replayed);
    for _ in 0..5 {
        alice.redeem_wrong(day);
    }
    assert_eq!(alice.redeem_right(day), CodeVerdict::Delayed);
    assert_eq!(alice.redeem_right(60), CodeVerdict::Right);
    assert_eq!(alice.redeem_right(365 * day), CodeVerdict::Right);
    assert_eq!(alice.redeem_right(364 * day), CodeVerdict::Replayed);
}

#[test]
fn after_a_restore_the_codes_of_the_time_are_refused_and_the_next_are_not() {
    let alice = enrolled();
    assert_eq!(alice.redeem_right(0), CodeVerdict::Right);
    let admin = alice.accounts.administer("test");
    let epoch = epoch_of(&alice.accounts, alice.uid);
    assert_eq!(admin.after_restore(instant(600)).unwrap(), []);
    assert!(epoch_of(&alice.accounts, alice.uid) > epoch);
    let redeem = |code_of, at| {
        let code = alice.right(code_of);
        let verdict = alice.accounts.redeem_code(alice.uid, code, instant(at));
        verdict.unwrap()
    };
    assert_eq!(redeem(570, 600), CodeVerdict::Replayed);
    assert_eq!(redeem(600, 600), CodeVerdict::Replayed);
    assert_eq!(redeem(630, 600), CodeVerdict::Replayed);
    assert_eq!(redeem(660, 630), CodeVerdict::Right);
}

#[test]
fn a_password_older_than_the_policy_allows_is_not_looked_at() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    admin.set_password(&name("alice"), "hash").unwrap();
    let now = chrono::Utc::now();
    let after = |days: i64, max_days: i64| {
        let later = now + chrono::TimeDelta::days(days);
        let max_age = chrono::TimeDelta::try_days(max_days);
        accounts.try_password(uid, false, later, max_age).unwrap()
    };
    assert!(matches!(after(89, 90), PasswordTry::Open { .. }));
    assert_eq!(after(91, 90), PasswordTry::Expired);
    assert!(matches!(after(91, 92), PasswordTry::Open { .. }));
    assert!(matches!(
        accounts
            .try_password(uid, false, now + chrono::TimeDelta::days(9999), None)
            .unwrap(),
        PasswordTry::Open { .. }
    ));
    let connection = accounts.connection();
    connection
        .execute("UPDATE password SET changed = 'once'", [])
        .unwrap();
    drop(connection);
    assert_eq!(after(0, 90), PasswordTry::Expired, "unknown age");
}

#[test]
fn a_hash_is_upgraded_only_in_place_of_the_one_that_was_checked() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    admin.set_password(&name("alice"), "weak").unwrap();
    let epoch = epoch_of(&accounts, uid);
    assert!(accounts.upgrade_password(uid, "weak", "strong").unwrap());
    assert!(!accounts.upgrade_password(uid, "weak", "stronger").unwrap());
    assert_eq!(
        accounts.former_passwords(&name("alice")).unwrap(),
        ["strong"]
    );
    assert_eq!(epoch_of(&accounts, uid), epoch);
}

#[test]
fn former_passwords_are_kept_newest_first_and_not_for_ever() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    with_account(&accounts, "bob");
    let admin = accounts.administer("test");
    admin.set_password(&name("bob"), "bob's").unwrap();
    let last = HISTORY_MAX + 5;
    for number in 0..=last {
        let hash = format!("hash {number}");
        admin.set_password(&name("alice"), &hash).unwrap();
    }
    let former = accounts.former_passwords(&name("alice")).unwrap();
    assert_eq!(former.len(), HISTORY_MAX);
    assert_eq!(former[0], format!("hash {last}"));
    assert_eq!(former[3], format!("hash {}", last - 3));
    assert_eq!(accounts.former_passwords(&name("bob")).unwrap(), ["bob's"]);
    assert!(accounts.former_passwords(&name("carol")).is_err());
}
