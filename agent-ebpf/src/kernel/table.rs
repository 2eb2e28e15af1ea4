//! The tables that give a source its class.
//!
//! Each size of a table has an outer map of its own, since the kernel inlines lookups only into maps of one known size; and each has a
//! function of its own, so that the compiler does not join the lookups of several maps into one that the kernel can't inline.

use agent_ebpf::{
    class::Class,
    layout::{Active, LPM_TEMPLATE, Place, SLOTS, flags4, flags6},
    packet::{Source, address},
    table::{
        Cells, v4,
        v6::{self, Hash, Header},
    },
};
use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};

/// Where the class of a source is looked up.
pub(super) trait Lookup {
    fn class_of(active: Active, source: Source) -> Class;
}

type Inner<const WORDS: usize, const CELLS: usize, const FLAGS: usize> =
    Array<[u64; WORDS], CELLS, FLAGS>;

struct Table<'a, const WORDS: usize, const CELLS: usize, const FLAGS: usize>(
    &'a Inner<WORDS, CELLS, FLAGS>,
);

impl<'a, const WORDS: usize, const CELLS: usize, const FLAGS: usize> Cells<WORDS>
    for Table<'a, WORDS, CELLS, FLAGS>
{
    type Cell = &'a [u64; WORDS];

    #[inline(always)]
    fn cell(&self, index: u32) -> Option<Self::Cell> {
        self.0.get(index)
    }
}

/// Entries of the template: 1 where the maps may have any size, see [`flags4`].
const fn template(cells: u32, flags: u32) -> usize {
    if flags & agent_ebpf::layout::ANY_SIZE != 0 {
        1
    } else {
        cells as usize
    }
}

macro_rules! in_table4 {
    ($map:ident, $size:literal, $slot:expr, $address:expr) => {
        match $map.get($slot) {
            Some(table) => v4::class_of(&Table(table), $size, $address.to_be_bytes())
                .0
                .into(),
            None => Class::NOT_LISTED.0.into(),
        }
    };
}

macro_rules! map4 {
    ($map:ident, $size:literal) => {
        #[btf_map]
        static $map: ArrayOfMaps<
            Inner<
                { v4::WORDS },
                { template(v4::CELLS[$size], flags4($size)) },
                { flags4($size) as usize },
            >,
            { SLOTS as usize },
        > = ArrayOfMaps::new();
    };
}

macro_rules! table4 {
    ($map:ident, $lookup:ident, $size:literal) => {
        map4!($map, $size);

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $lookup(slot: u32, address: u32) -> u32 {
            in_table4!($map, $size, slot, address)
        }
    };
}

macro_rules! table6 {
    ($map:ident, $lookup:ident, $short:ident, $long:ident, $size:literal) => {
        #[btf_map]
        static $map: ArrayOfMaps<
            Inner<
                { v6::WORDS },
                { template(v6::CELLS[$size], flags6($size)) },
                { flags6($size) as usize },
            >,
            { SLOTS as usize },
        > = ArrayOfMaps::new();

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $lookup(slot: u32, high: u64, low: u64) -> u32 {
            match $map.get(slot) {
                Some(table) => v6::class_by(
                    &Table(table),
                    [high, low],
                    |_, hash, key, lowest| found($short(slot, hash.to_word(), key, lowest)),
                    |_, hash, key, lowest| found($long(slot, hash.to_word(), high, key, lowest)),
                )
                .0
                .into(),
                None => Class::NOT_LISTED.0.into(),
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $short(slot: u32, hash: u64, high: u64, lowest: u64) -> u32 {
            let find = |table| {
                let table = Table(table);
                let header = Header::read(&table.cell(0)?);
                v6::find_short(&table, &header, Hash::from_word(hash), high, lowest)
            };
            result($map.get(slot).and_then(find))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $long(slot: u32, hash: u64, high: u64, low: u64, lowest: u64) -> u32 {
            let find = |table| {
                let table = Table(table);
                let header = Header::read(&table.cell(0)?);
                v6::find_long(&table, &header, Hash::from_word(hash), [high, low], lowest)
            };
            result($map.get(slot).and_then(find))
        }
    };
}

map4!(TABLE4_0, 0);
table4!(TABLE4_1, table4_1, 1);
table4!(TABLE4_2, table4_2, 2);
table4!(TABLE4_3, table4_3, 3);
table4!(TABLE4_4, table4_4, 4);
table6!(TABLE6_0, table6_0, table6_0_short, table6_0_long, 0);
table6!(TABLE6_1, table6_1, table6_1_short, table6_1_long, 1);
table6!(TABLE6_2, table6_2, table6_2_short, table6_2_long, 2);
table6!(TABLE6_3, table6_3, table6_3_short, table6_3_long, 3);

const NOT_FOUND: u32 = 1 << 8;

#[inline(always)]
fn found(result: u32) -> Option<Class> {
    if result < NOT_FOUND {
        Some(Class(result as u8))
    } else {
        None
    }
}

#[inline(always)]
fn result(class: Option<Class>) -> u32 {
    match class {
        Some(class) => class.0.into(),
        None => NOT_FOUND,
    }
}

/// The compiled tables.
pub(super) struct Compiled;

impl Lookup for Compiled {
    #[inline(always)]
    fn class_of(active: Active, source: Source) -> Class {
        let class = match source {
            Source::V4(address) => {
                let Place { size, slot } = active.v4();
                match size {
                    // The most common size costs no call.
                    0 => in_table4!(TABLE4_0, 0, slot, address),
                    1 => table4_1(slot, address),
                    2 => table4_2(slot, address),
                    3 => table4_3(slot, address),
                    _ => table4_4(slot, address),
                }
            }
            Source::V6(high, low) => {
                let Place { size, slot } = active.v6();
                match size {
                    0 => table6_0(slot, high, low),
                    1 => table6_1(slot, high, low),
                    2 => table6_2(slot, high, low),
                    _ => table6_3(slot, high, low),
                }
            }
        };
        Class(class as u8)
    }
}

#[btf_map]
static LPM4: ArrayOfMaps<LpmTrie<[u8; 4], u32, { LPM_TEMPLATE as usize }>, { SLOTS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
static LPM6: ArrayOfMaps<LpmTrie<[u8; 16], u32, { LPM_TEMPLATE as usize }>, { SLOTS as usize }> =
    ArrayOfMaps::new();

/// The kernel's own tries, whose values are classes.
pub(super) struct Lpm;

impl Lookup for Lpm {
    #[inline(always)]
    fn class_of(active: Active, source: Source) -> Class {
        let class = match source {
            Source::V4(address) => lpm4(active.v4().slot, address),
            Source::V6(high, low) => lpm6(active.v6().slot, high, low),
        };
        Class(class as u8)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lpm4(slot: u32, address: u32) -> u32 {
    match LPM4.get(slot) {
        Some(trie) => match trie.get(&Key::new(32, address.to_be_bytes())) {
            Some(class) => *class,
            None => Class::NOT_LISTED.0.into(),
        },
        None => Class::NOT_LISTED.0.into(),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lpm6(slot: u32, high: u64, low: u64) -> u32 {
    match LPM6.get(slot) {
        Some(trie) => match trie.get(&Key::new(128, address(high, low))) {
            Some(class) => *class,
            None => Class::NOT_LISTED.0.into(),
        },
        None => Class::NOT_LISTED.0.into(),
    }
}
