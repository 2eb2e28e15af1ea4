//! Passwords that are outdated or expired, recovery codes, and codes that are no codes.

use super::*;
use crate::{
    accounts::RecoveryHash,
    auth::{
        password::{Cost, PasswordPolicy},
        recovery::{self, RecoveryCode},
    },
};

/// Passwords that cost next to nothing, where their price is not the point.
fn cheap_world() -> World {
    let world = world_with(|settings| {
        settings.passwords.cost = Cost::LEAST;
        settings.max_failures = 1000;
    });
    let hasher = Hasher::with_cost(Cost::LEAST).unwrap();
    let phc = hasher.hash(&Secret::from(PASSWORD)).unwrap();
    world.administer().set_password(&alice(), &phc).unwrap();
    world
}

/// Alice's recovery codes.
fn issue(world: &World) -> Vec<RecoveryCode> {
    let hasher = Hasher::with_cost(Cost::LEAST).unwrap();
    let codes = recovery::generate().unwrap();
    let hashes: Vec<_> = codes
        .iter()
        .map(|code| RecoveryHash {
            number: code.number(),
            phc: hasher.hash(&code.secret()).unwrap(),
        })
        .collect();
    world
        .administer()
        .set_recovery_codes(&alice(), &hashes)
        .unwrap();
    codes
}

async fn log_in_with(world: &World, code: &str) -> Step {
    exchange(&mut world.attempt(), "alice", PASSWORD, code).await
}

fn stored_hash(world: &World) -> String {
    let mut former = world.accounts.former_passwords(&alice()).unwrap();
    former.remove(0)
}

#[tokio::test]
async fn a_weaker_hash_is_upgraded_by_a_right_password_and_by_no_other() {
    let cost = Cost {
        memory_kib: 64,
        passes: 2,
        lanes: 1,
    };
    let world = world_with(|settings| settings.passwords.cost = cost);
    let hasher = Hasher::with_cost(Cost::LEAST).unwrap();
    let weak = hasher.hash(&Secret::from(PASSWORD)).unwrap();
    world.administer().set_password(&alice(), &weak).unwrap();
    let epoch = world.profile().epoch;

    let step = exchange(&mut world.attempt(), "alice", "wrong horse battery", "1").await;
    assert!(is_rejected(&step));
    assert_eq!(stored_hash(&world), weak);
    accepted(log_in_with(&world, &world.code()).await);
    let upgraded = stored_hash(&world);
    assert!(
        upgraded.starts_with("$argon2id$v=19$m=64,t=2,p=1$"),
        "{upgraded}"
    );
    assert_eq!(world.profile().epoch, epoch, "no session ends for it");
    world.pass(Duration::from_secs(30));
    accepted(log_in_with(&world, &world.code()).await);
    assert_eq!(stored_hash(&world), upgraded);
}

#[tokio::test]
async fn an_expired_password_is_answered_as_a_wrong_one_and_has_its_own_reason() {
    let day = 24 * 3600;
    let set_at = Utc::now().timestamp();
    let world = world_with(|settings| {
        settings.passwords = PasswordPolicy {
            max_age: chrono::TimeDelta::try_days(30),
            ..PasswordPolicy::default()
        };
    });
    world.seconds.store(set_at + 31 * day, Ordering::SeqCst);
    let wrong = exchange(&mut world.attempt(), "alice", "wrong horse battery", "1").await;
    let expired = log_in_with(&world, &world.code()).await;
    assert_eq!(format!("{expired:?}"), format!("{wrong:?}"));
    assert_eq!(
        world.log.reasons(),
        ["password_expired", "after_bad_password"].repeat(2)
    );
    world.seconds.store(set_at + 29 * day, Ordering::SeqCst);
    accepted(log_in_with(&world, &world.code()).await);
}

#[tokio::test]
async fn a_recovery_code_logs_in_once_and_the_record_is_loud() {
    let world = cheap_world();
    let codes = issue(&world);
    let user = accepted(log_in_with(&world, &codes[3].written()).await);
    assert_eq!(user.factors(), [Factor::Password, Factor::RecoveryCode]);
    assert!(user.is_mfa());
    let step = world.log.of(EventKind::AuthStep).pop().unwrap();
    assert_eq!(step.body["factor"], "recovery-code");
    assert_eq!(step.body["alert"], "recovery_code_used");
    let printed = format!("{:?}", world.log.all());
    assert!(!printed.contains(codes[3].written().as_str()));

    assert!(is_rejected(&log_in_with(&world, &codes[3].written()).await));
    assert!(is_rejected(&log_in_with(&world, &world.code()).await));
    let swapped = format!("5{}", &codes[4].written()[1..]);
    assert!(is_rejected(&log_in_with(&world, &swapped).await));
    let reasons = world.log.reasons();
    assert_eq!(reasons[3], "recovery_code_replayed");
    assert_eq!(reasons[5], "authenticator_lost");
    assert_eq!(reasons[7], "bad_recovery_code");
    accepted(log_in_with(&world, &codes[4].written()).await);

    world
        .administer()
        .enroll_totp(&alice(), &world.phone)
        .unwrap();
    assert!(is_rejected(&log_in_with(&world, &codes[5].written()).await));
    accepted(log_in_with(&world, &world.code()).await);
}

#[tokio::test]
async fn recovery_codes_tell_a_stranger_nothing_and_are_not_spent_after_a_wrong_password() {
    let world = cheap_world();
    let codes = issue(&world);
    let code = codes[0].written();
    let wrong = exchange(&mut world.attempt(), "alice", "wrong horse battery", &code).await;
    let unknown = exchange(&mut world.attempt(), "nobody", PASSWORD, &code).await;
    assert!(is_rejected(&wrong));
    assert_eq!(format!("{unknown:?}"), format!("{wrong:?}"));
    let reasons = world.log.reasons();
    assert_eq!(reasons[1], "after_bad_password");
    assert_eq!(reasons[3], "no_enabled_account");
    accepted(log_in_with(&world, &code).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_50_parallel_logins_with_one_code_exactly_one_succeeds_in_each_of_200_rounds() {
    let world = cheap_world();
    for round in 0..200 {
        let code = world.code();
        let logins: Vec<_> = (0..50)
            .map(|_| {
                let (mut attempt, code) = (world.attempt(), code.clone());
                tokio::spawn(async move { exchange(&mut attempt, "alice", PASSWORD, &code).await })
            })
            .collect();
        let mut successes = 0;
        for login in logins {
            let step = login.await.unwrap();
            assert!(
                matches!(step, Step::Accepted(_)) || is_rejected(&step),
                "{step:?}"
            );
            successes += usize::from(matches!(step, Step::Accepted(_)));
        }
        assert_eq!(successes, 1, "round {round}");
        world.pass(Duration::from_secs(30));
        world.log.events.lock().unwrap().clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_20_parallel_logins_with_one_recovery_code_exactly_one_succeeds() {
    let world = cheap_world();
    for code in &issue(&world) {
        let logins: Vec<_> = (0..20)
            .map(|_| {
                let (mut attempt, code) = (world.attempt(), code.written());
                tokio::spawn(async move { exchange(&mut attempt, "alice", PASSWORD, &code).await })
            })
            .collect();
        let mut successes = 0;
        for login in logins {
            successes += usize::from(matches!(login.await.unwrap(), Step::Accepted(_)));
        }
        assert_eq!(successes, 1);
    }
}

#[tokio::test]
async fn the_tenth_wrong_code_in_a_row_is_an_alert_and_the_twentieth_locks_the_authenticator() {
    let world = cheap_world();
    for _ in 0..20 {
        let step = log_in_with(&world, &world.wrong_code()).await;
        assert!(is_rejected(&step));
        world.pass(Duration::from_secs(3600));
    }
    let codes: Vec<_> = world
        .log
        .of(EventKind::AuthStep)
        .into_iter()
        .filter(|step| step.body["factor"] == "totp")
        .map(|step| step.body)
        .collect();
    assert_eq!(codes.len(), 20);
    for (body, failures) in codes.iter().zip(1..) {
        assert_eq!(body["factor_fail_count"], failures);
        assert_eq!(body.contains_key("alert"), failures == 10 || failures == 20);
        assert_eq!(body.contains_key("locked"), failures == 20);
    }
    assert!(is_rejected(&log_in_with(&world, &world.code()).await));
    assert_eq!(world.log.reasons().last().unwrap(), "code_locked");
}

#[tokio::test]
async fn answers_that_are_no_codes_are_wrong_codes_whatever_they_are() {
    let world = cheap_world();
    let right = world.code();
    let odd = [
        right
            .chars()
            .map(|digit| char::from_u32(0x660 + digit.to_digit(10).unwrap()).unwrap())
            .collect(),
        right
            .chars()
            .map(|digit| char::from_u32(0xFF10 + digit.to_digit(10).unwrap()).unwrap())
            .collect(),
        format!("{} {}", &right[..2], &right[2..]),
        format!("{right} "),
        format!("{right}\0"),
        format!("00{right}"),
        right.repeat(1_000_000 / 6),
        " ".to_owned(),
        "\u{7f}\u{1b}[2J".to_owned(),
    ];
    for answer in &odd {
        assert!(
            is_rejected(&log_in_with(&world, answer).await),
            "{answer:?}"
        );
        // Past the delay that follows the fifth.
        world.pass(Duration::from_secs(3600));
    }
    let reasons = world.log.reasons();
    let wrong = reasons.iter().filter(|reason| *reason == "bad_code");
    assert_eq!(wrong.count(), odd.len());
    let bytes = Secret::from(vec![0xFF; 6]);
    let mut attempt = world.attempt();
    attempt.keyboard_interactive("alice", None).await;
    for answer in [Secret::from(PASSWORD), bytes] {
        attempt
            .keyboard_interactive("alice", Some(vec![answer]))
            .await;
    }
    assert_eq!(world.log.reasons().last().unwrap(), "bad_code");
    world.pass(Duration::from_secs(3600));
    let code = world.code();
    let grouped = format!("{} {}", &code[..3], &code[3..]);
    accepted(log_in_with(&world, &grouped).await);
}

#[tokio::test]
async fn a_password_of_a_megabyte_is_wrong_and_the_next_right_one_is_not() {
    let world = cheap_world();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    for odd in [
        vec![b'x'; 1_000_000],
        vec![0xFF; 100],
        vec![0; 64],
        Vec::new(),
    ] {
        let step = attempt.password("alice", Secret::from(odd)).await;
        assert!(is_rejected(&step));
    }
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
}
