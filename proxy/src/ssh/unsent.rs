//! Bytes that wait for a socket.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};

/// Bytes of a block. Small enough to stay in a processor's cache from the copy in to the copy out.
const BLOCK: usize = 64 * 1024;

/// A queue of bytes in blocks: none is moved once it is stored, and a block that is sent is given back.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    blocks: VecDeque<BytesMut>,
    length: usize,
}

impl Unsent {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            let room = self
                .blocks
                .back()
                .map_or(0, |block| block.capacity() - block.len());
            if room == 0 {
                self.blocks.push_back(BytesMut::with_capacity(BLOCK));
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(block) = self.blocks.back_mut() {
                block.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// The oldest bytes, as many as lie together; none only if there are none.
    pub(super) fn front(&self) -> &[u8] {
        self.blocks.front().map_or(&[], |block| block)
    }

    /// Drops the oldest `count` bytes, at most what [`front`](Self::front) shows.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(block) = self.blocks.front_mut() else {
            return;
        };
        let count = count.min(block.len());
        block.advance(count);
        self.length -= count;
        if block.is_empty() {
            self.blocks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_out_in_the_order_they_went_in(
            steps in proptest::collection::vec((0_usize..3 * BLOCK, 0_usize..2 * BLOCK), 1..20),
        ) {
            let mut unsent = Unsent::default();
            let (mut inside, mut outside) = (Vec::new(), Vec::new());
            for (index, (more, sent)) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..more).map(|at| (at + index) as u8).collect();
                unsent.extend(&bytes);
                inside.extend(bytes);
                let sent = sent.min(unsent.front().len());
                outside.extend_from_slice(&unsent.front()[..sent]);
                unsent.advance(sent);
                prop_assert_eq!(unsent.len(), inside.len() - outside.len());
                prop_assert_eq!(unsent.is_empty(), unsent.front().is_empty());
            }
            while !unsent.is_empty() {
                outside.extend_from_slice(unsent.front());
                unsent.advance(unsent.front().len());
            }
            prop_assert!(inside == outside);
            prop_assert!(unsent.blocks.is_empty());
        }
    }
}
