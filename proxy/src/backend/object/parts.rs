//! Brings the bytes of an upload into order and cuts them into parts. Pure: nothing here waits or sends.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::interface::PartSizes;

/// Bytes that may wait for the gap before them to close, in all uploads of a session.
pub(super) const REORDER_WINDOW: usize = 32 * 1024 * 1024;
/// Smaller writes are copied together: each piece costs more than its bytes.
const PIECE: usize = 16 * 1024;
/// What a piece that waits costs beside its bytes.
const PIECE_OVERHEAD: usize = 256;

/// Why bytes can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Disorder {
    #[error(
        "an object store takes a file once, from its beginning to its end: bytes from {0} on were written already"
    )]
    WrittenBefore(u64),
    #[error(
        "an object store takes a file from its beginning to its end: more than {REORDER_WINDOW} bytes of this session wait for earlier ones, here for those from {0} on"
    )]
    WindowFull(u64),
    #[error("bytes {0} to {1} were never written")]
    Gap(u64, u64),
}

/// A part to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Counts from zero.
    pub(super) index: usize,
    pub(super) content: Vec<Bytes>,
    /// Bytes in it.
    pub(super) length: usize,
}

/// What was written and not sent.
#[derive(Debug)]
pub(super) struct Assembly {
    sizes: PartSizes,
    /// What is left of the session's window.
    window: Arc<Semaphore>,
    /// Offset of the next byte in order.
    next: u64,
    waiting: BTreeMap<u64, Bytes>,
    /// The part that fills.
    content: Vec<Bytes>,
    small: BytesMut,
    length: usize,
    index: usize,
    /// Of all bytes in order so far.
    digest: Option<Sha256>,
}

impl Drop for Assembly {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a piece that waits takes of the window.
fn cost(data: &Bytes) -> u32 {
    u32::try_from(data.len() + PIECE_OVERHEAD).unwrap_or(u32::MAX)
}

impl Assembly {
    /// `window` has [`REORDER_WINDOW`] permits, and is the same for all uploads of a session.
    pub(super) fn new(sizes: PartSizes, window: Arc<Semaphore>) -> Self {
        Self {
            sizes,
            window,
            next: 0,
            waiting: BTreeMap::new(),
            content: Vec::new(),
            small: BytesMut::new(),
            length: 0,
            index: 0,
            digest: None,
        }
    }

    /// From now on a digest of what is written is kept.
    pub(super) fn keep_digest(&mut self) {
        self.digest = Some(Sha256::new());
    }

    /// The digest, if one was kept.
    pub(super) fn take_digest(&mut self) -> Option<[u8; 32]> {
        self.digest.take().map(|digest| digest.finalize().into())
    }

    /// Bytes in order so far.
    pub(super) fn written(&self) -> u64 {
        self.next
    }

    /// Takes bytes. Those beyond a gap wait until it closes.
    pub(super) fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Disorder> {
        if data.is_empty() {
            return Ok(());
        }
        if offset < self.next || self.waiting.contains_key(&offset) {
            return Err(Disorder::WrittenBefore(offset));
        }
        if offset > self.next {
            match self.window.try_acquire_many(cost(&data)) {
                Ok(place) => place.forget(),
                Err(_) => return Err(Disorder::WindowFull(self.next)),
            }
            // A slice would keep the packet that it came in.
            let data = if data.len() < PIECE {
                Bytes::copy_from_slice(&data)
            } else {
                data
            };
            self.waiting.insert(offset, data);
            return Ok(());
        }
        self.append(data);
        while let Some(entry) = self.waiting.first_entry() {
            let offset = *entry.key();
            if offset > self.next {
                break;
            }
            if offset < self.next {
                return Err(Disorder::WrittenBefore(offset));
            }
            let data = entry.remove();
            self.window.add_permits(cost(&data) as usize);
            self.append(data);
        }
        Ok(())
    }

    fn append(&mut self, data: Bytes) {
        self.next += data.len() as u64;
        self.length += data.len();
        if let Some(digest) = &mut self.digest {
            digest.update(&data);
        }
        if data.len() < PIECE {
            self.small.extend_from_slice(&data);
        } else {
            self.join_small();
            self.content.push(data);
        }
    }

    fn join_small(&mut self) {
        if !self.small.is_empty() {
            self.content.push(self.small.split().freeze());
        }
    }

    /// A part that is full, to be sent before more is written.
    pub(super) fn full_part(&mut self) -> Option<Part> {
        let size = self.sizes.of(self.index);
        if self.length < size {
            return None;
        }
        self.join_small();
        let mut content = Vec::new();
        let mut rest = Vec::new();
        let mut missing = size;
        for mut piece in self.content.drain(..) {
            if piece.len() > missing {
                rest.push(piece.split_off(missing));
            }
            missing -= piece.len();
            if !piece.is_empty() {
                content.push(piece);
            }
        }
        self.content = rest;
        self.length -= size;
        self.index += 1;
        Some(Part {
            index: self.index - 1,
            content,
            length: size,
        })
    }

    /// What is left once all is written: the last part, or the whole of a small file.
    pub(super) fn rest(&mut self) -> Result<Part, Disorder> {
        if let Some(offset) = self.waiting.keys().next() {
            return Err(Disorder::Gap(self.next, *offset));
        }
        self.join_small();
        let length = std::mem::take(&mut self.length);
        Ok(Part {
            index: self.index,
            content: std::mem::take(&mut self.content),
            length,
        })
    }

    /// Forgets what was not sent.
    pub(super) fn clear(&mut self) {
        for data in std::mem::take(&mut self.waiting).into_values() {
            self.window.add_permits(cost(&data) as usize);
        }
        self.content.clear();
        self.small = BytesMut::new();
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::interface::Interface, *};

    const FIRST_PART: usize = 8 * 1024 * 1024;

    fn bytes(length: usize) -> Bytes {
        vec![7; length].into()
    }

    fn window() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(REORDER_WINDOW))
    }

    fn fresh() -> Assembly {
        Assembly::new(Interface::S3.part_sizes(), window())
    }

    fn joined(part: &Part) -> Vec<u8> {
        assert_eq!(
            part.content.iter().map(Bytes::len).sum::<usize>(),
            part.length
        );
        part.content.concat()
    }

    proptest! {
        #[test]
        fn what_is_written_in_any_order_comes_out_in_order(
            lengths in prop::collection::vec(1_usize..40_000, 1..40),
            order in prop::collection::vec(any::<u32>(), 40),
        ) {
            let total: usize = lengths.iter().sum();
            let content: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut writes = Vec::new();
            let mut offset = 0;
            for (length, rank) in lengths.into_iter().zip(order) {
                writes.push((rank, offset, Bytes::copy_from_slice(&content[offset..offset + length])));
                offset += length;
            }
            writes.sort_by_key(|&(rank, offset, _)| (rank, offset));
            let mut assembly = fresh();
            for (_, offset, data) in writes {
                assembly.write(offset as u64, data).unwrap();
            }
            prop_assert_eq!(assembly.written(), total as u64);
            prop_assert!(assembly.full_part().is_none());
            let rest = assembly.rest().unwrap();
            prop_assert_eq!(rest.index, 0);
            prop_assert!(joined(&rest) == content);
        }
    }

    #[test]
    fn parts_are_cut_at_their_size_exactly() {
        let mut assembly = fresh();
        let mut sent = 0_usize;
        let mut offset = 0;
        for length in [255 * 1024, 10, 300_000, FIRST_PART * 2, 1] {
            assembly.write(offset, bytes(length)).unwrap();
            offset += length as u64;
            while let Some(part) = assembly.full_part() {
                assert_eq!(part.index, sent);
                assert_eq!(joined(&part).len(), FIRST_PART);
                sent += 1;
            }
        }
        assert_eq!(sent, 2);
        let rest = assembly.rest().unwrap();
        assert_eq!(
            (rest.index, joined(&rest).len() as u64),
            (2, offset - 2 * FIRST_PART as u64)
        );
    }

    #[test]
    fn a_gap_an_overlap_and_a_second_write_are_told_apart() {
        let mut assembly = fresh();
        assembly.write(0, bytes(10)).unwrap();
        assert_eq!(assembly.write(9, bytes(1)), Err(Disorder::WrittenBefore(9)));
        assembly.write(20, bytes(10)).unwrap();
        assert_eq!(
            assembly.write(20, bytes(1)),
            Err(Disorder::WrittenBefore(20))
        );
        assert_eq!(assembly.rest(), Err(Disorder::Gap(10, 20)));
        // It closes the gap and runs into what waits behind it.
        assert_eq!(
            assembly.write(10, bytes(11)),
            Err(Disorder::WrittenBefore(20))
        );
        let mut exact = fresh();
        exact.write(10, bytes(10)).unwrap();
        exact.write(0, bytes(10)).unwrap();
        assert_eq!(exact.rest().unwrap().length, 20);
    }

    #[test]
    fn no_more_than_the_window_waits_for_a_gap() {
        let mut assembly = fresh();
        let chunk = 255 * 1024;
        let mut offset = 1;
        let mut taken = 0;
        let refused = loop {
            match assembly.write(offset, bytes(chunk)) {
                Ok(()) => taken += chunk,
                Err(disorder) => break disorder,
            }
            offset += chunk as u64;
        };
        assert_eq!(refused, Disorder::WindowFull(0));
        assert!(taken <= REORDER_WINDOW && taken > REORDER_WINDOW - 2 * chunk);
        // One upload's gap leaves nothing to another one of the session until it is gone.
        let window = window();
        let mut first = Assembly::new(Interface::S3.part_sizes(), Arc::clone(&window));
        let mut second = Assembly::new(Interface::S3.part_sizes(), Arc::clone(&window));
        first
            .write(1, bytes(REORDER_WINDOW - PIECE_OVERHEAD))
            .unwrap();
        assert_eq!(second.write(1, bytes(1)), Err(Disorder::WindowFull(0)));
        second.write(0, bytes(1)).unwrap();
        drop(first);
        second.write(2, bytes(1)).unwrap();
        second.write(1, bytes(1)).unwrap();
        assert_eq!(window.available_permits(), REORDER_WINDOW);
        // Single bytes cost more than they are.
        let mut assembly = fresh();
        let most = (1..).position(|number| assembly.write(2 * number, bytes(1)).is_err());
        assert!(most.unwrap() <= REORDER_WINDOW / PIECE_OVERHEAD);
    }
}
