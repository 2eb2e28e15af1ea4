//! Stored files are changed where they lie.

#[cfg(test)]
mod tests;

use std::{
    os::fd::OwnedFd,
    sync::RwLockWriteGuard,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps},
    io::Errno,
};

use super::{
    download::read_fully,
    fault::Fault,
    session::Session,
    tree::{self, Tree},
    turns,
    upload::write_fully,
};
use crate::{
    backend::{BackendError, Beginning, FileVersion, InodeVersion, staging::StagingNames},
    operation::Outcome,
    path::RelativePath,
    policy::Permit,
};

/// How long others may keep changing what names stand for.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

impl Session {
    pub(super) fn version(&self, permit: &Permit) -> Result<FileVersion, BackendError> {
        let version = match permit.target() {
            None => Err(Fault::ForTheGateway),
            Some(target) => self.tree().and_then(|tree| {
                let reference = tree.reference_regular(target)?;
                let version = version_of(&rustix::fs::fstat(&reference)?);
                Ok(FileVersion::Inode(version))
            }),
        };
        version.map_err(|fault| self.blame(&fault, permit))
    }

    pub(super) fn publish_over(
        &self,
        permit: &Permit,
        version: &FileVersion,
    ) -> Result<Outcome, BackendError> {
        let handle = permit.operation().handle().ok_or(Fault::NoSuchHandle);
        let closed = match version {
            FileVersion::Inode(version) => {
                handle.and_then(|handle| self.close_over(handle, Some(version)))
            }
            FileVersion::Object { .. } | FileVersion::Watched { .. } => Err(Fault::ForTheGateway),
        };
        closed.map_err(|fault| self.blame(&fault, permit))
    }

    pub(super) fn destroy(
        &self,
        permit: &Permit,
        beginning: &Beginning,
    ) -> Result<Outcome, BackendError> {
        let destroyed = match permit.target() {
            None => Err(Fault::ForTheGateway),
            Some(target) => self.tree().and_then(|tree| {
                // What a client puts there meanwhile is not removed.
                let _turn = alone(self.names())?;
                let place = tree.place(target)?;
                let _turn_of_all = turns::alone(&place.directory)?;
                exchange(tree, target, beginning)?;
                rustix::fs::unlinkat(&place.directory, place.name.as_slice(), AtFlags::empty())?;
                sync(&place.directory)
            }),
        };
        destroyed
            .map(|()| Outcome::Done)
            .map_err(|fault| self.blame(&fault, permit))
    }

    pub(super) fn exchange(
        &self,
        permit: &Permit,
        beginning: &Beginning,
    ) -> Result<u64, BackendError> {
        let bytes = beginning.before.len() + beginning.after.len();
        let exchanged = match permit.target() {
            None => Err(Fault::ForTheGateway),
            Some(target) => self
                .tree()
                .and_then(|tree| exchange(tree, target, beginning)),
        };
        exchanged
            .map(|()| bytes as u64)
            .map_err(|fault| self.blame(&fault, permit))
    }
}

/// Syncs a directory that is open with `O_PATH`; one that may not be read is synced with the file system's next commit.
fn sync(directory: &OwnedFd) -> Result<(), Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, ".", flags, Mode::empty()) {
        Err(Errno::ACCESS) => Ok(()),
        directory => Ok(rustix::fs::fsync(directory?)?),
    }
}

fn exchange(tree: &Tree, target: &RelativePath, beginning: &Beginning) -> Result<(), Fault> {
    let Beginning {
        before,
        after,
        times,
        pace: _,
    } = beginning;
    let reference = tree.reference_regular(target)?;
    let file = open_for_change(&reference)?;
    let stat = rustix::fs::fstat(&file)?;
    if before.len() != after.len() || read_fully(&file, 0, before.len())? != before {
        return Err(Fault::OtherBeginning);
    }
    // Within one page of the cache: a process that is killed has written all of it or nothing.
    write_fully(&file, 0, after)?;
    let at = |seconds: u32| Timespec {
        tv_sec: i64::from(seconds),
        tv_nsec: 0,
    };
    let times = times.map_or_else(
        || times_of(&version_of(&stat)),
        |(accessed, modified)| Timestamps {
            last_access: at(accessed),
            last_modification: at(modified),
        },
    );
    rustix::fs::futimens(&file, &times)?;
    Ok(rustix::fs::fsync(&file)?)
}

pub(super) fn version_of(stat: &Stat) -> InodeVersion {
    let nanoseconds = |number| i64::try_from(number).unwrap_or_default();
    InodeVersion {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size,
        modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        accessed: (stat.st_atime, nanoseconds(stat.st_atime_nsec)),
    }
}

pub(super) fn times_of(version: &InodeVersion) -> Timestamps {
    let at = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    Timestamps {
        last_access: at(version.accessed),
        last_modification: at(version.modified),
    }
}

/// While nobody changes what names stand for.
pub(super) fn alone(names: &StagingNames) -> Result<RwLockWriteGuard<'_, ()>, Fault> {
    let begun = Instant::now();
    loop {
        if let Some(turn) = names.nobody_changes() {
            return Ok(turn);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Fault::NeverAlone);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Opens the file behind `reference`. One that its owner, the gateway, has made read-only may be written for this moment.
fn open_for_change(reference: &OwnedFd) -> Result<OwnedFd, Fault> {
    let path = tree::path_of(reference);
    let open = || {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty())
    };
    match open() {
        Err(Errno::ACCESS) => {}
        opened => return Ok(opened?),
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(reference)?.st_mode & 0o7777);
    let set = |mode| rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty());
    // Only the owner may.
    set(mode | Mode::RUSR | Mode::WUSR).map_err(|_| Errno::ACCESS)?;
    let opened = open();
    set(mode)?;
    Ok(opened?)
}
