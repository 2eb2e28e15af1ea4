//! A token bucket for bytes.

use std::{
    num::NonZeroU64,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A bucket that nobody used holds what flows in within this time.
const BURST: Duration = Duration::from_secs(1);

/// Lets so many bytes a second pass, in the order in which they are asked for.
#[derive(Debug)]
pub struct Bucket(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None`: all passes.
    rate: Option<NonZeroU64>,
    /// When the bucket will be as full as it can be; each byte taken moves it on.
    full_at: Option<Instant>,
}

impl Bucket {
    /// `rate` in bytes a second; without one all passes at once.
    pub fn new(rate: impl Into<Option<NonZeroU64>>) -> Self {
        Self(Mutex::new(State {
            rate: rate.into(),
            full_at: None,
        }))
    }

    /// Sets another rate for bytes that are asked for from now on.
    pub fn set_rate(&self, rate: Option<NonZeroU64>) {
        let mut state = self.state();
        if state.rate != rate {
            *state = State {
                rate,
                full_at: None,
            };
        }
    }

    /// True unless all passes.
    pub fn has_rate(&self) -> bool {
        self.state().rate.is_some()
    }

    /// Waits until the bytes may pass.
    pub async fn take(&self, bytes: u64) {
        sleep_until(self.book(bytes, Instant::now())).await;
    }

    /// Bytes that were taken did not pass.
    pub fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        let time = state.time_of(bytes);
        state.full_at = state.full_at.and_then(|at| at.checked_sub(time));
    }

    /// When bytes that are asked for now may pass: once those before them are through.
    fn book(&self, bytes: u64, now: Instant) -> Instant {
        let mut state = self.state();
        let before = state.full_at.map_or(now, |at| at.max(now));
        state.full_at = Some(before + state.time_of(bytes));
        before
            .checked_sub(BURST)
            .map_or(now, |begin| begin.max(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn time_of(&self, bytes: u64) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(rate: u64) -> Bucket {
        Bucket::new(NonZeroU64::new(rate).unwrap())
    }

    #[test]
    fn what_flows_in_within_a_second_passes_at_once_and_the_rest_at_the_rate() {
        let bucket = bucket(1000);
        let now = Instant::now();
        let seconds = Duration::from_secs;
        assert_eq!(bucket.book(1000, now), now);
        assert_eq!(bucket.book(1000, now), now);
        assert_eq!(bucket.book(500, now), now + seconds(1));
        assert_eq!(
            bucket.book(0, now),
            now + seconds(1) + Duration::from_millis(500)
        );
        assert_eq!(
            bucket.book(1, now + seconds(60)),
            now + seconds(60),
            "full again"
        );
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let bucket = bucket(1000);
        let now = Instant::now();
        assert_eq!(bucket.book(5000, now), now);
        bucket.give_back(4000);
        assert_eq!(bucket.book(1, now), now);
    }

    #[test]
    fn another_rate_holds_from_then_on_and_without_one_all_passes() {
        let bucket = bucket(1000);
        let now = Instant::now();
        bucket.book(100_000, now);
        bucket.set_rate(None);
        assert_eq!(bucket.book(1_000_000, now), now);
        assert_eq!(bucket.book(1_000_000, now), now);
        bucket.set_rate(NonZeroU64::new(10));
        assert_eq!(bucket.book(20, now), now);
        assert_eq!(bucket.book(1, now), now + Duration::from_secs(1));
    }
}
