//! Appending with group commit: what callers hold. The thread behind it is in `writer`.

use std::{
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    chain::Clock,
    disk::{Directory, Disk},
    queue::{Entry, Shared},
    record::{Event, Intent, RecordId, Recorded},
    recover::RecoverError,
    retention::Retention,
    tree::key::KeyError,
    writer::Writer,
};

/// Where and how a journal is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the segments; made if it does not exist, with mode 0700.
    pub directory: PathBuf,
    /// Name of this machine in every record.
    pub node: String,
    /// Ed25519 signing key file in signed-note form; made with mode 0600 if it does not exist.
    pub signing_key: PathBuf,
    /// How long a record that nobody waits for, or an intent that may be durable [`Soon`](Urgency::Soon), may wait for
    /// others to share its fdatasync. Any other record whose [`Pending`] is alive is synced at once, together with all that
    /// came while the sync before it ran.
    pub max_delay: Duration,
    /// A segment is closed once it is longer, in bytes.
    pub segment_bytes: u64,
    /// How hard closed segments are compressed: zstd's levels, 1 to 19. `None` leaves them as they were written.
    pub compression_level: Option<i32>,
    /// When sealed segments are deleted; `None` keeps them for ever.
    pub retention: Option<Retention>,
    /// Bytes kept in reserve, so that a full disk can itself be recorded.
    pub reserve_bytes: u64,
    /// Hides what the log must not say in clear; `None` writes events as they come.
    pub veil: Option<Arc<dyn Veil>>,
}

/// What is done to each event that is appended, before anything of it is kept.
pub trait Veil: fmt::Debug + Send + Sync {
    fn cover(&self, event: &mut Event);
}

impl Options {
    /// The usual settings for a log in `directory`. The signing key lies beside the directory, not in it:
    /// `<directory>.key`, and `<directory>.key.pub` for auditors.
    pub fn default_in(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let mut signing_key = directory.clone().into_os_string();
        signing_key.push(".key");
        Self {
            directory,
            node: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            signing_key: signing_key.into(),
            max_delay: Duration::from_millis(2),
            segment_bytes: 64 << 20,
            compression_level: Some(6),
            retention: None,
            reserve_bytes: 1 << 20,
            veil: None,
        }
    }
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
    /// Records that the last signed checkpoint covers.
    pub signed: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
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
        source: io::Error,
    },
    #[error(
        "the log in {} is open in another process; stop that one, or give this one a directory of its own",
        directory.display()
    )]
    Locked { directory: PathBuf },
    #[error("open the log's signing key")]
    Key(#[from] KeyError),
    #[error("the log in {} can't be gone on with", directory.display())]
    Recover {
        directory: PathBuf,
        source: RecoverError,
    },
    #[error("prepare the log in {} for writing", directory.display())]
    Prepare {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("write the first record to the log in {}", directory.display())]
    Start {
        directory: PathBuf,
        source: AppendError,
    },
}

/// How soon a record that somebody waits for is to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// As soon as the disk allows.
    Now,
    /// Within [`Options::max_delay`], with others in one sync: for the later ones of many requests that are under way at
    /// once, since the earlier ones keep everybody busy until then.
    Soon,
}

/// Why an event is not on record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    #[error("the journal can't be written: {message}")]
    Write { message: String },
    #[error("the journal's queue is full: {limit} bytes wait for the disk")]
    QueueFull { limit: usize },
    #[error("a record of {bytes} bytes is longer than the {limit} allowed")]
    TooLong { bytes: usize, limit: usize },
    #[error("the journal is closed")]
    Closed,
}

/// The one writer of a log. Clones share it.
///
/// When the last clone is dropped, what was appended is still written; only [`Journal::close`] says so in the log.
#[derive(Clone)]
pub struct Journal(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    veil: Option<Arc<dyn Veil>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({:?})", self.status())
    }
}

/// An append under way. It goes on even if this is dropped; awaiting it waits for durability.
#[must_use = "an append is durable only once this resolves"]
#[derive(Debug)]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    Queued(oneshot::Receiver<Result<RecordId, AppendError>>),
    Refused(AppendError),
}

/// An intent under way.
#[must_use = "an intent is durable only once this resolves"]
#[derive(Debug)]
pub struct PendingIntent<I> {
    /// `None` once it has resolved.
    intent: Option<I>,
    pending: Pending,
}

impl Journal {
    /// Opens the log in `options.directory`, or begins one; drops a torn last record and says so in the log.
    ///
    /// Reads the whole log once, to check its chain and to find operations without an outcome.
    ///
    /// # Errors
    /// If the directory can't be read or written, another process has it open, or what it holds is not a log.
    pub fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        let disk = Directory::open(&options.directory).map_err(|source| OpenError::Directory {
            directory: options.directory.clone(),
            source,
        })?;
        Self::open_on(disk, options)
    }

    /// Opens the log on a disk of the caller's making; `options.directory` only names it.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(
        disk: impl Disk + 'static,
        options: Options,
    ) -> Result<(Self, Recovery), OpenError> {
        Self::start(disk, options, Clock::default())
    }

    /// Opens the log in `options.directory` with clocks of the caller's making, so that months pass in minutes.
    ///
    /// # Errors
    /// As [`Journal::open`].
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn open_at(
        options: Options,
        now: impl Fn() -> crate::Moment + Send + Sync + 'static,
    ) -> Result<(Self, Recovery), OpenError> {
        let disk = Directory::open(&options.directory).map_err(|source| OpenError::Directory {
            directory: options.directory.clone(),
            source,
        })?;
        Self::start(disk, options, Clock(Some(Arc::new(now))))
    }

    fn start(
        disk: impl Disk + 'static,
        options: Options,
        clock: Clock,
    ) -> Result<(Self, Recovery), OpenError> {
        let veil = options.veil.clone();
        let (shared, recovery) = Writer::start(Arc::new(disk), options, clock)?;
        Ok((Self(Arc::new(Handle { shared, veil })), recovery))
    }

    /// Puts `event` at the end of the log: in the order of the calls, at once; the result says when it is durable.
    pub fn append(&self, event: Event) -> Pending {
        self.put(event, Urgency::Now)
    }

    /// As [`append`](Self::append), for an event that nobody waits for, or not for it alone: it is durable with the next
    /// urgent one, or within [`Options::max_delay`].
    pub fn append_soon(&self, event: Event) -> Pending {
        self.put(event, Urgency::Soon)
    }

    fn put(&self, mut event: Event, urgency: Urgency) -> Pending {
        if let Some(veil) = &self.0.veil {
            veil.cover(&mut event);
        }
        let (done, resolved) = oneshot::channel();
        match self.0.shared.push(&event, urgency, done) {
            Ok(()) => Pending(State::Queued(resolved)),
            Err(error) => Pending(State::Refused(error)),
        }
    }

    /// Puts the intent on record. The proof comes when the record is durable; if it can't be, the intent is lost.
    pub fn record_intent<I: Intent>(&self, intent: I, urgency: Urgency) -> PendingIntent<I> {
        let pending = self.put(intent.event(), urgency);
        PendingIntent {
            intent: Some(intent),
            pending,
        }
    }

    /// Whether events are hidden in part before they become records: what is said elsewhere should not say more.
    pub fn is_veiled(&self) -> bool {
        self.0.veil.is_some()
    }

    /// The journal's state.
    pub fn status(&self) -> Status {
        self.0.shared.status()
    }

    /// Lets the signing key that [`SigningKey::prepare_next`](crate::tree::key::SigningKey::prepare_next) made take over;
    /// false if none was made. An open does so too.
    ///
    /// # Errors
    /// If the record, the checkpoint or the key can't be written; the old key signs on.
    pub async fn change_key(&self) -> Result<bool, AppendError> {
        let (done, resolved) = oneshot::channel();
        self.0.shared.change_key(done);
        resolved.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Signs a checkpoint of what is durable, sooner than it would come by itself; none if the last one covers all of it.
    ///
    /// # Errors
    /// If it can't be written; the next is tried at its time.
    pub async fn checkpoint(&self) -> Result<(), AppendError> {
        let (done, resolved) = oneshot::channel();
        self.0.shared.sign(done);
        resolved.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Writes `log.stop` and a last checkpoint, syncs, and ends the writer. Clones can't append any more.
    ///
    /// # Errors
    /// If the last records can't be made durable.
    pub async fn close(self) -> Result<(), AppendError> {
        let (done, resolved) = oneshot::channel();
        self.0.shared.close(done);
        resolved.await.unwrap_or(Err(AppendError::Closed))
    }
}

impl Future for Pending {
    type Output = Result<RecordId, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Queued(resolved) => Pin::new(resolved)
                .poll(context)
                .map(|result| result.unwrap_or(Err(AppendError::Closed))),
            State::Refused(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

impl<I: Unpin> Future for PendingIntent<I> {
    type Output = Result<Recorded<I>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.pending).poll(context).map(|result| {
            let id = result?;
            let intent = self.intent.take().ok_or(AppendError::Closed)?;
            Ok(Recorded::new(intent, id))
        })
    }
}

/// The origin of a log: its node and the name of its directory, since both daemons of a node keep one.
pub(crate) fn origin(node: &str, directory: &Path) -> String {
    match directory.file_name() {
        Some(name) => format!("{node}/{}", name.to_string_lossy()),
        None => node.to_owned(),
    }
}

pub(crate) type Done = oneshot::Sender<Result<RecordId, AppendError>>;

pub(crate) fn refuse(entries: Vec<Entry>, error: &AppendError) {
    for entry in entries {
        // Nobody may be waiting for it.
        let _ = entry.done.send(Err(error.clone()));
    }
}
