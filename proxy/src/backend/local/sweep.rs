//! Staging files that a crash left behind.

use std::{
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::tree;
use crate::backend::staging::{StagingName, StagingNames};

/// Deeper trees are left alone: each level holds a descriptor open.
const MAX_DEPTH: usize = 64;

/// Removes staging files below `root`, which may be open with `O_PATH`, that nobody has touched for the retention time and
/// that no upload uses; returns how many.
pub(super) fn sweep(root: &OwnedFd, names: &StagingNames, now: SystemTime) -> usize {
    let horizon = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .saturating_sub(names.retention())
        .as_secs();
    let removed = match open_directory(root, b".") {
        Ok(directory) => sweep_directory(&directory, names, horizon, MAX_DEPTH),
        Err(error) => {
            tracing::warn!(%error, "can't look for left-over staging files");
            0
        }
    };
    if removed > 0 {
        tracing::info!(
            removed,
            "removed staging files of uploads that never finished"
        );
    }
    removed
}

fn sweep_directory(directory: &OwnedFd, names: &StagingNames, horizon: u64, depth: usize) -> usize {
    let Ok(mut entries) = Dir::read_from(directory) else {
        return 0;
    };
    let mut removed = 0;
    while let Some(Ok(entry)) = entries.read() {
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_stale = u64::try_from(stat.st_mtime).is_ok_and(|modified| modified < horizon)
            && u64::try_from(stat.st_ctime).is_ok_and(|changed| changed < horizon);
        match tree::file_type(&stat) {
            FileType::Directory if depth > 0 => {
                if let Ok(below) = open_directory(directory, name) {
                    removed += sweep_directory(&below, names, horizon, depth - 1);
                }
            }
            FileType::RegularFile if is_stale => {
                // The claim keeps an upload from taking it up at this moment.
                let Some(_claim) = StagingName::parse(name).and_then(|name| names.claim(name))
                else {
                    continue;
                };
                match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                    Ok(()) => removed += 1,
                    Err(error) => tracing::warn!(
                        name = %String::from_utf8_lossy(name), %error,
                        "a left-over staging file can't be removed"
                    ),
                }
            }
            FileType::Directory
            | FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {}
        }
    }
    removed
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
