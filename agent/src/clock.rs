//! Two clocks: the wall clock, which somebody may set, and the time since boot, which nobody can.
//!
//! Lifetimes of bans run by the time since boot: when the wall clock is set, their ends move with it. Ends of entries are dates, so
//! the wall clock decides; but one that has just been set by a lot is not believed at once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall: DateTime<Utc>,
    /// CLOCK_BOOTTIME: the time that a machine sleeps counts.
    pub boot: Duration,
}

/// A difference that is no jump: a clock that is slewed, or a slow read of both.
const SLACK: TimeDelta = TimeDelta::seconds(2);
/// A jump that makes the wall clock doubtful: a dead battery or a wrong year, and not a correction.
const DOUBTFUL: TimeDelta = TimeDelta::minutes(1);
/// For how long it must then go evenly before dates are believed again.
const SETTLE: Duration = Duration::from_secs(60);

/// Notices when the wall clock is set.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    last: Option<Moment>,
    doubtful_until: Duration,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self {
            wall: Utc::now(),
            boot: Duration::new(
                u64::try_from(boot.tv_sec).unwrap_or_default(),
                u32::try_from(boot.tv_nsec).unwrap_or_default(),
            ),
        }
    }
}

impl Watch {
    /// Looks at the clocks; gives by how many seconds the wall clock was set since the last look, if it was.
    pub fn look(&mut self, now: Moment) -> Option<i64> {
        let last = self.last.replace(now)?;
        let passed = TimeDelta::from_std(now.boot.saturating_sub(last.boot)).ok()?;
        let jump = now.wall - last.wall - passed;
        if jump.abs() <= SLACK {
            return None;
        }
        if jump.abs() > DOUBTFUL {
            self.doubtful_until = now.boot + SETTLE;
        }
        Some(jump.num_seconds())
    }

    /// The last look.
    pub fn last(&self) -> Option<Moment> {
        self.last
    }

    /// Whether dates can be compared with the wall clock.
    pub fn is_settled(&self, now: Moment) -> bool {
        now.boot >= self.doubtful_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: i64, boot: u64) -> Moment {
        Moment {
            wall: DateTime::from_timestamp(1_800_000_000 + wall, 0).unwrap(),
            boot: Duration::from_secs(boot),
        }
    }

    #[test]
    fn an_even_clock_and_a_small_correction_are_no_jump() {
        let mut watch = Watch::default();
        for (wall, boot) in [(0, 0), (10, 10), (3_610, 3_610), (3_621, 3_620)] {
            assert_eq!(watch.look(at(wall, boot)), None);
        }
    }

    #[test]
    fn a_jump_is_told_either_way_and_once() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(at(0, 0)), None);
        assert_eq!(watch.look(at(3_601, 1)), Some(3_600));
        assert_eq!(watch.look(at(3_602, 2)), None);
        assert_eq!(watch.look(at(3, 3)), Some(-3_600));
    }

    #[test]
    fn a_clock_that_jumped_far_is_believed_once_it_has_settled() {
        let mut watch = Watch::default();
        watch.look(at(0, 100));
        assert!(watch.is_settled(at(0, 100)));
        watch.look(at(30, 101));
        assert!(watch.is_settled(at(30, 101)), "a correction");
        watch.look(at(86_400, 102));
        assert!(!watch.is_settled(at(86_459, 161)));
        assert!(watch.is_settled(at(86_460, 162)));
    }
}
