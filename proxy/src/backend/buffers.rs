//! Buffers of READs, used again once their bytes are on their way: the kernel clears the pages of a new one each time.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::operation::MAX_DATA;

/// Bytes of a buffer: the longest READ.
const LENGTH: usize = MAX_DATA as usize;
/// A shorter READ has a buffer of its own.
const WORTH_SHARING: usize = 32 * 1024;
/// Buffers that are kept while nobody uses them: what one session at full speed needs.
const KEPT: usize = 32;

/// The buffers of one backend. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer to read into.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Option<Buffers>,
}

impl Buffers {
    /// A buffer of at least `length` bytes, with whatever is in it.
    pub(super) fn take(&self, length: usize) -> Buffer {
        if !(WORTH_SHARING..=LENGTH).contains(&length) {
            return Buffer::of(length);
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer {
            bytes: kept.unwrap_or_else(|| vec![0; LENGTH]),
            home: Some(self.clone()),
        }
    }
}

impl Buffer {
    /// One that has no home.
    pub(super) fn of(length: usize) -> Self {
        Self {
            bytes: vec![0; length],
            home: None,
        }
    }

    pub(super) fn first(&mut self, length: usize) -> &mut [u8] {
        let end = length.min(self.bytes.len());
        self.bytes.get_mut(..end).unwrap_or_default()
    }

    /// The first `length` bytes. The buffer goes home when the last of them is dropped.
    pub(super) fn freeze(self, length: usize) -> Bytes {
        Bytes::from_owner(self).slice(..length)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let mut kept = home.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT {
                kept.push(mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_of_its_bytes_is_dropped() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(100_000);
        buffer.first(3).copy_from_slice(b"abc");
        let bytes = buffer.freeze(3);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(buffers.0.lock().unwrap().len(), 0);
        assert_eq!(&part[..], b"bc");
        drop(part);
        assert_eq!(buffers.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn no_more_are_kept_than_one_session_needs() {
        let buffers = Buffers::default();
        let taken: Vec<_> = (0..2 * KEPT).map(|_| buffers.take(LENGTH)).collect();
        drop(taken);
        assert_eq!(buffers.0.lock().unwrap().len(), KEPT);
    }
}
