//! The entries of the three hash tables.

use agent_ebpf::{
    class::Class,
    table::v6::{Hash, LENGTHS_SLOTS, LONG_SLOTS, MARKS, SHORT_SLOTS, WORDS},
};

/// The words of a cell.
pub(super) type Cell = [u64; WORDS];

/// What a hash table holds.
pub(super) trait Entry: Copy {
    /// How many are in a cell.
    const SLOTS: u32;

    fn hash(&self, seed: u64) -> Hash;
    /// The entry in this place of a cell, unless the place is free.
    fn load(cell: &Cell, slot: u32) -> Option<Self>;
    fn store(&self, cell: &mut Cell, slot: u32);
}

/// The lengths in use below a /32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) top: u32,
    /// Lengths 33-64, bit `64 - length`.
    pub(super) middle: u32,
    /// Lengths 65-128, bit `128 - length`.
    pub(super) long: u64,
}

impl Lengths {
    /// The entry of one prefix longer than 32.
    pub(super) fn of(address: u128, length: u8) -> Self {
        let (middle, long) = if length <= 64 {
            (1_u32.checked_shl(u32::from(64 - length)).unwrap_or(0), 0)
        } else {
            (0, lowest(length))
        };
        Self {
            top: (address >> 96) as u32,
            middle,
            long,
        }
    }

    /// As it is written.
    pub(super) fn words(self) -> [u64; 2] {
        [
            u64::from(self.top) | u64::from(self.middle) << 32,
            self.long,
        ]
    }
}

impl Entry for Lengths {
    const SLOTS: u32 = LENGTHS_SLOTS;

    fn hash(&self, seed: u64) -> Hash {
        Hash::of_top(seed, self.top)
    }

    fn load(cell: &Cell, slot: u32) -> Option<Self> {
        let (first, long) = (word(cell, 2 * slot), word(cell, 2 * slot + 1));
        (first != 0 || long != 0).then_some(Self {
            top: first as u32,
            middle: (first >> 32) as u32,
            long,
        })
    }

    fn store(&self, cell: &mut Cell, slot: u32) {
        let [first, long] = self.words();
        set(cell, 2 * slot, first);
        set(cell, 2 * slot + 1, long);
    }
}

/// A prefix of length 17-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) high: u64,
    pub(super) length: u8,
    pub(super) class: Class,
}

impl Entry for Short {
    const SLOTS: u32 = SHORT_SLOTS;

    fn hash(&self, seed: u64) -> Hash {
        Hash::of_short(seed, self.high, lowest(self.length))
    }

    fn load(cell: &Cell, slot: u32) -> Option<Self> {
        let (length, class) = mark(cell, slot)?;
        Some(Self {
            high: word(cell, slot),
            length,
            class,
        })
    }

    fn store(&self, cell: &mut Cell, slot: u32) {
        set(cell, slot, self.high);
        set_mark(cell, slot, self.length, self.class);
    }
}

/// A prefix of length 65-128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Long {
    pub(super) high: u64,
    pub(super) low: u64,
    pub(super) length: u8,
    pub(super) class: Class,
}

impl Entry for Long {
    const SLOTS: u32 = LONG_SLOTS;

    fn hash(&self, seed: u64) -> Hash {
        let half = Hash::half_of_long(seed, self.high);
        Hash::of_long(half, self.low, lowest(self.length))
    }

    fn load(cell: &Cell, slot: u32) -> Option<Self> {
        let (length, class) = mark(cell, slot)?;
        Some(Self {
            high: word(cell, 2 * slot),
            low: word(cell, 2 * slot + 1),
            length,
            class,
        })
    }

    fn store(&self, cell: &mut Cell, slot: u32) {
        set(cell, 2 * slot, self.high);
        set(cell, 2 * slot + 1, self.low);
        set_mark(cell, slot, self.length, self.class);
    }
}

/// The lowest bit that belongs to a prefix, in the half of the address where the prefix ends.
pub(super) fn lowest(length: u8) -> u64 {
    1 << (length.wrapping_neg() & 63)
}

/// The word and the shift of a place's length and class.
pub(super) fn mark_at(slot: u32) -> (u32, u32) {
    (MARKS + slot / 4, slot % 4 * 16)
}

fn mark(cell: &Cell, slot: u32) -> Option<(u8, Class)> {
    let (index, shift) = mark_at(slot);
    let mark = word(cell, index) >> shift;
    (mark & 0xff != 0).then_some((mark as u8, Class((mark >> 8) as u8)))
}

fn set_mark(cell: &mut Cell, slot: u32, length: u8, class: Class) {
    let (index, shift) = mark_at(slot);
    let others = word(cell, index) & !(0xffff << shift);
    let mark = u64::from(length) | u64::from(class.0) << 8;
    set(cell, index, others | mark << shift);
}

fn word(cell: &Cell, index: u32) -> u64 {
    cell.get(index as usize).copied().unwrap_or(0)
}

fn set(cell: &mut Cell, index: u32, value: u64) {
    if let Some(word) = cell.get_mut(index as usize) {
        *word = value;
    }
}
