//! One file being read: RETR as long as the reads go on, REST and RETR after a jump.

use std::{
    fmt,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};

use super::{
    connection::{Transfer, lost, within},
    fault::Fault,
    names,
    pool::{Lease, Pool},
    window::Window,
};
use crate::{backend::ErrorKind, operation::Attributes, path::RelativePath};

/// Bytes kept behind the furthest read: pipelined reads may come a little out of order.
const KEPT: u64 = 1024 * 1024;
/// A jump ahead of at most so many bytes is read through rather than restarted.
const SKIPPED: u64 = 1024 * 1024;
/// Bytes fetched ahead of the reads.
const READ_AHEAD: u64 = 4 * 1024 * 1024;
/// Bytes of one transfer after which it gives way to another that waits for a connection.
const TURN: u64 = 16 * 1024 * 1024;

/// A file open for reading.
pub(super) struct Download {
    pool: Arc<Pool>,
    path: RelativePath,
    attributes: Attributes,
    line: Arc<Line>,
    /// Offset at which the transfer began.
    begun_at: u64,
    /// End of the furthest read since the transfer began.
    reader: u64,
    /// Set once the server has confirmed that the transfer reached the file's end.
    end: Option<u64>,
}

/// A download's transfer and what came over it. The pool may take both away: the download can begin again where it was.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Locked while it is read.
    flow: Mutex<Flow>,
    is_wanted: AtomicBool,
    wanted: Notify,
}

#[derive(Default)]
struct Flow {
    /// In this order: a transfer is broken off before its connection goes back to the pool.
    open: Option<(Transfer, Lease)>,
    window: Window,
    /// The data connection is at its end, well or not; the next read finds out.
    is_drained: bool,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("is_open", &self.open.is_some())
            .field("window", &(self.window.start()..self.window.end()))
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Takes the connection and the memory, at once or as soon as the download lets go; false if it has no connection.
    pub(super) fn take(&self) -> bool {
        match self.flow.try_lock() {
            Ok(mut flow) => std::mem::take(&mut *flow).open.is_some(),
            Err(_) => {
                self.is_wanted.store(true, Ordering::Release);
                self.wanted.notify_one();
                true
            }
        }
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("path", &self.path)
            .field("line", &self.line)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Download {
    pub(super) async fn open(pool: &Arc<Pool>, path: RelativePath) -> Result<Self, Fault> {
        let mut lease = pool.lease().await?;
        let attributes = match names::all_attributes(&mut lease, &path).await? {
            None => return Err(names::not_found(&path)),
            Some(found) if found.is_directory() => return Err(names::is_a_directory(&path)),
            Some(found) => found,
        };
        Ok(Self::of(pool, path, attributes))
    }

    /// Of a file that has these attributes.
    pub(super) fn of(pool: &Arc<Pool>, path: RelativePath, attributes: Attributes) -> Self {
        Self {
            pool: Arc::clone(pool),
            path,
            attributes,
            line: Arc::default(),
            begun_at: 0,
            reader: 0,
            end: None,
        }
    }

    pub(super) fn attributes(&self) -> Attributes {
        self.attributes.clone()
    }

    pub(super) async fn set_attributes(&self, attributes: &Attributes) -> Result<(), Fault> {
        let mut lease = self.pool.lease().await?;
        names::set_attributes(&mut lease, &self.path, attributes).await
    }

    /// At most `length` bytes from `offset` on; fewer only at the end, and none past it.
    pub(super) async fn read(&mut self, offset: u64, length: u32) -> Result<Bytes, Fault> {
        let wanted = offset.saturating_add(u64::from(length));
        let line = Arc::clone(&self.line);
        let mut flow = line.flow.lock().await;
        if self.end.is_some_and(|end| offset >= end) {
            return Ok(Bytes::new());
        }
        flow.window.suit(length);
        let (start, end) = (flow.window.start(), flow.window.end());
        let in_reach = offset >= start && offset <= end.saturating_add(SKIPPED);
        let has_it = offset >= start && (wanted <= end || self.end == Some(end));
        if !has_it && (flow.open.is_none() || !in_reach) {
            self.begin_at(&mut flow, offset).await?;
        }
        self.reader = self.reader.max(wanted);
        while flow.open.is_some() && self.wants_more(&flow, wanted) {
            if let Err(fault) = self.read_chunk(&mut flow).await {
                flow.open = None;
                return Err(fault);
            }
            flow.window.forget_before(offset.saturating_sub(KEPT));
        }
        let data = flow.window.slice(offset, wanted);
        if flow.window.end().saturating_sub(self.begun_at) >= TURN
            && line.is_wanted.swap(false, Ordering::AcqRel)
        {
            *flow = Flow::default();
        }
        Ok(data)
    }

    /// Fetches some of what will be read next, or gives way to another transfer; returns when something was done, which
    /// may be never. Nothing is lost if it is not polled to its end.
    pub(super) async fn read_ahead(&mut self) {
        let line = &self.line;
        let mut flow = line.flow.lock().await;
        let Flow {
            open,
            window,
            is_drained,
        } = &mut *flow;
        let ahead = window.end().saturating_sub(self.reader);
        let Some((transfer, _)) = open.as_mut().filter(|_| !*is_drained && ahead < READ_AHEAD)
        else {
            // Unlocked, it can be taken away.
            drop(flow);
            return pending().await;
        };
        let read = tokio::select! {
            biased;
            () = line.wanted.notified() => {
                line.is_wanted.store(false, Ordering::Release);
                *flow = Flow::default();
                return;
            }
            read = window.read_from(transfer) => read,
        };
        // The reply is for a read to wait for, and an error for a read to hear of.
        *is_drained = match read {
            Ok(count) => count == 0,
            Err(error) => {
                window.put_back(error);
                true
            }
        };
    }

    /// Up to `wanted`; and once the file is here as a whole, up to the reply that frees the connection.
    fn wants_more(&self, flow: &Flow, wanted: u64) -> bool {
        let end = flow.window.end();
        end < wanted || self.attributes.size.is_some_and(|size| end >= size)
    }

    async fn begin_at(&mut self, flow: &mut Flow, offset: u64) -> Result<(), Fault> {
        // An abandoned transfer goes first: its connection then serves the next.
        flow.open = None;
        flow.is_drained = false;
        flow.window.restart(offset);
        self.begun_at = offset;
        self.reader = offset;
        self.end = None;
        let mut lease = self.pool.lease_for_transfer().await?;
        let location = lease.locate(&self.path).await?;
        let no_rest = &self.pool.server().quirks.no_rest;
        let first = if no_rest.is_known() { 0 } else { offset };
        let opened = match lease.retrieve(&location, first).await {
            Err(fault) if fault.is_unknown_command() && first > 0 => {
                no_rest.learn();
                lease.retrieve(&location, 0).await
            }
            opened => opened,
        };
        let transfer = match opened {
            Ok(transfer) => transfer,
            Err(fault) if fault.kind().is_none() => {
                let found = names::attributes(&mut lease, &self.path).await?;
                return match found {
                    None => Err(names::not_found(&self.path)),
                    // Beyond the end there is nothing to restart at.
                    Some(found) if found.size.is_some_and(|size| offset >= size) && offset > 0 => {
                        self.end = found.size;
                        Ok(())
                    }
                    Some(_) => Err(fault),
                };
            }
            Err(fault) => return Err(fault),
        };
        flow.open = Some((transfer, lease));
        self.pool.may_give_way(&self.line);
        if no_rest.is_known() && offset > 0 {
            self.skip_to(flow, offset).await?;
        }
        Ok(())
    }

    /// Without REST a transfer begins at the file's beginning, and what comes before `offset` is thrown away.
    async fn skip_to(&mut self, flow: &mut Flow, offset: u64) -> Result<(), Fault> {
        flow.window.restart(0);
        self.begun_at = 0;
        while flow.open.is_some() && flow.window.end() < offset {
            if let Err(fault) = self.read_chunk(flow).await {
                flow.open = None;
                return Err(fault);
            }
            flow.window.forget_before(offset.min(flow.window.end()));
        }
        Ok(())
    }

    async fn read_chunk(&mut self, flow: &mut Flow) -> Result<(), Fault> {
        let timeout = self.pool.server().settings.timeout;
        let Some((transfer, _)) = &mut flow.open else {
            return Ok(());
        };
        match within(timeout, flow.window.read_from(transfer)).await {
            Ok(0) => self.finish(flow, true).await,
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.finish(flow, false).await
            }
            Err(error) => Err(lost("RETR", &error)),
        }
    }

    /// The data connection ended: the reply, and the size where it is known, say whether that was the file's end.
    /// `sealed` is false if TLS' farewell was missing; then the size must vouch for the end.
    async fn finish(&mut self, flow: &mut Flow, sealed: bool) -> Result<(), Fault> {
        let Some((transfer, mut lease)) = flow.open.take() else {
            return Ok(());
        };
        lease.finish("RETR", transfer).await?;
        let end = flow.window.end();
        let size = self.attributes.size;
        let short = size.is_some_and(|size| end < size);
        let unproven = !sealed && size != Some(end);
        if short || unproven {
            return Err(Fault::judged(
                ErrorKind::Failure,
                format!(
                    "the server ended the download at {end} of {} bytes",
                    size.map_or_else(|| "unknown".to_owned(), |size| size.to_string())
                ),
            ));
        }
        self.end = Some(end);
        Ok(())
    }
}
