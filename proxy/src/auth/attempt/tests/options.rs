//! Clients that can do little: both prompts in one round, the code behind the password; and the single verdict.

use super::*;
use crate::auth::flow::{Prompts, VerdictMode};

fn appended(password: &str, code: &str) -> Secret {
    Secret::from(format!("{password}{code}"))
}

fn appending() -> World {
    let world = world();
    let admin = world.administer();
    admin.set_appended_code(&alice(), true).unwrap();
    world
}

#[tokio::test]
async fn the_code_behind_the_password_logs_in_by_method_and_by_prompt_and_is_spent() {
    let world = appending();
    let text = appended(PASSWORD, &world.code());
    let user = accepted(world.attempt().password("alice", text.clone()).await);
    assert_eq!(user.factors(), [Factor::Password, Factor::Totp]);
    assert_eq!(world.log.reasons(), ["right", "right"]);
    let steps = world.log.of(EventKind::AuthStep);
    assert_eq!(steps[0].body["factor"], "password");
    assert_eq!(steps[1].body["factor"], "totp");
    assert_eq!(steps[1].body["method"], "password");

    let again = world.attempt().password("alice", text).await;
    assert!(is_rejected(&again), "{again:?}");
    assert_eq!(world.log.reasons().last().unwrap(), "code_replayed");

    world.pass(Duration::from_secs(30));
    let mut attempt = world.attempt();
    attempt.keyboard_interactive("alice", None).await;
    let answer = Some(vec![appended(PASSWORD, &world.code())]);
    accepted(attempt.keyboard_interactive("alice", answer).await);
}

#[tokio::test]
async fn the_code_behind_the_password_is_a_wrong_password_to_other_accounts() {
    let world = world();
    let step = world
        .attempt()
        .password("alice", appended(PASSWORD, &world.code()))
        .await;
    assert!(is_rejected(&step));
    assert_eq!(world.log.reasons(), ["bad_password"]);
}

#[tokio::test]
async fn a_code_behind_a_wrong_password_is_not_spent_and_a_wrong_one_counts() {
    let world = appending();
    let code = world.code();
    let step = world
        .attempt()
        .password("alice", appended("wrong horse battery", &code))
        .await;
    assert!(is_rejected(&step));
    assert_eq!(world.log.reasons(), ["bad_password"]);
    let step = world
        .attempt()
        .password("alice", appended(PASSWORD, &world.wrong_code()))
        .await;
    assert!(is_rejected(&step));
    assert_eq!(world.log.reasons()[1..], ["right", "bad_code"]);
    let counted = world.log.of(EventKind::AuthStep).pop().unwrap();
    assert_eq!(counted.body["factor_fail_count"], 1);
    accepted(
        world
            .attempt()
            .password("alice", appended(PASSWORD, &code))
            .await,
    );
}

#[tokio::test]
async fn after_a_key_the_password_is_sent_alone_whatever_it_ends_in() {
    let world = appending();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    let text = appended(PASSWORD, &world.code());
    assert!(is_rejected(&attempt.password("alice", text).await));
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
}

#[tokio::test]
async fn both_prompts_in_one_round_log_in_and_want_two_responses() {
    let world = world();
    let admin = world.administer();
    admin
        .set_prompts(&alice(), Some(Prompts::OneRound))
        .unwrap();
    let mut attempt = world.attempt();
    let Step::Ask { prompts } = attempt.keyboard_interactive("alice", None).await else {
        panic!("asks")
    };
    let texts: Vec<_> = prompts.into_iter().map(|prompt| prompt.text).collect();
    assert_eq!(texts, ["Password: ", "One-time password: "]);
    let one = Some(vec![Secret::from(PASSWORD)]);
    let step = attempt.keyboard_interactive("alice", one).await;
    assert!(is_rejected(&step));
    assert_eq!(world.log.reasons(), ["response_count"]);

    for (password, code, right) in [
        (PASSWORD, world.wrong_code(), false),
        ("wrong horse battery", world.code(), false),
        (PASSWORD, world.code(), true),
    ] {
        attempt.keyboard_interactive("alice", None).await;
        let answers = Some(vec![Secret::from(password), Secret::from(code)]);
        let step = attempt.keyboard_interactive("alice", answers).await;
        assert_eq!(matches!(step, Step::Accepted(_)), right, "{step:?}");
    }
    let seen = world.log.reasons();
    assert_eq!(
        seen[1..],
        ["right", "bad_code", "bad_password", "right", "right"]
    );

    admin.set_prompts(&alice(), None).unwrap();
    let step = world.attempt().keyboard_interactive("alice", None).await;
    let Step::Ask { prompts } = step else {
        panic!("asks")
    };
    assert_eq!(prompts.len(), 1);
}

#[tokio::test]
async fn with_a_single_verdict_a_right_key_is_told_and_counted_as_a_wrong_one_and_still_helps() {
    let world = world_with(|settings| {
        settings.flow.verdict = VerdictMode::Single;
        settings.max_failures = 3;
    });
    let foreign = public_key::parse(samples::ED25519_OTHER).unwrap();
    let mut told = Vec::new();
    for key in [&world.key, &foreign] {
        let mut attempt = world.attempt();
        let mut transcript = Vec::new();
        for _ in 0..4 {
            let step = attempt
                .public_key_verified("alice", &Algorithm::Ed25519, key)
                .await;
            transcript.push(format!("{step:?}"));
        }
        told.push(transcript);
    }
    assert_eq!(told[0], told[1]);

    let mut attempt = world.attempt();
    assert!(is_rejected(&show_key(&world, &mut attempt).await));
    let user = accepted(exchange(&mut attempt, "alice", PASSWORD, "").await);
    assert_eq!(user.factors(), [Factor::PublicKey, Factor::Password]);
}
