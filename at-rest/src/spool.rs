//! A file in the making that may be written in any order: a few pages in memory, the rest on a disk, encrypted with a key that
//! exists in this value alone.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::DataKey;

/// Bytes of a page.
const PAGE: usize = 64 << 10;
const TAG: usize = 16;
/// Pages that are kept in memory.
const IN_MEMORY: usize = 4;

/// Why the file in the making is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    #[error("the system has no randomness to give")]
    NoRandomness,
    #[error("a temporary file in {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    #[error("what was put aside in {} came back changed", .0.display())]
    NotAuthentic(PathBuf),
}

/// Plaintext of a file, with zeros where nothing was written.
pub struct Spool {
    directory: PathBuf,
    key: LessSafeKey,
    /// Made with the first page that does not fit into memory; without a name.
    file: Option<File>,
    pages: Vec<Page>,
    /// Those in memory, the one that was used longest ago first.
    recent: VecDeque<usize>,
    length: u64,
    /// The nonce of the next page that goes to the disk.
    next_nonce: u64,
}

enum Page {
    Zeros,
    Memory(Zeroizing<Box<[u8]>>),
    /// At its number's place in the file, under this nonce.
    Stored(u64),
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spool({} bytes)", self.length)
    }
}

impl Spool {
    /// Bytes that fit into memory.
    pub const MEMORY: u64 = (IN_MEMORY * PAGE) as u64;

    /// An empty one that puts aside what does not fit into memory in `directory`.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new(directory: &Path) -> Result<Self, SpoolError> {
        let key = DataKey::random().map_err(|_| SpoolError::NoRandomness)?;
        let key =
            UnboundKey::new(&AES_256_GCM, key.as_bytes()).map_err(|_| SpoolError::NoRandomness)?;
        Ok(Self {
            directory: directory.to_owned(),
            key: LessSafeKey::new(key),
            file: None,
            pages: Vec::new(),
            recent: VecDeque::new(),
            length: 0,
            next_nonce: 0,
        })
    }

    /// In bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Up to `length` bytes from `offset` on; fewer only at the end.
    ///
    /// # Errors
    /// If a page can't be fetched.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, SpoolError> {
        let end = self.length.min(offset.saturating_add(length as u64));
        let mut data = Vec::new();
        let mut at = offset;
        while at < end {
            let (page, within) = place(at);
            let wanted = usize::try_from(end - at).map_or(PAGE, |left| left.min(PAGE - within));
            match self.pages.get(page) {
                None | Some(Page::Zeros) => data.resize(data.len() + wanted, 0),
                Some(Page::Memory(_) | Page::Stored(_)) => {
                    let bytes = self.fetch(page)?;
                    data.extend(bytes.iter().skip(within).take(wanted));
                }
            }
            at += wanted as u64;
        }
        Ok(data)
    }

    /// # Errors
    /// If a page can't be fetched, or the disk takes no more.
    pub fn write(&mut self, offset: u64, mut data: &[u8]) -> Result<(), SpoolError> {
        let mut at = offset;
        while !data.is_empty() {
            let (page, within) = place(at);
            let (now, later) = data.split_at(data.len().min(PAGE - within));
            let bytes = self.fetch(page)?;
            for (to, from) in bytes.iter_mut().skip(within).zip(now) {
                *to = *from;
            }
            at += now.len() as u64;
            data = later;
        }
        self.length = self.length.max(at);
        Ok(())
    }

    /// Cuts, or lengthens with zeros.
    ///
    /// # Errors
    /// If the last page can't be fetched.
    pub fn resize(&mut self, length: u64) -> Result<(), SpoolError> {
        if length < self.length {
            let (page, within) = place(length);
            let kept = page + usize::from(within > 0);
            self.pages.truncate(kept);
            self.recent.retain(|page| *page < kept);
            if within > 0 && page < self.pages.len() {
                let bytes = self.fetch(page)?;
                bytes.iter_mut().skip(within).for_each(|byte| *byte = 0);
            }
        }
        self.length = length;
        Ok(())
    }

    /// The page in memory.
    fn fetch(&mut self, page: usize) -> Result<&mut [u8], SpoolError> {
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || Page::Zeros);
        }
        let found = match self.pages.get(page) {
            None | Some(Page::Zeros) => Some(Zeroizing::new(vec![0; PAGE].into_boxed_slice())),
            Some(Page::Memory(_)) => None,
            Some(Page::Stored(nonce)) => Some(self.load(page, *nonce)?),
        };
        if let Some(bytes) = found {
            if self.recent.len() >= IN_MEMORY
                && let Some(oldest) = self.recent.pop_front()
            {
                self.store(oldest)?;
            }
            if let Some(place) = self.pages.get_mut(page) {
                *place = Page::Memory(bytes);
            }
            self.recent.push_back(page);
        } else if self.recent.back() != Some(&page) {
            self.recent.retain(|other| *other != page);
            self.recent.push_back(page);
        }
        match self.pages.get_mut(page) {
            Some(Page::Memory(bytes)) => Ok(bytes),
            _ => Err(SpoolError::NotAuthentic(self.directory.clone())),
        }
    }

    fn load(&self, page: usize, nonce: u64) -> Result<Zeroizing<Box<[u8]>>, SpoolError> {
        let lost = || SpoolError::NotAuthentic(self.directory.clone());
        let file = self.file.as_ref().ok_or_else(lost)?;
        let mut bytes = vec![0; PAGE + TAG];
        file.read_exact_at(&mut bytes, stored_at(page))
            .map_err(|error| self.io(error))?;
        self.key
            .open_in_place(nonce_of(nonce), Aad::from(page.to_be_bytes()), &mut bytes)
            .map_err(|_| lost())?;
        bytes.truncate(PAGE);
        Ok(Zeroizing::new(bytes.into_boxed_slice()))
    }

    fn store(&mut self, page: usize) -> Result<(), SpoolError> {
        let Some(Page::Memory(bytes)) = self.pages.get(page) else {
            return Ok(());
        };
        let mut sealed = Vec::with_capacity(PAGE + TAG);
        sealed.extend_from_slice(bytes);
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        let context = Aad::from(page.to_be_bytes());
        if self
            .key
            .seal_in_place_append_tag(nonce_of(nonce), context, &mut sealed)
            .is_err()
        {
            sealed.zeroize();
            return Err(SpoolError::NotAuthentic(self.directory.clone()));
        }
        if self.file.is_none() {
            self.file = Some(nameless(&self.directory).map_err(|error| self.io(error))?);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&sealed, stored_at(page))
                .map_err(|error| self.io(error))?;
        }
        if let Some(place) = self.pages.get_mut(page) {
            *place = Page::Stored(nonce);
        }
        Ok(())
    }

    fn io(&self, error: io::Error) -> SpoolError {
        SpoolError::Io(self.directory.clone(), error)
    }
}

fn place(offset: u64) -> (usize, usize) {
    let page = usize::try_from(offset / PAGE as u64).unwrap_or(usize::MAX);
    let within = usize::try_from(offset % PAGE as u64).unwrap_or(0);
    (page, within)
}

fn stored_at(page: usize) -> u64 {
    page as u64 * (PAGE + TAG) as u64
}

fn nonce_of(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().zip(number.to_be_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// A file that is gone with its descriptor.
fn nameless(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Resize(u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = 0..12 * PAGE as u64;
        let data = (any::<u8>(), 1..3 * PAGE).prop_map(|(byte, length)| vec![byte; length]);
        prop_oneof![
            4 => (offset.clone(), data).prop_map(|(at, data)| Step::Write(at, data)),
            1 => offset.clone().prop_map(Step::Resize),
            2 => (offset, 1..3 * PAGE).prop_map(|(at, length)| Step::Read(at, length)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn it_is_as_a_file_in_memory(steps in prop::collection::vec(step(), 1..25)) {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::new(folder.path()).unwrap();
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        spool.write(at, &data).unwrap();
                        let at = usize::try_from(at).unwrap();
                        model.resize(model.len().max(at + data.len()), 0);
                        model[at..at + data.len()].copy_from_slice(&data);
                    }
                    Step::Resize(length) => {
                        spool.resize(length).unwrap();
                        model.resize(usize::try_from(length).unwrap(), 0);
                    }
                    Step::Read(at, length) => {
                        let from = usize::try_from(at).unwrap().min(model.len());
                        let until = (from + length).min(model.len());
                        prop_assert!(spool.read(at, length).unwrap() == model[from..until]);
                    }
                }
                prop_assert_eq!(spool.length(), model.len() as u64);
            }
            prop_assert!(spool.read(0, model.len()).unwrap() == model);
            prop_assert!(spool.recent.len() <= IN_MEMORY);
        }
    }

    #[test]
    fn nothing_of_the_plaintext_is_on_the_disk_and_no_nonce_is_used_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path()).unwrap();
        let needle = b"canary of a patient";
        for round in 0..3 {
            for page in 0..20_u64 {
                spool.write(page * PAGE as u64 + round, needle).unwrap();
            }
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "no name"
        );
        let file = spool.file.as_ref().unwrap();
        let mut stored = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut stored, 0).unwrap();
        assert!(stored.len() > 10 * PAGE);
        assert!(!stored.windows(needle.len()).any(|window| window == needle));
        let mut nonces: Vec<u64> = spool
            .pages
            .iter()
            .filter_map(|page| {
                if let Page::Stored(nonce) = page {
                    Some(*nonce)
                } else {
                    None
                }
            })
            .collect();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 20 - IN_MEMORY);
        file.write_all_at(&[1], 5).unwrap();
        assert!(matches!(
            spool.read(0, 10),
            Err(SpoolError::NotAuthentic(_))
        ));
    }
}
