//! Encryption from the first byte to the last.

use fast_floe::{
    Key,
    low_level::{EncryptionState, SEGMENT_PAYLOAD_OFFSET, start_encryption},
};

use crate::{
    DataKey, EXTENT_PLAINTEXT, Head, Layout, SEGMENT_PLAINTEXT,
    layout::{SegmentPlace, parameters},
};

/// Encryption failed: no randomness, or a fault of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encryption failed")]
pub struct SealError;

/// Plaintext in, stored bytes out, in order. What comes out is a complete file once [`finish`](Self::finish) was called.
pub struct Sealer {
    key: Key,
    head: Head,
    /// The state of the extent that is under way; `None` at its beginning.
    extent: Option<EncryptionState>,
    /// Plaintext before what waits, in bytes.
    sealed: u64,
    /// A segment's room, and the plaintext in it that waits for more.
    waiting: Vec<u8>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({:?} at {})", self.head, self.length())
    }
}

impl Sealer {
    /// For the whole file.
    pub fn new(key: &DataKey, head: Head) -> Self {
        Self::from(key, head, 0)
    }

    /// For what follows the first `extents` of a file that was interrupted.
    pub fn from(key: &DataKey, head: Head, extents: u64) -> Self {
        Self {
            key: key.floe(),
            head,
            extent: None,
            sealed: extents * EXTENT_PLAINTEXT,
            waiting: Self::room(),
        }
    }

    fn room() -> Vec<u8> {
        let mut room = Vec::with_capacity(SEGMENT_PLAINTEXT + 32);
        room.resize(SEGMENT_PAYLOAD_OFFSET, 0);
        room
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of plaintext so far.
    pub fn length(&self) -> u64 {
        self.sealed + (self.waiting.len() - SEGMENT_PAYLOAD_OFFSET) as u64
    }

    /// Takes the next bytes; what is due goes behind `out`, in pieces that follow each other. The head is not among them.
    ///
    /// # Errors
    /// The file is then lost.
    pub fn write(&mut self, mut data: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), SealError> {
        while !data.is_empty() {
            let full = SEGMENT_PAYLOAD_OFFSET + SEGMENT_PLAINTEXT;
            if self.waiting.len() == full {
                self.seal(false, out)?;
            }
            let (now, later) = data.split_at(data.len().min(full - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    /// Gives the rest of the file.
    ///
    /// # Errors
    /// The file is then lost.
    pub fn finish(mut self, out: &mut Vec<Vec<u8>>) -> Result<(), SealError> {
        if self.length().is_multiple_of(EXTENT_PLAINTEXT)
            && self.waiting.len() > SEGMENT_PAYLOAD_OFFSET
        {
            self.seal(false, out)?;
        }
        self.seal(true, out)
    }

    fn seal(&mut self, is_last: bool, out: &mut Vec<Vec<u8>>) -> Result<(), SealError> {
        let length = self.length();
        // Of a segment that is not the file's last one, FLOE must know only whether it is the extent's.
        let layout = Layout::of_plaintext(if is_last { length } else { u64::MAX / 2 });
        let place: SegmentPlace = layout.segment_at(if is_last { u64::MAX } else { self.sealed });
        let segment = layout.floe(&place).ok_or(SealError)?;
        let state = match &mut self.extent {
            Some(state) => state,
            None => {
                let data = self.head.associated_data(place.extent);
                let (state, header) =
                    start_encryption(&self.key, &data, parameters()).map_err(|_| SealError)?;
                out.push(header.as_ref().to_vec());
                self.extent.insert(state)
            }
        };
        let mut bytes = std::mem::replace(&mut self.waiting, Self::room());
        bytes.resize(place.stored_length, 0);
        state
            .encrypt_segment_in_place_raw(&mut bytes, segment)
            .map_err(|_| SealError)?;
        out.push(bytes);
        self.sealed = length;
        if length.is_multiple_of(EXTENT_PLAINTEXT) {
            self.extent = None;
        }
        Ok(())
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.waiting);
    }
}
