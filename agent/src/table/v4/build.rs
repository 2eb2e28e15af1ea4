//! From sorted prefixes to a table.

use agent_ebpf::{
    class::Class,
    table::v4::{
        BASES, CELL_BYTES, CELLS, FULL, NODE_CELLS, PARTIAL, ROOT_CELLS, WORDS, cells_of,
        presence_cells,
    },
};

use super::{
    Classed4, Plan4,
    block::{BLOCK, Content, Sink, encode, masks},
};
use crate::table::{MIB, TooLarge};

/// Compiles prefixes, sorted by address and then by length, each once.
///
/// # Errors
/// If they need more than the largest table.
pub fn plan(classed: &[Classed4]) -> Result<Plan4, TooLarge> {
    let mut image = Image::new();
    let mut rest = classed;
    while let Some(first) = rest.first() {
        if first.length <= 16 {
            image.paint_root(first);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let top = first.address >> 16;
        let count = rest
            .iter()
            .position(|prefix| prefix.address >> 16 != top)
            .unwrap_or(rest.len());
        let (group, after) = rest.split_at(count);
        image.add_group(top, group);
        rest = after;
        if image.cells.len() > cells_of(CELLS.len() - 1) as usize {
            return Err(too_large());
        }
    }
    image.finish()
}

fn too_large() -> TooLarge {
    TooLarge {
        family: "IPv4",
        largest: cells_of(CELLS.len() - 1) / (MIB / CELL_BYTES as u32),
    }
}

/// A table under construction.
struct Image {
    root: Vec<u32>,
    cells: Vec<[u64; WORDS]>,
    /// By /22.
    presence: Vec<u64>,
    contents: Vec<Content>,
}

impl Sink for Vec<[u64; WORDS]> {
    fn allocate(&mut self, cells: u32) -> Option<u32> {
        let first = self.len();
        self.resize(first + cells as usize, [0; WORDS]);
        u32::try_from(first).ok()
    }

    fn put(&mut self, cell: u32, words: &[u64; WORDS]) {
        if let Some(cell) = self.get_mut(cell as usize) {
            *cell = *words;
        }
    }
}

impl Image {
    fn new() -> Self {
        Self {
            root: vec![0; 1 << 16],
            cells: vec![[0; WORDS]; ROOT_CELLS as usize],
            presence: vec![0; 1 << 16],
            contents: Vec::new(),
        }
    }

    fn paint_root(&mut self, prefix: &Classed4) {
        let (first, last) = (prefix.address >> 16, prefix.last() >> 16);
        if let Some(entries) = self.root.get_mut(first as usize..=last as usize) {
            entries.fill(u32::from(prefix.class.0));
        }
        if let Some(words) = self.presence.get_mut(first as usize..=last as usize) {
            words.fill(u64::MAX);
        }
    }

    /// Adds all prefixes longer than 16 of one /16.
    fn add_group(&mut self, top: u32, group: &[Classed4]) {
        let Some(entry) = self.root.get_mut(top as usize) else {
            return;
        };
        let otherwise = Class(*entry as u8);
        *entry = self.cells.len() as u32;
        if let Some(word) = self.presence.get_mut(top as usize) {
            *word |= group.iter().fold(0, |word, prefix| {
                let bits = 1_u32 << (22 - u32::from(prefix.length).min(22));
                word | u64::MAX >> (64 - bits) << (prefix.address >> 10 & 63)
            });
        }
        let is_plain = otherwise == Class::NOT_LISTED
            && group.iter().all(|prefix| prefix.class == Class::ALLOWED)
            && group
                .iter()
                .zip(group.iter().skip(1))
                .all(|(prefix, next)| prefix.last() < next.address);
        if is_plain {
            self.add_plain(group);
        } else {
            self.add_classes(otherwise, group);
        }
    }

    /// Adds prefixes that are all allowed, none of which covers another, in a /16 that is otherwise not listed.
    fn add_plain(&mut self, group: &[Classed4]) {
        let node = self.cells.len();
        self.cells.resize(node + NODE_CELLS as usize, [0; WORDS]);
        let mut blocks = [[0_u64; WORDS]; NODE_CELLS as usize];
        for prefix in group {
            let index = prefix.address >> 14 & 3;
            let bit = prefix.address >> 8 & 63;
            if prefix.length <= 18 {
                let count = 1 << (18 - prefix.length);
                for block in blocks.iter_mut().skip(index as usize).take(count) {
                    set(block, FULL, u64::MAX);
                }
                continue;
            }
            let Some(block) = blocks.get_mut(index as usize) else {
                continue;
            };
            if prefix.length <= 24 {
                let count = 1_u32 << (24 - prefix.length);
                set(block, FULL, u64::MAX >> (64 - count) << bit);
                continue;
            }
            let [_, partial, ..] = *block;
            if partial >> bit & 1 == 0 {
                if partial == 0 {
                    set(block, BASES, self.cells.len() as u64);
                }
                set(block, PARTIAL, 1 << bit);
                self.cells.push([0; WORDS]);
            }
            if let Some(leaf) = self.cells.last_mut() {
                add_bits(leaf, prefix);
            }
        }
        for (cell, block) in self.cells.iter_mut().skip(node).zip(blocks) {
            *cell = block;
        }
    }

    fn add_classes(&mut self, otherwise: Class, group: &[Classed4]) {
        self.contents.clear();
        self.contents
            .resize(NODE_CELLS as usize * BLOCK, Content::Uniform(otherwise));
        paint(&mut self.contents, 0, group);
        let node = self.cells.len();
        self.cells.resize(node + NODE_CELLS as usize, [0; WORDS]);
        for (index, contents) in self.contents.chunks_exact(BLOCK).enumerate() {
            // There is always room in a vector.
            let words = encode(contents, &mut self.cells).unwrap_or_default();
            if let Some(cell) = self.cells.get_mut(node + index) {
                *cell = words;
            }
        }
    }

    fn finish(mut self) -> Result<Plan4, TooLarge> {
        let root = self.root.as_chunks::<2>().0.iter();
        for (word, [low, high]) in self.cells.as_flattened_mut().iter_mut().zip(root) {
            *word = u64::from(*low) | u64::from(*high) << 32;
        }
        // Room for edits.
        let needed = self.cells.len() + self.cells.len() / 32 + 256;
        let size = (0..CELLS.len())
            .find(|size| needed + presence_cells(*size) as usize <= cells_of(*size) as usize)
            .ok_or_else(too_large)?;
        if size == 0 {
            self.presence = by_fours(&self.presence);
        }
        Ok(Plan4 {
            size,
            cells: self.cells,
            presence: self.presence,
        })
    }
}

/// Gives all addresses of `prefixes`, wider before narrower, their classes. The first of `contents` is the /24 number `first`
/// of the /16.
pub(super) fn paint(contents: &mut [Content], first: u32, prefixes: &[Classed4]) {
    for prefix in prefixes {
        let start = (prefix.address >> 8 & 255).saturating_sub(first) as usize;
        if prefix.length <= 24 {
            let count = 1 << (24 - prefix.length);
            for content in contents.iter_mut().skip(start).take(count) {
                *content = Content::Uniform(prefix.class);
            }
        } else if let Some(content) = contents.get_mut(start) {
            content.paint(prefix.address as u8, prefix.last() as u8, prefix.class);
        }
    }
    for content in contents {
        content.normalise();
    }
}

fn set(block: &mut [u64; WORDS], word: u32, bits: u64) {
    if let Some(word) = block.get_mut(word as usize) {
        *word |= bits;
    }
}

fn add_bits(leaf: &mut [u64; WORDS], prefix: &Classed4) {
    if prefix.length == 32 {
        set(leaf, prefix.address >> 6 & 3, 1 << (prefix.address & 63));
        return;
    }
    for (word, mask) in leaf
        .iter_mut()
        .zip(masks(prefix.address as u8, prefix.last() as u8))
    {
        *word |= mask;
    }
}

/// Presence by /20 from presence by /22.
fn by_fours(fine: &[u64]) -> Vec<u64> {
    let coarse = |word: &u64| -> u64 {
        (0..16).fold(0, |bits, bit| {
            bits | u64::from(word >> (4 * bit) & 0xf != 0) << bit
        })
    };
    fine.as_chunks::<4>()
        .0
        .iter()
        .map(|words| {
            words
                .iter()
                .enumerate()
                .fold(0, |bits, (index, word)| bits | coarse(word) << (16 * index))
        })
        .collect()
}
