//! How fast the gateway's own work on stored files goes.

use std::{
    num::NonZeroU64,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Most bytes that are taken at once.
const PIECE: usize = 1 << 20;
/// Least bytes of a piece: smaller ones cost more than they bring.
const SMALLEST: u64 = 4096;

/// What may be caught up with: a walk that looked at small files for an hour copies a large one no faster.
const CREDIT: Duration = Duration::from_secs(1);

/// Bytes a second, at most. Clones take from the same.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rate: Option<NonZeroU64>,
    begun: Instant,
    moved: AtomicU64,
    /// When all that was taken is paid for, from `begun` on.
    due: Mutex<Duration>,
    #[cfg(test)]
    taken: Mutex<Vec<u64>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            rate: None,
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            due: Mutex::default(),
            #[cfg(test)]
            taken: Mutex::default(),
        }
    }
}

impl Pace {
    pub fn of(rate: Option<NonZeroU64>) -> Self {
        Self(Arc::new(Shared {
            rate,
            ..Shared::default()
        }))
    }

    /// Bytes so far.
    pub fn moved(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// False if nobody ever waits.
    pub fn is_limited(&self) -> bool {
        self.0.rate.is_some()
    }

    /// How many bytes of a file to move between two [`take`](Self::take)s: of a slow one what a second brings, so that a server
    /// does not take the connection for dead.
    pub fn piece(&self) -> usize {
        let rate = self.0.rate.map_or(u64::MAX, NonZeroU64::get);
        usize::try_from(rate.max(SMALLEST)).map_or(PIECE, |rate| rate.min(PIECE))
    }

    /// Waits until so many more bytes are due.
    pub async fn take(&self, bytes: u64) {
        self.0.moved.fetch_add(bytes, Ordering::Relaxed);
        #[cfg(test)]
        if let Ok(mut taken) = self.0.taken.lock() {
            taken.push(bytes);
        }
        let Some(rate) = self.0.rate else { return };
        let now = self.0.begun.elapsed();
        let due = {
            let mut due = self.0.due.lock().unwrap_or_else(PoisonError::into_inner);
            *due = due_after(*due, now, bytes, rate);
            *due
        };
        let early = due.saturating_sub(now);
        if early.is_zero() {
            // A sleep of no time takes a millisecond.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(early).await;
        }
    }

    /// As [`take`](Self::take), piece by piece.
    pub async fn take_all(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(self.piece() as u64);
            self.take(piece).await;
            left -= piece;
        }
    }

    /// What was taken, one by one.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> Vec<u64> {
        self.0.taken.lock().unwrap().clone()
    }
}

fn due_after(due: Duration, now: Duration, bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    due.max(now.saturating_sub(CREDIT)).saturating_add(share)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_pace_is_kept_and_costs_a_turn_below_it() {
        let waits = async |rate| {
            let pace = Pace::of(NonZeroU64::new(rate));
            let mut taking = pin!(pace.take(1000));
            taking.as_mut().now_or_never().is_none() && taking.now_or_never().is_none()
        };
        assert!(!waits(0).await, "no rate");
        assert!(!waits(1 << 50).await);
        assert!(waits(1).await);
    }

    #[tokio::test]
    async fn what_one_takes_another_waits_for() {
        let (one, other) = {
            let pace = Pace::of(NonZeroU64::new(1_000_000));
            (pace.clone(), pace)
        };
        assert!(pin!(one.take(1 << 40)).now_or_never().is_none());
        assert!(pin!(other.take(1)).now_or_never().is_none());
        assert_eq!(other.moved(), (1 << 40) + 1);
    }

    #[test]
    fn what_was_not_used_for_longer_than_a_second_is_lost() {
        let seconds = Duration::from_secs;
        let rate = NonZeroU64::new(1000).unwrap();
        let due = due_after(seconds(10), seconds(10), 2000, rate);
        assert_eq!(due, seconds(12));
        assert_eq!(
            due_after(due, seconds(12), 500, rate),
            seconds(12) + seconds(1) / 2
        );
        assert_eq!(
            due_after(due, seconds(13), 1000, rate),
            seconds(13),
            "caught up with"
        );
        assert_eq!(due_after(due, seconds(3600), 1000, rate), seconds(3600));
        assert_eq!(due_after(due, seconds(3600), 10_000, rate), seconds(3609));
    }

    #[test]
    fn a_piece_is_what_a_second_brings_within_limits() {
        for (rate, piece) in [(0, PIECE), (1, 4096), (30_000, 30_000), (1 << 40, PIECE)] {
            assert_eq!(Pace::of(NonZeroU64::new(rate)).piece(), piece, "{rate}");
        }
    }
}
