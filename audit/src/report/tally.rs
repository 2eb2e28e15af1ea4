//! How often each of many words occurred, in bounded memory.

use std::collections::HashMap;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// Words that are counted at a time.
const COUNTED: usize = 1024;
/// Words that a report shows.
const SHOWN: usize = 20;

/// Counts of words. Where there are more than it has places for, the rarest gives way, and the newcomer's count begins with its
/// (Metwally, Agrawal, El Abbadi: space-saving): frequent words are never missed, and counts are never too low.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    counts: HashMap<String, u64>,
    total: u64,
    is_estimated: bool,
}

impl Tally {
    pub(super) fn add(&mut self, word: &str) {
        self.add_many(word, 1);
    }

    pub(super) fn add_many(&mut self, word: &str, times: u64) {
        self.total += times;
        if let Some(count) = self.counts.get_mut(word) {
            *count += times;
            return;
        }
        let mut begin = 0;
        if self.counts.len() >= COUNTED {
            let rarest = self
                .counts
                .iter()
                .min_by_key(|(_, count)| **count)
                .map(|(word, count)| (word.clone(), *count));
            if let Some((rarest, count)) = rarest {
                self.counts.remove(&rarest);
                begin = count;
                self.is_estimated = true;
            }
        }
        self.counts.insert(word.to_owned(), begin + times);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// True if counts may be too high.
    pub fn is_estimated(&self) -> bool {
        self.is_estimated
    }

    /// The most frequent, in order.
    pub fn top(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self
            .counts
            .iter()
            .map(|(word, count)| (word.as_str(), *count))
            .collect();
        all.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
        all.truncate(SHOWN);
        all
    }
}

impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Count<'a> {
            name: &'a str,
            count: u64,
        }
        let top: Vec<Count<'_>> = self
            .top()
            .into_iter()
            .map(|(name, count)| Count { name, count })
            .collect();
        let mut tally = output.serialize_struct("Tally", 3)?;
        tally.serialize_field("total", &self.total)?;
        tally.serialize_field("top", &top)?;
        tally.serialize_field("is_estimated", &self.is_estimated)?;
        tally.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequent_word_is_found_among_many_rare_ones() {
        let mut tally = Tally::default();
        for n in 0..10 * COUNTED {
            tally.add(&format!("rare {n}"));
            if n % 10 == 0 {
                tally.add("frequent");
            }
        }
        assert_eq!(tally.counts.len(), COUNTED);
        assert!(tally.is_estimated());
        assert_eq!(tally.top()[0].0, "frequent");
        assert!(tally.top()[0].1 >= COUNTED as u64);
        assert_eq!(tally.total(), 11 * COUNTED as u64);
    }

    #[test]
    fn few_words_are_counted_exactly() {
        let mut tally = Tally::default();
        tally.add("a");
        tally.add_many("b", 3);
        tally.add("a");
        assert_eq!(tally.top(), [("b", 3), ("a", 2)]);
        assert!(!tally.is_estimated());
    }
}
