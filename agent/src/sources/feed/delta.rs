//! How much a new list differs from the one in force.

use std::collections::BTreeSet;

use crate::{entry::Entry, rule::Rule};

/// Changes of so few entries are taken whatever part of the list they are: half of a list of four is not alarming.
const FEW: usize = 10;

/// Entries that two lists don't have in common; comments and the like make no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    pub added: usize,
    pub removed: usize,
}

impl Delta {
    pub(super) fn between(old: &[Entry], new: &[Entry]) -> Self {
        let rules =
            |entries: &[Entry]| -> BTreeSet<Rule> { entries.iter().map(Entry::rule).collect() };
        let (old, new) = (rules(old), rules(new));
        Self {
            added: new.difference(&old).count(),
            removed: old.difference(&new).count(),
        }
    }
}

/// The most that a list may change by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLimit {
    /// Of the entries in force, for those added and for those removed; 100 and more is no limit for removals.
    pub percent: u32,
    /// Entries added, and entries removed.
    pub entries: usize,
}

impl DeltaLimit {
    /// Why a change of a list of `length` entries is not taken without an operator; `None` if it is.
    pub(super) fn refuses(&self, delta: Delta, length: usize) -> Option<String> {
        for (count, what) in [(delta.added, "add"), (delta.removed, "remove")] {
            let too_many = count > self.entries;
            let too_much =
                count > FEW && count as u128 * 100 > u128::from(self.percent) * length as u128;
            if too_many || too_much {
                return Some(format!(
                    "it would {what} {count} of {length} entries, more than {} % or {} entries; an operator has to accept it",
                    self.percent, self.entries
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(added: usize, removed: usize, length: usize) -> bool {
        let limit = DeltaLimit {
            percent: 20,
            entries: 1000,
        };
        limit.refuses(Delta { added, removed }, length).is_some()
    }

    #[test]
    fn a_change_up_to_the_limit_is_taken_and_one_entry_more_is_not() {
        assert!(!refuses(20, 20, 100));
        assert!(refuses(21, 0, 100));
        assert!(refuses(0, 21, 100));
        assert!(!refuses(1000, 1000, 1_000_000));
        assert!(refuses(1001, 0, 1_000_000));
        assert!(refuses(0, 1001, 1_000_000));
    }

    #[test]
    fn a_few_entries_are_never_too_large_a_part() {
        assert!(!refuses(FEW, FEW, 1));
        assert!(refuses(FEW + 1, 0, 1));
    }

    #[test]
    fn comments_make_no_difference_and_scopes_do() {
        let plain = Entry::allow("203.0.113.0/24".parse().unwrap());
        let commented = Entry {
            comment: Some("a".to_owned()),
            ..plain.clone()
        };
        let scoped = Entry {
            scope: Some("tcp/22".parse().unwrap()),
            ..plain.clone()
        };
        assert_eq!(
            Delta::between(std::slice::from_ref(&plain), &[commented]),
            Delta {
                added: 0,
                removed: 0
            }
        );
        assert_eq!(
            Delta::between(&[plain], &[scoped]),
            Delta {
                added: 1,
                removed: 1
            }
        );
    }
}
