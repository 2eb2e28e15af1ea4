//! A log as static files that any witness, monitor or mirror of the format reads: C2SP tlog-tiles, with hashes of 256 a tile.
//!
//! The files follow from the log and are not kept with it, because level 0 alone takes more room than sealed records. They
//! are made in a folder to be served or copied away, and continued there.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use signed_note::StandardVerifier;
use tlog_tiles::Hash;

use crate::{
    passage::{PassageError, Visitor, pass},
    read::ReadError,
    retention::Tombstone,
    tree::{
        Tree,
        checkpoint::{CHECKPOINTS, Head, Judged, notes},
        keyring::Keyring,
    },
};

/// Hashes in a full tile.
const WIDTH: u64 = 256;
/// Levels of the tree in a tile.
const TILE_LEVELS: u32 = WIDTH.ilog2();
/// Bytes of a hash.
const HASH: usize = 32;
/// Name of the newest signed head in the folder of tiles.
const CHECKPOINT: &str = "checkpoint";

/// Why tiles can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TilesError {
    #[error(transparent)]
    List(#[from] ReadError),
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no checkpoint of the log is signed with one of these keys")]
    NoCheckpoint,
    #[error(
        "the log does not have the {size} records that its checkpoint covers as they were signed; let portcullis-verify say where it was altered"
    )]
    Altered { size: u64 },
    #[error(
        "{} has tiles of another log, or of this one before it was altered: {what}; take an empty folder, and keep that one as evidence", folder.display()
    )]
    OtherLog { folder: PathBuf, what: String },
    #[error(
        "records up to {last} were deleted before their tiles were made; go on in the folder that has them"
    )]
    Deleted { last: u64 },
    #[error(
        "record {seq} is longer than the 65,535 bytes that an entry bundle can hold; make the tiles without entries"
    )]
    TooLong { seq: u64 },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Records that the tiles cover: those of the newest signed head.
    pub size: u64,
    /// Files that were not there before, or not so.
    pub files: u64,
}

/// Writes the tiles of the log in `directory` into `folder`, up to its newest head that `keys` or their successors signed,
/// with the records themselves (`tile/entries`) if `entries`. What is there already has to fit.
///
/// # Errors
/// If the log is not what was signed, or the folder has other tiles, or either can't be read or written.
pub fn publish(
    directory: &Path,
    folder: &Path,
    keys: Vec<StandardVerifier>,
    entries: bool,
) -> Result<Published, TilesError> {
    let path = directory.join(CHECKPOINTS);
    let text = fs::read(&path).map_err(|source| TilesError::Read { path, source })?;
    let (head, note) = newest(&text, keys).ok_or(TilesError::NoCheckpoint)?;
    let mut tiles = Tiles {
        folder,
        levels: Vec::new(),
        bundle: entries.then(Vec::new),
        files: 0,
    };
    pass(directory, &head, &mut tiles).map_err(|stopped| match stopped {
        Stopped::Passage(PassageError::List(error)) => error.into(),
        Stopped::Passage(PassageError::Read { path, source }) => TilesError::Read { path, source },
        Stopped::Passage(PassageError::Altered { size }) => TilesError::Altered { size },
        Stopped::Tiles(error) => error,
    })?;
    tiles.finish(head.size)?;
    // Last: whoever reads it finds what it covers.
    let files = tiles.files + u64::from(tiles.replace(Path::new(CHECKPOINT), &note)?);
    Ok(Published {
        size: head.size,
        files,
    })
}

fn newest(text: &[u8], keys: Vec<StandardVerifier>) -> Option<(Head, Vec<u8>)> {
    let mut keyring = Keyring::new(keys);
    let good = notes(text)
        .0
        .into_iter()
        .filter_map(|note| match keyring.judge(note) {
            Judged::Good(head) if head.size > 0 => Some((head, note)),
            Judged::Good(_)
            | Judged::OtherKey { .. }
            | Judged::BadSignature { .. }
            | Judged::Malformed => None,
        });
    good.max_by_key(|(head, _)| head.size)
        .map(|(head, note)| (head, note.to_vec()))
}

/// Tiles under way: of each level the one that is not full yet.
struct Tiles<'a> {
    folder: &'a Path,
    levels: Vec<Level>,
    /// Entries of the bundle that is not full yet, if there are to be any.
    bundle: Option<Vec<u8>>,
    files: u64,
}

#[derive(Default)]
struct Level {
    /// Number of the tile.
    index: u64,
    hashes: Vec<Hash>,
}

enum Stopped {
    Passage(PassageError),
    Tiles(TilesError),
}

impl From<PassageError> for Stopped {
    fn from(error: PassageError) -> Self {
        Self::Passage(error)
    }
}

impl From<TilesError> for Stopped {
    fn from(error: TilesError) -> Self {
        Self::Tiles(error)
    }
}

impl Visitor for Tiles<'_> {
    type Error = Stopped;

    fn gone(&mut self, tombstone: &Tombstone, edge: &Tree) -> Result<(), Stopped> {
        self.resume(edge).ok_or(TilesError::Deleted {
            last: tombstone.last(),
        })?;
        if self.root() == edge.root() {
            return Ok(());
        }
        Err(TilesError::OtherLog {
            folder: self.folder.to_owned(),
            what: format!("its tiles over {} records have another root", edge.size()),
        }
        .into())
    }

    fn line(&mut self, before: &Tree, line: &[u8], leaf: Hash) -> Result<(), Stopped> {
        self.entry(before.size(), line)?;
        self.push(0, leaf)?;
        Ok(())
    }
}

impl Tiles<'_> {
    fn push(&mut self, level: usize, hash: Hash) -> Result<(), TilesError> {
        let (mut level, mut hash) = (level, hash);
        loop {
            if self.levels.len() <= level {
                self.levels.push(Level::default());
            }
            let Some(tile) = self.levels.get_mut(level) else {
                return Ok(());
            };
            tile.hashes.push(hash);
            if (tile.hashes.len() as u64) < WIDTH {
                return Ok(());
            }
            let full = std::mem::take(&mut tile.hashes);
            let index = tile.index;
            tile.index += 1;
            self.write(&tile_path(&level.to_string(), index, None), &bytes(&full))?;
            hash = subtree(&full);
            level += 1;
        }
    }

    fn entry(&mut self, seq: u64, line: &[u8]) -> Result<(), TilesError> {
        let Some(bundle) = &mut self.bundle else {
            return Ok(());
        };
        let length = u16::try_from(line.len()).map_err(|_| TilesError::TooLong { seq })?;
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(line);
        if seq % WIDTH == WIDTH - 1 {
            let full = std::mem::take(bundle);
            self.write(&tile_path("entries", seq / WIDTH, None), &full)?;
        }
        Ok(())
    }

    /// Goes on behind records that are gone, with what the folder has of them; `None` if it lacks something.
    fn resume(&mut self, tree: &Tree) -> Option<()> {
        self.levels.clear();
        let mut count = tree.size();
        while count > 0 {
            let (index, open) = (count / WIDTH, (count % WIDTH) as usize);
            let hashes = self.read_hashes(self.levels.len(), index, open)?;
            self.levels.push(Level { index, hashes });
            count /= WIDTH;
        }
        if let Some(bundle) = &mut self.bundle {
            let open = tree.size() % WIDTH;
            if open > 0 {
                let whole = self
                    .folder
                    .join(tile_path("entries", tree.size() / WIDTH, None));
                let part = self
                    .folder
                    .join(tile_path("entries", tree.size() / WIDTH, Some(open)));
                *bundle = fs::read(part).or_else(|_| fs::read(whole)).ok()?;
                let end = end_of_entry(bundle, open)?;
                bundle.truncate(end);
            }
        }
        Some(())
    }

    /// The root over all hashes so far, from what is not in full tiles.
    fn root(&self) -> Hash {
        let mut tree = Tree::default();
        for (level, tile) in self.levels.iter().enumerate().rev() {
            let mut hashes = &*tile.hashes;
            while let Some(bits) = hashes.len().checked_ilog2() {
                let (first, rest) = hashes.split_at(1 << bits);
                let above = TILE_LEVELS * u32::try_from(level).unwrap_or(u32::MAX);
                tree.push_subtree(subtree(first), above + bits);
                hashes = rest;
            }
        }
        tree.root()
    }

    /// The first hashes of a tile that is there, whole or in part.
    fn read_hashes(&self, level: usize, index: u64, wanted: usize) -> Option<Vec<Hash>> {
        if wanted == 0 {
            return Some(Vec::new());
        }
        let level = level.to_string();
        let parts = (wanted as u64..WIDTH).map(Some).chain([None]);
        let bytes = parts
            .map(|width| self.folder.join(tile_path(&level, index, width)))
            .find_map(|path| fs::read(path).ok())?;
        let hashes = bytes.chunks_exact(HASH).take(wanted);
        let hashes: Vec<_> = hashes
            .filter_map(|hash| Some(Hash(hash.try_into().ok()?)))
            .collect();
        (hashes.len() == wanted).then_some(hashes)
    }

    /// Writes the tiles that are not full.
    fn finish(&mut self, size: u64) -> Result<(), TilesError> {
        for (level, tile) in std::mem::take(&mut self.levels).into_iter().enumerate() {
            if !tile.hashes.is_empty() {
                let width = tile.hashes.len() as u64;
                let path = tile_path(&level.to_string(), tile.index, Some(width));
                self.write(&path, &bytes(&tile.hashes))?;
            }
        }
        if let Some(bundle) = self.bundle.take().filter(|bundle| !bundle.is_empty()) {
            let path = tile_path("entries", size / WIDTH, Some(size % WIDTH));
            self.write(&path, &bundle)?;
        }
        Ok(())
    }

    /// Writes a file that never changes once it is there.
    fn write(&mut self, name: &Path, content: &[u8]) -> Result<(), TilesError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(there) if there == content => return Ok(()),
            Ok(_) => {
                return Err(TilesError::OtherLog {
                    folder: self.folder.to_owned(),
                    what: format!("{} differs", name.display()),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(TilesError::Read { path, source }),
        }
        self.files += u64::from(self.replace(name, content)?);
        Ok(())
    }

    /// Writes a file in one piece; false if it is there so already.
    fn replace(&self, name: &Path, content: &[u8]) -> Result<bool, TilesError> {
        let path = self.folder.join(name);
        if fs::read(&path).is_ok_and(|there| there == content) {
            return Ok(false);
        }
        let unfinished = path.with_extension("new");
        let written = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = fs::File::create(&unfinished)?;
            file.write_all(content)?;
            file.sync_data()?;
            fs::rename(&unfinished, &path)
        };
        written().map_err(|source| TilesError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(true)
    }
}

/// `tile/<level>/<index in groups of three digits>[.p/<width>]`.
fn tile_path(level: &str, index: u64, width: Option<u64>) -> PathBuf {
    let mut groups = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.reverse();
    let mut path = format!("tile/{level}/{}", groups.join("/"));
    if let Some(width) = width {
        path.push_str(&format!(".p/{width}"));
    }
    path.into()
}

fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The root over complete subtrees of one level.
fn subtree(hashes: &[Hash]) -> Hash {
    let mut tree = Tree::default();
    hashes.iter().for_each(|&hash| tree.push_leaf(hash));
    tree.root()
}

/// Where entry number `count` of a bundle ends.
fn end_of_entry(bundle: &[u8], count: u64) -> Option<usize> {
    let mut at = 0;
    for _ in 0..count {
        let length = bundle.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_be_bytes(length.try_into().ok()?));
    }
    (at <= bundle.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        for (index, width, path) in [
            (0, None, "tile/0/000"),
            (1_234_067, None, "tile/0/x001/x234/067"),
            (5, Some(112), "tile/0/005.p/112"),
            (1_000, Some(1), "tile/0/x001/000.p/1"),
        ] {
            assert_eq!(tile_path("0", index, width), Path::new(path));
        }
    }
}
