//! Changes to a table that packets are judged by.

use agent_ebpf::{
    class::Class,
    table::v4::{
        CLASS_LEAF_CELLS, FIRST_INDEX, FULL, NODE_CELLS, PARTIAL, SPECIAL, WORDS, cells_of,
    },
};

use super::{
    Classed4, Table4,
    block::{BLOCK, Block, Content, class_leaf, descriptor_cells, put_class_leaf},
    build::paint,
    draft::{Draft, draft_node, draft_one, form},
};
use crate::table::{Memory, NeedsRebuild, Readers, Words, space::Space};

/// The length of the widest prefix that is edited in place.
pub(crate) const SHORTEST_EDIT: u8 = 16;
/// So small a part of all cells is not worth a grace period: it would be over too soon, and the next edit would wait again.
const WORTH_A_WAIT: u32 = 64;

impl<M: Memory> Table4<M> {
    /// Gives addresses new classes: the first change is the widest prefix and covers the others, of which wider ones come
    /// before narrower ones. In force when this returns. A packet that comes meanwhile sees the old or the new class of its source.
    ///
    /// Cells that were replaced are reused when their readers are through. They are awaited in good time, beside further edits, and only an edit
    /// that finds no room stands still for them.
    ///
    /// # Errors
    /// If the table must be built anew; then nothing has changed.
    pub fn edit(
        &mut self,
        changes: &[Classed4],
        readers: &mut dyn Readers,
    ) -> Result<(), NeedsRebuild> {
        let Some(widest) = changes.first() else {
            return Ok(());
        };
        if widest.length < SHORTEST_EDIT {
            return Err(NeedsRebuild::TooWide);
        }
        self.set_presence(widest.address, widest.last());
        if self.space.awaits_readers() && readers.are_through() {
            self.space.reclaim();
        }
        if self.try_edit(widest, changes) {
            self.make_room_ahead(readers);
            return Ok(());
        }
        if self.space.awaits_readers() {
            readers.wait();
            self.space.reclaim();
            if self.try_edit(widest, changes) {
                return Ok(());
            }
        }
        if self.space.quarantined() < self.worth_a_wait() {
            return Err(NeedsRebuild::Full);
        }
        self.space.await_readers();
        readers.wait();
        self.space.reclaim();
        if self.try_edit(widest, changes) {
            Ok(())
        } else {
            Err(NeedsRebuild::Full)
        }
    }

    /// Begins to wait for readers when as many cells could be freed as are free.
    fn make_room_ahead(&mut self, readers: &mut dyn Readers) {
        let quarantined = self.space.quarantined();
        if quarantined >= self.worth_a_wait()
            && !self.space.awaits_readers()
            && quarantined >= self.space.free_cells()
        {
            self.space.await_readers();
            readers.begin();
        }
    }

    fn worth_a_wait(&self) -> u32 {
        cells_of(self.size) / WORTH_A_WAIT
    }

    /// Whether there was room.
    fn try_edit(&mut self, widest: &Classed4, changes: &[Classed4]) -> bool {
        let node = self.root_entry(widest.address >> 16);
        if node >= FIRST_INDEX && widest.length >= 24 {
            match self.edit_in_place(node, widest, changes) {
                InPlace::Done => return true,
                InPlace::NoRoom => return false,
                InPlace::OtherForm { old, new } => {
                    return self.rewrite_one(node, widest.address, &old, &new);
                }
            }
        }
        self.rewrite(node, widest, changes)
    }

    /// Edits one /24, if its new content has the form of the old.
    fn edit_in_place(&mut self, node: u32, widest: &Classed4, changes: &[Classed4]) -> InPlace {
        let words = Words(self.memory.words());
        let cell = node + (widest.address >> 14 & 3);
        let bit = widest.address >> 8 & 63;
        let block = Block::load(&words, cell);
        let old = block.content(&words, bit);
        let mut new = old.clone();
        paint(
            std::slice::from_mut(&mut new),
            widest.address >> 8 & 255,
            changes,
        );
        if new == old {
            return InPlace::Done;
        }
        let is_special = block.special >> bit & 1 != 0;
        match (&old, &new) {
            (
                Content::Uniform(Class::NOT_LISTED | Class::ALLOWED),
                Content::Uniform(Class::NOT_LISTED | Class::ALLOWED),
            ) => words.publish(cell, FULL, block.full ^ 1 << bit),
            (Content::Allowed(old), Content::Allowed(new)) => {
                publish_changed(&words, block.leaf(bit), old, new);
            }
            (Content::Classes(old), Content::Classes(new)) => {
                let first = block.descriptor(&words, bit).value;
                let cells = class_leaf(old).into_iter().zip(class_leaf(new));
                for (cell, (old, new)) in (first..).zip(cells) {
                    publish_changed(&words, cell, &old, &new);
                }
            }
            (Content::Uniform(_) | Content::Classes(_), Content::Uniform(class))
                if is_special && !matches!(*class, Class::NOT_LISTED | Class::ALLOWED) =>
            {
                self.replace_descriptor(block, bit, u32::from(class.0));
            }
            (Content::Uniform(_), Content::Classes(bytes)) if is_special => {
                let mut draft = Draft::new(words, &mut self.space);
                let Some(leaf) = put_class_leaf(bytes, &mut draft) else {
                    return InPlace::NoRoom;
                };
                self.replace_descriptor(block, bit, leaf);
            }
            (Content::Uniform(_) | Content::Allowed(_) | Content::Classes(_), _) => {
                return InPlace::OtherForm { old, new };
            }
        }
        InPlace::Done
    }

    fn replace_descriptor(&mut self, block: Block, bit: u32, value: u32) {
        let words = Words(self.memory.words());
        let old = block.descriptor(&words, bit);
        let both = words.load(old.cell, old.word);
        let both = if old.is_high {
            both & 0xffff_ffff | u64::from(value) << 32
        } else {
            both & !0xffff_ffff | u64::from(value)
        };
        words.publish(old.cell, old.word, both);
        if old.value >= FIRST_INDEX {
            self.space.retire(old.value, CLASS_LEAF_CELLS);
        }
    }

    /// Writes the block of the /24 at this address, and its node, into new cells, and switches over.
    fn rewrite_one(&mut self, node: u32, address: u32, old: &Content, new: &Content) -> bool {
        let words = Words(self.memory.words());
        let (index, bit) = (address >> 14 & 3, address >> 8 & 63);
        let block = Block::load(&words, node + index);
        let mut draft = Draft::new(words, &mut self.space);
        let Some(entry) = draft_one(&mut draft, node, index, bit, block, new) else {
            draft.discard();
            return false;
        };
        let words = Words(self.memory.words());
        let descriptor = block.descriptor(&words, bit).value;
        self.publish_entry(address >> 16, entry);
        let is_special = |content: &Content| form(content) == SPECIAL;
        let all = entry < FIRST_INDEX;
        if all || form(old) == PARTIAL || form(new) == PARTIAL {
            self.space
                .retire(block.leaves(), block.partial.count_ones());
        }
        if all || is_special(old) || is_special(new) {
            self.space
                .retire(block.descriptors(), descriptor_cells(block.special));
        }
        if is_special(old) && descriptor >= FIRST_INDEX {
            self.space.retire(descriptor, CLASS_LEAF_CELLS);
        }
        self.space.retire(node, NODE_CELLS);
        true
    }

    fn publish_entry(&self, top: u32, entry: u32) {
        let words = self.words();
        let (cell, word) = (top >> 3, top >> 1 & 3);
        let both = words.load(cell, word);
        let both = if top & 1 != 0 {
            both & 0xffff_ffff | u64::from(entry) << 32
        } else {
            both & !0xffff_ffff | u64::from(entry)
        };
        words.publish(cell, word, both);
    }

    /// Writes the blocks of a /16 that a change concerns, and its node, into new cells, and switches over.
    fn rewrite(&mut self, old: u32, widest: &Classed4, changes: &[Classed4]) -> bool {
        let words = Words(self.memory.words());
        let concerned = widest.address >> 14 & 3..=widest.last() >> 14 & 3;
        let otherwise = (old < FIRST_INDEX).then_some(Class(old as u8));
        let first = concerned.start() * BLOCK as u32;
        let contents = &mut self.scratch;
        contents.clear();
        for index in concerned.clone() {
            match otherwise {
                Some(class) => {
                    contents.resize(contents.len() + BLOCK, Content::Uniform(class));
                }
                None => {
                    let block = Block::load(&words, old + index);
                    contents.extend((0..BLOCK as u32).map(|bit| block.content(&words, bit)));
                }
            }
        }
        paint(contents, first, changes);

        let mut draft = Draft::new(Words(self.memory.words()), &mut self.space);
        let Some(new) = draft_node(&mut draft, old, otherwise, concerned.clone(), contents) else {
            draft.discard();
            return false;
        };
        self.publish_entry(widest.address >> 16, new);
        if otherwise.is_none() {
            let all = new < FIRST_INDEX;
            for index in 0..NODE_CELLS {
                if all || concerned.contains(&index) {
                    retire_block(&words, &mut self.space, Block::load(&words, old + index));
                }
            }
            self.space.retire(old, NODE_CELLS);
        }
        true
    }

    /// The root entry of a /16.
    fn root_entry(&self, top: u32) -> u32 {
        (self.words().load(top >> 3, top >> 1 & 3) >> (32 * (top & 1))) as u32
    }
}

enum InPlace {
    Done,
    NoRoom,
    /// The content is written in another way than before: what is behind other bits must move.
    OtherForm {
        old: Content,
        new: Content,
    },
}

fn retire_block(words: &Words<'_, WORDS>, space: &mut Space, block: Block) {
    let mut specials = block.special;
    while specials != 0 {
        let descriptor = block.descriptor(words, specials.trailing_zeros()).value;
        if descriptor >= FIRST_INDEX {
            space.retire(descriptor, CLASS_LEAF_CELLS);
        }
        specials &= specials - 1;
    }
    space.retire(block.descriptors(), descriptor_cells(block.special));
    space.retire(block.leaves(), block.partial.count_ones());
}

fn publish_changed(words: &Words<'_, WORDS>, cell: u32, old: &[u64; WORDS], new: &[u64; WORDS]) {
    for (word, (old, new)) in (0..).zip(old.iter().zip(new)) {
        if old != new {
            words.publish(cell, word, *new);
        }
    }
}
