//! The last good copy of a feed on disk: what it said, its signature, and what the server calls this version.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// What a feed said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) bytes: Vec<u8>,
    pub(super) signature: Option<Vec<u8>>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Seconds since 1970, if the signature proves it.
    pub(super) signed_at: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    etag: Option<String>,
    last_modified: Option<String>,
    signed_at: Option<u64>,
    /// In base64.
    signature: Option<String>,
    /// Of the content, so that halves of two copies are never taken for one.
    sha256: String,
}

pub(super) struct Store {
    directory: PathBuf,
    content: PathBuf,
    description: PathBuf,
}

impl Store {
    pub(super) fn new(directory: PathBuf, name: &str) -> Self {
        Self {
            content: directory.join(format!("{name}.content")),
            description: directory.join(format!("{name}.json")),
            directory,
        }
    }

    pub(super) fn load(&self) -> Result<Option<Copy>, String> {
        let Some(description) = read(&self.description)? else {
            return Ok(None);
        };
        let Some(bytes) = read(&self.content)? else {
            return Ok(None);
        };
        let description: Description = serde_json::from_slice(&description)
            .map_err(|error| format!("{}: {error}", self.description.display()))?;
        if description.sha256 != sha256(&bytes) {
            return Err(format!(
                "{} is not the copy that was kept",
                self.content.display()
            ));
        }
        let signature = match description.signature {
            Some(signature) => Some(
                BASE64_STANDARD
                    .decode(signature)
                    .map_err(|error| format!("{}: {error}", self.description.display()))?,
            ),
            None => None,
        };
        Ok(Some(Copy {
            bytes,
            signature,
            etag: description.etag,
            last_modified: description.last_modified,
            signed_at: description.signed_at,
        }))
    }

    pub(super) fn save(&self, copy: &Copy) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let description = Description {
            etag: copy.etag.clone(),
            last_modified: copy.last_modified.clone(),
            signed_at: copy.signed_at,
            signature: copy
                .signature
                .as_ref()
                .map(|signature| BASE64_STANDARD.encode(signature)),
            sha256: sha256(&copy.bytes),
        };
        write(&self.content, &copy.bytes)?;
        write(&self.description, &serde_json::to_vec(&description)?)?;
        fs::File::open(&self.directory)?.sync_all()
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;

    BASE64_STANDARD.encode(sha2::Sha256::digest(bytes))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The old file or the new one is there, whatever happens.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_kept_and_halves_of_two_are_not_one() {
        let directory = tempfile::TempDir::new().unwrap();
        let store = Store::new(directory.path().join("feeds"), "partner");
        assert_eq!(store.load(), Ok(None));
        let copy = |text: &str| Copy {
            bytes: text.as_bytes().to_vec(),
            signature: Some(vec![1, 2, 3]),
            etag: Some("\"1\"".to_owned()),
            last_modified: None,
            signed_at: Some(7),
        };
        store.save(&copy("a")).unwrap();
        store.save(&copy("b")).unwrap();
        assert_eq!(store.load(), Ok(Some(copy("b"))));
        fs::write(&store.content, "c").unwrap();
        assert!(
            store
                .load()
                .unwrap_err()
                .contains("not the copy that was kept")
        );
    }
}
