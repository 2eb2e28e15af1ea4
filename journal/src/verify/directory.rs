//! Checks the log in a directory. Only reads; the daemon may be writing meanwhile.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use signed_note::StandardVerifier;

use super::{Report, Verification, Witnesses};
use crate::{
    cosigned::COSIGNED,
    read::{Input, ReadError, layout},
    tree::checkpoint::CHECKPOINTS,
};

/// Why a log can't be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    #[error(transparent)]
    List(#[from] ReadError),
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no log: neither segments (000000000000.jsonl) nor checkpoints", directory.display())]
    NoLog { directory: PathBuf },
}

/// Checks the log in `directory`, and against the checkpoint in `outside`, which was kept elsewhere.
///
/// # Errors
/// If a file can't be read, or there is no log. What is wrong with the log is not an error but in the report.
pub fn verify(
    directory: &Path,
    keys: Vec<StandardVerifier>,
    outside: Option<&Path>,
) -> Result<Report, VerifyError> {
    verify_cosigned(directory, keys, outside, None)
}

/// As [`verify`], and says what `witnesses` vouch for, by what the log or the copy kept elsewhere has of them.
///
/// # Errors
/// As [`verify`].
pub fn verify_cosigned(
    directory: &Path,
    keys: Vec<StandardVerifier>,
    outside: Option<&Path>,
    witnesses: Option<Witnesses>,
) -> Result<Report, VerifyError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| VerifyError::Read { path, source }
    };
    let mut verification = Verification::new(keys).with_witnesses(witnesses);
    // Checkpoints first: those signed while the segments are read would cover records that are not read.
    let path = directory.join(CHECKPOINTS);
    let has_checkpoints = match fs::read(&path) {
        Ok(text) => {
            verification.checkpoints(CHECKPOINTS, &text);
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(read(&path)(error)),
    };
    let cosigned = directory.join(COSIGNED);
    match fs::read(&cosigned) {
        Ok(text) => verification.checkpoints_kept_elsewhere(COSIGNED, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(read(&cosigned)(error)),
    }
    if let Some(path) = outside {
        let text = fs::read(path).map_err(read(path))?;
        verification.checkpoints_kept_elsewhere(&path.display().to_string(), &text);
    }
    let layout = layout(directory)?;
    if layout.segments.is_empty() && layout.tombstones.is_empty() && !has_checkpoints {
        return Err(VerifyError::NoLog {
            directory: directory.to_owned(),
        });
    }
    let mut tombstones = layout.tombstones.into_iter().peekable();
    for (at, file) in layout.segments.iter().enumerate() {
        while let Some(gone) = tombstones.next_if(|gone| gone.first <= file.first) {
            verification.deleted(&gone);
        }
        let next = layout.segments.get(at + 1).map(|next| next.first);
        match Input::open(file) {
            Ok(Input::Plain(mut input)) => verification
                .segment(&file.name, &mut input, next.is_none())
                .map_err(read(&file.path))?,
            Ok(Input::Sealed(mut segment)) => verification
                .sealed_segment(&file.name, &mut segment)
                .map_err(read(&file.path))?,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                verification.unreadable_segment(&file.name, file.first, next)
            }
            Err(error) => return Err(read(&file.path)(error)),
        }
    }
    tombstones.for_each(|gone| verification.deleted(&gone));
    match fs::read(&path) {
        Ok(text) => verification.checkpoints_signed_meanwhile(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(read(&path)(error)),
    }
    Ok(verification.finish())
}
