//! Roots of parts of the tree, computed while its leaves pass by once: what a proof is made of.

use tlog_tiles::Hash;

use super::Tree;

/// The leaves below each hash of the audit path of leaf `index` in a tree of `size` leaves (RFC 6962 section 2.1.1), as first
/// and end, from the leaf up; `index` is below `size`.
pub(crate) fn inclusion(index: u64, size: u64) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let (mut low, mut high) = (0, size);
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            ranges.push((middle, high));
            high = middle;
        } else {
            ranges.push((low, middle));
            low = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// Parts of a tree, in the order in which a proof lists their roots.
#[derive(Debug)]
pub(crate) struct Ranges {
    parts: Vec<Part>,
    /// The leaf that comes next.
    next: u64,
}

#[derive(Debug)]
struct Part {
    /// The first leaf, and the first behind.
    leaves: (u64, u64),
    tree: Tree,
}

impl Ranges {
    /// The audit path of leaf `index` in a tree of `size` leaves; `index` is below `size`.
    pub(crate) fn of_inclusion(index: u64, size: u64) -> Self {
        Self::of(inclusion(index, size))
    }

    /// The proof that a tree of `old` leaves is the beginning of one of `size` (RFC 6962 section 2.1.2);
    /// `old` is not 0 and not above `size`.
    pub(crate) fn of_consistency(old: u64, size: u64) -> Self {
        let mut ranges = Vec::new();
        let (mut low, mut high) = (0, size);
        while old != high {
            let middle = low + split(high - low);
            if old <= middle {
                ranges.push((middle, high));
                high = middle;
            } else {
                ranges.push((low, middle));
                low = middle;
            }
        }
        // The old tree as a whole is known to who checks.
        if low > 0 {
            ranges.push((low, high));
        }
        // A proof begins at the leaves.
        ranges.reverse();
        Self::of(ranges)
    }

    fn of(ranges: Vec<(u64, u64)>) -> Self {
        let part = |leaves| Part {
            leaves,
            tree: Tree::default(),
        };
        Self {
            parts: ranges.into_iter().map(part).collect(),
            next: 0,
        }
    }

    pub(crate) fn push_leaf(&mut self, leaf: Hash) {
        let at = self.next;
        let part = self
            .parts
            .iter_mut()
            .find(|part| (part.leaves.0..part.leaves.1).contains(&at));
        if let Some(part) = part {
            part.tree.push_leaf(leaf);
        }
        self.next += 1;
    }

    /// Passes over a complete subtree of 2^`level` leaves; false if a part of it would be needed.
    pub(crate) fn push_subtree(&mut self, root: Hash, level: u32) -> bool {
        let leaves = self.next..self.next + (1 << level);
        self.next = leaves.end;
        let mut touched = self
            .parts
            .iter_mut()
            .filter(|part| part.leaves.0 < leaves.end && leaves.start < part.leaves.1);
        let Some(part) = touched.next() else {
            return true;
        };
        let is_inside = part.leaves.0 <= leaves.start && leaves.end <= part.leaves.1;
        if is_inside {
            part.tree.push_subtree(root, level);
        }
        is_inside
    }

    /// The roots, once all leaves of the tree have passed.
    pub(crate) fn roots(self) -> Vec<Hash> {
        self.parts.iter().map(|part| part.tree.root()).collect()
    }
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use tlog_tiles::{
        check_record, check_tree, prove_record, prove_tree, record_hash, stored_hashes, tree_hash,
    };

    use super::*;
    use crate::tree::tests::Stored;

    fn leaf(at: u64) -> Hash {
        record_hash(&at.to_be_bytes())
    }

    fn stored(size: u64) -> Stored {
        let mut stored = Stored(Vec::new());
        for at in 0..size {
            let new = stored_hashes(at, &at.to_be_bytes(), &stored).unwrap();
            stored.0.extend(new);
        }
        stored
    }

    fn passed(mut ranges: Ranges, size: u64) -> Vec<Hash> {
        (0..size).for_each(|at| ranges.push_leaf(leaf(at)));
        ranges.roots()
    }

    #[test]
    fn both_proofs_are_those_of_the_reference_at_every_size_and_check() {
        let stored = stored(40);
        for size in 1..=40 {
            let root = tree_hash(size, &stored).unwrap();
            for at in 0..size {
                let path = passed(Ranges::of_inclusion(at, size), size);
                assert_eq!(path, prove_record(size, at, &stored).unwrap());
                check_record(&path, size, root, at, leaf(at)).unwrap();
                let old = at + 1;
                let proof = passed(Ranges::of_consistency(old, size), size);
                assert_eq!(proof, prove_tree(size, old, &stored).unwrap());
                check_tree(&proof, size, root, old, tree_hash(old, &stored).unwrap()).unwrap();
            }
        }
    }
}
