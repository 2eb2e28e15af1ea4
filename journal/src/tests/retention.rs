//! Old segments go, on record; nothing else does, and what stays is provable.

use std::fs;

use chrono::{TimeDelta, Utc};

use super::{
    sealing::{Log, report, text_of},
    *,
};
use crate::{
    Urgency,
    proof::{ProofError, check_record_proof, prove_growth, prove_record},
    read::records,
    retention::{Hold, Retention},
    tiles::{TilesError, publish},
    tree::{
        checkpoint::{CHECKPOINTS, notes},
        key::{public_key_path, read_verifier_keys},
    },
    verify::Kind,
};

fn keeping(log: &Log, keep: TimeDelta) -> Options {
    Options {
        retention: Some(Retention {
            keep,
            holds: log.folder.path().join("holds"),
        }),
        ..log.options()
    }
}

fn hold(log: &Log, hold: &Hold) {
    let holds = log.folder.path().join("holds");
    fs::create_dir_all(&holds).unwrap();
    fs::write(
        holds.join("case.hold.json"),
        serde_json::to_string(hold).unwrap(),
    )
    .unwrap();
}

fn tombstones(log: &Log) -> Vec<String> {
    let entries = fs::read_dir(log.directory()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("deleted"))
        .collect()
}

/// A stopped log whose sealed segments were deleted.
pub(super) async fn shortened() -> Log {
    let log = Log::new();
    let (journal, _) = log.open();
    journal
        .record_intent(Put(1 << 40), Urgency::Now)
        .await
        .unwrap();
    log.grow(&journal, 0, 10_000).await;
    wait_until(|| log.sealed().len() == 2);
    journal.close().await.unwrap();
    let (journal, _) = Journal::open(keeping(&log, TimeDelta::zero())).unwrap();
    wait_until(|| log.sealed().is_empty());
    journal.close().await.unwrap();
    log
}

#[tokio::test]
async fn a_log_without_its_old_segments_is_sound_and_provable() {
    let log = shortened().await;
    assert_eq!(tombstones(&log), ["000000000000.deleted"]);
    let report = log.report();
    assert!(report.is_sound(), "{report:#?}");
    assert!(
        report
            .notices
            .iter()
            .any(|notice| notice.contains("were deleted")),
        "{report:#?}"
    );
    let records: Vec<_> = records(&log.directory())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let first = records[0].seq;
    assert!(first > 10_000);
    assert_eq!(report.records, first + records.len() as u64);
    assert_eq!(report.chained_only(), 0);
    let deletions: Vec<_> = records
        .iter()
        .filter(|record| record.event == "log.delete")
        .collect();
    assert_eq!(deletions.len(), 2);
    assert_eq!(deletions[1].body["first"], 0);
    assert_eq!(deletions[1].body["last"], first - 1);

    let keys = read_verifier_keys(&public_key_path(&log.options().signing_key)).unwrap();
    for index in [first, first + 1, report.records - 1] {
        let proof = prove_record(&log.directory(), index, &keys).unwrap();
        assert_eq!(
            check_record_proof(proof.as_bytes(), &keys).unwrap().index,
            index
        );
    }
    for index in [0, first - 1] {
        let proof = prove_record(&log.directory(), index, &keys);
        assert!(
            matches!(proof, Err(ProofError::Deleted { .. })),
            "{proof:?}"
        );
    }
    // Growth from a checkpoint of before the deletion: from the one that the tombstone goes by, and not from one within.
    let text = fs::read(log.directory().join(CHECKPOINTS)).unwrap();
    let note_over = |size: &str| {
        let (all, _) = notes(&text);
        let is_over = |note: &&&[u8]| note.split(|&b| b == b'\n').nth(1) == Some(size.as_bytes());
        all.iter().find(is_over).unwrap().to_vec()
    };
    prove_growth(&log.directory(), &note_over(&first.to_string()), &keys).unwrap();
    let within = notes(&text).0[2];
    let within = String::from_utf8_lossy(within);
    let within = note_over(within.lines().nth(1).unwrap());
    let growth = prove_growth(&log.directory(), &within, &keys);
    assert!(
        matches!(growth, Err(ProofError::Deleted { .. })),
        "{growth:?}"
    );

    // The log goes on, also when all of it has to be read, and still knows what was under way before.
    for keeps_position in [true, false] {
        if !keeps_position {
            fs::remove_file(log.directory().join("position")).unwrap();
        }
        let (journal, recovery) = log.open();
        assert_eq!(
            recovery.unknown,
            [(SessionId([7; 16]), OperationId(1 << 40))]
        );
        journal.close().await.unwrap();
    }
    assert!(log.report().is_sound());
}

#[tokio::test]
async fn tiles_go_on_behind_deleted_records_where_they_were_made_before() {
    let log = Log::filled().await;
    let keys = || read_verifier_keys(&public_key_path(&log.options().signing_key)).unwrap();
    let folder = log.folder.path().join("tiles");
    let whole = publish(&log.directory(), &folder, keys(), true).unwrap();
    let (journal, _) = Journal::open(keeping(&log, TimeDelta::zero())).unwrap();
    wait_until(|| log.sealed().is_empty());
    log.grow(&journal, 50_000, 500).await;
    journal.close().await.unwrap();
    let more = publish(&log.directory(), &folder, keys(), true).unwrap();
    assert!(
        more.size > whole.size + 1_000 && more.files < 50,
        "{more:?}"
    );
    let empty = log.folder.path().join("empty");
    let none = publish(&log.directory(), &empty, keys(), false);
    assert!(matches!(none, Err(TilesError::Deleted { .. })), "{none:?}");
    // A part of a tile that is not what it was leads to another root.
    let first = records(&log.directory())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .seq;
    let parts = fs::read_dir(folder.join(format!("tile/0/{:03}.p", first / 256)));
    for entry in parts.into_iter().flatten() {
        let path = entry.unwrap().path();
        let mut hashes = fs::read(&path).unwrap();
        hashes[3] ^= 1;
        fs::write(&path, hashes).unwrap();
    }
    let full = folder.join(format!("tile/0/{:03}", first / 256));
    let mut hashes = fs::read(&full).unwrap();
    hashes[3] ^= 1;
    fs::write(&full, hashes).unwrap();
    let other = publish(&log.directory(), &folder, keys(), false);
    assert!(
        matches!(other, Err(TilesError::OtherLog { .. })),
        "{other:?}"
    );
}

#[tokio::test]
async fn only_what_is_old_and_not_held_goes() {
    let log = Log::filled().await;
    let sealed = log.sealed();
    let all = text_of(&log.directory()).len();
    let run = async |options: Options| {
        let (journal, _) = Journal::open(options).unwrap();
        // The look at the start comes before the next segment is sealed.
        log.grow(&journal, 1 << 20, 4_500).await;
        let sealed = log.sealed().len();
        wait_until(|| log.sealed().len() > sealed || log.names().len() > 3);
        journal.close().await.unwrap();
        log.sealed()
    };
    // Young.
    let after = run(keeping(&log, TimeDelta::days(1))).await;
    assert!(sealed.iter().all(|path| after.contains(path)));
    // Held, without an end.
    let mut case = Hold {
        since: None,
        until: None,
        reason: "case 7".into(),
        by: "counsel".into(),
    };
    hold(&log, &case);
    let after = run(keeping(&log, TimeDelta::zero())).await;
    assert!(sealed.iter().all(|path| after.contains(path)));
    // A hold that nobody can read holds everything.
    fs::write(log.folder.path().join("holds/other.hold.json"), "{}").unwrap();
    case.until = Some(Utc::now() - TimeDelta::days(1));
    hold(&log, &case);
    let after = run(keeping(&log, TimeDelta::zero())).await;
    assert!(sealed.iter().all(|path| after.contains(path)));
    let text = text_of(&log.directory());
    assert!(text.len() > all);
    let is_told = |line: &String| line.contains("log.delete") && line.contains("other.hold.json");
    assert!(text.iter().any(is_told), "nobody is told");
    // A hold on another time holds nothing.
    fs::remove_file(log.folder.path().join("holds/other.hold.json")).unwrap();
    let (journal, _) = Journal::open(keeping(&log, TimeDelta::zero())).unwrap();
    wait_until(|| !sealed.iter().any(|path| path.exists()));
    journal.close().await.unwrap();
    assert!(log.report().is_sound());
}

#[tokio::test]
async fn who_deletes_segments_himself_is_found_out() {
    let log = shortened().await;
    let directory = log.directory();
    let tombstone = directory.join("000000000000.deleted");
    let sound = fs::read(&tombstone).unwrap();

    // A tombstone that is gone, or of other records, is none.
    fs::remove_file(&tombstone).unwrap();
    assert_eq!(log.findings()[0].kind, Kind::Deleted);
    assert!(Journal::open(log.options()).is_err());
    fs::write(&tombstone, &sound[1..]).unwrap();
    assert_eq!(log.findings()[0].kind, Kind::Deleted);
    fs::write(&tombstone, &sound).unwrap();
    assert!(log.report().is_sound());

    // The same tombstone, without the record of the deletion: a whole log, cut by hand.
    let other = Log::filled().await;
    let (journal, _) = Journal::open(keeping(&other, TimeDelta::days(9))).unwrap();
    journal.close().await.unwrap();
    let first = other.sealed().remove(0);
    let file = Box::new(fs::File::open(&first).unwrap());
    let index = crate::sealed::SealedSegment::open(file)
        .unwrap()
        .index()
        .clone();
    let forged = crate::retention::Tombstone {
        first: 0,
        end: index.end,
        record: 19_000,
    };
    let text = crate::checked::seal(&serde_json::to_vec(&forged).unwrap());
    fs::write(other.directory().join("000000000000.deleted"), text).unwrap();
    fs::remove_file(&first).unwrap();
    let findings = other.findings();
    assert_eq!(
        findings
            .iter()
            .map(|f| (f.kind, f.first, f.last))
            .collect::<Vec<_>>(),
        [(Kind::Deleted, Some(0), Some(forged.last()))]
    );
}

#[tokio::test]
async fn a_power_cut_during_a_deletion_leaves_a_sound_log() {
    let mut random = fastrand::Rng::with_seed(13);
    for round in 0..40 {
        let bench = Bench::new();
        let options = |bench: &Bench, keep| Options {
            segment_bytes: 3_000,
            compression_level: Some(1),
            retention: Some(Retention {
                keep,
                holds: "/nonexistent/holds".into(),
            }),
            ..bench.options()
        };
        let long = options(&bench, TimeDelta::days(1));
        let (journal, _) = Journal::open_on(bench.disk.clone(), long).unwrap();
        for n in 0..60 {
            journal.append(named(&n.to_string())).await.unwrap();
        }
        wait_until(|| {
            segments(&bench.disk)
                .iter()
                .rev()
                .skip(1)
                .all(|name| name.ends_with("zst"))
        });
        journal.close().await.unwrap();
        let none = || options(&bench, TimeDelta::zero());
        let (journal, _) = Journal::open_on(bench.disk.clone(), none()).unwrap();
        for _ in 0..random.u32(0..2_000) {
            std::hint::spin_loop();
        }
        let cut = bench
            .disk
            .after_power_cut(|length| random.usize(0..=length));
        drop(journal);
        let after = bench.on(cut);
        let is_sealed = |name: &String| name.ends_with(".zst");
        let left: Vec<_> = segments(&after.disk)
            .into_iter()
            .filter(is_sealed)
            .collect();
        let (journal, _) =
            Journal::open_on(after.disk.clone(), options(&after, TimeDelta::zero())).unwrap();
        wait_until(|| !segments(&after.disk).iter().any(|name| left.contains(name)));
        journal.close().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        after.disk.copy_to(folder.path()).unwrap();
        let report = report(folder.path(), &after.options());
        assert!(report.is_sound(), "round {round}: {report:#?}");
    }
}
