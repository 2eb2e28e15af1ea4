//! One file being written: STOR to a staging name, RNFR/RNTO at CLOSE.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::pending,
    io,
    sync::Arc,
    time::Instant,
};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    connection::{Transfer, lost, within},
    fault::Fault,
    names,
    partial::Staged,
    pool::{Lease, Pool},
};
use crate::{
    backend::{
        ErrorKind,
        staging::{Beginning, Progress, Publish, shown_length},
    },
    operation::{Access, Attributes, Outcome},
    path::RelativePath,
};

/// Bytes that may wait for the gap before them to close.
const REORDER_WINDOW: usize = 32 * 1024 * 1024;
/// Bytes that may be on their way to the server. WRITEs are answered when they are in here.
const SEND_WINDOW: usize = 4 * 1024 * 1024;

/// Bytes read at once to compute a digest.
const REREAD_BUFFER: usize = 256 * 1024;

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Upload {
    pool: Arc<Pool>,
    path: RelativePath,
    staged: Staged,
    publish: Publish,
    /// What the client saw of the file that it changes. If that is not what stands there at CLOSE, somebody else changed it.
    original: Option<Attributes>,
    access: Access,
    /// In what order the bytes came.
    progress: Progress,
    /// Of all bytes, if the record's own digest will not do and all pass through here.
    digest: Option<Sha256>,
    /// Bytes of the partial that this upload continues, until the first write tells where.
    found: Option<u64>,
    /// Bytes at the beginning that the server has already, though the client sends them.
    skipped: u64,
    /// Absent once the transfer is over or has failed, and before the first write to a partial.
    line: Option<Line>,
    /// Offset after the last byte taken, whether it is sent or not.
    next: u64,
    sending: VecDeque<Bytes>,
    sending_bytes: usize,
    /// When bytes last moved, or began to wait.
    moved: Instant,
    waiting: BTreeMap<u64, Bytes>,
    waiting_bytes: usize,
    /// To be set on the staging file before it is published.
    attributes: Attributes,
    /// The first failure. From then on nothing can be published.
    failed: Option<Fault>,
}

/// In this order: the transfer is broken off before its connection goes back to the pool.
struct Line {
    transfer: Transfer,
    lease: Lease,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}

impl Upload {
    /// Begins an upload over `lease` with an empty staging file.
    pub(super) async fn begin(
        pool: &Arc<Pool>,
        mut lease: Lease,
        path: RelativePath,
        staged: Staged,
        (access, publish): (Access, Publish),
    ) -> Result<Self, Fault> {
        let mut upload = Self::over(pool, path, staged, (access, publish));
        let location = lease.locate(upload.staged.path()).await?;
        match lease.store(&location, 0).await {
            Ok(transfer) => {
                upload.line = Some(Line { transfer, lease });
                upload.progress = Progress::new(Beginning::Nothing, 0);
                upload.digest = upload.progress.needs_reread(access).then(Sha256::new);
                Ok(upload)
            }
            Err(fault) if fault.kind().is_none() => {
                Err(names::parent_missing(&mut lease, &upload.path)
                    .await?
                    .unwrap_or(fault))
            }
            Err(fault) => {
                // Some servers leave an empty file when the data connection does not come about.
                drop(lease);
                upload.remove().await;
                Err(fault)
            }
        }
    }

    /// Goes on with a staging file that has `length` bytes.
    pub(super) fn resume(
        pool: &Arc<Pool>,
        path: RelativePath,
        staged: Staged,
        length: u64,
        how: (Access, Publish),
    ) -> Self {
        let mut upload = Self::over(pool, path, staged, how);
        let shown = shown_length(length).unwrap_or(0);
        upload.progress = Progress::new(Beginning::Partial, shown);
        upload.next = shown;
        upload.found = Some(length);
        upload
    }

    fn over(
        pool: &Arc<Pool>,
        path: RelativePath,
        staged: Staged,
        (access, publish): (Access, Publish),
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            path,
            staged,
            publish,
            original: None,
            access,
            progress: Progress::new(Beginning::Nothing, 0),
            digest: None,
            found: None,
            skipped: 0,
            line: None,
            next: 0,
            sending: VecDeque::new(),
            sending_bytes: 0,
            moved: Instant::now(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            attributes: Attributes::default(),
            failed: None,
        }
    }

    /// Makes CLOSE fail unless the file that it replaces still is what these attributes say.
    pub(super) fn replacing(mut self, original: Attributes) -> Self {
        self.original = Some(original);
        self
    }

    /// Bytes taken so far.
    pub(super) fn length(&self) -> u64 {
        self.next
    }

    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            size: Some(self.next),
            permissions: Some(super::listing::FILE_MODE),
            ..Attributes::default()
        }
    }

    /// Keeps what is to be set at CLOSE.
    pub(super) fn set_attributes(&mut self, attributes: &Attributes) -> Result<(), Fault> {
        if attributes.size.is_some_and(|size| size != self.next) {
            return Err(Fault::judged(
                ErrorKind::Unsupported,
                "FTP can't truncate or extend a file that is being written",
            ));
        }
        names::keep_settable(self.pool.server(), &mut self.attributes, attributes)
    }

    /// Takes bytes: those that continue the file wait for the server in a bounded window, those beyond a gap until the gap
    /// closes. What fails later is told by the next write and by CLOSE.
    pub(super) async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let offset = if self.access.append {
            self.next
        } else {
            offset
        };
        let written = match self.found.take() {
            Some(length) => self.take_up(length, offset).await,
            None => Ok(()),
        }
        .and_then(|()| self.accept(offset, data));
        if let Err(fault) = &written {
            self.fail(fault.clone());
        }
        written
    }

    /// Opens the transfer that goes on with a partial of `length` bytes where the client goes on.
    async fn take_up(&mut self, length: u64, offset: u64) -> Result<(), Fault> {
        let mut lease = self.pool.lease_for_transfer().await?;
        let location = lease.locate(self.staged.path()).await?;
        let begin = offset.min(self.next);
        let stored = if begin > 0 && self.pool.server().quirks.no_rest.is_known() {
            lease.append(&location).await
        } else {
            lease.store(&location, begin).await
        };
        let transfer = match stored {
            Err(fault) if fault.is_refusal() && begin > 0 && begin == self.next => {
                self.skipped = length - begin;
                lease.append(&location).await.map_err(|fault| {
                    if !fault.is_refusal() {
                        return fault;
                    }
                    self.pool.server().quirks.no_resume.learn();
                    Fault::judged(
                        ErrorKind::Unsupported,
                        format!(
                            "the server can't continue uploads ({fault}); send the file as a whole"
                        ),
                    )
                })?
            }
            stored => stored?,
        };
        if begin == 0 {
            self.progress = Progress::new(Beginning::Nothing, 0);
            self.digest = self.progress.needs_reread(self.access).then(Sha256::new);
        }
        self.next = begin;
        self.line = Some(Line { transfer, lease });
        Ok(())
    }

    fn accept(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        self.progress.write(offset, data.len() as u64);
        if offset < self.next || self.waiting.contains_key(&offset) {
            return Err(Fault::judged(
                ErrorKind::Unsupported,
                format!(
                    "FTP writes a file once, from its beginning to its end: bytes from {offset} on were written already"
                ),
            ));
        }
        if offset > self.next {
            if self.waiting_bytes + data.len() > REORDER_WINDOW {
                return Err(Fault::judged(
                    ErrorKind::Unsupported,
                    format!(
                        "FTP writes a file from its beginning to its end: more than {REORDER_WINDOW} bytes wait for those \
                         from {} on",
                        self.next
                    ),
                ));
            }
            self.waiting_bytes += data.len();
            self.waiting.insert(offset, data);
            return Ok(());
        }
        self.enqueue(data);
        while let Some(entry) = self.waiting.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            if *entry.key() < self.next {
                return Err(Fault::judged(
                    ErrorKind::Unsupported,
                    format!(
                        "writes overlap at {}: FTP writes each byte once",
                        entry.key()
                    ),
                ));
            }
            let data = entry.remove();
            self.waiting_bytes -= data.len();
            self.enqueue(data);
        }
        Ok(())
    }

    fn enqueue(&mut self, mut data: Bytes) {
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
    pub(super) fn has_room(&self) -> bool {
        self.sending_bytes < SEND_WINDOW
    }

    /// Sends some of what waits; returns when bytes moved or the transfer broke, which may be never. Nothing is lost if
    /// it is not polled to its end; an error must be given to [`break_off`](Self::break_off).
    pub(super) async fn send(&mut self) -> io::Result<()> {
        let timeout = self.pool.server().settings.timeout;
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
    pub(super) async fn send_all(&mut self) -> Result<(), Fault> {
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
    pub(super) async fn break_off(&mut self, error: &io::Error) {
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
    pub(super) fn fail(&mut self, fault: Fault) {
        self.line = None;
        self.sending.clear();
        self.sending_bytes = 0;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.failed = Some(fault);
    }

    /// CLOSE: ends the transfer, makes sure that the server has every byte, and gives the file its name. On any failure
    /// nothing stands under the final name; the staging file is left only if the connection failed, to be continued.
    pub(super) async fn publish(mut self) -> Result<Outcome, Fault> {
        if self.found.is_some() {
            // It stays as it was found.
            return Err(Fault::judged(
                ErrorKind::Failure,
                "nothing was written to the interrupted upload: it is not complete",
            ));
        }
        match self.complete().await {
            Ok((outcome, attributes)) => {
                // Attributes come last: a server that can't set them does not cost the file.
                attributes?;
                Ok(outcome)
            }
            Err(fault) => {
                self.failed.get_or_insert(fault.clone());
                self.end().await;
                Err(fault)
            }
        }
    }

    /// The outer result is about the file, the inner about its attributes.
    async fn complete(&mut self) -> Result<(Outcome, Result<(), Fault>), Fault> {
        self.send_all().await?;
        if let Some(offset) = self.waiting.keys().next() {
            return Err(Fault::judged(
                ErrorKind::Failure,
                format!("bytes {} to {offset} were never written", self.next),
            ));
        }
        let Some(Line {
            transfer,
            mut lease,
        }) = self.line.take()
        else {
            return Err(Fault::judged(
                ErrorKind::Failure,
                "the upload is over already",
            ));
        };
        lease.finish("STOR", transfer).await?;
        self.check_size(&mut lease).await?;
        self.check_original(&mut lease).await?;
        let outcome = self.outcome(&mut lease).await?;
        let attributes = self.set_wanted_attributes(&mut lease).await;
        let (from, to) = (self.staged.path(), &self.path);
        match self.publish {
            Publish::Replace => names::replace(&mut lease, from, to).await?,
            Publish::MustNotExist => names::rename(&mut lease, from, to).await?,
        }
        Ok((outcome, attributes))
    }

    /// With the digest of what is published, unless the one that was computed on the way here will do.
    async fn outcome(&mut self, lease: &mut Lease) -> Result<Outcome, Fault> {
        if let Some(digest) = self.digest.take() {
            return Ok(Outcome::Published {
                sha256: digest.finalize().into(),
            });
        }
        if !self.progress.needs_reread(self.access) {
            return Ok(Outcome::Done);
        }
        let timeout = self.pool.server().settings.timeout;
        let location = lease.locate(self.staged.path()).await?;
        let mut transfer = lease.retrieve(&location, 0).await?;
        let mut digest = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; REREAD_BUFFER];
        loop {
            let count = match within(timeout, transfer.read(&mut buffer)).await {
                Ok(0) => break,
                Ok(count) => count,
                // TLS' farewell may be missing: the length tells.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(lost("RETR", &error)),
            };
            digest.update(buffer.get(..count).unwrap_or_default());
            length += count as u64;
        }
        lease.finish("RETR", transfer).await?;
        if length != self.next {
            return Err(Fault::judged(
                ErrorKind::Failure,
                format!("{length} bytes of {} could be read again", self.next),
            ));
        }
        Ok(Outcome::Published {
            sha256: digest.finalize().into(),
        })
    }

    async fn check_size(&self, lease: &mut Lease) -> Result<(), Fault> {
        let quirk = &self.pool.server().quirks.no_size;
        if quirk.is_known() {
            return Ok(());
        }
        let location = lease.locate(self.staged.path()).await?;
        match lease.size(&location).await {
            Ok(size) if size == self.next => Ok(()),
            Ok(size) => Err(Fault::judged(
                ErrorKind::Failure,
                format!(
                    "the server has {size} bytes of {} after it confirmed the upload",
                    self.next
                ),
            )),
            Err(fault) if fault.is_unknown_command() => {
                quirk.learn();
                Ok(())
            }
            // The server confirmed the transfer; it does not show sizes to this account.
            Err(fault) if fault.is_refusal() => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// What somebody else wrote meanwhile is not overwritten.
    async fn check_original(&self, lease: &mut Lease) -> Result<(), Fault> {
        let Some(original) = &self.original else {
            return Ok(());
        };
        let stands = names::attributes(lease, &self.path).await?;
        let is_same = stands
            .is_some_and(|stands| stands.size == original.size && stands.times == original.times);
        if is_same {
            return Ok(());
        }
        Err(Fault::judged(
            ErrorKind::Failure,
            format!(
                "{:?} was changed by somebody else since it was opened",
                self.path
            ),
        ))
    }

    async fn set_wanted_attributes(&self, lease: &mut Lease) -> Result<(), Fault> {
        names::set_attributes(lease, self.staged.path(), &self.attributes)
            .await
            .map_err(|fault| match fault.kind() {
                Some(kind) => Fault::judged(
                    kind,
                    format!("the upload is complete, but not its attributes: {fault}"),
                ),
                None => fault,
            })
    }

    /// Ends the upload without publishing it. The staging file is left if it can be continued.
    pub(super) async fn end(&mut self) {
        if self.found.is_some() {
            return;
        }
        if !self.is_worth_keeping() {
            return self.remove().await;
        }
        // In plain FTP the end of the data connection is the end of the file: what was sent stays.
        if self.send_all().await.is_ok()
            && let Some(Line {
                transfer,
                mut lease,
            }) = self.line.take()
            && let Err(fault) = lease.finish("STOR", transfer).await
        {
            tracing::debug!(file = ?self.staged.path(), %fault, "the end of an interrupted upload is not confirmed");
        }
        tracing::info!(
            file = ?self.path, bytes = self.next,
            "an upload was interrupted; its account can continue it"
        );
    }

    /// A lost connection may come back; what the client or the server did wrong is not mended by going on.
    fn is_worth_keeping(&self) -> bool {
        let is_sound = self
            .failed
            .as_ref()
            .is_none_or(|fault| fault.is_interruption());
        is_sound && self.staged.is_kept() && shown_length(self.next).is_some()
    }

    /// Removes the staging file. If the connection is lost a new one is tried once: the server may still be there.
    async fn remove(&mut self) {
        self.line = None;
        let staging = self.staged.path();
        for _ in 0..2 {
            let removed = async {
                let mut lease = self.pool.lease().await?;
                let location = lease.locate(staging).await?;
                lease.delete(&location).await
            }
            .await;
            match removed {
                Ok(()) => return,
                Err(fault) if fault.is_refusal() => {
                    // Nothing to remove is the usual case: many servers drop what was broken off.
                    tracing::debug!(file = ?staging, %fault, "a withdrawn upload's staging file is not removed");
                    return;
                }
                Err(fault) => {
                    tracing::warn!(
                        file = ?staging, %fault,
                        "a withdrawn upload's staging file could not be removed; a later listing of its directory removes it"
                    );
                }
            }
        }
    }
}
