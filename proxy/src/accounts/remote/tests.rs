use chrono::TimeZone as _;
use portcullis_journal::AccountKind;
use tempfile::TempDir;

use super::*;
use crate::auth::lockout::{FAILURES_BEFORE_DELAY, FAILURES_BEFORE_DISABLED};

fn account() -> (TempDir, Accounts, UserId, AccountName) {
    let directory = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(&directory.path().join("state/accounts.db")).unwrap();
    let name: AccountName = "alice".parse().unwrap();
    let uid = accounts
        .administer("test")
        .add(&name, AccountKind::Human, None)
        .unwrap();
    (directory, accounts, uid, name)
}

fn at(seconds: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_700_000_000 + seconds, 0).unwrap()
}

#[test]
fn a_remote_factor_is_set_with_its_login_and_taken_away_and_each_ends_sessions() {
    let (_directory, accounts, uid, name) = account();
    let epoch = || accounts.standing(uid).unwrap().unwrap().epoch;
    let tried = |factor| accounts.try_remote(uid, factor, false, at(0)).unwrap();
    let before = epoch();
    assert_eq!(tried(RemoteFactor::Radius), RemoteTry::NotSet);
    let administration = accounts.administer("test");
    administration
        .set_radius(&name, Some("alice.radius"))
        .unwrap();
    administration.set_directory(&name, None).unwrap();
    let both = RemoteFactors {
        radius: true,
        directory: true,
    };
    assert_eq!(accounts.remote_factors(uid).unwrap(), both);
    assert_eq!(
        tried(RemoteFactor::Radius),
        RemoteTry::Open {
            login: Some("alice.radius".to_owned()),
            failures: 0
        }
    );
    assert_eq!(
        accounts.directory_login(uid).unwrap().as_deref(),
        Some("alice")
    );
    administration.unset_radius(&name).unwrap();
    administration.unset_directory(&name).unwrap();
    assert_eq!(
        accounts.remote_factors(uid).unwrap(),
        RemoteFactors::default()
    );
    assert_eq!(epoch(), before + 4);
}

#[test]
fn counted_tries_delay_and_disable_and_only_success_or_an_outage_takes_one_back() {
    let (_directory, accounts, uid, name) = account();
    let administration = accounts.administer("test");
    administration.set_radius(&name, None).unwrap();
    let radius = RemoteFactor::Radius;
    let tried = |seconds| {
        let tried = accounts.try_remote(uid, radius, true, at(seconds)).unwrap();
        if let RemoteTry::Open { failures, .. } = tried {
            Ok(failures)
        } else {
            Err(tried)
        }
    };
    // An outage is no failure, however long it lasts.
    for _ in 0..FAILURES_BEFORE_DISABLED + 5 {
        assert_eq!(tried(0), Ok(1));
        accounts.remote_gave_no_verdict(uid, radius).unwrap();
    }
    for failures in 1..=FAILURES_BEFORE_DELAY {
        assert_eq!(tried(0), Ok(failures));
    }
    assert_eq!(tried(1), Err(RemoteTry::Delayed));
    assert_eq!(tried(1000), Ok(FAILURES_BEFORE_DELAY + 1));
    accounts.remote_was_right(uid, radius).unwrap();
    for failures in 1..=FAILURES_BEFORE_DISABLED {
        assert_eq!(tried(100_000 * i64::from(failures)), Ok(failures));
    }
    assert_eq!(tried(i64::from(i32::MAX)), Err(RemoteTry::Disabled));
    administration.set_radius(&name, None).unwrap();
    assert_eq!(tried(0), Ok(1), "set again, failures are forgotten");
}

#[test]
fn an_accepted_code_is_spent_for_its_account_and_its_time() {
    let (_directory, accounts, uid, name) = account();
    let other: AccountName = "bob".parse().unwrap();
    let administration = accounts.administer("test");
    let bob = administration
        .add(&other, AccountKind::Human, None)
        .unwrap();
    administration.set_radius(&name, None).unwrap();
    administration.set_radius(&other, None).unwrap();
    let spend = |uid, code: &str, seconds| {
        let code = Secret::from(code);
        accounts.spend_radius_code(uid, &code, at(seconds)).unwrap()
    };
    assert!(spend(uid, "123456", 0));
    assert!(!spend(uid, "123456", SPENT_SECONDS - 1));
    assert!(spend(uid, "654321", 1));
    assert!(!spend(uid, "123456", 2), "also after another code");
    assert!(spend(bob, "123456", 2));
    assert!(spend(uid, "123456", SPENT_SECONDS));
}

#[test]
fn a_spent_code_stays_spent_in_another_spelling_and_when_the_factor_is_set_again() {
    let (_directory, accounts, uid, name) = account();
    let administration = accounts.administer("test");
    administration.set_radius(&name, None).unwrap();
    let spend = |code: &str| {
        let code = Secret::from(code);
        accounts.spend_radius_code(uid, &code, at(0)).unwrap()
    };
    assert!(spend("cccjgjg1"));
    // RADIUS pads codes with zeros, and servers cut those off; spaces and case are for each server to judge.
    for code in ["cccjgjg1\0", "cccjgjg1\0\0", " cccj gjg1\n", "CCCJGJG1"] {
        assert!(!spend(code), "{code:?}");
    }
    assert!(spend("cccjgjg2"));
    administration.set_radius(&name, Some("alice2")).unwrap();
    assert!(!spend("cccjgjg1"));
}

#[test]
fn a_stranger_is_always_treated_as_the_same_account_would_be() {
    let (_directory, accounts, _, name) = account();
    let stranger = |draw| accounts.remote_factors_of_a_stranger(draw).unwrap();
    assert_eq!(stranger(7), RemoteFactors::default());
    accounts
        .administer("test")
        .set_directory(&name, None)
        .unwrap();
    for draw in [0, 1, 7, u64::MAX] {
        assert!(stranger(draw).directory, "the only account there is");
    }
    accounts
        .administer("test")
        .add(&"bob".parse().unwrap(), AccountKind::Human, None)
        .unwrap();
    let drawn: Vec<_> = (0..64).map(|draw| stranger(draw << 1).directory).collect();
    assert_eq!(
        drawn,
        (0..64)
            .map(|draw| stranger(draw << 1).directory)
            .collect::<Vec<_>>()
    );
    assert!(drawn.contains(&true) && drawn.contains(&false));
}
