//! The folder of the manifests that the daemon writes by itself: `<day>/<user>-<session>.manifest`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use chrono::NaiveDate;
use portcullis_journal::manifest::{LONGEST, Manifest};
use sha2::{Digest as _, Sha256};

const SUFFIX: &str = ".manifest";
/// What is not whole is called so.
const UNFINISHED: &str = ".new";
/// Where the journal was read to.
const MARK: &str = "position";
/// Longest name of a user in a file's name, in bytes; the session's number makes it the only one.
const LONGEST_USER: usize = 120;

/// The folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// What became of a manifest that is on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Same,
    Missing,
    Changed,
}

impl Kept {
    /// The word in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "ok",
            Self::Missing => "missing",
            Self::Changed => "changed",
        }
    }
}

impl Folder {
    pub fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Makes it, with mode 0700, if it does not exist.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn make(&self) -> io::Result<()> {
        make_below(&self.0)
    }

    /// Puts a manifest under its name, whole and durable. One that is there is replaced.
    ///
    /// # Errors
    /// If it can't be written; what was there is there.
    pub fn put(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let path = self.path(name).ok_or(io::ErrorKind::InvalidFilename)?;
        let day = path.parent().unwrap_or(&self.0);
        make_below(day)?;
        replace(&path, text)?;
        sync(day)?;
        sync(&self.0)
    }

    /// What is there of one, which had this SHA-256.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn state(&self, name: &str, sha256: &str) -> io::Result<Kept> {
        let Some(path) = self.path(name) else {
            return Ok(Kept::Missing);
        };
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_file() || found.len() > LONGEST => return Ok(Kept::Changed),
            Ok(_) => {}
            Err(error) if is_absent(&error) => return Ok(Kept::Missing),
            Err(error) => return Err(error),
        }
        let mut digest = Sha256::new();
        let mut file = File::open(&path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            digest.update(buffer.get(..read).unwrap_or_default());
        }
        Ok(if hex::encode(digest.finalize()) == sha256 {
            Kept::Same
        } else {
            Kept::Changed
        })
    }

    /// The mark, if there is one that can be read.
    ///
    /// # Errors
    /// If it is there and can't be read.
    pub fn mark(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(MARK)) {
            Ok(mark) => Ok(Some(mark)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a mark in the place of the one before.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep_mark(&self, mark: &[u8]) -> io::Result<()> {
        replace(&self.0.join(MARK), mark)?;
        sync(&self.0)
    }

    /// Removes the days before `first`; how many.
    ///
    /// # Errors
    /// If something can't be removed; it is tried again at the next time.
    pub fn remove_before(&self, first: NaiveDate) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let day = name
                .to_str()
                .and_then(|name| NaiveDate::parse_from_str(name, "%Y-%m-%d").ok());
            if day.is_some_and(|day| day < first) && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
                removed += 1;
            }
        }
        if removed > 0 {
            sync(&self.0)?;
        }
        Ok(removed)
    }

    /// `None` for a name that none of ours is, such as one that leads elsewhere.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(day)), Some(Component::Normal(file)), None) =
            (parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        Some(self.0.join(day).join(file))
    }
}

/// The name of a manifest's file below the folder: the day of the session's end, UTC, then user and session. Who wrote it can be
/// told from it as far as from the journal, and no name of a user leads elsewhere.
pub fn file_name(manifest: &Manifest) -> String {
    let day = manifest.ended.get(..10).unwrap_or("unknown");
    let mut user = String::new();
    for byte in manifest.user.bytes() {
        let is_plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'@' | b'+' | b'-')
            || byte == b'.' && !user.is_empty();
        let written = if is_plain {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        };
        if user.len() + written.len() > LONGEST_USER {
            break;
        }
        user.push_str(&written);
    }
    format!("{day}/{user}-{}{SUFFIX}", manifest.session)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn make_below(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // A full disk gets its room back.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use portcullis_journal::manifest::Manifest;

    use super::*;

    fn named(user: &str) -> String {
        let text = format!(
            "# portcullis-manifest@v1\n# log gw1/log\n# records 1 {}=\n# session {}\n# user alice\n\
             # time 2026-11-22T23:59:59.000000Z 2026-11-23T00:00:01.000000Z\n# scope /\n# below /\n# files 0\n",
            "A".repeat(43),
            "5a".repeat(16)
        );
        let manifest = Manifest {
            user: user.to_owned(),
            ..Manifest::unsigned(&text).unwrap()
        };
        file_name(&manifest)
    }

    #[test]
    fn a_name_says_day_user_and_session_and_leads_nowhere_else() {
        let session = "5a".repeat(16);
        for (user, expected) in [
            ("alice", "alice"),
            ("lab.7@acme-corp_x+1", "lab.7@acme-corp_x+1"),
            ("..", "%2E."),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("a/b\nc d%", "a%2Fb%0Ac%20d%25"),
            ("\u{202e}é", "%E2%80%AE%C3%A9"),
            ("", ""),
        ] {
            let expected = format!("2026-11-23/{expected}-{session}.manifest");
            assert_eq!(named(user), expected);
        }
        let long = named(&"ä".repeat(10_000));
        assert!(long.len() < 255, "{long}");
        assert_ne!(named("a/b"), named("a%2Fb"));
    }

    #[test]
    fn what_is_there_is_as_it_was_put_or_is_missing_or_changed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::at(&folder.path().join("one/manifests"));
        folder.make().unwrap();
        let digest = |text: &str| hex::encode(Sha256::digest(text));
        let name = "2026-11-23/alice-5a.manifest";
        folder.put(name, b"one").unwrap();
        assert_eq!(folder.state(name, &digest("one")).unwrap(), Kept::Same);
        folder.put(name, b"two").unwrap();
        assert_eq!(folder.state(name, &digest("one")).unwrap(), Kept::Changed);
        let all: Vec<_> = fs::read_dir(folder.0.join("2026-11-23")).unwrap().collect();
        assert_eq!(all.len(), 1);
        for elsewhere in [
            "2026-11-23/bob-5a.manifest",
            "../x",
            "/etc/passwd",
            "a/../b",
            "a",
        ] {
            let state = folder.state(elsewhere, &digest("one")).unwrap();
            assert_eq!(state, Kept::Missing, "{elsewhere}");
            if elsewhere.contains("..") || elsewhere.starts_with('/') {
                assert!(folder.put(elsewhere, b"x").is_err(), "{elsewhere}");
            }
        }
        let path = folder.0.join(name);
        let other = folder.0.join("elsewhere");
        fs::rename(&path, &other).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(folder.state(name, &digest("two")).unwrap(), Kept::Changed);
    }

    #[test]
    fn only_days_that_are_over_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path());
        for day in ["2026-11-21", "2026-11-22", "notes"] {
            folder.put(&format!("{day}/a-1.manifest"), b"x").unwrap();
        }
        folder.keep_mark(b"mark").unwrap();
        let first = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
        assert_eq!(folder.remove_before(first).unwrap(), 1);
        assert_eq!(folder.remove_before(first).unwrap(), 0);
        assert!(!root.path().join("2026-11-21").exists());
        assert!(root.path().join("2026-11-22/a-1.manifest").exists());
        assert!(root.path().join("notes/a-1.manifest").exists());
        assert_eq!(folder.mark().unwrap().as_deref(), Some(b"mark".as_slice()));
    }
}
