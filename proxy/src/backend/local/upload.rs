//! One upload: a staging file, what may be done to it, and how it ends.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use super::{
    attributes,
    fault::Fault,
    tree::{self, Place, Tree},
};
use crate::{
    backend::staging::{self, Content, Found, Publish, StagingName, UploadPlan},
    operation::{Access, Attributes},
    path::RelativePath,
};

/// As open(2) in OpenSSH's sftp-server: the umask takes the rest.
const DEFAULT_MODE: u32 = 0o666;
const COPY_CHUNK: usize = 1 << 20;

/// An upload in progress. Dropped before it is published, it removes its staging file.
#[derive(Debug)]
pub(super) struct Upload {
    file: OwnedFd,
    staged: Staged,
    plan: UploadPlan,
    access: Access,
    /// The existing file that this one began as a copy of.
    origin: Option<Version>,
    /// False while CLOSE would publish what is there anyway.
    touched: bool,
    /// The first write that failed: CLOSE must not make the rest look complete.
    spoiled: Option<Errno>,
}

/// The staging file's name; removed when dropped, unless it is no longer ours.
#[derive(Debug)]
struct Staged {
    place: Place,
    name: StagingName,
    exists: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.exists
            && let Err(error) = rustix::fs::unlinkat(
                &self.place.directory,
                self.name.as_bytes(),
                AtFlags::empty(),
            )
        {
            tracing::warn!(
                staging_file = %String::from_utf8_lossy(self.name.as_bytes()),
                published_name = %String::from_utf8_lossy(&self.place.name),
                %error,
                "a withdrawn upload's staging file can't be removed; the next start removes it once it is a day old"
            );
        }
    }
}

/// Tells a file and its content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

impl Version {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (
                stat.st_mtime,
                i64::try_from(stat.st_mtime_nsec).unwrap_or(i64::MAX),
            ),
        }
    }
}

impl Upload {
    /// Begins an upload to `path`: makes the staging file and, for an update, copies what is there.
    pub(super) fn begin(
        tree: &Tree,
        path: &RelativePath,
        access: Access,
        wanted: &Attributes,
    ) -> Result<Self, Fault> {
        let place = if access.create && access.exclusive || path.is_empty() {
            tree.place(path)?
        } else {
            tree.place_behind_links(path)?
        };
        let found = place.stat()?;
        let plan = staging::plan(access, found.as_ref().map_or(Found::Nothing, kind))?;
        let existing = match found {
            Some(_) => Some(open_existing(&place, plan.content)?),
            None => None,
        };
        let mode = match &existing {
            Some((_, stat)) => Mode::from_raw_mode(stat.st_mode & 0o777),
            None => attributes::creation_mode(wanted, DEFAULT_MODE),
        };
        let (file, staged) = stage(place, mode)?;
        let mut upload = Self {
            file,
            staged,
            plan,
            access,
            origin: None,
            touched: existing.is_none() || plan.content == Content::Empty,
            spoiled: None,
        };
        if let Some((existing, stat)) = existing {
            // The umask must not change the mode that the file already has.
            rustix::fs::fchmod(&upload.file, mode)?;
            if plan.content == Content::Existing {
                copy(&existing, &upload.file)?;
                upload.origin = Some(Version::of(&stat));
                upload.keep_times(&stat)?;
            }
        }
        Ok(upload)
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Bytes, Fault> {
        if !self.access.read {
            return Err(Fault::NotReadable);
        }
        super::download::read_fully(&self.file, offset, length)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        if let Some(errno) = self.spoiled {
            return Err(Fault::Spoiled(errno));
        }
        self.touched = true;
        let written = self.write_fully(offset, data);
        if let Err(errno) = written {
            self.spoiled = Some(errno);
            return Err(errno.into());
        }
        Ok(())
    }

    fn write_fully(&self, offset: u64, mut data: &[u8]) -> Result<(), Errno> {
        // With `append` the offset does not count (filexfer-02 section 6.3).
        let mut offset = if self.access.append {
            u64::try_from(rustix::fs::fstat(&self.file)?.st_size).unwrap_or(0)
        } else {
            offset
        };
        while !data.is_empty() {
            match rustix::io::pwrite(&self.file, data, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    data = data.get(written..).unwrap_or_default();
                    offset = offset
                        .checked_add(u64::try_from(written).unwrap_or(u64::MAX))
                        .ok_or(Errno::FBIG)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub(super) fn set_attributes(&mut self, wanted: &Attributes) -> Result<(), Fault> {
        self.touched = true;
        if let Some(size) = wanted.size {
            rustix::fs::ftruncate(&self.file, size)?;
        }
        attributes::apply(&self.file, wanted)
    }

    /// Ends the upload: everything on disk, then the name. Withdraws it if that fails.
    pub(super) fn publish(mut self) -> Result<(), Fault> {
        if let Some(errno) = self.spoiled {
            return Err(Fault::Spoiled(errno));
        }
        if !self.touched {
            return Ok(());
        }
        rustix::fs::fsync(&self.file)?;
        let place = &self.staged.place;
        if let Some(origin) = self.origin
            && place.stat()?.as_ref().map(Version::of) != Some(origin)
        {
            return Err(Fault::ChangedMeanwhile);
        }
        let (directory, name) = (&place.directory, place.name.as_slice());
        match self.plan.publish {
            Publish::Replace => {
                rustix::fs::renameat(directory, self.staged.name.as_bytes(), directory, name)?;
            }
            Publish::MustNotExist => {
                rename_to_free(directory, self.staged.name.as_bytes(), directory, name)?;
            }
        }
        self.staged.exists = false;
        match rustix::fs::fsync(directory) {
            // A directory that we may search but not read: the file's own sync commits its name on ext4, xfs and btrfs.
            Err(Errno::BADF) => Ok(rustix::fs::fsync(&self.file)?),
            synced => Ok(synced?),
        }
    }

    fn keep_times(&self, stat: &Stat) -> Result<(), Fault> {
        let attributes = attributes::from_stat(stat);
        let times = Attributes {
            times: attributes.times,
            ..Attributes::default()
        };
        attributes::apply(&self.file, &times)
    }
}

/// Renames, and fails if `to` exists; the check and the act are one.
pub(super) fn rename_to_free(
    from_directory: &OwnedFd,
    from: &[u8],
    to_directory: &OwnedFd,
    to: &[u8],
) -> Result<(), Fault> {
    match rustix::fs::renameat_with(
        from_directory,
        from,
        to_directory,
        to,
        RenameFlags::NOREPLACE,
    ) {
        // The file system lacks RENAME_NOREPLACE (NFS, some FUSE): link(2) refuses an existing name too.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rustix::fs::linkat(from_directory, from, to_directory, to, AtFlags::empty())?;
            Ok(rustix::fs::unlinkat(
                from_directory,
                from,
                AtFlags::empty(),
            )?)
        }
        Err(Errno::XDEV) => Err(Fault::OtherFileSystem),
        renamed => Ok(renamed?),
    }
}

fn kind(stat: &Stat) -> Found {
    match tree::file_type(stat) {
        FileType::RegularFile => Found::File,
        FileType::Directory => Found::Directory,
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Found::Special,
    }
}

/// Opens the file that stands at `place` as the update would, so that its own permissions are respected.
fn open_existing(place: &Place, content: Content) -> Result<(OwnedFd, Stat), Fault> {
    let access = match content {
        Content::Empty => OFlags::WRONLY,
        Content::Existing => OFlags::RDWR,
    };
    let file = rustix::fs::openat(
        &place.directory,
        place.name.as_slice(),
        access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&file)?;
    staging::plan(
        Access {
            write: true,
            ..Access::default()
        },
        kind(&stat),
    )?;
    Ok((file, stat))
}

fn stage(place: Place, mode: Mode) -> Result<(OwnedFd, Staged), Fault> {
    let name = StagingName::random().map_err(|_| Fault::NoRandomness)?;
    let file = rustix::fs::openat(
        &place.directory,
        name.as_bytes(),
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        mode,
    )?;
    let staged = Staged {
        place,
        name,
        exists: true,
    };
    Ok((file, staged))
}

/// Copies all of `from` to the empty file `to`: by sharing blocks where the file system can, else inside the kernel.
fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Fault> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut done = 0;
    loop {
        let mut position = done;
        match rustix::fs::copy_file_range(from, Some(&mut position), to, None, COPY_CHUNK) {
            Ok(0) => break,
            Ok(copied) => done += u64::try_from(copied).unwrap_or(0),
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    // Some file systems (procfs-like, old NFS) refuse copy_file_range or copy nothing: the rest goes through memory.
    loop {
        let chunk = super::download::read_fully(from, done, COPY_CHUNK)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let mut rest = chunk.as_ref();
        while !rest.is_empty() {
            let written = rustix::io::pwrite(to, rest, done)?;
            rest = rest.get(written..).unwrap_or_default();
            done += u64::try_from(written).unwrap_or(0);
        }
    }
}
