//! When a service that does not answer is left alone, so that logins do not wait for it one after the other.

use std::time::{Duration, Instant};

/// Opens with a failure; after the pause one request at a time may try again.
#[derive(Debug)]
pub(super) struct Breaker {
    pause: Duration,
    /// No request before this, but for one that probes.
    rests_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(pause: Duration) -> Self {
        Self {
            pause,
            rests_until: None,
        }
    }

    /// True if a request may go out. The first one after the pause begins another, so that no second one follows before
    /// it has an answer, or was dropped without one.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self.rests_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.rests_until = Some(now + self.pause);
                true
            }
        }
    }

    pub(super) fn answered(&mut self) {
        self.rests_until = None;
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.rests_until = Some(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_service_is_tried_by_one_request_in_each_pause() {
        let pause = Duration::from_secs(30);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(pause);
        assert!(breaker.admits(at(0)));
        assert!(breaker.admits(at(0)), "a service that answers takes all");
        breaker.failed(at(1));
        assert!(!breaker.admits(at(30)));
        assert!(breaker.admits(at(31)));
        assert!(!breaker.admits(at(31)), "one probe");
        breaker.answered();
        assert!(breaker.admits(at(31)));
    }
}
