use chrono::TimeDelta;

use super::{admission::source, *};
use crate::{
    accounts::{
        admission::Refusal,
        audit,
        break_glass::{OPEN_MAX, OpeningRequest},
    },
    auth::{attempt::Withdrawal, break_glass::Custodian},
};

fn rescue() -> AccountName {
    "rescue".parse().unwrap()
}

/// With a sealed account that has alice's device, and both custodians.
fn world_with_rescue() -> World {
    let world = world();
    let admin = world.administer();
    admin.add(&rescue(), AccountKind::BreakGlass, None).unwrap();
    admin.set_password(&rescue(), &PHC).unwrap();
    admin.enroll_totp(&rescue(), &world.phone).unwrap();
    world
}

fn open(world: &World, span: TimeDelta) {
    let admin = world.administer();
    let [ann, ben] = ["ann", "ben"].map(|name| {
        let uid = admin.add(&name.parse().unwrap(), AccountKind::Admin, None);
        Custodian::for_test(uid.unwrap(), name)
    });
    let now = world.authenticator.shared.clock.now();
    let request = OpeningRequest {
        reason: "fire",
        custodians: [&ann, &ben],
        until: now + span,
        longest: OPEN_MAX,
    };
    admin.open_break_glass(&rescue(), &request, now).unwrap();
}

async fn log_in(world: &World) -> Step {
    exchange(&mut world.attempt(), "rescue", PASSWORD, &world.code()).await
}

#[tokio::test]
async fn both_factors_open_nothing_before_the_opening_is_on_record_and_its_end_cuts_the_session() {
    let world = world_with_rescue();
    assert!(is_rejected(&log_in(&world).await));
    open(&world, TimeDelta::hours(1));
    world.log.broken.store(true, Ordering::SeqCst);
    assert!(audit::relay(&world.accounts, &world.log).await.is_err());
    world.log.broken.store(false, Ordering::SeqCst);
    assert!(
        is_rejected(&log_in(&world).await),
        "the journal has no record"
    );
    let reasons = world.log.reasons();
    assert!(
        reasons.iter().all(|reason| reason == "break_glass_sealed"),
        "{reasons:?}"
    );

    audit::relay(&world.accounts, &world.log).await.unwrap();
    let user = accepted(log_in(&world).await);
    assert!(user.is_mfa());
    let results = world.log.of(EventKind::AuthResult);
    let opening = &results.last().unwrap().body["break_glass"];
    assert_eq!(opening["custodians"], serde_json::json!(["ann", "ben"]));
    assert_eq!(opening["reason"], "fire");

    let session = {
        let authenticator = world.authenticator.clone();
        tokio::spawn(async move { authenticator.until_revoked(&user, source()).await })
    };
    world.pass(Duration::from_secs(3599));
    tokio::task::yield_now().await;
    assert!(!session.is_finished());
    world.pass(Duration::from_secs(1));
    let end = tokio::time::timeout(DEADLINE, session)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end, Withdrawal::Refused(Refusal::Sealed));
    assert!(is_rejected(&log_in(&world).await));
}
