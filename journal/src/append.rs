//! Appending with group commit.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::record::{Event, Intent, RecordId, Recorded};

/// Where and how a journal is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the segments; made if it does not exist, with mode 0700.
    pub directory: PathBuf,
    /// Name of this machine in every record.
    pub node: String,
    /// Ed25519 signing key file in signed-note form; made with mode 0600 if it does not exist.
    pub signing_key: PathBuf,
    /// How long an append may wait for others to share its fdatasync.
    pub max_delay: Duration,
    /// A segment is closed once it is longer, in bytes.
    pub segment_bytes: u64,
    /// Bytes kept in reserve, so that a full disk can itself be recorded.
    pub reserve_bytes: u64,
}

/// What [`Journal::open`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records already in the log.
    pub records: u64,
    /// Bytes of a torn last record that were dropped.
    pub torn_bytes: u64,
    /// Operations that have an intent and no outcome: their end is unknown.
    pub unknown: Vec<(crate::SessionId, crate::OperationId)>,
}

/// The state of a journal, for `status` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Records that are durable.
    pub durable: u64,
    /// False from a failed write until the next that succeeds.
    pub healthy: bool,
}

/// Why a journal can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("open journal directory {}", directory.display())]
    Directory {
        directory: PathBuf,
        source: std::io::Error,
    },
}

/// Why an event is not on record.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    #[error("the journal can't be written: {message}")]
    Write { message: String },
    #[error("the journal is closed")]
    Closed,
}

/// The one writer of a log. Clones share it.
#[derive(Debug, Clone)]
pub struct Journal;

/// An append under way. It goes on even if this is dropped; awaiting it waits for durability.
#[must_use = "an append is durable only once this resolves"]
#[derive(Debug)]
pub struct Pending;

/// An intent under way.
#[must_use = "an intent is durable only once this resolves"]
#[derive(Debug)]
pub struct PendingIntent<I>(Option<I>);

impl Journal {
    /// Opens the log in `options.directory`, or begins one; drops a torn last record and says so in the log.
    ///
    /// # Errors
    /// If the directory can't be read or written, another process has it open, or what it holds is not a log.
    pub fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        let _ = options;
        todo!()
    }

    /// Puts `event` at the end of the log: in the order of the calls, at once; the result says when it is durable.
    pub fn append(&self, event: Event) -> Pending {
        let _ = event;
        todo!()
    }

    /// Puts the intent on record. The proof comes when the record is durable; if it can't be, the intent is given back unusable.
    pub fn record_intent<I: Intent>(&self, intent: I) -> PendingIntent<I> {
        let _ = &intent;
        PendingIntent(Some(intent))
    }

    /// The journal's state.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Writes `log.stop` and a last checkpoint, syncs, and ends the writer.
    ///
    /// # Errors
    /// If the last records can't be made durable.
    pub async fn close(self) -> Result<(), AppendError> {
        todo!()
    }
}

impl Future for Pending {
    type Output = Result<RecordId, AppendError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}

impl<I: Unpin> Future for PendingIntent<I> {
    type Output = Result<Recorded<I>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let intent = self.0.take();
        Poll::Ready(
            intent
                .map(|intent| Recorded::new(intent, RecordId(0)))
                .ok_or(AppendError::Closed),
        )
    }
}
