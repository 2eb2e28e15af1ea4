//! The IPv4 table: a trie of three steps (16, 8 and 8 bits), whose lower steps are bitmaps.
//!
//! A cell is 32 bytes, so two lie in a cache line and none in two. In the order of the array:
//!
//! - **Root**, cells `0..ROOT_CELLS`: one 32-bit entry for each /16, eight a cell. An entry below 256 is the class of the whole
//!   /16, any other is the first cell of its node.
//! - **Nodes, leaves, descriptors**: cells that the root leads to, in no order.
//!   - A *node* is four cells, one *block* for each /18 of its /16. Bit `i` of a block's words stands for its `i`th /24:
//!     word [`SPECIAL`]: the /24 has a descriptor, looked at first; word [`FULL`]: wholly allowed; word [`PARTIAL`]: it has a leaf.
//!     Word [`BASES`]: the low half is the first leaf of the block, the high half its first cell of descriptors.
//!   - A *leaf* is one cell of 256 bits, set for the allowed addresses of a /24. The leaves of a block are consecutive.
//!   - *Descriptors* are 32 bits, eight a cell, the descriptors of a block in consecutive cells. One below 256 is the class of
//!     the /24, any other is the first of the eight cells of a *class leaf*, one byte for each address.
//! - **Presence**, the last cells: one bit for each /22 (/20 in the smallest table, see [`presence_shift`]), clear when nothing in
//!   it is listed. It is looked at first and stays in the cache, where a flood from random sources then ends.

use super::{Cell, Cells, count_ones, half};
use crate::class::Class;

/// Words of a cell.
pub const WORDS: usize = 4;
/// Bytes of a cell.
pub const CELL_BYTES: usize = WORDS * 8;

/// Cells of a table, by size: 1, 4, 16, 64 and 128 MiB.
pub const CELLS: [u32; 5] = [1 << 15, 1 << 17, 1 << 19, 1 << 21, 1 << 22];

/// Cells of the root.
pub const ROOT_CELLS: u32 = 1 << 13;
/// Cells of a node, one for each /18.
pub const NODE_CELLS: u32 = 4;
/// Cells of a class leaf.
pub const CLASS_LEAF_CELLS: u32 = 8;
/// The first value of a root entry or descriptor that is no class.
pub const FIRST_INDEX: u32 = 256;

/// Words of a block.
pub const FULL: u32 = 0;
pub const PARTIAL: u32 = 1;
pub const SPECIAL: u32 = 2;
pub const BASES: u32 = 3;

/// Address bits behind those that pick a presence bit, for a table of this size.
#[inline(always)]
pub const fn presence_shift(size: usize) -> u32 {
    if size == 0 { 12 } else { 10 }
}

/// Cells of the presence bits, at the end of a table of this size.
#[inline(always)]
pub const fn presence_cells(size: usize) -> u32 {
    1 << (32 - presence_shift(size) - 8)
}

/// Cells of a table of this size; none for a size that does not exist.
#[inline(always)]
pub const fn cells_of(size: usize) -> u32 {
    match size {
        0 => CELLS[0],
        1 => CELLS[1],
        2 => CELLS[2],
        3 => CELLS[3],
        4 => CELLS[4],
        _ => 0,
    }
}

/// The class of `address` in a table of this size, an index into [`CELLS`].
#[inline(always)]
pub fn class_of<C: Cells<WORDS> + ?Sized>(cells: &C, size: usize, address: [u8; 4]) -> Class {
    let address = u32::from_be_bytes(address);
    lookup(cells, size, address).unwrap_or(Class::NOT_LISTED)
}

#[inline(always)]
fn lookup<C: Cells<WORDS> + ?Sized>(cells: &C, size: usize, address: u32) -> Option<Class> {
    let bit = address >> presence_shift(size);
    let first = cells_of(size).wrapping_sub(presence_cells(size));
    let presence = cells.cell(first.wrapping_add(bit >> 8))?;
    if !has(presence.word(bit >> 6), bit) {
        return None;
    }
    let index = address >> 16;
    let entry = half(cells.cell(index >> 3)?.word(index >> 1), index);
    if entry < FIRST_INDEX {
        return Some(Class(entry as u8));
    }
    let block = cells.cell(entry.wrapping_add((address >> 14) & 3))?;
    let bit = (address >> 8) & 63;
    let special = block.word(SPECIAL);
    if has(special, bit) {
        let rank = rank(special, bit);
        let first = (block.word(BASES) >> 32) as u32;
        let descriptor = half(
            cells.cell(first.wrapping_add(rank >> 3))?.word(rank >> 1),
            rank,
        );
        if descriptor < FIRST_INDEX {
            return Some(Class(descriptor as u8));
        }
        let leaf = cells.cell(descriptor.wrapping_add((address >> 5) & 7))?;
        return Some(Class(
            (leaf.word(address >> 3) >> ((address & 7) * 8)) as u8,
        ));
    }
    if has(block.word(FULL), bit) {
        return Some(Class::ALLOWED);
    }
    let partial = block.word(PARTIAL);
    if has(partial, bit) {
        let first = block.word(BASES) as u32;
        let leaf = cells.cell(first.wrapping_add(rank(partial, bit)))?;
        if has(leaf.word(address >> 6), address) {
            return Some(Class::ALLOWED);
        }
    }
    None
}

/// Whether the bit is set, counted modulo 64.
#[inline(always)]
fn has(word: u64, bit: u32) -> bool {
    (word >> (bit & 63)) & 1 != 0
}

/// How many bits are set below this one.
#[inline(always)]
pub fn rank(word: u64, bit: u32) -> u32 {
    count_ones(word & ((1 << (bit & 63)) - 1))
}
