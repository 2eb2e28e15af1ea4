//! No record, no act: what resolves is on the disk, and a disk that fails lets nothing resolve.

use std::time::Duration;

use super::*;
use crate::{AppendError, Urgency};

#[tokio::test]
async fn an_intent_resolves_only_once_its_record_is_synced() {
    let bench = Bench::new();
    let journal = bench.journal();
    for n in 0..50 {
        let recorded = journal.record_intent(Put(n), Urgency::Now).await.unwrap();
        let durable = bench.records();
        assert_eq!(durable.last().unwrap()["seq"], recorded.id().0);
        assert_eq!(recorded.into_intent(), Put(n));
    }
}

#[tokio::test]
async fn a_checkpoint_that_was_asked_for_covers_what_is_durable() {
    let bench = Bench::new();
    let journal = bench.journal();
    journal.append(named("a")).await.unwrap();
    assert!(journal.status().signed < journal.status().durable);
    for _ in 0..2 {
        journal.checkpoint().await.unwrap();
        assert_eq!(journal.status().signed, journal.status().durable);
    }
    let other = journal.clone();
    journal.close().await.unwrap();
    assert_eq!(other.checkpoint().await, Err(AppendError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_does_not_resolve_while_the_disk_has_not_answered() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.disk.set_syncs_wait(true);
    let mut pending = journal.record_intent(Put(1), Urgency::Now);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut pending).await;
    assert!(early.is_err(), "resolved before its sync");
    bench.disk.set_syncs_wait(false);
    pending.await.unwrap();
}

#[tokio::test]
async fn what_came_during_a_sync_shares_the_next_one() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.disk.set_syncs_wait(true);
    let pending: Vec<_> = (0..1000)
        .map(|n| journal.append(named(&n.to_string())))
        .collect();
    let before = bench.disk.syncs();
    bench.disk.set_syncs_wait(false);
    for one in pending {
        one.await.unwrap();
    }
    assert!(
        bench.disk.syncs() - before <= 3,
        "{} syncs",
        bench.disk.syncs() - before
    );
}

#[tokio::test]
async fn a_dropped_future_does_not_undo_the_append() {
    let bench = Bench::new();
    let journal = bench.journal();
    drop(journal.append(named("dropped")));
    journal.append(named("kept")).await.unwrap();
    let records = bench.records();
    assert_eq!(records[1]["body"]["name"], "dropped");
    assert_eq!(records[2]["body"]["name"], "kept");
}

#[tokio::test]
async fn a_record_that_nobody_waits_for_gets_to_the_disk_too() {
    let bench = Bench::new();
    let journal = bench.journal();
    drop(journal.append(named("alone")));
    wait_until(|| journal.status().durable == 2);
}

#[tokio::test]
async fn intents_without_hurry_share_a_sync_until_their_time_is_up_or_an_urgent_one_comes() {
    let bench = Bench::new();
    let journal = bench.journal_that_waits(Duration::from_secs(3600));
    let soon: Vec<_> = (0..20)
        .map(|n| journal.record_intent(Put(n), Urgency::Soon))
        .collect();
    let before = bench.disk.syncs();
    journal.record_intent(Put(20), Urgency::Now).await.unwrap();
    assert_eq!(bench.disk.syncs() - before, 1);
    for one in soon {
        one.await.unwrap();
    }

    let bench = Bench::new();
    let journal = bench.journal_that_waits(Duration::from_millis(5));
    journal.record_intent(Put(0), Urgency::Soon).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_appenders_each_keep_their_order() {
    let bench = Bench::new();
    let journal = bench.journal();
    let tasks: Vec<_> = (0..20)
        .map(|who: u64| {
            let journal = journal.clone();
            tokio::spawn(async move {
                for n in 0..100_u64 {
                    let mut event = named("");
                    event.body.insert("who".into(), who.into());
                    event.body.insert("n".into(), n.into());
                    journal.append(event).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_chained(&bench.disk);
    let records = bench.records();
    for who in 0..20 {
        let own: Vec<_> = records
            .iter()
            .filter(|r| r["body"]["who"] == who)
            .map(|r| r["body"]["n"].as_u64().unwrap())
            .collect();
        assert_eq!(own, (0..100).collect::<Vec<_>>());
    }
    let times: Vec<_> = records
        .iter()
        .map(|r| r["mono_ns"].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted());
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Full,
    Writes,
    Syncs,
    /// The disk takes some bytes of the batch and then no more.
    Short,
}

impl Fault {
    fn set(self, disk: &FaultyDisk) {
        match self {
            Self::Full => disk.fill(),
            Self::Writes => disk.set_writes_fail(true),
            Self::Syncs => disk.set_syncs_fail(true),
            Self::Short => {
                disk.fill();
                disk.set_longest_write(Some(7));
            }
        }
    }

    fn clear(disk: &FaultyDisk) {
        disk.set_capacity(None);
        disk.set_writes_fail(false);
        disk.set_syncs_fail(false);
        disk.set_longest_write(None);
    }
}

#[tokio::test]
async fn a_failing_disk_lets_nothing_resolve_and_service_returns_by_itself() {
    for fault in [Fault::Full, Fault::Writes, Fault::Syncs, Fault::Short] {
        let bench = Bench::new();
        let journal = bench.journal();
        journal.append(named("before")).await.unwrap();
        fault.set(&bench.disk);
        for n in 0..5 {
            let refused: Vec<_> = (0..20)
                .map(|m| journal.record_intent(Put(n * 100 + m), Urgency::Now))
                .collect();
            for one in refused {
                assert!(
                    matches!(one.await, Err(AppendError::Write { .. })),
                    "{fault:?}"
                );
            }
            assert!(!journal.status().healthy, "{fault:?}");
        }
        Fault::clear(&bench.disk);
        journal.append(named("after")).await.unwrap();
        assert!(journal.status().healthy, "{fault:?}");

        assert_chained(&bench.disk);
        let records = bench.records();
        assert!(
            !names(&records).contains(&"op.intent"),
            "{fault:?}: a refused intent is on record"
        );
        assert_eq!(records.last().unwrap()["body"]["name"], "after");
        let rebooted = bench.disk.after_power_cut(|_| 0);
        assert_eq!(
            super::records(&rebooted),
            records,
            "{fault:?}: something was not durable"
        );
        journal.close().await.unwrap();
        assert_eq!(bench.on(rebooted).open().1.torn_bytes, 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_full_disk_is_itself_on_record_once() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.disk.fill();
    for _ in 0..10 {
        journal.append(named("refused")).await.unwrap_err();
    }
    let during = bench.records();
    assert_eq!(names(&during), ["log.start", "log.disk"]);
    assert_eq!(during[1]["outcome"], "failure");
    bench.disk.set_capacity(None);
    journal.append(named("after")).await.unwrap();
    let after = bench.records();
    assert_eq!(
        names(&after),
        ["log.start", "log.disk", "log.disk", "conn.open"]
    );
    assert_eq!(after[2]["outcome"], "success");
}

#[tokio::test]
async fn the_room_that_the_reserve_left_is_not_taken_for_service() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.disk.fill();
    journal.append(named("refused")).await.unwrap_err();
    // The reserve is 4096 bytes, the record of the refusal some 300: a small record would fit.
    journal.append(named("small")).await.unwrap_err();
    assert!(!names(&bench.records()).contains(&"conn.open"));
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.disk.set_syncs_wait(true);
    let large = "x".repeat(900_000);
    let mut pending: Vec<_> = (0..100).map(|_| journal.append(named(&large))).collect();
    let queued = journal.status().queued_bytes;
    assert!((60 << 20..=64 << 20).contains(&queued), "{queued}");
    let refused = pending.pop().unwrap().await;
    assert!(matches!(refused, Err(AppendError::QueueFull { .. })));
    bench.disk.set_syncs_wait(false);
    pending.remove(0).await.unwrap();
    wait_until(|| journal.status().queued_bytes == 0);
    journal.append(named("after")).await.unwrap();
}

#[tokio::test]
async fn a_record_too_long_to_be_read_back_is_refused() {
    let bench = Bench::new();
    let journal = bench.journal();
    let longest = "x".repeat((1 << 20) - 1000);
    journal.append(named(&longest)).await.unwrap();
    let refused = journal.append(named(&"x".repeat(1 << 20))).await;
    assert!(matches!(refused, Err(AppendError::TooLong { .. })));
}

#[tokio::test]
async fn nothing_is_appended_after_close() {
    let bench = Bench::new();
    let journal = bench.journal();
    let clone = journal.clone();
    let last = journal.append(named("last"));
    journal.close().await.unwrap();
    last.await.unwrap();
    assert_eq!(clone.append(named("late")).await, Err(AppendError::Closed));
    assert_eq!(
        names(&bench.records()),
        ["log.start", "conn.open", "log.stop"]
    );
    assert_eq!(clone.close().await, Err(AppendError::Closed));
}

#[tokio::test]
async fn time_rises_with_the_number_though_the_journal_puts_records_of_its_own_in_between() {
    let bench = Bench::new();
    let journal = bench.journal();
    bench.disk.set_syncs_wait(true);
    let first = journal.append(named("fails"));
    let second = journal.append(named("queued meanwhile"));
    bench.disk.fill();
    bench.disk.set_syncs_wait(false);
    let _ = (first.await, second.await);
    let queued = journal.append(named("queued before the disk has room"));
    let _ = queued.await;
    bench.disk.set_capacity(None);
    journal.append(named("after")).await.unwrap();
    let records = bench.records();
    assert!(
        records
            .iter()
            .map(|r| r["mono_ns"].as_u64().unwrap())
            .is_sorted(),
        "{records:#?}"
    );
    assert!(
        records
            .iter()
            .map(|r| r["ts"].as_str().unwrap().to_owned())
            .is_sorted()
    );
}

#[tokio::test]
async fn a_clock_that_is_set_is_on_record_and_one_that_drifts_is_not() {
    use std::sync::{Arc, Mutex};
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(Mutex::new(crate::Moment {
        unix_micros: 1_700_000_000_000_000,
        mono_ns: 1_000_000_000,
    }));
    let of_journal = now.clone();
    let options = Options::default_in(folder.path().join("log"));
    let (journal, _) = Journal::open_at(options, move || *of_journal.lock().unwrap()).unwrap();
    // Seconds that pass, and seconds by which the clock is then off.
    for (passed, off) in [
        (1, 0.4),
        (1, -0.4),
        (3600, 1.8),
        (3600, -1.8),
        (1, 0.6),
        (1, -3600.0),
        (3600, 5.0),
    ] {
        {
            let mut now = now.lock().unwrap();
            now.mono_ns += passed * 1_000_000_000;
            now.unix_micros += (passed as f64 * 1e6 + off * 1e6) as i64;
        }
        journal.append(named("x")).await.unwrap();
    }
    journal.close().await.unwrap();
    let steps: Vec<_> = crate::read::records(&folder.path().join("log"))
        .unwrap()
        .map(Result::unwrap)
        .filter(|record| record.event == "log.clock")
        .map(|record| record.body["step_ms"].as_i64().unwrap())
        .collect();
    assert_eq!(steps, [600, -3_600_000, 5_000]);
}
