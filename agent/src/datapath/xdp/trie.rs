//! Tables as the kernel's own LPM tries, for where the compiled ones can't be used.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::family::Family;
use crate::datapath::kernel::{Kernel, LPM_TRIE, NewMap, retrying};

/// The flag `BPF_F_NO_PREALLOC`, without which the kernel makes no trie.
const NO_PREALLOC: u32 = 1;
/// Linux 6.18 may have no memory at hand for a fresh trie that is filled fast, and has it a moment later.
const ROUNDS: u32 = 20;

/// A trie of these prefixes, with their classes for values.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn build<F: Family>(kernel: &dyn Kernel, classed: &[F::Classed]) -> io::Result<OwnedFd> {
    let map = retrying(|| {
        kernel.create(NewMap {
            kind: LPM_TRIE,
            key_size: 4 + u32::try_from(F::BYTES).unwrap_or(u32::MAX),
            value_size: 4,
            max_entries: u32::try_from(classed.len()).unwrap_or(u32::MAX).max(1),
            flags: NO_PREALLOC,
        })
    })?;
    for prefix in classed {
        let key = F::key(prefix);
        let value = u32::from(F::class(prefix).0).to_ne_bytes();
        let mut rounds = 0;
        while let Err(error) = retrying(|| kernel.update(map.as_fd(), &key, &value)) {
            if error.kind() != io::ErrorKind::OutOfMemory || rounds == ROUNDS {
                return Err(error);
            }
            rounds += 1;
        }
    }
    Ok(map)
}

/// Whether the trie has so many entries; they go into `hash`, in the kernel's order.
///
/// # Errors
/// If the kernel can't be asked.
pub(super) fn check<F: Family>(
    kernel: &dyn Kernel,
    map: &OwnedFd,
    entries: usize,
    hash: &mut Sha256,
) -> io::Result<bool> {
    let mut key: Option<Vec<u8>> = None;
    let mut found = 0;
    loop {
        let mut next = vec![0; 4 + F::BYTES];
        if !kernel.next_key(map.as_fd(), key.as_deref(), &mut next)? {
            return Ok(found == entries);
        }
        hash.update(&next);
        found += 1;
        if found > entries {
            return Ok(false);
        }
        key = Some(next);
    }
}

/// Entries removed at a time, and the pause behind them: a large trie freed at once keeps a CPU for a second.
const CHUNK: usize = 1024;
const PAUSE: Duration = Duration::from_millis(2);

/// Empties a trie that nothing uses, with pauses.
pub(super) fn empty(kernel: &dyn Kernel, map: &OwnedFd, key_bytes: usize) {
    let mut removed = 0;
    let mut key = vec![0; key_bytes];
    while let Ok(true) = kernel.next_key(map.as_fd(), None, &mut key)
        && kernel.delete(map.as_fd(), &key).is_ok()
    {
        removed += 1;
        if removed % CHUNK == 0 {
            thread::sleep(PAUSE);
        }
    }
}
