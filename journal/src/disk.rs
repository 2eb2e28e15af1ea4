//! The directory of a log as the journal sees it.
//!
//! A seam for tests: [`Directory`] is the real one, `fault::FaultyDisk` (feature `fault-injection`) loses power, runs full
//! and reports errors.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

#[cfg(any(test, feature = "fault-injection"))]
pub mod fault;

/// A flat directory.
pub trait Disk: Send + Sync {
    /// Names of all files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing, and makes it if it is not there.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, and takes that from the file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; one that is not there is no error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable: those that are new, and that others are gone.
    fn sync_names(&self) -> io::Result<()>;

    /// Takes the directory for one writer, for as long as the value lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another writer has it.
    fn lock(&self) -> io::Result<Box<dyn Send>>;
}

/// An open file of a [`Disk`].
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length can fail, and nobody asks whether it is empty"
)]
pub trait DiskFile: Send {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads at `offset`; fewer bytes than asked are possible, 0 means the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`; fewer bytes than given are possible.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes what was written durable, and the length with it.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes sure that `length` bytes have their place on the disk, and that the file is that long.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Asks that reads come from the disk and not from memory. A hint: what can't follow it does nothing.
    fn forget_cached(&self);
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer` with what stands at `offset`.
pub(crate) fn read_exact(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// The `length` bytes at `offset`.
pub(crate) fn read_vec(file: &dyn DiskFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    read_exact(file, offset, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file from a place on.
pub(crate) struct Reader<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile) -> Self {
        Self::starting_at(file, 0)
    }

    pub(crate) fn starting_at(file: &'a dyn DiskFile, offset: u64) -> Self {
        Self { file, offset }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A directory of the file system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    handle: fs::File,
}

impl Directory {
    /// Opens `path`; makes it, and what is missing above it, with mode 0700.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)?;
            // The directory's own name has to survive a power cut too.
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self {
            path: path.to_owned(),
            handle: fs::File::open(path)?,
        })
    }
}

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(open_private(&self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let file = open_private(&self.path.join("lock"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

fn open_private(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

impl DiskFile for fs::File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Self::set_len(self, length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let zeros = [0; 1 << 16];
                let mut at = DiskFile::len(self)?;
                while at < length {
                    let step = zeros
                        .get(..(length - at).min(1 << 16) as usize)
                        .unwrap_or(&zeros);
                    write_all(self, step, at)?;
                    at += step.len() as u64;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn forget_cached(&self) {
        // A file system without a page cache, such as tmpfs's own memory, has nothing to forget.
        let _ = rustix::fs::fadvise(self, 0, None, Advice::DontNeed);
    }
}
