//! A file that is open for reading: segments are fetched as they are asked for, and once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, join_all},
};
use portcullis_at_rest::{EXTENT_HEADER, ExtentReader, ExtentReaders, Layout, SegmentPlace};
use portcullis_audit::catalogue::OnRecord;

use super::{fault::Fault, steps::Steps};
use crate::{
    backend::BackendError,
    operation::{HandleId, Outcome},
};

/// Segments of which the plaintext is kept, or on its way: 2 MiB.
const SEGMENTS: usize = 32;
/// Extents whose beginning is remembered: 16 GiB of a file.
const EXTENTS: usize = 1024;

type Fetch<T> = Shared<BoxFuture<'static, Result<T, BackendError>>>;

/// One open file.
pub(super) struct Download {
    /// On the backend.
    handle: HandleId,
    readers: Arc<ExtentReaders>,
    on_record: Option<OnRecord>,
    fetched: Mutex<Fetched>,
}

#[derive(Default)]
struct Fetched {
    segments: BTreeMap<u64, Fetch<Bytes>>,
    /// The one that was fetched first, first.
    order: VecDeque<u64>,
    extents: HashMap<u64, Fetch<ExtentReader>>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({:?})", self.readers)
    }
}

impl Download {
    pub(super) fn new(handle: HandleId, readers: ExtentReaders) -> Self {
        Self {
            handle,
            readers: Arc::new(readers),
            on_record: None,
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
            let last = self.segment(steps, layout.last_segment());
            return async move {
                last.await?;
                Ok(Outcome::End)
            }
            .boxed();
        }
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let place = layout.segment_at(at);
            let from = usize::try_from(at - place.offset).unwrap_or(place.length);
            let until = usize::try_from(end - place.offset)
                .map_or(place.length, |until| until.min(place.length));
            pieces.push((self.segment(steps, place), from..until));
            at = place.offset + until as u64;
        }
        async move {
            let (fetches, ranges): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
            let segments = join_all(fetches).await;
            let mut slices = Vec::with_capacity(ranges.len());
            for (segment, range) in segments.into_iter().zip(ranges) {
                slices.push(segment?.slice(range));
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

    fn segment(&self, steps: &Steps, place: SegmentPlace) -> Fetch<Bytes> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetch) = fetched.segments.get(&place.index) {
            // What failed is tried again: the fault may have been the connection's.
            if !matches!(fetch.peek(), Some(Err(_))) {
                return fetch.clone();
            }
            fetched.segments.remove(&place.index);
            fetched.order.retain(|index| *index != place.index);
        }
        let fetch = self.fetch(&mut fetched, steps, place);
        fetched.segments.insert(place.index, fetch.clone());
        fetched.order.push_back(place.index);
        if fetched.order.len() > SEGMENTS
            && let Some(oldest) = fetched.order.pop_front()
        {
            fetched.segments.remove(&oldest);
        }
        fetch
    }

    fn fetch(&self, fetched: &mut Fetched, steps: &Steps, place: SegmentPlace) -> Fetch<Bytes> {
        let readers = Arc::clone(&self.readers);
        let header_at = Layout::extent_header(place.extent);
        if place.stored_offset == header_at + EXTENT_HEADER as u64 {
            // Both with one READ.
            let length = EXTENT_HEADER + place.stored_length;
            let reading = steps.read(self.handle, header_at, length);
            return async move {
                let mut stored = exactly(reading.await?, length)?;
                let (header, segment) = stored.split_at_mut(EXTENT_HEADER);
                let reader = readers.extent(place.extent, header).map_err(Fault::from)?;
                let found = reader.open(&place, segment).map_err(Fault::from)?;
                let found = found.start + EXTENT_HEADER..found.end + EXTENT_HEADER;
                Ok(Bytes::from(stored).slice(found))
            }
            .boxed()
            .shared();
        }
        let extent = self.extent(fetched, steps, place.extent);
        let reading = steps.read(self.handle, place.stored_offset, place.stored_length);
        async move {
            let (reader, stored) = futures_util::join!(extent, reading);
            let mut stored = exactly(stored?, place.stored_length)?;
            let found = reader?.open(&place, &mut stored).map_err(Fault::from)?;
            Ok(Bytes::from(stored).slice(found))
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

fn exactly(data: Vec<u8>, expected: usize) -> Result<Vec<u8>, Fault> {
    if data.len() == expected {
        Ok(data)
    } else {
        Err(Fault::Short {
            expected,
            found: data.len(),
        })
    }
}
