//! When a sink's lag is worth a record.

use portcullis_audit::sink::Reading;

/// Looks in a row that find a limit reached before it counts: a sink that has just begun may catch up at once.
const LOOKS: u32 = 3;

/// What a rule calls behind; either is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) seconds: u64,
    /// `None` where records that are not sent count too.
    pub(super) records: Option<u64>,
}

/// What has become of a sink's lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Behind,
    CaughtUp,
}

/// One sink's lag over time.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Limits that it has reached.
    reached: usize,
    looks: u32,
}

impl Limit {
    fn is_reached(self, reading: Reading) -> bool {
        let by_records = |most| reading.lag_records >= most;
        reading.lag_seconds >= self.seconds || self.records.is_some_and(by_records)
    }

    /// By far, so that a lag around the limit is not told of all the time.
    fn is_behind_it(self, reading: Reading) -> bool {
        let by_records = |most| reading.lag_records > most / 2;
        reading.lag_seconds <= self.seconds / 2 && !self.records.is_some_and(by_records)
    }
}

impl Lag {
    /// Takes the next look, with the limits of all rules: each that is reached is told of.
    pub(super) fn look(&mut self, reading: Reading, limits: &[Limit]) -> Option<Change> {
        let reached = limits
            .iter()
            .filter(|limit| limit.is_reached(reading))
            .count();
        if reached > self.reached {
            self.looks += 1;
            if self.looks < LOOKS {
                return None;
            }
            *self = Self { reached, looks: 0 };
            return Some(Change::Behind);
        }
        self.looks = 0;
        if self.reached > 0 && limits.iter().all(|limit| limit.is_behind_it(reading)) {
            self.reached = 0;
            return Some(Change::CaughtUp);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        seconds: 300,
        records: Some(1000),
    };

    fn lag(lag_seconds: u64, lag_records: u64) -> Reading {
        Reading {
            lag_records,
            lag_seconds,
            sent: 0,
            lost: 0,
            reconnects: 0,
            is_connected: true,
        }
    }

    /// What is told in the looks.
    fn told(limits: &[Limit], looks: &[(u64, u64)]) -> Vec<Option<Change>> {
        let mut state = Lag::default();
        looks
            .iter()
            .map(|(seconds, records)| state.look(lag(*seconds, *records), limits))
            .collect()
    }

    #[test]
    fn a_limit_that_stays_reached_is_told_of_once_and_one_just_missed_never() {
        let behind = Some(Change::Behind);
        assert_eq!(told(&[LIMIT], &[(299, 999); 9]), [None; 9]);
        assert_eq!(
            told(&[LIMIT], &[(300, 0); 5]),
            [None, None, behind, None, None]
        );
        assert_eq!(told(&[LIMIT], &[(0, 1000); 4]), [None, None, behind, None]);
        assert_eq!(told(&[], &[(9999, 9999); 4]), [None; 4], "no rule asks");
        let seconds_alone = Limit {
            records: None,
            ..LIMIT
        };
        assert_eq!(told(&[seconds_alone], &[(0, 9999); 4]), [None; 4]);
    }

    #[test]
    fn a_sink_that_catches_up_in_time_is_not_behind() {
        let looks = [(900, 5000), (900, 10), (0, 0), (900, 0), (900, 0), (0, 0)];
        assert_eq!(told(&[LIMIT], &looks), [None; 6]);
    }

    #[test]
    fn it_has_caught_up_at_half_the_limit_and_may_fall_behind_again() {
        let looks = [
            (300, 0),
            (300, 0),
            (300, 0),
            (200, 0),
            (300, 0),
            (300, 0),
            (300, 0),
            (150, 500),
            (300, 0),
            (300, 0),
            (300, 0),
        ];
        let found: Vec<_> = told(&[LIMIT], &looks).into_iter().flatten().collect();
        assert_eq!(found, [Change::Behind, Change::CaughtUp, Change::Behind]);
    }

    #[test]
    fn the_limit_of_each_rule_is_told_of() {
        let strict = Limit {
            seconds: 10,
            ..LIMIT
        };
        let looks = [(10, 0), (10, 0), (10, 0), (300, 0), (300, 0), (300, 0)];
        let found = told(&[LIMIT, strict], &looks);
        let behind = Some(Change::Behind);
        assert_eq!(found, [None, None, behind, None, None, behind]);
    }
}
