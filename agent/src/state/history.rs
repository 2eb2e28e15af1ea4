//! Which revisions can still be shown and gone back to, and where their records stand.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    record::{Record, Revision},
    segment::Location,
};

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Revisions.
    pub keep: usize,
    /// Bytes of the log on disk. What is needed for a start stays, however long it is.
    pub max_bytes: u64,
}

/// A revision, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    #[serde(flatten)]
    pub revision: Revision,
    /// Absent for a change that needed no confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What became of a change that needed a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Waiting,
    Confirmed,
    Reverted,
}

#[derive(Debug)]
pub(super) struct History {
    limits: HistoryLimits,
    entries: VecDeque<(HistoryEntry, Location)>,
}

impl History {
    pub(super) fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
        }
    }

    /// Takes note of a record.
    pub(super) fn note(&mut self, record: &Record, location: &Location) {
        let last = self.entries.back_mut().map(|(entry, _)| entry);
        match record {
            Record::Lists(revision) => {
                if let Some(last) = last.filter(|last| last.outcome == Some(Outcome::Waiting)) {
                    last.outcome = Some(Outcome::Reverted);
                }
                let entry = HistoryEntry {
                    outcome: revision.confirm_by.map(|_| Outcome::Waiting),
                    revision: revision.clone(),
                };
                self.entries.push_back((entry, location.clone()));
                while self.entries.len() > self.limits.keep {
                    self.entries.pop_front();
                }
            }
            Record::Confirmed { revision } => {
                if let Some(last) = last.filter(|last| last.revision.revision == *revision) {
                    last.outcome = Some(Outcome::Confirmed);
                }
            }
            Record::Banned { .. } | Record::Unbanned { .. } | Record::ClockShifted { .. } => {}
        }
    }

    /// Forgets the revision that was noted last. One before it that waited waits again.
    pub(super) fn forget_last(&mut self) {
        self.entries.pop_back();
        if let Some((last, _)) = self.entries.back_mut()
            && last.outcome == Some(Outcome::Reverted)
        {
            last.outcome = Some(Outcome::Waiting);
        }
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &HistoryEntry> {
        self.entries.iter().map(|(entry, _)| entry)
    }

    /// The first revision whose lists can be had: the one before the first whose change is kept.
    pub(super) fn first(&self) -> u64 {
        self.entries
            .front()
            .map_or(0, |(entry, _)| entry.revision.revision.saturating_sub(1))
    }

    /// Whether the lists of this revision can be had.
    pub(super) fn has_state(&self, revision: u64) -> bool {
        let last = self
            .entries
            .back()
            .map_or(0, |(entry, _)| entry.revision.revision);
        (self.first()..=last).contains(&revision)
    }

    /// Where the change that made this revision stands.
    pub(super) fn location(&self, revision: u64) -> Option<&Location> {
        self.entries
            .binary_search_by_key(&revision, |(entry, _)| entry.revision.revision)
            .ok()
            .and_then(|at| self.entries.get(at))
            .map(|(_, location)| location)
    }

    /// Whether a segment is to stay for the history, when the whole log has so many bytes.
    pub(super) fn wants(&self, segment: u64, bytes: u64) -> bool {
        bytes <= self.limits.max_bytes
            && self
                .entries
                .front()
                .is_some_and(|(_, location)| location.segment <= segment)
    }

    pub(super) fn forget_segment(&mut self, segment: u64) {
        while self
            .entries
            .front()
            .is_some_and(|(_, location)| location.segment <= segment)
        {
            self.entries.pop_front();
        }
    }
}
