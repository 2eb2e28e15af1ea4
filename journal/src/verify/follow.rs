//! Follows the lines of a log and names what does not fit.

use std::{collections::HashSet, mem, sync::Arc};

use serde::Deserialize;
use tlog_tiles::{Hash, record_hash};

use super::{
    clock::Clock,
    heads::{Heads, Kept},
    report::{Finding, Kind, Report},
};
use crate::{
    chain::{NO_RECORD, line_hash},
    line::{Envelope, integer},
    retention::{Tombstone, tombstone_name},
    tree::{Tree, checkpoint::Head},
};

/// Findings that are kept; a log that was mixed up as a whole has no end of them.
const MOST_FINDINGS: usize = 1000;

/// One line and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Line {
    segment: Arc<str>,
    number: u64,
    hash: [u8; 32],
    leaf: Hash,
    /// `None` if it is no record.
    claim: Option<Claim>,
}

/// What a record says about itself.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) seq: u64,
    prev: Option<[u8; 32]>,
    pub(super) time: String,
    pub(super) boot_id: String,
    pub(super) mono_ns: u64,
    life: Life,
}

/// What a record says about the life of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Start,
    Stop,
    /// A segment was closed after so many records, and signed before.
    Rotate {
        records: u64,
    },
    /// These records are about to be deleted.
    Delete {
        first: u64,
        last: u64,
    },
    GoesOn,
}

impl Life {
    fn of(event: &str, text: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Record<B> {
            body: B,
        }
        #[derive(Deserialize)]
        struct Rotated {
            #[serde(deserialize_with = "integer")]
            records: u64,
        }
        #[derive(Deserialize)]
        struct Deleted {
            #[serde(deserialize_with = "integer")]
            first: u64,
            #[serde(deserialize_with = "integer")]
            last: u64,
        }
        match event {
            "log.start" => Self::Start,
            "log.stop" => Self::Stop,
            "log.rotate" => match serde_json::from_slice::<Record<Rotated>>(text) {
                Ok(Record { body }) => Self::Rotate {
                    records: body.records,
                },
                Err(_) => Self::GoesOn,
            },
            "log.delete" => match serde_json::from_slice::<Record<Deleted>>(text) {
                Ok(Record { body }) => Self::Delete {
                    first: body.first,
                    last: body.last,
                },
                Err(_) => Self::GoesOn,
            },
            _ => Self::GoesOn,
        }
    }
}

impl Line {
    pub(super) fn new(segment: Arc<str>, number: u64, text: &[u8]) -> Self {
        Self::hashed(segment, number, text, line_hash(text))
    }

    /// A line whose SHA-256 is known.
    pub(super) fn hashed(segment: Arc<str>, number: u64, text: &[u8], hash: [u8; 32]) -> Self {
        let claim = Envelope::parse(text).map(|record| Claim {
            seq: record.seq,
            prev: record.prev_hash(),
            life: Life::of(&record.event, text),
            time: record.ts.into_owned(),
            boot_id: record.boot_id.into_owned(),
            mono_ns: record.mono_ns,
        });
        Self {
            segment,
            number,
            hash,
            leaf: record_hash(text),
            claim,
        }
    }

    /// A line that can't be a record.
    pub(super) fn damaged(segment: Arc<str>, number: u64, text: &[u8]) -> Self {
        Self {
            segment,
            number,
            hash: line_hash(text),
            leaf: record_hash(text),
            claim: None,
        }
    }

    fn seq(&self) -> Option<u64> {
        self.claim.as_ref().map(|claim| claim.seq)
    }

    /// `ts`, if it is a record.
    pub(super) fn time(&self) -> Option<&str> {
        self.claim.as_ref().map(|claim| claim.time.as_str())
    }

    /// Believes that it follows the line with that hash, whatever it says.
    pub(super) fn after(mut self, hash: [u8; 32]) -> Self {
        if let Some(claim) = &mut self.claim {
            claim.prev = Some(hash);
        }
        self
    }

    fn prev(&self) -> Option<[u8; 32]> {
        self.claim.as_ref().and_then(|claim| claim.prev)
    }
}

#[derive(Debug, Default)]
pub(super) struct Follower {
    heads: Heads,
    clock: Clock,
    /// The record that the next place is for.
    expected: u64,
    /// Read, but not judged before the line after it is known.
    waiting: Option<Line>,
    /// The line in the place before.
    last: Option<Line>,
    /// A record that came one place too early and must not be missed.
    early: Option<u64>,
    /// So many links are known to be broken by what was found already.
    excused: u32,
    run: Option<Run>,
    tree: Tree,
    /// Whether the tree can still have the signed roots.
    is_comparable: bool,
    has_begun: bool,
    /// Records below are proved by a signed root.
    signed: u64,
    /// A root that does not fit; the next link says whether the record before it is why.
    mismatch: Option<u64>,
    /// Roots that do not fit, though every link does: those of another log if a later one fits.
    doubtful: Vec<Doubtful>,
    /// What tombstones say: the first and the last record that is gone, and the number of the record that says so.
    deletions: Vec<(u64, u64, u64)>,
    /// What `log.delete` records say: the same.
    announced: HashSet<(u64, u64, u64)>,
    /// The hash of the last of the records that were deleted just before.
    behind: Option<[u8; 32]>,
    /// Records at which the clock fell; said of those that are what was signed.
    fallen: Vec<Finding>,
    report: Report,
}

/// A signed root that does not fit.
#[derive(Debug)]
struct Doubtful {
    /// What is to be said if no later root fits.
    rewritten: Finding,
    /// Findings that were there before it.
    after: usize,
}

/// Consecutive records that don't follow the line before them.
#[derive(Debug)]
struct Run {
    /// The line before the first of them.
    left: Option<Mark>,
    first: Mark,
    last: Mark,
    count: u64,
}

/// A record and where it stands.
#[derive(Debug, Clone)]
struct Mark {
    seq: u64,
    segment: Arc<str>,
    number: u64,
}

impl Mark {
    fn finding(&self, kind: Kind, last: u64) -> Finding {
        Finding::of_records(kind, self.seq, last).at(&self.segment, self.number)
    }
}

impl Follower {
    /// Takes a signed head into account, which the log itself keeps or somebody elsewhere; false if another one over as
    /// many records says something else.
    pub(super) fn expect(&mut self, head: Head, file: &str, number: u64, kept: Kept) -> bool {
        self.heads.expect(head, file, number, kept)
    }

    /// Takes note of checkpoints of the log that say nothing about its records.
    pub(super) fn heads(&mut self) -> &mut Heads {
        &mut self.heads
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if self.report.findings.len() < MOST_FINDINGS {
            self.report.findings.push(finding);
        } else {
            self.report.further_findings += 1;
        }
    }

    /// Takes the next line of the log.
    pub(super) fn push(&mut self, line: Line) {
        if !mem::replace(&mut self.has_begun, true) {
            self.is_comparable = true;
        }
        if let Some(current) = self.waiting.take() {
            self.place(current, Some(&line));
        }
        self.waiting = Some(line);
    }

    /// Goes on behind records that were deleted, if a signed head says that they led there.
    pub(super) fn jump(&mut self, tombstone: &Tombstone) {
        if let Some(current) = self.waiting.take() {
            self.place(current, None);
        }
        self.end_run(false);
        let (first, last) = (tombstone.first, tombstone.last());
        let name = tombstone.name();
        if first > self.expected {
            self.find(Finding::of_records(Kind::Deleted, self.expected, first - 1).at(&name, 1));
            self.is_comparable = false;
        }
        let size = tombstone.end.records;
        let edge = tombstone.end.tree();
        let edge = edge.filter(|edge| self.heads.root(size) == Some(edge.root()));
        match edge {
            Some(edge) if self.is_comparable || !self.has_begun => {
                self.is_comparable = true;
                self.tree = edge;
                self.signed = size;
                self.heads.fits(size);
            }
            Some(_) => {}
            None => {
                self.is_comparable = false;
                self.find(Finding::of_records(Kind::Deleted, first, last).in_segment(&name));
            }
        }
        self.has_begun = true;
        self.mismatch = None;
        self.deletions.push((first, last, tombstone.record));
        self.expected = size;
        self.last = None;
        self.behind = Some(tombstone.end.prev);
    }

    /// Takes notice of records that can't be read.
    pub(super) fn skip(&mut self, segment: &Arc<str>, first: u64, last: u64) {
        if let Some(current) = self.waiting.take() {
            self.place(current, None);
        }
        self.end_run(false);
        self.has_begun = true;
        self.is_comparable = false;
        self.mismatch = None;
        self.find(Finding::of_records(Kind::Unreadable, first, last).in_segment(segment));
        self.expected = last + 1;
        self.last = None;
        // Nobody knows what the next record should follow.
        self.excused = 1;
    }

    pub(super) fn finish(mut self) -> Report {
        if let Some(current) = self.waiting.take() {
            self.place(current, None);
        }
        let is_chain_broken_at_end = self.run.is_some();
        self.end_run(true);
        if let (Some(covers), false) = (self.mismatch.take(), is_chain_broken_at_end) {
            self.doubt(covers);
        }
        if self.is_comparable && self.doubtful.is_empty() {
            for finding in mem::take(&mut self.fallen) {
                self.find(finding);
            }
        }
        // No later root fits, so that it is the log and not the signed root which is another.
        if let Some(first) = mem::take(&mut self.doubtful).into_iter().next() {
            let place = first.after.min(self.report.findings.len());
            self.report.findings.insert(place, first.rewritten);
        }
        for (first, last, record) in mem::take(&mut self.deletions) {
            if self.announced.contains(&(first, last, record)) {
                self.report.notices.push(format!(
                    "records {first} to {last} were deleted because they were too old, as record {record} says"
                ));
            } else {
                let name = tombstone_name(first);
                self.find(Finding::of_records(Kind::Deleted, first, last).in_segment(&name));
            }
        }
        for finding in self.heads.missing(self.expected) {
            self.find(finding);
        }
        if let Some(covers) = self
            .heads
            .largest()
            .filter(|&covers| covers > self.expected)
        {
            let finding =
                Finding::of_records(Kind::Truncated, self.expected, covers - 1).covering(covers);
            let finding = match &self.last {
                Some(last) => finding.at(&last.segment, last.number),
                None => finding,
            };
            self.find(finding);
        }
        self.report.records = self.expected;
        self.report.signed = self.signed;
        self.report.notices.extend(self.clock.notices());
        self.report.notices.extend(self.heads.notices());
        self.report.last_time = self
            .last
            .and_then(|last| last.claim)
            .map(|claim| claim.time);
        self.report
    }

    /// Compares the number that a line claims with its place.
    fn place(&mut self, line: Line, next: Option<&Line>) {
        let expected = self.expected;
        let after = next.and_then(Line::seq);
        match line.seq() {
            Some(seq) if seq == expected => self.take(line, Link::Checked),
            None if after == Some(expected) => {
                self.find_at(Kind::Inserted, expected, expected, &line)
            }
            None => {
                self.find_at(Kind::Edited, expected, expected, &line);
                self.take(line, Link::Known);
                self.excused = 1;
            }
            Some(seq) if seq > expected => self.place_early(line, seq, after),
            Some(seq) => self.place_late(line, seq, next),
        }
    }

    fn place_early(&mut self, line: Line, seq: u64, after: Option<u64>) {
        let expected = self.expected;
        if after == Some(expected) && seq == expected + 1 {
            self.find_at(Kind::Swapped, expected, seq, &line);
            self.early = Some(seq);
            self.excused = 2;
        } else if after == Some(expected) {
            self.find_at(Kind::Inserted, expected, expected, &line);
        } else if after == Some(expected + 1) {
            self.replace(line, seq);
        } else {
            self.find_at(Kind::Deleted, expected, seq - 1, &line);
            self.expected = seq;
            self.take(line, Link::Known);
        }
    }

    fn place_late(&mut self, line: Line, seq: u64, next: Option<&Line>) {
        let expected = self.expected;
        let other_half = self.report.findings.iter_mut().rev().find(|f| {
            f.kind == Kind::Replaced && f.first == Some(seq) && f.found == Some(expected)
        });
        if let Some(finding) = other_half {
            finding.kind = Kind::Swapped;
            finding.last = Some(expected);
            self.take(line, Link::Known);
            self.excused = 1;
        } else if next.and_then(Line::seq) == Some(expected + 1) {
            self.replace(line, seq);
        } else if seq + 1 < expected || self.last.as_ref().is_none_or(|last| last.hash == line.hash)
        {
            self.find_at(Kind::Duplicated, seq, seq, &line);
        } else if next.is_some_and(|next| next.prev() == Some(line.hash)) {
            // Two lines claim the place, and the log goes on from the second. A root was compared with the first.
            self.mismatch = None;
            if let Some(forged) = self.last.replace(line) {
                self.find_at(Kind::Inserted, seq, seq, &forged);
            }
        } else {
            self.find_at(Kind::Inserted, seq, seq, &line);
        }
    }

    /// A line stands in the place of another.
    fn replace(&mut self, line: Line, seq: u64) {
        let finding = Finding::of_records(Kind::Replaced, self.expected, self.expected);
        let finding = Finding {
            found: Some(seq),
            ..finding.at(&line.segment, line.number)
        };
        self.find(finding);
        self.is_comparable = false;
        self.take(line, Link::Known);
        self.excused = 1;
    }

    /// Lets a line be the record that its place is for.
    fn take(&mut self, line: Line, link: Link) {
        let is_excused = self.excused > 0 || link == Link::Known;
        self.excused = self.excused.saturating_sub(1);
        let behind = self.behind.take().unwrap_or(NO_RECORD);
        let before = self.last.as_ref().map_or(behind, |last| last.hash);
        let follows = is_excused || line.prev() == Some(before);
        if let (Some(covers), true) = (self.mismatch.take(), follows) {
            self.doubt(covers);
        }
        if follows {
            self.end_run(false);
        } else {
            self.extend_run(&line);
        }
        self.look_at_claim(&line, follows);
        self.tree.push_leaf(line.leaf);
        self.expected += 1;
        if self.early == Some(self.expected) {
            self.early = None;
            self.expected += 1;
        }
        self.last = Some(line);
        self.compare_root();
    }

    fn compare_root(&mut self) {
        let size = self.tree.size();
        let Some(root) = self.heads.root(size).filter(|_| self.is_comparable) else {
            return;
        };
        if root != self.tree.root() {
            self.mismatch = Some(size);
            return;
        }
        self.signed = size;
        self.heads.fits(size);
        for finding in mem::take(&mut self.fallen) {
            self.find(finding);
        }
        // Both were signed, and the log is the one that goes on to this root.
        for doubtful in mem::take(&mut self.doubtful) {
            let covers = doubtful.rewritten.covers.unwrap_or_default();
            let finding = self.heads.forked(covers, &doubtful.rewritten);
            let place = doubtful.after.min(self.report.findings.len());
            self.report.findings.insert(place, finding);
        }
    }

    fn extend_run(&mut self, line: &Line) {
        self.is_comparable = false;
        let mark = Mark {
            seq: self.expected,
            segment: line.segment.clone(),
            number: line.number,
        };
        match &mut self.run {
            Some(run) => {
                run.last = mark;
                run.count += 1;
            }
            None => {
                let left = self.last.as_ref().map(|last| Mark {
                    seq: self.expected.saturating_sub(1),
                    segment: last.segment.clone(),
                    number: last.number,
                });
                self.run = Some(Run {
                    left,
                    first: mark.clone(),
                    last: mark,
                    count: 1,
                });
            }
        }
    }

    /// Says which record a broken stretch of the chain blames.
    ///
    /// A changed text breaks the link behind it, a changed `prev` the one before it as well. The last record of a log has
    /// no link behind it.
    fn end_run(&mut self, is_end_of_log: bool) {
        let Some(run) = self.run.take() else { return };
        // What a signed root covers is not to blame.
        let left = run.left.filter(|left| left.seq >= self.signed);
        let finding = match (left, run.count) {
            (Some(left), 1) if is_end_of_log => left.finding(Kind::Edited, run.last.seq),
            (Some(left), 1) => left.finding(Kind::Edited, left.seq),
            (None, 1) => run.first.finding(Kind::Edited, run.first.seq),
            _ if is_end_of_log && run.count > 2 => run.first.finding(Kind::Edited, run.last.seq),
            _ => run.first.finding(Kind::Edited, run.last.seq - 1),
        };
        self.find(finding);
    }

    /// A signed root does not fit, though every link does.
    fn doubt(&mut self, covers: u64) {
        let finding =
            Finding::of_records(Kind::Rewritten, self.signed, covers - 1).covering(covers);
        let rewritten = match &self.last {
            Some(last) => finding.at(&last.segment, last.number),
            None => finding,
        };
        // Somebody may have signed many; whoever made the chain anew is named by the first.
        if self.doubtful.len() < MOST_FINDINGS {
            self.doubtful.push(Doubtful {
                rewritten,
                after: self.report.findings.len(),
            });
        }
    }

    fn find_at(&mut self, kind: Kind, first: u64, last: u64, line: &Line) {
        self.is_comparable = false;
        self.find(Finding::of_records(kind, first, last).at(&line.segment, line.number));
    }

    fn look_at_claim(&mut self, line: &Line, follows: bool) {
        let Some(claim) = &line.claim else { return };
        if self.report.first_time.is_none() {
            self.report.first_time = Some(claim.time.clone());
        }
        if let Life::Delete { first, last } = claim.life {
            self.announced.insert((first, last, self.expected));
        }
        self.heads.note(claim.life, self.expected);
        let before = self.last.as_ref().and_then(|last| last.claim.as_ref());
        let fell = self.clock.fell(claim, before);
        // Elsewhere it is no wonder.
        if fell && follows && self.is_comparable && self.fallen.len() < MOST_FINDINGS {
            let finding = Finding::of_records(Kind::ClockBack, self.expected, self.expected);
            self.fallen.push(finding.at(&line.segment, line.number));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// The record must follow the line before it.
    Checked,
    /// It can't, for a reason that is a finding already.
    Known,
}
