//! The tables of one family: built into slots that no packet reads, and taken out of them again.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use agent_ebpf::{class::Class, layout::Place};
use sha2::{Digest as _, Sha256};

use super::{
    family::Family,
    inner::{Inner, Outer, clear, put},
    readers::{SlotReaders, Waiting},
    reaper::{Discarded, Reaper},
    trie,
};
use crate::{
    datapath::{DatapathError, kernel::Kernel},
    table::{Memory, NeedsRebuild},
};

/// The outer maps of a family, and who makes maps for them.
pub(super) struct Tables<F: Family> {
    kernel: Arc<dyn Kernel>,
    /// By size.
    outers: Vec<Outer>,
    lpm: Outer,
    uses_tries: bool,
    /// Tables whose slots could not be emptied yet.
    lingering: Vec<Placed<F>>,
}

/// A table in its slot.
pub(super) struct Placed<F: Family> {
    pub(super) place: Place,
    content: Content<F>,
    /// What it was built from, until it is edited.
    classed: Option<Vec<F::Classed>>,
    prefixes: usize,
    /// Of the content as built, until it is edited.
    digest: Option<[u8; 32]>,
    /// For packets that may see what edits took out of it.
    waiting: Waiting,
}

/// A family's part of a generation that is not in force yet.
pub(super) enum Part<F: Family> {
    New(Placed<F>),
    /// The table that is in force already.
    Kept(Place),
}

impl<F: Family> Part<F> {
    pub(super) fn place(&self) -> Place {
        match self {
            Self::New(placed) => placed.place,
            Self::Kept(place) => *place,
        }
    }
}

enum Content<F: Family> {
    Compiled(F::Table),
    Trie { map: OwnedFd, entries: usize },
}

impl<F: Family> Tables<F> {
    /// `outers` by size, then the outer map of the tries.
    pub(super) fn new(
        kernel: Arc<dyn Kernel>,
        outers: Vec<OwnedFd>,
        lpm: OwnedFd,
        uses_tries: bool,
    ) -> Self {
        Self {
            kernel,
            outers: outers.into_iter().map(Outer::new).collect(),
            lpm: Outer::new(lpm),
            uses_tries,
            lingering: Vec::new(),
        }
    }

    /// Keeps the slot that an earlier daemon's generation uses.
    pub(super) fn adopt(&mut self, place: Place) {
        if let Some(outer) = self.outer(place) {
            outer.take(place.slot);
        }
    }

    /// Gives up what [`Tables::adopt`] kept, and empties every slot but `used`.
    pub(super) fn sweep(&mut self, used: &[Place]) {
        let kernel = Arc::clone(&self.kernel);
        for (size, outer) in self.outers.iter_mut().chain([&mut self.lpm]).enumerate() {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            for slot in outer.slots() {
                let is_used = used
                    .iter()
                    .any(|place| place.slot == slot && (self.uses_tries || place.size == size));
                if is_used || kernel.inner(outer.as_fd(), slot).is_err() {
                    continue;
                }
                match clear(&*kernel, outer.as_fd(), slot) {
                    Ok(()) => outer.release(slot),
                    Err(error) => tracing::warn!(%error, "can't remove a table of an earlier run"),
                }
            }
        }
    }

    fn outer(&mut self, place: Place) -> Option<&mut Outer> {
        if self.uses_tries {
            Some(&mut self.lpm)
        } else {
            self.outers.get_mut(place.size as usize)
        }
    }

    /// Builds a table into a free slot.
    ///
    /// # Errors
    /// If it is too large or the kernel refuses; then nothing is left behind.
    pub(super) fn build(
        &mut self,
        classed: Vec<F::Classed>,
        seed: u64,
    ) -> Result<Placed<F>, DatapathError> {
        if self.uses_tries {
            self.build_trie(classed)
        } else {
            self.compile(classed, seed)
        }
    }

    fn compile(&mut self, classed: Vec<F::Classed>, seed: u64) -> Result<Placed<F>, DatapathError> {
        let refused = |action| move |source| DatapathError::Kernel { action, source };
        let plan = F::plan(&classed, seed)?;
        let size = F::size(&plan);
        let kernel = Arc::clone(&self.kernel);
        let inner = Inner::create(&*kernel, F::cells(size), F::CELL_BYTES, F::flags(size))
            .map_err(refused("make a table"))?;
        let outer = self.outers.get_mut(size).ok_or(DatapathError::NoSlot)?;
        let slot = outer.reserve().ok_or(DatapathError::NoSlot)?;
        // The kernel waits for readers whenever a slot is written. Nobody reads this one, so the table is filled meanwhile.
        let (placed, table) = thread::scope(|scope| {
            let placing = scope.spawn(|| put(&*kernel, outer.as_fd(), slot, inner.as_fd()));
            let table = F::build(plan, inner.clone());
            let placed = placing
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
            (placed, table)
        });
        if let Err(source) = placed {
            outer.release(slot);
            return Err(refused("put a table into its slot")(source));
        }
        let digest = digest(F::image(&table));
        Ok(Placed {
            place: Place {
                size: u32::try_from(size).unwrap_or(u32::MAX),
                slot,
            },
            content: Content::Compiled(table),
            prefixes: classed.len(),
            classed: Some(classed),
            digest: Some(digest),
            waiting: Waiting::default(),
        })
    }

    fn build_trie(&mut self, classed: Vec<F::Classed>) -> Result<Placed<F>, DatapathError> {
        let entries = classed.len();
        let map = trie::build::<F>(&*self.kernel, &classed)
            .map_err(|source| DatapathError::BuildTrie { entries, source })?;
        let slot = self.lpm.reserve().ok_or(DatapathError::NoSlot)?;
        let put = put(&*self.kernel, self.lpm.as_fd(), slot, map.as_fd());
        if let Err(source) = put {
            self.lpm.release(slot);
            return Err(DatapathError::Kernel {
                action: "put a trie into its slot",
                source,
            });
        }
        Ok(Placed {
            place: Place { size: 0, slot },
            content: Content::Trie { map, entries },
            prefixes: entries,
            classed: Some(classed),
            digest: None,
            waiting: Waiting::default(),
        })
    }

    /// Takes a table that no packet will ask for any more out of its slot. When this returns, no packet is asking either, and the rest is
    /// left to the reaper.
    pub(super) fn retire(&mut self, mut placed: Placed<F>, reaper: &Reaper) {
        placed.waiting.end();
        let kernel = Arc::clone(&self.kernel);
        let place = placed.place;
        let Some(outer) = self.outer(place) else {
            return;
        };
        if let Err(error) = clear(&*kernel, outer.as_fd(), place.slot) {
            tracing::warn!(%error, "can't empty the slot of a replaced table; this is retried");
            self.lingering.push(placed);
            return;
        }
        outer.release(place.slot);
        match placed.content {
            Content::Compiled(table) => reaper.discard(Discarded::Memory(Box::new(table))),
            Content::Trie { map, .. } => reaper.discard(Discarded::Trie {
                map,
                key_bytes: 4 + F::BYTES,
            }),
        }
    }

    /// What is in force after `part` is: the table before goes, unless it is kept.
    pub(super) fn replace(
        &mut self,
        part: Part<F>,
        before: Option<Placed<F>>,
        reaper: &Reaper,
    ) -> Option<Placed<F>> {
        match part {
            Part::New(placed) => {
                if let Some(before) = before {
                    self.retire(before, reaper);
                }
                Some(placed)
            }
            Part::Kept(_) => before,
        }
    }

    /// Tries again what [`Tables::retire`] could not do.
    pub(super) fn retire_lingering(&mut self, reaper: &Reaper) {
        for placed in std::mem::take(&mut self.lingering) {
            self.retire(placed, reaper);
        }
    }

    /// Returns when no packet is under way that came in before.
    pub(super) fn wait_for_readers(&self, placed: &Placed<F>) -> io::Result<()> {
        let (outer, inner) = match &placed.content {
            Content::Compiled(table) => (
                self.outers.get(placed.place.size as usize),
                F::inner(table).as_fd(),
            ),
            Content::Trie { map, .. } => (Some(&self.lpm), map.as_fd()),
        };
        match outer {
            // A slot that is written as it is: the kernel waits for all readers.
            Some(outer) => put(&*self.kernel, outer.as_fd(), placed.place.slot, inner),
            None => Ok(()),
        }
    }

    /// Makes single changes of a table that packets ask for.
    ///
    /// # Errors
    /// If it must be built anew. A trie always must.
    pub(super) fn edit(
        &mut self,
        placed: &mut Placed<F>,
        changes: &[F::Change],
    ) -> Result<(), NeedsRebuild> {
        if changes.is_empty() {
            return Ok(());
        }
        let kernel = Arc::clone(&self.kernel);
        let place = placed.place;
        let Content::Compiled(table) = &mut placed.content else {
            return Err(NeedsRebuild::Full);
        };
        let inner = F::inner(table).clone();
        let Some(outer) = self.outers.get(place.size as usize) else {
            return Err(NeedsRebuild::Full);
        };
        let mut readers = SlotReaders {
            kernel,
            outer: outer.as_fd(),
            slot: place.slot,
            inner,
            waiting: &mut placed.waiting,
        };
        F::edit(table, changes, &mut readers)?;
        placed.classed = None;
        placed.digest = None;
        Ok(())
    }

    /// Whether the slot in the kernel has this table, and the table the content that was put into it. `classes` are the class of the
    /// first address of each prefix and of the address behind it; asked for when the table was edited.
    ///
    /// # Errors
    /// If the kernel can't be asked.
    pub(super) fn check(
        &mut self,
        placed: &mut Placed<F>,
        hash: &mut Sha256,
        classes: impl FnOnce() -> Vec<(F::Address, Class)>,
    ) -> io::Result<bool> {
        let kernel = Arc::clone(&self.kernel);
        let Some(outer) = self.outer(placed.place) else {
            return Ok(false);
        };
        let Ok(identifier) = kernel.inner(outer.as_fd(), placed.place.slot) else {
            return Ok(false);
        };
        let map = kernel.open(identifier)?;
        let table = match &placed.content {
            Content::Compiled(table) => table,
            Content::Trie { entries, .. } => {
                return trie::check::<F>(&*kernel, &map, *entries, hash);
            }
        };
        let size = placed.place.size as usize;
        let bytes = F::cells(size) as usize * F::CELL_BYTES;
        // A map in the slot that is smaller is not ours, and reading it would end in a signal.
        if aya::maps::MapInfo::from_id(identifier)
            .map_err(io::Error::other)?
            .max_entries()
            != F::cells(size)
        {
            return Ok(false);
        }
        let seen = kernel.map(map.as_fd(), bytes)?;
        let found = digest(seen.words());
        hash.update(found);
        if let Some(wanted) = placed.digest {
            return Ok(found == wanted);
        }
        if digest(F::image(table)) != found
            || classes()
                .into_iter()
                .any(|(address, class)| F::class_of(table, address) != class)
        {
            return Ok(false);
        }
        placed.digest = Some(found);
        Ok(true)
    }
}

impl<F: Family> Placed<F> {
    /// Whether it is just what these prefixes would be built into.
    pub(super) fn is_of(&self, classed: &[F::Classed]) -> bool {
        self.classed.as_deref() == Some(classed)
    }

    /// Prefixes that it was built from.
    pub(super) fn prefixes(&self) -> usize {
        self.prefixes
    }

    /// Bytes in the kernel. Of a trie, a node of 40 bytes and the key for each entry.
    pub(super) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Compiled(_) => {
                u64::from(F::cells(self.place.size as usize)) * F::CELL_BYTES as u64
            }
            Content::Trie { entries, .. } => (*entries * (40 + F::BYTES)) as u64,
        }
    }
}

fn digest(words: &[AtomicU64]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut bytes = Vec::with_capacity(8 * CHUNK);
    for chunk in words.chunks(CHUNK) {
        bytes.clear();
        for word in chunk {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        hash.update(&bytes);
    }
    hash.finalize().into()
}

/// Words that are hashed at a time.
const CHUNK: usize = 8192;
