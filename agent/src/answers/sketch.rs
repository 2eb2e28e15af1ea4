//! The most frequent keys of a stream, in bounded memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Keys that a sketch keeps. A key that makes up more than one in so many is certainly kept.
const CAPACITY: usize = 512;

/// How often one key came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Frequency {
    /// At most so often.
    pub count: u64,
    /// So much of it may belong to keys that were forgotten.
    pub error: u64,
}

/// The space-saving sketch (Metwally, Agrawal, El Abbadi 2005): a new key takes the rarest one's place and count.
#[derive(Debug, Clone)]
struct Sketch<K> {
    keys: BTreeMap<K, Frequency>,
    /// The same keys by count: the first is the rarest.
    ranks: BTreeSet<(u64, K)>,
}

impl<K: Ord + Copy> Sketch<K> {
    const fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
            ranks: BTreeSet::new(),
        }
    }

    fn add(&mut self, key: K) {
        let before = match self.keys.get(&key) {
            Some(frequency) => {
                self.ranks.remove(&(frequency.count, key));
                *frequency
            }
            None if self.keys.len() < CAPACITY => Frequency::default(),
            None => self.forget_rarest(),
        };
        let count = before.count + 1;
        self.keys.insert(key, Frequency { count, ..before });
        self.ranks.insert((count, key));
    }

    /// What the next new key begins with.
    fn forget_rarest(&mut self) -> Frequency {
        let Some((count, rarest)) = self.ranks.pop_first() else {
            return Frequency::default();
        };
        self.keys.remove(&rarest);
        Frequency {
            count,
            error: count,
        }
    }
}

/// The most frequent keys of the last one to two spans of time.
#[derive(Debug, Clone)]
pub(super) struct Frequent<K> {
    span: Duration,
    began: Duration,
    current: Sketch<K>,
    before: Sketch<K>,
}

impl<K: Ord + Copy> Frequent<K> {
    /// Forgets in steps of `span`. Times are counted from any fixed moment.
    pub(super) const fn new(span: Duration) -> Self {
        Self {
            span,
            began: Duration::ZERO,
            current: Sketch::new(),
            before: Sketch::new(),
        }
    }

    /// A key came.
    pub(super) fn add(&mut self, key: K, now: Duration) {
        self.move_on(now);
        self.current.add(key);
    }

    /// The `limit` most frequent keys, and since when they were counted.
    pub(super) fn top(&mut self, limit: usize, now: Duration) -> (Vec<(K, Frequency)>, Duration) {
        self.move_on(now);
        let mut sums = self.before.keys.clone();
        for (key, frequency) in &self.current.keys {
            let sum = sums.entry(*key).or_default();
            sum.count += frequency.count;
            sum.error += frequency.error;
        }
        let mut keys: Vec<(K, Frequency)> = sums.into_iter().collect();
        keys.sort_by_key(|(_, frequency)| std::cmp::Reverse(frequency.count));
        keys.truncate(limit);
        (keys, self.began.saturating_sub(self.span))
    }

    fn move_on(&mut self, now: Duration) {
        let age = now.saturating_sub(self.began);
        if age < self.span {
            return;
        }
        let ended = std::mem::replace(&mut self.current, Sketch::new());
        // After a pause of two spans nothing of before counts.
        self.before = if age < self.span * 2 {
            ended
        } else {
            Sketch::new()
        };
        self.began = if age < self.span * 2 {
            self.began + self.span
        } else {
            now
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_frequent_key_stands_out_of_a_flood_of_keys_that_come_once() {
        let mut frequent = Frequent::new(SPAN);
        for index in 0_u32..100_000 {
            frequent.add(if index % 10 == 0 { 7 } else { 1_000 + index }, at(1));
        }
        let (top, _) = frequent.top(3, at(1));
        let (key, frequency) = top[0];
        assert_eq!(key, 7);
        assert!(
            frequency.count >= 10_000 && frequency.count - frequency.error <= 10_000,
            "{frequency:?}"
        );
        assert!(frequent.current.keys.len() <= CAPACITY);
    }

    #[test]
    fn few_keys_are_counted_exactly_and_the_most_frequent_comes_first() {
        let mut frequent = Frequent::new(SPAN);
        for key in [1, 2, 2, 3, 2, 3] {
            frequent.add(key, at(1));
        }
        let (top, _) = frequent.top(2, at(2));
        let counts: Vec<(i32, u64, u64)> = top
            .into_iter()
            .map(|(key, frequency)| (key, frequency.count, frequency.error))
            .collect();
        assert_eq!(counts, [(2, 3, 0), (3, 2, 0)]);
    }

    #[test]
    fn what_came_before_the_last_span_is_forgotten_and_the_last_span_is_not() {
        let mut frequent = Frequent::new(SPAN);
        frequent.add("old", at(1));
        frequent.add("new", at(31));
        let keys = |(top, _): (Vec<(&'static str, Frequency)>, Duration)| {
            top.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(frequent.top(9, at(59))), ["new", "old"]);
        assert_eq!(keys(frequent.top(9, at(61))), ["new"]);
        assert!(keys(frequent.top(9, at(1_000))).is_empty());
    }
}
