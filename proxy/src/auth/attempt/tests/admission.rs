//! Accounts that may not be used at this time or from this place.

use std::net::IpAddr;

use super::*;
use crate::{
    accounts::{
        admission::{AccountDefaults, Refusal},
        restrictions::Changes,
    },
    auth::attempt::Withdrawal,
};

/// The world begins on Tuesday, 2023-11-14, 22:13:20 UTC.
fn refusals() -> Vec<(&'static str, Changes)> {
    vec![
        (
            "account_expired",
            Changes {
                expires: Some("2023-11-13".parse().ok()),
                ..Changes::default()
            },
        ),
        (
            "outside_hours",
            Changes {
                hours: Some("Mon-Fri 07:00-19:00".parse().ok()),
                ..Changes::default()
            },
        ),
        (
            "source_not_allowed",
            Changes {
                sources: Some(vec!["203.0.113.0/24".parse().unwrap()]),
                ..Changes::default()
            },
        ),
    ]
}

/// What lets the world's login pass, each by the least.
fn grants() -> [Changes; 3] {
    [
        Changes {
            expires: Some("2023-11-14".parse().ok()),
            ..Changes::default()
        },
        Changes {
            hours: Some("Tue 22:13-22:14".parse().ok()),
            ..Changes::default()
        },
        Changes {
            sources: Some(vec![format!("{}/32", source()).parse().unwrap()]),
            ..Changes::default()
        },
    ]
}

pub(super) fn source() -> IpAddr {
    SOURCE.parse::<SocketAddr>().unwrap().ip()
}

/// What the client sees of both ways in, all factors being right.
async fn seen(world: &World, user: &str) -> Vec<String> {
    let mut attempt = world.attempt();
    let key = attempt
        .public_key_verified(user, &Algorithm::Ed25519, &world.key)
        .await;
    let password = attempt.password(user, Secret::from(PASSWORD)).await;
    let exchange = exchange(&mut attempt, user, PASSWORD, &world.code()).await;
    [key, password, exchange]
        .iter()
        .map(|step| format!("{step:?}"))
        .collect()
}

#[tokio::test]
async fn an_account_that_a_rule_keeps_out_looks_like_none_and_the_record_says_which_rule() {
    let stranger = seen(&world(), "nobody").await;
    for (reason, changes) in refusals() {
        let world = world();
        world.administer().set(&alice(), &changes).unwrap();
        assert_eq!(seen(&world, "alice").await, stranger, "{reason}");
        assert_eq!(world.log.reasons(), vec![reason; 4], "{reason}");
    }
}

#[tokio::test]
async fn an_account_is_good_on_its_last_day_within_its_hours_and_from_its_source() {
    for changes in grants() {
        let world = world();
        world.administer().set(&alice(), &changes).unwrap();
        let mut attempt = world.attempt();
        accepted(exchange(&mut attempt, "alice", PASSWORD, &world.code()).await);
    }
}

#[tokio::test]
async fn a_rule_that_comes_between_two_factors_counts() {
    let world = world();
    let mut attempt = world.attempt();
    assert!(is_partial(&show_key(&world, &mut attempt).await));
    let (_, changes) = refusals().remove(2);
    world.administer().set(&alice(), &changes).unwrap();
    assert!(is_rejected(
        &attempt.password("alice", Secret::from(PASSWORD)).await
    ));
}

#[tokio::test]
async fn a_login_is_noted_and_ninety_days_later_there_is_none_until_it_is_enabled_again() {
    let world = world();
    let today = Utc::now().timestamp();
    world.seconds.store(today, Ordering::SeqCst);
    let log_in = async || {
        let mut attempt = world.attempt();
        exchange(&mut attempt, "alice", PASSWORD, &world.code()).await
    };
    let user = accepted(log_in().await);
    world.authenticator.grants(&user).await.unwrap();
    let account = world.accounts.account(&alice()).unwrap();
    assert_eq!(account.usage.last_login.unwrap().timestamp(), today);

    world.pass(Duration::from_secs(90 * 86_400 + 1));
    assert!(is_rejected(&log_in().await));
    assert_eq!(world.log.reasons().pop().unwrap(), "account_idle");
    let for_ever = AccountDefaults {
        idle_days: None,
        ..AccountDefaults::default()
    };
    let patient = world.authenticator.clone().with_account_defaults(for_ever);
    let mut attempt = patient.attempt(SOURCE.parse().unwrap(), SessionId([7; 16]));
    accepted(exchange(&mut attempt, "alice", PASSWORD, &world.code()).await);
}

#[tokio::test]
async fn a_session_ends_with_its_last_day_and_when_its_source_is_removed() {
    let world = world();
    let housekeeping = tokio::spawn(world.authenticator.clone().follow_changes());
    let admin = world.administer();
    admin.set(&alice(), &grants()[0]).unwrap();
    let mut attempt = world.attempt();
    let user = accepted(exchange(&mut attempt, "alice", PASSWORD, &world.code()).await);
    let ended = || {
        let (authenticator, user) = (world.authenticator.clone(), user.clone());
        tokio::spawn(async move { authenticator.until_revoked(&user, source()).await })
    };
    let expiry = ended();
    tokio::task::yield_now().await;
    assert!(!expiry.is_finished());
    world.pass(Duration::from_secs(2 * 3600));
    let withdrawal = tokio::time::timeout(DEADLINE, expiry).await.unwrap();
    assert_eq!(withdrawal.unwrap(), Withdrawal::Refused(Refusal::Expired));

    let none = Changes {
        expires: Some(None),
        ..Changes::default()
    };
    admin.set(&alice(), &none).unwrap();
    let removed = ended();
    let other_process = Accounts::open(&world.directory.path().join("accounts.db")).unwrap();
    let (_, elsewhere) = refusals().remove(2);
    other_process
        .administer("uid:0")
        .set(&alice(), &elsewhere)
        .unwrap();
    let withdrawal = tokio::time::timeout(DEADLINE, removed).await.unwrap();
    assert_eq!(withdrawal.unwrap(), Withdrawal::Refused(Refusal::Source));
    housekeeping.abort();
}

#[tokio::test]
async fn the_end_of_the_hours_is_told_apart_from_the_end_of_the_account() {
    let world = world();
    let mut attempt = world.attempt();
    let user = accepted(exchange(&mut attempt, "alice", PASSWORD, &world.code()).await);

    let changes = Changes {
        hours: Some("Mon-Sun 00:00-23:00".parse().ok()),
        ..Changes::default()
    };
    world.administer().set(&alice(), &changes).unwrap();
    let hours = {
        let (authenticator, user) = (world.authenticator.clone(), user.clone());
        tokio::spawn(async move { authenticator.until_hours_end(&user).await })
    };
    tokio::task::yield_now().await;
    assert!(!hours.is_finished());
    world.pass(Duration::from_secs(3600));
    tokio::time::timeout(DEADLINE, hours)
        .await
        .expect("the hours end")
        .unwrap();
}
