//! The thread that seals closed segments and deletes those that are too old, behind the writer and out of its way.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    append::Urgency,
    chain::End,
    disk::{Disk, Reader},
    queue::Shared,
    record::{Event, EventKind, Verdict, untrusted},
    retention::{self, Retention},
    sealed::{SealError, SealedReader, SealedSegment, seal},
    segment::{sealed_name, segment_first},
};

/// After a disk that failed.
const RETRY: Duration = Duration::from_secs(60);
/// How often it is looked for segments that are too old.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
/// What a sealed segment is called until it is whole.
const UNFINISHED: &str = ".new";
/// Of Linux: the lowest.
const PRIORITY: i32 = 19;

/// A segment that is no longer written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Closed {
    pub(crate) name: String,
    /// The log behind its last record.
    pub(crate) end: End,
}

/// Handle of the thread; it ends when this is dropped.
pub(crate) struct Keeper {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    waiting: Mutex<VecDeque<Closed>>,
    changed: Condvar,
    is_ending: AtomicBool,
}

impl Keeper {
    /// Starts the thread with the segments that earlier runs left. Without a level they are only counted, without retention
    /// nothing is deleted.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        level: Option<i32>,
        retention: Option<Retention>,
        waiting: Vec<Closed>,
    ) -> io::Result<Self> {
        let work = Arc::new(Work {
            waiting: Mutex::new(waiting.into()),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
        });
        let has_work = level.is_some() || retention.is_some();
        let thread = has_work.then(|| {
            let work = work.clone();
            thread::Builder::new()
                .name("journal-keeper".to_owned())
                .spawn(move || work.run(disk.as_ref(), &shared, level, retention.as_ref()))
        });
        Ok(Self {
            work,
            thread: thread.transpose()?,
        })
    }

    pub(crate) fn hand_over(&self, closed: Closed) {
        self.work.lock().push_back(closed);
        self.work.changed.notify_one();
    }

    /// Those that are not sealed yet, in order.
    pub(crate) fn unsealed(&self) -> Vec<Closed> {
        self.work.lock().iter().cloned().collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        {
            let _waiting = self.work.lock();
            self.work.is_ending.store(true, Ordering::Relaxed);
        }
        self.work.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there lost nothing: what is not sealed is sealed later.
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(
        &self,
        disk: &dyn Disk,
        shared: &Shared,
        level: Option<i32>,
        retention: Option<&Retention>,
    ) {
        // Of this thread alone; without the right to it, sealing competes with the daemon.
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        let mut look_at = Instant::now();
        while !self.is_ending() {
            if let Some(retention) = retention
                && look_at <= Instant::now()
            {
                let looked =
                    retention::delete_expired(disk, shared, retention, &mut || !self.is_ending());
                // It is looked again after the interval; until then nothing is lost but room.
                if let Err(error) = looked {
                    let mut event = Event::new(EventKind::LogDelete);
                    event.outcome = Some(Verdict::Failure);
                    event.reason = Some("not_possible".to_owned());
                    let message = untrusted(error.to_string().as_bytes());
                    event.body.insert("error".to_owned(), message);
                    tell(shared, &event);
                }
                look_at = Instant::now() + LOOK_INTERVAL;
            }
            let until = retention.map(|_| look_at);
            let (Some(level), Some(closed)) = (level, self.next(level.is_some(), until)) else {
                continue;
            };
            match seal_segment(disk, &closed, level, &mut || !self.is_ending()) {
                Ok(()) => self.done(),
                Err(SealError::Interrupted) => return,
                Err(SealError::Altered { seq }) => {
                    let mut event = Event::new(EventKind::LogVerify);
                    event.outcome = Some(Verdict::Failure);
                    event.reason = Some("altered".to_owned());
                    event
                        .body
                        .insert("segment".to_owned(), closed.name.clone().into());
                    event.body.insert("record".to_owned(), seq.into());
                    // The segment stays as it is, for portcullis-verify.
                    tell(shared, &event);
                    self.done();
                }
                Err(SealError::Disk(_)) => self.rest(),
            }
        }
    }

    /// Waits for a segment to seal; `None` at the end, or once it is time for something else.
    fn next(&self, seals: bool, until: Option<Instant>) -> Option<Closed> {
        let mut waiting = self.lock();
        loop {
            if self.is_ending() {
                return None;
            }
            if let Some(closed) = waiting.front().filter(|_| seals) {
                return Some(closed.clone());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            waiting = match left {
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    let waited = self.changed.wait_timeout(waiting, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(waiting);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn done(&self) {
        self.lock().pop_front();
    }

    fn rest(&self) {
        let waiting = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(waiting, RETRY, |_| !self.is_ending());
        drop(waited);
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Closed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts an event on record that nobody waits for.
fn tell(shared: &Shared, event: &Event) {
    let (done, _) = oneshot::channel();
    // A journal that can't be written says so itself.
    let _ = shared.push(event, Urgency::Soon, done);
}

/// Puts the sealed form of a segment in its place, once it is on the disk and reads back as what was written.
fn seal_segment(
    disk: &dyn Disk,
    closed: &Closed,
    level: i32,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), SealError> {
    let first = segment_first(&closed.name).ok_or(SealError::Altered { seq: 0 })?;
    let sealed = sealed_name(first);
    if !disk.names()?.contains(&closed.name) {
        // A run before this one came so far and did not get to say so.
        return Ok(());
    }
    let unfinished = format!("{sealed}{UNFINISHED}");
    disk.remove(&unfinished)?;
    let done = write_sealed(disk, closed, first, &unfinished, level, goes_on);
    if done.is_err() {
        // What is left of it is overwritten by the next attempt.
        let _ = disk.remove(&unfinished);
        return done;
    }
    disk.rename(&unfinished, &sealed)?;
    disk.sync_names()?;
    disk.remove(&closed.name)?;
    disk.sync_names()?;
    Ok(())
}

fn write_sealed(
    disk: &dyn Disk,
    closed: &Closed,
    first: u64,
    unfinished: &str,
    level: i32,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), SealError> {
    let plain = disk.open(&closed.name)?;
    let buffered = || BufReader::with_capacity(1 << 18, Reader::new(plain.as_ref()));
    let out = disk.open(unfinished)?;
    seal(
        &mut buffered(),
        first,
        &closed.end,
        level,
        out.as_ref(),
        goes_on,
    )?;
    out.sync()?;
    out.forget_cached();
    let mut sealed = SealedReader::new(SealedSegment::open(out)?);
    match first_difference(&mut buffered(), &mut sealed, goes_on)? {
        None => Ok(()),
        Some(at) => Err(SealError::Disk(io::Error::other(format!(
            "{unfinished} does not read back what was written to it, from byte {at}"
        )))),
    }
}

/// Where two texts differ, in bytes.
fn first_difference(
    one: &mut dyn BufRead,
    other: &mut dyn BufRead,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Option<u64>, SealError> {
    let mut at = 0;
    loop {
        if !goes_on() {
            return Err(SealError::Interrupted);
        }
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left.get(..length) != right.get(..length) || (length == 0 && left.len() != right.len()) {
            return Ok(Some(at));
        }
        if length == 0 {
            return Ok(None);
        }
        one.consume(length);
        other.consume(length);
        at += length as u64;
    }
}

/// Removes what an interrupted run left.
pub(crate) fn tidy(disk: &dyn Disk) -> io::Result<()> {
    retention::tidy(disk)?;
    for name in disk.names()? {
        if name
            .strip_suffix(UNFINISHED)
            .is_some_and(|name| name.ends_with(".zst"))
        {
            disk.remove(&name)?;
        }
    }
    Ok(())
}
