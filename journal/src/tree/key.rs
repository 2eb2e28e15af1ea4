//! The signing key of a log, and the public key that an auditor holds.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use signed_note::{
    Signer as _, StandardSigner, StandardVerifier, Verifier as _, key_id, new_ed25519_verifier_key,
};

/// Algorithm byte of Ed25519 in signed-note keys.
const ED25519: u8 = 1;

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("read key file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write key file {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} holds no signed-note signing key (PRIVATE+KEY+name+id+data): {why}", path.display())]
    NotASigningKey { path: PathBuf, why: String },
    #[error("{} line {line} is no signed-note verifier key (name+id+data): {why}", path.display())]
    NotAVerifierKey {
        path: PathBuf,
        line: usize,
        why: String,
    },
    #[error("{} is there already: reload the daemon, so that it takes that key over, or remove it", path.display())]
    AlreadyThere { path: PathBuf },
    #[error("{} holds no verifier key", path.display())]
    NoVerifierKey { path: PathBuf },
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}

/// Signs the checkpoints of one log. Its name is the log's origin.
pub struct SigningKey {
    signer: StandardSigner,
    verifier: StandardVerifier,
    public_text: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({}, <secret>)", self.name())
    }
}

impl SigningKey {
    /// Reads the key in `path`, or makes one for `origin`. The public key is kept beside it, in `<path>.pub`.
    pub fn open(path: &Path, origin: &str) -> Result<Self, KeyError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(text.trim()).map_err(|why| KeyError::NotASigningKey {
                path: path.to_owned(),
                why,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::generate(path, origin),
            Err(source) => Err(KeyError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads the key in `path`.
    ///
    /// # Errors
    /// If it can't be read or is none.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = fs::read_to_string(path).map_err(|source| KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(text.trim()).map_err(|why| KeyError::NotASigningKey {
            path: path.to_owned(),
            why,
        })
    }

    /// Makes the key that is to follow the one in `path`, in `<path>.next`; the daemon takes it over.
    ///
    /// # Errors
    /// If there is no key yet, or the next one can't be written, or is there already.
    pub fn prepare_next(path: &Path) -> Result<String, KeyError> {
        let key = Self::read(path)?;
        let next = next_key_path(path);
        if next.exists() {
            return Err(KeyError::AlreadyThere { path: next });
        }
        Ok(Self::generate(&next, key.name())?.public_text)
    }

    /// The key that is to follow the one in `path`, if one was prepared.
    pub(crate) fn next(&self, path: &Path) -> Result<Option<Self>, KeyError> {
        let path = next_key_path(path);
        if !path.exists() {
            return Ok(None);
        }
        let next = Self::open(&path, self.name())?;
        if next.name() != self.name() || next.public_text == self.public_text {
            return Err(KeyError::NotASigningKey {
                path,
                why: format!("it is not another key with the name {}", self.name()),
            });
        }
        Ok(Some(next))
    }

    /// Puts this key in the place of the one in `path`; the public halves of both stay known.
    pub(crate) fn replace(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Write { path, source }
        };
        let public = public_key_path(path);
        // Once the signing key is replaced, nobody else knows the old public one.
        let known = fs::read_to_string(&public).unwrap_or_default();
        if !known.lines().any(|line| line.trim() == self.public_text) {
            let all = format!("{}\n{}", known.trim_end(), self.public_text);
            write_new(&public, all.trim_start(), 0o644).map_err(failed(&public))?;
        }
        let next = next_key_path(path);
        fs::rename(&next, path).map_err(failed(path))?;
        sync_folder(path).map_err(failed(path))?;
        // Its contents are in the other file.
        let _ = fs::remove_file(public_key_path(&next));
        Ok(())
    }

    fn generate(path: &Path, origin: &str) -> Result<Self, KeyError> {
        let seed = random_seed()?;
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        let public = key.verifying_key();
        let name = key_name(origin);
        let id = key_id(&name, &[&[ED25519], public.as_bytes().as_slice()].concat());
        let data = BASE64.encode([&[ED25519], seed.as_slice()].concat());
        let private_text = format!("PRIVATE+KEY+{name}+{id:08x}+{data}");

        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Write { path, source }
        };
        make_folder(path)?;
        // The public key first: a signing key without it would be used, but never exported.
        let public_path = public_key_path(path);
        let public_text = new_ed25519_verifier_key(&name, &public);
        write_new(&public_path, &public_text, 0o644).map_err(failed(&public_path))?;
        write_new(path, &private_text, 0o600).map_err(failed(path))?;
        Self::parse(&private_text).map_err(|why| KeyError::NotASigningKey {
            path: path.to_owned(),
            why,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let signer = StandardSigner::new(text).map_err(|error| error.to_string())?;
        // The crate checks the form of the key, but gives no access to its public half.
        let data = text.splitn(5, '+').nth(4).unwrap_or_default();
        let bytes = BASE64.decode(data).map_err(|error| error.to_string())?;
        let seed: &[u8; 32] = bytes
            .get(1..)
            .and_then(|seed| seed.try_into().ok())
            .ok_or_else(|| "the key is not 32 bytes".to_owned())?;
        let public = ed25519_dalek::SigningKey::from_bytes(seed).verifying_key();
        let public_text = new_ed25519_verifier_key(signer.name(), &public);
        let verifier = StandardVerifier::new(&public_text).map_err(|error| error.to_string())?;
        Ok(Self {
            signer,
            verifier,
            public_text,
        })
    }

    /// The name of the key and the origin of its checkpoints.
    pub fn name(&self) -> &str {
        self.signer.name()
    }

    /// The public half, as auditors hold it.
    pub(crate) fn public_text(&self) -> &str {
        &self.public_text
    }

    #[cfg(test)]
    pub(crate) fn signature_prefix(&self) -> String {
        BASE64.encode([self.verifier.key_id().to_be_bytes().as_slice(), &[0; 2]].concat())[..5]
            .to_owned()
    }

    pub(crate) fn signer(&self) -> &StandardSigner {
        &self.signer
    }

    pub(crate) fn verifier(&self) -> StandardVerifier {
        self.verifier.clone()
    }
}

/// Where the public key of the signing key in `path` is kept.
pub fn public_key_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".pub");
    PathBuf::from(name)
}

/// Where the key is prepared that is to follow the one in `path`.
fn next_key_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".next");
    PathBuf::from(name)
}

/// Reads the verifier keys in `path`, one a line. A log whose key was changed needs the old one too.
pub fn read_verifier_keys(path: &Path) -> Result<Vec<StandardVerifier>, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut keys = Vec::new();
    for (at, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let key =
            StandardVerifier::new(line.trim()).map_err(|error| KeyError::NotAVerifierKey {
                path: path.to_owned(),
                line: at + 1,
                why: error.to_string(),
            })?;
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(KeyError::NoVerifierKey {
            path: path.to_owned(),
        });
    }
    Ok(keys)
}

pub(super) fn random_seed() -> Result<[u8; 32], KeyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeyError::Random)?;
    Ok(seed)
}

/// Makes the folder that a key is to lie in, for its owner only.
pub(super) fn make_folder(path: &Path) -> Result<(), KeyError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let Some(parent) = parent else { return Ok(()) };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|source| KeyError::Write {
            path: parent.to_owned(),
            source,
        })
}

/// The name that all keys have, which is the origin of their log; `None` if they have several.
#[must_use]
pub fn origin(keys: &[StandardVerifier]) -> Option<&str> {
    let first = keys.first()?.name();
    keys.iter().all(|key| key.name() == first).then_some(first)
}

/// A key name has no spaces and no plus signs (C2SP signed-note).
pub(super) fn key_name(origin: &str) -> String {
    let name: String = origin
        .chars()
        .map(|c| {
            if c.is_whitespace() || c.is_control() || c == '+' {
                '-'
            } else {
                c
            }
        })
        .collect();
    if name.is_empty() {
        "portcullis".to_owned()
    } else {
        name
    }
}

/// Writes to a temporary name and renames, so that a crash leaves no half key.
pub(super) fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut temporary = OsString::from(path);
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_private_and_with_its_public_half() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/log.key");
        let made = SigningKey::open(&path, "gw 1+a/proxy").unwrap();
        let read = SigningKey::open(&path, "other").unwrap();
        assert_eq!(made.name(), "gw-1-a/proxy");
        assert_eq!(read.name(), made.name());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let keys = read_verifier_keys(&public_key_path(&path)).unwrap();
        let signature = read.signer().sign(b"text").unwrap();
        assert!(keys[0].verify(b"text", &signature));
        assert!(!keys[0].verify(b"test", &signature));
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_plus_sign_in_the_base64_is_part_of_the_key() {
        for _ in 0..50 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log.key");
            SigningKey::open(&path, "gw").unwrap();
            SigningKey::open(&path, "gw").unwrap();
        }
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.key");
        fs::write(&path, "PRIVATE+KEY+gw+00000000+AAAA\n").unwrap();
        assert!(matches!(
            SigningKey::open(&path, "gw"),
            Err(KeyError::NotASigningKey { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"PRIVATE+KEY+gw+00000000+AAAA\n");
    }
}
