//! What a witness knows of each log, durable before anybody hears of it.
//!
//! A log has a file `<SHA-256 of the origin>.cosigned` with its last cosigned head. `<...>.refused` keeps heads that the
//! log's own key signed and that contradict the cosigned one: proof that there were two logs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use portcullis_journal::{
    tree::{
        checkpoint::notes,
        cosignature::{CosigningKey, WitnessKey, cosignatures},
        key::{KeyError, read_verifier_keys},
    },
    witness::{Known, NotKept, Refusal, Request},
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::config::{WitnessConfig, WitnessedLog};

/// Bytes of contradicting heads that are kept of a log: some hundred.
const MOST_EVIDENCE: usize = 64 << 10;

/// Why a witness can't begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("another witness works in {}; stop it first", directory.display())]
    InUse { directory: PathBuf },
    #[error("use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{}: put a copy back or the right keys; without the file the witness would cosign another log of the name {origin:?}", path.display()
    )]
    NotKept {
        path: PathBuf,
        origin: String,
        source: NotKept,
    },
}

/// Why a head is not cosigned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("keep {}", path.display())]
    Keep { path: PathBuf, source: io::Error },
}

/// All that a witness knows.
#[derive(Debug)]
pub struct Store {
    own: CosigningKey,
    /// By origin.
    logs: BTreeMap<String, Log>,
    _lock: File,
}

#[derive(Debug)]
struct Log {
    files: Files,
    /// Held from the decision until it is durable: two requests can't both continue the same head.
    known: Mutex<Known>,
}

/// What a witness keeps of one log.
#[derive(Debug)]
struct Files {
    cosigned: PathBuf,
    refused: PathBuf,
}

impl Files {
    fn of(directory: &Path, origin: &str) -> Self {
        let hash = origin_hash(origin);
        Self {
            cosigned: directory.join(format!("{hash}.cosigned")),
            refused: directory.join(format!("{hash}.refused")),
        }
    }
}

/// The name of a log in addresses and file names.
#[must_use]
pub fn origin_hash(origin: &str) -> String {
    hex::encode(Sha256::digest(origin.as_bytes()))
}

/// The witness's key, which is made if there is none.
///
/// # Errors
/// If it can't be read or made.
pub fn key(config: &WitnessConfig) -> Result<CosigningKey, KeyError> {
    CosigningKey::open(&config.signing_key, &config.name)
}

impl Store {
    /// Reads what is known of each log of the configuration.
    ///
    /// # Errors
    /// If something of it can't be read, or another witness has it. Nothing that is damaged is taken for new.
    pub fn open(config: &WitnessConfig) -> Result<Self, StoreError> {
        let directory = &config.directory;
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(at(directory))?;
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(at(&path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| StoreError::InUse {
            directory: directory.clone(),
        })?;
        let own = key(config)?;
        let mut logs = BTreeMap::new();
        for log in &config.logs {
            let files = Files::of(directory, &log.origin);
            let known = Mutex::new(known(log, &files, own.public())?);
            logs.insert(log.origin.clone(), Log { files, known });
        }
        Ok(Self {
            own,
            logs,
            _lock: lock,
        })
    }

    /// The key that others check its cosignatures with.
    #[must_use]
    pub fn public(&self) -> &WitnessKey {
        self.own.public()
    }

    /// Cosigns a head at a time in seconds since 1970; gives the signature lines. Waits for the disk.
    ///
    /// # Errors
    /// If it is refused, or can't be kept: then it is not cosigned.
    pub fn add(&self, body: &[u8], time: u64) -> Result<Vec<u8>, AddError> {
        let request = Request::parse(body)?;
        let origin = request.origin()?;
        let Some(log) = self.logs.get(&origin) else {
            return Err(Refusal::UnknownLog { origin }.into());
        };
        let mut known = log.lock();
        let answer = match known.cosign(&request, &self.own, time) {
            Ok(answer) => answer,
            Err(refusal) => {
                if let Refusal::Inconsistent { .. } = refusal {
                    log.keep_evidence(&origin, request.note);
                }
                return Err(refusal.into());
            }
        };
        let path = &log.files.cosigned;
        replace(path, &answer.known.to_bytes()).map_err(|source| AddError::Keep {
            path: path.clone(),
            source,
        })?;
        *known = answer.known;
        Ok(answer.lines)
    }

    /// The last cosigned head of the log whose origin has that SHA-256, in hexadecimal digits.
    #[must_use]
    pub fn latest(&self, hash: &str) -> Option<Vec<u8>> {
        let log = self
            .logs
            .iter()
            .find(|(origin, _)| origin_hash(origin) == hash)?
            .1;
        log.lock().latest().map(<[u8]>::to_vec)
    }

    /// Records that are cosigned of each log.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.logs
            .iter()
            .map(|(origin, log)| (origin.as_str(), log.lock().size()))
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // It is replaced whole, or not at all.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a head that the log signed and that contradicts the cosigned one. Without room for it there are enough already.
    fn keep_evidence(&self, origin: &str, note: &[u8]) {
        let path = &self.files.refused;
        let mut kept = fs::read(path).unwrap_or_default();
        let is_there = notes(&kept).0.contains(&note);
        if is_there || kept.len() + note.len() > MOST_EVIDENCE {
            return;
        }
        kept.extend_from_slice(note);
        if let Err(error) = replace(path, &kept) {
            tracing::error!(origin, %error, "the proof that a log was changed is not kept");
        }
    }
}

/// What a witness has to say of a log without serving it.
#[derive(Debug)]
pub struct Summary {
    pub origin: String,
    /// Records that are cosigned.
    pub size: u64,
    /// When, in seconds since 1970.
    pub time: Option<u64>,
    /// Heads that contradict it, and where they are kept.
    pub refused: usize,
    pub evidence: PathBuf,
}

/// What is kept of each log; the witness may run.
///
/// # Errors
/// If something of it can't be read.
pub fn summaries(config: &WitnessConfig) -> Result<Vec<Summary>, StoreError> {
    let own = key(config)?;
    let of = |log: &WitnessedLog| {
        let files = Files::of(&config.directory, &log.origin);
        let known = known(log, &files, own.public())?;
        let own = std::slice::from_ref(own.public());
        let cosigned = known.latest().and_then(|note| cosignatures(note, own).ok());
        let refused = read(&files.refused)?.unwrap_or_default();
        Ok(Summary {
            origin: log.origin.clone(),
            size: known.size(),
            time: cosigned
                .and_then(|found| found.first().copied())
                .map(|own| own.time),
            refused: notes(&refused).0.len(),
            evidence: files.refused,
        })
    };
    config.logs.iter().map(of).collect()
}

fn known(log: &WitnessedLog, files: &Files, own: &WitnessKey) -> Result<Known, StoreError> {
    let keys = read_verifier_keys(&log.key_file)?;
    match read(&files.cosigned)? {
        None => Ok(Known::new(keys)),
        Some(text) => Known::parse(&text, keys, own).map_err(|source| StoreError::NotKept {
            path: files.cosigned.clone(),
            origin: log.origin.clone(),
            source,
        }),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a file in one piece; durable on return, and so is its name.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
