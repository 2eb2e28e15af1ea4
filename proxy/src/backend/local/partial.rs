//! What interrupted uploads left: found by the account that began them, and by nobody else.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    attributes,
    fault::Fault,
    tree::{self, Place},
};
use crate::{
    backend::staging::{SessionNames, StagingName, shown_length},
    operation::Attributes,
    path::RelativePath,
};

/// The attributes of the partial for `path`, which stands in `place`'s directory. `None` if there is none to continue.
pub(super) fn attributes(
    place: &Place,
    names: &SessionNames,
    path: &RelativePath,
) -> Result<Option<Attributes>, Fault> {
    let Some(name) = names.interrupted(path) else {
        return Ok(None);
    };
    let stat =
        match rustix::fs::statat(&place.directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
    Ok(length(&stat).map(|length| Attributes {
        size: Some(length),
        is_interrupted: true,
        ..attributes::from_stat(&stat)
    }))
}

/// Opens the partial for writing, cut to the length that its account was told. `None` if there is none to continue.
pub(super) fn take_up(place: &Place, name: &StagingName) -> Result<Option<(OwnedFd, u64)>, Fault> {
    let file = match rustix::fs::openat(
        &place.directory,
        name.as_bytes(),
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        // Nothing, or nothing of ours.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS) => {
            return Ok(None);
        }
        file => file?,
    };
    let Some(length) = length(&rustix::fs::fstat(&file)?) else {
        return Ok(None);
    };
    rustix::fs::ftruncate(&file, length)?;
    Ok(Some((file, length)))
}

/// Removes what stands under the name; nothing is as good as removed.
pub(super) fn remove(place: &Place, name: &StagingName) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&place.directory, name.as_bytes(), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Removes the partial for `path` unless it is in use. True if there was one.
pub(super) fn discard(place: &Place, names: &SessionNames, path: &RelativePath) -> bool {
    let claim = names
        .resumable(path)
        .and_then(|name| names.all().claim(name));
    claim.is_some_and(|claim| {
        rustix::fs::unlinkat(&place.directory, claim.name().as_bytes(), AtFlags::empty()).is_ok()
    })
}

/// How much of it can be continued, if it is what this gateway wrote: a link planted under its name is left alone.
fn length(stat: &Stat) -> Option<u64> {
    let is_ours = tree::file_type(stat) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw();
    let length = u64::try_from(stat.st_size).ok()?;
    is_ours.then(|| shown_length(length)).flatten()
}
