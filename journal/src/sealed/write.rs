//! Making a sealed segment of a closed one.

use std::{
    io::{self, BufRead},
    ops::Range,
};

use zstd::bulk::Compressor;

use super::{
    CHECK_DIGITS, FRAME_BYTES, Frame, HASH_DIGITS, Index, check_of, place_of_prev,
    seek_table::{self, Entry},
};
use crate::{
    chain::{End, line_hash},
    disk::{DiskFile, write_all},
    line::{Envelope, Found, read_line},
};

/// Why a segment can't be sealed. It stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("read or write a segment: {0}")]
    Disk(#[from] io::Error),
    #[error("record {seq} is not what was written there")]
    Altered { seq: u64 },
    #[error("the journal is ending")]
    Interrupted,
}

/// Reads a closed segment that begins with record `first` and leaves the log at `end`, and writes it sealed to `out`.
/// Asks `goes_on` before each frame.
///
/// # Errors
/// If the disk fails, or the segment is not what the journal wrote.
pub(crate) fn seal(
    input: &mut dyn BufRead,
    first: u64,
    end: &End,
    level: i32,
    out: &dyn DiskFile,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), SealError> {
    let mut writer = Writer {
        out,
        length: 0,
        compressor: Compressor::new(level)?,
        table: Vec::new(),
        frames: Vec::new(),
    };
    writer.compressor.include_checksum(true)?;
    let mut line = Vec::new();
    let mut frame = Filling::new(first);
    let mut before: Option<[u8; 32]> = None;
    loop {
        let (found, _) = read_line(input, &mut line)?;
        let seq = frame.first + frame.records;
        match found {
            Found::End => break,
            Found::Torn | Found::TooLong => return Err(SealError::Altered { seq }),
            Found::Whole => {}
        }
        let altered = || SealError::Altered { seq };
        let record = Envelope::parse(&line).filter(|record| record.seq == seq);
        let record = record.ok_or_else(altered)?;
        let prev = record.prev_hash().ok_or_else(altered)?;
        if before.is_some_and(|before| before != prev) {
            return Err(altered());
        }
        frame.push(&line, &record.ts).ok_or_else(altered)?;
        before = Some(line_hash(&line));
        if frame.text.len() >= FRAME_BYTES {
            if !goes_on() {
                return Err(SealError::Interrupted);
            }
            frame = writer.write(frame)?;
        }
    }
    if frame.records > 0 {
        frame = writer.write(frame)?;
    }
    if frame.first != end.records || before != Some(end.prev) {
        return Err(SealError::Altered { seq: frame.first });
    }
    writer.finish(Index {
        v: Index::VERSION,
        first,
        end: end.clone(),
        frames: Vec::new(),
    })?;
    Ok(())
}

struct Writer<'a> {
    out: &'a dyn DiskFile,
    length: u64,
    compressor: Compressor<'static>,
    table: Vec<Entry>,
    frames: Vec<Frame>,
}

impl Writer<'_> {
    /// Writes a frame; gives the next one, empty.
    fn write(&mut self, frame: Filling) -> io::Result<Filling> {
        let compressed = self.compressor.compress(&frame.text)?;
        self.put(&compressed, frame.text.len())?;
        let next = Filling::new(frame.first + frame.records);
        self.frames.push(Frame {
            first: frame.first,
            records: frame.records,
            from: frame.from,
            to: frame.to,
        });
        Ok(next)
    }

    fn put(&mut self, bytes: &[u8], plain: usize) -> io::Result<()> {
        let length = |length: usize| u32::try_from(length).map_err(|_| too_large());
        self.table.push(Entry {
            compressed: length(bytes.len())?,
            plain: length(plain)?,
        });
        write_all(self.out, bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self, index: Index) -> io::Result<()> {
        let index = Index {
            frames: std::mem::take(&mut self.frames),
            ..index
        };
        let text = index.to_text()?;
        let frame = seek_table::skippable(&text).ok_or_else(too_large)?;
        self.put(&frame, 0)?;
        let table = seek_table::encode(&self.table).ok_or_else(too_large)?;
        write_all(self.out, &table, self.length)
    }
}

fn too_large() -> io::Error {
    io::Error::other("the segment is too large to be sealed")
}

/// A frame before its compression.
struct Filling {
    first: u64,
    records: u64,
    text: Vec<u8>,
    /// The last line in `text`.
    last: Range<usize>,
    from: String,
    to: String,
}

impl Filling {
    fn new(first: u64) -> Self {
        Self {
            first,
            records: 0,
            text: Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 8),
            last: 0..0,
            from: String::new(),
            to: String::new(),
        }
    }

    /// Adds a line; `None` if it is no record.
    fn push(&mut self, line: &[u8], time: &str) -> Option<()> {
        let begin = self.text.len();
        if self.records == 0 {
            self.text.extend_from_slice(line);
        } else {
            let (head, rest) = line.split_at_checked(place_of_prev(line)?)?;
            let tail = rest.get(HASH_DIGITS..)?;
            let check = check_of(self.text.get(self.last.clone())?);
            self.text.reserve(head.len() + CHECK_DIGITS + tail.len());
            self.text.extend_from_slice(head);
            self.text.extend_from_slice(&check);
            self.text.extend_from_slice(tail);
        }
        self.last = begin..self.text.len();
        self.text.push(b'\n');
        self.records += 1;
        // Times of one format sort as text.
        if self.from.is_empty() || time < self.from.as_str() {
            self.from = time.to_owned();
        }
        if time > self.to.as_str() {
            self.to = time.to_owned();
        }
        Some(())
    }
}

/// Writes a segment with these texts in its frames, as somebody would who forges one.
#[cfg(test)]
pub(crate) fn rewrite(path: &std::path::Path, texts: &[Vec<u8>], index: &Index) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = Writer {
        out: &file,
        length: 0,
        compressor: Compressor::new(1).unwrap(),
        table: Vec::new(),
        frames: index.frames.clone(),
    };
    for text in texts {
        let compressed = writer.compressor.compress(text).unwrap();
        writer.put(&compressed, text.len()).unwrap();
    }
    writer.finish(index.clone()).unwrap();
}
