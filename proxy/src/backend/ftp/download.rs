//! One file being read: RETR as long as the reads go on, REST and RETR after a jump.

use std::{fmt, io, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;

use super::{
    connection::{Transfer, lost, within},
    fault::Fault,
    names,
    pool::{DownloadLine, Lease, Pool},
};
use crate::{
    backend::ErrorKind,
    operation::{Attributes, Outcome},
    path::RelativePath,
};

/// Bytes kept behind the furthest read: pipelined reads may come a little out of order.
const KEPT: usize = 1024 * 1024;
/// A jump ahead of at most so many bytes is read through rather than restarted.
const SKIPPED: u64 = 1024 * 1024;
/// Bytes asked of the socket at once.
const CHUNK: usize = 256 * 1024;

/// In this order: the transfer is broken off before its connection goes back to the pool.
type Line = Option<(Transfer, Lease)>;

/// A file open for reading.
pub(super) struct Download {
    pool: Arc<Pool>,
    path: RelativePath,
    attributes: Attributes,
    line: Arc<DownloadLine>,
    /// Offset of the first byte in `window`.
    start: u64,
    window: BytesMut,
    /// Set once the server has confirmed that the transfer reached the file's end.
    end: Option<u64>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("path", &self.path)
            .field("start", &self.start)
            .field("window", &self.window.len())
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
        Ok(Self {
            pool: Arc::clone(pool),
            path,
            attributes,
            line: Arc::default(),
            start: 0,
            window: BytesMut::new(),
            end: None,
        })
    }

    pub(super) fn attributes(&self) -> Attributes {
        self.attributes.clone()
    }

    pub(super) async fn set_attributes(&self, attributes: &Attributes) -> Result<(), Fault> {
        let mut lease = self.pool.lease().await?;
        names::set_attributes(&mut lease, &self.path, attributes).await
    }

    /// At most `length` bytes from `offset` on; fewer only at the end.
    pub(super) async fn read(&mut self, offset: u64, length: u32) -> Result<Outcome, Fault> {
        let wanted = offset.saturating_add(u64::from(length));
        let line = Arc::clone(&self.line);
        let mut line = line.lock().await;
        if self.end.is_some_and(|end| offset >= end) {
            return Ok(Outcome::End);
        }
        let read_up_to = self.start + self.window.len() as u64;
        let in_reach = offset >= self.start && offset <= read_up_to.saturating_add(SKIPPED);
        let has_it = offset >= self.start && (wanted <= read_up_to || self.end == Some(read_up_to));
        if !has_it && (line.is_none() || !in_reach) {
            self.begin_at(&mut line, offset).await?;
        }
        while line.is_some() && self.wants_more(wanted) {
            if let Err(fault) = self.read_chunk(&mut line).await {
                *line = None;
                return Err(fault);
            }
            self.forget_before(offset);
        }
        let data = self.slice(offset, wanted);
        if data.is_empty() {
            return Ok(Outcome::End);
        }
        Ok(Outcome::Data(data))
    }

    /// Up to `wanted`; and once the file is here as a whole, up to the reply that frees the connection.
    fn wants_more(&self, wanted: u64) -> bool {
        let read_up_to = self.start + self.window.len() as u64;
        read_up_to < wanted || self.attributes.size.is_some_and(|size| read_up_to >= size)
    }

    async fn begin_at(&mut self, line: &mut Line, offset: u64) -> Result<(), Fault> {
        // An abandoned transfer goes first: its connection then serves the next.
        *line = None;
        self.window.clear();
        self.start = offset;
        self.end = None;
        let mut lease = self.pool.lease_for_transfer().await?;
        let location = lease.locate(&self.path).await?;
        let transfer = match lease.retrieve(&location, offset).await {
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
            Err(fault) if fault.is_unknown_command() && offset > 0 => {
                return Err(Fault::judged(
                    ErrorKind::Unsupported,
                    format!("the server can't begin a download at {offset} (no REST)"),
                ));
            }
            Err(fault) => return Err(fault),
        };
        *line = Some((transfer, lease));
        self.pool.may_pause(&self.line);
        Ok(())
    }

    async fn read_chunk(&mut self, line: &mut Line) -> Result<(), Fault> {
        let timeout = self.pool.server().settings.timeout;
        let Some((transfer, _)) = line else {
            return Ok(());
        };
        self.window.reserve(CHUNK);
        match within(timeout, transfer.read_buf(&mut self.window)).await {
            Ok(0) => self.finish(line, true).await,
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.finish(line, false).await
            }
            Err(error) => Err(lost("RETR", &error)),
        }
    }

    /// The data connection ended: the reply, and the size where it is known, say whether that was the file's end.
    /// `sealed` is false if TLS' farewell was missing; then the size must vouch for the end.
    async fn finish(&mut self, line: &mut Line, sealed: bool) -> Result<(), Fault> {
        let Some((transfer, mut lease)) = line.take() else {
            return Ok(());
        };
        lease.finish("RETR", transfer).await?;
        let end = self.start + self.window.len() as u64;
        let short = self.attributes.size.is_some_and(|size| end < size);
        let unproven = !sealed && self.attributes.size != Some(end);
        if short || unproven {
            return Err(Fault::judged(
                ErrorKind::Failure,
                format!(
                    "the server ended the download at {end} of {} bytes",
                    self.attributes
                        .size
                        .map_or_else(|| "unknown".to_owned(), |size| size.to_string())
                ),
            ));
        }
        self.end = Some(end);
        Ok(())
    }

    /// Lets go of what lies far behind both the furthest byte and `offset`.
    fn forget_before(&mut self, offset: u64) {
        let excess = self.window.len().saturating_sub(KEPT + CHUNK) as u64;
        let behind = offset.saturating_sub(self.start).min(excess);
        if let Ok(behind) = usize::try_from(behind) {
            self.window.advance(behind);
            self.start += behind as u64;
        }
    }

    fn slice(&self, from: u64, to: u64) -> Bytes {
        let begin = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let end = usize::try_from(to.saturating_sub(self.start))
            .unwrap_or(usize::MAX)
            .min(self.window.len());
        Bytes::copy_from_slice(self.window.get(begin..end).unwrap_or_default())
    }
}
