//! Twelve things that somebody may do to a log, each at a hundred places: found, and named with the record.
//!
//! Half of them are done as somebody would who knows the format and makes numbers and chain anew, where that is possible.

use std::{collections::BTreeSet, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    tampering::{Log, block_on, only},
    *,
};
use crate::{
    tree::{
        Tree,
        checkpoint::{notes, sign},
        key::SigningKey,
    },
    verify::{Finding, Kind, Report},
};

const PLACES: usize = 100;

/// Five runs in a dozen segments, with checkpoints at rotations and in between.
struct Original {
    bench: Bench,
    log: Log,
}

static ORIGINAL: LazyLock<Original> = LazyLock::new(|| {
    let bench = Bench::new();
    for run in 0..5 {
        let (journal, _) = Journal::open_on(bench.disk.clone(), options(&bench)).unwrap();
        for n in 0..25 {
            block_on(journal.append(named(&format!("{run} {n}")))).unwrap();
        }
        block_on(journal.close()).unwrap();
    }
    let log = Log::of(&bench);
    Original { bench, log }
});

fn options(bench: &Bench) -> Options {
    Options {
        segment_bytes: 3000,
        ..bench.options()
    }
}

fn key(bench: &Bench) -> SigningKey {
    SigningKey::open(&bench.options().signing_key, "").unwrap()
}

/// Runs `mutation` at a hundred places of the log; it says which record is to be named.
fn at_a_hundred_places(mutation: impl Fn(&mut Log, &mut fastrand::Rng, bool) -> Expected) {
    let mut random = fastrand::Rng::with_seed(6);
    for place in 0..PLACES {
        let mut log = ORIGINAL.log.clone();
        let expected = mutation(&mut log, &mut random, place % 2 == 1);
        let report = log.verify();
        assert!(
            report
                .findings
                .iter()
                .any(|finding| expected.is_met_by(finding)),
            "{expected:?} is not named: {report:#?}"
        );
        let foreign: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| !expected.kinds.contains(&finding.kind))
            .collect();
        assert!(foreign.is_empty(), "{expected:?}, but {report:#?}");
    }
}

#[derive(Debug)]
struct Expected {
    kinds: Vec<Kind>,
    record: u64,
}

impl Expected {
    fn new(kinds: impl Into<Vec<Kind>>, record: usize) -> Self {
        Self {
            kinds: kinds.into(),
            record: record as u64,
        }
    }

    /// Whether the finding is of the kind, and its text names the record, alone or in a range.
    fn is_met_by(&self, finding: &Finding) -> bool {
        let text = finding.to_string();
        let (first, last) = match (finding.first, finding.last, finding.covers) {
            (Some(first), Some(last), _) => (first, last),
            (_, _, Some(covers)) => (0, covers - 1),
            (_, _, None) => return false,
        };
        self.kinds.contains(&finding.kind)
            && (first..=last).contains(&self.record)
            && [last, last + 1]
                .iter()
                .any(|number| text.contains(&number.to_string()))
    }
}

impl Log {
    fn sizes(&self) -> Vec<u64> {
        notes(&self.checkpoints).0.into_iter().map(size).collect()
    }

    /// Gives the lines from `from` on the numbers of their places.
    fn number_anew(&mut self, from: usize) {
        for at in from..self.lines.len() {
            let text = String::from_utf8(self.lines[at].1.clone()).unwrap();
            let begin = text.find("\"seq\":").unwrap() + 6;
            let end = begin + text[begin..].find(|c: char| !c.is_ascii_digit()).unwrap();
            self.lines[at].1 = format!("{}{at}{}", &text[..begin], &text[end..]).into_bytes();
        }
    }

    fn set_number(&mut self, at: usize, field: &str, value: u64) {
        let text = String::from_utf8(self.lines[at].1.clone()).unwrap();
        let begin = text.find(field).unwrap() + field.len();
        let end = begin + text[begin..].find(|c: char| !c.is_ascii_digit()).unwrap();
        self.lines[at].1 = format!("{}{value}{}", &text[..begin], &text[end..]).into_bytes();
    }

    fn number_in(&self, at: usize, field: &str) -> u64 {
        let text = std::str::from_utf8(&self.lines[at].1).unwrap();
        let begin = text.find(field).unwrap() + field.len();
        let digits = text[begin..].split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse().unwrap()
    }

    /// Signs every checkpoint over more than `from` records for the log as it is.
    fn sign_anew(&mut self, from: usize, signed: impl Fn(&Tree) -> Vec<u8>) {
        let mut tree = Tree::default();
        let mut lines = self.lines.iter();
        let mut text = Vec::new();
        for note in notes(&self.checkpoints).0 {
            while tree.size() < size(note) {
                tree.push(&lines.next().unwrap().1);
            }
            if size(note) > from as u64 {
                text.extend(signed(&tree));
            } else {
                text.extend_from_slice(note);
            }
        }
        self.checkpoints = text;
    }

    /// Drops the checkpoints that `is_dropped` names.
    fn drop_checkpoints(&mut self, is_dropped: impl Fn(usize, u64) -> bool) {
        let kept = notes(&self.checkpoints).0.into_iter().enumerate();
        self.checkpoints = kept
            .filter(|&(at, note)| !is_dropped(at, size(note)))
            .flat_map(|(_, note)| note.to_vec())
            .collect();
    }

    /// The like of this log as far as record `last`, on a disk of its own.
    fn restored(&self, last: usize) -> FaultyDisk {
        let disk = FaultyDisk::new();
        let names: BTreeSet<_> = self.lines[..=last].iter().map(|(name, _)| name).collect();
        for name in names {
            let mut text = Vec::new();
            for (_, line) in self.lines[..=last].iter().filter(|(of, _)| of == name) {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
            disk.put(name, text);
        }
        let mut cut = self.clone();
        cut.drop_checkpoints(|_, size| size > last as u64 + 1);
        disk.put("checkpoints", cut.checkpoints);
        disk
    }
}

fn size(note: &[u8]) -> u64 {
    let text = std::str::from_utf8(note).unwrap();
    text.lines().nth(1).unwrap().parse().unwrap()
}

/// The first checkpoint over record `at`.
fn first_over(log: &Log, at: usize) -> u64 {
    log.sizes()
        .into_iter()
        .find(|&size| size > at as u64)
        .unwrap()
}

#[test]
fn the_log_has_many_segments_and_checkpoints_and_is_sound() {
    let report = ORIGINAL.log.verify();
    assert!(
        report.is_sound() && report.notices.is_empty(),
        "{report:#?}"
    );
    let sizes = ORIGINAL.log.sizes();
    assert!(report.segments >= 10 && sizes.len() >= 20, "{sizes:?}");
    assert_eq!(sizes.last(), Some(&report.records));
}

#[test]
fn an_edit_is_found_and_named() {
    at_a_hundred_places(|log, random, knows_format| {
        let at = random.usize(..log.lines.len());
        log.edit(at);
        if knows_format {
            log.chain_anew(at + 1);
        }
        Expected::new([Kind::Edited, Kind::Rewritten], at)
    });
}

#[test]
fn a_deletion_is_found_and_named() {
    at_a_hundred_places(|log, random, knows_format| {
        let at = random.usize(..log.last());
        log.lines.remove(at);
        if !knows_format {
            return Expected::new([Kind::Deleted], at);
        }
        log.number_anew(at);
        log.chain_anew(at.max(1));
        // No signed root tells a deletion behind all but the last from a cut.
        let sizes = log.sizes();
        let behind_all = sizes[sizes.len() - 2] <= at as u64;
        let named = if behind_all { log.lines.len() } else { at };
        Expected::new([Kind::Rewritten, Kind::Truncated], named)
    });
}

#[test]
fn an_insertion_is_found_and_named() {
    at_a_hundred_places(|log, random, knows_format| {
        let at = random.usize(1..log.last());
        let copy = log.lines[at].clone();
        log.lines.insert(at, copy);
        log.edit(at);
        if !knows_format {
            return Expected::new([Kind::Inserted], at);
        }
        log.number_anew(at + 1);
        log.chain_anew(at);
        Expected::new([Kind::Rewritten], at)
    });
}

#[test]
fn a_swap_is_found_and_named() {
    at_a_hundred_places(|log, random, knows_format| {
        let a = random.usize(1..log.last() - 1);
        let b = random.usize(a + 1..log.last());
        let line = log.lines[a].1.clone();
        log.lines[a].1 = std::mem::replace(&mut log.lines[b].1, line);
        if !knows_format {
            let report = log.verify();
            assert_eq!(only(&report), (Kind::Swapped, a as u64, b as u64));
            return Expected::new([Kind::Swapped], a);
        }
        log.number_anew(a);
        log.chain_anew(a);
        Expected::new([Kind::Rewritten], a)
    });
}

#[test]
fn a_cut_end_is_found_and_named() {
    at_a_hundred_places(|log, random, knows_format| {
        let length = random.usize(..log.lines.len());
        if knows_format {
            // The checkpoints are cut with it; only a copy that was kept elsewhere tells.
            log.outside = Some(log.checkpoints.clone());
            log.drop_checkpoints(|at, size| at > 0 && size > length as u64);
        }
        log.lines.truncate(length);
        Expected::new([Kind::Truncated], length)
    });
}

#[test]
fn a_repetition_is_found_and_named() {
    at_a_hundred_places(|log, random, knows_format| {
        let from = random.usize(1..log.last() - 1);
        let to = random.usize(from + 1..log.last());
        let copy = log.lines[from].1.clone();
        log.lines.insert(to, (log.lines[to - 1].0.clone(), copy));
        if !knows_format {
            return Expected::new([Kind::Duplicated], from);
        }
        log.number_anew(to);
        log.chain_anew(to);
        Expected::new([Kind::Rewritten], to)
    });
}

#[test]
fn a_fork_is_found_and_named() {
    at_a_hundred_places(|log, random, is_other_kept| {
        // A copy was restored as of some record, and written on with the same key.
        let parted = random.usize(1..log.last() - 8);
        let other = ORIGINAL.bench.on(log.restored(parted - 1));
        let (journal, _) = Journal::open_on(other.disk.clone(), options(&other)).unwrap();
        block_on(journal.append(named("elsewhere"))).unwrap();
        block_on(journal.close()).unwrap();
        if is_other_kept {
            log.outside = Some(other.disk.content("checkpoints"));
            return Expected::new([Kind::Forked], parted);
        }
        // Both halves wrote to one list of checkpoints.
        let mut cut = Log::of(&other);
        cut.drop_checkpoints(|_, size| size <= parted as u64);
        log.checkpoints.extend(cut.checkpoints);
        Expected::new([Kind::Forked], parted)
    });
}

#[test]
fn another_key_from_some_checkpoint_on_is_found_and_named() {
    at_a_hundred_places(|log, random, has_same_name| {
        let sizes = log.sizes();
        let from = sizes[random.usize(1..sizes.len())];
        let home = tempfile::tempdir().unwrap();
        let name = if has_same_name { "gw1/log" } else { "gw2/log" };
        let other = SigningKey::open(&home.path().join("key"), name).unwrap();
        log.sign_anew(from as usize - 1, |tree| sign(tree, &other));
        let report = log.verify();
        assert_eq!(report.findings[0].covers, Some(from), "{report:#?}");
        assert_eq!(report.findings[0].signers, [name]);
        assert!(report.signed < from);
        Expected::new([Kind::WrongKey], from as usize - 1)
    });
}

#[test]
fn a_dropped_checkpoint_is_found_and_named() {
    at_a_hundred_places(|log, random, has_copy| {
        let rotations: BTreeSet<u64> = (1..log.lines.len())
            .filter(|&at| log.lines[at].0 != log.lines[at - 1].0)
            .map(|at| at as u64)
            .collect();
        let sizes = log.sizes();
        let dropped = if has_copy {
            log.outside = Some(log.checkpoints.clone());
            sizes[random.usize(1..sizes.len())]
        } else {
            // The log itself says that it was signed before each rotation.
            let signed: Vec<_> = rotations.into_iter().collect();
            signed[random.usize(..signed.len())]
        };
        log.drop_checkpoints(|_, size| size == dropped);
        let report = log.verify();
        let [finding] = &report.findings[..] else {
            panic!("{report:#?}")
        };
        assert_eq!(finding.covers, Some(dropped));
        Expected::new([Kind::CheckpointDropped], dropped as usize - 1)
    });
}

#[test]
fn a_clock_that_is_set_back_is_named_and_one_that_cannot_have_been_is_found() {
    let key = key(&ORIGINAL.bench);
    let mut random = fastrand::Rng::with_seed(6);
    for place in 0..PLACES {
        let mut log = ORIGINAL.log.clone();
        let at = random.usize(1..log.lines.len());
        if place % 2 == 0 {
            // As the daemon writes it when the clock steps.
            let seconds = random.i64(2..100_000);
            for line in at..log.lines.len() {
                let text = String::from_utf8(log.lines[line].1.clone()).unwrap();
                let begin = text.find("\"ts\":\"").unwrap() + 6;
                let time = chrono::DateTime::parse_from_rfc3339(&text[begin..begin + 27]).unwrap();
                let back = time - chrono::TimeDelta::seconds(seconds);
                let back = back.format("%Y-%m-%dT%H:%M:%S%.6fZ");
                log.lines[line].1 =
                    format!("{}{back}{}", &text[..begin], &text[begin + 27..]).into_bytes();
            }
        } else {
            let before = log.number_in(at - 1, "\"mono_ns\":");
            log.set_number(at, "\"mono_ns\":", before - 1);
        }
        log.chain_anew(at);
        log.sign_anew(at, |tree| sign(tree, &key));
        let report = log.verify();
        if place % 2 == 0 {
            assert!(report.is_sound(), "{report:#?}");
            let [notice] = &report.notices[..] else {
                panic!("record {at}: {report:#?}")
            };
            assert!(
                notice.contains(&format!("set back before record {at}:")),
                "{notice}"
            );
        } else {
            assert_eq!(only(&report), (Kind::ClockBack, at as u64, at as u64));
        }
    }
}

#[test]
fn a_dropped_segment_is_found_and_named() {
    at_a_hundred_places(|log, random, _| {
        let mut names: Vec<_> = log.lines.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        let dropped = random.choice(&names).unwrap();
        let at = log
            .lines
            .iter()
            .position(|(name, _)| name == dropped)
            .unwrap();
        let kind = if Some(dropped) == names.last() {
            Kind::Truncated
        } else {
            Kind::Deleted
        };
        log.lines.retain(|(name, _)| name != dropped);
        Expected::new([kind], at)
    });
}

#[test]
fn a_log_signed_again_with_the_wrong_key_is_found_and_named() {
    at_a_hundred_places(|log, random, forges_key_id| {
        let at = random.usize(1..log.last());
        let covers = first_over(log, at);
        let genuine = notes(&log.checkpoints).0[0].to_vec();
        log.edit(at);
        log.chain_anew(at + 1);
        let home = tempfile::tempdir().unwrap();
        let thief = SigningKey::open(&home.path().join("key"), "gw1/log").unwrap();
        log.sign_anew(at, |tree| {
            let note = sign(tree, &thief);
            if forges_key_id {
                with_key_id(&note, &genuine)
            } else {
                note
            }
        });
        let report = log.verify();
        assert_eq!(report.findings[0].covers, Some(covers), "{report:#?}");
        assert!(is_signed_no_further(&report, at));
        let kind = if forges_key_id {
            Kind::CheckpointEdited
        } else {
            Kind::WrongKey
        };
        Expected::new([kind], at)
    });
}

fn is_signed_no_further(report: &Report, at: usize) -> bool {
    report.signed <= at as u64
}

/// The note with the key hash of another: the signature claims to be of that one's key.
fn with_key_id(note: &[u8], genuine: &[u8]) -> Vec<u8> {
    let signature = |note: &[u8]| {
        let text = String::from_utf8(note.to_vec()).unwrap();
        let encoded = text.trim_end().rsplit(' ').next().unwrap().to_owned();
        (text, encoded)
    };
    let (text, forged) = signature(note);
    let (_, model) = signature(genuine);
    let mut bytes = BASE64.decode(&forged).unwrap();
    bytes[..4].copy_from_slice(&BASE64.decode(model).unwrap()[..4]);
    text.replace(&forged, &BASE64.encode(bytes)).into_bytes()
}
