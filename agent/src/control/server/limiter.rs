//! How many requests one peer may make: a token bucket for each.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::control::peer::{Identity, Peer};

/// Requests for one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// Peers that are remembered; the one that was away longest is forgotten first, and would have a full bucket by then anyway.
const MAX_PEERS: usize = 4096;

#[derive(Debug)]
pub(super) struct Limiter {
    rate: Rate,
    buckets: Mutex<HashMap<Key, Bucket>>,
}

/// A user of this machine, or the owner of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    User(u32),
    Certificate(String),
    Unknown,
}

impl Key {
    pub(super) fn of(peer: Option<&Peer>) -> Self {
        match peer.map(|peer| (peer.identity, &peer.name)) {
            Some((Identity::Process { uid, .. }, _)) => Self::User(uid),
            Some((Identity::Certificate { .. }, name)) => Self::Certificate(name.clone()),
            Some((Identity::Agent, _)) | None => Self::Unknown,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: Mutex::default(),
        }
    }

    /// Takes one token of the peer's bucket.
    ///
    /// # Errors
    /// How long it takes until there is one.
    pub(super) fn take(&self, key: Key, now: Instant) -> Result<(), Duration> {
        let (per_second, burst) = (f64::from(self.rate.per_second), f64::from(self.rate.burst));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_PEERS && !buckets.contains_key(&key) {
            let oldest = buckets
                .iter()
                .min_by_key(|(_, bucket)| bucket.at)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                buckets.remove(&oldest);
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket {
            tokens: burst,
            at: now,
        });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * per_second).min(burst);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_one_more_waits_and_others_do_not() {
        let limiter = Limiter::new(Rate {
            per_second: 2,
            burst: 3,
        });
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limiter.take(Key::User(1), now), Ok(()));
        }
        assert_eq!(
            limiter.take(Key::User(1), now),
            Err(Duration::from_millis(500))
        );
        assert_eq!(limiter.take(Key::User(2), now), Ok(()));
        let later = now + Duration::from_millis(500);
        assert_eq!(limiter.take(Key::User(1), later), Ok(()));
        assert!(limiter.take(Key::User(1), later).is_err());
    }

    #[test]
    fn peers_beyond_the_limit_push_out_the_one_that_was_away_longest() {
        let limiter = Limiter::new(Rate {
            per_second: 1,
            burst: 1,
        });
        let now = Instant::now();
        for user in 0..=u32::try_from(MAX_PEERS).unwrap() {
            let then = now + Duration::from_micros(u64::from(user));
            assert_eq!(limiter.take(Key::User(user), then), Ok(()));
        }
        assert_eq!(limiter.buckets.lock().unwrap().len(), MAX_PEERS);
        assert!(!limiter.buckets.lock().unwrap().contains_key(&Key::User(0)));
    }
}
