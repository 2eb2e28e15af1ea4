//! Paths to file descriptors, never leaving the mount's directory.
//!
//! The kernel resolves every path from the mount's directory with `RESOLVE_BENEATH` (openat2(2), Linux 5.6), so no name,
//! symbolic link or rename that races with the lookup can lead outside. What happens next is done on the descriptor, or on
//! the parent's descriptor and one name whose link is not followed; no path is looked up twice.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2},
    io::Errno,
};

use super::fault::Fault;
use crate::{backend::staging, path::RelativePath};

/// As in the kernel's own lookup (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// openat2 answers EAGAIN when a rename elsewhere raced with a `..`.
const MAX_RACES: usize = 100;

/// The directory of one mount.
#[derive(Debug)]
pub(super) struct Tree(OwnedFd);

/// A directory held open and a name in it, which may exist or not.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: Vec<u8>,
}

impl Tree {
    /// The tree below `directory`, which is looked up beneath `root`.
    pub(super) fn open(root: impl AsFd, directory: &[u8]) -> Result<Self, Fault> {
        let start = directory
            .iter()
            .position(|&byte| byte != b'/')
            .unwrap_or(directory.len());
        let relative = directory.get(start..).unwrap_or_default();
        resolve(root, relative, OFlags::PATH | OFlags::DIRECTORY).map(Self)
    }

    /// Opens what `path` leads to.
    pub(super) fn open_at(&self, path: &RelativePath, flags: OFlags) -> Result<OwnedFd, Fault> {
        resolve(&self.0, path.as_bytes(), flags)
    }

    /// A reference to what `path` leads to, without opening it: devices and pipes feel nothing.
    pub(super) fn reference(&self, path: &RelativePath) -> Result<OwnedFd, Fault> {
        self.open_at(path, OFlags::PATH)
    }

    /// As [`Tree::reference`], to the last name itself if that is a symbolic link.
    pub(super) fn reference_link(&self, path: &RelativePath) -> Result<OwnedFd, Fault> {
        self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// A reference to a regular file; a symbolic link as the last name is refused and not followed.
    pub(super) fn reference_regular(&self, path: &RelativePath) -> Result<OwnedFd, Fault> {
        let file = self.reference_link(path)?;
        require_regular(&file)?;
        Ok(file)
    }

    /// Opens a regular file, and refuses everything that isn't before it could notice.
    pub(super) fn open_regular(
        &self,
        path: &RelativePath,
        flags: OFlags,
    ) -> Result<OwnedFd, Fault> {
        require_regular(&self.reference(path)?)?;
        let file = self.open_at(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        require_regular(&file)?;
        Ok(file)
    }

    /// The directory that holds the last name, and that name.
    pub(super) fn place(&self, path: &RelativePath) -> Result<Place, Fault> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Fault::MountItself);
        };
        Ok(Place {
            directory: self.open_at(&parent, OFlags::PATH | OFlags::DIRECTORY)?,
            name: name.to_vec(),
        })
    }

    /// As [`Tree::place`], where a symbolic link as the last name is followed: the place that open(2) with `O_CREAT` would
    /// write to. The directory is open for reading where its permissions allow, so that it can be synced.
    pub(super) fn place_behind_links(&self, path: &RelativePath) -> Result<Place, Fault> {
        let mut path = path.as_bytes().to_vec();
        for links in 0..MAX_LINKS {
            let (parent, name) = split_last(&path);
            if name.is_empty() || name == b"." || name == b".." {
                return Err(Fault::LeavesTheMount);
            }
            // What is asked for itself is no client's path, or the gateway's own.
            if links > 0 && staging::is_reserved(name) {
                return Err(Fault::ReservedName);
            }
            let directory = match resolve(&self.0, parent, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Fault::Os(Errno::ACCESS)) => {
                    resolve(&self.0, parent, OFlags::PATH | OFlags::DIRECTORY)?
                }
                opened => opened?,
            };
            match rustix::fs::readlinkat(&directory, name, Vec::new()) {
                Ok(target) if target.as_bytes().starts_with(b"/") => {
                    return Err(Fault::LeavesTheMount);
                }
                Ok(target) => path = [parent, b"/", target.as_bytes()].concat(),
                // Not a link, or nothing at all.
                Err(Errno::INVAL | Errno::NOENT) => {
                    let name = name.to_vec();
                    return Ok(Place { directory, name });
                }
                Err(errno) => return Err(errno.into()),
            }
            let start = path
                .iter()
                .position(|&byte| byte != b'/')
                .unwrap_or(path.len());
            path.drain(..start);
        }
        Err(Errno::LOOP.into())
    }
}

impl Place {
    /// What stands here; a symbolic link is not followed. `None` if nothing does.
    pub(super) fn stat(&self) -> Result<Option<Stat>, Fault> {
        match rustix::fs::statat(
            &self.directory,
            self.name.as_slice(),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A path that names exactly the file behind `fd`, for calls that take no descriptor opened with `O_PATH`.
pub(super) fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn require_regular(file: &OwnedFd) -> Result<(), Fault> {
    match file_type(&rustix::fs::fstat(file)?) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(staging::Refusal::IsADirectory.into()),
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(staging::Refusal::NotRegular.into()),
    }
}

fn resolve(directory: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Fault> {
    let path = if path.is_empty() { b"." } else { path };
    let limits = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RACES {
        match openat2(
            directory.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            limits,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::XDEV) => return Err(Fault::LeavesTheMount),
            opened => return Ok(opened?),
        }
    }
    Err(Errno::AGAIN.into())
}

fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => {
            let (parent, name) = path.split_at(slash);
            (parent, name.get(1..).unwrap_or_default())
        }
        None => (b"", path),
    }
}
