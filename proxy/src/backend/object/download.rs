//! One file being read. Sequential reads are served from a few large ranges that are fetched ahead; others fetch what they
//! ask for.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Limits,
    bucket::{Bucket, Fetched},
    fault::Fault,
    location::Key,
    names,
};
use crate::{
    backend::ErrorKind,
    operation::{Attributes, Outcome},
};

/// Bytes of a range that is fetched ahead.
const RANGE: u64 = 4 * 1024 * 1024;
/// Bytes of the first one where the file may only be looked at.
const LOOK: u64 = 4 * 1024;
/// Ranges that are fetched or held at a time: the one that is read and those ahead of it.
const RANGES: usize = 3;
/// Reads may come so far out of order; bytes behind are kept that long.
const BEHIND: u64 = 256 * 1024;
/// Pieces, of some 64 KiB, between a fetching task and its reader: a whole range, or as little as keeps it going.
const PIECES_AHEAD: usize = 256;
const PIECES_AT_PACE: usize = 2;

/// A file that is open for reading.
#[derive(Debug)]
pub(super) struct Download {
    bucket: Arc<Bucket>,
    key: Key,
    attributes: Attributes,
    size: u64,
    /// The version that was opened; another one that replaces it is not mixed in.
    tag: Option<String>,
    /// Neighbouring ranges, in order.
    ranges: VecDeque<Fetch>,
    /// Where the last read ended.
    last_end: u64,
    /// The session's places for ranges that are fetched ahead.
    ahead: Arc<Semaphore>,
}

/// A range on its way, and what has come of it.
#[derive(Debug)]
struct Fetch {
    range: Range<u64>,
    /// From `kept` to `come`.
    pieces: VecDeque<Bytes>,
    /// Offset of the first byte that is still here.
    kept: u64,
    /// Offset of the next byte to come.
    come: u64,
    coming: mpsc::Receiver<Result<Bytes, Fault>>,
    task: JoinHandle<()>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Download {
    /// Fetches the first range at once: what is opened for reading is read, and its answer says how long the file is. What
    /// is tended may be looked at and no more.
    pub(super) async fn open(
        bucket: &Arc<Bucket>,
        key: Key,
        root: &Key,
        is_tended: bool,
        limits: &Limits,
    ) -> Result<Self, Fault> {
        if key == *root {
            return Err(names::is_a_directory(&key));
        }
        let place = Arc::clone(&limits.ahead).try_acquire_owned().ok();
        let first = if is_tended { LOOK } else { RANGE };
        let (opened, first) = Fetch::open(bucket, key.clone(), 0..first, None, None, place);
        let (meta, ranges) = match opened.await.unwrap_or_else(|_| Err(interrupted())) {
            Ok(meta) => (meta, VecDeque::from([first])),
            Err(fault) if fault.is_not_found() => {
                return Err(if bucket.is_directory(&key).await? {
                    names::is_a_directory(&key)
                } else {
                    names::not_found(&key)
                });
            }
            // No byte of an empty file can be asked for.
            Err(fault) if fault.is_empty_range() => {
                let meta = bucket.head(&key).await?;
                (meta.ok_or_else(|| names::not_found(&key))?, VecDeque::new())
            }
            Err(fault) => return Err(fault),
        };
        Ok(Self {
            bucket: Arc::clone(bucket),
            key,
            attributes: names::file_attributes(meta.size, Some(meta.last_modified.timestamp())),
            size: meta.size,
            tag: meta.e_tag,
            ranges,
            last_end: 0,
            ahead: Arc::clone(&limits.ahead),
        })
    }

    pub(super) fn attributes(&self) -> Attributes {
        self.attributes.clone()
    }

    pub(super) async fn read(&mut self, offset: u64, length: u32) -> Result<Outcome, Fault> {
        let end = offset.saturating_add(u64::from(length)).min(self.size);
        if offset >= end {
            return Ok(Outcome::End);
        }
        let wanted = offset..end;
        let data = if self.covers(offset) || offset == self.last_end {
            self.read_sequentially(wanted).await
        } else {
            self.fetch_once(wanted).await
        };
        match data {
            Ok(data) => {
                self.last_end = end;
                Ok(Outcome::Data(data))
            }
            Err(fault) => {
                self.ranges.clear();
                Err(if fault.is_failed_precondition() {
                    Fault::judged(
                        ErrorKind::Failure,
                        format!("{} was replaced while it was read", self.key),
                    )
                } else {
                    fault
                })
            }
        }
    }

    /// True if the byte is in one of the ranges and still here, or follows the last one.
    fn covers(&self, offset: u64) -> bool {
        match (self.ranges.front(), self.ranges.back()) {
            (Some(first), Some(last)) => (first.kept..=last.range.end).contains(&offset),
            (None, _) | (_, None) => false,
        }
    }

    async fn read_sequentially(&mut self, wanted: Range<u64>) -> Result<Bytes, Fault> {
        if !self.covers(wanted.start) {
            self.ranges.clear();
        }
        while self
            .ranges
            .front()
            .is_some_and(|first| first.range.end + BEHIND <= wanted.start)
        {
            self.ranges.pop_front();
        }
        while self.fetched_to(wanted.start) < wanted.end {
            let place = Arc::clone(&self.ahead).try_acquire_owned().ok();
            self.fetch_next(wanted.start, place);
        }
        // From the second read on it is known to go on.
        if self.last_end > 0
            && self.ranges.len() < RANGES
            && self.fetched_to(wanted.start) < self.size
            && let Ok(place) = Arc::clone(&self.ahead).try_acquire_owned()
        {
            self.fetch_next(wanted.start, Some(place));
        }
        let mut gathered = BytesMut::new();
        let mut at = wanted.start;
        for fetch in &mut self.ranges {
            if fetch.range.end <= at {
                continue;
            }
            let end = wanted.end.min(fetch.range.end);
            let data = fetch.read(at..end).await?;
            if gathered.is_empty() && end == wanted.end {
                return Ok(data);
            }
            gathered.extend_from_slice(&data);
            at = end;
            if at == wanted.end {
                break;
            }
        }
        Ok(gathered.freeze())
    }

    /// Where the ranges end; `start` if there are none.
    fn fetched_to(&self, start: u64) -> u64 {
        self.ranges
            .back()
            .map_or(start, |last| last.range.end.min(self.size))
    }

    fn fetch_next(&mut self, start: u64, place: Option<OwnedSemaphorePermit>) {
        let start = self.fetched_to(start);
        let range = start..self.size.min(start + RANGE);
        let (_, fetch) = Fetch::open(
            &self.bucket,
            self.key.clone(),
            range,
            Some(self.size),
            self.tag.clone(),
            place,
        );
        self.ranges.push_back(fetch);
    }

    async fn fetch_once(&self, wanted: Range<u64>) -> Result<Bytes, Fault> {
        let (_, mut fetch) = Fetch::open(
            &self.bucket,
            self.key.clone(),
            wanted.clone(),
            Some(self.size),
            self.tag.clone(),
            None,
        );
        fetch.read(wanted).await
    }
}

type Opened = oneshot::Receiver<Result<object_store::ObjectMeta, Fault>>;

impl Fetch {
    /// Begins to fetch; the receiver hears about the file as soon as the server says it.
    fn open(
        bucket: &Arc<Bucket>,
        key: Key,
        range: Range<u64>,
        known_size: Option<u64>,
        tag: Option<String>,
        place: Option<OwnedSemaphorePermit>,
    ) -> (Opened, Self) {
        let (opened, about) = oneshot::channel();
        let (pieces, coming) = mpsc::channel(match place {
            Some(_) => PIECES_AHEAD,
            None => PIECES_AT_PACE,
        });
        let task = tokio::spawn(fetch(
            Arc::clone(bucket),
            key,
            range.clone(),
            known_size,
            tag,
            opened,
            pieces,
        ));
        let fetch = Self {
            kept: range.start,
            come: range.start,
            range,
            pieces: VecDeque::new(),
            coming,
            task,
            _place: place,
        };
        (about, fetch)
    }

    /// Bytes of this range, once they have come.
    async fn read(&mut self, wanted: Range<u64>) -> Result<Bytes, Fault> {
        self.forget(wanted.start.saturating_sub(BEHIND));
        while self.come < wanted.end {
            let piece = self.coming.recv().await.unwrap_or_else(|| {
                Err(Fault::judged(
                    ErrorKind::Failure,
                    format!("the server ended the download at {}", self.come),
                ))
            })?;
            self.come += piece.len() as u64;
            self.pieces.push_back(piece);
            self.forget(wanted.start.saturating_sub(BEHIND));
        }
        let mut start = self.kept;
        let mut gathered = BytesMut::new();
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            if end > wanted.start && start < wanted.end {
                let from = to_index(wanted.start.saturating_sub(start));
                let to = to_index(wanted.end.min(end) - start);
                let slice = piece.slice(from..to);
                if start <= wanted.start && end >= wanted.end {
                    return Ok(slice);
                }
                gathered.extend_from_slice(&slice);
            }
            start = end;
        }
        Ok(gathered.freeze())
    }
}

impl Fetch {
    /// Lets go of whole pieces before an offset.
    fn forget(&mut self, before: u64) {
        while let Some(piece) = self.pieces.front() {
            let end = self.kept + piece.len() as u64;
            if end > before {
                return;
            }
            self.kept = end;
            self.pieces.pop_front();
        }
    }
}

/// Offsets within a range, which is at most [`RANGE`] bytes.
fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

async fn fetch(
    bucket: Arc<Bucket>,
    key: Key,
    range: Range<u64>,
    known_size: Option<u64>,
    tag: Option<String>,
    opened: oneshot::Sender<Result<object_store::ObjectMeta, Fault>>,
    pieces: mpsc::Sender<Result<Bytes, Fault>>,
) {
    let Fetched { meta, mut content } = match bucket.get(&key, range.clone(), tag.as_deref()).await
    {
        Ok(fetched) => fetched,
        Err(fault) => {
            // One of the two is being waited for.
            let _ = opened.send(Err(fault.clone()));
            let _ = pieces.send(Err(fault)).await;
            return;
        }
    };
    if known_size.is_some_and(|size| size != meta.size) {
        let changed = Fault::judged(
            ErrorKind::Failure,
            format!(
                "{key} has another size than when it was opened: it was replaced while it was read"
            ),
        );
        let _ = pieces.send(Err(changed)).await;
        return;
    }
    let mut left = range.end.min(meta.size).saturating_sub(range.start);
    let _ = opened.send(Ok(meta));
    while left > 0 {
        let piece = match content.next().await {
            None => return,
            Some(Ok(piece)) if piece.len() as u64 > left => Err(Fault::Garbled {
                request: "GET",
                cause: format!("more bytes came than {} to {}", range.start, range.end),
            }),
            Some(Ok(piece)) if piece.is_empty() => continue,
            Some(Ok(piece)) => {
                left -= piece.len() as u64;
                Ok(piece)
            }
            Some(Err(error)) => Err(bucket.content_fault(&error)),
        };
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
}

fn interrupted() -> Fault {
    Fault::judged(ErrorKind::Unavailable, "the session has ended")
}
