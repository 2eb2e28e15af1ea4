//! How long a second factor rests after wrong tries.
//!
//! The count has no time window: only success or a new enrolment resets it (NIST SP 800-63B-4 section 3.2.2), and it is
//! durable. A try during a delay is not looked at, so it neither counts nor spends a code.

use std::time::Duration;

/// Wrong tries in a row that are free of delay but for the last one.
pub const FAILURES_BEFORE_DELAY: u32 = 5;
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

#[cfg(test)]
mod tests {
    use super::*;

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
