//! The lines of a log, sealed segments and open ones alike.

use std::{
    fs,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::ReadError;
use crate::{
    line::{Found, read_line},
    retention::{Tombstone, covers, is_tombstone, outermost},
    sealed::{self, GROWTH, SealedReader, SealedSegment, expand},
    segment::{plain_name, sealed_name, segment_name, segments},
};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 18;

/// Which part of a log is asked for; all of it by default.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Number of the first record.
    pub first: u64,
    /// RFC 3339, UTC: what is older, or younger, may be left out where that can be told without reading it.
    pub since: Option<String>,
    pub until: Option<String>,
}

/// The lines of that part of the log in `directory`, oldest first.
///
/// # Errors
/// If the directory can't be listed.
pub fn lines(directory: &Path, part: Part) -> Result<Lines, ReadError> {
    let mut lines = Lines {
        directory: directory.to_owned(),
        part,
        files: Vec::new(),
        open: None,
        begun: None,
    };
    lines.look_for_files()?;
    Ok(lines)
}

/// A segment and where it is.
#[derive(Debug, Clone)]
pub(crate) struct SegmentFile {
    pub(crate) first: u64,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// What a directory holds of a log.
pub(crate) struct Layout {
    /// In the order of their records.
    pub(crate) segments: Vec<SegmentFile>,
    pub(crate) tombstones: Vec<Tombstone>,
}

/// Lists the segments in `directory`, and what is left of those that were deleted.
pub(crate) fn layout(directory: &Path) -> Result<Layout, ReadError> {
    let names = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    });
    let names = names.map_err(ReadError::at(directory))?;
    let mut tombstones = Vec::new();
    for name in names.iter().filter(|name| is_tombstone(name)) {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(text) => tombstones.extend(Tombstone::parse(&text)),
            // It became part of another meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ReadError::at(&path)(error)),
        }
    }
    let tombstones = outermost(tombstones);
    let found = segments(names).into_iter();
    let segments = found
        .filter(|(first, _)| !covers(&tombstones, *first))
        .map(|(first, name)| SegmentFile {
            first,
            path: directory.join(&name),
            name,
        })
        .collect();
    Ok(Layout {
        segments,
        tombstones,
    })
}

/// A segment that is open for reading.
#[derive(Debug)]
pub(crate) enum Input {
    Plain(BufReader<fs::File>),
    Sealed(Box<SealedSegment>),
}

impl Input {
    /// Opens a segment, in its sealed form if it was sealed since the directory was listed.
    pub(crate) fn open(file: &SegmentFile) -> io::Result<Self> {
        let opened = fs::File::open(&file.path);
        if plain_name(&file.name).is_some() {
            return Ok(Self::Sealed(Box::new(SealedSegment::open(Box::new(
                opened?,
            ))?)));
        }
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let sealed = fs::File::open(file.path.with_file_name(sealed_name(file.first)))?;
                Ok(Self::Sealed(Box::new(SealedSegment::open(Box::new(
                    sealed,
                ))?)))
            }
            opened => Ok(Self::Plain(BufReader::with_capacity(BUFFER, opened?))),
        }
    }

    /// Its text as it was written.
    pub(crate) fn into_reader(self) -> Box<dyn BufRead> {
        match self {
            Self::Plain(input) => Box::new(input),
            Self::Sealed(segment) => Box::new(SealedReader::new(*segment)),
        }
    }
}

/// Lines of a log, which may grow meanwhile.
#[derive(Debug)]
pub struct Lines {
    directory: PathBuf,
    part: Part,
    /// Segments still to read, the next one last.
    files: Vec<SegmentFile>,
    open: Option<Open>,
    /// First record of the last segment that was opened.
    begun: Option<u64>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// The record that comes next.
    next: u64,
    first: u64,
    text: Text,
}

#[derive(Debug)]
enum Text {
    Plain {
        input: BufReader<fs::File>,
        line: Vec<u8>,
        /// Where the next line begins, in bytes.
        at: u64,
    },
    Sealed {
        segment: Box<SealedSegment>,
        /// The frame that comes next.
        frame: usize,
        stored: Stored,
    },
}

/// Lines of one frame.
#[derive(Debug, Default)]
struct Stored {
    text: Vec<u8>,
    /// The same lines as they were written, once one of them was asked for.
    written: sealed::Lines,
    /// Where the next line begins in `text`, and how many came before it.
    at: usize,
    taken: usize,
}

impl Lines {
    /// The next line that may be wanted, without its newline; `None` if there is none now. The log may grow: ask again.
    ///
    /// `may_be_wanted` sees each line with another value of `prev` than it has, and should be quick.
    ///
    /// # Errors
    /// If a segment can't be read or is not one. There is no way on from there.
    pub fn next(
        &mut self,
        may_be_wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Option<&[u8]>, ReadError> {
        loop {
            if self.open.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let is_last = self.files.is_empty();
            let Some(open) = &mut self.open else {
                return Ok(None);
            };
            match open.advance(&self.part, may_be_wanted)? {
                Step::Line => break,
                Step::End if is_last => {
                    // A writer begins a segment when it has ended the one before.
                    self.look_for_files()?;
                    if self.files.is_empty() {
                        return Ok(None);
                    }
                }
                Step::End => self.open = None,
                Step::Torn if is_last => {
                    self.look_for_files()?;
                    if self.files.is_empty() {
                        return Ok(None);
                    }
                }
                Step::Torn => return Err(self.not_a_record()),
            }
        }
        Ok(self.open.as_ref().and_then(Open::line))
    }

    /// Forgets what was read of the open segment behind the line that [`next`](Self::next) gave last. For a reader that stops
    /// at what is durable: the writer may cut off the rest and write something else there.
    ///
    /// # Errors
    /// If the segment's file can't be positioned.
    pub fn forget_ahead(&mut self) -> io::Result<()> {
        match self.open.as_mut().map(|open| &mut open.text) {
            Some(Text::Plain { input, at, .. }) => input.seek(SeekFrom::Start(*at)).map(|_| ()),
            // A sealed segment changes no more.
            Some(Text::Sealed { .. }) | None => Ok(()),
        }
    }

    /// Number of the line that [`next`](Self::next) gave last.
    pub fn seq(&self) -> Option<u64> {
        self.open.as_ref()?.next.checked_sub(1)
    }

    /// Whether there is any segment: without one, the directory is no log.
    pub fn have_segments(&self) -> bool {
        self.begun.is_some() || !self.files.is_empty()
    }

    /// The line that [`next`](Self::next) gave last is not what it should be.
    pub fn not_a_record(&self) -> ReadError {
        let (path, line) = match &self.open {
            Some(open) => (open.path.clone(), (open.next - open.first).max(1)),
            None => (self.directory.clone(), 0),
        };
        ReadError::NotARecord { path, line }
    }

    /// Lists segments behind those that were read.
    fn look_for_files(&mut self) -> Result<(), ReadError> {
        // Of one that grows, the next one has a name that is known.
        if let Some(open) = &self.open
            && open.next > open.first
            && !self.directory.join(segment_name(open.next)).exists()
            && !self.directory.join(sealed_name(open.next)).exists()
        {
            self.files.clear();
            return Ok(());
        }
        let mut files = layout(&self.directory)?.segments;
        files.retain(|file| self.begun.is_none_or(|begun| file.first > begun));
        let before = files
            .iter()
            .rposition(|file| file.first <= self.part.first)
            .unwrap_or(0);
        files.drain(..before);
        files.reverse();
        self.files = files;
        Ok(())
    }

    fn open_next(&mut self) -> Result<bool, ReadError> {
        let Some(file) = self.files.pop() else {
            return Ok(false);
        };
        self.begun = Some(file.first);
        let text = match Input::open(&file).map_err(ReadError::at(&file.path))? {
            Input::Plain(input) => Text::Plain {
                input,
                line: Vec::new(),
                at: 0,
            },
            Input::Sealed(segment) => Text::Sealed {
                segment,
                frame: 0,
                stored: Stored::default(),
            },
        };
        self.open = Some(Open {
            next: file.first,
            first: file.first,
            path: file.path,
            text,
        });
        Ok(true)
    }
}

enum Step {
    Line,
    End,
    Torn,
}

impl Open {
    fn advance(
        &mut self,
        part: &Part,
        may_be_wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Step, ReadError> {
        let path = &self.path;
        match &mut self.text {
            Text::Plain { input, line, at } => loop {
                let (found, taken) = read_line(input, line).map_err(ReadError::at(path))?;
                match found {
                    Found::End => return Ok(Step::End),
                    Found::Torn => {
                        // The rest of the line comes later.
                        input
                            .seek(SeekFrom::Start(*at))
                            .map_err(ReadError::at(path))?;
                        return Ok(Step::Torn);
                    }
                    Found::TooLong => {
                        return Err(ReadError::NotARecord {
                            path: path.clone(),
                            line: self.next - self.first + 1,
                        });
                    }
                    Found::Whole => {
                        *at += taken;
                        self.next += 1;
                        if self.next > part.first && may_be_wanted(line) {
                            return Ok(Step::Line);
                        }
                    }
                }
            },
            Text::Sealed {
                segment,
                frame,
                stored,
            } => loop {
                while let Some(line) = stored.next() {
                    self.next += 1;
                    if self.next > part.first && may_be_wanted(line) {
                        return if stored.restore() {
                            Ok(Step::Line)
                        } else {
                            Err(ReadError::NotARecord {
                                path: path.clone(),
                                line: self.next - self.first,
                            })
                        };
                    }
                }
                let Some(found) = segment.frames().get(*frame) else {
                    return Ok(Step::End);
                };
                let is_wanted = found.first + found.records > part.first
                    && part.since.as_ref().is_none_or(|since| found.to >= *since)
                    && part.until.as_ref().is_none_or(|until| found.from <= *until);
                self.next = found.first;
                if is_wanted {
                    stored.clear();
                    segment
                        .stored(*frame, &mut stored.text)
                        .map_err(ReadError::at(path))?;
                } else {
                    self.next += found.records;
                }
                *frame += 1;
            },
        }
    }

    fn line(&self) -> Option<&[u8]> {
        match &self.text {
            Text::Plain { line, .. } => Some(line),
            Text::Sealed { stored, .. } => stored.written_line(),
        }
    }
}

impl Stored {
    fn clear(&mut self) {
        self.text.clear();
        self.written.clear();
        self.at = 0;
        self.taken = 0;
    }

    /// The next line as it is stored, without its newline.
    fn next(&mut self) -> Option<&[u8]> {
        let rest = self.text.get(self.at..)?;
        let length = memchr::memchr(b'\n', rest)?;
        self.at += length + 1;
        self.taken += 1;
        rest.get(..length)
    }

    /// Makes sure that the lines are there as they were written; false if they can't have been.
    fn restore(&mut self) -> bool {
        !self.written.hashes.is_empty() || expand(&self.text, &mut self.written).is_some()
    }

    /// The line that [`next`](Self::next) gave last, as it was written.
    fn written_line(&self) -> Option<&[u8]> {
        // Every line but the first is longer by the same amount.
        let growth = |lines: usize| lines.saturating_sub(1) * GROWTH;
        let end = (self.at + growth(self.taken)).checked_sub(1)?;
        let text = self.written.text.get(..end)?;
        let begin = memchr::memrchr(b'\n', text).map_or(0, |newline| newline + 1);
        text.get(begin..)
    }
}
