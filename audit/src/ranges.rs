//! Which bytes of a file were moved.

use std::collections::BTreeMap;

/// Stretches that are kept apart; a file that is moved in more of them counts as one with gaps.
const KEPT: usize = 1024;

/// Stretches of bytes, joined where they touch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges {
    /// Begin and end.
    stretches: BTreeMap<u64, u64>,
    is_scattered: bool,
}

impl Ranges {
    pub(crate) fn add(&mut self, offset: u64, length: u64) {
        if length == 0 || self.is_scattered {
            return;
        }
        let (mut begin, mut end) = (offset, offset.saturating_add(length));
        // From the last that begins at or before the end, back to the first that touches.
        while let Some((&other, &other_end)) = self.stretches.range(..=end).next_back() {
            if other_end < begin {
                break;
            }
            begin = begin.min(other);
            end = end.max(other_end);
            self.stretches.remove(&other);
        }
        self.stretches.insert(begin, end);
        if self.stretches.len() > KEPT {
            self.stretches.clear();
            self.is_scattered = true;
        }
    }

    /// Something was left out, nobody knows where.
    pub(crate) fn add_gap(&mut self) {
        self.stretches.clear();
        self.is_scattered = true;
    }

    /// True if there are no gaps from the first byte of the file on.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_scattered
            && self.stretches.len() <= 1
            && self.stretches.keys().all(|begin| *begin == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_does_not_matter_and_a_gap_does() {
        let whole = |parts: &[(u64, u64)]| {
            let mut ranges = Ranges::default();
            for (offset, length) in parts {
                ranges.add(*offset, *length);
            }
            ranges.is_whole()
        };
        assert!(
            whole(&[])
                && whole(&[(0, 10), (10, 5)])
                && whole(&[(10, 5), (20, 1), (0, 10), (15, 5)])
        );
        assert!(!whole(&[(0, 10), (11, 5)]) && !whole(&[(1, 10)]));
        assert!(whole(&[(0, u64::MAX), (u64::MAX, 5)]));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_of_bytes(parts in prop::collection::vec((0u64..40, 0u64..10), 0..30)) {
            let mut ranges = Ranges::default();
            let mut bytes = [false; 64];
            for (offset, length) in parts {
                ranges.add(offset, length);
                for byte in offset..offset + length {
                    bytes[byte as usize] = true;
                }
            }
            let whole = bytes.is_sorted_by(|before, after| before >= after);
            prop_assert_eq!(ranges.is_whole(), whole);
        }
    }
}
