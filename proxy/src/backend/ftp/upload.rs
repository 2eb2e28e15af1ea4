//! One file being written: STOR to a staging name, RNFR/RNTO at CLOSE.

mod interruption;
mod publish;
mod reading;
mod sending;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use self::sending::Line;
use super::{
    connection::Transfer,
    download::Download,
    fault::Fault,
    location::Location,
    names,
    partial::Staged,
    pool::{Lease, Pool},
};
use crate::{
    backend::{
        ErrorKind,
        staging::{Beginning, Progress, Publish, Watched, shown_length},
    },
    operation::{Access, Attributes},
    path::RelativePath,
};

/// Bytes that may wait for the gap before them to close.
const REORDER_WINDOW: usize = 32 * 1024 * 1024;

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Upload {
    pool: Arc<Pool>,
    path: RelativePath,
    staged: Staged,
    publish: Publish,
    /// What the client saw of the file that it changes. If that is not what stands there at CLOSE, somebody else changed it.
    original: Option<Attributes>,
    /// What clients have done to it since.
    watched: Option<Arc<Watched>>,
    access: Access,
    /// In what order the bytes came.
    progress: Progress,
    /// Of all bytes, if the record's own digest will not do and all pass through here.
    digest: Option<Sha256>,
    /// Bytes of the partial that this upload continues, until the first write tells where.
    found: Option<u64>,
    /// Bytes of it that are on the server, which can't cut them off.
    behind: u64,
    /// The staging file as it is read: before the first write to a partial, or once all is sent.
    reading: Option<Box<Download>>,
    /// The transfer is over, and the server has what was taken.
    is_settled: bool,
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
            watched: None,
            access,
            progress: Progress::new(Beginning::Nothing, 0),
            digest: None,
            found: None,
            behind: 0,
            reading: None,
            is_settled: false,
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
        self.reading = None;
        let written = match self.found.take() {
            _ if self.is_settled => Err(Fault::judged(
                ErrorKind::Unsupported,
                "an upload that was read does not go on",
            )),
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
        let transfer = match lease.store(&location, begin).await {
            Err(fault) if fault.is_refusal() && begin > 0 => {
                self.append(&mut lease, &location, (length, begin), fault)
                    .await?
            }
            stored => stored?,
        };
        if begin == 0 {
            self.progress = Progress::new(Beginning::Nothing, 0);
            self.digest = self.progress.needs_reread(self.access).then(Sha256::new);
        } else {
            self.behind = length;
        }
        self.next = begin;
        self.line = Some(Line { transfer, lease });
        Ok(())
    }

    /// Goes on at the end of what is there, where the server has refused to do it at `begin`.
    async fn append(
        &mut self,
        lease: &mut Lease,
        location: &Location,
        (length, begin): (u64, u64),
        refusal: Fault,
    ) -> Result<Transfer, Fault> {
        let quirks = &self.pool.server().quirks;
        let whole = |fault: &Fault| {
            let message =
                format!("the server can't continue uploads ({fault}); send the file as a whole");
            Fault::judged(ErrorKind::Unsupported, message)
        };
        if self.pool.is_beneath_a_layer() || begin != self.next {
            if let Some(ErrorKind::Failure | ErrorKind::Unsupported) = refusal.kind() {
                quirks.no_restore.learn();
                return Err(whole(&refusal));
            }
            return Err(refusal);
        }
        self.skipped = length - begin;
        lease.append(location).await.map_err(|fault| {
            if !fault.is_refusal() {
                return fault;
            }
            quirks.no_resume.learn();
            whole(&fault)
        })
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
}
