//! The IPv4 table: planned in plain memory, copied into a zeroed array, then edited there.
//!
//! Its layout is `agent_ebpf::table::v4`'s. What an edit stores in place keeps the shape of its /24; anything else rewrites the
//! blocks concerned into free cells and switches over the /16's root entry, in one store.

mod block;
mod build;
mod draft;
mod edit;

use std::sync::atomic::{AtomicU64, Ordering};

use agent_ebpf::{class::Class, table::v4 as layout};

use super::{Memory, Words, fill, space::Space};

pub use self::build::plan;
pub(crate) use self::edit::SHORTEST_EDIT;

/// A prefix and the class of those of its addresses that no longer prefix covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Classed4 {
    pub address: u32,
    /// 0 to 32.
    pub length: u8,
    pub class: Class,
}

impl Classed4 {
    /// The last address of the prefix.
    pub fn last(&self) -> u32 {
        self.address | u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0)
    }
}

/// A compiled table that is not yet in shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan4 {
    size: usize,
    /// The root, and what it leads to.
    cells: Vec<[u64; layout::WORDS]>,
    presence: Vec<u64>,
}

impl Plan4 {
    /// The size of the table it needs, an index into [`layout::CELLS`].
    pub fn size(&self) -> usize {
        self.size
    }

    /// Cells in use, out of those of its size.
    pub fn used_cells(&self) -> u32 {
        self.cells.len() as u32 + layout::presence_cells(self.size)
    }

    /// Writes the table into zeroed memory of [`Plan4::size`], which no reader uses yet.
    pub fn build<M: Memory>(self, memory: M) -> Table4<M> {
        let end = layout::cells_of(self.size) - layout::presence_cells(self.size);
        let words = memory.words();
        fill(words, self.cells.as_flattened());
        if let Some(presence) = words.get(end as usize * layout::WORDS..) {
            fill(presence, &self.presence);
        }
        Table4 {
            memory,
            size: self.size,
            space: Space::new(self.cells.len() as u32, end),
            scratch: Vec::new(),
        }
    }
}

/// A table in memory that others read.
#[derive(Debug)]
pub struct Table4<M> {
    memory: M,
    size: usize,
    space: Space,
    scratch: Vec<block::Content>,
}

impl<M: Memory> Table4<M> {
    /// The class of an address, as the XDP program finds it.
    pub fn class_of(&self, address: u32) -> Class {
        layout::class_of(&self.words(), self.size, address.to_be_bytes())
    }

    /// The table as it is written: for comparing what is in the kernel with what should be.
    pub fn image(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// The memory that it was built in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The table's size, an index into [`layout::CELLS`].
    pub fn size(&self) -> usize {
        self.size
    }

    /// Cells in use, out of those of its size.
    pub fn used_cells(&self) -> u32 {
        self.space.used() + layout::presence_cells(self.size)
    }

    fn words(&self) -> Words<'_, { layout::WORDS }> {
        Words(self.memory.words())
    }

    /// Marks all of these addresses as perhaps listed. Never undone in a live table.
    fn set_presence(&self, first: u32, last: u32) {
        let shift = layout::presence_shift(self.size);
        let start = (layout::cells_of(self.size) - layout::presence_cells(self.size)) as usize
            * layout::WORDS;
        let Some(words) = self.memory.words().get(start..) else {
            return;
        };
        for bit in first >> shift..=last >> shift {
            if let Some(word) = words.get(bit as usize / 64) {
                word.fetch_or(1 << (bit % 64), Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests;
