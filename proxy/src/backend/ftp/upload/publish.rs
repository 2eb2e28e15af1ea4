//! CLOSE of an upload: the server has every byte, and the file gets its name.

use std::{io, sync::Arc};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use super::{Upload, sending::Line};
use crate::{
    backend::{
        ErrorKind,
        ftp::{
            connection::{lost, within},
            fault::Fault,
            names,
            pool::Lease,
            tending::{changing, is_same},
        },
        staging::{Publish, Watched},
    },
    operation::{Attributes, Outcome},
};

/// Bytes read at once to compute a digest.
const REREAD_BUFFER: usize = 256 * 1024;

impl Upload {
    /// CLOSE: ends the transfer, makes sure that the server has every byte, and gives the file its name. On any failure
    /// nothing stands under the final name; the staging file is left only if the connection failed, to be continued.
    pub(in crate::backend::ftp) async fn publish(mut self) -> Result<Outcome, Fault> {
        if self.found.is_some() {
            // It stays as it was found.
            return Err(Fault::judged(
                ErrorKind::Failure,
                "nothing was written to the interrupted upload: it is not complete",
            ));
        }
        let is_tended = self.watched.is_some();
        match self.complete().await {
            // Whose times it should have is nobody's wish.
            Ok((outcome, _)) if is_tended => Ok(outcome),
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

    /// As [`publish`](Self::publish), only in the place of a file with these attributes that no client has changed since it is watched.
    pub(in crate::backend::ftp) async fn publish_over(
        mut self,
        original: Attributes,
        watched: Arc<Watched>,
    ) -> Result<Outcome, Fault> {
        let times = Attributes {
            times: original.times,
            ..Attributes::default()
        };
        if let Err(fault) = self.set_attributes(&times) {
            tracing::debug!(file = ?self.path, %fault, "a file does not keep its time");
        }
        self.original = Some(original);
        self.watched = Some(watched);
        self.publish().await
    }

    /// Ends it: nothing is published, and nothing left.
    pub(in crate::backend::ftp) async fn withdraw(&mut self) {
        self.remove().await;
    }

    /// The outer result is about the file, the inner about its attributes.
    async fn complete(&mut self) -> Result<(Outcome, Result<(), Fault>), Fault> {
        self.reading = None;
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let mut lease = if self.is_settled {
            self.pool.lease().await?
        } else {
            self.settle().await?
        };
        let outcome = self.outcome(&mut lease).await?;
        let attributes = self.set_wanted_attributes(&mut lease).await;
        let watched = self.watched.take();
        let _held;
        let _turn;
        match &watched {
            Some(watched) => _held = watched.hold()?,
            None => _turn = changing(&self.pool, &mut lease, &[&self.path]).await?,
        }
        self.check_original(&mut lease).await?;
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
            return Ok(Outcome::digested(Some(digest.finalize().into())));
        }
        // A layer reads what it wants to know.
        if !self.progress.needs_reread(self.access) || self.pool.is_beneath_a_layer() {
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
        Ok(Outcome::digested(Some(digest.finalize().into())))
    }

    /// Ends the transfer: the server has every byte that was taken.
    pub(super) async fn settle(&mut self) -> Result<Lease, Fault> {
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
        self.is_settled = true;
        Ok(lease)
    }

    async fn check_size(&self, lease: &mut Lease) -> Result<(), Fault> {
        let quirk = &self.pool.server().quirks.no_size;
        let unseen = || match self.behind.checked_sub(self.next) {
            None | Some(0) => Ok(()),
            Some(_) => Err(self.too_long(self.behind)),
        };
        if quirk.is_known() {
            return unseen();
        }
        let location = lease.locate(self.staged.path()).await?;
        match lease.size(&location).await {
            Ok(size) if size == self.next => Ok(()),
            Ok(size) if size == self.behind && size > self.next => Err(self.too_long(size)),
            Ok(size) => Err(Fault::judged(
                ErrorKind::Failure,
                format!(
                    "the server has {size} bytes of {} after it confirmed the upload",
                    self.next
                ),
            )),
            Err(fault) if fault.is_unknown_command() => {
                quirk.learn();
                unseen()
            }
            // The server confirmed the transfer; it does not show sizes to this account.
            Err(fault) if fault.is_refusal() => unseen(),
            Err(fault) => Err(fault),
        }
    }

    fn too_long(&self, size: u64) -> Fault {
        Fault::judged(
            ErrorKind::Failure,
            format!(
                "the server has {size} bytes of {}: the interrupted upload was longer, and FTP can't cut it; send the file as a \
                 whole",
                self.next
            ),
        )
    }

    /// What somebody else wrote meanwhile is not overwritten.
    async fn check_original(&self, lease: &mut Lease) -> Result<(), Fault> {
        let Some(original) = &self.original else {
            return Ok(());
        };
        let stands = names::attributes(lease, &self.path).await?;
        let is_same = stands.is_some_and(|stands| is_same(&stands, original));
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
}
