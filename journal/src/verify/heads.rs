//! Signed tree heads: which there are, and which there must have been.
//!
//! A checkpoint that was dropped shows in two ways: `log.rotate` names the records after which one was signed, and a copy
//! kept elsewhere holds it. The daemon loses checkpoints only in a crash, since those of a busy log are not synced.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use tlog_tiles::Hash;

use super::{
    follow::Life,
    report::{Finding, Kind},
};
use crate::tree::checkpoint::{CHECKPOINTS, Head};

/// Records between two checkpoints that are worth a word: twice what the daemon signs after.
const LONG_STRETCH: u64 = 2000;

/// Notices that are kept.
const MOST_NOTICES: usize = 10;

/// Who kept a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The log itself.
    Here,
    /// Somebody else, so that the log can be compared with it.
    Elsewhere,
}

#[derive(Debug, Default)]
pub(super) struct Heads {
    /// By the number of records that they cover.
    signed: BTreeMap<u64, Signed>,
    /// Those that the log itself keeps.
    own: BTreeSet<u64>,
    /// So many records were signed, as somebody says.
    promised: BTreeMap<u64, Witness>,
    /// Damaged checkpoints stand between those over so many records.
    damaged: Vec<(u64, u64)>,
    /// The largest head that a copy kept elsewhere and this log have in common.
    agreed: u64,
    /// Starts that no stop came before.
    crashes: BTreeSet<u64>,
    has_started: bool,
    is_stopped: bool,
    stop: Option<u64>,
    notices: Vec<String>,
}

#[derive(Debug)]
struct Signed {
    root: Hash,
    file: String,
    number: u64,
}

/// Who says that a checkpoint was signed.
#[derive(Debug)]
enum Witness {
    Rotation { record: u64 },
    Copy,
}

impl Heads {
    /// False if another head over as many records says something else.
    pub(super) fn expect(&mut self, head: Head, file: &str, number: u64, kept: Kept) -> bool {
        match kept {
            Kept::Here => drop(self.own.insert(head.size)),
            Kept::Elsewhere => drop(self.promised.insert(head.size, Witness::Copy)),
        }
        let signed = self.signed.entry(head.size).or_insert_with(|| Signed {
            root: head.root,
            file: file.to_owned(),
            number,
        });
        signed.root == head.root
    }

    /// A checkpoint over so many records is there, whatever it is worth.
    pub(super) fn is_there(&mut self, size: u64) {
        self.own.insert(size);
    }

    /// A damaged checkpoint stands between those over so many records.
    pub(super) fn damaged_between(&mut self, before: u64, after: u64) {
        self.damaged.push((before, after));
    }

    /// The head over so many records is this log's.
    pub(super) fn fits(&mut self, size: u64) {
        if matches!(self.promised.get(&size), Some(Witness::Copy)) {
            self.agreed = size;
        }
    }

    pub(super) fn root(&self, size: u64) -> Option<Hash> {
        self.signed.get(&size).map(|signed| signed.root)
    }

    /// Records that the largest head covers.
    pub(super) fn largest(&self) -> Option<u64> {
        self.signed.last_key_value().map(|(&size, _)| size)
    }

    /// The finding of a head that is not of this log, though its key signed it. `doubt` says which records differ.
    pub(super) fn forked(&mut self, covers: u64, doubt: &Finding) -> Finding {
        // It is no proof that this log ever signed so many records.
        self.promised.remove(&covers);
        let finding = match self.signed.get(&covers) {
            Some(signed) => Finding::of_checkpoint(Kind::Forked, &signed.file, signed.number),
            None => Finding::new(Kind::Forked),
        };
        Finding {
            first: Some(self.agreed),
            last: doubt.last,
            ..finding.covering(covers)
        }
    }

    /// Takes in what record `seq` says about the log.
    pub(super) fn note(&mut self, life: Life, seq: u64) {
        match life {
            Life::Start => {
                if self.has_started && !self.is_stopped {
                    self.crashes.insert(seq);
                }
                self.has_started = true;
                self.is_stopped = false;
            }
            Life::Stop => {
                self.is_stopped = true;
                self.stop = Some(seq);
            }
            Life::Rotate { records } if records > 0 => {
                let witness = Witness::Rotation { record: seq };
                self.promised.entry(records).or_insert(witness);
            }
            Life::Rotate { .. } | Life::Delete { .. } | Life::GoesOn => {}
        }
    }

    /// Checkpoints that the log must have had; it holds `records`.
    pub(super) fn missing(&mut self, records: u64) -> Vec<Finding> {
        if self.own.is_empty() {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for (&covers, witness) in &self.promised {
            let is_damaged = self
                .damaged
                .iter()
                .any(|&(before, after)| (before + 1..after).contains(&covers));
            if self.own.contains(&covers) || is_damaged || covers > records {
                continue;
            }
            let next = self.own.range(covers..).next().copied();
            if self
                .crashes
                .range(covers..next.unwrap_or(u64::MAX))
                .next()
                .is_some()
            {
                if self.notices.len() < MOST_NOTICES {
                    self.notices.push(format!(
                        "the checkpoint over {covers} records is missing in {CHECKPOINTS}: a crash that came after it \
                         may have lost it"
                    ));
                }
                continue;
            }
            let finding = Finding::of_records(Kind::CheckpointDropped, covers - 1, covers - 1)
                .covering(covers);
            findings.push(match witness {
                Witness::Rotation { record } => Finding {
                    found: Some(*record),
                    ..finding
                },
                Witness::Copy => match self.signed.get(&covers) {
                    Some(signed) => finding.at(&signed.file, signed.number),
                    None => finding,
                },
            });
        }
        self.note_stretches(records);
        findings
    }

    fn note_stretches(&mut self, records: u64) {
        let ends = self.own.iter().copied().filter(|&end| end <= records);
        let mut before = 0;
        for end in ends {
            if end - before >= LONG_STRETCH && self.notices.len() < MOST_NOTICES {
                self.notices.push(format!(
                    "no checkpoint between {before} and {end} records: a burst, a disk that failed, or a checkpoint was \
                     dropped, which a copy kept elsewhere would tell (--checkpoint)"
                ));
            }
            before = end;
        }
        if self.is_stopped
            && let Some(stop) = self.stop.filter(|&stop| stop + 1 == records)
            && !self.own.contains(&records)
        {
            self.notices.push(format!(
                "the log was stopped with record {stop}, but no checkpoint covers it: the daemon was killed at that \
                 moment, or the last checkpoint was dropped, which a copy kept elsewhere would tell (--checkpoint)"
            ));
        }
    }

    pub(super) fn notices(&mut self) -> Vec<String> {
        mem::take(&mut self.notices)
    }
}
