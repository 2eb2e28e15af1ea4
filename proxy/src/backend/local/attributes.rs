//! SFTP attributes and `struct stat`.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Stat, StatVfs, Timespec, Timestamps, Uid};

use super::{fault::Fault, tree};
use crate::operation::{Attributes, FilesystemStatus};

/// The permission bits that a client may set. Set-user-ID, set-group-ID and sticky stay as they are.
const PERMISSION_BITS: u32 = 0o777;

pub(super) fn from_stat(stat: &Stat) -> Attributes {
    Attributes {
        size: u64::try_from(stat.st_size).ok(),
        owner: Some((stat.st_uid, stat.st_gid)),
        permissions: Some(stat.st_mode),
        times: Some((seconds(stat.st_atime), seconds(stat.st_mtime))),
        is_interrupted: false,
        is_foreign: false,
    }
}

/// SFTP v3 has 32 bits; times before 1970 or after 2106 become the nearest it can say.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

pub(super) fn from_statvfs(status: &StatVfs) -> FilesystemStatus {
    FilesystemStatus {
        block_size: status.f_bsize,
        fragment_size: status.f_frsize,
        blocks: status.f_blocks,
        blocks_free: status.f_bfree,
        blocks_available: status.f_bavail,
        files: status.f_files,
        files_free: status.f_ffree,
        files_available: status.f_favail,
        filesystem_id: status.f_fsid,
        flags: status.f_flag.bits(),
        name_max: status.f_namemax,
    }
}

/// The mode of a new file or directory, before the umask.
pub(super) fn creation_mode(wanted: &Attributes, default: u32) -> Mode {
    Mode::from_raw_mode(wanted.permissions.unwrap_or(default) & PERMISSION_BITS)
}

/// Sets everything but the size on what `fd` refers to, which may be open with `O_PATH` only.
pub(super) fn apply(fd: &OwnedFd, attributes: &Attributes) -> Result<(), Fault> {
    let path = tree::path_of(fd);
    if let Some((user, group)) = attributes.owner {
        rustix::fs::chownat(
            CWD,
            &path,
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            AtFlags::empty(),
        )?;
    }
    if let Some(permissions) = attributes.permissions {
        let kept = rustix::fs::fstat(fd)?.st_mode & 0o7000;
        rustix::fs::chmodat(
            CWD,
            &path,
            Mode::from_raw_mode(kept | permissions & PERMISSION_BITS),
            AtFlags::empty(),
        )?;
    }
    if let Some(times) = attributes.times {
        rustix::fs::utimensat(CWD, &path, &timestamps(times), AtFlags::empty())?;
    }
    Ok(())
}

/// Sets owner and times of a symbolic link itself; links have no permissions of their own on Linux.
pub(super) fn apply_to_link(place: &tree::Place, attributes: &Attributes) -> Result<(), Fault> {
    if attributes.size.is_some() || attributes.permissions.is_some() {
        return Err(rustix::io::Errno::NOTSUP.into());
    }
    let name = place.name.as_slice();
    if let Some((user, group)) = attributes.owner {
        rustix::fs::chownat(
            &place.directory,
            name,
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    if let Some(times) = attributes.times {
        rustix::fs::utimensat(
            &place.directory,
            name,
            &timestamps(times),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

fn timestamps((access, modification): (u32, u32)) -> Timestamps {
    let at = |seconds: u32| Timespec {
        tv_sec: i64::from(seconds),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: at(access),
        last_modification: at(modification),
    }
}
