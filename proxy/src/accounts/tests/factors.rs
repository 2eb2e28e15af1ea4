//! Codes and passwords: what is spent, counted, delayed and locked.

use tempfile::TempDir;

use super::{super::*, database, instant, name, with_account};
use crate::auth::{
    Secret,
    lockout::Lockout,
    totp::{self, Code},
};

struct Enrolled {
    _directory: TempDir,
    path: PathBuf,
    accounts: Accounts,
    uid: UserId,
    secret: Secret,
}

fn enrolled() -> Enrolled {
    let (directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let secret = totp::generate().unwrap();
    accounts
        .administer("test")
        .enroll_totp(&name("alice"), &secret)
        .unwrap();
    Enrolled {
        _directory: directory,
        path,
        accounts,
        uid,
        secret,
    }
}

impl Enrolled {
    fn right(&self, at: i64) -> Option<Code> {
        let seconds = instant(at).timestamp() as u64;
        Code::parse(totp::code_at(&self.secret, seconds).as_bytes())
    }

    fn redeem_right(&self, at: i64) -> CodeVerdict {
        let code = self.right(at);
        self.accounts
            .redeem_code(self.uid, code, instant(at))
            .unwrap()
    }

    fn redeem_wrong(&self, at: i64) -> CodeVerdict {
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
        .enroll_totp(&name("alice"), &alice.secret)
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
    let tried =
        |accounts: &Accounts, counted| accounts.try_password(uid, counted, instant(0)).unwrap();
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
        let tried = accounts.try_password(uid, false, instant(0)).unwrap();
        assert!(matches!(tried, PasswordTry::Open { failures: 0, .. }));
    }
}
