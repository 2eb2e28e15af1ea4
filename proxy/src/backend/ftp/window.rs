//! The part of a file that a download has at hand.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes in one piece, at most and unless reads ask for large pieces themselves.
const PIECE: usize = 256 * 1024;
/// Reads from this size on determine the pieces' size, so that each is answered with a piece as it is.
const LARGE_READ: usize = 64 * 1024;

/// A run of a file's bytes: appended to at one end, let go of at the other.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Offset of the first byte.
    start: u64,
    pieces: VecDeque<Bytes>,
    /// Bytes in `pieces`.
    length: usize,
    /// The piece that is being read, after the others.
    filling: BytesMut,
    /// Size of the pieces to come.
    piece: usize,
    /// What ended the transfer after the bytes that were read last.
    broken: Option<std::io::Error>,
}

impl Window {
    /// Forgets everything and begins at `offset`.
    pub(super) fn restart(&mut self, offset: u64) {
        *self = Self {
            start: offset,
            piece: self.piece,
            ..Self::default()
        };
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Offset of the byte after the last.
    pub(super) fn end(&self) -> u64 {
        self.start + self.length as u64 + self.filling.len() as u64
    }

    /// Suits the pieces to come to reads of `length` bytes.
    pub(super) fn suit(&mut self, length: u32) {
        let length = usize::try_from(length).unwrap_or(PIECE);
        self.piece = if length < LARGE_READ {
            PIECE
        } else {
            length.min(PIECE)
        };
    }

    /// Reads what is there, up to a piece; 0 at the end of the transfer. Nothing is lost if it is not polled to its end.
    pub(super) async fn read_from(
        &mut self,
        transfer: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<usize> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.filling.len() >= self.piece.min(self.filling.capacity()) {
            self.settle();
            self.filling = BytesMut::with_capacity(self.piece.max(1));
        }
        let room = self.filling.capacity() - self.filling.len();
        let mut count = transfer
            .read_buf(&mut (&mut self.filling).limit(room))
            .await?;
        // TLS gives one record of 16 KiB at a time.
        while count > 0 && self.filling.len() < self.piece {
            let room = self.filling.capacity() - self.filling.len();
            let mut buffer = (&mut self.filling).limit(room);
            let mut more = pin!(transfer.read_buf(&mut buffer));
            let more = poll_fn(|cx| Poll::Ready(more.as_mut().poll(cx))).await;
            match more {
                Poll::Ready(Ok(more)) if more > 0 => count += more,
                Poll::Ready(Ok(_)) | Poll::Pending => break,
                Poll::Ready(Err(error)) => {
                    self.broken = Some(error);
                    break;
                }
            }
        }
        if self.filling.len() >= self.piece {
            self.settle();
        }
        Ok(count)
    }

    /// Has the next read fail with what one found that nobody waits for.
    pub(super) fn put_back(&mut self, error: std::io::Error) {
        self.broken = Some(error);
    }

    /// Makes what was read so far of a piece a piece of its own.
    fn settle(&mut self) {
        if !self.filling.is_empty() {
            let piece = self.filling.split().freeze();
            self.length += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Lets go of pieces that end at or before `offset`.
    pub(super) fn forget_before(&mut self, offset: u64) {
        while let Some(first) = self.pieces.front() {
            let length = first.len();
            if self.start + length as u64 > offset {
                break;
            }
            self.pieces.pop_front();
            self.length -= length;
            self.start += length as u64;
        }
    }

    /// The bytes from `from` up to `to`, as far as they are here. Most of a piece is handed out as it is; of less there is a
    /// copy, so that a small answer does not keep a large piece in memory.
    pub(super) fn slice(&mut self, from: u64, to: u64) -> Bytes {
        if to > self.start + self.length as u64 {
            self.settle();
        }
        let mut wanted = BytesMut::new();
        let mut begin = self.start;
        for piece in &self.pieces {
            let end = begin + piece.len() as u64;
            if from < end && to > begin {
                let first = usize::try_from(from.saturating_sub(begin)).unwrap_or(usize::MAX);
                let last = usize::try_from(to - begin)
                    .unwrap_or(usize::MAX)
                    .min(piece.len());
                let is_all = from >= begin && (to <= end || end == self.start + self.length as u64);
                if is_all && (last - first) * 2 >= piece.len() {
                    return piece.slice(first..last);
                }
                if wanted.capacity() == 0 {
                    let length = (to - from).min(self.length as u64);
                    wanted.reserve(usize::try_from(length).unwrap_or(0));
                }
                wanted.extend_from_slice(piece.get(first..last).unwrap_or_default());
            }
            begin = end;
        }
        wanted.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position / 7) as u8).collect()
    }

    #[tokio::test]
    async fn a_large_read_gets_its_piece_without_a_copy_and_a_small_one_keeps_no_piece() {
        let content = content(1 << 20);
        let mut window = Window::default();
        window.suit(200_000);
        let mut file = &content[..];
        while window.read_from(&mut file).await.unwrap() > 0 {}
        let one = window.slice(0, 200_000);
        assert_eq!(one, content[..200_000]);
        assert_eq!(
            one.as_ptr(),
            window.slice(0, 200_000).as_ptr(),
            "the same memory"
        );
        assert_ne!(
            one.as_ptr(),
            window.slice(0, 10).as_ptr(),
            "memory of its own"
        );
    }

    /// Gives its pieces as fast as they are asked for, then a reset, then an end.
    struct Reset(Vec<&'static [u8]>, bool);

    impl AsyncRead for Reset {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            if let Some(piece) = self.0.pop() {
                buffer.put_slice(piece);
            } else if !std::mem::replace(&mut self.1, true) {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_reset_after_the_last_bytes_is_told_after_them_and_is_no_end() {
        let mut window = Window::default();
        window.suit(200_000);
        let mut transfer = Reset(vec![b"two", b"one"], false);
        assert_eq!(window.read_from(&mut transfer).await.unwrap(), 6);
        let error = window.read_from(&mut transfer).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(window.slice(0, 100), b"onetwo"[..]);
    }

    proptest! {
        #[test]
        fn any_reads_see_the_files_bytes(
            length in 0_usize..400_000,
            reads in proptest::collection::vec((0_u64..420_000, 1_u32..150_000), 1..20),
        ) {
            let content = content(length);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut window = Window::default();
            let mut file = &content[..];
            for (from, wanted) in reads {
                let to = from + u64::from(wanted);
                window.suit(wanted);
                while window.end() < to && runtime.block_on(window.read_from(&mut file)).unwrap() > 0 {}
                let here = window.slice(from, to);
                let from = usize::try_from(from).unwrap().min(length);
                let to = usize::try_from(to).unwrap().min(length);
                if u64::try_from(from).unwrap() >= window.start() {
                    prop_assert_eq!(&here[..], &content[from..to]);
                }
                window.forget_before(u64::try_from(from / 2).unwrap());
            }
        }
    }
}
