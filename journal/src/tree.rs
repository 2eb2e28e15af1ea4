//! The Merkle tree over all records, and its signed heads.
//!
//! The tree is that of RFC 6962: a leaf is one line without its newline.

pub mod checkpoint;
pub mod cosignature;
pub mod key;
pub mod keyring;
pub(crate) mod ranges;

use tlog_tiles::{EMPTY_HASH, Hash, node_hash, record_hash};

/// The right edge of the tree: all that is needed to grow it.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees from left to right; one for every bit set in `size`.
    peaks: Vec<Hash>,
}

impl Tree {
    /// A tree of `size` leaves with that right edge; `None` if an edge of so many leaves has another length.
    pub(crate) fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == peaks.len()).then_some(Self { size, peaks })
    }

    /// Its right edge, from left to right.
    pub(crate) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The same with the levels of the subtrees.
    pub(crate) fn subtrees(&self) -> impl Iterator<Item = (u32, Hash)> {
        let size = self.size;
        let levels = (0..u64::BITS)
            .rev()
            .filter(move |level| size >> level & 1 == 1);
        levels.zip(self.peaks.iter().copied())
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds one record.
    pub fn push(&mut self, line: &[u8]) {
        self.push_leaf(record_hash(line));
    }

    /// Adds one record by its leaf hash.
    pub fn push_leaf(&mut self, leaf: Hash) {
        self.push_subtree(leaf, 0);
    }

    /// Adds a complete subtree of 2^`level` leaves; the tree holds a multiple of as many.
    pub(crate) fn push_subtree(&mut self, root: Hash, level: u32) {
        let mut node = root;
        for _ in 0..(self.size >> level).trailing_ones() {
            let left = self
                .peaks
                .pop()
                .expect("every bit set in the size has its peak");
            node = node_hash(left, node);
        }
        self.peaks.push(node);
        self.size += 1 << level;
    }

    /// The root hash of RFC 6962 section 2.1.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(&last) = peaks.next() else {
            return EMPTY_HASH;
        };
        peaks.fold(last, |right, &left| node_hash(left, right))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tlog_tiles::{Error, HashReader, stored_hashes, tree_hash};

    use super::*;

    /// All hashes of a tree, for the reference to read.
    pub(crate) struct Stored(pub(crate) Vec<Hash>);

    impl HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
            Ok(indexes.iter().map(|&at| self.0[at as usize]).collect())
        }
    }

    #[test]
    fn the_root_is_that_of_the_reference_at_every_size() {
        let mut stored = Stored(Vec::new());
        let mut tree = Tree::default();
        for n in 0..300_u64 {
            assert_eq!(tree.root(), tree_hash(n, &stored).unwrap(), "{n} records");
            let line = format!("{{\"seq\":{n}}}");
            let new = stored_hashes(n, line.as_bytes(), &stored).unwrap();
            stored.0.extend(new);
            tree.push(line.as_bytes());
        }
    }
}
