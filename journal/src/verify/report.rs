//! What a check says.

use std::fmt;

use serde::Serialize;

/// The result of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub records: u64,
    pub segments: u64,
    /// Time of the first and of the last record, as they say.
    pub first_time: Option<String>,
    pub last_time: Option<String>,
    /// Records covered by the largest checkpoint that fits the log.
    pub signed: u64,
    /// The newest place of the log that enough witnesses cosigned, if witnesses were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosigned: Option<CosignedPlace>,
    /// The keys that were trusted.
    pub keys: Vec<String>,
    /// What is wrong, in the order of the log; empty for a sound log.
    pub findings: Vec<Finding>,
    /// Findings beyond the number that is kept.
    pub further_findings: u64,
    /// What a reader should know, though it is no sign of tampering.
    pub notices: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Records that no checkpoint covers: an edit among them is found, except in the very last one; a cut at
    /// their end is not.
    pub fn chained_only(&self) -> u64 {
        self.records.saturating_sub(self.signed)
    }
}

/// A place of a log that witnesses vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CosignedPlace {
    /// Records up to there.
    pub records: u64,
    /// When so many witnesses as were asked for had cosigned it: RFC 3339, UTC.
    pub time: String,
    pub witnesses: Vec<String>,
}

/// What was done to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A record does not have the text that the next one was chained to.
    Edited,
    /// Records are missing in the middle or at the beginning.
    Deleted,
    /// A line that does not belong here.
    Inserted,
    /// A record stands here for the second time.
    Duplicated,
    /// Two records changed places.
    Swapped,
    /// Another record stands in this one's place.
    Replaced,
    /// Records that a checkpoint covers are missing at the end.
    Truncated,
    /// The chain is whole, but not the one that was signed.
    Rewritten,
    /// Two signed checkpoints contradict each other.
    Forked,
    /// A checkpoint is not what its key signed.
    CheckpointEdited,
    /// A checkpoint that was signed is not there.
    CheckpointDropped,
    /// The clock since boot fell from one record to the next.
    ClockBack,
    /// Checkpoints of a key that is not trusted.
    WrongKey,
    /// Nothing signs this log.
    NoCheckpoint,
    /// Too few of the witnesses cosigned any checkpoint.
    NotCosigned,
    /// A cosignature is not what its witness signed.
    CosignatureEdited,
    /// A part of a sealed segment, or its index, is damaged.
    Unreadable,
    /// The index of a sealed segment hides records from a search by time.
    Misindexed,
}

/// One thing that is wrong. `first` to `last` are the records concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// The record that stands where another one should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in `file`, from 1; for a checkpoint its number in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Records that the checkpoint covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covers: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<String>,
}

impl Finding {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            first: None,
            last: None,
            found: None,
            file: None,
            line: None,
            covers: None,
            signers: Vec::new(),
        }
    }

    pub(super) fn of_records(kind: Kind, first: u64, last: u64) -> Self {
        Self {
            first: Some(first),
            last: Some(last),
            ..Self::new(kind)
        }
    }

    pub(super) fn of_checkpoint(kind: Kind, file: &str, number: u64) -> Self {
        Self::new(kind).at(file, number)
    }

    pub(super) fn at(self, file: &str, line: u64) -> Self {
        Self {
            file: Some(file.to_owned()),
            line: Some(line),
            ..self
        }
    }

    pub(super) fn in_segment(self, file: &str) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..self
        }
    }

    pub(super) fn covering(self, records: u64) -> Self {
        Self {
            covers: Some(records),
            ..self
        }
    }

    fn records(&self) -> String {
        match (self.first, self.last) {
            (Some(first), Some(last)) if first == last => format!("record {first}"),
            (Some(first), Some(last)) => format!("records {first} to {last}"),
            _ => String::new(),
        }
    }

    fn place(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file} line {line}"),
            _ => String::new(),
        }
    }
}

fn one_of(records: &str) -> String {
    if records.starts_with("records") {
        format!("one of {records}")
    } else {
        records.to_owned()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (records, place) = (self.records(), self.place());
        let (file, line) = (
            self.file.as_deref().unwrap_or_default(),
            self.line.unwrap_or_default(),
        );
        let covers = self.covers.unwrap_or_default();
        match self.kind {
            Kind::Edited if self.first == self.last => write!(f, "{records} was edited ({place})"),
            Kind::Edited => write!(f, "one or more of {records} were edited (from {place})"),
            Kind::Deleted if self.line.is_none() => write!(
                f,
                "{records} deleted: {file} says so, but no checkpoint or no record of the log bears it out"
            ),
            Kind::Deleted if line == 1 => {
                write!(
                    f,
                    "{records} missing before {place}: a whole segment, or the end of the one before"
                )
            }
            Kind::Deleted => write!(f, "{records} deleted (before {place})"),
            Kind::Inserted => write!(
                f,
                "a line that does not belong here was inserted at {records} ({place})"
            ),
            Kind::Duplicated => write!(f, "{records} stands here again ({place})"),
            Kind::Swapped => write!(
                f,
                "records {} and {} were swapped ({place})",
                self.first.unwrap_or_default(),
                self.last.unwrap_or_default()
            ),
            Kind::Replaced => {
                write!(
                    f,
                    "{records} was replaced: record {} stands in its place ({place})",
                    self.found.unwrap_or_default()
                )
            }
            Kind::Truncated => write!(
                f,
                "{records} cut off, or as many deleted after the last checkpoint that fits and the chain made anew: a checkpoint \
                 covers {covers} records (log ends at {place})"
            ),
            Kind::Rewritten if self.first == self.last => {
                write!(
                    f,
                    "{records} was edited: it is not what the checkpoint over {covers} records signed ({place})"
                )
            }
            Kind::Rewritten => write!(
                f,
                "{} was edited, or one of {records} was and the chain after it made anew: they are not what the \
                 checkpoint over {covers} records signed (up to {place})",
                self.last
                    .map(|last| format!("record {last}"))
                    .unwrap_or_default()
            ),
            Kind::Forked if self.first.is_some() => write!(
                f,
                "checkpoint {line} in {file}, signed over {covers} records, is of another log that parted from this one at \
                 {}: there were two",
                one_of(&records)
            ),
            Kind::Forked => write!(
                f,
                "checkpoint {line} in {file} and another one, both signed over {covers} records, differ: there were two logs"
            ),
            Kind::CheckpointEdited if self.covers.is_some() => {
                write!(
                    f,
                    "checkpoint {line} in {file}, over {covers} records, is not what its key signed"
                )
            }
            Kind::CheckpointEdited => write!(f, "checkpoint {line} in {file} is damaged"),
            Kind::CheckpointDropped => match self.found {
                Some(rotation) => write!(
                    f,
                    "the checkpoint over {covers} records (up to record {}) was dropped: record {rotation} says that the \
                     log was signed there",
                    covers.saturating_sub(1)
                ),
                None => write!(
                    f,
                    "the checkpoint over {covers} records (up to record {}) was dropped: it is number {line} in {file}, \
                     but not in the log",
                    covers.saturating_sub(1)
                ),
            },
            Kind::ClockBack => write!(
                f,
                "the clock since boot fell at {records} ({place}): no journal writes that"
            ),
            Kind::WrongKey => write!(
                f,
                "{line} checkpoints in {file}, the first over {covers} records, are signed by {}, which is none of the \
                 given keys",
                self.signers.join(", ")
            ),
            Kind::Unreadable => write!(
                f,
                "{records} can't be read: {file} was damaged or changed on the disk"
            ),
            Kind::Misindexed => write!(
                f,
                "the index of {file} gives {records} another time or hash than they have: a search by time would miss them, \
                 or a start go on wrongly"
            ),
            Kind::NotCosigned => write!(
                f,
                "no checkpoint is cosigned by as many witnesses as were asked for (known: {}): the file `cosigned` is missing or \
                 was thinned out, or these are not the log's witnesses",
                self.signers.join(", ")
            ),
            Kind::CosignatureEdited => write!(
                f,
                "checkpoint {line} in {file}, over {covers} records, is not what {} cosigned",
                self.signers.join(", ")
            ),
            Kind::NoCheckpoint => write!(f, "there is no checkpoint: nothing signs this log"),
        }
    }
}
