//! What a client can tell from what it is answered, and when.

use super::*;

/// What a client sees of a step.
fn seen(step: Option<Step>) -> String {
    format!("{step:?}")
}

async fn probe(world: &World, user: &str) -> Vec<String> {
    let mut attempt = world.attempt();
    let foreign = public_key::parse(samples::ED25519_OTHER).unwrap();
    let ed25519 = Algorithm::Ed25519;
    let wrong = || Secret::from("wrong horse battery");
    let mut transcript = Vec::new();
    transcript.push(seen(Some(attempt.none(user).await)));
    for key in [&foreign, &world.key] {
        transcript.push(seen(attempt.public_key_offered(user, &ed25519, key).await));
    }
    let step = attempt.public_key_verified(user, &ed25519, &foreign).await;
    transcript.push(seen(Some(step)));
    transcript.push(seen(Some(attempt.password(user, wrong()).await)));
    let appended = Secret::from("wrong horse battery123456");
    transcript.push(seen(Some(attempt.password(user, appended).await)));
    transcript.push(seen(Some(attempt.keyboard_interactive(user, None).await)));
    for _ in 0..2 {
        let answer = Some(vec![wrong()]);
        let step = attempt.keyboard_interactive(user, answer).await;
        transcript.push(seen(Some(step)));
    }
    let step = exchange(&mut attempt, user, "", "").await;
    transcript.push(seen(Some(step)));
    transcript
}

#[tokio::test]
async fn unknown_disabled_and_unwritable_names_see_what_a_user_with_wrong_factors_sees() {
    let world = world();
    let known = probe(&world, "alice").await;
    assert_eq!(probe(&world, "nobody").await, known);
    assert_eq!(probe(&world, "no/\u{1b}[31mbody").await, known);
    assert_eq!(probe(&world, "").await, known);
    assert_eq!(probe(&world, &"x".repeat(100_000)).await, known);
    let admin = world.administer();
    admin.set_appended_code(&alice(), true).unwrap();
    assert_eq!(probe(&world, "alice").await, known);
    admin.disable(&alice()).unwrap();
    assert_eq!(probe(&world, "alice").await, known);
}

#[tokio::test]
async fn a_failure_is_told_after_the_floor_and_a_wrong_password_is_not_told_at_once() {
    let floor = Duration::from_millis(700);
    let world = world_with(|settings| settings.failure_floor = floor);
    let mut attempt = world.attempt();
    for user in ["alice", "nobody"] {
        for password in [PASSWORD, "wrong horse battery"] {
            attempt.keyboard_interactive(user, None).await;
            let before = Instant::now();
            let answer = Some(vec![Secret::from(password)]);
            let step = attempt.keyboard_interactive(user, answer).await;
            assert!(matches!(step, Step::Ask { .. }));
            assert!(before.elapsed() >= floor, "{user} {password}");
        }
        let before = Instant::now();
        let foreign = public_key::parse(samples::ED25519_OTHER).unwrap();
        let step = attempt
            .public_key_verified(user, &Algorithm::Ed25519, &foreign)
            .await;
        let Step::Rejected { delay, .. } = step else {
            panic!("{step:?}")
        };
        assert!(before.elapsed() + delay >= floor);
        assert!(delay <= floor);
    }
}

#[tokio::test]
async fn a_right_first_factor_is_told_without_the_delay_of_a_failure() {
    let floor = Duration::from_secs(3600);
    let world = world_with(|settings| settings.failure_floor = floor);
    let mut attempt = world.attempt();
    let told = tokio::time::timeout(DEADLINE, show_key(&world, &mut attempt)).await;
    assert!(is_partial(&told.expect("without the floor")));
    let password = attempt.password("alice", Secret::from(PASSWORD));
    accepted(
        tokio::time::timeout(DEADLINE, password)
            .await
            .expect("soon"),
    );
}
