//! Inner maps, and the slots of the outer ones.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::AtomicU64},
};

use agent_ebpf::layout::SLOTS;

use crate::{
    datapath::kernel::{ARRAY, Kernel, Mapping, NewMap, retrying},
    table::Memory,
};

/// The array of a compiled table.
#[derive(Debug, Clone)]
pub(super) struct Inner {
    map: Arc<OwnedFd>,
    mapping: Arc<Mapping>,
}

impl Memory for Inner {
    fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }
}

impl Inner {
    /// An array of `cells` cells, zeroed, as `flags` say.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn create(
        kernel: &dyn Kernel,
        cells: u32,
        cell_bytes: usize,
        flags: u32,
    ) -> io::Result<Self> {
        let map = retrying(|| {
            kernel.create(NewMap {
                kind: ARRAY,
                key_size: 4,
                value_size: u32::try_from(cell_bytes).unwrap_or(u32::MAX),
                max_entries: cells,
                flags,
            })
        })?;
        let bytes = cells as usize * cell_bytes;
        let mapping = retrying(|| kernel.map(map.as_fd(), bytes))?;
        Ok(Self {
            map: Arc::new(map),
            mapping: Arc::new(mapping),
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// An outer map.
pub(super) struct Outer {
    map: OwnedFd,
    taken: [bool; SLOTS as usize],
}

impl Outer {
    pub(super) fn new(map: OwnedFd) -> Self {
        Self {
            map,
            taken: [false; SLOTS as usize],
        }
    }

    /// Keeps a slot that nothing uses for the caller.
    pub(super) fn reserve(&mut self) -> Option<u32> {
        let free = self.taken.iter().position(|taken| !taken)?;
        self.set(free, true);
        u32::try_from(free).ok()
    }

    /// Keeps this slot.
    pub(super) fn take(&mut self, slot: u32) {
        self.set(slot as usize, true);
    }

    /// All slots.
    pub(super) fn slots(&self) -> std::ops::Range<u32> {
        0..SLOTS
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self, slot: u32) {
        self.set(slot as usize, false);
    }

    fn set(&mut self, slot: usize, is_taken: bool) {
        if let Some(taken) = self.taken.get_mut(slot) {
            *taken = is_taken;
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// Puts a map into a slot. Returns after a grace period.
pub(super) fn put(
    kernel: &dyn Kernel,
    outer: BorrowedFd<'_>,
    slot: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = inner.as_raw_fd().to_ne_bytes();
    retrying(|| kernel.update(outer, &slot.to_ne_bytes(), &value))
}

/// Empties a slot. Returns after a grace period.
pub(super) fn clear(kernel: &dyn Kernel, outer: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    match retrying(|| kernel.delete(outer, &slot.to_ne_bytes())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
