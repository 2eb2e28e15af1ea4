//! Whatever is done to a log shows, and the record is named.

use std::{collections::BTreeMap, sync::LazyLock};

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use signed_note::StandardVerifier;

use super::*;
use crate::{
    tree::key::{public_key_path, read_verifier_keys},
    verify::{Finding, Kind, Report, Verification},
};

/// A log as files, open to every mischief.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) lines: Vec<(String, Vec<u8>)>,
    pub(super) checkpoints: Vec<u8>,
    pub(super) keys: Vec<StandardVerifier>,
    pub(super) outside: Option<Vec<u8>>,
}

impl Log {
    /// Sixty records and more in several segments, closed as it should be.
    fn new() -> Self {
        static LOG: LazyLock<Log> = LazyLock::new(Log::another);
        LOG.clone()
    }

    /// The like, with a key of its own.
    fn another() -> Self {
        let bench = Bench::new();
        let journal = fill(&bench);
        block_on(journal.close()).unwrap();
        Self::of(&bench)
    }

    pub(super) fn of(bench: &Bench) -> Self {
        let mut lines = Vec::new();
        for name in segments(&bench.disk) {
            for line in bench.disk.content(&name).split_inclusive(|&b| b == b'\n') {
                lines.push((name.clone(), line.strip_suffix(b"\n").unwrap().to_vec()));
            }
        }
        let keys = read_verifier_keys(&public_key_path(&bench.options().signing_key)).unwrap();
        Self {
            lines,
            checkpoints: bench.disk.content("checkpoints"),
            keys,
            outside: None,
        }
    }

    pub(super) fn verify(&self) -> Report {
        let mut verification = Verification::new(self.keys.clone());
        verification.checkpoints("checkpoints", &self.checkpoints);
        if let Some(note) = &self.outside {
            verification.checkpoints_kept_elsewhere("outside", note);
        }
        let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (name, line) in &self.lines {
            let text = files.entry(name).or_default();
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        let count = files.len();
        for (at, (name, text)) in files.into_iter().enumerate() {
            verification
                .segment(name, &mut &text[..], at + 1 == count)
                .unwrap();
        }
        verification.finish()
    }

    pub(super) fn last(&self) -> usize {
        self.lines.len() - 1
    }

    /// The line of the file of record `at`, counted from 1.
    fn number(&self, at: usize) -> u64 {
        self.lines[..=at]
            .iter()
            .filter(|(name, _)| *name == self.lines[at].0)
            .count() as u64
    }

    pub(super) fn edit(&mut self, at: usize) {
        let text = String::from_utf8(self.lines[at].1.clone()).unwrap();
        self.lines[at].1 = text
            .replacen("\"body\":{", "\"body\":{\"a\":1,", 1)
            .replace("1,}", "1}")
            .into_bytes();
    }

    /// Makes the chain whole again from record `at` on, as somebody would who knows the format but has no key.
    pub(super) fn chain_anew(&mut self, from: usize) {
        for at in from..self.lines.len() {
            let prev = hex::encode(Sha256::digest(&self.lines[at - 1].1));
            let text = String::from_utf8(self.lines[at].1.clone()).unwrap();
            let begin = text.find("\"prev\":\"").unwrap() + 8;
            self.lines[at].1 =
                format!("{}{prev}{}", &text[..begin], &text[begin + 64..]).into_bytes();
        }
    }
}

fn fill(bench: &Bench) -> Journal {
    let options = Options {
        segment_bytes: 5000,
        ..bench.options()
    };
    let (journal, _) = Journal::open_on(bench.disk.clone(), options).unwrap();
    for n in 0..60 {
        block_on(journal.append(named(&n.to_string()))).unwrap();
    }
    journal
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// The one finding, as kind, first and last record.
pub(super) fn only(report: &Report) -> (Kind, u64, u64) {
    let [finding] = &report.findings[..] else {
        panic!("{report:#?}")
    };
    (
        finding.kind,
        finding.first.unwrap_or_default(),
        finding.last.unwrap_or_default(),
    )
}

fn names_record(report: &Report, at: usize) -> bool {
    let at = at as u64;
    report
        .findings
        .iter()
        .any(|f| f.first.is_some_and(|first| first <= at) && f.last.is_some_and(|last| at <= last))
}

fn place(finding: &Finding) -> (&str, u64) {
    (finding.file.as_deref().unwrap(), finding.line.unwrap())
}

#[test]
fn an_untouched_log_is_sound_and_wholly_signed() {
    let log = Log::new();
    let report = log.verify();
    assert!(report.is_sound(), "{report:#?}");
    assert!(report.notices.is_empty(), "{report:#?}");
    assert_eq!(
        (report.records, report.signed, report.chained_only()),
        (log.lines.len() as u64, report.records, 0)
    );
    assert!(report.segments > 3);
}

#[test]
fn an_edit_is_found_at_every_record() {
    let log = Log::new();
    for at in 0..log.last() - 1 {
        let mut edited = log.clone();
        edited.edit(at);
        let report = edited.verify();
        assert_eq!(
            only(&report),
            (Kind::Edited, at as u64, at as u64),
            "record {at}"
        );
        assert_eq!(
            place(&report.findings[0]),
            (log.lines[at].0.as_str(), log.number(at))
        );
    }
}

#[test]
fn an_edit_of_the_last_but_one_is_narrowed_down_to_two_records() {
    let mut log = Log::new();
    let last = log.last();
    log.edit(last - 1);
    assert_eq!(
        only(&log.verify()),
        (Kind::Edited, last as u64 - 1, last as u64)
    );
}

#[test]
fn an_edit_of_the_last_record_is_found_by_the_checkpoint() {
    let mut log = Log::new();
    let last = log.last();
    log.edit(last);
    let report = log.verify();
    let (kind, _, named) = only(&report);
    assert_eq!((kind, named), (Kind::Rewritten, last as u64));
    assert_eq!(
        place(&report.findings[0]),
        (log.lines[last].0.as_str(), log.number(last))
    );
}

#[test]
fn an_edited_link_names_the_record_that_holds_it() {
    let log = Log::new();
    for at in 1..log.last() {
        let mut edited = log.clone();
        let text = String::from_utf8(edited.lines[at].1.clone()).unwrap();
        let begin = text.find("\"prev\":\"").unwrap() + 8;
        let digit = if text.as_bytes()[begin] == b'0' {
            "1"
        } else {
            "0"
        };
        edited.lines[at].1 =
            format!("{}{digit}{}", &text[..begin], &text[begin + 1..]).into_bytes();
        assert_eq!(
            only(&edited.verify()),
            (Kind::Edited, at as u64, at as u64),
            "record {at}"
        );
    }
}

#[test]
fn a_deleted_record_is_named() {
    let log = Log::new();
    for at in 0..log.lines.len() {
        let mut cut = log.clone();
        cut.lines.remove(at);
        let kind = if at == log.last() {
            Kind::Truncated
        } else {
            Kind::Deleted
        };
        assert_eq!(
            only(&cut.verify()),
            (kind, at as u64, at as u64),
            "record {at}"
        );
    }
}

#[test]
fn a_dropped_segment_is_named_by_its_records() {
    let log = Log::new();
    let mut names: Vec<_> = log.lines.iter().map(|(name, _)| name.clone()).collect();
    names.dedup();
    for name in &names {
        let first = log.lines.iter().position(|(n, _)| n == name).unwrap() as u64;
        let last = log.lines.iter().rposition(|(n, _)| n == name).unwrap() as u64;
        let mut cut = log.clone();
        cut.lines.retain(|(n, _)| n != name);
        let kind = if Some(name) == names.last() {
            Kind::Truncated
        } else {
            Kind::Deleted
        };
        assert_eq!(only(&cut.verify()), (kind, first, last), "{name}");
    }
}

#[test]
fn a_cut_end_is_found_at_every_length() {
    let log = Log::new();
    for length in 0..log.lines.len() {
        let mut cut = log.clone();
        cut.lines.truncate(length);
        assert_eq!(
            only(&cut.verify()),
            (Kind::Truncated, length as u64, log.last() as u64)
        );
    }
}

#[test]
fn a_cut_of_log_and_checkpoints_shows_only_to_who_kept_a_checkpoint() {
    let log = Log::new();
    let notes: Vec<_> = crate::tree::checkpoint::notes(&log.checkpoints).0;
    let mut cut = log.clone();
    cut.checkpoints = notes[..notes.len() - 1].concat();
    let covered = cut.verify().signed as usize;
    cut.lines.truncate(covered + 2);
    assert!(cut.verify().is_sound());
    assert_eq!(cut.verify().chained_only(), 2);
    cut.outside = Some(notes.last().unwrap().to_vec());
    assert_eq!(
        only(&cut.verify()),
        (Kind::Truncated, covered as u64 + 2, log.last() as u64)
    );
}

#[test]
fn a_log_without_checkpoints_proves_nothing() {
    let mut log = Log::new();
    log.checkpoints.clear();
    assert_eq!(only(&log.verify()).0, Kind::NoCheckpoint);
}

#[test]
fn another_key_is_named() {
    let mut log = Log::new();
    log.keys = Log::another().keys;
    let report = log.verify();
    assert_eq!(only(&report).0, Kind::WrongKey);
    assert_eq!(report.findings[0].signers, ["gw1/log"]);
    assert_eq!(report.signed, 0);
}

#[test]
fn an_edited_checkpoint_is_named() {
    let log = Log::new();
    let notes: Vec<_> = crate::tree::checkpoint::notes(&log.checkpoints).0;
    for (number, note) in notes.iter().enumerate() {
        let text = std::str::from_utf8(note).unwrap();
        let size: u64 = text.lines().nth(1).unwrap().parse().unwrap();
        let smaller = text.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size - 1), 1);
        let mut edited = log.clone();
        edited.checkpoints = notes
            .iter()
            .enumerate()
            .flat_map(|(at, n)| if at == number { smaller.as_bytes() } else { n })
            .copied()
            .collect();
        let report = edited.verify();
        assert_eq!(only(&report).0, Kind::CheckpointEdited);
        assert_eq!(
            place(&report.findings[0]),
            ("checkpoints", number as u64 + 1)
        );
    }
}

#[test]
fn a_second_log_under_the_same_key_is_a_fork() {
    let bench = Bench::new();
    block_on(fill(&bench).close()).unwrap();
    let other = bench.on(FaultyDisk::new());
    block_on(fill(&other).close()).unwrap();
    let mut log = Log::of(&bench);
    log.outside = Some(other.disk.content("checkpoints"));
    let report = log.verify();
    assert!(
        report.findings.iter().all(|f| f.kind == Kind::Forked) && !report.is_sound(),
        "{report:#?}"
    );
}

#[test]
fn a_line_that_the_daemon_is_writing_is_a_note_and_no_finding() {
    let bench = Bench::new();
    let journal = fill(&bench);
    let log = Log::of(&bench);
    let mut verification = Verification::new(log.keys.clone());
    verification.checkpoints("checkpoints", &log.checkpoints);
    let names = segments(&bench.disk);
    for (at, name) in names.iter().enumerate() {
        let mut text = bench.disk.content(name);
        if at + 1 == names.len() {
            text.extend_from_slice(b"{\"body\":{},\"boo");
        }
        verification
            .segment(name, &mut &text[..], at + 1 == names.len())
            .unwrap();
    }
    let report = verification.finish();
    assert!(report.is_sound(), "{report:#?}");
    assert!(report.notices[0].contains("not complete"), "{report:#?}");
    assert!(report.chained_only() > 0);
    drop(journal);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn two_swapped_records_are_named(a in 0..60_usize, b in 0..60_usize) {
        prop_assume!(a != b);
        let mut log = Log::new();
        let (a, b) = (a.min(b), a.max(b));
        let line = log.lines[a].1.clone();
        log.lines[a].1 = std::mem::replace(&mut log.lines[b].1, line);
        prop_assert_eq!(only(&log.verify()), (Kind::Swapped, a as u64, b as u64));
    }

    #[test]
    fn a_repeated_record_is_named(from in 0..60_usize, to in 0..60_usize) {
        prop_assume!(from < to);
        let mut log = Log::new();
        let copy = log.lines[from].1.clone();
        let segment = log.lines[to - 1].0.clone();
        log.lines.insert(to, (segment, copy));
        let report = log.verify();
        prop_assert_eq!(only(&report), (Kind::Duplicated, from as u64, from as u64));
        let (file, line) = place(&report.findings[0]);
        prop_assert_eq!((file, line), (log.lines[to].0.as_str(), log.number(to)));
    }

    #[test]
    fn a_forged_record_before_or_after_the_real_one_is_named(at in 0..60_usize, before in any::<bool>()) {
        let mut log = Log::new();
        let real = log.lines[at].clone();
        log.lines.insert(at, real);
        let forged = if before { at } else { at + 1 };
        log.edit(forged);
        let report = log.verify();
        prop_assert_eq!(only(&report), (Kind::Inserted, at as u64, at as u64));
        prop_assert_eq!(place(&report.findings[0]).1, log.number(forged));
    }

    #[test]
    fn deleted_records_are_named(first in 0..60_usize, count in 1..10_usize) {
        let mut log = Log::new();
        let last = (first + count - 1).min(log.last() - 1);
        log.lines.drain(first..=last);
        prop_assert_eq!(only(&log.verify()), (Kind::Deleted, first as u64, last as u64));
    }

    #[test]
    fn an_edit_with_the_chain_made_anew_is_found_by_the_signatures(at in 0..60_usize) {
        let mut log = Log::new();
        log.edit(at);
        log.chain_anew(at + 1);
        let report = log.verify();
        let (kind, first, last) = only(&report);
        prop_assert_eq!(kind, Kind::Rewritten);
        prop_assert!((first..=last).contains(&(at as u64)), "{:?} does not hold {at}", (first, last));
    }

    #[test]
    fn any_changed_byte_is_found_and_its_record_named(at in 0..64_usize, position in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut log = Log::new();
        prop_assume!(at < log.lines.len());
        let line = &mut log.lines[at].1;
        let position = position.index(line.len());
        prop_assume!(line[position] != with && with != b'\n');
        line[position] = with;
        let report = log.verify();
        prop_assert!(names_record(&report, at), "record {at} is not named: {report:#?}");
    }

    #[test]
    fn no_bytes_make_the_check_fail(text in any::<Vec<u8>>(), note in any::<Vec<u8>>()) {
        let mut verification = Verification::new(Vec::new());
        verification.checkpoints("checkpoints", &note);
        verification.segment("000000000000.jsonl", &mut &text[..], true).unwrap();
        prop_assert!(!verification.finish().is_sound());
    }
}
