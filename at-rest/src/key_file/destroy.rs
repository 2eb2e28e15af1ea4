//! The end of a key file: what it holds is overwritten where it lies, and then it is removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Kind, MAX, parse};
use crate::{
    DataKey,
    kek::{KekId, KeyEncryptionKey as _, SoftwareKek},
};

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroyed {
    /// It is gone.
    Gone,
    /// Its bytes are, and the name of its file is still there.
    Emptied,
    /// Another key stands there, or something else; it was not touched.
    Other,
}

/// Why a key file was not destroyed.
#[derive(Debug, thiserror::Error)]
#[error("{} can't be overwritten", path.display())]
pub struct DestroyError {
    path: PathBuf,
    source: io::Error,
}

/// Overwrites and removes the file of that key, durably. It is done again on what a crash left.
///
/// # Errors
/// If the file can't be read or overwritten.
pub fn destroy_kek(path: &Path, key: KekId) -> Result<Destroyed, DestroyError> {
    let error = |source| DestroyError {
        path: path.to_owned(),
        source,
    };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let mut file = match opened {
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(Destroyed::Gone),
        opened => opened.map_err(error)?,
    };
    let about = file.metadata().map_err(error)?;
    let length = usize::try_from(about.len()).unwrap_or(usize::MAX);
    if !about.is_file() || length > MAX {
        return Ok(Destroyed::Other);
    }
    let mut content = Zeroizing::new(vec![0; length]);
    file.read_exact(&mut content).map_err(error)?;
    // What a crash left begins with zeros, as no key does.
    if !content.iter().take(1).all(|byte| *byte == 0) {
        let found = parse(&content, path, Kind::Kek).ok();
        let found = found.and_then(|content| DataKey::from_bytes(&content));
        if found.is_none_or(|found| SoftwareKek::new(&found).id() != key) {
            return Ok(Destroyed::Other);
        }
    }
    file.write_all_at(&vec![0; length], 0).map_err(error)?;
    file.sync_all().map_err(error)?;
    drop(file);
    Ok(match remove(path) {
        Ok(()) => Destroyed::Gone,
        Err(_) => Destroyed::Emptied,
    })
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::key_file::write_kek;

    fn made(path: &Path) -> KekId {
        let key = DataKey::random().unwrap();
        write_kek(path, &key).unwrap();
        SoftwareKek::new(&key).id()
    }

    #[test]
    fn a_key_file_is_overwritten_under_all_its_names_and_removed_and_that_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("kek"), folder.path().join("other"));
        let id = made(&path);
        fs::hard_link(&path, &other).unwrap();
        assert_eq!(destroy_kek(&path, id).unwrap(), Destroyed::Gone);
        assert!(!path.exists());
        assert!(fs::read(&other).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(destroy_kek(&path, id).unwrap(), Destroyed::Gone);
        // What a crash leaves before the removal, or in the middle of the overwriting.
        assert_eq!(destroy_kek(&other, id).unwrap(), Destroyed::Gone);
        let id = made(&path);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 10], 0).unwrap();
        assert_eq!(destroy_kek(&path, id).unwrap(), Destroyed::Gone);
        assert!(!path.exists());
    }

    #[test]
    fn another_key_and_what_is_no_key_stay_as_they_are_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("kek"), folder.path().join("other"));
        let (id, _) = (made(&path), made(&other));
        let before = fs::read(&other).unwrap();
        assert_eq!(destroy_kek(&other, id).unwrap(), Destroyed::Other);
        assert_eq!(fs::read(&other).unwrap(), before);
        fs::write(&other, "a letter").unwrap();
        assert_eq!(destroy_kek(&other, id).unwrap(), Destroyed::Other);
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(destroy_kek(&link, id).is_err());
        assert!(destroy_kek(folder.path(), id).is_err());
        assert!(path.exists());
    }
}
