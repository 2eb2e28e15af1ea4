//! One upload: a staging file, what may be done to it, and how it ends.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{
    attributes,
    download::Download,
    fault::Fault,
    lane::{Pool, Pulse},
    partial, tending,
    tree::{self, Place, Tree},
    turns,
    writeback::Writeback,
};
use crate::{
    backend::{
        InodeVersion,
        staging::{
            self, Beginning, Claim, Content, Found, Landing, Progress, Publish, Refusal,
            SessionNames, UploadPlan,
        },
    },
    operation::{Access, Attributes},
    path::RelativePath,
};

/// As open(2) in OpenSSH's sftp-server: the umask takes the rest.
const DEFAULT_MODE: u32 = 0o666;
const COPY_CHUNK: usize = 1 << 20;
/// Bytes per second that even a slow disk syncs.
const SYNC_RATE: u64 = 4 << 20;

/// An upload in progress. Dropped before it is published, it leaves its staging file to a later session if that can resume
/// it, and removes it otherwise.
#[derive(Debug)]
pub(super) struct Upload {
    /// As the client named it.
    target: RelativePath,
    file: Arc<OwnedFd>,
    writeback: Writeback,
    staged: Staged,
    plan: UploadPlan,
    access: Access,
    /// The existing file that this one began as a copy of.
    origin: Option<Version>,
    progress: Progress,
    attributes_set: bool,
    /// The first write that failed: CLOSE must not make the rest look complete.
    spoiled: Option<Errno>,
}

/// The staging file's name and what becomes of it.
#[derive(Debug)]
struct Staged {
    place: Place,
    names: SessionNames,
    claim: Claim,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A later session may find it and go on.
    Resumable,
    Remove,
    /// It has its final name.
    Published,
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
    /// Begins an upload to `path`: makes the staging file or takes up the one that an interrupted upload left; for an update,
    /// copies what is there.
    pub(super) fn begin(
        tree: &Tree,
        names: &SessionNames,
        path: &RelativePath,
        access: Access,
        wanted: &Attributes,
        pulse: &Pulse,
    ) -> Result<Self, Fault> {
        let place = if access.create && access.exclusive || path.is_empty() {
            tree.place(path)?
        } else {
            tree.place_behind_links(path)?
        };
        let found = place.stat()?;
        let plan = match staging::plan(access, found.as_ref().map_or(Found::Nothing, kind)) {
            Err(Refusal::NotFound) => UploadPlan::RESUME,
            plan => plan?,
        };
        let Some(found) = found else {
            let mode = attributes::creation_mode(wanted, DEFAULT_MODE);
            let (file, staged, progress) = stage_new(place, names, path, access, mode)?;
            return Ok(Self {
                target: path.clone(),
                file: Arc::new(file),
                writeback: Writeback::default(),
                staged,
                plan,
                access,
                origin: None,
                progress,
                attributes_set: false,
                spoiled: None,
            });
        };
        partial::discard(&place, names, path);
        let (existing, stat) = open_existing(&place, plan.content)?;
        let mode = Mode::from_raw_mode(found.st_mode & 0o777);
        let (file, staged) = stage(place, names, mode)?;
        let mut upload = Self {
            target: path.clone(),
            file: Arc::new(file),
            writeback: Writeback::default(),
            staged,
            plan,
            access,
            origin: None,
            progress: Progress::new(Beginning::Nothing, 0),
            attributes_set: false,
            spoiled: None,
        };
        // The umask must not change the mode that the file already has.
        rustix::fs::fchmod(&upload.file, mode)?;
        if plan.content == Content::Existing {
            let length = copy(&existing, &upload.file, pulse)?;
            upload.progress = Progress::new(Beginning::Copy, length);
            upload.origin = Some(Version::of(&stat));
            upload.keep_times(&stat)?;
        }
        Ok(upload)
    }

    pub(super) fn is_to(&self, target: &RelativePath) -> bool {
        self.target == *target
    }

    /// The staging file, to be read by a handle of its own.
    pub(super) fn shared(&self) -> Download {
        Download(Arc::clone(&self.file))
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Bytes, Fault> {
        if !self.access.read {
            return Err(Fault::NotReadable);
        }
        super::download::read_fully(&self.file, offset, length)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8], pool: &Pool) -> Result<(), Fault> {
        if let Some(errno) = self.spoiled {
            return Err(Fault::Spoiled(errno));
        }
        // With `append` the offset does not count (filexfer-02 section 6.3).
        let offset = if self.access.append {
            self.progress.length()
        } else {
            offset
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let landing = self.progress.write(offset, length);
        let written = self
            .prepare(landing)
            .and_then(|()| self.write_fully(offset, data));
        if let Err(errno) = written {
            self.spoiled = Some(errno);
            return Err(errno.into());
        }
        self.writeback.wrote(data.len(), &self.file, pool);
        Ok(())
    }

    fn prepare(&mut self, landing: Landing) -> Result<(), Errno> {
        match landing {
            Landing::InOrder | Landing::OutOfOrder => Ok(()),
            Landing::Cut(length) => rustix::fs::ftruncate(&self.file, length),
            Landing::FirstOutOfOrder => self.staged.hide(),
        }
    }

    fn write_fully(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        write_fully(&self.file, offset, data)
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// How long syncing may take.
    pub(super) fn sync_allowance(&self) -> Duration {
        Duration::from_secs(self.progress.length() / SYNC_RATE)
    }

    pub(super) fn set_attributes(&mut self, wanted: &Attributes) -> Result<(), Fault> {
        if let Some(size) = wanted.size {
            let landing = self.progress.resize(size);
            let resized = self
                .prepare(landing)
                .and_then(|()| rustix::fs::ftruncate(&self.file, size));
            if let Err(errno) = resized {
                self.spoiled = Some(errno);
                return Err(errno.into());
            }
        }
        self.attributes_set = true;
        attributes::apply(&self.file, wanted)
    }

    /// Ends the upload: everything on disk, then the name. Withdraws it if that fails. Gives the SHA-256 of what is published
    /// if that had to be read again. Only in the place of that
    /// version, if one is given, whose times it gets then.
    pub(super) fn publish_over(
        mut self,
        version: Option<&InodeVersion>,
        pulse: &Pulse,
    ) -> Result<Option<[u8; 32]>, Fault> {
        if !self.progress.is_touched() {
            match self.progress.beginning() {
                // Neither complete nor withdrawn by anybody's wish: it stays what it was.
                Beginning::Partial => return Err(Fault::NothingWritten),
                Beginning::Copy if !self.attributes_set => {
                    self.staged.fate = Fate::Remove;
                    return Ok(None);
                }
                Beginning::Copy | Beginning::Nothing => {}
            }
        }
        self.staged.fate = Fate::Remove;
        if let Some(errno) = self.spoiled {
            return Err(Fault::Spoiled(errno));
        }
        if let Some(version) = version {
            rustix::fs::futimens(&self.file, &tending::times_of(version))?;
        }
        pulse.expect(self.sync_allowance());
        self.writeback.finish(&self.file)?;
        pulse.beat();
        let digest = if self.progress.needs_reread(self.access) {
            Some(digest(&self.file, pulse)?)
        } else {
            None
        };
        self.take_its_place(version)?;
        self.staged.fate = Fate::Published;
        match rustix::fs::fsync(&self.staged.place.directory) {
            // A directory that we may search but not read: the file's own sync commits its name on ext4, xfs and btrfs.
            Err(Errno::BADF) => rustix::fs::fsync(&self.file)?,
            synced => synced?,
        }
        Ok(digest)
    }

    /// Renames the staging file, unless somebody has changed what it was made from.
    fn take_its_place(&self, version: Option<&InodeVersion>) -> Result<(), Fault> {
        let Staged { place, names, .. } = &self.staged;
        let is_same = |version: &InodeVersion| -> Result<bool, Fault> {
            let now = place.stat()?.as_ref().map(tending::version_of);
            Ok(now.is_some_and(|now| now.is_same(version)))
        };
        let _alone;
        let _shared;
        let _turn;
        if let Some(version) = version {
            _alone = tending::alone(names.all())?;
            _turn = turns::alone(&place.directory)?;
            if !is_same(version)? {
                return Err(Fault::ChangedMeanwhile);
            }
        } else {
            _shared = names.all().change();
            _turn = turns::among_others(&place.directory);
        }
        if let Some(origin) = self.origin
            && place.stat()?.as_ref().map(Version::of) != Some(origin)
        {
            return Err(Fault::ChangedMeanwhile);
        }
        let (directory, name) = (&place.directory, place.name.as_slice());
        let staging_name = self.staged.claim.name().as_bytes();
        match self.plan.publish {
            Publish::Replace => {
                rustix::fs::renameat(directory, staging_name, directory, name)?;
            }
            Publish::MustNotExist => {
                rename_to_free(directory, staging_name, directory, name)?;
            }
        }
        Ok(())
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

impl Drop for Upload {
    fn drop(&mut self) {
        match self.staged.fate {
            Fate::Published => {}
            Fate::Resumable
                if self.spoiled.is_none()
                    && self.progress.is_resumable()
                    && !self.writeback.has_failed() =>
            {
                tracing::info!(
                    staging_file = %String::from_utf8_lossy(self.staged.claim.name().as_bytes()),
                    published_name = %String::from_utf8_lossy(&self.staged.place.name),
                    bytes = self.progress.length(),
                    "an upload was interrupted; its account can resume it"
                );
            }
            Fate::Resumable | Fate::Remove => self.staged.remove(),
        }
    }
}

impl Staged {
    /// Gives the staging file a name under which no resume finds it, unless it has one.
    fn hide(&mut self) -> Result<(), Errno> {
        if self.fate != Fate::Resumable {
            return Ok(());
        }
        let hidden = self.names.all().claim_random().map_err(|_| Errno::IO)?;
        rustix::fs::renameat(
            &self.place.directory,
            self.claim.name().as_bytes(),
            &self.place.directory,
            hidden.name().as_bytes(),
        )?;
        self.claim = hidden;
        self.fate = Fate::Remove;
        Ok(())
    }

    fn remove(&self) {
        if let Err(error) = rustix::fs::unlinkat(
            &self.place.directory,
            self.claim.name().as_bytes(),
            AtFlags::empty(),
        ) {
            tracing::warn!(
                staging_file = %String::from_utf8_lossy(self.claim.name().as_bytes()),
                published_name = %String::from_utf8_lossy(&self.place.name),
                %error,
                "a withdrawn upload's staging file can't be removed; it is tried again once the file is older than partial_retention_hours"
            );
        }
    }
}

pub(super) fn write_fully(file: &OwnedFd, mut offset: u64, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, offset) {
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
        // The file system lacks RENAME_NOREPLACE (NFS, some FUSE), or a directory is to go into itself.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let source = rustix::fs::statat(from_directory, from, AtFlags::SYMLINK_NOFOLLOW)?;
            if tree::file_type(&source) == FileType::Directory {
                // Should one appear in this moment, rename(2) replaces nothing but an empty directory.
                return match rustix::fs::statat(to_directory, to, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => Ok(rustix::fs::renameat(
                        from_directory,
                        from,
                        to_directory,
                        to,
                    )?),
                    found => Err(found.map_or_else(Fault::from, |_| Errno::EXIST.into())),
                };
            }
            // link(2) refuses an existing name too.
            rustix::fs::linkat(from_directory, from, to_directory, to, AtFlags::empty())?;
            Ok(rustix::fs::unlinkat(
                from_directory,
                from,
                AtFlags::empty(),
            )?)
        }
        Err(Errno::XDEV) => Err(Fault::OtherFileSystem),
        // The kernel looks at the destination first; that there is nothing to rename is the better news.
        Err(Errno::EXIST) => {
            rustix::fs::statat(from_directory, from, AtFlags::SYMLINK_NOFOLLOW)?;
            Err(Errno::EXIST.into())
        }
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

/// The staging file of an upload to a path where nothing stands: what an interrupted upload left, or an empty one.
fn stage_new(
    place: Place,
    names: &SessionNames,
    path: &RelativePath,
    access: Access,
    mode: Mode,
) -> Result<(OwnedFd, Staged, Progress), Fault> {
    let fresh = Progress::new(Beginning::Nothing, 0);
    let claim = names
        .resumable(path)
        .and_then(|name| names.all().claim(name));
    let Some(claim) = staging::unless_missing(access, claim)? else {
        let (file, staged) = stage(place, names, mode)?;
        return Ok((file, staged, fresh));
    };
    let partial = if access.truncate {
        None
    } else {
        partial::take_up(&place, claim.name())?
    };
    let (file, progress) = if let Some((file, length)) = staging::unless_missing(access, partial)? {
        (file, Progress::new(Beginning::Partial, length))
    } else {
        partial::remove(&place, claim.name())?;
        (create(&place, &claim, mode)?, fresh)
    };
    let staged = Staged {
        place,
        names: names.clone(),
        claim,
        fate: Fate::Resumable,
    };
    Ok((file, staged, progress))
}

/// An empty staging file that nobody finds again.
fn stage(place: Place, names: &SessionNames, mode: Mode) -> Result<(OwnedFd, Staged), Fault> {
    let claim = names
        .all()
        .claim_random()
        .map_err(|_| Fault::NoRandomness)?;
    let file = create(&place, &claim, mode)?;
    let staged = Staged {
        place,
        names: names.clone(),
        claim,
        fate: Fate::Remove,
    };
    Ok((file, staged))
}

fn create(place: &Place, claim: &Claim, mode: Mode) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        &place.directory,
        claim.name().as_bytes(),
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        mode,
    )
}

fn digest(file: &OwnedFd, pulse: &Pulse) -> Result<[u8; 32], Fault> {
    let mut digest = Sha256::new();
    let mut done = 0;
    loop {
        let chunk = super::download::read_fully(file, done, COPY_CHUNK)?;
        if chunk.is_empty() {
            return Ok(digest.finalize().into());
        }
        digest.update(&chunk);
        done += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        pulse.beat();
    }
}

/// Copies all of `from` to the empty file `to`: by sharing blocks where the file system can, else inside the kernel. Returns
/// how many bytes that are.
fn copy(from: &OwnedFd, to: &OwnedFd, pulse: &Pulse) -> Result<u64, Fault> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(u64::try_from(rustix::fs::fstat(to)?.st_size).unwrap_or(0));
    }
    let mut done = 0;
    loop {
        pulse.beat();
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
        pulse.beat();
        let chunk = super::download::read_fully(from, done, COPY_CHUNK)?;
        if chunk.is_empty() {
            return Ok(done);
        }
        let mut rest = chunk.as_ref();
        while !rest.is_empty() {
            let written = rustix::io::pwrite(to, rest, done)?;
            rest = rest.get(written..).unwrap_or_default();
            done += u64::try_from(written).unwrap_or(0);
        }
    }
}
