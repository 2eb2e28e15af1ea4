//! Reading sealed segments, whole or from a frame on.

use std::io::{self, BufRead, Read};

use zstd::bulk::Decompressor;

use super::{
    CHECK_DIGITS, FRAME_BYTES, Frame, HASH_DIGITS, Index, check_of, place_of_prev,
    seek_table::{self, Entry, FOOTER},
};
use crate::{
    chain::line_hash,
    disk::{DiskFile, read_exact, read_vec},
    line::MAX_LINE,
};

/// A frame ends with the line that fills it.
const MOST_FRAME_BYTES: u32 = (FRAME_BYTES + MAX_LINE + 1) as u32;
/// Enough for four billion records of the shortest kind.
const MOST_INDEX_BYTES: u32 = 64 << 20;

/// What is wrong with a part of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("its index or its seek table is damaged or cut off")]
    Index,
    #[error("records {first} to {last} can't be decompressed: the bytes on the disk have changed")]
    Damaged { first: u64, last: u64 },
    #[error("records {first} to {last} are not those that its index names")]
    Mixed { first: u64, last: u64 },
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A sealed segment, open for reading.
pub(crate) struct SealedSegment {
    file: Box<dyn DiskFile>,
    index: Index,
    /// Offset and lengths of each frame, as many as the index names.
    places: Vec<(u64, Entry)>,
    decompressor: Decompressor<'static>,
    compressed: Vec<u8>,
}

impl std::fmt::Debug for SealedSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedSegment({} frames)", self.places.len())
    }
}

impl SealedSegment {
    /// Reads the index of a segment.
    ///
    /// # Errors
    /// [`FrameError::Index`] within the error if there is none.
    pub(crate) fn open(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let wrong = || io::Error::from(FrameError::Index);
        let length = file.len()?;
        let tail = |bytes: u64| -> io::Result<Vec<u8>> {
            let from = length.checked_sub(bytes).ok_or_else(wrong)?;
            read_vec(file.as_ref(), from, bytes as usize)
        };
        let footer = tail(FOOTER as u64)?;
        let table_bytes = seek_table::length(&footer)
            .filter(|&bytes| bytes <= u64::from(MOST_INDEX_BYTES))
            .ok_or_else(wrong)?;
        let mut table = seek_table::decode(&tail(table_bytes)?).ok_or_else(wrong)?;
        let index_bytes = table
            .pop()
            .filter(|entry| entry.plain == 0 && entry.compressed <= MOST_INDEX_BYTES)
            .map(|entry| u64::from(entry.compressed))
            .ok_or_else(wrong)?;
        let index_at = length
            .checked_sub(table_bytes + index_bytes)
            .ok_or_else(wrong)?;
        let index = read_vec(file.as_ref(), index_at, index_bytes as usize)?;
        let index = seek_table::skipped(&index)
            .and_then(Index::from_text)
            .ok_or_else(wrong)?;
        let mut places = Vec::with_capacity(table.len());
        let mut at = 0;
        for entry in table {
            places.push((at, entry));
            at += u64::from(entry.compressed);
        }
        if at != index_at || places.len() != index.frames.len() || !is_gapless(&index) {
            return Err(wrong());
        }
        Ok(Self {
            file,
            index,
            places,
            decompressor: Decompressor::new()?,
            compressed: Vec::new(),
        })
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn frames(&self) -> &[Frame] {
        &self.index.frames
    }

    /// Reads the lines of frame `number` as they are stored: with their `prev` shortened, but for the first.
    ///
    /// # Errors
    /// If the disk fails, or the frame is damaged.
    pub(crate) fn stored(&mut self, number: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        let (Some(&(at, entry)), Some(frame)) =
            (self.places.get(number), self.index.frames.get(number))
        else {
            return Err(FrameError::Index.into());
        };
        let damaged = FrameError::Damaged {
            first: frame.first,
            last: frame.first + frame.records - 1,
        };
        if entry.plain > MOST_FRAME_BYTES || entry.compressed > 2 * MOST_FRAME_BYTES {
            return Err(damaged.into());
        }
        self.compressed.resize(entry.compressed as usize, 0);
        read_exact(self.file.as_ref(), at, &mut self.compressed)?;
        // As the library asks: room for what it is to hold.
        out.reserve(entry.plain as usize);
        match self
            .decompressor
            .decompress_to_buffer(&self.compressed, out)
        {
            Ok(length) if length == entry.plain as usize && out.last() == Some(&b'\n') => Ok(()),
            Ok(_) | Err(_) => {
                out.clear();
                Err(damaged.into())
            }
        }
    }

    /// Reads the lines of frame `number` as they were written.
    ///
    /// # Errors
    /// As [`stored`](Self::stored), and if they are not the records that the index names.
    pub(crate) fn lines(
        &mut self,
        number: usize,
        stored: &mut Vec<u8>,
        out: &mut Lines,
    ) -> io::Result<()> {
        self.stored(number, stored)?;
        let Some(frame) = self.index.frames.get(number) else {
            return Err(FrameError::Index.into());
        };
        match expand(stored, out) {
            Some(()) if out.hashes.len() as u64 == frame.records => Ok(()),
            Some(()) | None => Err(FrameError::Mixed {
                first: frame.first,
                last: frame.first + frame.records - 1,
            }
            .into()),
        }
    }
}

/// Whether each frame goes on where the one before ends, and the last ends with the segment.
fn is_gapless(index: &Index) -> bool {
    let mut next = index.first;
    for frame in &index.frames {
        if frame.first != next || frame.records == 0 {
            return false;
        }
        let Some(end) = next.checked_add(frame.records) else {
            return false;
        };
        next = end;
    }
    index.v == Index::VERSION && next == index.end.records
}

/// Lines of a frame as they were written.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Each with its newline.
    pub(crate) text: Vec<u8>,
    /// SHA-256 of each, without its newline.
    pub(crate) hashes: Vec<[u8; 32]>,
    /// Whether the checks fit: otherwise a line was changed, and the hashes behind it are not those that were written.
    pub(crate) is_sound: bool,
}

impl Lines {
    /// Each line without its newline, and its hash.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], [u8; 32])> {
        let mut begin = 0;
        let texts = memchr::memchr_iter(b'\n', &self.text).map(move |newline| {
            let line = self.text.get(begin..newline).unwrap_or_default();
            begin = newline + 1;
            line
        });
        texts.zip(self.hashes.iter().copied())
    }

    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.hashes.clear();
    }
}

/// Gives lines their hashes back; `None` if one has no `prev`.
///
/// A line that its check does not fit gets a `prev` that can't be, so that who follows the chain names the line before it.
pub(crate) fn expand(stored: &[u8], out: &mut Lines) -> Option<()> {
    out.clear();
    out.is_sound = true;
    out.text.reserve(stored.len() + stored.len() / 4);
    let mut before: Option<&[u8]> = None;
    let mut begin = 0;
    for newline in memchr::memchr_iter(b'\n', stored) {
        let line = stored.get(begin..newline)?;
        begin = newline + 1;
        let from = out.text.len();
        match before.zip(out.hashes.last()) {
            None => out.text.extend_from_slice(line),
            Some((text, hash)) => {
                let (head, rest) = line.split_at_checked(place_of_prev(line)?)?;
                let (check, tail) = rest.split_at_checked(CHECK_DIGITS)?;
                let mut digits = IMPOSSIBLE;
                if check == check_of(text) {
                    hex::encode_to_slice(hash, &mut digits).ok()?;
                } else {
                    out.is_sound = false;
                }
                out.text.extend_from_slice(head);
                out.text.extend_from_slice(&digits);
                out.text.extend_from_slice(tail);
            }
        }
        out.hashes.push(line_hash(out.text.get(from..)?));
        out.text.push(b'\n');
        before = Some(line);
    }
    (begin == stored.len()).then_some(())
}

/// A `prev` that no line has.
const IMPOSSIBLE: [u8; HASH_DIGITS] = [b'f'; HASH_DIGITS];

/// The text of a sealed segment as it was before.
pub(crate) struct SealedReader {
    segment: SealedSegment,
    next: usize,
    stored: Vec<u8>,
    lines: Lines,
    /// What of their text was taken.
    taken: usize,
}

impl SealedReader {
    pub(crate) fn new(segment: SealedSegment) -> Self {
        Self {
            segment,
            next: 0,
            stored: Vec::new(),
            lines: Lines::default(),
            taken: 0,
        }
    }
}

impl BufRead for SealedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken >= self.lines.text.len() && self.next < self.segment.frames().len() {
            self.taken = 0;
            self.segment
                .lines(self.next, &mut self.stored, &mut self.lines)
                .inspect_err(|_| self.lines.clear())?;
            self.next += 1;
        }
        Ok(self.lines.text.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for SealedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
