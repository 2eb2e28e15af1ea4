//! How it stands with a witness: what belongs on record, and what has been said already.

use std::time::{Duration, Instant};

/// A witness that does not answer for so long is worth a record.
const DOWN_AFTER: Duration = Duration::from_secs(60);

/// Why a head was not cosigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// There is no answer, or none that can be used.
    Down,
    /// The witness does not know this log or its key, or is none.
    Refused,
    /// The witness has forgotten what it cosigned.
    Forgot,
    /// Records that the witness has to see first were deleted.
    Deleted,
    /// The log is not what was signed.
    Altered,
    /// The witness has cosigned more records than the log has.
    Shorter,
    /// The witness has cosigned another log of this name.
    Inconsistent,
}

impl Reason {
    /// The code in records.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Refused => "refused",
            Self::Forgot => "forgot",
            Self::Deleted => "deleted",
            Self::Altered => "altered",
            Self::Shorter => "shorter",
            Self::Inconsistent => "inconsistent",
        }
    }

    /// Whether the log was cut or rewritten, by the witness's word or our own.
    pub(super) fn is_alarm(self) -> bool {
        match self {
            Self::Altered | Self::Shorter | Self::Inconsistent => true,
            Self::Down | Self::Refused | Self::Forgot | Self::Deleted => false,
        }
    }

    fn is_told_after(self) -> Duration {
        match self {
            // A witness may be restarted.
            Self::Down => DOWN_AFTER,
            Self::Refused
            | Self::Forgot
            | Self::Deleted
            | Self::Altered
            | Self::Shorter
            | Self::Inconsistent => Duration::ZERO,
        }
    }
}

/// What belongs on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// It has cosigned so many records, for the first time in this run or after a trouble.
    Cosigns { records: u64 },
    /// It has not cosigned what comes after so many records.
    Trouble {
        reason: Reason,
        records: u64,
        error: String,
    },
}

/// What was said of a witness.
#[derive(Debug, Default)]
pub(super) struct Standing {
    has_cosigned: bool,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    reason: Reason,
    told: Vec<Reason>,
}

impl Standing {
    /// It cosigned so many records.
    pub(super) fn succeeded(&mut self, records: u64) -> Option<Notice> {
        let was_told = self
            .failing
            .take()
            .is_some_and(|failing| !failing.told.is_empty());
        let is_first = !std::mem::replace(&mut self.has_cosigned, true);
        (was_told || is_first).then_some(Notice::Cosigns { records })
    }

    /// It did not.
    pub(super) fn failed(
        &mut self,
        reason: Reason,
        error: &str,
        records: u64,
        now: Instant,
    ) -> Option<Notice> {
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            reason,
            told: Vec::new(),
        });
        failing.reason = reason;
        let is_due = now.saturating_duration_since(failing.since) >= reason.is_told_after();
        if !is_due || failing.told.contains(&reason) {
            return None;
        }
        failing.told.push(reason);
        Some(Notice::Trouble {
            reason,
            records,
            error: error.to_owned(),
        })
    }

    /// Why the last head was not cosigned, if it was not.
    pub(super) fn trouble(&self) -> Option<Reason> {
        self.failing.as_ref().map(|failing| failing.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(notice: Option<Notice>) -> Option<Reason> {
        match notice {
            Some(Notice::Trouble { reason, .. }) => Some(reason),
            Some(Notice::Cosigns { .. }) | None => None,
        }
    }

    #[test]
    fn only_changes_are_told() {
        let (mut standing, begin) = (Standing::default(), Instant::now());
        assert_eq!(standing.succeeded(5), Some(Notice::Cosigns { records: 5 }));
        assert_eq!(standing.succeeded(6), None);
        let at = |seconds| begin + Duration::from_secs(seconds);
        let down = |standing: &mut Standing, seconds| {
            reason(standing.failed(Reason::Down, "refused", 6, at(seconds)))
        };
        // Restarted within a minute: nobody need know.
        assert_eq!(down(&mut standing, 0), None);
        assert_eq!(down(&mut standing, 59), None);
        assert_eq!(standing.succeeded(7), None);
        assert_eq!(down(&mut standing, 100), None);
        assert_eq!(down(&mut standing, 160), Some(Reason::Down));
        assert_eq!(down(&mut standing, 500), None);
        assert_eq!(standing.succeeded(9), Some(Notice::Cosigns { records: 9 }));
    }

    #[test]
    fn a_log_that_was_changed_is_told_at_once_and_once() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        for alarm in [Reason::Shorter, Reason::Inconsistent, Reason::Altered] {
            assert!(alarm.is_alarm());
            let mut failed = || reason(standing.failed(alarm, "why", 6, now));
            assert_eq!(failed(), Some(alarm));
            assert_eq!(failed(), None);
        }
        assert_eq!(standing.trouble(), Some(Reason::Altered));
        assert!(!Reason::Down.is_alarm() && !Reason::Refused.is_alarm());
        assert!(standing.succeeded(7).is_some());
        assert_eq!(standing.trouble(), None);
    }
}
