//! Which encrypted file lies where, in little memory: what [`Catalogue::named`](super::Catalogue::named) needs, and no more.
//!
//! A file is one piece of memory: what is known of it, the number of its directory, its name. A directory keeps its number when it
//! is renamed, so that nothing below it is touched.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
};

use super::{Object, OnRecord};

/// Bytes of a number: 2^48 are enough for records, sizes and directories.
const NUMBER: usize = 6;
/// Bytes before the key of a file without a known content, and with one.
const BARE: usize = 1 + 2 * NUMBER + 16;
const FULL: usize = BARE + NUMBER + 32;

/// What is known of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) object: Object,
    /// SHA-256 and size in bytes.
    pub(super) content: Option<([u8; 32], u64)>,
    /// Number of the record that tells of the file.
    pub(super) record: u64,
    /// Of the one that put it where it is.
    pub(super) placed: u64,
}

impl Entry {
    pub(super) fn on_record(&self) -> Option<OnRecord> {
        let (sha256, size) = self.content?;
        Some(OnRecord {
            sha256,
            size,
            record: self.record,
        })
    }
}

/// Files by their places.
#[derive(Debug, Default)]
pub(super) struct Names {
    files: HashSet<File>,
    /// By the number of the one above, and the name.
    directories: HashMap<Box<[u8]>, Directory>,
    /// The number that was given last. 0 is what has no name: above the first one.
    last: u64,
}

#[derive(Debug, Clone, Copy)]
struct Directory {
    number: u64,
    /// Files and directories in it.
    entries: u64,
    /// Record that renamed it last: what is in it was put where it is by that, if not later.
    placed: u64,
}

/// Length of what comes before the key; the entry; the key.
#[derive(Debug)]
struct File(Box<[u8]>);

impl File {
    fn new(key: &[u8], entry: &Entry) -> Self {
        let length = if entry.content.is_some() { FULL } else { BARE };
        let mut bytes = Vec::with_capacity(length + key.len());
        bytes.push(u8::try_from(length).unwrap_or_default());
        bytes.extend(packed(entry.placed));
        bytes.extend(packed(entry.record));
        bytes.extend(entry.object);
        if let Some((sha256, size)) = entry.content {
            bytes.extend(packed(size));
            bytes.extend(sha256);
        }
        bytes.extend(key);
        Self(bytes.into())
    }

    fn key(&self) -> &[u8] {
        let length = self.0.first().copied().unwrap_or_default();
        self.0.get(usize::from(length)..).unwrap_or_default()
    }

    fn entry(&self) -> Option<Entry> {
        let (_, rest) = self.0.split_first()?;
        let (placed, rest) = rest.split_first_chunk()?;
        let (record, rest) = rest.split_first_chunk()?;
        let (object, rest) = rest.split_first_chunk()?;
        let is_known = self.0.first().copied().map(usize::from) == Some(FULL);
        let content = rest.split_first_chunk().filter(|_| is_known);
        let content = content.and_then(|(size, rest)| Some((*rest.first_chunk()?, number(size))));
        Some(Entry {
            object: *object,
            content,
            record: number(record),
            placed: number(placed),
        })
    }
}

/// By the key alone.
impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for File {}

impl Hash for File {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Borrow<[u8]> for File {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

fn packed(number: u64) -> [u8; NUMBER] {
    let [.., a, b, c, d, e, f] = number.to_be_bytes();
    [a, b, c, d, e, f]
}

fn number(packed: &[u8; NUMBER]) -> u64 {
    let [a, b, c, d, e, f] = *packed;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn key(above: u64, name: &[u8]) -> Vec<u8> {
    [&packed(above), name].concat()
}

fn above(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, number)
}

/// The names of a path above its last one, and that.
fn split(place: &[u8]) -> (impl DoubleEndedIterator<Item = &[u8]>, &[u8]) {
    let mut names = place.split(|&byte| byte == b'/');
    let last = names.next_back().unwrap_or_default();
    (names, last)
}

/// Where a rename leads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renamed<'a> {
    /// As files are named.
    pub(super) file: &'a [u8],
    /// As it stands in what is below.
    pub(super) directory: &'a [u8],
}

impl Names {
    pub(super) fn get(&self, place: &[u8]) -> Option<Entry> {
        let (names, name) = split(place);
        let mut at = 0;
        let mut placed = 0;
        for name in names {
            let directory = self.directories.get(key(at, name).as_slice())?;
            at = directory.number;
            placed = directory.placed.max(placed);
        }
        let entry = self.files.get(key(at, name).as_slice())?.entry()?;
        Some(Entry {
            placed: entry.placed.max(placed),
            ..entry
        })
    }

    pub(super) fn put(&mut self, place: &[u8], entry: &Entry) {
        let (names, name) = split(place);
        let chain = self.chain(names);
        let (at, nearest) = chain.last().cloned().unwrap_or_default();
        let file = File::new(&key(at, name), entry);
        if self.files.replace(file).is_none()
            && let Some(directory) = self.directories.get_mut(nearest.as_slice())
        {
            directory.entries += 1;
        }
    }

    pub(super) fn remove(&mut self, place: &[u8]) -> Option<Entry> {
        let entry = self.get(place)?;
        let (names, name) = split(place);
        let chain = self.known_chain(names)?;
        let at = chain.last().map_or(0, |(number, _)| *number);
        self.files.remove(key(at, name).as_slice());
        self.leave(&chain);
        Some(entry)
    }

    /// What lies at a place and below it has another name, by that record. What was put there by the record `lost` or before
    /// is not known any more.
    pub(super) fn rename(&mut self, from: Renamed<'_>, to: Renamed<'_>, record: u64, lost: u64) {
        let file = self.remove(from.file).filter(|entry| entry.placed > lost);
        self.remove(to.file);
        if from.directory != to.directory {
            self.move_directory(from.directory, to.directory, record, lost);
        }
        if let Some(entry) = file {
            let placed = record;
            self.put(to.file, &Entry { placed, ..entry });
        }
    }

    fn move_directory(&mut self, from: &[u8], to: &[u8], record: u64, lost: u64) {
        let (names, name) = split(from);
        let Some(chain) = self.known_chain(names) else {
            return;
        };
        let at = chain.last().map_or(0, |(number, _)| *number);
        let placed = chain
            .iter()
            .filter_map(|(_, key)| Some(self.directories.get(key.as_slice())?.placed));
        let placed = placed.max().unwrap_or_default();
        let Some(moved) = self.directories.remove(key(at, name).as_slice()) else {
            return;
        };
        self.leave(&chain);
        if lost > 0 {
            let placed = placed.max(moved.placed);
            self.drop_placed_before(Directory { placed, ..moved }, lost + 1);
        }
        let (names, name) = split(to);
        let chain = self.chain(names);
        let (at, nearest) = chain.last().cloned().unwrap_or_default();
        let new = key(at, name);
        if let Some(there) = self.directories.get(new.as_slice()) {
            let into = there.number;
            self.merge(moved.number, into, record);
        } else {
            let placed = record;
            let moved = Directory { placed, ..moved };
            self.directories.insert(new.into(), moved);
            if let Some(directory) = self.directories.get_mut(nearest.as_slice()) {
                directory.entries += 1;
            }
        }
        if lost > 0 {
            self.count();
        }
    }

    /// Numbers and keys of directories, made where they are missing.
    fn chain<'a>(&mut self, names: impl Iterator<Item = &'a [u8]>) -> Vec<(u64, Vec<u8>)> {
        let mut chain: Vec<(u64, Vec<u8>)> = Vec::new();
        for name in names {
            let (at, nearest) = chain.last().cloned().unwrap_or_default();
            let own = key(at, name);
            let number = match self.directories.get(own.as_slice()) {
                Some(known) => known.number,
                None => {
                    self.last += 1;
                    let made = Directory {
                        number: self.last,
                        entries: 0,
                        placed: 0,
                    };
                    self.directories.insert(own.clone().into(), made);
                    if let Some(directory) = self.directories.get_mut(nearest.as_slice()) {
                        directory.entries += 1;
                    }
                    self.last
                }
            };
            chain.push((number, own));
        }
        chain
    }

    /// As [`chain`](Self::chain), if all are there.
    fn known_chain<'a>(
        &self,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Vec<(u64, Vec<u8>)>> {
        let mut chain: Vec<(u64, Vec<u8>)> = Vec::new();
        for name in names {
            let at = chain.last().map_or(0, |(number, _)| *number);
            let own = key(at, name);
            let number = self.directories.get(own.as_slice())?.number;
            chain.push((number, own));
        }
        Some(chain)
    }

    /// Something has gone out of the last one: those that are empty go.
    fn leave(&mut self, chain: &[(u64, Vec<u8>)]) {
        for (_, own) in chain.iter().rev() {
            let Some(directory) = self.directories.get_mut(own.as_slice()) else {
                return;
            };
            directory.entries = directory.entries.saturating_sub(1);
            if directory.entries > 0 {
                return;
            }
            self.directories.remove(own.as_slice());
        }
    }

    /// Rare: a directory took the name of one that was not empty, as far as is known. All is gone through.
    fn merge(&mut self, from: u64, into: u64, record: u64) {
        let mut pairs = vec![(from, into)];
        while let Some((from, into)) = pairs.pop() {
            let files: Vec<File> = self
                .files
                .extract_if(|file| above(file.key()) == from)
                .collect();
            for file in files {
                let name = file.key().get(NUMBER..).unwrap_or_default();
                if let Some(entry) = file.entry() {
                    let placed = record;
                    let entry = Entry { placed, ..entry };
                    self.files.replace(File::new(&key(into, name), &entry));
                }
            }
            let below: Vec<(Box<[u8]>, Directory)> = self
                .directories
                .extract_if(|key, _| above(key) == from)
                .collect();
            for (old, directory) in below {
                let name = old.get(NUMBER..).unwrap_or_default();
                let new = key(into, name);
                match self.directories.get(new.as_slice()) {
                    Some(there) => pairs.push((directory.number, there.number)),
                    None => {
                        let placed = record;
                        let directory = Directory {
                            placed,
                            ..directory
                        };
                        self.directories.insert(new.into(), directory);
                    }
                }
            }
        }
        self.count();
    }

    /// Rare: forgets what is in a directory, which has no name, and below it. All is gone through.
    fn drop_placed_before(&mut self, directory: Directory, record: u64) {
        let mut children: HashMap<u64, Vec<Directory>> = HashMap::new();
        for (key, directory) in &self.directories {
            children.entry(above(key)).or_default().push(*directory);
        }
        let mut placed = HashMap::from([(directory.number, directory.placed)]);
        let mut next = vec![directory];
        while let Some(directory) = next.pop() {
            let here = placed.get(&directory.number).copied().unwrap_or_default();
            for child in children.remove(&directory.number).unwrap_or_default() {
                placed.insert(child.number, child.placed.max(here));
                next.push(child);
            }
        }
        self.files.retain(|file| {
            let Some(at_least) = placed.get(&above(file.key())) else {
                return true;
            };
            file.entry()
                .is_some_and(|entry| entry.placed.max(*at_least) >= record)
        });
    }

    /// Rare: counts what is in each directory, and drops those that are empty.
    fn count(&mut self) {
        loop {
            let mut entries: HashMap<u64, u64> = HashMap::new();
            let files = self.files.iter().map(File::key);
            let directories = self.directories.keys().map(AsRef::as_ref);
            for key in files.chain(directories) {
                *entries.entry(above(key)).or_default() += 1;
            }
            let before = self.directories.len();
            self.directories.retain(|_, directory| {
                directory.entries = entries.get(&directory.number).copied().unwrap_or_default();
                directory.entries > 0
            });
            if self.directories.len() == before {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            object: u128::from(number).to_be_bytes(),
            content: (!number.is_multiple_of(3)).then_some(([number as u8; 32], number)),
            record: number,
            placed: number,
        }
    }

    fn plain(place: &str) -> Renamed<'_> {
        Renamed {
            file: place.as_bytes(),
            directory: place.as_bytes(),
        }
    }

    #[test]
    fn what_is_put_is_there_and_what_is_removed_leaves_nothing_behind() {
        let mut names = Names::default();
        let largest = (1 << 48) - 1;
        let large = Entry {
            object: [0xff; 16],
            content: Some(([0xee; 32], largest)),
            record: largest,
            placed: largest,
        };
        names.put(b"/disk/a/x", &large);
        names.put(b"hmac:/disk/a/x", &entry(3));
        assert_eq!(names.get(b"/disk/a/x"), Some(large));
        assert_eq!(names.get(b"hmac:/disk/a/x"), Some(entry(3)));
        for other in [
            &b"/disk/a"[..],
            b"/disk/a/",
            b"/disk/a/x/",
            b"disk/a/x",
            b"/disk/a/y",
            b"",
        ] {
            assert_eq!(names.get(other), None);
        }
        assert_eq!(names.remove(b"/disk/a/x"), Some(large));
        assert_eq!(names.remove(b"/disk/a/x"), None);
        assert_eq!(names.remove(b"hmac:/disk/a/x"), Some(entry(3)));
        assert!(names.directories.is_empty() && names.files.is_empty());
    }

    /// Paths of three levels, so that they meet.
    fn place() -> impl Strategy<Value = String> {
        prop::collection::vec(0_u8..3, 1..4).prop_map(|names| {
            names
                .iter()
                .map(|name| format!("/{}", char::from(b'a' + name)))
                .collect()
        })
    }

    #[derive(Debug, Clone)]
    enum Change {
        Put(String),
        Remove(String),
        Rename(String, String, bool),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            place().prop_map(Change::Put),
            place().prop_map(Change::Remove),
            (place(), place(), any::<bool>()).prop_map(|(a, b, c)| Change::Rename(a, b, c)),
        ]
    }

    proptest! {
        #[test]
        fn names_are_those_of_a_plain_map(changes in prop::collection::vec(change(), 1..60)) {
            let mut names = Names::default();
            let mut map: BTreeMap<String, Entry> = BTreeMap::new();
            for (number, change) in (1_u64..).zip(changes) {
                match change {
                    Change::Put(place) => {
                        names.put(place.as_bytes(), &entry(number));
                        map.insert(place, entry(number));
                    }
                    Change::Remove(place) => {
                        prop_assert_eq!(names.remove(place.as_bytes()), map.remove(&place));
                    }
                    Change::Rename(from, to, is_lost) => {
                        if from == to {
                            continue;
                        }
                        let lost = if is_lost { number / 2 } else { 0 };
                        names.rename(plain(&from), plain(&to), number, lost);
                        map.remove(&to);
                        let below = format!("{from}/");
                        let moved: Vec<_> = map
                            .extract_if(.., |place, _| *place == from || place.starts_with(&below))
                            .collect();
                        for (place, entry) in moved {
                            if entry.placed > lost {
                                let placed = number;
                                map.insert(place.replacen(&from, &to, 1), Entry { placed, ..entry });
                            }
                        }
                    }
                }
                for (place, entry) in &map {
                    prop_assert_eq!(names.get(place.as_bytes()), Some(*entry), "{}", place);
                }
                prop_assert_eq!(names.files.len(), map.len());
                let mut counted = names.directories.clone();
                names.count();
                for (key, directory) in &names.directories {
                    let before = counted.remove(key).unwrap();
                    prop_assert_eq!(before.entries, directory.entries);
                }
                prop_assert!(counted.is_empty(), "empty directories are left");
            }
        }
    }

    /// What glibc's allocator takes for so many bytes.
    fn allocated(bytes: usize) -> usize {
        (bytes + 8).next_multiple_of(16).max(32)
    }

    #[test]
    fn a_file_takes_150_bytes_at_most_and_a_directory_as_much() {
        let mut names = Names::default();
        let files: usize = 60_000;
        for number in 0..files {
            let place = format!(
                "/disk/partner-{}/2026-11/result-{number:012}.hl7",
                number / 1000
            );
            names.put(place.as_bytes(), &entry(1));
        }
        let content: usize = names.files.iter().map(|file| allocated(file.0.len())).sum();
        let keys = names.directories.keys().map(|key| allocated(key.len()));
        // A table is filled to seven eighths at most, and has a byte more for each place.
        let table = |capacity: usize, size: usize| capacity * 8 / 7 * (size + 1);
        let tables = table(names.files.capacity(), size_of::<File>())
            + table(
                names.directories.capacity(),
                size_of::<(Box<[u8]>, Directory)>(),
            );
        let each = (content + keys.sum::<usize>() + tables) / files;
        assert!(each <= 150, "{each} bytes");
    }
}
