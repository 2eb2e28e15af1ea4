//! Failures of a source, over its connections and over changes of the rules.

use super::*;

use chrono::TimeDelta;
use tokio::sync::mpsc;

use crate::auth::throttle::{BanConfig, BanRequest, Mistake, ThrottleConfig};

fn config(failures: u32) -> ThrottleConfig {
    ThrottleConfig {
        bans: Some(BanConfig {
            failures,
            window: Duration::from_secs(300),
            lifetime: Duration::from_secs(900),
            max_lifetime: Duration::from_secs(900),
            max_per_minute: 60,
            exempt: Vec::new(),
        }),
        ..ThrottleConfig::without_penalties()
    }
}

fn with_bans() -> (World, mpsc::Receiver<BanRequest>) {
    let (sender, receiver) = mpsc::channel(4);
    let world = world_with(|settings| {
        settings.throttles = Throttles::new(config(3), Some(sender), Utc::now());
    });
    (world, receiver)
}

#[tokio::test]
async fn guesses_over_several_connections_ask_for_a_ban_and_a_login_in_between_forgives() {
    let (world, mut bans) = with_bans();
    let guess = || async {
        let code = world.wrong_code();
        exchange(&mut world.attempt(), "alice", PASSWORD, &code).await
    };
    guess().await;
    guess().await;
    accepted(exchange(&mut world.attempt(), "alice", PASSWORD, &world.code()).await);
    // With a good user behind it the source may fail twice as often.
    for _ in 0..5 {
        guess().await;
        assert!(bans.try_recv().is_err());
    }
    guess().await;
    let ban = bans.try_recv().unwrap();
    assert_eq!(ban.source.to_string(), "192.0.2.7/32");
    assert_eq!(ban.lifetime, Duration::from_secs(900));
    assert_eq!(ban.evidence.mistakes, [0, 6, 0, 0]);
    assert!(Utc::now() - ban.decided < TimeDelta::minutes(5));
}

#[tokio::test]
async fn failures_stay_counted_under_other_rules() {
    for (failures, is_banned) in [(3, true), (4, false)] {
        let (sender, mut bans) = mpsc::channel(4);
        let world = world_with(|settings| {
            settings.throttles = Throttles::new(config(5), None, Utc::now());
        });
        for failure in 1..=3 {
            if failure == 3 {
                let throttles = world.authenticator.throttles();
                throttles.configure(config(failures), Some(sender.clone()));
            }
            exchange(&mut world.attempt(), "alice", PASSWORD, &world.wrong_code()).await;
        }
        assert_eq!(bans.try_recv().is_ok(), is_banned, "{failures}");
    }
}

#[tokio::test]
async fn a_name_that_failed_at_a_shared_source_is_refused_there_on_new_connections_only() {
    let world = world_with(|settings| settings.throttles = Throttles::default());
    let throttles = world.authenticator.throttles();
    let source: SocketAddr = SOURCE.parse().unwrap();
    throttles.succeeded(source.ip(), "bob");
    let mut before = world.attempt();
    before.none("alice").await;
    for _ in 0..4 {
        throttles.failed(source.ip(), "alice", Mistake::Code, SessionId([1; 16]));
    }
    let step = world.attempt().none("alice").await;
    assert!(matches!(step, Step::Disconnect), "{step:?}");
    let refused = world.log.of(EventKind::AuthResult).pop().unwrap();
    assert_eq!(refused.reason.as_deref(), Some("name_penalty"));
    assert!(is_rejected(&world.attempt().none("carol").await));
    accepted(exchange(&mut before, "alice", PASSWORD, &world.code()).await);
    assert!(
        is_rejected(&world.attempt().none("alice").await),
        "the login forgave"
    );
}

#[tokio::test]
async fn the_failures_that_end_a_connection_are_those_of_the_rules_under_which_it_began() {
    let mut world = world();
    let mut early = world.attempt();
    world.authenticator = world.authenticator.reconfigured(1, FlowRules::default());
    let mut late = world.attempt();
    let foreign = public_key::parse(samples::ED25519_OTHER).unwrap();
    let ed25519 = Algorithm::Ed25519;
    let step = early.public_key_verified("alice", &ed25519, &foreign).await;
    assert!(is_rejected(&step));
    let step = late.public_key_verified("alice", &ed25519, &foreign).await;
    assert!(matches!(step, Step::Disconnect));
}

#[tokio::test]
async fn a_spent_code_is_no_guess() {
    let (world, mut bans) = with_bans();
    let code = world.code();
    accepted(exchange(&mut world.attempt(), "alice", PASSWORD, &code).await);
    for _ in 0..6 {
        let step = exchange(&mut world.attempt(), "alice", PASSWORD, &code).await;
        assert!(is_rejected(&step));
    }
    assert!(bans.try_recv().is_err());
}

#[tokio::test]
async fn the_wrong_keys_of_one_connection_count_as_one_failure_unless_it_gets_in() {
    let (world, mut bans) = with_bans();
    let foreign = public_key::parse(samples::ED25519_OTHER).unwrap();
    let ed25519 = Algorithm::Ed25519;
    for connection in 1..=3 {
        let mut attempt = world.attempt();
        for _ in 0..4 {
            attempt
                .public_key_verified("alice", &ed25519, &foreign)
                .await;
        }
        drop(attempt);
        assert_eq!(bans.try_recv().is_ok(), connection == 3);
    }
    for _ in 0..4 {
        let mut attempt = world.attempt();
        for _ in 0..4 {
            attempt
                .public_key_verified("alice", &ed25519, &foreign)
                .await;
        }
        show_key(&world, &mut attempt).await;
        accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
        drop(attempt);
        assert!(bans.try_recv().is_err());
    }
}
