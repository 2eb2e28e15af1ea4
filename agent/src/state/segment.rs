//! The files of the change log: `changes-SEQUENCE.log`, each named after its first record.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    StateError,
    frame::{self, Found, Frame, HEADER},
};

/// The first line of every segment.
const HEAD: &[u8] = b"portcullis-agent changes 1\n";

/// Where a record's frame stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// The first sequence number of its segment.
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// The path of the segment that begins with this record.
pub(super) fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("changes-{first:020}.log"))
}

/// The first sequence numbers of the segments in `directory`, in order.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, StateError> {
    numbered(directory, "changes-", ".log")
}

/// The numbers in the names of files that begin and end so, in order.
pub(super) fn numbered(directory: &Path, begin: &str, end: &str) -> Result<Vec<u64>, StateError> {
    let read = |source| StateError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_prefix(begin)?.strip_suffix(end)?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Segment {
    directory: PathBuf,
    first: u64,
    file: File,
    /// Bytes that are known to be good.
    length: u64,
    /// Whether there may be more than `length` in the file.
    is_torn: bool,
}

impl Segment {
    /// Begins a segment.
    pub(super) fn create(directory: &Path, first: u64) -> Result<Self, StateError> {
        let path = path(directory, first);
        let create = || -> io::Result<File> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(HEAD)?;
            file.sync_all()?;
            File::open(directory)?.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|source| StateError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            first,
            file,
            length: HEAD.len() as u64,
            is_torn: false,
        })
    }

    /// Goes on with a segment whose first `length` bytes are good; cuts off the rest.
    pub(super) fn resume(directory: &Path, first: u64, length: u64) -> Result<Self, StateError> {
        if length < HEAD.len() as u64 {
            return Self::create(directory, first);
        }
        let path = path(directory, first);
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            if file.metadata()?.len() > length {
                file.set_len(length)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        let file = open().map_err(|source| StateError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            first,
            file,
            length,
            is_torn: false,
        })
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Puts a frame at the end; it is durable when this returns.
    ///
    /// # Errors
    /// If it can't be written; then the segment is as before.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<Location, StateError> {
        let offset = self.length;
        let mut write = || -> io::Result<()> {
            if self.is_torn {
                self.file.set_len(offset)?;
            }
            self.is_torn = true;
            self.file.seek(SeekFrom::Start(offset))?;
            self.file.write_all(frame)?;
            self.file.sync_data()
        };
        write().map_err(|source| self.error(source))?;
        self.is_torn = false;
        self.length += frame.len() as u64;
        Ok(Location {
            segment: self.first,
            offset,
        })
    }

    /// Takes back what [`Segment::append`] put there last.
    pub(super) fn cut(&mut self, at: &Location) -> Result<(), StateError> {
        self.length = at.offset;
        self.is_torn = true;
        self.file
            .set_len(at.offset)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| self.error(source))?;
        self.is_torn = false;
        Ok(())
    }

    fn error(&self, source: io::Error) -> StateError {
        StateError::Write {
            path: path(&self.directory, self.first),
            source,
        }
    }
}

/// Calls `each` with every record of a segment. Gives how many bytes of it are good; a torn end is allowed in the last one only.
pub(super) fn scan(
    directory: &Path,
    first: u64,
    is_last: bool,
    mut each: impl FnMut(Frame, Location) -> Result<(), StateError>,
) -> Result<u64, StateError> {
    let path = path(directory, first);
    let failed = |source| StateError::Read {
        path: path.clone(),
        source,
    };
    let damaged = |offset: u64| StateError::Malformed {
        path: path.clone(),
        message: format!("the record at byte {offset} is damaged"),
    };
    let file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::new(file);
    let mut head = [0; HEAD.len()];
    if length < HEAD.len() as u64 {
        return if is_last { Ok(0) } else { Err(damaged(0)) };
    }
    reader.read_exact(&mut head).map_err(failed)?;
    if head != *HEAD {
        return Err(StateError::Malformed {
            path: path.clone(),
            message: "it is not a change log of a version that is known".to_owned(),
        });
    }
    let mut good = HEAD.len() as u64;
    loop {
        match frame::decode(&mut reader, length - good).map_err(failed)? {
            Found::End => return Ok(good),
            Found::Torn if is_last => {
                tracing::warn!(path = %path.display(), bytes = length - good, "the change log ended in a torn record, which was dropped");
                return Ok(good);
            }
            Found::Torn | Found::Damaged => return Err(damaged(good)),
            Found::Frame(frame) => {
                let size = (HEADER + frame.meta.len() + frame.body.len()) as u64;
                each(
                    frame,
                    Location {
                        segment: first,
                        offset: good,
                    },
                )?;
                good += size;
            }
        }
    }
}

/// Reads the frame at a place again.
pub(super) fn read(directory: &Path, location: &Location) -> Result<Frame, StateError> {
    let path = path(directory, location.segment);
    let failed = |source| StateError::Read {
        path: path.clone(),
        source,
    };
    let mut file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(location.offset))
        .map_err(failed)?;
    let left = length.saturating_sub(location.offset);
    match frame::decode(&mut BufReader::new(file), left).map_err(failed)? {
        Found::Frame(frame) => Ok(frame),
        Found::End | Found::Torn | Found::Damaged => Err(StateError::Malformed {
            path: path.clone(),
            message: format!("the record at byte {} is damaged", location.offset),
        }),
    }
}
