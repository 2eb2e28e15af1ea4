//! A database that can't be used, and a clock that jumps: nobody gets in, the record says why, and service returns.

use std::path::PathBuf;

use rusqlite::Connection;

use super::*;

fn database(world: &World) -> PathBuf {
    world.directory.path().join("accounts.db")
}

async fn log_in(world: &World) -> Step {
    exchange(&mut world.attempt(), "alice", PASSWORD, &world.code()).await
}

#[tokio::test]
async fn while_another_process_holds_the_database_no_code_is_accepted_and_the_record_says_why() {
    let world = world();
    let other = Connection::open(database(&world)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    assert!(is_rejected(&log_in(&world).await));
    assert!(begin.elapsed() < DEADLINE, "the wait is bounded");
    assert_eq!(world.log.reasons(), ["right", "accounts_locked"]);
    other.execute_batch("ROLLBACK").unwrap();
    accepted(log_in(&world).await);
}

#[tokio::test]
async fn a_database_that_can_not_be_written_lets_nobody_in() {
    let world = world();
    world.accounts.forbid_writes(true);
    assert!(is_rejected(&log_in(&world).await));
    assert_eq!(world.log.reasons(), ["right", "accounts_read_only"]);
    world.accounts.forbid_writes(false);
    accepted(log_in(&world).await);
}

#[tokio::test]
async fn a_database_of_a_newer_program_lets_nobody_in() {
    let world = world();
    let newer = Connection::open(database(&world)).unwrap();
    let version: i64 = newer
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    newer
        .pragma_update(None, "user_version", version + 1)
        .unwrap();
    assert!(is_rejected(&log_in(&world).await));
    let reasons = world.log.reasons();
    assert!(
        !reasons.is_empty() && reasons.iter().all(|reason| reason == "accounts_newer"),
        "{reasons:?}"
    );
    newer.pragma_update(None, "user_version", version).unwrap();
    accepted(log_in(&world).await);
}

#[tokio::test]
async fn a_table_that_is_gone_lets_nobody_in() {
    let world = world();
    let other = Connection::open(database(&world)).unwrap();
    other
        .execute_batch("ALTER TABLE totp RENAME TO elsewhere")
        .unwrap();
    assert!(is_rejected(&log_in(&world).await));
    let reasons = world.log.reasons();
    assert!(
        reasons
            .iter()
            .all(|reason| reason == "accounts_unavailable"),
        "{reasons:?}"
    );
    other
        .execute_batch("ALTER TABLE elsewhere RENAME TO totp")
        .unwrap();
    accepted(log_in(&world).await);
}

#[tokio::test]
async fn a_value_that_makes_no_sense_is_damage_and_no_factor() {
    let world = world();
    let other = Connection::open(database(&world)).unwrap();
    let break_it = |algorithm: &str| {
        other
            .execute_batch(&format!(
                "PRAGMA ignore_check_constraints = ON; UPDATE totp SET algorithm = '{algorithm}'"
            ))
            .unwrap();
    };
    break_it("rot13");
    assert!(is_rejected(&log_in(&world).await));
    assert_eq!(world.log.reasons(), ["right", "accounts_damaged"]);
    break_it("sha1");
    accepted(log_in(&world).await);
}

#[tokio::test]
async fn a_clock_that_jumps_back_lets_no_code_in_twice() {
    let world = world();
    let code = world.code();
    accepted(log_in(&world).await);
    let day = Duration::from_secs(24 * 3600);
    world.pass(day);
    accepted(log_in(&world).await);
    let back = day.as_secs() as i64;
    world.seconds.fetch_sub(back, Ordering::SeqCst);
    let again = exchange(&mut world.attempt(), "alice", PASSWORD, &code).await;
    assert!(is_rejected(&again));
    assert_eq!(world.log.reasons().last().unwrap(), "code_replayed");
    world.pass(day + Duration::from_secs(30));
    accepted(log_in(&world).await);
}
