//! A thread that gives memory back to the kernel, away from the changes that wait for nothing.

use std::{
    any::Any,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread,
};

use super::trie;
use crate::datapath::kernel::Kernel;

/// What is not needed any more.
pub(super) enum Discarded {
    /// A table, unmapped and closed when dropped; or rules, whose index is a million small pieces.
    Memory(Box<dyn Any + Send>),
    Trie {
        map: OwnedFd,
        key_bytes: usize,
    },
}

/// The way to the thread, which ends when this is dropped.
pub(super) struct Reaper {
    discarded: mpsc::SyncSender<Discarded>,
}

/// Things that may wait: a generation has three.
const WAITING: usize = 16;

impl Reaper {
    pub(super) fn start(kernel: Arc<dyn Kernel>) -> std::io::Result<Self> {
        let (discarded, receiver) = mpsc::sync_channel(WAITING);
        thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || {
                for discarded in receiver {
                    match discarded {
                        Discarded::Memory(memory) => drop(memory),
                        Discarded::Trie { map, key_bytes } => {
                            trie::empty(&*kernel, &map, key_bytes)
                        }
                    }
                }
            })?;
        Ok(Self { discarded })
    }

    pub(super) fn discard(&self, discarded: Discarded) {
        // Without the thread, or when it can't keep up, it is dropped here.
        let _ = self.discarded.try_send(discarded);
    }
}
