//! What survives a restart and a reboot: the allowlist and the bans, one file each.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    allowlist::{self, Allowlist},
    bans::Ban,
};

/// The directory of the state files.
#[derive(Debug, Clone)]
pub struct StateDir {
    directory: PathBuf,
}

/// Why the state can't be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    #[error("make state directory {}", directory.display())]
    Directory {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} can't be used: {message}; repair it, or restore it from a backup", path.display())]
    Malformed { path: PathBuf, message: String },
}

impl StateDir {
    /// Opens the directory, making it with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| StateError::Directory {
                directory: directory.to_owned(),
                source,
            })?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn allowlist_path(&self) -> PathBuf {
        self.directory.join("allowlist.txt")
    }

    fn bans_path(&self) -> PathBuf {
        self.directory.join("bans.json")
    }

    /// The allowlist as kept last; empty if none ever was.
    ///
    /// # Errors
    /// If the file can't be read or has a bad line: a damaged list is never taken for a shorter one.
    pub fn allowlist(&self) -> Result<Allowlist, StateError> {
        let path = self.allowlist_path();
        let Some(text) = read(&path)? else {
            return Ok(Allowlist::default());
        };
        allowlist::parse_file(&text).map_err(|faults| StateError::Malformed {
            path,
            message: faults.first().map(ToString::to_string).unwrap_or_default(),
        })
    }

    /// The bans as kept last.
    ///
    /// # Errors
    /// If the file can't be read or is damaged.
    pub fn bans(&self) -> Result<Vec<Ban>, StateError> {
        let path = self.bans_path();
        let Some(text) = read(&path)? else {
            return Ok(Vec::new());
        };
        serde_json::from_str(&text).map_err(|error| StateError::Malformed {
            path,
            message: error.to_string(),
        })
    }

    /// Keeps the allowlist; durable when this returns.
    ///
    /// # Errors
    /// If it can't be written; then the file is as before.
    pub fn keep_allowlist(&self, list: &Allowlist) -> Result<(), StateError> {
        self.replace(&self.allowlist_path(), list.to_text().as_bytes())
    }

    /// Keeps the bans; durable when this returns.
    ///
    /// # Errors
    /// If they can't be written; then the file is as before.
    pub fn keep_bans<'a>(&self, bans: impl Iterator<Item = &'a Ban>) -> Result<(), StateError> {
        let path = self.bans_path();
        let bans: Vec<&Ban> = bans.collect();
        let text = serde_json::to_vec(&bans).map_err(|error| StateError::Write {
            path: path.clone(),
            source: io::Error::other(error),
        })?;
        self.replace(&path, &text)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StateError> {
        let aside = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&aside, path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| StateError::Write {
            path: path.to_owned(),
            source,
        })
    }
}

fn read(path: &Path) -> Result<Option<String>, StateError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::allowlist::parse_file;

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let list = parse_file("203.0.113.0/24 # lab\n2001:db8::/32\n").unwrap();
        let ban = Ban {
            source: "198.51.100.7/32".parse().unwrap(),
            expires: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            reason: "test".to_owned(),
            by: "root".to_owned(),
        };
        let state = StateDir::open(directory.path()).unwrap();
        assert!(state.allowlist().unwrap().is_empty());
        state.keep_allowlist(&list).unwrap();
        state.keep_bans([&ban].into_iter()).unwrap();
        let again = StateDir::open(directory.path()).unwrap();
        assert_eq!(again.allowlist().unwrap(), list);
        assert_eq!(again.bans().unwrap(), [ban]);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_list() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        fs::write(
            directory.path().join("allowlist.txt"),
            "203.0.113.0/24\n203.0.",
        )
        .unwrap();
        assert!(matches!(
            state.allowlist(),
            Err(StateError::Malformed { .. })
        ));
        fs::write(directory.path().join("bans.json"), "[").unwrap();
        assert!(matches!(state.bans(), Err(StateError::Malformed { .. })));
    }
}
