//! The IPv6 table: planned in plain memory, copied into a zeroed array, then edited there.
//!
//! Its layout is `agent_ebpf::table::v6`'s. A new prefix is stored before anything that leads a lookup to it, a moved one is in its
//! new place before it leaves the old, and lengths and filter bits stay until the next build.

mod build;
mod edit;
mod entry;

use std::{collections::HashSet, sync::atomic::AtomicU64};

use agent_ebpf::{class::Class, table::v6 as layout};

use super::{Memory, Words, fill};

pub use self::build::plan;
pub(crate) use self::edit::SHORTEST_EDIT;

/// A prefix and the class of those of its addresses that no longer prefix covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Classed6 {
    pub address: u128,
    /// 0 to 128.
    pub length: u8,
    pub class: Class,
}

/// A prefix that gets a class, or leaves the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change6 {
    pub address: u128,
    /// 0 to 128.
    pub length: u8,
    /// None for a prefix that leaves.
    pub class: Option<Class>,
}

/// A compiled table that is not yet in shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan6 {
    size: usize,
    header: layout::Header,
    cells: Vec<[u64; layout::WORDS]>,
    prefixes: usize,
}

impl Plan6 {
    /// The size of the table it needs, an index into [`layout::CELLS`].
    pub fn size(&self) -> usize {
        self.size
    }

    /// Cells that its parts take up, out of those of its size.
    pub fn used_cells(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Writes the table into zeroed memory of [`Plan6::size`], which no reader uses yet.
    pub fn build<M: Memory>(self, memory: M) -> Table6<M> {
        fill(memory.words(), self.cells.as_flattened());
        Table6 {
            memory,
            size: self.size,
            header: self.header,
            used: self.cells.len() as u32,
            prefixes: self.prefixes,
            retired: HashSet::new(),
        }
    }
}

/// A table in memory that others read.
#[derive(Debug)]
pub struct Table6<M> {
    memory: M,
    size: usize,
    header: layout::Header,
    used: u32,
    /// Prefixes longer than 16.
    prefixes: usize,
    /// Places, by cell and slot, that a reader may still be looking at.
    retired: HashSet<(u32, u32)>,
}

impl<M: Memory> Table6<M> {
    /// The class of an address, as the XDP program finds it.
    pub fn class_of(&self, address: u128) -> Class {
        layout::class_of(&self.words(), address.to_be_bytes())
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

    /// Cells that its parts take up, out of those of its size.
    pub fn used_cells(&self) -> u32 {
        self.used
    }

    fn words(&self) -> Words<'_, { layout::WORDS }> {
        Words(self.memory.words())
    }
}

#[cfg(test)]
mod tests;
