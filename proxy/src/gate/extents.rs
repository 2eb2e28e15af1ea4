//! READs and WRITEs whose stretch was announced at once: what they did is one outcome, on record when the last of them has ended.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use portcullis_journal::{
    AppendError, Covers as _, Event, EventKind, Journal, Recorded, Verdict, record::untrusted,
};

use crate::{
    backend::BackendError,
    operation::Outcome,
    policy::{Extent, Permit},
    status::Status,
};

/// One extent, from its announcement to its outcome.
#[derive(Debug)]
pub struct Announcement {
    journal: Journal,
    /// What goes on record; it says what is covered before that is durable.
    extent: Extent,
    durable: OnceLock<Result<Recorded<Extent>, AppendError>>,
    begun: Instant,
    book: Mutex<Book>,
}

/// What the requests of an extent came to.
#[derive(Debug, Default)]
struct Book {
    requests: u64,
    bytes: u64,
    /// Begin and end of what was asked for.
    span: Option<(u64, u64)>,
    failed: u64,
    first_failure: Option<BackendError>,
    unknown: u64,
    not_forwarded: u64,
}

/// One request of an extent. Dropped before it has ended, it counts as one that was not forwarded, or of which nobody knows
/// what it did.
#[derive(Debug)]
pub struct Covering {
    announcement: Arc<Announcement>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    UnderWay,
    Ended,
}

impl Announcement {
    pub(super) fn new(journal: Journal, extent: Extent) -> Self {
        Self {
            journal,
            extent,
            durable: OnceLock::new(),
            begun: Instant::now(),
            book: Mutex::default(),
        }
    }

    /// Whether the extent is durable; told once.
    pub fn settle(&self, durable: Result<Recorded<Extent>, AppendError>) {
        let _ = self.durable.set(durable);
    }

    /// A request that this announced, if it did and is not lost.
    pub fn covering(self: &Arc<Self>, permit: &Permit) -> Option<Covering> {
        let is_lost = matches!(self.durable.get(), Some(Err(_)));
        (!is_lost && self.extent.covers(permit)).then(|| Covering {
            announcement: Arc::clone(self),
            state: State::Waiting,
        })
    }

    fn book(&self, write: impl FnOnce(&mut Book)) {
        write(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if matches!(self.durable.get(), Some(Err(_))) {
            return;
        }
        let book = std::mem::take(self.book.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut event = self.extent.requester().event(EventKind::OperationOutcome);
        event.operation = Some(self.extent.id());
        book.describe(&mut event);
        let latency = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        event.body.insert("latency_us".into(), latency.into());
        drop(self.journal.append_soon(event));
    }
}

impl Book {
    fn describe(self, event: &mut Event) {
        let (verdict, reason) = if self.unknown > 0 {
            (Verdict::Unknown, Some("unfinished"))
        } else if let Some(error) = &self.first_failure {
            (Verdict::Failure, Some(error.kind.code()))
        } else if self.not_forwarded > 0 {
            (Verdict::Failure, Some("not_forwarded"))
        } else {
            (Verdict::Success, None)
        };
        event.outcome = Some(verdict);
        event.reason = reason.map(str::to_owned);
        let mut field = |name: &str, value: serde_json::Value| {
            event.body.insert(name.to_owned(), value);
        };
        field("bytes", self.bytes.into());
        field("requests", self.requests.into());
        if let Some((from, until)) = self.span {
            field("offset", from.into());
            field("len", (until - from).into());
        }
        for (name, count) in [
            ("failed", self.failed),
            ("unknown", self.unknown),
            ("not_forwarded", self.not_forwarded),
        ] {
            if count > 0 {
                field(name, count.into());
            }
        }
        let status = match &self.first_failure {
            None => Status::Ok,
            Some(error) => {
                field("error", untrusted(error.message.as_bytes()));
                field("origin", error.origin.code().into());
                Status::from(error)
            }
        };
        if verdict != Verdict::Unknown {
            field("status", status.name().into());
        }
    }
}

impl Covering {
    /// The proof that `permit` may be carried out, once the extent is durable.
    ///
    /// # Errors
    /// If the extent is not on record, or does not cover it.
    pub fn prove(&self, permit: Permit) -> Result<Recorded<Permit>, AppendError> {
        match self.announcement.durable.get() {
            Some(Ok(extent)) => extent.cover(permit).map_err(|_| AppendError::Closed),
            Some(Err(error)) => Err(error.clone()),
            None => Err(AppendError::Closed),
        }
    }

    /// As [`Announcement::settle`].
    pub fn settle(&self, durable: Result<Recorded<Extent>, AppendError>) {
        self.announcement.settle(durable);
    }

    /// The request goes to the backend.
    pub(super) fn begin(&mut self) {
        self.state = State::UnderWay;
        self.announcement.book(|book| book.requests += 1);
    }

    /// The request has ended; `written` are the bytes of a WRITE.
    pub(super) fn end(mut self, offset: u64, written: u64, result: &Result<Outcome, BackendError>) {
        self.state = State::Ended;
        self.announcement.book(|book| match result {
            Ok(outcome) => {
                let moved = if let Outcome::Data(data) = outcome {
                    data.len() as u64
                } else {
                    written
                };
                book.bytes += moved;
                if moved > 0 {
                    let end = offset.saturating_add(moved);
                    book.span = Some(match book.span {
                        Some((from, until)) => (from.min(offset), until.max(end)),
                        None => (offset, end),
                    });
                }
            }
            Err(error) => {
                book.failed += 1;
                if book.first_failure.is_none() {
                    book.first_failure = Some(error.clone());
                }
            }
        });
    }
}

impl Drop for Covering {
    fn drop(&mut self) {
        match self.state {
            State::Waiting => self.announcement.book(|book| book.not_forwarded += 1),
            State::UnderWay => self.announcement.book(|book| book.unknown += 1),
            State::Ended => {}
        }
    }
}
