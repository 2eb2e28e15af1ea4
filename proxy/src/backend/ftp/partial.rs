//! Staging files: their names, and what interrupted uploads left under them.

use std::sync::Arc;

use super::{
    fault::Fault,
    names,
    pool::{Lease, Pool},
};
use crate::{
    backend::{
        ErrorKind,
        staging::{Claim, shown_length},
    },
    operation::Attributes,
    path::RelativePath,
};

/// The staging file of one upload, which nobody else uses while this lives.
#[derive(Debug)]
pub(super) struct Staged {
    _claim: Claim,
    path: RelativePath,
    /// An interruption leaves it to a later session.
    is_kept: bool,
}

impl Staged {
    /// For an upload to `path`, under the name that finds it again unless another upload has that. `is_kept` if an
    /// interruption is to leave it.
    pub(super) fn new(pool: &Pool, path: &RelativePath, is_kept: bool) -> Result<Self, Fault> {
        let names = pool.names();
        let resumable = names
            .resumable(path)
            .and_then(|name| names.all().claim(name));
        let (claim, is_kept) = match resumable {
            Some(claim) => (claim, is_kept && pool.may_resume()),
            None => {
                let claim = names.all().claim_random().map_err(|error| {
                    Fault::judged(ErrorKind::Failure, format!("no staging name: {error}"))
                })?;
                (claim, false)
            }
        };
        Ok(Self {
            path: claim.name().beside(path),
            _claim: claim,
            is_kept,
        })
    }

    pub(super) fn path(&self) -> &RelativePath {
        &self.path
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Bytes that an interrupted upload left here, if it can be continued.
    pub(super) async fn found_length(
        &self,
        pool: &Pool,
        lease: &mut Lease,
    ) -> Result<Option<u64>, Fault> {
        if !self.is_kept {
            return Ok(None);
        }
        let found = found(pool, lease, &self.path).await?;
        Ok(found
            .and_then(|found| found.size)
            .filter(|&length| shown_length(length).is_some()))
    }
}

/// What the account that began it is told of an interrupted upload to `path`.
pub(super) async fn attributes(
    pool: &Arc<Pool>,
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    if !pool.may_resume() {
        return Ok(None);
    }
    let Some(name) = pool.names().interrupted(path) else {
        return Ok(None);
    };
    let found = found(pool, lease, &name.beside(path)).await?;
    Ok(found.and_then(|found| {
        Some(Attributes {
            size: Some(shown_length(found.size?)?),
            is_interrupted: true,
            ..found
        })
    }))
}

/// What an interrupted upload left under this name. A gateway that was killed could not ask whether its layer can go on with it.
async fn found(
    pool: &Pool,
    lease: &mut Lease,
    staging: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let found = names::attributes(lease, staging).await?;
    let found = found.filter(|found| !found.is_directory());
    if found.is_some() && pool.is_beneath_a_layer() && !pool.continues_uploads(lease).await? {
        return Ok(None);
    }
    Ok(found)
}

/// Removes what an interrupted upload to `path` left; `None` if there was nothing.
pub(super) async fn remove(
    pool: &Arc<Pool>,
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<()>, Fault> {
    let names = pool.names();
    let claim = names
        .resumable(path)
        .and_then(|name| names.all().claim(name));
    let Some(claim) = claim else {
        return Ok(None);
    };
    let location = lease.locate(&claim.name().beside(path)).await?;
    match lease.delete(&location).await {
        Ok(()) => Ok(Some(())),
        Err(fault) if fault.is_refusal() => Ok(None),
        Err(fault) => Err(fault),
    }
}
