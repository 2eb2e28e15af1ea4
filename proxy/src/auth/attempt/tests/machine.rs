use portcullis_journal::AccountKind;

use super::*;
use crate::{
    accounts::{
        machine::{Direction, MachinePolicy},
        restrictions::Changes,
    },
    policy::{Mount, Permissions},
    testing::everything,
};

fn robot() -> AccountName {
    "robot".parse().unwrap()
}

/// Alice's key belongs to a machine account with every control in place.
fn world_with_robot() -> World {
    let world = world();
    let admin = world.administer();
    let fingerprint = public_key::fingerprint(&world.key);
    admin.remove_key(&alice(), &fingerprint).unwrap();
    admin.add(&robot(), AccountKind::Machine, None).unwrap();
    admin.add_key(&robot(), &world.key).unwrap();
    admin.set_password(&robot(), &PHC).unwrap();
    let changes = Changes {
        owner: Some(Some("Billing".to_owned())),
        hours: Some(Some("Mon-Sun 00:00-24:00".parse().unwrap())),
        sources: Some(vec!["192.0.2.7/32".parse().unwrap()]),
        ..Changes::default()
    };
    admin.set(&robot(), &changes).unwrap();
    let mount = Mount {
        directory: b"/out".to_vec(),
        permissions: Permissions {
            list: true,
            read: true,
            ..Permissions::default()
        },
        ..everything("/out", "legacy")
    };
    admin.mount(&robot(), &mount).unwrap();
    let now = world.authenticator.shared.clock.now();
    let policy = MachinePolicy {
        exception: Exception {
            reason: "nightly pick-up".to_owned(),
            approver: "J. Doe".to_owned(),
            expires: now.date_naive() + chrono::TimeDelta::days(30),
        },
        direction: Direction::Get,
        daily_bytes: 1000,
    };
    admin.set_machine_policy(&robot(), &policy, now).unwrap();
    world
}

async fn key_from(world: &World, source: &str) -> Step {
    let source = source.parse().unwrap();
    let mut attempt = world.authenticator.attempt(source, SessionId([7; 16]));
    attempt
        .public_key_verified("robot", &Algorithm::Ed25519, &world.key)
        .await
}

#[tokio::test]
async fn a_key_alone_logs_a_machine_in_and_the_record_names_what_makes_up_for_it() {
    let world = world_with_robot();
    let user = accepted(key_from(&world, SOURCE).await);
    assert_eq!(user.policy(), "machine");
    assert!(!user.is_mfa());
    let results = world.log.of(EventKind::AuthResult);
    assert_eq!(results[0].body["is_mfa"], false);
    let compensating = results[0].body["compensating"].as_array().unwrap();
    assert_eq!(compensating.len(), 9);
    assert!(compensating.contains(&"daily-volume".into()));
}

#[tokio::test]
async fn another_source_the_day_after_the_end_and_a_full_day_keep_a_machine_out() {
    let world = world_with_robot();
    assert!(is_rejected(&key_from(&world, "192.0.2.8:40000").await));
    let uid = world.accounts.profile("robot").unwrap().unwrap().uid;
    let now = world.authenticator.shared.clock.now();
    world.accounts.add_volume(uid, 999, now).unwrap();
    accepted(key_from(&world, SOURCE).await);
    world.accounts.add_volume(uid, 1, now).unwrap();
    assert!(is_rejected(&key_from(&world, SOURCE).await));
    world.pass(Duration::from_secs(24 * 3600));
    accepted(key_from(&world, SOURCE).await);
    world.pass(Duration::from_secs(30 * 24 * 3600));
    assert!(is_rejected(&key_from(&world, SOURCE).await));
    let reasons = world.log.reasons();
    assert_eq!(
        reasons,
        [
            "source_not_allowed",
            "right",
            "machine_volume_used_up",
            "right",
            "machine_policy_expired"
        ]
    );
}

#[tokio::test]
async fn a_control_that_is_taken_away_keeps_the_machine_out_and_the_record_names_it() {
    let world = world_with_robot();
    let changes = Changes {
        owner: Some(None),
        ..Changes::default()
    };
    world.administer().set(&robot(), &changes).unwrap();
    assert!(is_rejected(&key_from(&world, SOURCE).await));
    assert_eq!(world.log.reasons(), ["machine_lacks_owner"]);
}

#[tokio::test]
async fn what_is_typed_never_helps_a_machine() {
    let world = world_with_robot();
    let mut attempt = world.attempt();
    let step = exchange(&mut attempt, "robot", PASSWORD, "").await;
    assert!(is_rejected(&step), "{step:?}");
    let mut attempt = world.attempt();
    let step = attempt.password("robot", Secret::from(PASSWORD)).await;
    assert!(is_rejected(&step), "no partial success: {step:?}");
    assert!(
        world.log.reasons().iter().all(|reason| reason != "right"),
        "{:?}",
        world.log.reasons()
    );
}
