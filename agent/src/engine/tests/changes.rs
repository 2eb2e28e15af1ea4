//! Changes of lists and bans: on record, kept, in the kernel.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn a_change_is_on_record_before_the_kernel_has_it() {
    let mut bench = Bench::new().await;
    bench.ban("198.51.100.7").await.unwrap();
    bench.add("203.0.113.0/24").await.unwrap();
    // The protected source is there from the start.
    assert_eq!(*bench.notebook.rules_then.lock().unwrap(), [1, 2]);
    assert_eq!(bench.datapath.told().rules.len(), 3);
    assert_eq!(
        bench.kinds(),
        [EventKind::BanChange, EventKind::AllowChange]
    );
}

#[tokio::test]
async fn without_a_record_nothing_is_changed() {
    let mut bench = Bench::new().await;
    bench.notebook.is_full.store(true, Ordering::SeqCst);
    let before = bench.datapath.told();
    assert_eq!(
        bench.ban("198.51.100.7").await.unwrap_err().code,
        Code::Journal
    );
    assert_eq!(
        bench.add("203.0.113.0/24").await.unwrap_err().code,
        Code::Journal
    );
    assert_eq!(bench.datapath.told().rules, before.rules);
    assert_eq!(bench.datapath.told().generation, before.generation);
    assert_eq!(bench.kept(), (0, 0));

    bench.notebook.is_full.store(false, Ordering::SeqCst);
    assert!(bench.ban("198.51.100.7").await.is_ok());
    assert_eq!(bench.add("203.0.113.0/24").await.unwrap().revision, 1);
    assert_eq!(bench.kept(), (1, 1));
}

#[tokio::test]
async fn a_change_that_can_not_be_kept_is_not_made() {
    let mut bench = Bench::new().await;
    let options = Options {
        segment_bytes: 1,
        ..OPTIONS
    };
    bench.add("203.0.113.0/24").await.unwrap();
    bench.engine.parts.store = Store::open(bench.directory.path(), options).unwrap().0;
    // A directory in the next file's place: even root can't write it.
    let place = bench
        .directory
        .path()
        .join(format!("changes-{:020}.log", 2));
    std::fs::create_dir(&place).unwrap();
    assert_eq!(
        bench.ban("198.51.100.7").await.unwrap_err().code,
        Code::State
    );
    assert_eq!(
        bench.add("192.0.2.0/24").await.unwrap_err().code,
        Code::State
    );
    assert!(bench.banned().is_empty());
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    assert_eq!(
        bench.actions(),
        ["add", "ban", "not kept", "add", "not kept"]
    );
}

#[tokio::test]
async fn a_kernel_that_refused_gets_it_again() {
    let mut bench = Bench::new().await;
    bench.datapath.set_refuses(true);
    assert_eq!(
        bench.ban("198.51.100.7").await.unwrap_err().code,
        Code::Kernel
    );
    bench.datapath.set_refuses(false);
    bench.engine.tick(bench.now).await;
    assert_eq!(bench.banned(), [net("198.51.100.7")]);
    assert_eq!(bench.datapath.told().rules.len(), 2);
}

#[tokio::test]
async fn the_same_list_again_is_neither_recorded_nor_switched() {
    let mut bench = Bench::new().await;
    let first = bench.add("203.0.113.0/24").await.unwrap();
    let second = bench.add("203.0.113.0/24").await.unwrap();
    assert_eq!((first.applied, second.applied), (true, false));
    assert_eq!(first.generation, second.generation);
    assert_eq!(first.revision, second.revision);
    assert_eq!(bench.kinds(), [EventKind::AllowChange]);
}

#[tokio::test]
async fn another_comment_is_a_revision_and_no_generation() {
    let mut bench = Bench::new().await;
    let first = bench.add("203.0.113.0/24").await.unwrap();
    let commented = Entry {
        comment: Some("lab".to_owned()),
        ..Entry::allow(net("203.0.113.0/24"))
    };
    let second = bench
        .change(Change::Add(vec![commented]), Terms::default())
        .await
        .unwrap();
    assert_eq!(second.revision, first.revision + 1);
    assert_eq!(second.generation, first.generation);
}

#[tokio::test]
async fn removing_what_is_not_listed_changes_nothing() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    let both = Change::Remove(vec![net("203.0.113.0/24"), net("203.0.113.7")]);
    assert_eq!(
        bench.change(both, Terms::default()).await.unwrap_err().code,
        Code::NotFound
    );
    assert_eq!(bench.kept(), (1, 0));
}

#[tokio::test]
async fn an_entry_of_a_file_is_named_and_not_removed_by_hand() {
    let mut bench = Bench::new().await;
    let lists = BTreeMap::from([(
        "file:a.txt".parse().unwrap(),
        [Entry::allow(net("203.0.113.0/24"))].into_iter().collect(),
    )]);
    bench
        .change(Change::Sync(lists), Terms::default())
        .await
        .unwrap();
    let refused = bench
        .change(
            Change::Remove(vec![net("203.0.113.0/24")]),
            Terms::default(),
        )
        .await
        .unwrap_err();
    assert!(refused.message.contains("file:a.txt"), "{refused}");
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
}

#[tokio::test]
async fn a_rule_of_two_lists_stays_until_the_last_one_drops_it() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    let sync = |entries: Vec<Entry>| {
        Change::Sync(BTreeMap::from([(
            "file:a.txt".parse().unwrap(),
            entries.into_iter().collect(),
        )]))
    };
    let entries = vec![Entry::allow(net("203.0.113.0/24"))];
    bench.change(sync(entries), Terms::default()).await.unwrap();
    assert_eq!(bench.allowed().len(), 2);
    bench
        .change(sync(Vec::new()), Terms::default())
        .await
        .unwrap();
    assert_eq!(bench.allowed().len(), 1);
}

#[tokio::test]
async fn somebody_elses_change_in_between_is_noticed() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    let at = |revision| Terms {
        if_revision: Some(revision),
        ..Terms::default()
    };
    let change = || Change::Add(vec![Entry::allow(net("192.0.2.0/24"))]);
    let refused = bench.change(change(), at(0)).await.unwrap_err();
    assert_eq!(refused.code, Code::Precondition);
    assert!(
        refused.message.contains("revision 1") && refused.message.contains("not at 0"),
        "{refused}"
    );
    assert_eq!(bench.change(change(), at(1)).await.unwrap().revision, 2);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    bench.connect(&["203.0.113.1", "203.0.113.2", "203.0.113.3"]);
    let before = bench.datapath.told();
    let dry = Terms {
        dry_run: true,
        ..Terms::default()
    };
    let reply = bench.replace(&["192.0.2.0/24"], dry).await.unwrap();
    let preview = reply.preview.unwrap();
    assert!(!reply.applied);
    assert_eq!(preview.examples.added, ["manual: 192.0.2.0/24"]);
    assert_eq!(preview.examples.removed, ["manual: 203.0.113.0/24"]);
    assert_eq!(preview.impact.cut_flows, 3);
    assert_eq!(bench.datapath.told().generation, before.generation);
    assert_eq!(bench.kept(), (1, 0));
}

#[tokio::test]
async fn an_earlier_revision_can_be_shown_and_gone_back_to() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    bench.add("192.0.2.0/24").await.unwrap();
    bench.replace(&["198.51.100.0/24"], forced()).await.unwrap();
    let diff = bench.engine.diff(1, 3).unwrap();
    assert_eq!((diff.added.len(), diff.removed.len()), (1, 1));
    let back = bench.change(Change::Rollback(1), forced()).await.unwrap();
    assert_eq!(back.revision, 4);
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    bench.restart().await;
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    let unknown = bench
        .change(Change::Rollback(9), forced())
        .await
        .unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
}

#[tokio::test]
async fn the_history_says_who_why_and_how_much() {
    let mut bench = Bench::new().await;
    let terms = Terms {
        reason: Some("new partner".to_owned()),
        ticket: Some("NET-7".to_owned()),
        ..Terms::default()
    };
    bench
        .replace(&["203.0.113.0/24", "192.0.2.0/24"], terms)
        .await
        .unwrap();
    let history: Vec<_> = bench.engine.parts.store.history().cloned().collect();
    let revision = &history[0].revision;
    assert_eq!(revision.by.as_deref(), Some("root"));
    assert_eq!(revision.reason.as_deref(), Some("new partner"));
    assert_eq!(revision.ticket.as_deref(), Some("NET-7"));
    assert_eq!((revision.counts.added, revision.entries), (2, 2));
    let events = bench.notebook.events.lock().unwrap();
    assert_eq!(events[0].body["reason"], "new partner");
    assert_eq!(events[0].body["ticket"], "NET-7");
}

#[tokio::test]
async fn bans_and_lists_are_there_after_a_restart() {
    let mut bench = Bench::new().await;
    bench.ban("198.51.100.0/24").await.unwrap();
    bench.ban("2001:db8::7").await.unwrap();
    bench.add("203.0.113.0/24").await.unwrap();
    bench.restart().await;
    assert_eq!(bench.banned(), [net("198.51.100.0/24"), net("2001:db8::7")]);
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
}

#[tokio::test]
async fn a_change_that_no_kernel_can_hold_is_taken_back_and_the_next_one_goes_through() {
    let mut bench = Bench::new().await;
    bench.add("203.0.113.0/24").await.unwrap();
    // Each port is a scope set of its own, and there are fewer classes than that.
    let scoped = (1..=300).map(|port| Entry {
        scope: Some(format!("tcp/{port}").parse().unwrap()),
        ..Entry::allow(net(&format!("198.51.{}.{}", 100 + port / 256, port % 256)))
    });
    let refused = bench
        .change(Change::Add(scoped.collect()), Terms::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Limit, "{refused}");
    assert_eq!(bench.allowed(), [net("203.0.113.0/24")]);
    assert_eq!(bench.kept(), (1, 0));
    assert!(bench.add("192.0.2.0/24").await.is_ok());
    assert_eq!(bench.engine.status(bench.now).unwrap().lag, None);
    assert_eq!(bench.actions(), ["add", "add", "revert", "add"]);
}

#[tokio::test]
async fn what_is_switched_is_read_back_and_so_is_everything_once_a_minute() {
    let mut bench = Bench::new().await;
    let verified = |bench: &Bench| bench.datapath.told().verified;
    assert_eq!(verified(&bench), 1, "the start");
    bench
        .replace(&["203.0.113.0/24"], within(60))
        .await
        .unwrap();
    assert_eq!(verified(&bench), 2, "a list");
    bench.pass(MINUTE - Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    assert_eq!(verified(&bench), 2);
    bench.datapath.drift();
    bench.pass(Duration::from_secs(1));
    bench.engine.tick(bench.now).await;
    let status = bench.engine.status(bench.now).unwrap();
    assert_eq!(status.readback.unwrap().drifts, 1);
}
