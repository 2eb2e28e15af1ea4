//! What waits for the writer: bounded in bytes, in the order of the calls.

use std::{
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    append::{AppendError, Done, Status, Urgency},
    chain::{Clock, Moment},
    line::MAX_LINE,
    operations::Step,
    record::{Draft, Event, Identity},
};

/// Bytes of records that may wait for the disk.
const QUEUE_BYTES: usize = 64 << 20;

/// Bytes that one write takes at most, as long as records are shorter.
const BATCH_BYTES: usize = 4 << 20;

/// What an entry costs beside its text, in bytes: its own size and that of its channel.
const ENTRY_BYTES: usize = 256;

/// Bytes that the frame adds to a draft at most.
const FRAME_BYTES: usize = 192;

/// A batch of that many records is worth a sync, even if none of them is urgent.
const WORTH_A_SYNC: usize = 64;

pub(crate) struct Entry {
    pub(crate) draft: Draft,
    pub(crate) moment: Moment,
    /// What it says about an operation.
    pub(crate) step: Option<Step>,
    arrived: Instant,
    urgency: Urgency,
    pub(crate) done: Done,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.draft.len() + ENTRY_BYTES
    }

    fn is_urgent(&self) -> bool {
        self.urgency == Urgency::Now && !self.done.is_closed()
    }
}

/// What the writer has to do next.
pub(crate) enum Work {
    Write(Vec<Entry>),
    /// The time for a checkpoint has come.
    Sign,
    /// Somebody asks for a checkpoint.
    SignFor(Vec<Signed>),
    /// Somebody asks for another key.
    ChangeKey(KeyChanged),
    /// The queue is empty and takes no more.
    End(Vec<oneshot::Sender<Result<(), AppendError>>>),
}

/// Tells that the log was signed.
pub(crate) type Signed = oneshot::Sender<Result<(), AppendError>>;

/// Tells whether another key took over.
pub(crate) type KeyChanged = oneshot::Sender<Result<bool, AppendError>>;

/// What handles and the writer share.
pub(crate) struct Shared {
    identity: Identity,
    clock: Clock,
    queue: Mutex<Queue>,
    changed: Condvar,
    durable: AtomicU64,
    signed: AtomicU64,
    healthy: AtomicBool,
}

#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    /// Of the entries here and of those that are being written.
    bytes: usize,
    is_ending: bool,
    /// The writer is gone.
    is_over: bool,
    closers: Vec<oneshot::Sender<Result<(), AppendError>>>,
    key_change: Option<KeyChanged>,
    signings: Vec<Signed>,
    /// Whether the writer has to be woken.
    is_writer_asleep: bool,
}

impl Shared {
    pub(crate) fn new(identity: Identity, clock: Clock) -> Self {
        Self {
            identity,
            clock,
            queue: Mutex::default(),
            changed: Condvar::new(),
            durable: AtomicU64::new(0),
            signed: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(crate) fn draft(&self, event: &Event) -> Draft {
        Draft::new(event, &self.identity)
    }

    pub(crate) fn push(
        &self,
        event: &Event,
        urgency: Urgency,
        done: Done,
    ) -> Result<(), AppendError> {
        let draft = self.draft(event);
        let bytes = draft.len() + FRAME_BYTES;
        if bytes > MAX_LINE {
            return Err(AppendError::TooLong {
                bytes,
                limit: MAX_LINE,
            });
        }
        let mut queue = self.lock();
        if queue.is_ending {
            return Err(AppendError::Closed);
        }
        // Under the lock, so that times rise with sequence numbers.
        let entry = Entry {
            draft,
            moment: self.now(),
            step: Step::of_event(event),
            arrived: Instant::now(),
            urgency,
            done,
        };
        if queue.bytes + entry.bytes() > QUEUE_BYTES {
            return Err(AppendError::QueueFull { limit: QUEUE_BYTES });
        }
        queue.bytes += entry.bytes();
        // The first one makes the writer look at the clock, the others wait for the same moment.
        let needs_writer = urgency == Urgency::Now || queue.entries.is_empty();
        queue.entries.push(entry);
        if needs_writer || queue.entries.len() >= WORTH_A_SYNC {
            self.wake(queue);
        }
        Ok(())
    }

    /// Asks for the end. If the writer is gone, `done` is dropped.
    pub(crate) fn close(&self, done: oneshot::Sender<Result<(), AppendError>>) {
        let mut queue = self.lock();
        queue.is_ending = true;
        if queue.is_over {
            return;
        }
        queue.closers.push(done);
        self.wake(queue);
    }

    /// Asks for another key. If the writer is ending, `done` is dropped.
    pub(crate) fn change_key(&self, done: KeyChanged) {
        let mut queue = self.lock();
        if !queue.is_ending {
            queue.key_change = Some(done);
            self.wake(queue);
        }
    }

    /// Asks for a checkpoint. If the writer is ending, `done` is dropped.
    pub(crate) fn sign(&self, done: Signed) {
        let mut queue = self.lock();
        if !queue.is_ending {
            queue.signings.push(done);
            self.wake(queue);
        }
    }

    /// Nobody can append any more.
    pub(crate) fn abandon(&self) {
        let mut queue = self.lock();
        queue.is_ending = true;
        self.wake(queue);
    }

    /// The writer is gone: whoever waits must learn it.
    pub(crate) fn writer_ended(&self) {
        let mut queue = self.lock();
        queue.is_ending = true;
        queue.is_over = true;
        queue.entries.clear();
        queue.closers.clear();
        queue.key_change = None;
        queue.signings.clear();
        self.healthy.store(false, Ordering::Relaxed);
    }

    /// Waits for work. `sign_at` is when a checkpoint is due.
    pub(crate) fn next(&self, max_delay: Duration, sign_at: Option<Instant>) -> Work {
        let mut queue = self.lock();
        loop {
            if let Some(done) = queue.key_change.take() {
                return Work::ChangeKey(done);
            }
            if !queue.signings.is_empty() {
                return Work::SignFor(mem::take(&mut queue.signings));
            }
            let now = Instant::now();
            let mut until = sign_at;
            if let Some(first) = queue.entries.first() {
                let lingers_until = first.arrived + max_delay;
                if queue.is_ending || now >= lingers_until || queue.is_worth_a_sync() {
                    return Work::Write(queue.take_batch());
                }
                until = Some(until.map_or(lingers_until, |until| until.min(lingers_until)));
            } else if queue.is_ending {
                return Work::End(mem::take(&mut queue.closers));
            }
            if sign_at.is_some_and(|at| now >= at) {
                return Work::Sign;
            }
            queue.is_writer_asleep = true;
            queue = match until {
                Some(until) => {
                    let waited = self
                        .changed
                        .wait_timeout(queue, until.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            queue.is_writer_asleep = false;
        }
    }

    /// Makes room for what was written, or refused.
    pub(crate) fn finished(&self, bytes: usize) {
        self.lock().bytes -= bytes;
    }

    pub(crate) fn set_durable(&self, records: u64, healthy: bool) {
        self.durable.store(records, Ordering::Relaxed);
        self.healthy.store(healthy, Ordering::Release);
    }

    pub(crate) fn set_signed(&self, records: u64) {
        self.signed.store(records, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            healthy: self.healthy.load(Ordering::Acquire),
            durable: self.durable.load(Ordering::Relaxed),
            signed: self.signed.load(Ordering::Relaxed),
            queued_bytes: self.lock().bytes as u64,
        }
    }

    /// A panic elsewhere leaves nothing half-done in the queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, queue: MutexGuard<'_, Queue>) {
        let asleep = queue.is_writer_asleep;
        drop(queue);
        if asleep {
            self.changed.notify_one();
        }
    }
}

impl Queue {
    fn is_worth_a_sync(&self) -> bool {
        self.entries.len() >= WORTH_A_SYNC || self.entries.iter().any(Entry::is_urgent)
    }

    fn take_batch(&mut self) -> Vec<Entry> {
        let mut bytes = 0;
        let fits = self.entries.iter().take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.bytes();
            is_first || bytes <= BATCH_BYTES
        });
        let count = fits.count();
        let rest = self.entries.split_off(count);
        mem::replace(&mut self.entries, rest)
    }
}

/// What [`Shared::finished`] gives back for these entries.
pub(crate) fn bytes_of(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::bytes).sum()
}
