//! Where a log stands: what the next record must follow.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tlog_tiles::Hash;

use crate::{
    OperationId, SessionId,
    operations::OpenOperations,
    record::{Draft, Frame},
    tree::{Tree, checkpoint::Head},
};

/// A clock that is off by more was set, in microseconds;
const STEP_MICROS: i64 = 500_000;
/// a clock that is pulled right gains or loses at most one part in 2,000 (adjtimex(2)): twice that is no drift.
const DRIFT: i64 = 1000;

/// `prev` of the first record.
pub(crate) const NO_RECORD: [u8; 32] = [0; 32];

/// SHA-256 of a line without its newline: the `prev` of the line after it.
pub(crate) fn line_hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

/// The log as it is behind a record: enough to go on from there without what stands before.
///
/// Nothing in it is believed without a signed head over as many records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Number of records up to here.
    pub(crate) records: u64,
    /// Hash of the last line.
    #[serde(with = "hex")]
    pub(crate) prev: [u8; 32],
    /// Right edge of the tree: base64, from left to right.
    peaks: Vec<String>,
    /// Operations that have an intent and no outcome yet, oldest first; `None` if they are too many to be listed.
    open: Option<Vec<(SessionId, OperationId)>>,
}

/// More open operations are not listed: they are no sign of a log that a start can go on with quickly.
const MOST_OPEN: usize = 1 << 16;

impl End {
    /// The tree; `None` if the edge is not that of so many records.
    pub(crate) fn tree(&self) -> Option<Tree> {
        let peaks: Result<Vec<_>, _> = self
            .peaks
            .iter()
            .map(|text| Hash::parse_hash(text))
            .collect();
        Tree::from_peaks(self.records, peaks.ok()?)
    }

    /// The operations that are open here.
    pub(crate) fn open(&self) -> Option<OpenOperations> {
        self.open.as_deref().map(OpenOperations::from_list)
    }

    /// Whether a signed head says the same of the log.
    pub(crate) fn is_signed(&self, head: &Head) -> bool {
        self.records == head.size && self.tree().is_some_and(|tree| tree.root() == head.root)
    }
}

/// The end of a log.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    prev: [u8; 32],
    tree: Tree,
    /// When the last record of this run was appended.
    moment: Moment,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            prev: NO_RECORD,
            tree: Tree::default(),
            moment: Moment::default(),
        }
    }
}

impl Chain {
    /// The sequence number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.tree.size()
    }

    pub(crate) fn prev(&self) -> &[u8; 32] {
        &self.prev
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Goes on behind `end`; `None` if it contradicts itself.
    pub(crate) fn behind(end: &End) -> Option<Self> {
        Some(Self {
            prev: end.prev,
            tree: end.tree()?,
            moment: Moment::default(),
        })
    }

    /// By how much the clock was set since the last record of this run, in microseconds, if it was.
    pub(crate) fn clock_step(&self, now: Moment) -> Option<i64> {
        if self.moment.mono_ns == 0 || now.mono_ns < self.moment.mono_ns {
            return None;
        }
        let passed = ((now.mono_ns - self.moment.mono_ns) / 1000) as i64;
        let step = now.unix_micros - self.moment.unix_micros - passed;
        (step.abs() > STEP_MICROS + passed / DRIFT).then_some(step)
    }

    /// What it takes to go on from here.
    pub(crate) fn end(&self, open: &OpenOperations) -> End {
        End {
            records: self.next(),
            prev: self.prev,
            peaks: self.tree.peaks().iter().map(Hash::to_string).collect(),
            open: (open.len() <= MOST_OPEN).then(|| open.list()),
        }
    }

    /// Takes in a line that stands in the log, without its newline.
    pub(crate) fn follow(&mut self, line: &[u8]) {
        self.prev = line_hash(line);
        self.tree.push(line);
    }

    /// Appends `draft` as the next line to `out`, with its newline.
    pub(crate) fn extend(
        &mut self,
        draft: &Draft,
        moment: Moment,
        calendar: &mut Calendar,
        out: &mut Vec<u8>,
    ) {
        // The journal's own records go before those that were queued earlier; time still rises with the number.
        if moment.mono_ns >= self.moment.mono_ns {
            self.moment = moment;
        }
        let moment = self.moment;
        let mut digits = [0; 64];
        hex::encode_to_slice(self.prev, &mut digits).expect("64 digits hold 32 bytes");
        let prev = std::str::from_utf8(&digits).expect("hexadecimal digits are text");
        let begin = out.len();
        let time = calendar.format(moment.unix_micros);
        draft.write(
            Frame {
                seq: self.next(),
                prev,
                time,
                mono_ns: moment.mono_ns,
            },
            out,
        );
        self.follow(out.get(begin..).unwrap_or_default());
        out.push(b'\n');
    }
}

/// When something was appended.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(
    not(any(test, feature = "fault-injection")),
    expect(
        unreachable_pub,
        reason = "callers name it only where they set the clock"
    )
)]
pub struct Moment {
    /// Since 1970, in microseconds.
    pub unix_micros: i64,
    /// Since boot.
    pub mono_ns: u64,
}

/// Says when it is: the host's clocks, or others in a simulation.
#[derive(Clone, Default)]
pub(crate) struct Clock(pub(crate) Option<Arc<dyn Fn() -> Moment + Send + Sync>>);

impl Clock {
    pub(crate) fn now(&self) -> Moment {
        self.0.as_ref().map_or_else(Moment::now, |now| now())
    }
}

impl Moment {
    pub(crate) fn now() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let since_boot = clock_gettime(ClockId::Boottime);
        Self {
            unix_micros: since_epoch.as_micros() as i64,
            mono_ns: since_boot.tv_sec as u64 * 1_000_000_000 + since_boot.tv_nsec as u64,
        }
    }
}

/// Writes times as RFC 3339 does, and remembers the current second, because most records share it with the one before.
#[derive(Debug, Default)]
pub(crate) struct Calendar {
    second: Option<i64>,
    text: String,
}

impl Calendar {
    /// Length of `2026-11-22T01:02:03`.
    const TO_SECONDS: usize = 19;

    fn format(&mut self, unix_micros: i64) -> &str {
        let second = unix_micros.div_euclid(1_000_000);
        if self.second != Some(second) {
            let time = chrono::DateTime::from_timestamp(second, 0).unwrap_or_default();
            self.text = time.format("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some(second);
        }
        self.text.truncate(Self::TO_SECONDS);
        let micros = unix_micros.rem_euclid(1_000_000);
        self.text.push('.');
        for place in [100_000, 10_000, 1_000, 100, 10, 1] {
            self.text
                .push(char::from(b'0' + (micros / place % 10) as u8));
        }
        self.text.push('Z');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_and_follow_the_second() {
        let mut calendar = Calendar::default();
        assert_eq!(
            calendar.format(1_700_000_000_000_007),
            "2023-11-14T22:13:20.000007Z"
        );
        assert_eq!(
            calendar.format(1_700_000_000_999_999),
            "2023-11-14T22:13:20.999999Z"
        );
        assert_eq!(
            calendar.format(1_700_000_001_000_000),
            "2023-11-14T22:13:21.000000Z"
        );
    }
}
