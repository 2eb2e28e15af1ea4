//! A disk in memory that runs full, fails, and loses power as real ones do.
//!
//! Like Linux it forgets after a failed sync that there was anything to write: what was not on the disk then never gets
//! there, though reads from memory still show it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Disk, DiskFile};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// The disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Stored>,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    writes_fail: bool,
    syncs_fail: bool,
    syncs_wait: bool,
    longest_write: Option<usize>,
    syncs: u64,
    is_locked: bool,
}

#[derive(Debug, Clone, Default)]
struct Stored {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What reads show.
    memory: Vec<u8>,
    /// What makes `memory` of `durable`, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(place) = content.get_mut(*offset..end) {
                    place.copy_from_slice(bytes);
                }
            }
            Self::Length(length) => content.resize(*length, 0),
        }
    }
}

impl FaultyDisk {
    /// An empty disk without faults and without limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all room that is left: writes fail with ENOSPC.
    pub fn fill(&self) {
        let mut state = self.state();
        state.capacity = Some(state.used());
    }

    /// Sets the size of the disk, in bytes; `None` is without limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether writes fail with EIO.
    pub fn set_writes_fail(&self, fail: bool) {
        self.state().writes_fail = fail;
    }

    /// Whether syncs fail with EIO.
    pub fn set_syncs_fail(&self, fail: bool) {
        self.state().syncs_fail = fail;
    }

    /// Whether syncs wait until this is taken back.
    pub fn set_syncs_wait(&self, wait: bool) {
        self.state().syncs_wait = wait;
        self.0.1.notify_all();
    }

    /// Lets a write take so many bytes at most, and leave the rest to the next.
    pub fn set_longest_write(&self, bytes: Option<usize>) {
        self.state().longest_write = bytes;
    }

    /// Number of successful syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// What a power cut right now would leave of a file at least: nothing unsynced.
    pub fn durable(&self, name: &str) -> Vec<u8> {
        self.state()
            .files
            .get(name)
            .map(|file| file.durable.clone())
            .unwrap_or_default()
    }

    /// What a reader sees of a file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.state()
            .files
            .get(name)
            .map(|file| file.memory.clone())
            .unwrap_or_default()
    }

    /// Replaces a file, durably.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        let stored = Stored {
            durable: content.clone(),
            memory: content,
            unsynced: Vec::new(),
        };
        self.state().files.insert(name.to_owned(), stored);
    }

    /// The disk as the next boot finds it. `fate` says for each unsynced write how many of its bytes arrived.
    pub fn after_power_cut(&self, mut fate: impl FnMut(usize) -> usize) -> Self {
        let mut files = self.state().files.clone();
        for file in files.values_mut() {
            for change in file.unsynced.drain(..) {
                match change {
                    Change::Write { offset, bytes } => {
                        let arrived = bytes.get(..fate(bytes.len())).unwrap_or(&bytes).to_vec();
                        if !arrived.is_empty() {
                            Change::Write {
                                offset,
                                bytes: arrived,
                            }
                            .apply(&mut file.durable);
                        }
                    }
                    Change::Length(_) => change.apply(&mut file.durable),
                }
            }
            file.memory = file.durable.clone();
        }
        let state = State {
            files,
            ..State::default()
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    /// Writes all files into a directory, as a reader sees them.
    ///
    /// # Errors
    /// If the directory can't be written.
    pub fn copy_to(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        for (name, file) in &self.state().files {
            fs::write(directory.join(name), &file.memory)?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.memory.len() as u64)
            .sum()
    }

    fn room(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| {
            capacity.saturating_sub(self.used()) as usize
        })
    }

    fn change(&mut self, name: &str, change: Change) {
        let file = self.files.entry(name.to_owned()).or_default();
        change.apply(&mut file.memory);
        file.unsynced.push(change);
    }
}

impl Disk for FaultyDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.state().files.entry(name.to_owned()).or_default();
        Ok(Box::new(File {
            disk: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().files.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let mut state = self.state();
        if state.is_locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.is_locked = true;
        Ok(Box::new(Lock(self.clone())))
    }
}

struct Lock(FaultyDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().is_locked = false;
    }
}

struct File {
    disk: FaultyDisk,
    name: String,
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self
            .disk
            .state()
            .files
            .get(&self.name)
            .map_or(0, |file| file.memory.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = state
            .files
            .get(&self.name)
            .and_then(|file| file.memory.get(offset as usize..))
            .unwrap_or_default();
        let length = content.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), content.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if state.writes_fail {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let offset = offset as usize;
        let length = state
            .files
            .get(&self.name)
            .map_or(0, |file| file.memory.len());
        let fits = length.saturating_sub(offset).saturating_add(state.room());
        let longest = state.longest_write.unwrap_or(usize::MAX);
        let taken = bytes
            .get(..bytes.len().min(fits).min(longest))
            .unwrap_or(bytes);
        if taken.is_empty() && !bytes.is_empty() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        state.change(
            &self.name,
            Change::Write {
                offset,
                bytes: taken.to_vec(),
            },
        );
        Ok(taken.len())
    }

    fn sync(&self) -> io::Result<()> {
        let state = self.disk.state();
        let waited = self.disk.0.1.wait_while(state, |state| state.syncs_wait);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let fail = state.syncs_fail;
        if let Some(file) = state.files.get_mut(&self.name) {
            let changes = std::mem::take(&mut file.unsynced);
            if fail {
                return Err(io::Error::from_raw_os_error(EIO));
            }
            for change in changes {
                change.apply(&mut file.durable);
            }
        }
        state.syncs += 1;
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(&self.name, Change::Length(length as usize));
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let missing = length.saturating_sub(
            state
                .files
                .get(&self.name)
                .map_or(0, |file| file.memory.len() as u64),
        );
        if missing > state.room() as u64 {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        state.change(&self.name, Change::Length(length as usize));
        Ok(())
    }

    fn forget_cached(&self) {
        let mut state = self.disk.state();
        if let Some(file) = state.files.get_mut(&self.name) {
            let mut fresh = file.durable.clone();
            for change in &file.unsynced {
                change.apply(&mut fresh);
            }
            file.memory = fresh;
        }
    }
}
