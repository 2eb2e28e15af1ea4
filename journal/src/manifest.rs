//! What one session delivered, as a signed text that is worth something without the log: names, sizes, SHA-256.
//!
//! It is a C2SP signed note by the log's key. Its first lines are such that no checkpoint can be taken for a manifest, nor a
//! manifest for a checkpoint, whatever the key is called: the second line of a checkpoint is a number.

mod deliveries;
mod delivery;
mod form;
mod log;
mod stored;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use signed_note::{Signature, Signer as _, StandardVerifier, Verifier as _};

use crate::{
    proof::ProofError,
    read::ReadError,
    token,
    tree::{checkpoint::Head, key::SigningKey},
};

pub use deliveries::{Deliveries, Mark};
pub use log::{Scope, Unsealing, Wish, compare, of_session};
pub use stored::{Stored, compare_file};

/// Longest text that is taken for a manifest, in bytes.
pub const LONGEST: u64 = 256 << 20;

/// What one session delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Name of the log's key.
    pub origin: String,
    /// The records that it was made from are among those that this head covers.
    pub head: Head,
    /// 32 hexadecimal digits.
    pub session: String,
    pub user: String,
    /// As records write times.
    pub begun: String,
    pub ended: String,
    /// What it is about, as clients see it: all that was delivered at or below this path. `/` is the whole session. May be a
    /// token.
    pub scope: Vec<u8>,
    /// The directory that the names are below.
    pub below: Vec<u8>,
    /// By name.
    pub entries: Vec<Entry>,
}

/// One file, under the name that it had at the session's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As clients see it, from the root on; or what the log says in its place.
    pub path: Vec<u8>,
    /// What the log says, if `path` was opened with the auditor's key.
    pub recorded: Option<Vec<u8>>,
    /// Bytes, if the log says how many.
    pub size: Option<u64>,
    /// When its upload was closed.
    pub time: String,
    /// Or a code that says why there is none.
    pub sha256: Result<[u8; 32], String>,
    /// Numbers of the records that say so: of the upload, then of each renaming.
    pub records: Vec<u64>,
}

/// Why there is no manifest, or it is worth nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    #[error(transparent)]
    List(#[from] ReadError),
    #[error(transparent)]
    Log(#[from] ProofError),
    #[error("the log has no session {session}")]
    NoSuchSession { session: String },
    #[error("session {session} goes on; wait for its end")]
    GoesOn { session: String },
    #[error(
        "session {session} has no record of its mounts: nobody logged in, or the gateway was too old; `audit session` tells what there is"
    )]
    NoMounts { session: String },
    #[error("session {session} had no mount {at}; it had {had}")]
    NoSuchMount {
        session: String,
        at: String,
        had: String,
    },
    #[error(
        "record {record} is deleted, as a tombstone says; a copy of the log that has it can tell"
    )]
    Deleted { record: u64 },
    #[error(
        "the log is signed by {origin}, and this key is {name}; give the one that signs the log"
    )]
    OtherOrigin { origin: String, name: String },
    #[error("not a manifest: {why}")]
    NotAManifest { why: String },
    #[error(
        "the manifest is signed by {signers}, with none of these keys; if the log's key was changed, `portcullis-verify keys` gives the new one"
    )]
    OtherKey { signers: String },
    #[error("the manifest is not what its key signed")]
    BadSignature,
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl ManifestError {
    /// The thing itself is wrong, and not a file that can't be read.
    #[must_use]
    pub fn is_finding(&self) -> bool {
        match self {
            Self::List(_) | Self::Read { .. } => false,
            Self::Log(error) => !matches!(error, ProofError::List(_) | ProofError::Read { .. }),
            Self::NoSuchSession { .. }
            | Self::GoesOn { .. }
            | Self::NoMounts { .. }
            | Self::NoSuchMount { .. }
            | Self::Deleted { .. }
            | Self::OtherOrigin { .. }
            | Self::NotAManifest { .. }
            | Self::OtherKey { .. }
            | Self::BadSignature => true,
        }
    }
}

impl Manifest {
    /// The text with its signature.
    ///
    /// # Errors
    /// If the key is not that of the manifest's log.
    pub fn sign(&self, key: &SigningKey) -> Result<String, ManifestError> {
        if key.name() != self.origin {
            return Err(ManifestError::OtherOrigin {
                origin: self.origin.clone(),
                name: key.name().to_owned(),
            });
        }
        let text = self.to_text();
        let signer = key.signer();
        let signature =
            signer
                .sign(text.as_bytes())
                .map_err(|error| ManifestError::NotAManifest {
                    why: error.to_string(),
                })?;
        let signature = Signature::new(signer.name().to_owned(), signer.key_id(), signature)
            .map_err(|error| ManifestError::NotAManifest {
                why: error.to_string(),
            })?;
        let line = signature.to_bytes();
        Ok(format!("{text}\n{}", String::from_utf8_lossy(&line)))
    }

    /// Reads what would be signed. Nobody vouches for it.
    ///
    /// # Errors
    /// If it is not what [`to_text`](Self::to_text) writes.
    pub fn unsigned(text: &str) -> Result<Self, ManifestError> {
        Self::of_text(text).map_err(|why| ManifestError::NotAManifest { why })
    }

    /// Reads a manifest for somebody who trusts `keys`.
    ///
    /// # Errors
    /// If it is none, or one of the keys did not sign it.
    pub fn check(note: &[u8], keys: &[StandardVerifier]) -> Result<Self, ManifestError> {
        let not = |why: &str| ManifestError::NotAManifest {
            why: why.to_owned(),
        };
        let note = std::str::from_utf8(note).map_err(|_| not("it is not UTF-8"))?;
        if !note.starts_with(form::FIRST) {
            return Err(not(&format!(
                "it does not begin with the line `{}`",
                form::FIRST.trim_end()
            )));
        }
        let (text, signatures) = note
            .rsplit_once("\n\n")
            .ok_or_else(|| not("the signature behind an empty line is missing"))?;
        let text = format!("{text}\n");
        let manifest = Self::unsigned(&text)?;
        let mut signers = Vec::new();
        for line in signatures
            .strip_suffix('\n')
            .unwrap_or_default()
            .split('\n')
        {
            let signature = Signature::from_bytes(line.as_bytes())
                .map_err(|_| not("a line behind the empty one is not a signature"))?;
            let key = keys
                .iter()
                .find(|key| key.name() == signature.name() && key.key_id() == signature.id());
            match key {
                Some(key) if !key.verify(text.as_bytes(), signature.signature()) => {
                    return Err(ManifestError::BadSignature);
                }
                // A key that signs for several logs can't lend one log's files to another.
                Some(key) if key.name() == manifest.origin => return Ok(manifest),
                Some(_) | None => {
                    signers.push(format!("{}+{:08x}", signature.name(), signature.id()));
                }
            }
        }
        Err(ManifestError::OtherKey {
            signers: signers.join(", "),
        })
    }

    /// Its name as the text has it.
    #[must_use]
    pub fn name<'a>(&self, entry: &'a Entry) -> &'a [u8] {
        if token::is_token(&entry.path) {
            return &entry.path;
        }
        let rest = entry.path.strip_prefix(token::beginning(&self.below));
        rest.and_then(|rest| rest.strip_prefix(b"/"))
            .unwrap_or(&entry.path)
    }
}
