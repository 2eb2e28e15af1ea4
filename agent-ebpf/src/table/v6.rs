//! The IPv6 table: which prefix lengths are in use near an address, then an exact hash table asked for the longest first.
//!
//! A cell is 64 bytes, a cache line. In the order of the array:
//!
//! - **Header**, one cell, see [`Header`].
//! - **Root**, `ROOT_CELLS` cells: one 32-bit entry for each /16, sixteen a cell. Bits 0-7: the class of the /16 by prefixes of
//!   length 0-16. Bits 8-23: lengths 17-32 in use in it, bit `8 + 32 - length`. Bit 24 ([`HAS_LONGER`]): longer ones are.
//!   Most floods from random sources end here.
//! - **Lengths**, a hash table: for each /32 with longer prefixes an entry of two words, four a cell. Word 0: the /32 in the low
//!   half, lengths 33-64 in the high half, bit `64 - length`; word 1: lengths 65-128, bit `128 - length`. So the lowest bit
//!   set is the longest prefix, and its value negated is the mask of the address. A length may be there in vain.
//! - **Filter**, a Bloom filter of all prefixes longer than 16, the bits of one in one word ([`Hash::filter_bits`]). May also say yes in vain.
//! - **Short**, a hash table: prefixes of lengths 17-64, six a cell. Words 0-5: their addresses' upper halves; words 6 and 7: for each a
//!   byte of length and a byte of class, in this order from the lowest byte. Length 0 marks a free place.
//! - **Long**, a hash table: prefixes of lengths 65-128, three a cell. Words 0-5: upper and lower halves by turns; word 6: lengths and classes.
//!
//! Each hash table gives a key two cells to be in ([`Hash::buckets`]). The hash is keyed with a seed, so that nobody can
//! find addresses that all pass the filter.

use super::{Cell, Cells, count_ones, half};
use crate::{class::Class, packet::halves};

/// Words of a cell.
pub const WORDS: usize = 8;
/// Bytes of a cell.
pub const CELL_BYTES: usize = WORDS * 8;

/// Cells of a table, by size: 1, 4, 24 and 128 MiB.
pub const CELLS: [u32; 4] = [1 << 14, 1 << 16, 3 << 17, 1 << 21];

/// The first cell of the root.
pub const ROOT: u32 = 1;
/// Cells of the root.
pub const ROOT_CELLS: u32 = 1 << 12;
/// Bit of a root entry: the table of lengths knows /32s of this /16.
pub const HAS_LONGER: u32 = 1 << 24;

/// Entries of a cell of the table of lengths.
pub const LENGTHS_SLOTS: u32 = 4;
/// Prefixes of a cell of the table of short prefixes.
pub const SHORT_SLOTS: u32 = 6;
/// Prefixes of a cell of the table of long prefixes.
pub const LONG_SLOTS: u32 = 3;
/// The first word of lengths and classes in a cell of either.
pub const MARKS: u32 = 6;

/// A run of cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// Its first cell.
    pub first: u32,
    /// How many they are.
    pub cells: u32,
}

impl Region {
    #[inline(always)]
    fn from_word(word: u64) -> Self {
        Self {
            first: word as u32,
            cells: (word >> 32) as u32,
        }
    }

    /// As a word of the header.
    pub const fn to_word(self) -> u64 {
        self.first as u64 | (self.cells as u64) << 32
    }

    /// The cell that 32 bits of a hash pick.
    #[inline(always)]
    fn pick(self, hash: u64) -> u32 {
        let offset = ((hash & 0xffff_ffff).wrapping_mul(self.cells as u64) >> 32) as u32;
        self.first.wrapping_add(offset)
    }
}

/// The first cell: words 0-4, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    pub seed: u64,
    pub lengths: Region,
    pub filter: Region,
    pub short: Region,
    pub long: Region,
}

impl Header {
    #[inline(always)]
    pub fn read<C: Cell>(cell: &C) -> Self {
        Self {
            seed: cell.word(0),
            lengths: Region::from_word(cell.word(1)),
            filter: Region::from_word(cell.word(2)),
            short: Region::from_word(cell.word(3)),
            long: Region::from_word(cell.word(4)),
        }
    }

    /// The words that [`Header::read`] reads.
    pub const fn to_words(self) -> [u64; 5] {
        [
            self.seed,
            self.lengths.to_word(),
            self.filter.to_word(),
            self.short.to_word(),
            self.long.to_word(),
        ]
    }
}

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// All of it in one word.
    #[inline(always)]
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// What [`Hash::to_word`] made a word of.
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Of a /32 in the table of lengths.
    #[inline(always)]
    pub fn of_top(seed: u64, top: u32) -> Self {
        Self(mix(seed ^ top as u64))
    }

    /// Of a prefix of length 17-64: `high` has no bit set behind it, and `lowest` is the lowest bit that belongs to it.
    #[inline(always)]
    pub fn of_short(seed: u64, high: u64, lowest: u64) -> Self {
        Self(mix(seed ^ high.wrapping_add(lowest.wrapping_mul(ODD))))
    }

    /// What all prefixes longer than 64 with this upper half have in common.
    #[inline(always)]
    pub fn half_of_long(seed: u64, high: u64) -> u64 {
        mix(seed ^ high)
    }

    /// Of a prefix of length 65-128, from [`Hash::half_of_long`]; `low` and `lowest` as in [`Hash::of_short`], of the lower half.
    #[inline(always)]
    pub fn of_long(half: u64, low: u64, lowest: u64) -> Self {
        Self(mix(half ^ low.wrapping_add(lowest.wrapping_mul(ODD))))
    }

    /// The cell of the filter, and the word in it modulo 8.
    #[inline(always)]
    pub fn filter_word(self, filter: Region) -> (u32, u32) {
        (filter.pick(self.0 >> 32), (self.0 >> 24) as u32)
    }

    /// The bits of the filter's word that are all set if the key was put in.
    #[inline(always)]
    pub fn filter_bits(self) -> u64 {
        1 << (self.0 & 63)
            | 1 << (self.0 >> 6 & 63)
            | 1 << (self.0 >> 12 & 63)
            | 1 << (self.0 >> 18 & 63)
    }

    /// The two cells of a hash table that the key may be in.
    #[inline(always)]
    pub fn buckets(self, table: Region) -> [u32; 2] {
        let hash = self.0.wrapping_mul(ODD);
        [table.pick(hash >> 32), table.pick(hash)]
    }
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of MurmurHash3 (`fmix64`).
#[inline(always)]
fn mix(key: u64) -> u64 {
    let key = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ (key >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ (key >> 33)
}

/// The class of `address`.
#[inline(always)]
pub fn class_of<C: Cells<WORDS> + ?Sized>(cells: &C, address: [u8; 16]) -> Class {
    let [high, low] = halves(address);
    class_by(
        cells,
        [high, low],
        |header, hash, key, lowest| find_short(cells, header, hash, key, lowest),
        |header, hash, key, lowest| find_long(cells, header, hash, [high, key], lowest),
    )
}

/// The class of the address with these halves, where `short` and `long` are to call [`find_short`] and [`find_long`] with the part of
/// the half that belongs to a prefix: the kernel's side does so in functions of their own, so that its verifier looks at them once and
/// not for each length.
#[inline(always)]
pub fn class_by<C: Cells<WORDS> + ?Sized>(
    cells: &C,
    address: [u64; 2],
    short: impl Fn(&Header, Hash, u64, u64) -> Option<Class>,
    long: impl Fn(&Header, Hash, u64, u64) -> Option<Class>,
) -> Class {
    lookup(cells, address, short, long).unwrap_or(Class::NOT_LISTED)
}

#[inline(always)]
fn lookup<C: Cells<WORDS> + ?Sized>(
    cells: &C,
    [high, low]: [u64; 2],
    find_short: impl Fn(&Header, Hash, u64, u64) -> Option<Class>,
    find_long: impl Fn(&Header, Hash, u64, u64) -> Option<Class>,
) -> Option<Class> {
    let index = (high >> 48) as u32;
    let entry = half(
        cells.cell(ROOT.wrapping_add(index >> 4))?.word(index >> 1),
        index,
    );
    let otherwise = Some(Class(entry as u8));
    if entry >> 8 == 0 {
        return otherwise;
    }
    let header = Header::read(&cells.cell(0)?);
    let mut short = ((entry >> 8) as u64 & 0xffff) << 32;
    if entry & HAS_LONGER != 0 {
        let (middle, mut long) = lengths(cells, &header, (high >> 32) as u32);
        short |= middle;
        let half = if long == 0 {
            0
        } else {
            Hash::half_of_long(header.seed, high)
        };
        // Lengths 65-128.
        for _ in 0..64 {
            if long == 0 {
                break;
            }
            let lowest = long & long.wrapping_neg();
            long ^= lowest;
            let key = low & lowest.wrapping_neg();
            let hash = Hash::of_long(half, key, lowest);
            if may_hold(cells, &header, hash)
                && let Some(class) = find_long(&header, hash, key, lowest)
            {
                return Some(class);
            }
        }
    }
    // Lengths 17-64.
    for _ in 0..48 {
        if short == 0 {
            break;
        }
        let lowest = short & short.wrapping_neg();
        short ^= lowest;
        let key = high & lowest.wrapping_neg();
        let hash = Hash::of_short(header.seed, key, lowest);
        if may_hold(cells, &header, hash)
            && let Some(class) = find_short(&header, hash, key, lowest)
        {
            return Some(class);
        }
    }
    otherwise
}

/// Lengths 33-64 and 65-128 that are in use in a /32.
#[inline(always)]
fn lengths<C: Cells<WORDS> + ?Sized>(cells: &C, header: &Header, top: u32) -> (u64, u64) {
    for bucket in Hash::of_top(header.seed, top).buckets(header.lengths) {
        let Some(cell) = cells.cell(bucket) else {
            continue;
        };
        for slot in 0..LENGTHS_SLOTS {
            let word = cell.word(2 * slot);
            // A free place looks like the entry of ::/32, without lengths.
            if word as u32 == top {
                let long = cell.word(2 * slot + 1);
                if word >> 32 != 0 || long != 0 {
                    return (word >> 32, long);
                }
            }
        }
    }
    (0, 0)
}

/// The class of a prefix of length 17-64: of this hash, with this upper half, and as long as the bit `lowest`, the last that belongs to it,
/// says.
#[inline(always)]
pub fn find_short<C: Cells<WORDS> + ?Sized>(
    cells: &C,
    header: &Header,
    hash: Hash,
    high: u64,
    lowest: u64,
) -> Option<Class> {
    let length = 64 - count_ones(lowest.wrapping_sub(1));
    for bucket in hash.buckets(header.short) {
        let Some(cell) = cells.cell(bucket) else {
            continue;
        };
        for slot in 0..SHORT_SLOTS {
            if cell.word(slot) == high {
                let mark = mark(&cell, slot);
                if mark & 0xff == length {
                    return Some(Class((mark >> 8) as u8));
                }
            }
        }
    }
    None
}

/// As [`find_short`], of lengths 65-128, with both halves: `lowest` is a bit of the lower.
#[inline(always)]
pub fn find_long<C: Cells<WORDS> + ?Sized>(
    cells: &C,
    header: &Header,
    hash: Hash,
    [high, low]: [u64; 2],
    lowest: u64,
) -> Option<Class> {
    let length = 128 - count_ones(lowest.wrapping_sub(1));
    for bucket in hash.buckets(header.long) {
        let Some(cell) = cells.cell(bucket) else {
            continue;
        };
        for slot in 0..LONG_SLOTS {
            if cell.word(2 * slot) == high && cell.word(2 * slot + 1) == low {
                let mark = mark(&cell, slot);
                if mark & 0xff == length {
                    return Some(Class((mark >> 8) as u8));
                }
            }
        }
    }
    None
}

#[inline(always)]
fn may_hold<C: Cells<WORDS> + ?Sized>(cells: &C, header: &Header, hash: Hash) -> bool {
    let (cell, word) = hash.filter_word(header.filter);
    let bits = hash.filter_bits();
    match cells.cell(cell) {
        Some(cell) => cell.word(word) & bits == bits,
        None => false,
    }
}

/// Length (low byte) and class of the prefix in this place of a cell.
#[inline(always)]
fn mark<C: Cell>(cell: &C, slot: u32) -> u32 {
    (cell.word(MARKS + (slot >> 2)) >> ((slot & 3) * 16)) as u32 & 0xffff
}
