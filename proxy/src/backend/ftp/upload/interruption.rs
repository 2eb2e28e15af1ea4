//! The end of an upload that was not closed: kept to be continued, or removed.

use super::{Upload, sending::Line};
use crate::backend::{
    ftp::{fault::Fault, names, pool::Lease},
    staging::shown_length,
};

impl Upload {
    /// Ends the upload without publishing it. The staging file is left if it can be continued.
    pub(in crate::backend::ftp) async fn end(&mut self) {
        self.reading = None;
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
        {
            let ended = lease.finish("STOR", transfer).await;
            let can_go_on = match ended {
                Ok(()) => self.can_be_continued(&mut lease).await,
                Err(fault) => Err(fault),
            };
            match can_go_on {
                Ok(true) => {}
                Ok(false) => {
                    drop(lease);
                    if !self.pool.is_beneath_a_layer() {
                        self.pool.server().quirks.no_resume.learn();
                    }
                    return self.remove().await;
                }
                Err(fault) => {
                    tracing::debug!(file = ?self.staged.path(), %fault, "the end of an interrupted upload is not confirmed");
                }
            }
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
        // A layer writes in order, and says by a gap that what is there is worth nothing.
        let is_withdrawn = self.pool.is_beneath_a_layer() && !self.waiting.is_empty();
        is_sound && !is_withdrawn && self.staged.is_kept() && shown_length(self.next).is_some()
    }

    /// Whether the server takes more later, and tells how much it has.
    async fn can_be_continued(&self, lease: &mut Lease) -> Result<bool, Fault> {
        if !self.pool.continues_uploads(lease).await? {
            return Ok(false);
        }
        let staged = names::attributes(lease, self.staged.path()).await?;
        Ok(staged.is_some_and(|staged| staged.size.is_some()))
    }

    /// Removes the staging file. If the connection is lost a new one is tried once: the server may still be there.
    pub(super) async fn remove(&mut self) {
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
