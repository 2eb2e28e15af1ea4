//! Closed segments in their sealed form: the same log to every reader, and as hard to change unseen.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    Urgency,
    disk::Disk as _,
    proof::{check_record_proof, prove_record},
    read::{Part, lines, records},
    sealed::SealedSegment,
    segment::plain_name,
    tree::key::{public_key_path, read_verifier_keys},
    verify::{Finding, Kind, Report, directory::verify},
};

/// A log in a directory, in segments of some 2 MB.
pub(super) struct Log {
    pub(super) folder: TempDir,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn options(&self) -> Options {
        Options {
            node: "gw1".into(),
            segment_bytes: 2 << 20,
            compression_level: Some(1),
            ..Options::default_in(self.directory())
        }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(super) fn open(&self) -> (Journal, Recovery) {
        Journal::open(self.options()).unwrap()
    }

    /// Appends so many records, in pairs of an intent and its outcome.
    pub(super) async fn grow(&self, journal: &Journal, from: u64, pairs: u64) {
        for n in from..from + pairs {
            drop(journal.record_intent(Put(n), Urgency::Soon));
            let written = journal.append_soon(outcome(n));
            // A segment is closed between two writes.
            if n % 500 == 499 {
                written.await.unwrap();
            }
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".jsonl"))
            .collect();
        names.sort();
        names
    }

    /// A stopped log of two sealed segments and an open one.
    pub(super) async fn filled() -> Self {
        let log = Self::new();
        let (journal, _) = log.open();
        log.grow(&journal, 0, 10_000).await;
        wait_until(|| log.sealed().len() == 2);
        journal.close().await.unwrap();
        log
    }

    pub(super) fn sealed(&self) -> Vec<PathBuf> {
        let names = self.names().into_iter();
        let sealed = names.filter(|name| plain_name(name).is_some());
        sealed.map(|name| self.directory().join(name)).collect()
    }

    pub(super) fn report(&self) -> Report {
        report(&self.directory(), &self.options())
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        self.report().findings
    }
}

pub(super) fn report(directory: &Path, options: &Options) -> Report {
    let keys = read_verifier_keys(&public_key_path(&options.signing_key)).unwrap();
    verify(directory, keys, None).unwrap()
}

pub(super) fn text_of(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = lines(directory, Part::default()).unwrap();
    while let Some(line) = lines.next(&mut |_| true).unwrap() {
        found.push(String::from_utf8(line.to_vec()).unwrap());
    }
    found
}

#[tokio::test]
async fn a_sealed_log_is_the_same_log() {
    let plain = Log::new();
    let options = Options {
        compression_level: None,
        ..plain.options()
    };
    let (journal, _) = Journal::open(options).unwrap();
    plain.grow(&journal, 0, 10_000).await;
    journal.close().await.unwrap();
    let written = text_of(&plain.directory());
    assert_eq!(plain.sealed().len(), 0);

    // The next start seals what it finds.
    let (journal, recovery) = plain.open();
    assert_eq!(recovery.records, written.len() as u64);
    wait_until(|| plain.sealed().len() == 2);
    journal.close().await.unwrap();
    let after = text_of(&plain.directory());
    assert_eq!(after[..written.len()], written);
    let report = plain.report();
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.records, after.len() as u64);
    assert_eq!(report.chained_only(), 0);
    let numbers: Vec<_> = records(&plain.directory())
        .unwrap()
        .map(|record| record.unwrap().seq)
        .collect();
    assert_eq!(numbers, (0..after.len() as u64).collect::<Vec<_>>());

    // Any `zstd` reads a sealed segment; its lines are those of the log, but for the hashes.
    let sealed = fs::read(&plain.sealed()[0]).unwrap();
    let read = zstd::stream::decode_all(&sealed[..]).unwrap();
    let lines = read.split(|&byte| byte == b'\n').count() - 1;
    let frames = SealedSegment::open(Box::new(fs::File::open(&plain.sealed()[0]).unwrap()))
        .unwrap()
        .frames()
        .len();
    assert!(frames > 1);
    assert!(lines > 5_000 && sealed.len() < lines * 60, "{lines} lines");
}

#[tokio::test]
async fn a_record_of_a_sealed_segment_is_proved() {
    let log = Log::filled().await;
    let keys = read_verifier_keys(&public_key_path(&log.options().signing_key)).unwrap();
    for index in [0, 1, 4_321, 9_999, 15_000] {
        let proof = prove_record(&log.directory(), index, &keys).unwrap();
        let proved = check_record_proof(proof.as_bytes(), &keys).unwrap();
        let line: Value = serde_json::from_slice(&proved.line).unwrap();
        assert_eq!(line["seq"], index);
    }
}

#[tokio::test]
async fn a_part_of_a_log_is_the_rest_left_out() {
    let log = Log::filled().await;
    let all = text_of(&log.directory());
    for first in [0, 1, 3_000, 7_777, 12_345, all.len() as u64 - 1, 1 << 40] {
        let part = Part {
            first,
            ..Part::default()
        };
        let mut part = lines(&log.directory(), part).unwrap();
        let mut at = first;
        while let Some(line) = part.next(&mut |_| true).unwrap() {
            assert_eq!(line, all[at as usize].as_bytes());
            assert_eq!(part.seq(), Some(at));
            at += 1;
        }
        assert_eq!(at, first.max(all.len() as u64));
    }
    let time = |at: usize| {
        let record: Value = serde_json::from_str(&all[at]).unwrap();
        record["ts"].as_str().unwrap().to_owned()
    };
    let (since, until) = (time(11_000), time(12_000));
    let part = Part {
        since: Some(since.clone()),
        until: Some(until.clone()),
        ..Part::default()
    };
    let mut part = lines(&log.directory(), part).unwrap();
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut is_wanted = |line: &[u8]| {
        looked_at += 1;
        line.windows(21)
            .any(|part| part == b"\"event\":\"op.outcome\",")
    };
    while let Some(line) = part.next(&mut is_wanted).unwrap() {
        found.push(String::from_utf8(line.to_vec()).unwrap());
    }
    assert!(looked_at < 15_000, "{looked_at} of {}", all.len());
    let is_within = |line: &&String| {
        let record: Value = serde_json::from_str(line).unwrap();
        let time = record["ts"].as_str().unwrap();
        record["event"] == "op.outcome" && (since.as_str()..=&until).contains(&time)
    };
    let expected: Vec<_> = all.iter().filter(is_within).collect();
    assert!(expected.len() > 400);
    assert_eq!(found.iter().filter(is_within).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_reader_follows_a_log_that_grows_and_is_sealed_meanwhile() {
    let log = Log::new();
    let (journal, _) = log.open();
    let mut following = lines(&log.directory(), Part::default()).unwrap();
    let mut expected = 0;
    for round in 0..12 {
        log.grow(&journal, round * 1_000, 1_000).await;
        while let Some(line) = following.next(&mut |_| true).unwrap() {
            let record: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(record["seq"], expected);
            expected += 1;
        }
        assert_eq!(expected, journal.status().durable);
    }
    wait_until(|| log.sealed().len() == 2);
    assert!(following.next(&mut |_| true).unwrap().is_none());
    // A line that the writer has not finished is read when it is whole.
    journal.close().await.unwrap();
    while following.next(&mut |_| true).unwrap().is_some() {}
    let last = log.directory().join(log.names().last().unwrap());
    let mut text = fs::read(&last).unwrap();
    text.extend_from_slice(b"{\"half\":");
    fs::write(&last, &text).unwrap();
    assert!(following.next(&mut |_| true).unwrap().is_none());
    text.extend_from_slice(b"1}\n");
    fs::write(&last, &text).unwrap();
    let line = following.next(&mut |_| true).unwrap();
    assert_eq!(line, Some(&b"{\"half\":1}"[..]));
}

#[tokio::test]
async fn a_sealed_segment_that_is_cut_or_changed_anywhere_is_found() {
    let log = Log::filled().await;
    let path = log.sealed().remove(0);
    let sound = fs::read(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut places: Vec<_> = (0..25).map(|_| random.usize(0..sound.len())).collect();
    // The index, the seek table and its footer, byte by byte in part.
    places.extend((1..20).map(|back| sound.len() - back));
    for at in places {
        let mut changed = sound.clone();
        changed[at] ^= 1 << random.u8(0..8);
        fs::write(&path, &changed).unwrap();
        let findings = log.findings();
        assert!(!findings.is_empty(), "byte {at} of {}", sound.len());
        fs::write(&path, &sound[..at]).unwrap();
        let findings = log.findings();
        assert_eq!(findings[0].kind, Kind::Unreadable, "cut at {at}");
        assert!(findings[0].to_string().contains("000000000000.jsonl.zst"));
    }
    fs::write(&path, &sound).unwrap();
    assert!(log.report().is_sound());
    fs::remove_file(&path).unwrap();
    let findings = log.findings();
    assert_eq!(
        (findings[0].kind, findings[0].first),
        (Kind::Deleted, Some(0))
    );
}

/// Somebody who knows the form changes one record of a sealed segment, and makes the checks of the form anew if asked.
fn forge(path: &Path, seq: u64, redo_checks: bool) {
    let file = Box::new(fs::File::open(path).unwrap());
    let mut segment = SealedSegment::open(file).unwrap();
    let frames = segment.frames().to_vec();
    let mut texts = Vec::new();
    for at in 0..frames.len() {
        let mut text = Vec::new();
        segment.stored(at, &mut text).unwrap();
        texts.push(text);
    }
    let at = frames.iter().rposition(|frame| frame.first <= seq).unwrap();
    let text = String::from_utf8(texts[at].clone()).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let within = (seq - frames[at].first) as usize;
    lines[within] = lines[within].replace("\"node\":\"gw1\"", "\"node\":\"gw2\"");
    if redo_checks {
        for line in within + 1..lines.len() {
            let check = format!("{:08x}", crc32fast::hash(lines[line - 1].as_bytes()));
            let begin = lines[line].rfind("\"prev\":\"").unwrap() + 8;
            lines[line].replace_range(begin..begin + 8, &check);
        }
    }
    texts[at] = lines
        .iter()
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .into_bytes();
    crate::sealed::rewrite(path, &texts, segment.index());
}

#[tokio::test]
async fn a_record_that_was_edited_in_a_sealed_segment_is_named() {
    let log = Log::filled().await;
    let path = log.sealed().remove(0);
    let sound = fs::read(&path).unwrap();
    for seq in [0, 1, 17, 2_000, 4_000, 5_555] {
        forge(&path, seq, false);
        let findings = log.findings();
        assert_eq!(
            findings
                .iter()
                .map(|f| (f.kind, f.first, f.last))
                .collect::<Vec<_>>(),
            [(Kind::Edited, Some(seq), Some(seq))],
            "{findings:#?}"
        );
        fs::write(&path, &sound).unwrap();
        // With the checks of the form made anew, the signed heads still tell.
        forge(&path, seq, true);
        let findings = log.findings();
        assert!(
            findings
                .iter()
                .any(|f| f.kind == Kind::Rewritten && (f.first..=f.last).contains(&Some(seq))),
            "record {seq}: {findings:#?}"
        );
        fs::write(&path, &sound).unwrap();
    }
}

#[tokio::test]
async fn a_start_reads_only_what_no_signature_covers() {
    let log = Log::filled().await;
    let (journal, recovery) = log.open();
    // An operation is open across segments.
    journal
        .record_intent(Put(1 << 40), Urgency::Now)
        .await
        .unwrap();
    log.grow(&journal, 20_000, 10_000).await;
    wait_until(|| log.sealed().len() == 4);
    drop(journal);
    wait_until(|| {
        fs::File::open(log.directory().join("lock")).is_ok_and(|file| file.try_lock().is_ok())
    });
    let sealed = log.sealed();
    let sound = fs::read(&sealed[1]).unwrap();
    let mut changed = sound.clone();
    changed[1_000] ^= 1;
    fs::write(&sealed[1], &changed).unwrap();
    for keeps_position in [true, false] {
        if !keeps_position {
            fs::remove_file(log.directory().join("position")).unwrap();
        }
        let (journal, later) = log.open();
        assert!(later.records > recovery.records + 20_000);
        assert_eq!(later.unknown, [(SessionId([7; 16]), OperationId(1 << 40))]);
        journal.close().await.unwrap();
    }
    // Without a signed head for it, the same start reads everything, and finds the change.
    let checkpoints = log.directory().join("checkpoints");
    let signed = fs::read(&checkpoints).unwrap();
    fs::write(&checkpoints, b"").unwrap();
    let _ = fs::remove_file(log.directory().join("position"));
    assert!(Journal::open(log.options()).is_err());
    fs::write(&sealed[1], &sound).unwrap();
    fs::write(&checkpoints, &signed).unwrap();
    // A missing segment is noticed though it is not read.
    fs::remove_file(&sealed[1]).unwrap();
    let error = Journal::open(log.options()).unwrap_err();
    assert!(matches!(
        error,
        crate::OpenError::Recover {
            source: crate::recover::RecoverError::MissingSegment { .. },
            ..
        }
    ));
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_power_cut_while_segments_are_sealed() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..40 {
        let bench = Bench::new();
        let options = |bench: &Bench| Options {
            segment_bytes: 3_000,
            compression_level: Some(1),
            ..bench.options()
        };
        let (journal, _) = Journal::open_on(bench.disk.clone(), options(&bench)).unwrap();
        let mut acknowledged = 0;
        for n in 0..random.u64(20..200) {
            acknowledged = journal.append(named(&n.to_string())).await.unwrap().0;
            if random.u8(..) < 20 {
                tokio::task::yield_now().await;
            }
        }
        let cut = bench
            .disk
            .after_power_cut(|length| random.usize(0..=length));
        let after = bench.on(cut);
        let (journal, recovery) = Journal::open_on(after.disk.clone(), options(&after))
            .unwrap_or_else(|error| panic!("round {round}: {error:?}: {:?}", after.disk.names()));
        assert!(recovery.records > acknowledged, "round {round}");
        journal.close().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        after.disk.copy_to(folder.path()).unwrap();
        let report = report(folder.path(), &options(&after));
        assert!(report.is_sound(), "round {round}: {report:#?}");
        assert!(report.records > acknowledged);
    }
}
