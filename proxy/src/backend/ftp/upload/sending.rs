//! What of an upload is on its way to the server.

use std::{fmt, future::pending, io, time::Instant};

use bytes::{Buf as _, Bytes};
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;

use super::Upload;
use crate::backend::ftp::{
    connection::{Transfer, lost, within},
    fault::Fault,
    pool::Lease,
};

/// Bytes that may be on their way to the server. WRITEs are answered when they are in here.
const SEND_WINDOW: usize = 4 * 1024 * 1024;

/// In this order: the transfer is broken off before its connection goes back to the pool.
pub(super) struct Line {
    pub(super) transfer: Transfer,
    pub(super) lease: Lease,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}

impl Upload {
    /// Puts bytes that continue the file into the window and into the digest.
    pub(super) fn enqueue(&mut self, mut data: Bytes) {
        if self.sending.is_empty() {
            self.moved = Instant::now();
        }
        self.next += data.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(&data);
        }
        let skipped = self.skipped.min(data.len() as u64);
        self.skipped -= skipped;
        data.advance(usize::try_from(skipped).unwrap_or(0));
        if data.is_empty() {
            return;
        }
        self.sending_bytes += data.len();
        self.sending.push_back(data);
    }

    /// False while the window is full.
    pub(in crate::backend::ftp) fn has_room(&self) -> bool {
        self.sending_bytes < SEND_WINDOW
    }

    /// Sends some of what waits; returns when bytes moved or the transfer broke, which may be never. Nothing is lost if
    /// it is not polled to its end; an error must be given to [`break_off`](Self::break_off).
    pub(in crate::backend::ftp) async fn send(&mut self) -> io::Result<()> {
        let timeout = self.pool.server().settings.timeout;
        if self.is_settled {
            self.read_ahead().await;
            return Ok(());
        }
        let (Some(line), Some(data)) = (&mut self.line, self.sending.front_mut()) else {
            return pending().await;
        };
        let left = timeout.saturating_sub(self.moved.elapsed());
        let count = within(left, line.transfer.write(data)).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data.advance(count);
        if data.is_empty() {
            self.sending.pop_front();
        }
        self.sending_bytes -= count;
        self.moved = Instant::now();
        Ok(())
    }

    /// Sends all that waits.
    pub(in crate::backend::ftp) async fn send_all(&mut self) -> Result<(), Fault> {
        while !self.sending.is_empty() && self.line.is_some() {
            if let Err(error) = self.send().await {
                self.break_off(&error).await;
            }
        }
        match &self.failed {
            Some(fault) => Err(fault.clone()),
            None => Ok(()),
        }
    }

    /// Finds out why the transfer broke: a full disk or a quota is said in the reply; the socket only breaks.
    pub(in crate::backend::ftp) async fn break_off(&mut self, error: &io::Error) {
        let stands_still = error.kind() == io::ErrorKind::TimedOut;
        let line = self.line.take();
        self.fail(lost("STOR", error));
        let Some(Line {
            transfer,
            mut lease,
        }) = line
        else {
            return;
        };
        if !stands_still
            && let Err(refusal @ Fault::Refused { .. }) = lease.finish("STOR", transfer).await
        {
            self.failed = Some(refusal);
        }
    }

    /// Whatever is done later, nothing will be published.
    pub(in crate::backend::ftp) fn fail(&mut self, fault: Fault) {
        self.line = None;
        self.sending.clear();
        self.sending_bytes = 0;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.failed = Some(fault);
    }
}
