//! What is done to names: attributes, listings, removal, renaming.
//!
//! Replies to refused commands often say only "failed". Then what stands at the path decides what the failure was.

mod attributes;
mod directory;
mod rename;
mod sweep;

pub(super) use self::{
    attributes::{all_attributes, attributes, keep_settable, set_attributes},
    directory::list_directory,
    rename::{rename, replace},
};
use super::{fault::Fault, pool::Lease};
use crate::{backend::ErrorKind, path::RelativePath};

pub(super) async fn remove(lease: &mut Lease, path: &RelativePath) -> Result<(), Fault> {
    let location = lease.locate(path).await?;
    match lease.delete(&location).await {
        Err(fault) if fault.kind().is_none() => Err(match attributes(lease, path).await? {
            None => not_found(path),
            Some(found) if found.is_directory() => is_a_directory(path),
            Some(_) => fault,
        }),
        result => result,
    }
}

pub(super) async fn make_directory(lease: &mut Lease, path: &RelativePath) -> Result<(), Fault> {
    let location = lease.locate(path).await?;
    match lease.make_directory(&location).await {
        Err(fault) if fault.kind().is_none() => Err(if attributes(lease, path).await?.is_some() {
            already_exists(path)
        } else {
            parent_missing(lease, path).await?.unwrap_or(fault)
        }),
        result => result,
    }
}

pub(super) async fn remove_directory(lease: &mut Lease, path: &RelativePath) -> Result<(), Fault> {
    let location = lease.locate(path).await?;
    match lease.remove_directory(&location).await {
        Err(fault) if fault.kind().is_none() => Err(match attributes(lease, path).await? {
            None => not_found(path),
            Some(found) if !found.is_directory() => Fault::judged(
                ErrorKind::NotADirectory,
                format!("{path:?} is not a directory"),
            ),
            // Names that are hidden from clients keep a directory from being empty, too.
            Some(_)
                if directory::list(lease, &location)
                    .await
                    .is_ok_and(|names| !names.is_empty()) =>
            {
                Fault::judged(ErrorKind::NotEmpty, format!("{path:?} is not empty"))
            }
            Some(_) => fault,
        }),
        result => result,
    }
}

/// Why nothing can be made at `path`, if its directory is missing.
pub(super) async fn parent_missing(
    lease: &mut Lease,
    path: &RelativePath,
) -> Result<Option<Fault>, Fault> {
    let Some(parent) = path.parent() else {
        return Ok(None);
    };
    Ok(match attributes(lease, &parent).await? {
        None => Some(not_found(&parent)),
        Some(found) if !found.is_directory() => Some(Fault::judged(
            ErrorKind::NotADirectory,
            format!("{parent:?} is not a directory"),
        )),
        Some(_) => None,
    })
}

pub(super) fn not_found(path: &RelativePath) -> Fault {
    Fault::judged(ErrorKind::NotFound, format!("{path:?} does not exist"))
}

pub(super) fn is_a_directory(path: &RelativePath) -> Fault {
    Fault::judged(ErrorKind::IsADirectory, format!("{path:?} is a directory"))
}

pub(super) fn already_exists(path: &RelativePath) -> Fault {
    Fault::judged(ErrorKind::AlreadyExists, format!("{path:?} exists already"))
}
