//! What has moved through one open file: bytes, time, and the SHA-256 if it moved from the first byte on in order.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_journal::{Event, EventKind, Verdict, record::untrusted};
use serde_json::Value;

use super::digest::Digest;
use crate::{
    backend::BackendError,
    operation::{Access, Outcome},
    policy::{HandleKind, OpenHandle, Requester, encryption},
};

/// Of which transfers the records carry the SHA-256. It costs about one second of one core for each gigabyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digests {
    #[default]
    OfUploads,
    OfAll,
}

/// Bytes of READs that came back before an earlier one, waited for with the digest.
const MAX_AHEAD: u64 = 4 << 20;

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
    ahead: BTreeMap<u64, Ahead>,
    ahead_bytes: u64,
    /// The lowest offset at which a READ found no more bytes.
    end: Option<u64>,
}

/// Bytes that come in order.
#[derive(Debug)]
struct Stream {
    next: u64,
    is_sequential: bool,
    digest: Result<Digest, WithoutDigest>,
}

/// Bytes that came early.
#[derive(Debug)]
struct Ahead {
    length: u64,
    /// Absent where no digest is wanted.
    data: Option<Bytes>,
}

/// Why a transfer has no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WithoutDigest {
    SwitchedOff,
    NotSequential,
    /// The file may hold bytes from before.
    NotFromNothing,
    WriteFailed,
    SizeChanged,
}

impl WithoutDigest {
    fn code(self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched_off",
            Self::NotSequential => "not_sequential",
            Self::NotFromNothing => "not_from_nothing",
            Self::WriteFailed => "write_failed",
            Self::SizeChanged => "size_changed",
        }
    }
}

impl Transfer {
    /// `None` for a directory.
    pub fn of(handle: &OpenHandle, digests: Digests, now: Instant) -> Option<Self> {
        let HandleKind::File(access) = handle.kind() else {
            return None;
        };
        // The policy makes uploads exclusive too, and appending goes on with what an interrupted one left.
        let upload = if access.truncate || access.exclusive && !access.append {
            Stream::hashed()
        } else {
            Stream::without(WithoutDigest::NotFromNothing)
        };
        let download = match digests {
            Digests::OfAll => Stream::hashed(),
            Digests::OfUploads => Stream::without(WithoutDigest::SwitchedOff),
        };
        Some(Self {
            begun: now,
            access,
            written: 0,
            read: 0,
            upload,
            download,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            end: None,
        })
    }

    /// A WRITE goes to the backend.
    pub fn writing(&mut self, offset: u64, data: &Bytes) {
        let offset = if self.access.append {
            self.upload.next
        } else {
            offset
        };
        self.upload
            .add(offset, data.len() as u64, Some(data.clone()));
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
        let length = data.len() as u64;
        self.read += length;
        if !self.download.is_sequential {
            return;
        }
        let data = self.download.digest.is_ok().then(|| data.clone());
        if offset > self.download.next && self.ahead_bytes + length <= MAX_AHEAD {
            self.ahead_bytes += length;
            if self.ahead.insert(offset, Ahead { length, data }).is_some() {
                self.download.out_of_order();
                self.ahead.clear();
            }
            return;
        }
        self.download.add(offset, length, data);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.download.next && self.download.is_sequential {
                return;
            }
            let (offset, Ahead { length, data }) = entry.remove_entry();
            self.ahead_bytes -= length;
            self.download.add(offset, length, data);
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
            self.download.out_of_order();
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
            let complete = stream.is_sequential && self.end == Some(stream.next);
            field("ranges_complete", complete.into());
        }
        let (reread, stored) = match closed {
            Some(Ok(Outcome::Published { sha256, stored })) => (*sha256, *stored),
            Some(Ok(_) | Err(_)) | None => (None, None),
        };
        if let Some(stored) = stored {
            field("enc", encryption(stored.object));
            field("size", stored.size.into());
        }
        match (reread, stream.digest) {
            // What the backend published, and not only what passed through here.
            (Some(sha256), _) => {
                field("sha256", hex::encode(sha256).into());
                field("sha256_source", "reread".into());
            }
            (None, Ok(digest)) => {
                field("sha256", hex::encode(digest.finish()).into());
                field("sha256_source", "stream".into());
            }
            (None, Err(why)) => {
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
    fn hashed() -> Self {
        Self {
            next: 0,
            is_sequential: true,
            digest: Ok(Digest::new()),
        }
    }

    fn without(digest: WithoutDigest) -> Self {
        Self {
            next: 0,
            is_sequential: true,
            digest: Err(digest),
        }
    }

    fn add(&mut self, offset: u64, length: u64, data: Option<Bytes>) {
        if !self.is_sequential || offset != self.next {
            return self.out_of_order();
        }
        self.next += length;
        if let (Ok(digest), Some(data)) = (&self.digest, data) {
            digest.add(data);
        }
    }

    fn out_of_order(&mut self) {
        self.is_sequential = false;
        if self.digest.is_ok() {
            self.digest = Err(WithoutDigest::NotSequential);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
