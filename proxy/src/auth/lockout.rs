//! How long a second factor rests after wrong tries.
//!
//! The count has no time window: only success or a new enrolment resets it (NIST SP 800-63B-4 section 3.2.2), and it is
//! durable. A try during a delay is not looked at, so it neither counts nor spends a code.

use std::time::Duration;

/// Wrong tries in a row that are free of delay but for the last one.
pub const FAILURES_BEFORE_DELAY: u32 = 5;
/// Wrong tries in a row that somebody should look at: no owner mistypes so often.
pub const FAILURES_BEFORE_ALERT: u32 = 10;
/// Wrong tries in a row after which the factor is disabled until it is set or enrolled again.
/// NIST allows at most 100; 20 leaves a guesser of six digits with three windows a chance of 1 in 16,000.
pub const FAILURES_BEFORE_DISABLED: u32 = 20;
/// The first delay; each further failure doubles it.
pub const FIRST_DELAY: Duration = Duration::from_secs(30);
/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// What follows from a number of wrong tries in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockout {
    /// The next try is looked at.
    Open,
    /// Tries are not looked at for so long.
    Delay(Duration),
    /// Tries are not looked at any more.
    Disable,
}

impl Lockout {
    /// After `failures` wrong tries in a row.
    pub fn after(failures: u32) -> Self {
        if failures >= FAILURES_BEFORE_DISABLED {
            return Self::Disable;
        }
        let Some(doublings) = failures.checked_sub(FAILURES_BEFORE_DELAY) else {
            return Self::Open;
        };
        let delay = FIRST_DELAY
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(LONGEST_DELAY);
        Self::Delay(delay)
    }
}

/// True if the try that made it so many failures in a row is to be told to an administrator.
pub fn alerts(failures: u32) -> bool {
    failures == FAILURES_BEFORE_ALERT || failures == FAILURES_BEFORE_DISABLED
}

/// True if a try at `now` is not looked at, since it comes before `not_before`; both in seconds since 1970. A clock that was
/// set back must not stretch a delay: none is longer than [`LONGEST_DELAY`].
pub fn rests(now: i64, not_before: i64) -> bool {
    let remaining = not_before.saturating_sub(now);
    remaining > 0 && remaining.unsigned_abs() <= LONGEST_DELAY.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_failure_and_the_last_are_told_and_their_neighbours_are_not() {
        let told: Vec<u32> = (0..=25).filter(|failures| alerts(*failures)).collect();
        assert_eq!(told, [10, 20]);
    }

    #[test]
    fn a_delay_ends_at_its_second_and_a_clock_set_back_does_not_stretch_it() {
        let not_before = 1_700_003_600;
        assert!(rests(not_before - 1, not_before));
        assert!(!rests(not_before, not_before));
        assert!(rests(not_before - 3600, not_before));
        assert!(!rests(not_before - 3601, not_before));
        assert!(!rests(i64::MIN, i64::MAX));
        assert!(!rests(0, 0));
    }

    #[test]
    fn four_failures_are_free_five_delay_and_each_more_doubles_to_an_hour() {
        let seconds = |failures| match Lockout::after(failures) {
            Lockout::Open => 0,
            Lockout::Delay(delay) => delay.as_secs(),
            Lockout::Disable => u64::MAX,
        };
        assert_eq!(seconds(0), 0);
        assert_eq!(seconds(4), 0);
        assert_eq!(seconds(5), 30);
        assert_eq!(seconds(6), 60);
        assert_eq!(seconds(11), 1920);
        assert_eq!(seconds(12), 3600);
        assert_eq!(seconds(19), 3600);
    }

    #[test]
    fn nineteen_failures_leave_the_factor_enabled_and_twenty_disable_it() {
        assert_ne!(Lockout::after(19), Lockout::Disable);
        assert_eq!(Lockout::after(20), Lockout::Disable);
        assert_eq!(Lockout::after(u32::MAX), Lockout::Disable);
    }
}
