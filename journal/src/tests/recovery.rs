//! What a crash leaves, and what an open makes of it.

use proptest::prelude::*;

use super::*;
use crate::Urgency;
use crate::{OpenError, recover::RecoverError};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[tokio::test]
async fn a_log_goes_on_where_it_ended() {
    let bench = Bench::new();
    let journal = bench.journal();
    journal.append(named("one")).await.unwrap();
    journal.close().await.unwrap();
    let (journal, recovery) = bench.open();
    assert_eq!(
        recovery,
        Recovery {
            records: 3,
            torn_bytes: 0,
            unknown: vec![]
        }
    );
    assert_eq!(journal.append(named("two")).await.unwrap().0, 4);
    assert_chained(&bench.disk);
}

#[tokio::test]
async fn one_log_has_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default_in(directory.path().join("log"));
    let (journal, _) = Journal::open(options.clone()).unwrap();
    assert!(matches!(
        Journal::open(options.clone()),
        Err(OpenError::Locked { .. })
    ));
    journal.close().await.unwrap();
    let (_, recovery) = Journal::open(options).unwrap();
    assert_eq!(recovery.records, 2);
}

#[tokio::test]
async fn an_intent_without_outcome_is_unknown_after_a_crash() {
    let bench = Bench::new();
    let journal = bench.journal();
    for n in 0..4 {
        journal.record_intent(Put(n), Urgency::Now).await.unwrap();
    }
    journal.append(outcome(0)).await.unwrap();
    journal.append(outcome(2)).await.unwrap();
    let (_, recovery) = bench.on(bench.disk.after_power_cut(|_| 0)).open();
    let session = SessionId([7; 16]);
    assert_eq!(
        recovery.unknown,
        [(session, OperationId(1)), (session, OperationId(3))]
    );
}

#[tokio::test]
async fn segments_rotate_and_the_chain_goes_through() {
    let bench = Bench::new();
    let options = Options {
        segment_bytes: 2000,
        ..bench.options()
    };
    let (journal, _) = Journal::open_on(bench.disk.clone(), options).unwrap();
    for n in 0..50 {
        journal.append(named(&n.to_string())).await.unwrap();
    }
    journal.close().await.unwrap();
    let names = segments(&bench.disk);
    assert!(names.len() > 3, "{names:?}");
    assert_chained(&bench.disk);
    for name in &names[1..] {
        let text = bench.disk.durable(name);
        let first: Value =
            serde_json::from_slice(text.split(|&b| b == b'\n').next().unwrap()).unwrap();
        assert_eq!(first["event"], "log.rotate");
        assert_eq!(crate::segment::segment_first(name), first["seq"].as_u64());
    }
    assert_eq!(bench.open().1.torn_bytes, 0);
}

/// A log of some records whose journal went down without a word.
fn crashed() -> (Bench, usize) {
    let bench = Bench::new();
    let journal = bench.journal();
    let checkpointed = bench.disk.durable("000000000000.jsonl").len();
    block_on(async {
        for n in 0..6 {
            journal.append(named(&n.to_string())).await.unwrap();
        }
    });
    let disk = bench.disk.after_power_cut(|_| 0);
    (bench.on(disk), checkpointed)
}

#[test]
fn a_cut_at_any_byte_loses_only_what_is_behind_it() {
    let (bench, checkpointed) = crashed();
    let name = "000000000000.jsonl";
    let text = bench.disk.durable(name);
    let keys = &bench;
    for cut in checkpointed..=text.len() {
        let disk = bench.disk.after_power_cut(|_| 0);
        disk.put(name, text[..cut].to_vec());
        let whole = text[..cut].iter().filter(|&&b| b == b'\n').count();
        let torn = cut - text[..cut].iter().rposition(|&b| b == b'\n').unwrap() - 1;
        let (journal, recovery) = Journal::open_on(disk.clone(), keys.options()).unwrap();
        assert_eq!(
            (recovery.records, recovery.torn_bytes),
            (whole as u64, torn as u64),
            "cut at {cut}"
        );
        block_on(journal.append(named("after"))).unwrap();
        assert_chained(&disk);
        let records = records(&disk);
        assert_eq!(
            names(&records).contains(&"log.gap"),
            torn > 0,
            "cut at {cut}"
        );
        if torn > 0 {
            assert_eq!(records[whole]["body"]["bytes"], torn);
        }
    }
}

#[test]
fn a_cut_into_what_a_checkpoint_covers_is_refused() {
    let (bench, checkpointed) = crashed();
    let name = "000000000000.jsonl";
    let text = bench.disk.durable(name);
    bench.disk.put(name, text[..checkpointed - 1].to_vec());
    let refused = Journal::open_on(bench.disk.clone(), bench.options()).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Recover {
                source: RecoverError::Truncated {
                    records: 0,
                    covered: 1
                },
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(
        bench.disk.content(name),
        text[..checkpointed - 1],
        "the evidence was touched"
    );
}

#[test]
fn a_damaged_middle_is_refused_with_the_record_named() {
    let (bench, _) = crashed();
    let name = "000000000000.jsonl";
    let text = String::from_utf8(bench.disk.durable(name)).unwrap();
    let damaged = text.replace(r#""name":"2""#, r#""name":"3""#);
    bench.disk.put(name, damaged.clone().into_bytes());
    let refused = Journal::open_on(bench.disk.clone(), bench.options()).unwrap_err();
    // Record 3 was edited; record 4 is the first that does not follow.
    assert!(
        matches!(
            &refused,
            OpenError::Recover {
                source: RecoverError::Broken {
                    seq: 4,
                    line: 5,
                    ..
                },
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(
        bench.disk.content(name),
        damaged.into_bytes(),
        "the evidence was touched"
    );
}

#[test]
fn another_signing_key_is_refused() {
    let (bench, _) = crashed();
    std::fs::remove_file(bench.options().signing_key).unwrap();
    let refused = Journal::open_on(bench.disk.clone(), bench.options()).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Recover {
                source: RecoverError::OtherKey { .. },
                ..
            }
        ),
        "{refused:?}"
    );
}

#[test]
fn a_power_cut_during_writes_never_loses_what_resolved() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    let strategy = (1..12_usize, proptest::collection::vec(0.0..=1.0_f64, 8));
    runner
        .run(&strategy, |(waiting, arrived)| {
            let bench = Bench::new();
            let journal = bench.journal();
            block_on(journal.append(named("resolved"))).unwrap();
            bench.disk.set_syncs_wait(true);
            bench.disk.set_longest_write(Some(700));
            for n in 0..waiting {
                drop(journal.append(named(&n.to_string())));
            }
            wait_until(|| bench.disk.content("000000000000.jsonl").ends_with(b"\n"));
            let mut fates = arrived.iter().cycle();
            let rebooted = bench
                .disk
                .after_power_cut(|length| (length as f64 * fates.next().unwrap()) as usize);
            bench.disk.set_longest_write(None);
            bench.disk.set_syncs_wait(false);
            let after = bench.on(rebooted);
            let (journal, recovery) = after.open();
            prop_assert!(recovery.records >= 2);
            block_on(journal.append(named("after"))).unwrap();
            assert_chained(&after.disk);
            prop_assert_eq!(&after.records()[1]["body"]["name"], "resolved");
            Ok(())
        })
        .unwrap();
}
