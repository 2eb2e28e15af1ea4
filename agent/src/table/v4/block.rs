//! What a /24 holds, and how the 64 of a block are written.

use agent_ebpf::{
    class::Class,
    table::v4::{BASES, CLASS_LEAF_CELLS, FIRST_INDEX, FULL, PARTIAL, SPECIAL, WORDS, rank},
};

use crate::table::Words;

/// The /24s of a block.
pub(super) const BLOCK: usize = 64;

/// The classes of the addresses of one /24, in the one form there is for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// All the same.
    Uniform(Class),
    /// Allowed or not listed, a bit for each address; both occur.
    Allowed([u64; WORDS]),
    /// A class for each address; not all the same, and not all of the plain two.
    Classes(Box<[u8; 256]>),
}

impl Content {
    fn is_plain(class: Class) -> bool {
        class == Class::ALLOWED || class == Class::NOT_LISTED
    }

    /// Gives the addresses `first..=last` of the /24 a class. [`Content::normalise`] must follow.
    pub(super) fn paint(&mut self, first: u8, last: u8, class: Class) {
        if (first, last) == (0, u8::MAX) {
            *self = Self::Uniform(class);
            return;
        }
        if let Self::Uniform(whole) = *self {
            if whole == class {
                return;
            }
            *self = if Self::is_plain(whole) && Self::is_plain(class) {
                Self::Allowed([if whole == Class::ALLOWED { u64::MAX } else { 0 }; WORDS])
            } else {
                Self::Classes(Box::new([whole.0; 256]))
            };
        }
        if let Self::Allowed(bits) = self
            && !Self::is_plain(class)
        {
            *self = Self::Classes(bytes_of(bits));
        }
        match self {
            Self::Allowed(bits) => {
                for (word, mask) in bits.iter_mut().zip(masks(first, last)) {
                    if class == Class::ALLOWED {
                        *word |= mask;
                    } else {
                        *word &= !mask;
                    }
                }
            }
            Self::Classes(classes) => {
                if let Some(range) = classes.get_mut(usize::from(first)..=usize::from(last)) {
                    range.fill(class.0);
                }
            }
            Self::Uniform(_) => {}
        }
    }

    /// Brings it into the form that its enum promises.
    pub(super) fn normalise(&mut self) {
        if let Self::Classes(classes) = self {
            let [first, ..] = **classes;
            if classes.iter().all(|class| *class == first) {
                *self = Self::Uniform(Class(first));
            } else if classes.iter().all(|class| Self::is_plain(Class(*class))) {
                *self = Self::Allowed(bits_of(classes));
            }
        }
        match self {
            Self::Allowed([0, 0, 0, 0]) => *self = Self::Uniform(Class::NOT_LISTED),
            Self::Allowed([u64::MAX, u64::MAX, u64::MAX, u64::MAX]) => {
                *self = Self::Uniform(Class::ALLOWED);
            }
            Self::Allowed(_) | Self::Classes(_) | Self::Uniform(_) => {}
        }
    }
}

/// The bits `first..=last` of 256, by words.
pub(super) fn masks(first: u8, last: u8) -> [u64; WORDS] {
    std::array::from_fn(|word| {
        let start = 64 * word as u32;
        let (first, last) = (u32::from(first).max(start), u32::from(last).min(start + 63));
        if first > last {
            return 0;
        }
        (u64::MAX >> (63 - (last - first))) << (first - start)
    })
}

fn bytes_of(bits: &[u64; WORDS]) -> Box<[u8; 256]> {
    let mut bytes = Box::new([Class::NOT_LISTED.0; 256]);
    for (bytes, word) in bytes.chunks_exact_mut(64).zip(bits) {
        for (bit, byte) in bytes.iter_mut().enumerate() {
            if word >> bit & 1 != 0 {
                *byte = Class::ALLOWED.0;
            }
        }
    }
    bytes
}

fn bits_of(bytes: &[u8; 256]) -> [u64; WORDS] {
    let mut bits = [0; WORDS];
    for (word, bytes) in bits.iter_mut().zip(bytes.chunks_exact(64)) {
        for (bit, byte) in bytes.iter().enumerate() {
            *word |= u64::from(*byte == Class::ALLOWED.0) << bit;
        }
    }
    bits
}

/// The cells of a class leaf.
pub(super) fn class_leaf(bytes: &[u8; 256]) -> [[u64; WORDS]; CLASS_LEAF_CELLS as usize] {
    let words = bytes.as_chunks::<8>().0;
    std::array::from_fn(|cell| {
        std::array::from_fn(|word| {
            words
                .get(cell * WORDS + word)
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        })
    })
}

/// Where new cells go.
pub(super) trait Sink {
    /// The first of so many consecutive cells, at most 64.
    fn allocate(&mut self, cells: u32) -> Option<u32>;
    fn put(&mut self, cell: u32, words: &[u64; WORDS]);
}

/// Writes the leaves, descriptors and class leaves of a block into new cells; gives its own words, or nothing if there is no room.
pub(super) fn encode(contents: &[Content], sink: &mut impl Sink) -> Option<[u64; WORDS]> {
    let (mut full, mut partial, mut special) = (0_u64, 0_u64, 0_u64);
    for (bit, content) in contents.iter().enumerate() {
        match content {
            Content::Uniform(Class::NOT_LISTED) => {}
            Content::Uniform(Class::ALLOWED) => full |= 1 << bit,
            Content::Allowed(_) => partial |= 1 << bit,
            Content::Uniform(_) | Content::Classes(_) => special |= 1 << bit,
        }
    }
    let mut bases = 0;
    if partial != 0 {
        let first = sink.allocate(partial.count_ones())?;
        bases |= u64::from(first);
        let leaves = contents.iter().filter_map(|content| match content {
            Content::Allowed(bits) => Some(bits),
            Content::Uniform(_) | Content::Classes(_) => None,
        });
        for (cell, bits) in (first..).zip(leaves) {
            sink.put(cell, bits);
        }
    }
    if special != 0 {
        let first = sink.allocate(descriptor_cells(special))?;
        bases |= u64::from(first) << 32;
        let specials = contents.iter().filter_map(|content| match content {
            Content::Uniform(class) if Content::is_plain(*class) => None,
            Content::Allowed(_) => None,
            Content::Uniform(class) => Some(Some(u32::from(class.0))),
            Content::Classes(bytes) => Some(put_class_leaf(bytes, sink)),
        });
        let descriptors = specials.collect::<Option<Vec<u32>>>()?;
        put_descriptors(&descriptors, first, sink);
    }
    let mut words = [0; WORDS];
    for (index, value) in [
        (FULL, full),
        (PARTIAL, partial),
        (SPECIAL, special),
        (BASES, bases),
    ] {
        if let Some(word) = words.get_mut(index as usize) {
            *word = value;
        }
    }
    Some(words)
}

/// Writes descriptors into the cells from `first`.
pub(super) fn put_descriptors(descriptors: &[u32], first: u32, sink: &mut impl Sink) {
    for (cell, descriptors) in (first..).zip(descriptors.chunks(2 * WORDS)) {
        let mut words = [0; WORDS];
        for (word, pair) in words.iter_mut().zip(descriptors.chunks(2)) {
            *word = pair
                .iter()
                .rev()
                .fold(0, |word, descriptor| word << 32 | u64::from(*descriptor));
        }
        sink.put(cell, &words);
    }
}

/// Writes a class leaf into new cells, and gives the first.
pub(super) fn put_class_leaf(bytes: &[u8; 256], sink: &mut impl Sink) -> Option<u32> {
    let leaf = sink.allocate(CLASS_LEAF_CELLS)?;
    for (cell, words) in (leaf..).zip(class_leaf(bytes)) {
        sink.put(cell, &words);
    }
    Some(leaf)
}

/// Cells that hold the descriptors of so many special /24s.
pub(super) fn descriptor_cells(special: u64) -> u32 {
    special.count_ones().div_ceil(2 * WORDS as u32)
}

/// A block as it is written in a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) full: u64,
    pub(super) partial: u64,
    pub(super) special: u64,
    bases: u64,
}

/// A descriptor in a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) cell: u32,
    pub(super) word: u32,
    /// Whether it is the upper half of the word.
    pub(super) is_high: bool,
    pub(super) value: u32,
}

impl Block {
    pub(super) fn load(words: &Words<'_, WORDS>, cell: u32) -> Self {
        Self {
            full: words.load(cell, FULL),
            partial: words.load(cell, PARTIAL),
            special: words.load(cell, SPECIAL),
            bases: words.load(cell, BASES),
        }
    }

    /// The first leaf.
    pub(super) fn leaves(self) -> u32 {
        self.bases as u32
    }

    /// The first cell of descriptors.
    pub(super) fn descriptors(self) -> u32 {
        (self.bases >> 32) as u32
    }

    /// The leaf of a /24 that has one.
    pub(super) fn leaf(self, bit: u32) -> u32 {
        self.leaves() + rank(self.partial, bit)
    }

    /// The descriptor of a /24 that has one.
    pub(super) fn descriptor(self, words: &Words<'_, WORDS>, bit: u32) -> Descriptor {
        let rank = rank(self.special, bit);
        let (cell, word, is_high) = (self.descriptors() + rank / 8, rank / 2 % 4, rank & 1 != 0);
        let both = words.load(cell, word);
        Descriptor {
            cell,
            word,
            is_high,
            value: if is_high { both >> 32 } else { both } as u32,
        }
    }

    /// What the `bit`th /24 holds.
    pub(super) fn content(self, words: &Words<'_, WORDS>, bit: u32) -> Content {
        if self.special >> bit & 1 != 0 {
            let descriptor = self.descriptor(words, bit).value;
            if descriptor < FIRST_INDEX {
                return Content::Uniform(Class(descriptor as u8));
            }
            let mut bytes = Box::new([0; 256]);
            let cells = (descriptor..).map(|cell| words.load_cell(cell));
            for (bytes, cell) in bytes.chunks_exact_mut(4 * 8).zip(cells) {
                for (bytes, word) in bytes.chunks_exact_mut(8).zip(cell) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
            Content::Classes(bytes)
        } else if self.full >> bit & 1 != 0 {
            Content::Uniform(Class::ALLOWED)
        } else if self.partial >> bit & 1 != 0 {
            Content::Allowed(words.load_cell(self.leaf(bit)))
        } else {
            Content::Uniform(Class::NOT_LISTED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_its_ends_and_not_their_neighbours() {
        for (first, last) in [(0, 0), (255, 255), (63, 64), (1, 254), (0, 255), (128, 191)] {
            let masks = masks(first, last);
            for bit in 0..=u8::MAX {
                let is_set = masks[usize::from(bit / 64)] >> (bit % 64) & 1 != 0;
                assert_eq!(
                    is_set,
                    (first..=last).contains(&bit),
                    "{bit} of {first}-{last}"
                );
            }
        }
    }

    #[test]
    fn painting_back_gives_the_first_form() {
        let before = Content::Uniform(Class::ALLOWED);
        for class in [Class::NOT_LISTED, Class::BANNED] {
            let mut content = before.clone();
            content.paint(7, 7, class);
            content.normalise();
            assert_ne!(content, before);
            content.paint(7, 7, Class::ALLOWED);
            content.normalise();
            assert_eq!(content, before);
        }
    }
}
