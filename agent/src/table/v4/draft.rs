//! New cells of an edit, written while lookups still take the old ones.

use std::ops::RangeInclusive;

use agent_ebpf::{
    class::Class,
    table::v4::{FULL, NODE_CELLS, PARTIAL, SPECIAL, WORDS},
};

use super::block::{
    BLOCK, Block, Content, Sink, descriptor_cells, encode, put_class_leaf, put_descriptors,
};
use crate::table::{Words, space::Space};

/// New cells of an edit that is not yet in force.
pub(super) struct Draft<'a> {
    words: Words<'a, WORDS>,
    space: &'a mut Space,
    taken: Vec<(u32, u32)>,
}

impl Sink for Draft<'_> {
    fn allocate(&mut self, cells: u32) -> Option<u32> {
        let first = self.space.allocate(cells)?;
        self.taken.push((first, cells));
        Some(first)
    }

    fn put(&mut self, cell: u32, words: &[u64; WORDS]) {
        self.words.store_cell(cell, words);
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(words: Words<'a, WORDS>, space: &'a mut Space) -> Self {
        Self {
            words,
            space,
            taken: Vec::new(),
        }
    }

    /// As `allocate`, but of no cells it gives any.
    fn allocate_some(&mut self, cells: u32) -> Option<u32> {
        if cells == 0 {
            Some(0)
        } else {
            self.allocate(cells)
        }
    }

    /// Gives the cells back.
    pub(super) fn discard(self) {
        for (first, cells) in self.taken {
            self.space.free(first, cells);
        }
    }
}

/// The word of a block that has the bit of a /24 with this content; [`FULL`] also for one that has none.
pub(super) fn form(content: &Content) -> u32 {
    match content {
        Content::Uniform(Class::NOT_LISTED | Class::ALLOWED) => FULL,
        Content::Allowed(_) => PARTIAL,
        Content::Uniform(_) | Content::Classes(_) => SPECIAL,
    }
}

/// The new root entry of a /16 of which one /24 gets new content. Nothing if there is no room.
pub(super) fn draft_one(
    draft: &mut Draft<'_>,
    node: u32,
    index: u32,
    bit: u32,
    block: Block,
    new: &Content,
) -> Option<u32> {
    let this = 1 << bit;
    let (mut full, mut partial, mut special) = (
        block.full & !this,
        block.partial & !this,
        block.special & !this,
    );
    match form(new) {
        PARTIAL => partial |= this,
        SPECIAL => special |= this,
        _ if *new == Content::Uniform(Class::ALLOWED) => full |= this,
        _ => {}
    }
    let mut leaves = block.leaves();
    if partial != block.partial {
        leaves = draft.allocate_some(partial.count_ones())?;
        for (cell, bit) in (leaves..).zip(bits(partial)) {
            match new {
                Content::Allowed(bits) if this == 1 << bit => draft.put(cell, bits),
                Content::Uniform(_) | Content::Allowed(_) | Content::Classes(_) => {
                    let leaf = draft.words.load_cell(block.leaf(bit));
                    draft.put(cell, &leaf);
                }
            }
        }
    }
    let mut descriptors = block.descriptors();
    if special != block.special {
        let values = bits(special)
            .map(|bit| match new {
                Content::Uniform(class) if this == 1 << bit => Some(u32::from(class.0)),
                Content::Classes(bytes) if this == 1 << bit => put_class_leaf(bytes, draft),
                Content::Uniform(_) | Content::Allowed(_) | Content::Classes(_) => {
                    Some(block.descriptor(&draft.words, bit).value)
                }
            })
            .collect::<Option<Vec<u32>>>()?;
        descriptors = draft.allocate_some(descriptor_cells(special))?;
        put_descriptors(&values, descriptors, draft);
    }
    let bases = u64::from(leaves) | u64::from(descriptors) << 32;
    let mut blocks: [[u64; WORDS]; NODE_CELLS as usize] = [[0; WORDS]; NODE_CELLS as usize];
    for (other, words) in (0..).zip(&mut blocks) {
        *words = if other == index {
            [full, partial, special, bases]
        } else {
            draft.words.load_cell(node + other)
        };
    }
    let [first, ..] = &blocks;
    if let Some(class) = uniform_block(first)
        && blocks
            .iter()
            .all(|block| uniform_block(block) == Some(class))
    {
        return Some(u32::from(class.0));
    }
    let node = draft.allocate(NODE_CELLS)?;
    for (cell, block) in (node..).zip(&blocks) {
        draft.put(cell, block);
    }
    Some(node)
}

/// The numbers of the bits that are set, from the lowest.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit)
    })
}

/// The new root entry of a /16, its node drafted unless all addresses have one class. Nothing if there is no room.
pub(super) fn draft_node(
    draft: &mut Draft<'_>,
    old: u32,
    otherwise: Option<Class>,
    concerned: RangeInclusive<u32>,
    contents: &[Content],
) -> Option<u32> {
    let mut blocks = [[0; WORDS]; NODE_CELLS as usize];
    let mut uniform = uniform(contents);
    let mut drafted = contents.chunks_exact(BLOCK);
    for (index, block) in (0..NODE_CELLS).zip(&mut blocks) {
        if concerned.contains(&index) {
            continue;
        }
        match otherwise {
            Some(class) => {
                if uniform != Some(class) {
                    uniform = None;
                }
            }
            None => {
                *block = draft.words.load_cell(old + index);
                if uniform != uniform_block(block) {
                    uniform = None;
                }
            }
        }
    }
    if let Some(class) = uniform {
        return Some(u32::from(class.0));
    }
    for (index, block) in (0..NODE_CELLS).zip(&mut blocks) {
        if concerned.contains(&index) {
            *block = encode(drafted.next()?, draft)?;
        } else if let Some(class) = otherwise {
            *block = encode(&vec![Content::Uniform(class); BLOCK], draft)?;
        }
    }
    let node = draft.allocate(NODE_CELLS)?;
    for (cell, block) in (node..).zip(&blocks) {
        draft.put(cell, block);
    }
    Some(node)
}

/// The one class of all these /24s.
fn uniform(contents: &[Content]) -> Option<Class> {
    let Content::Uniform(class) = contents.first()? else {
        return None;
    };
    contents
        .iter()
        .all(|content| *content == Content::Uniform(*class))
        .then_some(*class)
}

/// The one class of all addresses of a block, if it is one of the two plain ones.
fn uniform_block(block: &[u64; WORDS]) -> Option<Class> {
    match block {
        [0, 0, 0, _] => Some(Class::NOT_LISTED),
        [u64::MAX, 0, 0, _] => Some(Class::ALLOWED),
        _ => None,
    }
}
