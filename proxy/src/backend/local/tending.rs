//! Stored files are changed where they lie.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{CWD, Mode, OFlags, Stat, Timespec, Timestamps},
    io::Errno,
};

use super::{
    download::read_fully,
    fault::Fault,
    session::Session,
    tree::{self, Tree},
    upload::write_fully,
};
use crate::{
    backend::{BackendError, Beginning},
    operation::Outcome,
    path::RelativePath,
    policy::Permit,
};

impl Session {
    pub(super) fn exchange(
        &self,
        permit: &Permit,
        beginning: &Beginning,
    ) -> Result<Outcome, BackendError> {
        let exchanged = match permit.target() {
            None => Err(Fault::ForTheGateway),
            Some(target) => self
                .tree()
                .and_then(|tree| exchange(tree, target, beginning)),
        };
        exchanged
            .map(|()| Outcome::Done)
            .map_err(|fault| self.blame(&fault, permit))
    }
}

fn exchange(tree: &Tree, target: &RelativePath, beginning: &Beginning) -> Result<(), Fault> {
    let Beginning {
        before,
        after,
        times,
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
        || times_of(&stat),
        |(accessed, modified)| Timestamps {
            last_access: at(accessed),
            last_modification: at(modified),
        },
    );
    rustix::fs::futimens(&file, &times)?;
    Ok(rustix::fs::fsync(&file)?)
}

fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: i64::try_from(stat.st_atime_nsec).unwrap_or_default(),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
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
    let set = |mode| rustix::fs::chmodat(CWD, &path, mode, rustix::fs::AtFlags::empty());
    // Only the owner may.
    set(mode | Mode::RUSR | Mode::WUSR).map_err(|_| Errno::ACCESS)?;
    let opened = open();
    set(mode)?;
    Ok(opened?)
}
