//! Compiles classed prefixes into the tables that the XDP program reads, and edits them while it does.
//!
//! One writer, any number of readers without locks: only aligned words are stored, and what a reader may still be looking
//! at is reused after a grace period. Where the words come from (a mapped BPF array, a test's memory) is the caller's affair.

pub mod v4;
pub mod v6;

mod space;
#[cfg(test)]
mod testing;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use agent_ebpf::table::Cells;

pub use self::{
    v4::{Classed4, Plan4, Table4},
    v6::{Change6, Classed6, Plan6, Table6},
};

/// Memory for a table, shared with its readers. Zeroed when handed over.
pub trait Memory {
    /// All of its words.
    fn words(&self) -> &[AtomicU64];
}

impl Memory for Box<[AtomicU64]> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

impl<M: Memory + ?Sized> Memory for Arc<M> {
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }
}

/// How a writer waits for lookups that began before, and may be looking at what it took out.
pub trait Readers {
    /// Begins to wait for those under way now, and goes on meanwhile.
    fn begin(&mut self);

    /// Whether those are through that the last [`Readers::begin`] was about.
    fn are_through(&mut self) -> bool;

    /// Returns when they are; without [`Readers::begin`], when those are through that are under way now.
    fn wait(&mut self);
}

/// Waits at once, and only when it must.
impl<F: FnMut()> Readers for F {
    fn begin(&mut self) {}

    fn are_through(&mut self) -> bool {
        false
    }

    fn wait(&mut self) {
        self();
    }
}

/// The edit cannot be done in place: build the table anew. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NeedsRebuild {
    #[error("the edit concerns a prefix too wide to be changed in place")]
    TooWide,
    #[error("the table has no room left for the edit")]
    Full,
}

/// The prefixes do not fit into the largest table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {family} prefixes need a table of more than {largest} MiB, the largest there is; merge neighbouring prefixes or list fewer"
)]
pub struct TooLarge {
    pub family: &'static str,
    /// MiB.
    pub largest: u32,
}

const MIB: u32 = 1 << 20;

/// The words of a table, read as its cells.
struct Words<'a, const N: usize>(&'a [AtomicU64]);

impl<'a, const N: usize> Cells<N> for Words<'a, N> {
    type Cell = &'a [AtomicU64; N];

    fn cell(&self, index: u32) -> Option<Self::Cell> {
        self.0.as_chunks().0.get(index as usize)
    }
}

impl<const N: usize> Words<'_, N> {
    fn load(&self, cell: u32, word: u32) -> u64 {
        self.word(cell, word)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn load_cell(&self, cell: u32) -> [u64; N] {
        self.cell(cell).map_or([0; N], |words| {
            std::array::from_fn(|index| {
                words
                    .get(index)
                    .map_or(0, |word| word.load(Ordering::Relaxed))
            })
        })
    }

    /// Makes a word visible, and before it all that was stored before.
    fn publish(&self, cell: u32, word: u32, value: u64) {
        if let Some(word) = self.word(cell, word) {
            word.store(value, Ordering::Release);
        }
    }

    fn store_cell(&self, cell: u32, values: &[u64; N]) {
        if let Some(words) = self.cell(cell) {
            for (word, value) in words.iter().zip(values) {
                word.store(*value, Ordering::Relaxed);
            }
        }
    }

    fn word(&self, cell: u32, word: u32) -> Option<&AtomicU64> {
        self.0.get(cell as usize * N + word as usize)
    }
}

/// Copies plain words into a table that has no reader yet.
fn fill(words: &[AtomicU64], from: &[u64]) {
    for (word, value) in words.iter().zip(from) {
        word.store(*value, Ordering::Relaxed);
    }
}
