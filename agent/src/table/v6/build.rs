//! From sorted prefixes to a table.

use agent_ebpf::table::v6::{
    CELL_BYTES, CELLS, HAS_LONGER, Hash, Header, ROOT, ROOT_CELLS, Region, WORDS,
};

use super::{
    Classed6, Plan6,
    entry::{Cell, Entry, Lengths, Long, Short},
};
use crate::table::{MIB, TooLarge};

/// Steps after which the search for a place gives up. At the loads here it never takes more than a few dozen.
const MOST_MOVES: u32 = 2_000;
/// How often a table is tried with another seed before the next size is taken.
const SEEDS: u64 = 4;

/// Compiles prefixes, sorted by address and then by length, each once. The seed should be random, so that nobody can choose
/// addresses for where they lie in the table.
///
/// # Errors
/// If they need more than the largest table.
pub fn plan(classed: &[Classed6], seed: u64) -> Result<Plan6, TooLarge> {
    let counts = Counts::of(classed);
    for (size, cells) in CELLS.into_iter().enumerate() {
        let Some(parts) = counts.parts(cells) else {
            continue;
        };
        for attempt in 0..SEEDS {
            let header = parts.header(seed.wrapping_add(attempt));
            if let Some(cells) = Image::new(header).fill(classed) {
                return Ok(Plan6 {
                    size,
                    header,
                    cells,
                    prefixes: counts.short + counts.long,
                });
            }
        }
    }
    Err(TooLarge {
        family: "IPv6",
        largest: CELLS.iter().max().unwrap_or(&0) / (MIB / CELL_BYTES as u32),
    })
}

/// Entries by hash table.
struct Counts {
    lengths: usize,
    short: usize,
    long: usize,
}

/// Cells of each part behind the root.
struct Parts {
    lengths: u32,
    filter: u32,
    short: u32,
    long: u32,
}

impl Counts {
    fn of(classed: &[Classed6]) -> Self {
        let mut counts = Self {
            lengths: 0,
            short: 0,
            long: 0,
        };
        let mut last = None;
        for prefix in classed {
            match prefix.length {
                0..=16 => continue,
                17..=64 => counts.short += 1,
                _ => counts.long += 1,
            }
            let top = prefix.address >> 96;
            if prefix.length > 32 && last != Some(top) {
                counts.lengths += 1;
                last = Some(top);
            }
        }
        counts
    }

    /// How a table with so many cells is divided, if that is enough.
    fn parts(&self, cells: u32) -> Option<Parts> {
        /// Cells of a part at least: so that a few edits always find room.
        const LEAST: f64 = 64.0;
        /// A part needs no more than so many times what it must have: denser tables use less of the cache.
        const MOST: f64 = 2.0;
        let at_load = |entries: usize, slots: u32, load: f64| {
            entries as f64 / f64::from(slots) / load + LEAST
        };
        let lengths = at_load(self.lengths, Lengths::SLOTS, 0.65);
        let filter = (self.short + self.long) as f64 * FILTER_BITS / (WORDS * 64) as f64 + LEAST;
        let short = at_load(self.short, Short::SLOTS, 0.75);
        let long = at_load(self.long, Long::SLOTS, 0.65);
        let available = f64::from(cells.saturating_sub(ROOT + ROOT_CELLS));
        let scale = available / (lengths + filter + short + long);
        let scaled = |part: f64| (part * scale.min(MOST)) as u32;
        (scale >= 1.0).then(|| Parts {
            lengths: scaled(lengths),
            filter: scaled(filter),
            short: scaled(short),
            long: scaled(long),
        })
    }
}

/// Bits of the filter for each prefix, at least: with four set, one lookup in some fifty passes in vain.
const FILTER_BITS: f64 = 12.0;

impl Parts {
    fn header(&self, seed: u64) -> Header {
        let mut first = ROOT + ROOT_CELLS;
        let mut region = |cells: u32| {
            let region = Region { first, cells };
            first += cells;
            region
        };
        Header {
            seed,
            lengths: region(self.lengths),
            filter: region(self.filter),
            short: region(self.short),
            long: region(self.long),
        }
    }
}

/// A table under construction.
struct Image {
    header: Header,
    cells: Vec<Cell>,
    root: Vec<u32>,
    lengths: Filling,
    short: Filling,
    long: Filling,
}

/// A hash table under construction.
struct Filling {
    region: Region,
    /// Entries of each cell.
    counts: Vec<u8>,
    moves: u32,
}

impl Image {
    fn new(header: Header) -> Self {
        let end = header.long.first + header.long.cells;
        Self {
            header,
            cells: vec![[0; WORDS]; end as usize],
            root: vec![0; 1 << 16],
            lengths: Filling::new(header.lengths),
            short: Filling::new(header.short),
            long: Filling::new(header.long),
        }
    }

    /// The finished cells; nothing if an entry found no place.
    fn fill(mut self, classed: &[Classed6]) -> Option<Vec<Cell>> {
        let seed = self.header.seed;
        let mut below: Option<Lengths> = None;
        for prefix in classed {
            self.lead(prefix);
            if prefix.length <= 16 {
                continue;
            }
            if prefix.length > 32 {
                let lengths = Lengths::of(prefix.address, prefix.length);
                match &mut below {
                    Some(below) if below.top == lengths.top => {
                        below.middle |= lengths.middle;
                        below.long |= lengths.long;
                    }
                    Some(_) | None => {
                        if let Some(done) = below.replace(lengths) {
                            self.lengths.place(&mut self.cells, seed, done)?;
                        }
                    }
                }
            }
            let high = (prefix.address >> 64) as u64;
            let hash = if prefix.length <= 64 {
                let entry = Short {
                    high,
                    length: prefix.length,
                    class: prefix.class,
                };
                self.short.place(&mut self.cells, seed, entry)?
            } else {
                let entry = Long {
                    high,
                    low: prefix.address as u64,
                    length: prefix.length,
                    class: prefix.class,
                };
                self.long.place(&mut self.cells, seed, entry)?
            };
            self.admit(hash);
        }
        if let Some(done) = below {
            self.lengths.place(&mut self.cells, seed, done)?;
        }
        self.finish()
    }

    /// Sets what the root says of a prefix.
    fn lead(&mut self, prefix: &Classed6) {
        let first = (prefix.address >> 112) as usize;
        let count = 1_usize << 16_u8.saturating_sub(prefix.length);
        for entry in self.root.iter_mut().skip(first).take(count) {
            match prefix.length {
                0..=16 => *entry = *entry & !0xff | u32::from(prefix.class.0),
                17..=32 => *entry |= root_bit(prefix.length),
                _ => *entry |= HAS_LONGER,
            }
        }
    }

    fn admit(&mut self, hash: Hash) {
        let (cell, word) = hash.filter_word(self.header.filter);
        if let Some(cell) = self.cells.get_mut(cell as usize)
            && let Some(word) = cell.get_mut(word as usize % WORDS)
        {
            *word |= hash.filter_bits();
        }
    }

    fn finish(mut self) -> Option<Vec<Cell>> {
        for (word, value) in self
            .cells
            .first_mut()?
            .iter_mut()
            .zip(self.header.to_words())
        {
            *word = value;
        }
        let entries = self.root.as_chunks::<2>().0.iter();
        let words = self.cells.get_mut(ROOT as usize..)?.as_flattened_mut();
        for (word, [low, high]) in words.iter_mut().zip(entries) {
            *word = u64::from(*low) | u64::from(*high) << 32;
        }
        Some(self.cells)
    }
}

/// The bit of a root entry for a length from 17 to 32.
pub(super) fn root_bit(length: u8) -> u32 {
    1 << (8 + 32_u8.saturating_sub(length))
}

impl Filling {
    fn new(region: Region) -> Self {
        Self {
            region,
            counts: vec![0; region.cells as usize],
            moves: 0,
        }
    }

    /// Puts an entry into the emptier of its cells; when both are full, another entry moves on from there, and so forth.
    fn place<E: Entry>(&mut self, cells: &mut [Cell], seed: u64, entry: E) -> Option<Hash> {
        let hash = entry.hash(seed);
        if self.put(cells, hash, entry) {
            return Some(hash);
        }
        let (mut homeless, mut buckets) = (entry, hash.buckets(self.region));
        for _ in 0..MOST_MOVES {
            self.moves = self
                .moves
                .wrapping_mul(0x9e37_79b1)
                .wrapping_add(0x7f4a_7c15);
            let [first, second] = buckets;
            let bucket = if self.moves >> 31 == 0 { first } else { second };
            let slot = (self.moves >> 8) % E::SLOTS;
            let cell = cells.get_mut(bucket as usize)?;
            let evicted = E::load(cell, slot)?;
            homeless.store(cell, slot);
            homeless = evicted;
            let hash = homeless.hash(seed);
            if self.put(cells, hash, homeless) {
                return Some(entry.hash(seed));
            }
            buckets = hash.buckets(self.region);
        }
        None
    }

    fn put<E: Entry>(&mut self, cells: &mut [Cell], hash: Hash, entry: E) -> bool {
        let [first, second] = hash.buckets(self.region);
        let count = |bucket: u32| {
            let at = bucket.wrapping_sub(self.region.first);
            self.counts.get(at as usize).copied().unwrap_or(u8::MAX)
        };
        let bucket = if count(second) < count(first) {
            second
        } else {
            first
        };
        let slot = u32::from(count(bucket));
        if slot >= E::SLOTS {
            return false;
        }
        let at = bucket.wrapping_sub(self.region.first);
        if let Some(count) = self.counts.get_mut(at as usize) {
            *count += 1;
        }
        if let Some(cell) = cells.get_mut(bucket as usize) {
            entry.store(cell, slot);
        }
        true
    }
}
