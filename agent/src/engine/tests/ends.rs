//! Ends of bans and entries, and clocks that are set.

use super::*;

#[tokio::test]
async fn a_ban_is_swept_at_its_end_and_on_record() {
    let mut bench = Bench::new().await;
    bench.ban("198.51.100.7").await.unwrap();
    bench.pass(MINUTE - Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.banned().len(), 1);
    bench.pass(Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert!(bench.banned().is_empty());
    assert_eq!(bench.actions(), ["ban", "expire"]);
    assert_eq!(bench.kept(), (0, 0));
}

#[tokio::test]
async fn a_ban_goes_on_after_a_restart_for_the_time_that_is_left() {
    let mut bench = Bench::new().await;
    bench.ban("198.51.100.7").await.unwrap();
    bench.pass(Duration::from_secs(50));
    bench.restart().await;
    bench.pass(Duration::from_secs(9));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.banned().len(), 1);
    bench.pass(Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert!(bench.banned().is_empty());
}

#[tokio::test]
async fn a_ban_that_is_prolonged_stays_the_same_rule() {
    let mut bench = Bench::new().await;
    bench.ban("198.51.100.7").await.unwrap();
    bench.pass(Duration::from_secs(30));
    bench.ban("198.51.100.7").await.unwrap();
    assert_eq!(bench.banned().len(), 1);
    bench.pass(Duration::from_secs(45));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.banned().len(), 1);
}

#[tokio::test]
async fn a_clock_that_is_set_lifts_no_ban_early_and_keeps_none_longer() {
    for hours in [1, -1] {
        let mut bench = Bench::new().await;
        bench.ban("198.51.100.7").await.unwrap();
        bench.now.wall += TimeDelta::hours(hours);
        bench.engine.tick(bench.now).await;
        assert_eq!(bench.banned().len(), 1, "{hours}");
        bench.restart().await;
        bench.pass(MINUTE - Duration::from_secs(1));
        bench.engine.tick(bench.now).await;
        assert_eq!(bench.banned().len(), 1, "{hours}");
        bench.pass(Duration::from_secs(1));
        bench.engine.tick(bench.now).await;
        assert!(bench.banned().is_empty(), "{hours}");
    }
}

#[tokio::test]
async fn an_entry_is_swept_at_its_end_as_a_revision_of_its_own() {
    let mut bench = Bench::new().await;
    let entries = vec![
        ending("203.0.113.0/24", bench.now.wall + MINUTE),
        Entry::allow(net("192.0.2.0/24")),
    ];
    bench
        .change(Change::Add(entries), Terms::default())
        .await
        .unwrap();
    bench.pass(MINUTE - Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed().len(), 2);
    bench.pass(Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed(), [net("192.0.2.0/24")]);
    assert_eq!(bench.actions(), ["add", "expire"]);
    assert_eq!(bench.engine.revision, 2);
    assert_eq!(bench.kept(), (1, 0));
}

#[tokio::test]
async fn an_entry_that_ended_while_no_daemon_ran_is_not_put_in_force_again() {
    let mut bench = Bench::new().await;
    let entries = vec![
        ending("203.0.113.0/24", bench.now.wall + MINUTE),
        Entry::allow(net("192.0.2.0/24")),
    ];
    bench
        .change(Change::Add(entries), Terms::default())
        .await
        .unwrap();
    bench.pass(MINUTE);
    bench.restart().await;
    assert_eq!(bench.allowed(), [net("192.0.2.0/24")]);
}

#[tokio::test]
async fn a_date_is_believed_once_a_clock_that_was_set_by_a_lot_has_settled() {
    let mut bench = Bench::new().await;
    let entry = ending("203.0.113.0/24", bench.now.wall + TimeDelta::days(90));
    bench
        .change(Change::Add(vec![entry]), Terms::default())
        .await
        .unwrap();
    bench.now.wall += TimeDelta::days(365);
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed().len(), 1);
    assert_eq!(bench.engine.status(bench.now).unwrap().warnings.len(), 1);
    bench.pass(Duration::from_secs(30));
    bench.now.wall -= TimeDelta::days(365);
    bench.engine.tick(bench.now).await;
    bench.pass(MINUTE * 2);
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed().len(), 1, "it was a mistake");
    bench.now.wall += TimeDelta::days(365);
    bench.engine.tick(bench.now).await;
    bench.pass(MINUTE);
    bench.engine.tick(bench.now).await;
    assert!(bench.allowed().is_empty(), "it was not");
}

#[tokio::test]
async fn an_entry_that_ends_while_a_change_waits_ends_after_it() {
    let mut bench = Bench::new().await;
    let entry = ending("203.0.113.0/24", bench.now.wall + Duration::from_secs(30));
    bench
        .change(Change::Add(vec![entry]), Terms::default())
        .await
        .unwrap();
    let change = Change::Add(vec![Entry::allow(net("192.0.2.0/24"))]);
    bench.change(change, within(60)).await.unwrap();
    bench.pass(Duration::from_secs(40));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed().len(), 2);
    bench.pass(Duration::from_secs(20));
    bench.engine.tick(bench.now).await;
    assert!(bench.allowed().is_empty());
    assert_eq!(bench.actions(), ["add", "add", "revert", "expire"]);
}

#[tokio::test]
async fn a_ban_that_ended_while_no_daemon_ran_is_ended_on_record_and_on_the_disk() {
    let mut bench = Bench::new().await;
    bench.ban("198.51.100.7").await.unwrap();
    bench.pass(MINUTE);
    bench.restart().await;
    assert!(bench.banned().is_empty());
    assert_eq!(bench.actions(), ["ban", "expire"]);
    assert_eq!(bench.kept(), (0, 0));
}
