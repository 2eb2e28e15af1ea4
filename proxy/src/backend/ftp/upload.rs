//! One file being written: STOR to a staging name, RNFR/RNTO at CLOSE.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use super::{
    connection::{Transfer, lost, within},
    fault::Fault,
    names,
    pool::{Lease, Pool},
};
use crate::{
    backend::{
        ErrorKind,
        staging::{self, Content, Found, Publish, UploadPlan},
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
    staging: RelativePath,
    publish: Publish,
    /// Absent once the transfer is over or has failed.
    line: Option<Line>,
    /// Offset of the next byte that goes to the server.
    next: u64,
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
    pub(super) async fn open(
        pool: &Arc<Pool>,
        path: RelativePath,
        access: Access,
    ) -> Result<Self, Fault> {
        let mut lease = pool.lease_for_transfer().await?;
        let found = names::attributes(&mut lease, &path).await?;
        let plan = plan(access, found.as_ref(), &path)?;
        let staging = names::staging_name()?.beside(&path);
        let location = lease.locate(&staging).await?;
        let transfer = match lease.store(&location).await {
            Ok(transfer) => transfer,
            Err(fault) if fault.kind().is_none() => {
                return Err(names::parent_missing(&mut lease, &path)
                    .await?
                    .unwrap_or(fault));
            }
            Err(fault) => {
                // Some servers leave an empty file when the data connection does not come about.
                drop(lease);
                withdraw(pool, &staging).await;
                return Err(fault);
            }
        };
        Ok(Self {
            pool: Arc::clone(pool),
            path,
            staging,
            publish: plan.publish,
            line: Some(Line { transfer, lease }),
            next: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            attributes: Attributes::default(),
            failed: None,
        })
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
        let quirks = &self.pool.server().quirks;
        let impossible = if attributes.size.is_some_and(|size| size != self.next) {
            Some("FTP can't truncate or extend a file")
        } else if attributes.owner.is_some() {
            Some("FTP can't change a file's owner")
        } else if attributes.times.is_some() && quirks.no_set_time.is_known() {
            Some("the server can't set times (no MFMT)")
        } else if attributes.permissions.is_some() && quirks.no_chmod.is_known() {
            Some("the server can't set permissions (no SITE CHMOD)")
        } else {
            None
        };
        if let Some(reason) = impossible {
            return Err(Fault::judged(ErrorKind::Unsupported, reason));
        }
        if attributes.times.is_some() {
            self.attributes.times = attributes.times;
        }
        if attributes.permissions.is_some() {
            self.attributes.permissions = attributes.permissions;
        }
        Ok(())
    }

    /// Takes bytes. Those that continue the file have been handed to the server's connection when this returns; those
    /// beyond a gap wait in memory until the gap closes.
    pub(super) async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let written = self.accept(offset, data).await;
        if let Err(fault) = &written {
            self.fail(fault.clone());
        }
        written
    }

    async fn accept(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
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
        self.send(&data).await?;
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
            self.send(&data).await?;
        }
        Ok(())
    }

    async fn send(&mut self, data: &[u8]) -> Result<(), Fault> {
        let timeout = self.pool.server().settings.timeout;
        let Some(line) = &mut self.line else {
            return Err(Fault::judged(
                ErrorKind::Failure,
                "the upload is over already",
            ));
        };
        if let Err(error) = within(timeout, line.transfer.write_all(data)).await {
            // A full disk or a quota is said in the reply; the socket only breaks.
            let stands_still = error.kind() == io::ErrorKind::TimedOut;
            let fault = match self.line.take().filter(|_| !stands_still) {
                Some(Line {
                    transfer,
                    mut lease,
                }) => lease.finish("STOR", transfer).await.err(),
                None => None,
            };
            return Err(match fault {
                Some(refusal @ Fault::Refused { .. }) => refusal,
                Some(_) | None => lost("STOR", &error),
            });
        }
        self.next += data.len() as u64;
        Ok(())
    }

    fn fail(&mut self, fault: Fault) {
        self.line = None;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.failed = Some(fault);
    }

    /// CLOSE: ends the transfer, makes sure that the server has every byte, and gives the file its name. On any failure
    /// the staging file is removed and nothing stands under the final name.
    pub(super) async fn publish(mut self) -> Result<(), Fault> {
        let outcome = self.complete().await;
        if outcome.is_err() {
            self.withdraw().await;
        }
        // Attributes come last: a server that can't set them does not cost the file.
        outcome?
    }

    /// The outer result is about the file, the inner about its attributes.
    async fn complete(&mut self) -> Result<Result<(), Fault>, Fault> {
        if let Some(fault) = self.failed.take() {
            return Err(fault);
        }
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
        let attributes = self.set_wanted_attributes(&mut lease).await;
        match self.publish {
            Publish::Replace => names::replace(&mut lease, &self.staging, &self.path).await?,
            Publish::MustNotExist => names::rename(&mut lease, &self.staging, &self.path).await?,
        }
        Ok(attributes)
    }

    async fn check_size(&self, lease: &mut Lease) -> Result<(), Fault> {
        let quirk = &self.pool.server().quirks.no_size;
        if quirk.is_known() {
            return Ok(());
        }
        let location = lease.locate(&self.staging).await?;
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

    async fn set_wanted_attributes(&self, lease: &mut Lease) -> Result<(), Fault> {
        names::set_attributes(lease, &self.staging, &self.attributes)
            .await
            .map_err(|fault| match fault.kind() {
                Some(kind) => Fault::judged(
                    kind,
                    format!("the upload is complete, but not its attributes: {fault}"),
                ),
                None => fault,
            })
    }

    /// Ends the upload without publishing it, and removes its staging file.
    pub(super) async fn withdraw(&mut self) {
        self.line = None;
        withdraw(&self.pool, &self.staging).await;
    }
}

fn plan(
    access: Access,
    found: Option<&Attributes>,
    path: &RelativePath,
) -> Result<UploadPlan, Fault> {
    let standing = match found {
        None => Found::Nothing,
        Some(attributes) if attributes.is_directory() => Found::Directory,
        Some(_) => Found::File,
    };
    let plan = staging::plan(access, standing)
        .map_err(|refusal| Fault::judged(refusal.kind(), format!("{path:?}: {refusal}")))?;
    let is_empty = found.is_some_and(|attributes| attributes.size == Some(0));
    if plan.content == Content::Existing && !is_empty {
        return Err(Fault::judged(
            ErrorKind::Unsupported,
            format!(
                "{path:?} exists, and FTP can't change or continue a file in place; replace it as a whole (open with truncation)"
            ),
        ));
    }
    Ok(plan)
}

/// Removes a staging file. If the connection is lost a new one is tried once: the server may still be there.
async fn withdraw(pool: &Arc<Pool>, staging: &RelativePath) {
    for _ in 0..2 {
        let removed = async {
            let mut lease = pool.lease().await?;
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
                    "a withdrawn upload's staging file could not be removed; remove it by hand if it is there"
                );
            }
        }
    }
}
