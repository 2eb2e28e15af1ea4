//! Closed segments, compressed: `000000000000.jsonl.zst`.
//!
//! Zstandard frames of whole lines, an index in a skippable frame, and the seek table of the Zstandard seekable format
//! (version 0.1.0 of its specification), so that any part is read without the rest and `zstd -d` reads the whole.
//!
//! Only the first line of a frame has its `prev` in full. A hash does not compress, and this one follows from the line
//! before; the other lines have the CRC-32 of the stored line before in its place, so that a changed line is still named.
//! What proves the log is the tree, whose leaves are the lines as they were written.

mod read;
mod seek_table;
mod write;

use serde::{Deserialize, Serialize};

pub(crate) use read::{Lines, SealedReader, SealedSegment, expand};
#[cfg(test)]
pub(crate) use write::rewrite;
pub(crate) use write::{SealError, seal};

use crate::{chain::End, checked};

/// Uncompressed bytes after which a frame ends, with its line.
const FRAME_BYTES: usize = 1 << 20;

/// What stands before the value of a line's own `prev`. Quotes inside strings are escaped, and no later field has parts of
/// that name.
const BEFORE_PREV: &[u8] = b",\"prev\":\"";

/// Length of a hash in hexadecimal digits, and of the CRC-32 that stands in its place.
const HASH_DIGITS: usize = 64;
const CHECK_DIGITS: usize = 8;

/// Bytes by which all lines of a frame but the first are shorter than they were.
pub(crate) const GROWTH: usize = HASH_DIGITS - CHECK_DIGITS;

/// What a sealed segment says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Index {
    /// Version of this form.
    v: u32,
    /// Number of its first record.
    pub(crate) first: u64,
    /// The log as it is behind the last record of the segment.
    pub(crate) end: End,
    pub(crate) frames: Vec<Frame>,
}

impl Index {
    const VERSION: u32 = 1;

    /// The index as text, with its checksum before it.
    fn to_text(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self).map(|text| checked::seal(&text))
    }

    fn from_text(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(checked::open(text)?).ok()
    }
}

/// What one frame holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Number of its first record.
    pub(crate) first: u64,
    pub(crate) records: u64,
    /// The earliest and the latest `ts` in it; a clock may go back.
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Where the value of a line's `prev` begins.
fn place_of_prev(line: &[u8]) -> Option<usize> {
    // It is one of the last fields.
    memchr::memrchr_iter(b',', line)
        .find(|&comma| {
            line.get(comma..)
                .is_some_and(|rest| rest.starts_with(BEFORE_PREV))
        })
        .map(|comma| comma + BEFORE_PREV.len())
}

/// The digits that stand for `prev` in a line behind `stored`.
fn check_of(stored: &[u8]) -> [u8; CHECK_DIGITS] {
    let mut digits = [0; CHECK_DIGITS];
    hex::encode_to_slice(crc32fast::hash(stored).to_be_bytes(), &mut digits)
        .expect("eight digits hold four bytes");
    digits
}
