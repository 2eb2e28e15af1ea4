//! Changes that wait for their confirmation.

use super::*;

async fn waiting() -> Bench {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    let reply = bench.replace(&["192.0.2.0/24"], within(60)).await.unwrap();
    assert_eq!(reply.confirm_by, Some(bench.now.wall + MINUTE));
    assert_eq!(bench.allowed(), [net("192.0.2.0/24")]);
    bench
}

async fn confirm(bench: &mut Bench, connection: u64) -> Result<ChangeReply, Failure> {
    let terms = Terms::default();
    bench
        .engine
        .confirm(&terms, &root(connection), bench.now)
        .await
}

#[tokio::test]
async fn a_change_that_is_confirmed_stays() {
    let mut bench = waiting().await;
    confirm(&mut bench, 2).await.unwrap();
    bench.pass(MINUTE * 2);
    bench.engine.tick(bench.now).await;
    bench.restart().await;
    assert_eq!(bench.allowed(), [net("192.0.2.0/24")]);
    assert_eq!(bench.actions(), ["add", "replace", "confirm"]);
}

#[tokio::test]
async fn a_change_that_is_not_confirmed_in_time_is_taken_back_and_not_a_second_sooner() {
    let mut bench = waiting().await;
    bench.pass(MINUTE - Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed(), [net("192.0.2.0/24")]);
    bench.pass(Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    assert_eq!(bench.actions(), ["add", "replace", "revert"]);
    assert_eq!(
        confirm(&mut bench, 2).await.unwrap_err().code,
        Code::Conflict
    );
    bench.restart().await;
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
}

#[tokio::test]
async fn the_connection_that_asked_can_not_confirm_and_another_can() {
    let mut bench = waiting().await;
    let refused = confirm(&mut bench, 1).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.message.contains("new connection"), "{refused}");
    assert!(confirm(&mut bench, 2).await.is_ok());
}

#[tokio::test]
async fn a_change_can_be_taken_back_before_its_time() {
    let mut bench = waiting().await;
    let terms = Terms::default();
    bench
        .engine
        .revert(&terms, &root(1), bench.now)
        .await
        .unwrap();
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    assert_eq!(
        bench
            .engine
            .revert(&terms, &root(1), bench.now)
            .await
            .unwrap_err()
            .code,
        Code::Conflict
    );
}

#[tokio::test]
async fn while_a_change_waits_lists_stay_and_bans_are_made_and_survive_the_way_back() {
    let mut bench = waiting().await;
    assert_eq!(
        bench.add("198.51.100.0/24").await.unwrap_err().code,
        Code::Conflict
    );
    bench.ban("198.51.100.7").await.unwrap();
    bench.pass(MINUTE - Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.banned(), [net("198.51.100.7")]);
    let terms = Terms::default();
    bench
        .engine
        .revert(&terms, &root(2), bench.now)
        .await
        .unwrap();
    assert_eq!(bench.banned(), [net("198.51.100.7")]);
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
}

#[tokio::test]
async fn a_source_that_came_to_be_protected_meanwhile_is_so_after_the_way_back() {
    let mut bench = waiting().await;
    let facts = LiveFacts {
        protected: BTreeMap::from([(net("198.51.100.9"), "gateway".to_owned())]),
        has_session: false,
    };
    bench.engine.protect(facts).unwrap();
    let terms = Terms::default();
    bench
        .engine
        .revert(&terms, &root(2), bench.now)
        .await
        .unwrap();
    let protected = bench.datapath.told().with(&Action::Protect);
    assert_eq!(protected, [net(ADMIN), net("198.51.100.9")]);
}

#[tokio::test]
async fn a_way_back_that_can_not_be_recorded_is_tried_again() {
    let mut bench = waiting().await;
    bench.pass(MINUTE);
    bench.notebook.is_full.store(true, Ordering::SeqCst);
    bench.engine.tick(bench.now).await;
    bench.notebook.is_full.store(false, Ordering::SeqCst);
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
}

#[tokio::test]
async fn a_change_that_the_kernel_refuses_does_not_wait_for_anything() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    bench.datapath.set_refuses(true);
    let refused = bench
        .replace(&["192.0.2.0/24"], within(60))
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Kernel);
    bench.datapath.set_refuses(false);
    bench.engine.tick(bench.now).await;
    assert!(bench.engine.pending.is_none());
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    bench.restart().await;
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
}

#[tokio::test]
async fn the_time_to_confirm_has_bounds() {
    let mut bench = Bench::new().await;
    for (seconds, is_good) in [(0, false), (1, true), (3600, true), (3601, false)] {
        let dry = Terms {
            dry_run: true,
            ..within(seconds)
        };
        let reply = bench.replace(&["192.0.2.0/24"], dry).await;
        assert_eq!(reply.is_ok(), is_good, "{seconds}: {reply:?}");
    }
}
