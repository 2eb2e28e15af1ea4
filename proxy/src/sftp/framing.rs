//! Bytes of a channel to SFTP packets, and the fields inside one.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::operation::MAX_PACKET;

/// Longest packet that is taken, in bytes: what is announced, and some more for clients that count data only.
pub const MAX_FRAME: usize = MAX_PACKET as usize + 4096;

/// After these the start of the next packet is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    #[error("a packet of length 0")]
    Empty,
    #[error("a packet of {length} bytes; the longest is {MAX_FRAME}")]
    TooLong { length: u32 },
}

/// Cuts a stream into packets. A packet that lies inside one chunk is a slice of it.
#[derive(Debug, Default)]
pub struct Framer {
    chunk: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    Length { bytes: [u8; 4], have: usize },
    Body { bytes: BytesMut, length: usize },
}

impl Framer {
    /// The next chunk of the stream; only when [`next_frame`](Self::next_frame) has returned `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the chunk before is used up");
        self.chunk = chunk;
    }

    /// The next whole packet without its length field: type byte and payload.
    ///
    /// # Errors
    /// If its length can't be right; nothing can be read after that.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FramingError> {
        loop {
            match &mut self.state {
                State::Length { bytes, have } => {
                    while let Some(place) = bytes.get_mut(*have) {
                        if !self.chunk.has_remaining() {
                            return Ok(None);
                        }
                        *place = self.chunk.get_u8();
                        *have += 1;
                    }
                    let length = u32::from_be_bytes(*bytes);
                    let whole = length as usize;
                    if length == 0 {
                        return Err(FramingError::Empty);
                    }
                    if whole > MAX_FRAME {
                        return Err(FramingError::TooLong { length });
                    }
                    if self.chunk.len() >= whole {
                        self.state = State::default();
                        return Ok(Some(self.chunk.split_to(whole)));
                    }
                    self.state = State::Body {
                        bytes: BytesMut::with_capacity(whole),
                        length: whole,
                    };
                }
                State::Body { bytes, length } => {
                    let taken = (*length - bytes.len()).min(self.chunk.len());
                    bytes.put(self.chunk.split_to(taken));
                    if bytes.len() < *length {
                        return Ok(None);
                    }
                    let frame = std::mem::take(bytes).freeze();
                    self.state = State::default();
                    return Ok(Some(frame));
                }
            }
        }
    }

    /// True if the stream can end here without cutting a packet.
    pub fn is_between_frames(&self) -> bool {
        self.chunk.is_empty() && matches!(self.state, State::Length { have: 0, .. })
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Length {
            bytes: [0; 4],
            have: 0,
        }
    }
}

/// The packet ended inside a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

/// Reads the fields of a packet from its front, without copying.
#[derive(Debug)]
pub struct Fields(Bytes);

impl Fields {
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> Result<u8, Truncated> {
        self.0.try_get_u8().map_err(|_| Truncated)
    }

    pub fn number(&mut self) -> Result<u32, Truncated> {
        self.0.try_get_u32().map_err(|_| Truncated)
    }

    pub fn long(&mut self) -> Result<u64, Truncated> {
        self.0.try_get_u64().map_err(|_| Truncated)
    }

    pub fn string(&mut self) -> Result<Bytes, Truncated> {
        let length = self.number()? as usize;
        if length > self.0.len() {
            return Err(Truncated);
        }
        Ok(self.0.split_to(length))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(stream: &[u8], cuts: &[usize]) -> Result<Vec<Bytes>, FramingError> {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&stream.len()]) {
            let to = cut.clamp(from, stream.len());
            framer.push(Bytes::copy_from_slice(&stream[from..to]));
            from = to;
            while let Some(frame) = framer.next_frame()? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn packets_come_out_whole_however_the_stream_is_cut(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..20),
            mut cuts in proptest::collection::vec(0_usize..1000, 0..30),
        ) {
            let mut stream = Vec::new();
            for packet in &packets {
                stream.extend((packet.len() as u32).to_be_bytes());
                stream.extend(packet);
            }
            cuts.sort_unstable();
            prop_assert_eq!(frames(&stream, &cuts).unwrap(), packets);
        }
    }

    #[test]
    fn a_length_of_nothing_or_of_too_much_is_an_error_and_the_longest_is_not() {
        assert_eq!(frames(&[0, 0, 0, 0, 1], &[]), Err(FramingError::Empty));
        assert_eq!(
            frames(&[0xff; 8], &[2]),
            Err(FramingError::TooLong { length: u32::MAX })
        );
        let longest = u32::try_from(MAX_FRAME).unwrap();
        assert!(frames(&(longest + 1).to_be_bytes(), &[]).is_err());
        let mut stream = longest.to_be_bytes().to_vec();
        stream.resize(MAX_FRAME + 4, 7);
        assert_eq!(frames(&stream, &[100]).unwrap()[0].len(), MAX_FRAME);
    }
}
