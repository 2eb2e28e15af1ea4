//! Segments: the files of a log, each named after its first record.

use std::io;

use crate::disk::{Disk, DiskFile, read_vec, write_all};

/// Unit in which a disk may tear what was written before when it fails on what is written now.
const BLOCK: usize = 4096;

/// The file name of the segment that begins with record `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:012}.jsonl")
}

/// The first record of the segment with that file name; `None` if it is no segment.
pub(crate) fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".jsonl")?;
    let first = digits.parse().ok()?;
    (segment_name(first) == name).then_some(first)
}

/// The file name of that segment once it is sealed.
pub(crate) fn sealed_name(first: u64) -> String {
    format!("{}{SEALED}", segment_name(first))
}

const SEALED: &str = ".zst";

/// The name that a sealed segment had before; `None` if it is none.
pub(crate) fn plain_name(name: &str) -> Option<&str> {
    name.strip_suffix(SEALED)
        .filter(|plain| segment_first(plain).is_some())
}

/// The segments among `names` in the order of their records, sealed or not.
///
/// One that is there in both forms is given as it was written: the other may have been made only just now.
pub(crate) fn segments(names: Vec<String>) -> Vec<(u64, String)> {
    let mut found: Vec<_> = names
        .into_iter()
        .filter_map(|name| {
            let first = segment_first(plain_name(&name).unwrap_or(&name))?;
            Some((first, name))
        })
        .collect();
    // The plain name is the beginning of the sealed one.
    found.sort();
    found.dedup_by_key(|(first, _)| *first);
    found
}

/// The segment that grows.
pub(crate) struct Segment {
    disk_name: String,
    file: Box<dyn DiskFile>,
    /// Bytes that are durable; what the file may hold beyond is not part of the log.
    length: u64,
    /// The durable bytes of the last, partly filled block.
    tail: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Sound,
    /// A write or a sync failed. Linux marks pages clean after a failed write-back, so neither a second sync nor a read
    /// from memory proves anything about them.
    Suspect,
}

impl Segment {
    /// Begins an empty segment; its name is durable on return.
    pub(crate) fn create(disk: &dyn Disk, first: u64) -> io::Result<Self> {
        let name = segment_name(first);
        let file = disk.open(&name)?;
        if file.len()? > 0 {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{name} exists and is not empty"),
            ));
        }
        disk.sync_names()?;
        Ok(Self {
            disk_name: name,
            file,
            length: 0,
            tail: Vec::new(),
            state: State::Sound,
        })
    }

    /// Goes on with a segment of which `length` bytes are good, and cuts what follows.
    pub(crate) fn resume(disk: &dyn Disk, name: String, length: u64) -> io::Result<Self> {
        let file = disk.open(&name)?;
        if file.len()? != length {
            file.set_len(length)?;
        }
        // A process that died between write and sync leaves whole records that are only in memory.
        file.sync()?;
        let begin = length - length % BLOCK as u64;
        let tail = read_vec(file.as_ref(), begin, (length - begin) as usize)?;
        Ok(Self {
            disk_name: name,
            file,
            length,
            tail,
            state: State::Sound,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.disk_name
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends `bytes` and makes them durable, or leaves the log as it was.
    ///
    /// # Errors
    /// If the disk fails. What was written is cut off again, at once or by the next [`Segment::repair`].
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.repair()?;
        let done =
            write_all(self.file.as_ref(), bytes, self.length).and_then(|()| self.file.sync());
        if let Err(error) = done {
            self.state = State::Suspect;
            // Best effort: while this fails, nothing is appended.
            let _ = self.repair();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let open = (self.length % BLOCK as u64) as usize;
        self.tail.drain(..self.tail.len() - open);
        Ok(())
    }

    /// After a failure: cuts the file to what is durable, writes its last block anew, and reads it back from the disk.
    pub(crate) fn repair(&mut self) -> io::Result<()> {
        if self.state == State::Sound {
            return Ok(());
        }
        self.file.set_len(self.length)?;
        let begin = self.length - self.tail.len() as u64;
        write_all(self.file.as_ref(), &self.tail, begin)?;
        self.file.sync()?;
        self.file.forget_cached();
        if self.file.len()? != self.length
            || read_vec(self.file.as_ref(), begin, self.tail.len())? != self.tail
        {
            return Err(io::Error::other(format!(
                "{} does not read back what was written to it; the disk can't be trusted",
                self.disk_name
            )));
        }
        self.state = State::Sound;
        Ok(())
    }
}

/// Space kept back, so that a full disk can itself be recorded.
pub(crate) struct Reserve {
    file: Box<dyn DiskFile>,
    bytes: u64,
}

impl Reserve {
    const NAME: &str = "reserve";

    pub(crate) fn open(disk: &dyn Disk, bytes: u64) -> io::Result<Self> {
        let reserve = Self {
            file: disk.open(Self::NAME)?,
            bytes,
        };
        reserve.fill()?;
        Ok(reserve)
    }

    /// Takes the space, if it is not held already.
    pub(crate) fn fill(&self) -> io::Result<()> {
        if self.file.len()? != self.bytes {
            self.file.set_len(0)?;
            if self.bytes > 0 {
                self.file.allocate(self.bytes)?;
            }
        }
        Ok(())
    }

    /// Gives the space back to the disk.
    pub(crate) fn release(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_in_both_forms_is_read_as_it_was_written() {
        let names = [sealed_name(0), segment_name(5), sealed_name(5)];
        assert_eq!(
            segments(names.to_vec()),
            [(0, sealed_name(0)), (5, segment_name(5))]
        );
    }

    #[test]
    fn only_the_exact_name_is_a_segment() {
        assert_eq!(segment_first("000000001000.jsonl"), Some(1000));
        assert_eq!(segment_first(&segment_name(u64::MAX)), Some(u64::MAX));
        assert_eq!(plain_name(&sealed_name(1000)), Some("000000001000.jsonl"));
        assert_eq!(plain_name("1000.jsonl.zst"), None);
        assert_eq!(plain_name("000000001000.jsonl.zst.new"), None);
        for other in [
            "1000.jsonl",
            "000000001000.jsonl.bak",
            "00000000100x.jsonl",
            "checkpoints",
            "+00000000001.jsonl",
        ] {
            assert_eq!(segment_first(other), None, "{other}");
        }
    }
}
