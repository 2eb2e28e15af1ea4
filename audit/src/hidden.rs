//! Paths that a log does not say in clear: a token in their place, which shows which are equal, and beside it the path
//! sealed to an auditor's key, if that is wanted.

mod key;
mod reveal;
mod seal;
mod veil;

pub(crate) use key::kept_extension;
pub use key::{PathKey, as_recorded};
pub use portcullis_journal::token::{base, is_token};
pub use reveal::Revealer;
pub use seal::{AuditorKey, AuditorSecret};
pub use veil::{PathVeil, SEALED, says_a_path};

use std::{io, path::PathBuf};

/// Why a key of this family is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HiddenKeyError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} can be used by others (mode {mode:04o}); run `chmod 0600 {}`", path.display(), path.display())]
    ReadableByOthers { path: PathBuf, mode: u32 },
    #[error(
        "{} is no path key: it has {bytes} bytes and not 32; put the right file back, or move it away and let the daemon make \
         another, under which older records can't be searched by path",
        path.display()
    )]
    NotAPathKey { path: PathBuf, bytes: u64 },
    #[error("{} is there already; name another file", path.display())]
    AlreadyThere { path: PathBuf },
    #[error("{what} is no {expected}; `portcullis-proxy audit auditor-key FILE` makes a pair")]
    NotAnAuditorKey {
        what: String,
        expected: &'static str,
    },
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}
