//! Packets per second by reason, from the counters, which count every packet.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::datapath::Counters;

/// The two spans over which rates are given.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(10);
/// Samples closer to each other than this are left out: a rate over a shorter time jumps.
const STEP: Duration = Duration::from_millis(900);
/// A sample so much younger than a span still begins it.
const SLACK: Duration = Duration::from_millis(100);

/// What became of packets of one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Passed,
    Dropped,
    WouldDrop,
}

/// Packets of one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub fate: Fate,
    pub reason: String,
    /// Packets per second over the last second.
    pub per_second: f64,
    /// Packets per second over the last ten seconds, or since there are counts.
    pub per_second_of_ten: f64,
    /// Packets since the maps were made.
    pub total: u64,
}

/// Counters at moments of the last ten seconds.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    samples: VecDeque<(Duration, Counters)>,
}

impl Rates {
    /// Takes the counters as they are `now`, counted from any fixed moment. To be called at least once a second.
    pub fn sample(&mut self, counters: Counters, now: Duration) {
        if let Some((last, _)) = self.samples.back()
            && now.saturating_sub(*last) < STEP
        {
            return;
        }
        self.samples.push_back((now, counters));
        // One older than the long span stays, to count from.
        while self
            .samples
            .get(1)
            .is_some_and(|(time, _)| now.saturating_sub(*time) >= LONG)
        {
            self.samples.pop_front();
        }
    }

    /// The rates of every reason that was ever counted, the fastest of the last ten seconds first.
    pub fn rates(&self) -> Vec<Rate> {
        let Some((_, last)) = self.samples.back() else {
            return Vec::new();
        };
        let mut rates = Vec::new();
        for (fate, counters) in by_fate(last) {
            for (reason, total) in counters.iter().filter(|(_, total)| **total > 0) {
                rates.push(Rate {
                    fate,
                    reason: reason.clone(),
                    per_second: self.rate(fate, reason, SHORT),
                    per_second_of_ten: self.rate(fate, reason, LONG),
                    total: *total,
                });
            }
        }
        rates.sort_by(|a, b| b.per_second_of_ten.total_cmp(&a.per_second_of_ten));
        rates
    }

    fn rate(&self, fate: Fate, reason: &str, span: Duration) -> f64 {
        let Some((now, last)) = self.samples.back() else {
            return 0.0;
        };
        let from = self
            .samples
            .iter()
            .rev()
            .skip(1)
            .find(|(time, _)| now.saturating_sub(*time) >= span.saturating_sub(SLACK))
            .or_else(|| self.samples.front());
        let Some((then, first)) = from else {
            return 0.0;
        };
        let seconds = now.saturating_sub(*then).as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        // New maps count from zero again.
        let packets = count(last, fate, reason).saturating_sub(count(first, fate, reason));
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate needs no more than 53 bits"
        )]
        let packets = packets as f64;
        packets / seconds
    }
}

fn by_fate(counters: &Counters) -> [(Fate, &BTreeMap<String, u64>); 3] {
    [
        (Fate::Dropped, &counters.dropped),
        (Fate::WouldDrop, &counters.would_drop),
        (Fate::Passed, &counters.passed),
    ]
}

fn count(counters: &Counters, fate: Fate, reason: &str) -> u64 {
    by_fate(counters)
        .into_iter()
        .find(|(each, _)| *each == fate)
        .and_then(|(_, counts)| counts.get(reason).copied())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(not_listed: u64, allowed: u64) -> Counters {
        Counters {
            passed: BTreeMap::from([("allowed".to_owned(), allowed)]),
            dropped: BTreeMap::from([
                ("not_listed".to_owned(), not_listed),
                ("banned".to_owned(), 0),
            ]),
            ..Counters::default()
        }
    }

    #[test]
    fn rates_are_over_one_second_and_over_ten() {
        let mut rates = Rates::default();
        // A hundred a second for twenty seconds, then a burst of a thousand.
        for second in 0..=20_u64 {
            rates.sample(counters(second * 100, 5), Duration::from_secs(second));
        }
        rates.sample(counters(3_000, 5), Duration::from_secs(21));
        let found = rates.rates();
        assert_eq!(found.len(), 2, "what was never counted is left out");
        assert_eq!(found[0].reason, "not_listed");
        assert!((found[0].per_second - 1_000.0).abs() < 1.0, "{found:?}");
        assert!(
            (found[0].per_second_of_ten - 190.0).abs() < 1.0,
            "{found:?}"
        );
        assert_eq!(found[0].total, 3_000);
        assert_eq!((found[1].fate, found[1].per_second), (Fate::Passed, 0.0));
        assert!(rates.samples.len() <= 12);
    }

    #[test]
    fn counters_that_begin_anew_give_no_rate_instead_of_a_huge_one() {
        let mut rates = Rates::default();
        rates.sample(counters(1_000_000, 0), Duration::from_secs(0));
        rates.sample(counters(3, 0), Duration::from_secs(1));
        assert_eq!(rates.rates()[0].per_second, 0.0);
    }

    #[test]
    fn one_sample_gives_totals_and_no_rate() {
        let mut rates = Rates::default();
        assert!(rates.rates().is_empty());
        rates.sample(counters(3, 0), Duration::from_secs(5));
        assert_eq!(
            (rates.rates()[0].per_second, rates.rates()[0].total),
            (0.0, 3)
        );
    }
}
