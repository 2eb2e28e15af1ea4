//! How far an authenticator's clock is from the gateway's, learned from the codes that were accepted (RFC 6238 section 6).

use super::STEP_SECONDS;

/// Learning never takes the drift further from zero than this; a clock that is further off needs an administrator.
const LEARNED_STEPS_MAX: i64 = 2;
/// How far off a clock may be when an administrator resynchronises with two codes: ten minutes.
pub const RESYNC_STEPS: u64 = 20;

/// Where an authenticator stands against the gateway's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drift {
    /// Steps by which the authenticator is ahead.
    steps: i64,
    /// Where the last accepted code lay beside the expected step: -1, 0 or 1.
    lean: i64,
}

impl Drift {
    /// As the store has it.
    pub fn new(steps: i64, lean: i64) -> Self {
        Self {
            steps,
            lean: lean.signum(),
        }
    }

    /// That of an authenticator which shows `step` at the step `present`.
    pub fn between(step: u64, present: u64) -> Self {
        Self::new(step.cast_signed().saturating_sub(present.cast_signed()), 0)
    }

    /// Steps by which the authenticator is ahead; negative if it is behind.
    pub fn steps(self) -> i64 {
        self.steps
    }

    /// The steps in seconds.
    pub fn seconds(self) -> i64 {
        self.steps.saturating_mul(STEP_SECONDS.cast_signed())
    }

    pub fn lean(self) -> i64 {
        self.lean
    }

    /// The step that the authenticator should show at the step `present`.
    pub fn expected(self, present: u64) -> u64 {
        present.saturating_add_signed(self.steps)
    }

    /// What is known after the code of `step` was accepted at the step `present`.
    ///
    /// Two codes in a row on the same side move the drift by one step. A single one does not: it may have been typed at
    /// the end of its half minute.
    #[must_use]
    pub fn after(self, step: u64, present: u64) -> Self {
        let side = (step.cast_signed() - self.expected(present).cast_signed()).signum();
        if side == 0 || side != self.lean {
            return Self::new(self.steps, side);
        }
        let moved = self.steps + side;
        if moved.abs() <= LEARNED_STEPS_MAX || moved.abs() < self.steps.abs() {
            Self::new(moved, 0)
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: u64 = 1_000;

    /// The drift after codes of these steps relative to the present.
    fn learned(from: Drift, offsets: &[i64]) -> i64 {
        let drift = offsets.iter().fold(from, |drift, offset| {
            drift.after(PRESENT.saturating_add_signed(*offset), PRESENT)
        });
        drift.steps()
    }

    #[test]
    fn one_late_code_teaches_nothing_and_two_in_a_row_one_step() {
        let fresh = Drift::default();
        assert_eq!(learned(fresh, &[-1]), 0);
        assert_eq!(learned(fresh, &[-1, 0, -1]), 0);
        assert_eq!(learned(fresh, &[-1, 1, -1, 1]), 0);
        assert_eq!(learned(fresh, &[-1, -1]), -1);
        assert_eq!(learned(fresh, &[1, 1]), 1);
    }

    #[test]
    fn learning_ends_two_steps_from_zero_and_leads_back() {
        let fresh = Drift::default();
        let to_two = [1, 1, 2, 2];
        assert_eq!(learned(fresh, &to_two), 2);
        assert_eq!(learned(fresh, &[&to_two[..], &[3, 3, 3, 3]].concat()), 2);
        assert_eq!(learned(fresh, &[&to_two[..], &[1, 1, 0, 0]].concat()), 0);
    }

    #[test]
    fn what_an_administrator_set_further_off_is_kept_and_only_unlearned() {
        let far = Drift::between(PRESENT - 15, PRESENT);
        assert_eq!((far.steps(), far.seconds()), (-15, -450));
        assert_eq!(far.expected(PRESENT), PRESENT - 15);
        assert_eq!(learned(far, &[-15, -15]), -15);
        assert_eq!(learned(far, &[-16, -16, -16]), -15);
        assert_eq!(learned(far, &[-14, -14]), -14);
    }
}
