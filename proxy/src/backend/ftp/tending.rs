//! Stored files are written anew by the gateway itself: servers differ in what they do with a STOR into the middle of a file. A copy
//! with other first bytes is sent as an upload is, and takes the place of the file that was read.

use std::sync::Arc;

use super::{
    download::Download,
    fault::Fault,
    names,
    partial::Staged,
    pool::{Lease, Pool},
    upload::Upload,
};
use crate::{
    backend::{
        Beginning, ErrorKind, FileVersion,
        staging::{Changing, Publish, WatchError, Watched},
    },
    operation::{Access, Attributes},
    path::RelativePath,
};

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// For a change of what the paths stand for.
pub(super) async fn changing(
    pool: &Pool,
    lease: &mut Lease,
    paths: &[&RelativePath],
) -> Result<Changing, Fault> {
    let mut locations = Vec::new();
    for path in paths {
        locations.push(lease.locate(path).await?);
    }
    let paths: Vec<_> = locations
        .iter()
        .map(|location| location.as_bytes())
        .collect();
    Ok(pool.names().all().changing(&paths).await)
}

/// What stands at the path, and what clients do to it from here on.
async fn watched(
    pool: &Arc<Pool>,
    path: &RelativePath,
) -> Result<(Attributes, Arc<Watched>), Fault> {
    let mut lease = pool.lease().await?;
    let location = lease.locate(path).await?;
    let watched = pool.names().all().watch(location.as_bytes()).await?;
    match names::attributes(&mut lease, path).await? {
        None => Err(names::not_found(path)),
        Some(found) if found.is_directory() => Err(names::is_a_directory(path)),
        Some(found) => Ok((found, Arc::new(watched))),
    }
}

pub(super) async fn version(pool: &Arc<Pool>, path: &RelativePath) -> Result<FileVersion, Fault> {
    let (attributes, watched) = watched(pool, path).await?;
    Ok(FileVersion::Watched {
        attributes,
        watched,
    })
}

/// Puts a copy with other first bytes in the place of the file. Gives how many bytes were read and written.
pub(super) async fn exchange(
    pool: &Arc<Pool>,
    path: &RelativePath,
    beginning: &Beginning,
) -> Result<u64, Fault> {
    let (attributes, watched) = watched(pool, path).await?;
    let mut old = Download::of(pool, path.clone(), attributes.clone());
    expect(&mut old, path, beginning).await?;
    let lease = pool.lease_for_transfer().await?;
    let staged = Staged::new(pool, path, false)?;
    let how = (Access::REPLACE, Publish::Replace);
    let mut upload = Upload::begin(pool, lease, path.clone(), staged, how).await?;
    match copy(&mut old, &mut upload, beginning).await {
        Ok(size) if attributes.size.is_none_or(|expected| expected == size) => {
            // A download that is at its end has given its connection back.
            drop(old);
            upload.publish_over(attributes, watched).await?;
            Ok(2 * size)
        }
        Ok(_) => {
            upload.withdraw().await;
            Err(changed(path))
        }
        Err(fault) => {
            upload.withdraw().await;
            Err(fault)
        }
    }
}

async fn copy(
    old: &mut Download,
    upload: &mut Upload,
    Beginning { after, pace, .. }: &Beginning,
) -> Result<u64, Fault> {
    let piece = u32::try_from(pace.piece().min(PIECE)).unwrap_or(u32::MAX);
    let mut at = after.len() as u64;
    pace.take(2 * at).await;
    upload.write(0, after.clone()).await?;
    loop {
        let data = old.read(at, piece).await?;
        if data.is_empty() {
            return Ok(at);
        }
        let length = data.len() as u64;
        pace.take(2 * length).await;
        upload.write(at, data).await?;
        upload.send_all().await?;
        at += length;
    }
}

/// Removes the file if it begins so.
pub(super) async fn destroy(
    pool: &Arc<Pool>,
    path: &RelativePath,
    beginning: &Beginning,
) -> Result<(), Fault> {
    let (attributes, watched) = watched(pool, path).await?;
    let mut old = Download::of(pool, path.clone(), attributes.clone());
    expect(&mut old, path, beginning).await?;
    drop(old);
    let mut lease = pool.lease().await?;
    let _held = watched.hold()?;
    let now = names::attributes(&mut lease, path).await?;
    if now.is_none_or(|now| !is_same(&now, &attributes)) {
        return Err(changed(path));
    }
    names::remove(&mut lease, path).await
}

/// Fails unless the file begins as it should.
async fn expect(
    old: &mut Download,
    path: &RelativePath,
    beginning: &Beginning,
) -> Result<(), Fault> {
    let Beginning { before, after, .. } = beginning;
    let mut read = 0;
    while read < before.len() {
        let left = u32::try_from(before.len() - read).unwrap_or(u32::MAX);
        let data = old.read(read as u64, left).await?;
        if data.is_empty() || before.get(read..read + data.len()) != Some(&data[..]) {
            return Err(changed(path));
        }
        read += data.len();
    }
    if before.len() == after.len() {
        Ok(())
    } else {
        Err(changed(path))
    }
}

/// As far as a server tells.
pub(super) fn is_same(one: &Attributes, other: &Attributes) -> bool {
    one.size == other.size && one.times == other.times
}

pub(super) fn changed(path: &RelativePath) -> Fault {
    Fault::judged(
        ErrorKind::Failure,
        format!("{path:?} was changed by somebody else meanwhile; it stays as it is"),
    )
}

impl From<WatchError> for Fault {
    fn from(error: WatchError) -> Self {
        Self::judged(ErrorKind::Failure, error.to_string())
    }
}
