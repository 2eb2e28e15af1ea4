//! The signed heads of a log, as they come.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use signed_note::StandardVerifier;

use crate::{
    manifest::ManifestError,
    tree::{
        checkpoint::{CHECKPOINTS, Head, Judged, notes},
        keyring::{Keyring, is_handover},
    },
};

/// Bytes that are read at once.
const AT_ONCE: u64 = 1 << 20;

/// Heads that were read, the oldest first.
pub(super) struct Heads {
    path: PathBuf,
    keyring: Keyring,
    /// Bytes of the file that were read.
    read: u64,
    waiting: VecDeque<Head>,
    /// How far the file was read behind each head that a mark may need, by the records that it covers.
    ends: BTreeMap<u64, u64>,
}

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Heads").field(&self.waiting).finish()
    }
}

impl Heads {
    /// Those in the file behind its first `read` bytes.
    pub(super) fn of(directory: &Path, keys: Vec<StandardVerifier>, read: u64) -> Self {
        Self {
            path: directory.join(CHECKPOINTS),
            keyring: Keyring::new(keys),
            read,
            waiting: VecDeque::new(),
            ends: BTreeMap::new(),
        }
    }

    /// Takes those that came since the last look, as far as they cover `records` or more.
    pub(super) fn look(&mut self, records: u64) -> Result<(), ManifestError> {
        self.read_on(records).map_err(|source| ManifestError::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn read_on(&mut self, records: u64) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        if length < self.read {
            // What was torn is overwritten, and so are heads of records that were lost with it.
            self.read = 0;
        }
        while length > self.read {
            file.seek(SeekFrom::Start(self.read))?;
            let mut text = Vec::new();
            file.by_ref().take(AT_ONCE).read_to_end(&mut text)?;
            let whole = notes(&text).0;
            let before = self.read;
            for note in whole {
                // Its second signature is being written.
                if is_handover(note) && signatures(note) < 2 {
                    break;
                }
                self.read += note.len() as u64;
                self.take(note, records);
            }
            if self.read == before {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, note: &[u8], records: u64) {
        // The signatures of old ones cost more than they are worth, but for those that name keys.
        let is_new = size(note).is_some_and(|size| size >= records);
        if !is_new && !is_handover(note) {
            return;
        }
        let Judged::Good(head) = self.keyring.judge(note) else {
            return;
        };
        let last = self.waiting.back().map_or(records, |head| head.size);
        if head.size >= last {
            self.waiting.push_back(head);
            self.ends.insert(head.size, self.read);
        }
    }

    /// The next head, if it covers no more than so many records.
    pub(super) fn next(&mut self, records: u64) -> Option<Head> {
        self.waiting.pop_front_if(|head| head.size <= records)
    }

    /// How far the file need not be read for heads that cover more than `records`.
    pub(super) fn behind(&mut self, records: u64) -> u64 {
        let later = self.ends.split_off(&records.saturating_add(1));
        let last = self.ends.pop_last();
        self.ends = later;
        match last {
            Some((size, end)) => {
                self.ends.insert(size, end);
                end
            }
            None => 0,
        }
    }
}

fn signatures(note: &[u8]) -> usize {
    note.split(|&byte| byte == b'\n')
        .filter(|line| line.starts_with("\u{2014} ".as_bytes()))
        .count()
}

/// The records that a note says it covers.
fn size(note: &[u8]) -> Option<u64> {
    let line = note.split(|&byte| byte == b'\n').nth(1)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}
