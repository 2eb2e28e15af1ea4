//! What a backend shows after a crash, where an operation may have been done or not. The gateway looks by itself, whatever the
//! account may list, and each look is on record as an operation of a session of its own.

use std::{sync::Arc, time::Instant};

use portcullis_journal::{Journal, OperationId, Recorded, Urgency};

use super::{gateway_error, next_operation, outcome::outcome_event};
use crate::{
    backend::{Backend, BackendError, Settled},
    operation::{Operation, Outcome},
    path::VirtualPath,
    policy::{Mount, Permit, Requester, Route},
    session::Backends,
};

/// Where and for whom the gateway looks.
#[derive(Debug, Clone)]
pub struct Looker<'a> {
    pub journal: &'a Journal,
    pub services: &'a Backends,
    /// Those of the account.
    pub mounts: Arc<[Mount]>,
    /// The account, in the session of the looks.
    pub requester: Arc<Requester>,
}

impl Looker<'_> {
    /// Asks the backend of the mount that holds `path` what lies there; a link is not followed.
    ///
    /// # Errors
    /// If no mount holds it, the look can't be recorded, or the backend says so: [`ErrorKind::NotFound`] if nothing lies there.
    ///
    /// [`ErrorKind::NotFound`]: crate::backend::ErrorKind::NotFound
    pub async fn look(&self, path: &VirtualPath) -> Result<Outcome, BackendError> {
        let permit = Permit::reconciling(&self.requester, &self.mounts, next_operation(), path)
            .ok_or_else(nowhere)?;
        let backend = self.backend(&permit)?;
        let look = self.begin(permit).await?;
        let result = backend.execute(look.recorded).await;
        backend.end().await;
        self.end(look.begun, look.id, &result);
        result
    }

    /// Has a rename ended that stopped half-way. `announced` is when it was, in seconds since 1970. `None` where a rename is
    /// one step, and for other operations: then nothing is recorded or asked.
    ///
    /// # Errors
    /// If it can't be recorded, or the backend can't be asked.
    pub async fn settle(
        &self,
        rename: Operation,
        announced: i64,
    ) -> Option<Result<Settled, BackendError>> {
        let permit = Permit::settling(&self.requester, &self.mounts, next_operation(), rename)?;
        let backend = self.backend(&permit).ok()?;
        let renames = backend.halfway_renames()?;
        let look = match self.begin(permit).await {
            Ok(look) => look,
            Err(error) => return Some(Err(error)),
        };
        let settled = renames.settle(look.recorded, announced).await;
        backend.end().await;
        let result = match &settled {
            Ok(Settled::Copied {
                removed: Err(error),
                ..
            })
            | Err(error) => Err(error.clone()),
            Ok(
                Settled::Removed
                | Settled::NotCopied
                | Settled::Copied { .. }
                | Settled::CopiedInPart { .. }
                | Settled::Both(_),
            ) => Ok(Outcome::Done),
        };
        self.end(look.begun, look.id, &result);
        Some(settled)
    }

    fn backend(&self, permit: &Permit) -> Result<Arc<dyn Backend>, BackendError> {
        let mount = match permit.route() {
            Route::Mount { mount, .. } => self.mounts.get(mount.0).ok_or_else(nowhere)?,
            Route::Gateway => return Err(nowhere()),
        };
        let service = self.services.get(&mount.backend).ok_or_else(|| {
            gateway_error(format!("the backend {:?} is not configured", mount.backend))
        })?;
        // Not what the account would see: an upload that is kept to be resumed has no name yet.
        let owner = self.requester.owner().resuming(Some(false));
        Ok(service.session(&mount.directory, &owner))
    }

    async fn begin(&self, permit: Permit) -> Result<Begun, BackendError> {
        let begun = Instant::now();
        let id = permit.id();
        let recorded = self
            .journal
            .record_intent(permit, Urgency::Now)
            .await
            .map_err(|error| gateway_error(error.to_string()))?;
        Ok(Begun {
            recorded,
            id,
            begun,
        })
    }

    fn end(&self, begun: Instant, id: OperationId, result: &Result<Outcome, BackendError>) {
        let event = outcome_event(&self.requester, id, result, None, begun.elapsed());
        drop(self.journal.append_soon(event));
    }
}

/// A look that is on record.
struct Begun {
    recorded: Recorded<Permit>,
    id: OperationId,
    begun: Instant,
}

fn nowhere() -> BackendError {
    gateway_error("no mount of the account holds the path".to_owned())
}
