//! What a backend shows after a crash, where an operation may have been done or not. The gateway looks by itself, whatever the
//! account may list, and each look is on record as an operation of a session of its own.

use std::{sync::Arc, time::Instant};

use portcullis_journal::{Journal, Urgency};

use super::{gateway_error, next_operation, outcome_event};
use crate::{
    backend::BackendError,
    operation::Outcome,
    path::VirtualPath,
    policy::{Mount, Permit, Requester, Route},
    session::Backends,
};

/// Asks the backend of the mount that holds `path` what lies there; a link is not followed.
///
/// # Errors
/// If no mount holds it, the look can't be recorded, or the backend says so: [`ErrorKind::NotFound`] if nothing lies there.
///
/// [`ErrorKind::NotFound`]: crate::backend::ErrorKind::NotFound
pub async fn look(
    journal: &Journal,
    services: &Backends,
    mounts: &[Mount],
    requester: &Arc<Requester>,
    path: &VirtualPath,
) -> Result<Outcome, BackendError> {
    let nowhere = || gateway_error("no mount of the account holds the path".to_owned());
    let permit =
        Permit::reconciling(requester, mounts, next_operation(), path).ok_or_else(nowhere)?;
    let id = permit.id();
    let mount = match permit.route() {
        Route::Mount { mount, .. } => mounts.get(mount.0).ok_or_else(nowhere)?,
        Route::Gateway => return Err(nowhere()),
    };
    let service = services.get(&mount.backend).ok_or_else(|| {
        gateway_error(format!("the backend {:?} is not configured", mount.backend))
    })?;
    let begun = Instant::now();
    let recorded = journal
        .record_intent(permit, Urgency::Now)
        .await
        .map_err(|error| gateway_error(error.to_string()))?;
    // Not what the account would see: an upload that is kept to be resumed has no name yet.
    let owner = requester.owner().resuming(Some(false));
    let backend = service.session(&mount.directory, &owner);
    let result = backend.execute(recorded).await;
    backend.end().await;
    let event = outcome_event(requester, id, &result, None, begun.elapsed());
    drop(journal.append_soon(event));
    result
}
