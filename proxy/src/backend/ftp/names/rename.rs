//! Renaming, with and without replacing.

use super::{already_exists, attributes, is_a_directory, not_found, parent_missing};
use crate::{
    backend::{
        ErrorKind,
        ftp::{fault::Fault, pool::Lease},
    },
    path::{RESERVED_PREFIX, RelativePath},
};

/// Renames unless `to` exists. Between the look and the rename another client of the server can make it exist.
pub(in crate::backend::ftp) async fn rename(
    lease: &mut Lease,
    from: &RelativePath,
    to: &RelativePath,
) -> Result<(), Fault> {
    if attributes(lease, to).await?.is_some() {
        return Err(already_exists(to));
    }
    let (source, destination) = (lease.locate(from).await?, lease.locate(to).await?);
    match lease.rename(&source, &destination).await {
        Err(fault) if fault.is_refusal() => Err(why_not_renamed(lease, from, to, fault).await?),
        result => result,
    }
}

/// Renames over whatever file `to` is. If the server does not replace files, the old one is first moved aside, so that
/// it is still there if the second rename fails; for that moment there is no file at `to`.
pub(in crate::backend::ftp) async fn replace(
    lease: &mut Lease,
    from: &RelativePath,
    to: &RelativePath,
) -> Result<(), Fault> {
    let (source, destination) = (lease.locate(from).await?, lease.locate(to).await?);
    let refusal = match lease.rename(&source, &destination).await {
        Err(fault) if fault.is_refusal() => fault,
        result => return result,
    };
    match attributes(lease, to).await? {
        None => return Err(why_not_renamed(lease, from, to, refusal).await?),
        Some(found) if found.is_directory() => return Err(is_a_directory(to)),
        Some(_) => {}
    }
    if attributes(lease, from).await?.is_none() {
        return Err(not_found(from));
    }
    let aside = lease.locate(&to.sibling(&aside_name()?)).await?;
    lease.rename(&destination, &aside).await?;
    match lease.rename(&source, &destination).await {
        Ok(()) => {
            if let Err(fault) = lease.delete(&aside).await {
                tracing::warn!(file = %aside, %fault, "a replaced file is left behind; remove it by hand");
            }
            Ok(())
        }
        Err(fault) => {
            if let Err(second) = lease.rename(&aside, &destination).await {
                tracing::error!(
                    file = %destination, old = %aside, fault = %second,
                    "a file could be neither replaced nor put back; rename the old one by hand"
                );
            }
            Err(fault)
        }
    }
}

async fn why_not_renamed(
    lease: &mut Lease,
    from: &RelativePath,
    to: &RelativePath,
    fault: Fault,
) -> Result<Fault, Fault> {
    if attributes(lease, from).await?.is_none() {
        return Ok(not_found(from));
    }
    Ok(parent_missing(lease, to).await?.unwrap_or(fault))
}

/// `.portcullis-<16 hex digits>.old`: hidden like a staging file, and not swept like one, since it may be all that is left.
fn aside_name() -> Result<Vec<u8>, Fault> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| {
        Fault::judged(
            ErrorKind::Failure,
            format!("no name to move a file aside: {error}"),
        )
    })?;
    Ok([RESERVED_PREFIX, hex::encode(random).as_bytes(), b".old"].concat())
}
