//! Changes to a table that packets are judged by.

use std::cmp::Reverse;

use agent_ebpf::{
    class::Class,
    table::v6::{HAS_LONGER, Hash, ROOT, Region, WORDS},
};

use super::{
    Change6, Table6,
    build::root_bit,
    entry::{Cell, Entry, Lengths, Long, Short, mark_at},
};
use crate::table::{Memory, NeedsRebuild, Words};

/// The length of the widest prefix that is edited in place.
pub(crate) const SHORTEST_EDIT: u8 = 17;
/// Prefixes that change at once.
const MOST_CHANGES: usize = 1024;

/// With fewer bits of filter for a prefix, too many lookups would pass it in vain.
const LEAST_FILTER_BITS: usize = 8;

/// A place in a hash table.
type Place = (u32, u32);

/// A prefix that is new to the table, and the places kept for it.
struct Arrival {
    place: Place,
    /// Set when its /32 is new, too.
    lengths: Option<Place>,
}

impl<M: Memory> Table6<M> {
    /// Changes prefixes. In force when this returns; a packet that comes meanwhile sees the old or the new class of its source.
    ///
    /// Calls `wait` when the order of two steps matters to a lookup, or places must be reused; it returns when all
    /// lookups are over that began before.
    ///
    /// # Errors
    /// If the table must be built anew; then nothing has changed.
    pub fn edit(
        &mut self,
        changes: &[Change6],
        wait: &mut dyn FnMut(),
    ) -> Result<(), NeedsRebuild> {
        let is_too_wide = changes.iter().any(|change| change.length < SHORTEST_EDIT);
        if is_too_wide || changes.len() > MOST_CHANGES {
            return Err(NeedsRebuild::TooWide);
        }
        let mut setting: Vec<(&Change6, Class)> = Vec::new();
        let mut removing: Vec<&Change6> = Vec::new();
        for change in changes {
            match change.class {
                Some(class) => setting.push((change, class)),
                None => removing.push(change),
            }
        }
        // A lookup goes from long to short prefixes. So must what it is to find there; and what it is to miss, the other way.
        setting.sort_by_key(|(change, _)| Reverse(change.length));
        removing.sort_by_key(|change| change.length);
        if (self.prefixes + setting.len()) * LEAST_FILTER_BITS > self.filter_bits() {
            return Err(NeedsRebuild::Full);
        }
        let arrivals = self.keep_places(&setting, wait)?;

        let mut new: Vec<&Change6> = Vec::new();
        for ((change, class), arrival) in setting.iter().zip(arrivals) {
            if new.iter().any(|narrower| change.covers(narrower)) {
                // A lookup may have missed the narrower one before it was there, and must not see this one.
                wait();
                new.clear();
            }
            match arrival {
                Some(arrival) => {
                    self.add(change, *class, &arrival);
                    new.push(change);
                }
                None => self.set_class(change, *class),
            }
        }
        if !setting.is_empty() && !removing.is_empty() {
            wait();
        }
        for change in removing {
            if let Some(place) = self.find(change) {
                self.publish_mark(place, 0);
                self.retired.insert(place);
                self.prefixes = self.prefixes.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn filter_bits(&self) -> usize {
        self.header.filter.cells as usize * WORDS * 64
    }

    /// A place for each prefix that is not in the table yet.
    fn keep_places(
        &mut self,
        setting: &[(&Change6, Class)],
        wait: &mut dyn FnMut(),
    ) -> Result<Vec<Option<Arrival>>, NeedsRebuild> {
        loop {
            let mut kept: Vec<Place> = Vec::new();
            let mut kept_lengths: Vec<(u32, Place)> = Vec::new();
            let mut arrivals = Vec::with_capacity(setting.len());
            let mut crowded = None;
            for (change, _) in setting {
                if self.find(change).is_some() {
                    arrivals.push(None);
                    continue;
                }
                let Some(place) = self.free_place(change, &kept) else {
                    crowded = Some(**change);
                    break;
                };
                kept.push(place);
                let lengths = if change.length > 32 {
                    match self.place_for_lengths(change, &mut kept_lengths) {
                        Some(lengths) => lengths,
                        None => return Err(NeedsRebuild::Full),
                    }
                } else {
                    None
                };
                arrivals.push(Some(Arrival { place, lengths }));
            }
            let Some(crowded) = crowded else {
                return Ok(arrivals);
            };
            if self.has_retired(&crowded) {
                wait();
                self.retired.clear();
            } else if !self.make_room(&crowded, wait) {
                return Err(NeedsRebuild::Full);
            }
        }
    }

    /// Where a prefix is.
    fn find(&self, change: &Change6) -> Option<Place> {
        self.places(change)
            .find(|place| self.is_at(change, *place, Some(change.length)))
    }

    /// A free place for a prefix; best the one that it had before.
    fn free_place(&self, change: &Change6, kept: &[Place]) -> Option<Place> {
        let is_free = |place: &Place| self.length_at(*place) == 0 && !kept.contains(place);
        let own = |place: &Place| is_free(place) && self.is_at(change, *place, None);
        self.places(change).find(own).or_else(|| {
            self.places(change)
                .find(|place| is_free(place) && !self.retired.contains(place))
        })
    }

    fn has_retired(&self, change: &Change6) -> bool {
        self.places(change)
            .any(|place| self.retired.contains(&place))
    }

    fn places(&self, change: &Change6) -> impl Iterator<Item = Place> {
        let slots = slots(change.length);
        change
            .hash(self.header.seed)
            .buckets(self.region(change.length))
            .into_iter()
            .flat_map(move |cell| (0..slots).map(move |slot| (cell, slot)))
    }

    fn region(&self, length: u8) -> Region {
        if length <= 64 {
            self.header.short
        } else {
            self.header.long
        }
    }

    /// Whether the place holds the prefix's address, and this length if one is given.
    fn is_at(&self, change: &Change6, (cell, slot): Place, length: Option<u8>) -> bool {
        let words = self.words();
        let same_address = if change.length <= 64 {
            words.load(cell, slot) == change.high()
        } else {
            words.load(cell, 2 * slot) == change.high()
                && words.load(cell, 2 * slot + 1) == change.address as u64
        };
        same_address && length.is_none_or(|length| self.length_at((cell, slot)) == length)
    }

    /// The length of the prefix in a place; 0 for a free one.
    fn length_at(&self, (cell, slot): Place) -> u8 {
        let (word, shift) = mark_at(slot);
        (self.words().load(cell, word) >> shift) as u8
    }

    /// Where the lengths of the prefix's /32 go if it has none yet: `Some(None)` if it has. Nothing if there is no room.
    fn place_for_lengths(
        &self,
        change: &Change6,
        kept: &mut Vec<(u32, Place)>,
    ) -> Option<Option<Place>> {
        let lengths = Lengths::of(change.address, change.length);
        if self.find_lengths(lengths.top).is_some()
            || kept.iter().any(|(top, _)| *top == lengths.top)
        {
            return Some(None);
        }
        let words = self.words();
        let place = self.lengths_places(lengths.top).find(|place| {
            Lengths::load(&words.load_cell(place.0), place.1).is_none()
                && !kept.iter().any(|(_, other)| other == place)
        })?;
        kept.push((lengths.top, place));
        Some(Some(place))
    }

    fn lengths_places(&self, top: u32) -> impl Iterator<Item = Place> {
        Hash::of_top(self.header.seed, top)
            .buckets(self.header.lengths)
            .into_iter()
            .flat_map(|cell| (0..Lengths::SLOTS).map(move |slot| (cell, slot)))
    }

    fn find_lengths(&self, top: u32) -> Option<(Place, Lengths)> {
        let words = self.words();
        self.lengths_places(top).find_map(|place| {
            let lengths = Lengths::load(&words.load_cell(place.0), place.1)?;
            (lengths.top == top).then_some((place, lengths))
        })
    }

    /// Writes a prefix, then what leads to it.
    fn add(&mut self, change: &Change6, class: Class, arrival: &Arrival) {
        let words = Words::<WORDS>(self.memory.words());
        let (cell, slot) = arrival.place;
        if change.length <= 64 {
            words.publish(cell, slot, change.high());
        } else {
            words.publish(cell, 2 * slot, change.high());
            words.publish(cell, 2 * slot + 1, change.address as u64);
        }
        self.publish_mark(arrival.place, mark(change.length, class));
        self.retired.remove(&arrival.place);

        let words = Words::<WORDS>(self.memory.words());
        let hash = change.hash(self.header.seed);
        let (cell, word) = hash.filter_word(self.header.filter);
        let word = word % WORDS as u32;
        words.publish(cell, word, words.load(cell, word) | hash.filter_bits());
        if change.length > 32 {
            self.add_length(change, arrival.lengths);
        }
        let entry = (change.address >> 112) as u32;
        let (cell, word, shift) = (ROOT + entry / 16, entry / 2 % 8, entry % 2 * 32);
        let bit = if change.length > 32 {
            HAS_LONGER
        } else {
            root_bit(change.length)
        };
        words.publish(cell, word, words.load(cell, word) | u64::from(bit) << shift);
        self.prefixes += 1;
    }

    fn add_length(&self, change: &Change6, place: Option<Place>) {
        let words = self.words();
        let mut lengths = Lengths::of(change.address, change.length);
        let place = match self.find_lengths(lengths.top) {
            Some((place, known)) => {
                lengths.middle |= known.middle;
                lengths.long |= known.long;
                Some(place)
            }
            None => place,
        };
        if let Some((cell, slot)) = place {
            let [first, long] = lengths.words();
            words.publish(cell, 2 * slot + 1, long);
            words.publish(cell, 2 * slot, first);
        }
    }

    fn set_class(&self, change: &Change6, class: Class) {
        if let Some(place) = self.find(change) {
            self.publish_mark(place, mark(change.length, class));
        }
    }

    fn publish_mark(&self, (cell, slot): Place, mark: u64) {
        let words = self.words();
        let (word, shift) = mark_at(slot);
        let others = words.load(cell, word) & !(0xffff << shift);
        words.publish(cell, word, others | mark << shift);
    }

    /// Frees a place for a prefix whose cells are full, by moving another prefix to its second cell.
    fn make_room(&mut self, change: &Change6, wait: &mut dyn FnMut()) -> bool {
        let moved = if change.length <= 64 {
            self.move_one::<Short>(change, wait)
        } else {
            self.move_one::<Long>(change, wait)
        };
        moved.is_some()
    }

    fn move_one<E: Entry>(&mut self, change: &Change6, wait: &mut dyn FnMut()) -> Option<()> {
        let region = self.region(change.length);
        let seed = self.header.seed;
        let (from, entry, to) = self.places(change).find_map(|from| {
            let entry = E::load(&self.words().load_cell(from.0), from.1)?;
            let to = entry
                .hash(seed)
                .buckets(region)
                .into_iter()
                .filter(|cell| *cell != from.0)
                .flat_map(|cell| (0..E::SLOTS).map(move |slot| (cell, slot)))
                .find(|to| self.length_at(*to) == 0 && !self.retired.contains(to))?;
            Some((from, entry, to))
        })?;
        let words = self.words();
        let mut cell: Cell = words.load_cell(to.0);
        entry.store(&mut cell, to.1);
        for (index, value) in (0..).zip(&cell) {
            // Ascending: lengths and classes come after addresses.
            words.publish(to.0, index, *value);
        }
        // A lookup may have looked at the new place before, and must still find the prefix in the old one.
        wait();
        self.publish_mark(from, 0);
        // And one that has compared the address there must not read another prefix's class.
        wait();
        self.retired.clear();
        Some(())
    }
}

impl Change6 {
    fn high(&self) -> u64 {
        (self.address >> 64) as u64
    }

    fn covers(&self, other: &Self) -> bool {
        let common = (self.address ^ other.address).leading_zeros();
        self.length <= other.length && common >= u32::from(self.length)
    }

    fn hash(&self, seed: u64) -> Hash {
        // The hash does not depend on the class.
        let class = Class::NOT_LISTED;
        let (high, length) = (self.high(), self.length);
        if length <= 64 {
            Short {
                high,
                length,
                class,
            }
            .hash(seed)
        } else {
            Long {
                high,
                low: self.address as u64,
                length,
                class,
            }
            .hash(seed)
        }
    }
}

fn slots(length: u8) -> u32 {
    if length <= 64 {
        Short::SLOTS
    } else {
        Long::SLOTS
    }
}

fn mark(length: u8, class: Class) -> u64 {
    u64::from(length) | u64::from(class.0) << 8
}
