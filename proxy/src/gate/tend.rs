//! The gateway's own work on stored files, each on record as an operation of a session of its own.

use super::{gateway_error, measure, next_operation, verify::Verified};
use crate::{
    backend::BackendError,
    operation::{Care, Outcome, Tended},
    path::VirtualPath,
    policy::Permit,
};

impl Verified {
    /// Tends a file.
    ///
    /// # Errors
    /// If the backend says so, or it can't be recorded.
    pub async fn tend(&self, path: &VirtualPath, care: Care) -> Result<Tended, BackendError> {
        let permit = Permit::tending(&self.requester, &self.mount, next_operation(), path, care)
            .ok_or_else(|| gateway_error("a path outside the backend".to_owned()))?;
        let outcome = measure::perform(&self.journal, &self.backend, permit).await?;
        if let Outcome::Tended(tended) = outcome {
            Ok(tended)
        } else {
            Err(gateway_error(format!("another answer: {outcome:.40?}")))
        }
    }
}
