//! Ways to lock oneself out. Each ends with access.

use super::*;

#[tokio::test]
async fn a_list_without_the_admins_address_is_refused_to_the_admin() {
    let mut bench = Bench::new().await;
    bench.add("198.51.100.0/24").await.unwrap();
    let admin = remote("198.51.100.7");
    let list = |prefix: &str| Change::Replace([Entry::allow(net(prefix))].into_iter().collect());
    let terms = Terms::default();
    let refused = bench
        .engine
        .change(list("203.0.113.0/24"), &terms, &admin, bench.now)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Guard);
    assert!(refused.message.contains("your own session"), "{refused}");
    assert_eq!(bench.allowed(), [net("198.51.100.0/24")]);
    // A list that still has the address goes through, and so does one that is forced.
    bench
        .engine
        .change(list("198.51.100.7"), &terms, &admin, bench.now)
        .await
        .unwrap();
    bench
        .engine
        .change(list("203.0.113.0/24"), &forced(), &admin, bench.now)
        .await
        .unwrap();
    // A protected admin is never cut, whatever the list says.
    let protected = remote(ADMIN);
    bench
        .engine
        .change(list("192.0.2.128/25"), &terms, &protected, bench.now)
        .await
        .unwrap();
    assert!(
        bench
            .datapath
            .told()
            .with(&Action::Protect)
            .contains(&net(ADMIN))
    );
}

#[tokio::test]
async fn the_admins_own_session_can_not_be_banned_and_a_neighbour_can() {
    let mut bench = Bench::new().await;
    bench.add("198.51.100.0/24").await.unwrap();
    let admin = remote("198.51.100.7");
    let terms = Terms::default();
    for (source, is_made) in [
        ("198.51.100.7", false),
        ("198.51.100.0/24", false),
        ("198.51.100.8", true),
    ] {
        let made = bench
            .engine
            .ban(net(source), MINUTE, "", &terms, &admin, bench.now)
            .await;
        assert_eq!(made.is_ok(), is_made, "{source}: {made:?}");
    }
}

#[tokio::test]
async fn a_change_that_cuts_more_live_connections_than_the_limit_is_refused() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    bench.connect(&["203.0.113.1", "203.0.113.2"]);
    let remove = || Change::Remove(vec![net("203.0.113.0/24")]);
    let dry = Terms {
        dry_run: true,
        ..Terms::default()
    };
    assert_eq!(
        bench
            .change(remove(), dry)
            .await
            .unwrap()
            .preview
            .unwrap()
            .impact
            .cut_flows,
        2
    );
    bench.connect(&["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
    let refused = bench.change(remove(), Terms::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::Guard);
    assert!(refused.message.contains("3 live connections"), "{refused}");
    // A network with others in it is guarded as a list is; whoever bans one source means its connections.
    assert_eq!(
        bench.ban("203.0.113.0/24").await.unwrap_err().code,
        Code::Guard
    );
    bench.connect(&["203.0.113.1", "203.0.113.1", "203.0.113.1"]);
    assert!(bench.ban("203.0.113.1").await.is_ok());
    assert!(bench.change(remove(), forced()).await.is_ok());
}

#[tokio::test]
async fn default_deny_with_no_list_is_not_begun_unless_somebody_is_protected() {
    let nobody = Bench::protecting(&[]).await;
    let facts = |has_session| LiveFacts {
        protected: BTreeMap::from([(net("198.51.100.9"), "gateway".to_owned())]),
        has_session,
    };
    assert!(!nobody.engine.lets_anyone_in(&LiveFacts::default()));
    assert!(!nobody.engine.lets_anyone_in(&facts(false)), "a gateway");
    assert!(nobody.engine.lets_anyone_in(&facts(true)));
    let bench = Bench::new().await;
    assert!(bench.engine.lets_anyone_in(&LiveFacts::default()));
}

#[tokio::test]
async fn a_list_that_lets_nobody_in_is_refused_where_nobody_is_protected() {
    let mut bench = Bench::protecting(&[]).await;
    bench.add("203.0.113.0/24").await.unwrap();
    let refused = bench.replace(&[], Terms::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::Guard);
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    let mut protected = Bench::new().await;
    protected.add("203.0.113.0/24").await.unwrap();
    assert!(protected.replace(&[], Terms::default()).await.is_ok());
}

#[tokio::test]
async fn the_last_entry_ends_where_somebody_is_protected_and_stays_where_nobody_is() {
    for (protected, left) in [(&[ADMIN] as &[&str], 0), (&[], 1)] {
        let mut bench = Bench::protecting(protected).await;
        let entry = ending("203.0.113.0/24", bench.now.wall + MINUTE);
        bench
            .change(Change::Add(vec![entry]), Terms::default())
            .await
            .unwrap();
        bench.pass(MINUTE);
        bench.engine.tick(bench.now).await;
        assert_eq!(bench.allowed().len(), left);
        let warnings = bench.engine.status(bench.now).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        bench.restart().await;
        assert_eq!(bench.allowed().len(), left, "after a restart too");
    }
}

#[tokio::test]
async fn a_confirmation_that_is_missed_ends_with_the_lists_before() {
    let mut bench = Bench::new().await;
    bench.add("198.51.100.0/24").await.unwrap();
    let admin = remote("198.51.100.7");
    let change = Change::Replace([Entry::allow(net("203.0.113.0/24"))].into_iter().collect());
    let terms = Terms {
        force: true,
        ..within(60)
    };
    bench
        .engine
        .change(change, &terms, &admin, bench.now)
        .await
        .unwrap();
    bench.pass(MINUTE);
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.allowed(), [net("198.51.100.0/24")]);
}

#[tokio::test]
async fn a_daemon_killed_inside_the_window_starts_with_the_lists_before() {
    for late in [Duration::ZERO, MINUTE * 2] {
        let mut bench = Bench::new().await;
        bench.add("198.51.100.0/24").await.unwrap();
        bench
            .replace(&["203.0.113.0/24"], within(60))
            .await
            .unwrap();
        bench.pass(late);
        bench.restart().await;
        assert_eq!(bench.allowed(), [net("198.51.100.0/24")]);
        assert_eq!(
            bench.actions().last().map(String::as_str),
            Some("revert"),
            "on record"
        );
        // And for good: nothing is left that could bring the change back.
        bench.restart().await;
        bench.pass(MINUTE * 2);
        bench.engine.tick(bench.now).await;
        assert_eq!(bench.allowed(), [net("198.51.100.0/24")]);
        assert!(bench.datapath.told().previous.is_none(), "disarmed");
    }
}
