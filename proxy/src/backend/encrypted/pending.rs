//! The head that is being written in the place of another. It is kept on a disk of the gateway until it stands there as a whole:
//! what a crash has torn is written again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use portcullis_at_rest::Head;
use sha2::{Digest as _, Sha256};

use crate::path::VirtualPath;

const DIGEST: usize = 32;
const TIMES: usize = 8;

/// A file with room for one head.
#[derive(Debug, Clone)]
pub struct Pending {
    file: PathBuf,
}

/// Where a file lies: the directory of a session, and the path below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub directory: Box<[u8]>,
    pub path: VirtualPath,
}

/// What is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) head: Head,
    /// Of the file, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl Pending {
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// Where the file lies whose head may be torn.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn place(&self) -> io::Result<Option<Place>> {
        Ok(self.get()?.map(|entry| entry.place))
    }

    /// Forgets it.
    ///
    /// # Errors
    /// If the file can't be cut.
    pub fn clear(&self) -> io::Result<()> {
        match OpenOptions::new().write(true).open(&self.file) {
            Ok(file) => file.set_len(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts it on disk, in the place of what was there.
    pub(super) fn put(&self, entry: &Entry) -> io::Result<()> {
        let mut bytes = entry.head.as_bytes().to_vec();
        // No file that is that old has been encrypted.
        let (accessed, modified) = entry.times.unwrap_or_default();
        bytes.extend(accessed.to_be_bytes());
        bytes.extend(modified.to_be_bytes());
        let Place { directory, path } = &entry.place;
        bytes.extend((directory.len() as u64).to_be_bytes());
        bytes.extend(&**directory);
        bytes.extend(path.as_bytes());
        bytes.extend(Sha256::digest(&bytes));
        let is_new = !self.file.exists();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.file)?;
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()?;
        if is_new && let Some(folder) = self.file.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// What is there as a whole.
    pub(super) fn get(&self) -> io::Result<Option<Entry>> {
        let bytes = match fs::read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        Ok(parse(&bytes))
    }
}

fn parse(bytes: &[u8]) -> Option<Entry> {
    let (said, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(said)[..] != *digest {
        return None;
    }
    let (head, rest) = said.split_at_checked(Head::LENGTH)?;
    let (times, rest) = rest.split_at_checked(TIMES)?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (directory, path) = rest.split_at_checked(length)?;
    let (accessed, modified) = times.split_first_chunk()?;
    let times = (
        u32::from_be_bytes(*accessed),
        u32::from_be_bytes(modified.try_into().ok()?),
    );
    Some(Entry {
        place: Place {
            directory: directory.into(),
            path: VirtualPath::clean(path).ok()?,
        },
        head: Head::parse(head).ok()?,
        times: (times != (0, 0)).then_some(times),
    })
}
