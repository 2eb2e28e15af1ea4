//! Checks a log: bytes in, findings out. Knows no clock and no daemon; files are read in [`directory`] alone.
//!
//! Lines are followed one by one with a single line of foresight, so that memory stays bounded. The place of a line says
//! which record it should be, its sequence number which one it claims to be, the `prev` of the next whether it was
//! changed, and the signed tree heads whether the whole was.

mod clock;
mod cosigned;
pub mod directory;
mod follow;
mod heads;
mod parallel;
mod report;

use std::{
    fmt,
    io::{self, BufRead},
    mem,
    ops::Range,
    sync::Arc,
};

use signed_note::StandardVerifier;

pub use cosigned::Witnesses;
pub use report::{CosignedPlace, Finding, Kind, Report};

use crate::{
    line::{Found, read_line},
    retention::Tombstone,
    sealed::{Lines, SealedSegment},
    tree::{
        checkpoint::{Judged, notes},
        keyring::Keyring,
    },
};
use cosigned::Cosigners;
use follow::{Follower, Line};
use heads::Kept;

/// Bytes of lines that are worked on at once.
const BATCH_BYTES: usize = 1 << 20;

/// A line as it was read.
struct Raw {
    number: u64,
    /// In the batch.
    place: Range<usize>,
    is_whole: bool,
}

/// A check under way: first all checkpoints, then all segments in order, then [`Verification::finish`].
pub struct Verification {
    keys: Keyring,
    follower: Follower,
    segments: u64,
    notices: Vec<String>,
    has_judged_checkpoint: bool,
    /// Bytes of the log's own checkpoints that were judged.
    own_bytes: usize,
    /// The hash of the last line, where a change before it in its frame made it another than it was: what the next line
    /// says of it would only name the same change again.
    after_change: Option<[u8; 32]>,
    cosigners: Option<Cosigners>,
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verification({} segments so far)", self.segments)
    }
}

impl Verification {
    /// Begins a check for somebody who trusts `keys`.
    pub fn new(keys: Vec<StandardVerifier>) -> Self {
        Self {
            keys: Keyring::new(keys),
            follower: Follower::default(),
            segments: 0,
            notices: Vec::new(),
            has_judged_checkpoint: false,
            own_bytes: 0,
            after_change: None,
            cosigners: None,
        }
    }

    /// Asks too what these witnesses cosigned.
    #[must_use]
    pub fn with_witnesses(mut self, witnesses: Option<Witnesses>) -> Self {
        self.cosigners = witnesses.map(Cosigners::new);
        self
    }

    /// Takes the log's own checkpoints in `text`, which `file` names in findings.
    pub fn checkpoints(&mut self, file: &str, text: &[u8]) {
        self.own_bytes = text.len() - notes(text).1.len();
        self.expect(file, text, Kept::Here);
    }

    /// Takes checkpoints of this log that were kept elsewhere: each must be one of the log, and be there.
    pub fn checkpoints_kept_elsewhere(&mut self, file: &str, text: &[u8]) {
        self.expect(file, text, Kept::Elsewhere);
    }

    /// Takes the log's own checkpoints as they are after the segments were read: a daemon that runs on signs meanwhile.
    pub fn checkpoints_signed_meanwhile(&mut self, text: &[u8]) {
        for note in notes(text.get(self.own_bytes..).unwrap_or_default()).0 {
            if let Judged::Good(head) = self.keys.judge(note) {
                self.follower.heads().is_there(head.size);
            }
        }
    }

    fn expect(&mut self, file: &str, text: &[u8], kept: Kept) {
        let (all, torn) = notes(text);
        let mut foreign = Vec::new();
        let mut foreign_notes = 0_u64;
        let mut foreign_from = u64::MAX;
        let mut before = 0;
        let mut is_damaged = false;
        for (number, note) in (1..).zip(all) {
            self.has_judged_checkpoint = true;
            let judged = self.keys.judge(note);
            match &judged {
                Judged::Good(head) | Judged::OtherKey { head, .. } => {
                    if mem::take(&mut is_damaged) {
                        self.follower.heads().damaged_between(before, head.size);
                    }
                    before = head.size;
                }
                Judged::BadSignature { .. } | Judged::Malformed => is_damaged = kept == Kept::Here,
            }
            match judged {
                Judged::Good(head) => {
                    if !self.follower.expect(head, file, number, kept) {
                        self.follower.find(
                            Finding::of_checkpoint(Kind::Forked, file, number).covering(head.size),
                        );
                    }
                    if let Some(cosigners) = &mut self.cosigners
                        && let Err(witness) = cosigners.hear(note, head)
                    {
                        let mut finding =
                            Finding::of_checkpoint(Kind::CosignatureEdited, file, number)
                                .covering(head.size);
                        finding.signers = vec![witness.name];
                        self.follower.find(finding);
                    }
                }
                Judged::OtherKey { head, signers } => {
                    foreign_notes += 1;
                    foreign_from = foreign_from.min(head.size);
                    if kept == Kept::Here {
                        self.follower.heads().is_there(head.size);
                    }
                    foreign.extend(signers);
                    foreign.sort();
                    foreign.dedup();
                }
                Judged::BadSignature { size } => {
                    let finding = Finding::of_checkpoint(Kind::CheckpointEdited, file, number);
                    self.follower.find(match size {
                        Some(size) => finding.covering(size),
                        None => finding,
                    });
                }
                Judged::Malformed => {
                    self.follower
                        .find(Finding::of_checkpoint(Kind::CheckpointEdited, file, number))
                }
            }
        }
        if is_damaged {
            self.follower.heads().damaged_between(before, u64::MAX);
        }
        if foreign_notes > 0 {
            let mut finding =
                Finding::of_checkpoint(Kind::WrongKey, file, foreign_notes).covering(foreign_from);
            finding.signers = foreign;
            self.follower.find(finding);
        }
        if !torn.is_empty() {
            self.notices.push(format!(
                "the last checkpoint in {file} is not complete ({} bytes): one is being written, or the end was cut off",
                torn.len()
            ));
        }
    }

    /// Takes the next segment. `is_last` allows for a line that the daemon is writing at this moment.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn segment(
        &mut self,
        name: &str,
        input: &mut dyn BufRead,
        is_last: bool,
    ) -> io::Result<()> {
        self.segments += 1;
        let segment: Arc<str> = name.into();
        let mut text = Vec::new();
        let (mut batch, mut raw) = (Vec::new(), Vec::new());
        for number in 1.. {
            let (found, taken) = read_line(input, &mut text)?;
            match found {
                Found::End => break,
                Found::Torn if is_last => {
                    self.notices.push(format!(
                        "the last line ({name}, line {number}) is not complete ({taken} bytes): the daemon is writing \
                         it, or it was cut off before any checkpoint covered it"
                    ));
                }
                Found::Whole | Found::Torn | Found::TooLong => {
                    let begin = batch.len();
                    batch.extend_from_slice(&text);
                    raw.push(Raw {
                        number,
                        place: begin..batch.len(),
                        is_whole: found == Found::Whole,
                    });
                }
            }
            if batch.len() >= BATCH_BYTES {
                self.push_all(&segment, &batch, &raw);
                batch.clear();
                raw.clear();
            }
        }
        self.push_all(&segment, &batch, &raw);
        Ok(())
    }

    fn push_all(&mut self, segment: &Arc<str>, batch: &[u8], raw: &[Raw]) {
        let lines = parallel::map(raw, |raw| {
            let text = batch.get(raw.place.clone()).unwrap_or_default();
            if raw.is_whole {
                Line::new(Arc::clone(segment), raw.number, text)
            } else {
                Line::damaged(Arc::clone(segment), raw.number, text)
            }
        });
        for line in lines {
            self.push(line);
        }
    }

    /// Takes the next segment, which is sealed. A part that can't be read is a finding.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn sealed_segment(
        &mut self,
        name: &str,
        segment: &mut SealedSegment,
    ) -> io::Result<()> {
        self.segments += 1;
        let name: Arc<str> = name.into();
        let (mut stored, mut lines) = (Vec::new(), Lines::default());
        let frames = segment.frames().to_vec();
        let (first, end) = (segment.index().first, segment.index().end.clone());
        let mut last_hash = None;
        for (at, frame) in frames.into_iter().enumerate() {
            let last = frame.first + frame.records - 1;
            match segment.lines(at, &mut stored, &mut lines) {
                Ok(()) => {
                    let number = frame.first - first + 1;
                    let mut is_indexed = true;
                    let raw: Vec<_> = (number..).zip(lines.iter()).collect();
                    let read = parallel::map(&raw, |&(number, (line, hash))| {
                        Line::hashed(Arc::clone(&name), number, line, hash)
                    });
                    for line in read {
                        is_indexed &= line
                            .time()
                            .is_none_or(|time| (frame.from.as_str()..=&frame.to).contains(&time));
                        self.push(line);
                    }
                    let hash = lines.hashes.last().copied();
                    self.after_change = hash.filter(|_| !lines.is_sound);
                    last_hash = hash.filter(|_| lines.is_sound);
                    if !is_indexed {
                        let finding = Finding::of_records(Kind::Misindexed, frame.first, last);
                        self.follower.find(finding.in_segment(&name));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    (self.after_change, last_hash) = (None, None);
                    self.follower.skip(&name, frame.first, last);
                }
                Err(error) => return Err(error),
            }
        }
        // A start may go on from there.
        if last_hash.is_some_and(|hash| hash != end.prev) {
            let last = end.records.saturating_sub(1);
            let finding = Finding::of_records(Kind::Misindexed, last, last);
            self.follower.find(finding.in_segment(&name));
        }
        Ok(())
    }

    fn push(&mut self, line: Line) {
        let line = match self.after_change.take() {
            Some(hash) => line.after(hash),
            None => line,
        };
        self.follower.push(line);
    }

    /// Takes notice of records that were deleted because they were too old.
    pub(crate) fn deleted(&mut self, tombstone: &Tombstone) {
        self.after_change = None;
        self.follower.jump(tombstone);
    }

    /// Takes notice of a sealed segment that does not even say what it holds; `next` is the first record behind it.
    pub(crate) fn unreadable_segment(&mut self, name: &str, first: u64, next: Option<u64>) {
        self.segments += 1;
        let last = next.map_or(first, |next| next.saturating_sub(1).max(first));
        self.follower.skip(&name.into(), first, last);
    }

    /// What was found.
    pub fn finish(mut self) -> Report {
        if !self.has_judged_checkpoint {
            self.follower.find(Finding::new(Kind::NoCheckpoint));
        }
        let cosigned = self.cosigners.as_ref().map(Cosigners::newest);
        if let Some(Err(finding)) = &cosigned {
            self.follower.find(Finding::clone(finding));
        }
        let mut report = self.follower.finish();
        report.cosigned = cosigned.and_then(Result::ok);
        report.segments = self.segments;
        report.keys = self.keys.names();
        report.notices.splice(0..0, self.notices);
        report
    }
}
