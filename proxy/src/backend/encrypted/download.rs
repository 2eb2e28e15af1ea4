//! A file that is open for reading: segments are fetched as they are asked for, and once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, join_all},
};
use portcullis_at_rest::{
    EXTENT_HEADER, ExtentReader, ExtentReaders, Layout, OpenError, SEGMENT_PLAINTEXT, SegmentPlace,
};
use portcullis_audit::catalogue::OnRecord;

use super::{fault::Fault, steps::Steps};
use crate::{
    backend::{
        BackendError,
        buffers::{Buffer, Buffers},
    },
    operation::{HandleId, Outcome},
};

/// Segments of which the plaintext is kept, or on its way: 2 MiB.
const SEGMENTS: u64 = 32;
/// Most segments of one READ below, which together are within [`MAX_DATA`](crate::operation::MAX_DATA).
const AT_ONCE: u64 = 3;
/// Extents whose beginning is remembered: 16 GiB of a file.
const EXTENTS: usize = 1024;

type Fetch<T> = Shared<BoxFuture<'static, Result<T, BackendError>>>;

/// One open file.
pub(super) struct Download {
    /// On the backend.
    handle: HandleId,
    readers: Arc<ExtentReaders>,
    on_record: Option<OnRecord>,
    buffers: Buffers,
    fetched: Mutex<Fetched>,
}

#[derive(Default)]
struct Fetched {
    /// By the first segment of each; none has a segment of another one.
    runs: BTreeMap<u64, Run>,
    /// First segments of the runs. The one that was fetched first, first.
    order: VecDeque<u64>,
    segments: u64,
    extents: HashMap<u64, Fetch<ExtentReader>>,
}

/// Segments of one extent behind each other, which are fetched by one READ.
#[derive(Clone)]
struct Run {
    /// Behind its last segment.
    until: u64,
    fetch: Fetch<Opened>,
}

/// The plaintext of a run.
#[derive(Clone)]
struct Opened {
    /// Where it begins in the file.
    offset: u64,
    plaintext: Bytes,
    /// The segments that are not what was written: zeros.
    changed: Arc<[u64]>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({:?})", self.readers)
    }
}

impl Download {
    pub(super) fn new(handle: HandleId, readers: ExtentReaders, buffers: &Buffers) -> Self {
        Self {
            handle,
            readers: Arc::new(readers),
            on_record: None,
            buffers: buffers.clone(),
            fetched: Mutex::default(),
        }
    }

    /// With what the journal says of the file. It says nothing of one that has another size.
    pub(super) fn known_as(self, on_record: Option<OnRecord>) -> Self {
        let size = self.layout().plaintext();
        Self {
            on_record: on_record.filter(|on_record| on_record.size == size),
            ..self
        }
    }

    pub(super) fn on_record(&self) -> Option<OnRecord> {
        self.on_record
    }

    pub(super) fn layout(&self) -> Layout {
        self.readers.layout()
    }

    /// Its READs are started before this returns.
    pub(super) fn read(
        &self,
        steps: &Steps,
        offset: u64,
        length: u32,
    ) -> BoxFuture<'static, Result<Outcome, BackendError>> {
        let layout = self.layout();
        let end = layout.plaintext().min(offset.saturating_add(length.into()));
        if offset >= end {
            // An end is one only if nothing was cut off behind it.
            let last = layout.last_segment();
            let (fetch, _) = self.run(steps, last.offset, end);
            return async move {
                fetch.await?.slice(layout, last.offset..last.offset)?;
                Ok(Outcome::End)
            }
            .boxed();
        }
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let (fetch, covered) = self.run(steps, at, end);
            let until = covered.min(end);
            pieces.push((fetch, at..until));
            at = until;
        }
        async move {
            let (fetches, ranges): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
            let runs = join_all(fetches).await;
            let mut slices = Vec::with_capacity(ranges.len());
            for (run, range) in runs.into_iter().zip(ranges) {
                slices.push(run?.slice(layout, range)?);
            }
            if let [only] = &mut *slices {
                return Ok(Outcome::Data(std::mem::take(only)));
            }
            let mut data = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
            for slice in slices {
                data.extend_from_slice(&slice);
            }
            Ok(Outcome::Data(data.freeze()))
        }
        .boxed()
    }

    /// What brings the byte at `at`, and as many of those up to `end` as one READ can, and where the last of them ends.
    fn run(&self, steps: &Steps, at: u64, end: u64) -> (Fetch<Opened>, u64) {
        let layout = self.layout();
        let first = layout.segment_at(at);
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fetched.runs.range(..=first.index).next_back();
        if let Some((&begins, run)) = before.filter(|(_, run)| first.index < run.until) {
            // What failed is tried again: the fault may have been the connection's.
            let is_failed = match run.fetch.peek() {
                Some(Ok(opened)) => opened.changed.contains(&first.index),
                Some(Err(_)) => true,
                None => false,
            };
            let until = run.until;
            if !is_failed {
                return (run.fetch.clone(), ends(layout, until));
            }
            fetched.remove(begins);
        }
        let next = fetched.runs.range(first.index..).next();
        let free = next.map_or(u64::MAX, |(&index, _)| index);
        let mut places = vec![first];
        let mut until = first.index + 1;
        while until < free && until - first.index < AT_ONCE && ends(layout, until) < end {
            let next = layout.segment_at(ends(layout, until));
            if next.extent != first.extent {
                break;
            }
            places.push(next);
            until += 1;
        }
        let fetch = self.fetch(&mut fetched, steps, first, places);
        let run = Run {
            until,
            fetch: fetch.clone(),
        };
        fetched.keep(first.index, run);
        (fetch, ends(layout, until))
    }

    /// `places` are those of one run, from `first` on.
    fn fetch(
        &self,
        fetched: &mut Fetched,
        steps: &Steps,
        first: SegmentPlace,
        places: Vec<SegmentPlace>,
    ) -> Fetch<Opened> {
        let length = places.iter().map(|place| place.stored_length).sum();
        let buffers = self.buffers.clone();
        let header_at = Layout::extent_header(first.extent);
        if first.stored_offset == header_at + EXTENT_HEADER as u64 {
            // Both with one READ.
            let readers = Arc::clone(&self.readers);
            let length = EXTENT_HEADER + length;
            let reading = steps.read(self.handle, header_at, length);
            return async move {
                let mut stored = exactly(reading.await?, length)?;
                let header = stored.split_to(EXTENT_HEADER);
                let reader = readers.extent(first.extent, &header).map_err(Fault::from)?;
                Ok(Opened::of(&reader, &buffers, &places, &stored))
            }
            .boxed()
            .shared();
        }
        let extent = self.extent(fetched, steps, first.extent);
        let reading = steps.read(self.handle, first.stored_offset, length);
        async move {
            let (reader, stored) = futures_util::join!(extent, reading);
            let stored = exactly(stored?, length)?;
            Ok(Opened::of(&reader?, &buffers, &places, &stored))
        }
        .boxed()
        .shared()
    }

    fn extent(&self, fetched: &mut Fetched, steps: &Steps, extent: u64) -> Fetch<ExtentReader> {
        if let Some(fetch) = fetched.extents.get(&extent)
            && !matches!(fetch.peek(), Some(Err(_)))
        {
            return fetch.clone();
        }
        let readers = Arc::clone(&self.readers);
        let reading = steps.read(self.handle, Layout::extent_header(extent), EXTENT_HEADER);
        let fetch = async move {
            let header = exactly(reading.await?, EXTENT_HEADER)?;
            Ok(readers.extent(extent, &header).map_err(Fault::from)?)
        }
        .boxed()
        .shared();
        if fetched.extents.len() >= EXTENTS {
            fetched.extents.clear();
        }
        fetched.extents.insert(extent, fetch.clone());
        fetch
    }
}

impl Fetched {
    fn keep(&mut self, first: u64, run: Run) {
        self.segments += run.until - first;
        self.runs.insert(first, run);
        self.order.push_back(first);
        while self.segments > SEGMENTS
            && let Some(&oldest) = self.order.front()
        {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, first: u64) {
        if let Some(run) = self.runs.remove(&first) {
            self.segments -= run.until - first;
        }
        self.order.retain(|index| *index != first);
    }
}

impl Opened {
    /// `stored` are all bytes of `places`.
    fn of(
        reader: &ExtentReader,
        buffers: &Buffers,
        places: &[SegmentPlace],
        mut stored: &[u8],
    ) -> Self {
        let length = places.iter().map(|place| place.length).sum();
        let mut plaintext = if places.len() as u64 == AT_ONCE {
            buffers.take(length)
        } else {
            Buffer::of(length)
        };
        let mut room = plaintext.first(length);
        let mut changed = Vec::new();
        for place in places {
            let (segment, stored_rest) = stored.split_at(place.stored_length);
            let (opened, rest) = room.split_at_mut(place.length);
            if reader.open(place, segment, opened).is_err() {
                changed.push(place.index);
            }
            (stored, room) = (stored_rest, rest);
        }
        Self {
            offset: places.first().map_or(0, |place| place.offset),
            plaintext: plaintext.freeze(length),
            changed: changed.into(),
        }
    }

    /// Bytes of the file that are in it.
    fn slice(&self, layout: Layout, range: Range<u64>) -> Result<Bytes, Fault> {
        let first = layout.segment_at(range.start).index;
        let last = layout.segment_at(range.end.saturating_sub(1)).index;
        let is_meant = |index: &&u64| (first..=last).contains(index);
        if let Some(&changed) = self.changed.iter().find(is_meant) {
            return Err(OpenError::Segment(changed).into());
        }
        let within = |at: u64| usize::try_from(at - self.offset).unwrap_or(usize::MAX);
        Ok(self.plaintext.slice(within(range.start)..within(range.end)))
    }
}

/// Where the segment before this one ends.
fn ends(layout: Layout, until: u64) -> u64 {
    layout.plaintext().min(until * SEGMENT_PLAINTEXT as u64)
}

fn exactly(data: Bytes, expected: usize) -> Result<Bytes, Fault> {
    if data.len() == expected {
        Ok(data)
    } else {
        Err(Fault::Short {
            expected,
            found: data.len(),
        })
    }
}
