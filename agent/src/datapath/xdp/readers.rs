//! Waiting for packets that are under way in the program.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::inner::{Inner, put};
use crate::{datapath::kernel::Kernel, table::Readers};

/// A wait that goes on beside edits. It writes the table's slot, so it is over before the slot is used for anything else: at the latest
/// when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<JoinHandle<()>>);

impl Waiting {
    /// Returns when the wait is over. Whether there was one.
    pub(super) fn end(&mut self) -> bool {
        match self.0.take() {
            Some(thread) => {
                let _ = thread.join();
                true
            }
            None => false,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end();
    }
}

/// The packets that may be looking at a table in its slot.
pub(super) struct SlotReaders<'a> {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) outer: BorrowedFd<'a>,
    pub(super) slot: u32,
    pub(super) inner: Inner,
    pub(super) waiting: &'a mut Waiting,
}

impl SlotReaders<'_> {
    fn spawn(&self) -> io::Result<JoinHandle<()>> {
        let outer: OwnedFd = self.outer.try_clone_to_owned()?;
        let (kernel, slot, inner) = (Arc::clone(&self.kernel), self.slot, self.inner.clone());
        thread::Builder::new()
            .name("readers".to_owned())
            .spawn(move || wait(&*kernel, outer.as_fd(), slot, &inner))
    }
}

impl Readers for SlotReaders<'_> {
    fn begin(&mut self) {
        self.waiting.end();
        // Without a thread, the edit that finds no room waits itself.
        self.waiting.0 = self.spawn().ok();
    }

    fn are_through(&mut self) -> bool {
        self.waiting.0.as_ref().is_some_and(JoinHandle::is_finished) && self.waiting.end()
    }

    fn wait(&mut self) {
        if !self.waiting.end() {
            wait(&*self.kernel, self.outer, self.slot, &self.inner);
        }
    }
}

/// Writes a slot as it is, for which the kernel waits for all readers.
fn wait(kernel: &dyn Kernel, outer: BorrowedFd<'_>, slot: u32, inner: &Inner) {
    if let Err(error) = put(kernel, outer, slot, inner.as_fd()) {
        // A program runs for microseconds, and can't be interrupted by a process.
        tracing::warn!(%error, "can't ask the kernel to wait for the packets under way");
        thread::sleep(GRACE);
    }
}

/// Longer than any packet is under way in the program.
const GRACE: Duration = Duration::from_millis(100);
