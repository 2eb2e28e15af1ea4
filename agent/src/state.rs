//! What survives a restart and a reboot: the lists, their history and the bans.
//!
//! Every change is one record at the end of a log, durable before it is acted on; its cost does not depend on how much is kept.
//! A thread of its own folds the log into a snapshot from time to time, from the files alone. A start reads the newest
//! snapshot and the records behind it. Records stay for as long as the history wants them.

mod content;
mod frame;
pub mod heartbeat;
mod history;
mod migrate;
mod record;
mod segment;
mod snapshot;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use ipnet::IpNet;

pub(crate) use self::content::shift;
pub use self::{
    content::Content,
    history::{HistoryEntry, HistoryLimits, Outcome},
    record::Revision,
};
use self::{
    history::History,
    record::{Record, delta_from_text, delta_to_text},
    segment::{Location, Segment},
};
use crate::{bans::Ban, lists::Delta};

/// The log on the disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    segment: Segment,
    segment_bytes: u64,
    /// The number of the next record.
    next: u64,
    /// The last record that the newest snapshot has.
    base: u64,
    digest: String,
    history: History,
    compaction: Option<JoinHandle<Result<u64, StateError>>>,
}

/// How the log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A segment is closed, and folded into a snapshot, once it is longer.
    pub segment_bytes: u64,
    pub history: HistoryLimits,
}

/// A record that was kept last, and can still be taken back.
#[derive(Debug)]
#[must_use = "what is kept stays unless it is undone"]
pub struct Kept {
    location: Location,
    digest_before: String,
    is_revision: bool,
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
    #[error("{} can't be used: {message}; repair it, or restore the state directory from a backup", path.display())]
    Malformed { path: PathBuf, message: String },
    #[error("revision {revision} is not in the history, which begins with revision {first}")]
    NoSuchRevision { revision: u64, first: u64 },
}

impl Store {
    /// Opens the log in `directory`, or begins one; takes over the files of the version before this one.
    ///
    /// # Errors
    /// If it can't be read or written, or something other than the end of the log is damaged.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, Content), StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| StateError::Directory {
                directory: directory.to_owned(),
                source,
            })?;
        let base = match snapshot::list(directory)?.last() {
            Some(base) => *base,
            None => {
                // A log without a snapshot began empty.
                if segment::list(directory)?.is_empty() {
                    migrate::migrate(directory)?;
                }
                0
            }
        };
        let mut content = load(directory, base)?;
        let segments = segment::list(directory)?;
        let mut history = History::new(options.history);
        let mut next = base + 1;
        let mut resume = None;
        for first in &segments {
            let is_last = segments.last() == Some(first);
            let good = segment::scan(directory, *first, is_last, |frame, location| {
                let record = read_record(directory, &location, &frame.meta)?;
                if frame.sequence > base {
                    if frame.sequence != next {
                        return Err(damaged(
                            directory,
                            &location,
                            "a record is missing before it",
                        ));
                    }
                    next += 1;
                    let delta = read_delta(directory, &location, &record, &frame.body)?;
                    content.apply(&record, delta.as_ref());
                }
                history.note(&record, &location);
                Ok(())
            })?;
            resume = Some((*first, good));
        }
        let segment = match resume {
            Some((first, good)) => Segment::resume(directory, first, good)?,
            None => Segment::create(directory, next)?,
        };
        let mut store = Self {
            directory: directory.to_owned(),
            segment,
            segment_bytes: options.segment_bytes,
            next,
            base,
            digest: content.digest().to_owned(),
            history,
            compaction: None,
        };
        store.forget_old();
        Ok((store, content))
    }

    /// Keeps a change of the lists; gives the revision with its digest.
    ///
    /// # Errors
    /// If it can't be written; then the state is as before.
    pub fn keep_lists(
        &mut self,
        revision: Revision,
        delta: &Delta,
    ) -> Result<(Revision, Kept), StateError> {
        let body = delta_to_text(delta).map_err(|error| self.unwritable(error))?;
        let digest = record::digest(&self.digest, body.as_bytes());
        let revision = Revision { digest, ..revision };
        let record = Record::Lists(revision.clone());
        let kept = self.append(&record, body.as_bytes())?;
        self.digest.clone_from(&revision.digest);
        Ok((revision, kept))
    }

    /// Keeps that the change which made this revision stays.
    ///
    /// # Errors
    /// As for [`Store::keep_lists`].
    pub fn keep_confirmed(&mut self, revision: u64) -> Result<Kept, StateError> {
        self.append(&Record::Confirmed { revision }, &[])
    }

    /// Keeps a ban.
    ///
    /// # Errors
    /// As for [`Store::keep_lists`].
    pub fn keep_ban(&mut self, ban: &Ban) -> Result<Kept, StateError> {
        self.append(&Record::Banned { ban: ban.clone() }, &[])
    }

    /// Keeps that bans are lifted.
    ///
    /// # Errors
    /// As for [`Store::keep_lists`].
    pub fn keep_unban(&mut self, sources: Vec<IpNet>) -> Result<Kept, StateError> {
        self.append(&Record::Unbanned { sources }, &[])
    }

    /// Keeps that the ends of all bans move with the wall clock.
    ///
    /// # Errors
    /// As for [`Store::keep_lists`].
    pub fn keep_clock_shift(&mut self, seconds: i64) -> Result<Kept, StateError> {
        self.append(&Record::ClockShifted { seconds }, &[])
    }

    /// Takes back what was kept last, because it is not to be acted on.
    ///
    /// # Errors
    /// If it can't; then a restart would act on it, and says so on record.
    pub fn undo(&mut self, kept: Kept) -> Result<(), StateError> {
        self.segment.cut(&kept.location)?;
        self.next -= 1;
        self.digest = kept.digest_before;
        if kept.is_revision {
            self.history.forget_last();
        }
        Ok(())
    }

    /// The revisions that can still be shown and gone back to, oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &HistoryEntry> {
        self.history.entries()
    }

    /// What has to change for the lists of revision `from` to become those of `to`.
    ///
    /// # Errors
    /// If one of them is not in the history, or can't be read.
    pub fn delta(&self, from: u64, to: u64) -> Result<Delta, StateError> {
        let (low, high) = (from.min(to), from.max(to));
        let mut delta = Delta::default();
        for revision in low.saturating_add(1)..=high {
            let location = self
                .history
                .location(revision)
                .filter(|_| self.history.has_state(low) && self.history.has_state(high))
                .ok_or_else(|| StateError::NoSuchRevision {
                    revision: if self.history.has_state(low) {
                        high
                    } else {
                        low
                    },
                    first: self.history.first(),
                })?;
            let frame = segment::read(&self.directory, location)?;
            let record = read_record(&self.directory, location, &frame.meta)?;
            if let Some(step) = read_delta(&self.directory, location, &record, &frame.body)? {
                delta = delta.then(step);
            }
        }
        Ok(if from <= to { delta } else { delta.inverse() })
    }

    /// Finishes a snapshot that is ready, and removes what it made superfluous.
    pub fn tend(&mut self) {
        if !self
            .compaction
            .as_ref()
            .is_some_and(JoinHandle::is_finished)
        {
            return;
        }
        match self.compaction.take().map(JoinHandle::join) {
            Some(Ok(Ok(base))) => {
                self.base = base;
                self.forget_old();
            }
            // The log alone is enough; the next full segment tries again.
            Some(Ok(Err(error))) => tracing::error!(%error, "no snapshot of the state"),
            Some(Err(_)) => tracing::error!("the thread that makes snapshots panicked"),
            None => {}
        }
    }

    fn append(&mut self, record: &Record, body: &[u8]) -> Result<Kept, StateError> {
        if self.segment.length() >= self.segment_bytes && self.segment.first() < self.next {
            self.rotate()?;
        }
        let meta = serde_json::to_vec(record).map_err(|error| self.unwritable(error))?;
        let frame =
            frame::encode(self.next, &meta, body).map_err(|error| self.unwritable(error))?;
        let location = self.segment.append(&frame)?;
        self.next += 1;
        self.history.note(record, &location);
        Ok(Kept {
            location,
            digest_before: self.digest.clone(),
            is_revision: matches!(record, Record::Lists(_)),
        })
    }

    fn rotate(&mut self) -> Result<(), StateError> {
        self.segment = Segment::create(&self.directory, self.next)?;
        self.tend();
        if self.compaction.is_none() {
            let (directory, base, end) = (self.directory.clone(), self.base, self.next - 1);
            let spawned = thread::Builder::new()
                .name("snapshot".to_owned())
                .spawn(move || compact(&directory, base, end));
            match spawned {
                Ok(thread) => self.compaction = Some(thread),
                Err(error) => tracing::error!(%error, "no thread for a snapshot of the state"),
            }
        }
        Ok(())
    }

    /// Removes older snapshots, and segments that neither the newest snapshot nor the history needs.
    fn forget_old(&mut self) {
        let mut clean = || -> Result<(), StateError> {
            for old in snapshot::list(&self.directory)? {
                if old < self.base {
                    remove(&snapshot::path(&self.directory, old));
                }
            }
            let segments = segment::list(&self.directory)?;
            let sizes: Vec<(u64, u64)> = segments
                .iter()
                .map(|first| {
                    let path = segment::path(&self.directory, *first);
                    (*first, fs::metadata(path).map_or(0, |data| data.len()))
                })
                .collect();
            // A segment ends where the next one begins; the one that is written to stays.
            let closed = sizes.iter().zip(sizes.iter().skip(1));
            let mut bytes: u64 = sizes.iter().map(|(_, size)| size).sum();
            for ((first, size), (next, _)) in closed {
                let is_folded = *next <= self.base + 1;
                if !is_folded || self.history.wants(*first, bytes) {
                    break;
                }
                remove(&segment::path(&self.directory, *first));
                self.history.forget_segment(*first);
                bytes -= size;
            }
            Ok(())
        };
        if let Err(error) = clean() {
            tracing::warn!(%error, "can't tidy the state directory");
        }
    }

    fn unwritable(&self, error: impl Into<io::Error>) -> StateError {
        StateError::Write {
            path: segment::path(&self.directory, self.segment.first()),
            source: error.into(),
        }
    }
}

/// Waits for a snapshot under way, so that the directory is left tidy.
impl Drop for Store {
    fn drop(&mut self) {
        if let Some(thread) = self.compaction.take() {
            // What it has to say is said by the next start.
            let _ = thread.join();
        }
    }
}

/// Folds the records after `base`, up to `end`, into a snapshot; gives its number.
fn compact(directory: &Path, base: u64, end: u64) -> Result<u64, StateError> {
    let mut content = load(directory, base)?;
    for first in segment::list(directory)? {
        if first > end {
            break;
        }
        segment::scan(directory, first, false, |frame, location| {
            if frame.sequence > base && frame.sequence <= end {
                let record = read_record(directory, &location, &frame.meta)?;
                let delta = read_delta(directory, &location, &record, &frame.body)?;
                content.apply(&record, delta.as_ref());
            }
            Ok(())
        })?;
    }
    snapshot::write(directory, end, &content)?;
    Ok(end)
}

fn load(directory: &Path, base: u64) -> Result<Content, StateError> {
    if snapshot::path(directory, base).exists() {
        snapshot::read(directory, base)
    } else {
        Ok(Content::default())
    }
}

fn read_record(directory: &Path, location: &Location, meta: &[u8]) -> Result<Record, StateError> {
    serde_json::from_slice(meta).map_err(|error| damaged(directory, location, &error.to_string()))
}

fn read_delta(
    directory: &Path,
    location: &Location,
    record: &Record,
    body: &[u8],
) -> Result<Option<Delta>, StateError> {
    match record {
        Record::Lists(_) => delta_from_text(body)
            .map(Some)
            .map_err(|error| damaged(directory, location, &error.to_string())),
        Record::Confirmed { .. }
        | Record::Banned { .. }
        | Record::Unbanned { .. }
        | Record::ClockShifted { .. } => Ok(None),
    }
}

fn damaged(directory: &Path, location: &Location, message: &str) -> StateError {
    StateError::Malformed {
        path: segment::path(directory, location.segment),
        message: format!("record at byte {}: {message}", location.offset),
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "can't remove");
    }
}

#[cfg(test)]
mod tests;
