//! The wraps of a file's key are destroyed, so that nobody can decrypt what is left of it.

use bytes::Bytes;
use portcullis_at_rest::{Head, HeadError};

use super::{
    fault::Fault,
    session::Session,
    steps::Steps,
    tend::{CONSTANT, kept, on_a_thread},
};
use crate::{
    backend::{BackendError, Beginning},
    operation::{Access, Outcome, Tended},
    path::VirtualPath,
};

impl Session {
    /// Says which file it is. Whether it is authentic makes no difference.
    pub(super) async fn identify(
        self,
        steps: Steps,
        path: VirtualPath,
    ) -> Result<Outcome, BackendError> {
        let beginning = self.beginning(&steps, &path).await?;
        let tended = match Head::parse(&beginning) {
            Ok(head) => Tended::Identified {
                object: head.object().0,
            },
            Err(HeadError::Foreign | HeadError::Empty | HeadError::Short) => Tended::Plain,
            Err(error) => return Err(Fault::from(error).into()),
        };
        Ok(Outcome::Tended(tended))
    }

    pub(super) async fn shred(
        self,
        steps: Steps,
        path: VirtualPath,
        object: [u8; 16],
    ) -> Result<Outcome, BackendError> {
        let Some(tending) = self.backend.tending() else {
            return Err(Fault::NotInPlace.into());
        };
        let before = self.beginning(&steps, &path).await?;
        let head = Head::parse(&before).map_err(Fault::from)?;
        if head.object().0 != object {
            return Err(Fault::ChangedMeanwhile.into());
        }
        let pending = &self.vault.pending;
        if kept(pending)
            .await?
            .is_some_and(|entry| entry.head.object() == head.object())
        {
            let pending = pending.clone();
            on_a_thread(move || pending.clear()).await?;
        }
        // Which file it was can still be seen, where it has another name.
        let mut after = before.to_vec();
        after.truncate(CONSTANT);
        after.resize(before.len(), 0);
        let beginning = Beginning {
            before,
            after: after.into(),
            times: None,
            pace: self.pace.clone(),
        };
        let recorded = steps.prove(steps.operation().clone())?;
        tending.destroy(recorded, beginning).await?;
        Ok(Outcome::Tended(Tended::Shredded))
    }

    async fn beginning(&self, steps: &Steps, path: &VirtualPath) -> Result<Bytes, BackendError> {
        let handle = self.own_handle();
        steps.open(path, handle, Access::READ).await?;
        let beginning = steps.read(handle, 0, Head::LENGTH).await;
        let closed = steps.close(handle).await;
        let beginning = beginning?;
        closed?;
        Ok(beginning)
    }
}
