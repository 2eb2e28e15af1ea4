//! Manifests and files on a disk.

use std::{
    fs, io,
    path::{Component, Path},
};

use sha2::{Digest as _, Sha256};

use super::{Entry, Manifest, ManifestError, log::hides};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// How a file compares with what was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Same,
    Differs,
    Missing,
    /// Nothing can be said: the manifest has no digest or no name.
    Unknown,
    /// Its name leads out of the directory, or over a link.
    Refused,
}

/// Compares one file below `directory`. `progress` hears of bytes as they are read.
///
/// # Errors
/// If the file can't be read.
pub fn compare_file(
    manifest: &Manifest,
    entry: &Entry,
    directory: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Stored, ManifestError> {
    use std::os::unix::ffi::OsStrExt as _;
    if hides(entry) {
        return Ok(Stored::Unknown);
    }
    let name = Path::new(std::ffi::OsStr::from_bytes(manifest.name(entry)));
    let mut path = directory.to_owned();
    let mut about = None;
    for component in name.components() {
        let Component::Normal(component) = component else {
            return Ok(Stored::Refused);
        };
        path.push(component);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => return Ok(Stored::Refused),
            Ok(found) => about = Some(found),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Stored::Missing);
            }
            Err(source) => return Err(ManifestError::Read { path, source }),
        }
    }
    let Some(about) = about.filter(fs::Metadata::is_file) else {
        return Ok(Stored::Differs);
    };
    let Ok(expected) = entry.sha256 else {
        return Ok(Stored::Unknown);
    };
    if entry.size.is_some_and(|size| size != about.len()) {
        return Ok(Stored::Differs);
    }
    let found = digest(&path, progress).map_err(|source| ManifestError::Read { path, source })?;
    Ok(if found == expected {
        Stored::Same
    } else {
        Stored::Differs
    })
}

fn digest(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<[u8; 32]> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let taken = match io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(buffer.get(..taken).unwrap_or_default());
        progress(taken as u64);
    }
}
