//! A token bucket for bytes.

use std::{
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A bucket that nobody used holds what flows in within this time.
const BURST: Duration = Duration::from_secs(1);

/// Lets so many bytes a second pass, in the order in which they are asked for.
#[derive(Debug)]
pub struct Bucket {
    rate: NonZeroU64,
    /// When the bucket will be as full as it can be; each byte taken moves it on.
    full_at: Mutex<Option<Instant>>,
}

impl Bucket {
    /// `rate` in bytes a second.
    pub fn new(rate: NonZeroU64) -> Self {
        Self {
            rate,
            full_at: Mutex::default(),
        }
    }

    /// Waits until the bytes may pass.
    pub async fn take(&self, bytes: u64) {
        sleep_until(self.book(bytes, Instant::now())).await;
    }

    /// Bytes that were taken did not pass.
    pub fn give_back(&self, bytes: u64) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = full_at.and_then(|at| at.checked_sub(self.time_of(bytes)));
    }

    /// When bytes that are asked for now may pass: once those before them are through.
    fn book(&self, bytes: u64, now: Instant) -> Instant {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = full_at.map_or(now, |at| at.max(now));
        *full_at = Some(before + self.time_of(bytes));
        before
            .checked_sub(BURST)
            .map_or(now, |begin| begin.max(now))
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
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
}
