//! What has moved through one open file: bytes, time, and the SHA-256 if it moved from the first byte on in order.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_journal::{Event, EventKind, Verdict, record::untrusted};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    backend::BackendError,
    operation::{Access, Outcome},
    policy::{HandleKind, OpenHandle, Requester},
};

/// Bytes of READs that came back before an earlier one, kept for the digest.
const MAX_AHEAD: usize = 4 << 20;

/// The record of one open file.
#[derive(Debug)]
pub struct Transfer {
    begun: Instant,
    access: Access,
    written: u64,
    read: u64,
    upload: Stream,
    download: Stream,
    /// READs that came back before an earlier one did.
    ahead: BTreeMap<u64, Bytes>,
    ahead_bytes: usize,
    /// The lowest offset at which a READ found no more bytes.
    end: Option<u64>,
}

/// A digest of bytes that come in order.
#[derive(Debug)]
struct Stream {
    next: u64,
    digest: Result<Sha256, WithoutDigest>,
}

/// Why a transfer has no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WithoutDigest {
    NotSequential,
    /// The file may hold bytes from before.
    NotFromNothing,
    WriteFailed,
    SizeChanged,
}

impl WithoutDigest {
    fn code(self) -> &'static str {
        match self {
            Self::NotSequential => "not_sequential",
            Self::NotFromNothing => "not_from_nothing",
            Self::WriteFailed => "write_failed",
            Self::SizeChanged => "size_changed",
        }
    }
}

impl Transfer {
    /// `None` for a directory.
    pub fn of(handle: &OpenHandle, now: Instant) -> Option<Self> {
        let HandleKind::File(access) = handle.kind() else {
            return None;
        };
        let mut upload = Stream::new();
        if !(access.truncate || access.exclusive) {
            upload.digest = Err(WithoutDigest::NotFromNothing);
        }
        Some(Self {
            begun: now,
            access,
            written: 0,
            read: 0,
            upload,
            download: Stream::new(),
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            end: None,
        })
    }

    /// A WRITE goes to the backend.
    pub fn writing(&mut self, offset: u64, data: &[u8]) {
        let offset = if self.access.append {
            self.upload.next
        } else {
            offset
        };
        self.upload.add(offset, data);
    }

    pub fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
    }

    pub fn write_failed(&mut self) {
        self.upload.digest = Err(WithoutDigest::WriteFailed);
    }

    pub fn size_changed(&mut self) {
        self.upload.digest = Err(WithoutDigest::SizeChanged);
    }

    /// A READ has come back with `data`; READs come back in any order.
    pub fn read(&mut self, offset: u64, data: &Bytes) {
        self.read += data.len() as u64;
        if self.download.digest.is_err() {
            return;
        }
        if offset > self.download.next && self.ahead_bytes + data.len() <= MAX_AHEAD {
            self.ahead_bytes += data.len();
            if let Some(before) = self.ahead.insert(offset, data.clone()) {
                self.ahead_bytes -= before.len();
                self.download.digest = Err(WithoutDigest::NotSequential);
            }
            return;
        }
        self.download.add(offset, data);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.download.next && self.download.digest.is_ok() {
                break;
            }
            let (offset, data) = entry.remove_entry();
            self.ahead_bytes -= data.len();
            self.download.add(offset, &data);
        }
        if self.download.digest.is_err() {
            self.ahead.clear();
        }
    }

    /// A READ at `offset` found no more bytes.
    pub fn read_end(&mut self, offset: u64) {
        self.end = Some(self.end.map_or(offset, |end| end.min(offset)));
    }

    /// The `xfer.summary` record. `closed` is how the CLOSE ended, or `None` if the channel ended without one: then what was
    /// written has been withdrawn.
    pub fn summary(
        mut self,
        handle: &OpenHandle,
        requester: &Requester,
        closed: Option<&Result<Outcome, BackendError>>,
        now: Instant,
    ) -> Event {
        let mut event = requester.event(EventKind::TransferSummary);
        let reason = match closed {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.kind.code()),
            None => Some("not_closed"),
        };
        event.outcome = Some(if reason.is_none() {
            Verdict::Success
        } else {
            Verdict::Failure
        });
        event.reason = reason.map(str::to_owned);
        let is_upload = self.access.writes();
        if !self.ahead.is_empty() {
            self.download.digest = Err(WithoutDigest::NotSequential);
        }
        let (direction, bytes, stream) = if is_upload {
            ("upload", self.written, self.upload)
        } else {
            ("download", self.read, self.download)
        };
        let mut field = |name: &str, value: Value| event.body.insert(name.to_owned(), value);
        field("direction", direction.into());
        field("path", untrusted(handle.path().as_bytes()));
        field("handle_id", handle.id().0.into());
        field("bytes", bytes.into());
        if !is_upload {
            let complete = stream.digest.is_ok() && self.end == Some(stream.next);
            field("ranges_complete", complete.into());
        }
        match stream.digest {
            Ok(digest) => {
                field("sha256", hex::encode(digest.finalize()).into());
            }
            Err(why) => {
                field("sha256", Value::Null);
                field("sha256_reason", why.code().into());
            }
        }
        let duration = now.saturating_duration_since(self.begun);
        field("duration_ms", milliseconds(duration).into());
        event
    }
}

impl Stream {
    fn new() -> Self {
        Self {
            next: 0,
            digest: Ok(Sha256::new()),
        }
    }

    fn add(&mut self, offset: u64, data: &[u8]) {
        if let Ok(digest) = &mut self.digest {
            if offset == self.next {
                digest.update(data);
                self.next += data.len() as u64;
            } else {
                self.digest = Err(WithoutDigest::NotSequential);
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
