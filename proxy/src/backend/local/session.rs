//! One session's use of one mount: its handles, and what each operation does. All but READs of downloads are called one after
//! the other, by the session's lane.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, OFlags};

use super::{
    attributes,
    download::{Download, read_fully},
    fault::Fault,
    lane::{Lost, Pool, Pulse},
    listing::Listing,
    partial,
    tree::{self, Tree},
    turns::{self, Turn},
    upload::{self, Upload},
};
use crate::{
    backend::{
        BackendError, InodeVersion,
        staging::{self, Intention, SessionNames, StagingNames},
    },
    operation::{Access, Attributes, HandleId, Operation, Outcome},
    path::RelativePath,
    policy::Permit,
};

const DEFAULT_DIRECTORY_MODE: u32 = 0o777;

/// What one session has open in one mount.
pub(super) struct Session {
    root: Arc<OwnedFd>,
    pool: Pool,
    directory: Vec<u8>,
    /// For messages.
    place: String,
    tree: OnceLock<Tree>,
    names: SessionNames,
    pulse: Arc<Pulse>,
    handles: Mutex<Handles>,
    /// Handles with an operation that got no answer in time: nobody knows what became of it.
    given_up: Mutex<HashSet<HandleId>>,
}

enum Handles {
    Open(HashMap<HandleId, Handle>),
    Ended,
}

impl Default for Handles {
    fn default() -> Self {
        Self::Open(HashMap::new())
    }
}

/// The lane does one operation at a time, so the inner locks are never waited for.
#[derive(Debug, Clone)]
enum Handle {
    Download(Download),
    Upload(Arc<Mutex<Upload>>),
    Listing(Arc<Mutex<Listing>>),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.place)
    }
}

impl Session {
    /// `place` is for messages.
    pub(super) fn new(
        root: Arc<OwnedFd>,
        directory: &[u8],
        place: String,
        names: SessionNames,
        pool: Pool,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            root,
            pool,
            directory: directory.to_vec(),
            place,
            tree: OnceLock::new(),
            names,
            pulse,
            handles: Mutex::default(),
            given_up: Mutex::default(),
        }
    }

    /// Closes what is open and opens nothing more.
    pub(super) fn end(&self) {
        let left = std::mem::replace(&mut *self.handles(), Handles::Ended);
        drop(left);
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        lock(&self.handles)
    }

    pub(super) fn download(&self, id: HandleId) -> Option<Download> {
        match self.handle(id) {
            Ok(Handle::Download(download)) => Some(download),
            Ok(Handle::Upload(_) | Handle::Listing(_)) | Err(_) => None,
        }
    }

    /// What is to be said of an operation that was not waited for; its handle is good for nothing more.
    pub(super) fn lose(&self, lost: Lost, permit: &Permit, patience: Duration) -> Fault {
        match lost {
            Lost::Died => Fault::ThreadDied,
            Lost::Hangs => {
                let handle = permit.operation().handle();
                let opened = || permit.opens().map(|opened| opened.id());
                lock(&self.given_up).extend(handle.or_else(opened));
                Fault::Hangs(patience)
            }
        }
    }

    fn is_given_up(&self, id: HandleId) -> bool {
        lock(&self.given_up).contains(&id)
    }

    fn handle(&self, id: HandleId) -> Result<Handle, Fault> {
        if self.is_given_up(id) {
            return Err(Fault::GivenUp);
        }
        match &*self.handles() {
            Handles::Open(open) => open.get(&id).cloned().ok_or(Fault::NoSuchHandle),
            Handles::Ended => Err(Fault::Ended),
        }
    }

    fn insert(&self, id: HandleId, handle: Handle) -> Result<Outcome, Fault> {
        match &mut *self.handles() {
            // The client has been told that it did not open.
            Handles::Open(_) if self.is_given_up(id) => Err(Fault::GivenUp),
            Handles::Open(open) => {
                open.insert(id, handle);
                Ok(Outcome::Opened)
            }
            Handles::Ended => Err(Fault::Ended),
        }
    }

    fn remove(&self, id: HandleId) -> Result<Handle, Fault> {
        match &mut *self.handles() {
            Handles::Open(open) => open.remove(&id).ok_or(Fault::NoSuchHandle),
            Handles::Ended => Err(Fault::Ended),
        }
    }

    fn upload(&self, id: HandleId) -> Result<Arc<Mutex<Upload>>, Fault> {
        match self.handle(id)? {
            Handle::Upload(upload) => Ok(upload),
            Handle::Download(_) => Err(Fault::NotWritable),
            Handle::Listing(_) => Err(Fault::HandleOfDirectory),
        }
    }

    pub(super) fn names(&self) -> &StagingNames {
        self.names.all()
    }

    pub(super) fn tree(&self) -> Result<&Tree, Fault> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let tree = Tree::open(&self.root, &self.directory)?;
        Ok(self.tree.get_or_init(|| tree))
    }

    pub(super) fn blame(&self, fault: &Fault, permit: &Permit) -> BackendError {
        let path = |path: &RelativePath| format!("/{}", String::from_utf8_lossy(path.as_bytes()));
        let what = match (permit.target(), permit.second_target()) {
            (Some(target), Some(second)) => format!("{} to {}", path(target), path(second)),
            (Some(target), None) => path(target),
            (None, _) => "operation".to_owned(),
        };
        fault.on(&what, &self.place)
    }

    pub(super) fn perform(&self, permit: &Permit) -> Result<Outcome, BackendError> {
        if matches!(*self.handles(), Handles::Ended) {
            return Err(self.blame(&Fault::Ended, permit));
        }
        let Some(target) = permit.target() else {
            return Err(self.blame(&Fault::ForTheGateway, permit));
        };
        self.perform_on(permit.operation(), target, permit.second_target())
            .map_err(|fault| self.blame(&fault, permit))
    }

    fn perform_on(
        &self,
        operation: &Operation,
        target: &RelativePath,
        second: Option<&RelativePath>,
    ) -> Result<Outcome, Fault> {
        let _turn = changes_names(operation).then(|| self.names.all().change());
        let _turns = changes_names(operation).then(|| self.turns([Some(target), second]));
        match operation {
            Operation::Open {
                handle,
                access,
                attributes,
                ..
            } => self.open(*handle, target, *access, attributes),
            Operation::Opendir { handle, .. } => {
                let directory = self
                    .tree()?
                    .open_at(target, OFlags::RDONLY | OFlags::DIRECTORY)?;
                let listing = Arc::new(Mutex::new(Listing::new(directory)?));
                self.insert(*handle, Handle::Listing(listing))
            }
            Operation::Close { handle } => self.close(*handle),
            Operation::Read {
                handle,
                offset,
                length,
            } => {
                let length = usize::try_from(*length).unwrap_or(usize::MAX);
                let data = match self.handle(*handle)? {
                    Handle::Download(download) => read_fully(&download.0, *offset, length),
                    Handle::Upload(upload) => lock(&upload).read(*offset, length),
                    Handle::Listing(_) => Err(Fault::HandleOfDirectory),
                };
                data.map(data_or_end)
            }
            Operation::Write {
                handle,
                offset,
                data,
            } => lock(&*self.upload(*handle)?)
                .write(*offset, data, &self.pool)
                .map(|()| Outcome::Done),
            Operation::Readdir { handle } => {
                let Handle::Listing(listing) = self.handle(*handle)? else {
                    return Err(Fault::HandleOfFile);
                };
                let names = lock(&listing).next_batch()?;
                Ok(if names.is_empty() {
                    Outcome::End
                } else {
                    Outcome::Names(names)
                })
            }
            Operation::Fstat { handle } => self.on_descriptor(*handle, |descriptor| {
                let stat = rustix::fs::fstat(descriptor)?;
                Ok(Outcome::Attributes(attributes::from_stat(&stat)))
            }),
            Operation::Fstatvfs { handle } => self.on_descriptor(*handle, |descriptor| {
                let status = rustix::fs::fstatvfs(descriptor)?;
                Ok(Outcome::FilesystemStatus(attributes::from_statvfs(&status)))
            }),
            Operation::Fsync { handle } => {
                // Before the upload is held for its descriptor.
                if let Ok(upload) = self.upload(*handle) {
                    self.pulse.expect(lock(&upload).sync_allowance());
                }
                self.on_descriptor(*handle, |descriptor| {
                    rustix::fs::fsync(descriptor)?;
                    Ok(Outcome::Done)
                })
            }
            Operation::Fsetstat { handle, attributes } => match self.handle(*handle)? {
                Handle::Upload(upload) => lock(&upload)
                    .set_attributes(attributes)
                    .map(|()| Outcome::Done),
                Handle::Download(download) => set_attributes(&download.0, attributes),
                Handle::Listing(listing) => set_attributes(lock(&listing).directory(), attributes),
            },
            Operation::Stat { .. } => {
                let tree = self.tree()?;
                self.attributes(target, tree.reference(target))
            }
            Operation::Lstat { .. } => {
                let tree = self.tree()?;
                self.attributes(target, tree.reference_link(target))
            }
            Operation::Statvfs { .. } => {
                let status = rustix::fs::fstatvfs(self.tree()?.reference(target)?)?;
                Ok(Outcome::FilesystemStatus(attributes::from_statvfs(&status)))
            }
            Operation::Setstat { attributes, .. } => {
                let tree = self.tree()?;
                if let Some(size) = attributes.size {
                    rustix::fs::ftruncate(tree.open_regular(target, OFlags::WRONLY)?, size)?;
                }
                let rest = Attributes {
                    size: None,
                    ..attributes.clone()
                };
                set_attributes(&tree.reference(target)?, &rest)
            }
            Operation::Lsetstat { attributes, .. } => self.set_link_attributes(target, attributes),
            Operation::Remove { .. } => match self.unlink(target, AtFlags::empty()) {
                Err(Fault::Os(rustix::io::Errno::NOENT)) if self.discard_partial(target) => {
                    Ok(Outcome::Done)
                }
                removed => removed,
            },
            Operation::Rmdir { .. } => self.unlink(target, AtFlags::REMOVEDIR),
            Operation::Mkdir { attributes, .. } => {
                if target.is_empty() {
                    return Err(staging::Refusal::AlreadyExists.into());
                }
                let place = self.tree()?.place(target)?;
                let mode = attributes::creation_mode(attributes, DEFAULT_DIRECTORY_MODE);
                rustix::fs::mkdirat(&place.directory, place.name.as_slice(), mode)?;
                Ok(Outcome::Done)
            }
            Operation::Rename { .. } => self.rename(target, second, Replace::Refuse),
            Operation::PosixRename { .. } => self.rename(target, second, Replace::Allow),
            Operation::Readlink { .. } => {
                let link = self.tree()?.reference_link(target)?;
                let stored = match rustix::fs::readlinkat(&link, "", Vec::new()) {
                    // With an empty path, the kernel says so of anything that is not a link.
                    Err(rustix::io::Errno::NOENT) => Err(rustix::io::Errno::INVAL),
                    stored => stored,
                }?;
                Ok(Outcome::Target(stored.into_bytes().into()))
            }
            Operation::Symlink { target: stored, .. } => {
                let place = self.tree()?.place(target)?;
                rustix::fs::symlinkat(&stored[..], &place.directory, place.name.as_slice())?;
                Ok(Outcome::Done)
            }
            Operation::Hardlink { .. } => self.link(target, second),
            Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Realpath { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. }
            | Operation::Tend { .. } => Err(Fault::ForTheGateway),
        }
    }

    fn open(
        &self,
        handle: HandleId,
        target: &RelativePath,
        access: Access,
        wanted: &Attributes,
    ) -> Result<Outcome, Fault> {
        let tree = self.tree()?;
        let opened = match staging::intention(access)? {
            Intention::Download => {
                Handle::Download(match tree.open_regular(target, OFlags::RDONLY) {
                    Err(missing @ Fault::Os(rustix::io::Errno::NOENT)) => {
                        self.uploaded(target).ok_or(missing)?
                    }
                    file => Download(Arc::new(file?)),
                })
            }
            Intention::Upload => {
                let upload = Upload::begin(tree, &self.names, target, access, wanted, &self.pulse)?;
                Handle::Upload(Arc::new(Mutex::new(upload)))
            }
        };
        self.insert(handle, opened)
    }

    /// What this session writes to a path where nothing stands yet: the latest of its uploads there. It stays readable
    /// whatever becomes of the upload.
    fn uploaded(&self, target: &RelativePath) -> Option<Download> {
        let Handles::Open(open) = &*self.handles() else {
            return None;
        };
        let uploads = open.iter().filter_map(|(id, handle)| match handle {
            Handle::Upload(upload) => Some((*id, upload)),
            Handle::Download(_) | Handle::Listing(_) => None,
        });
        uploads
            .filter(|(id, upload)| !self.is_given_up(*id) && lock(upload).is_to(target))
            .max_by_key(|(id, _)| *id)
            .map(|(_, upload)| lock(upload).shared())
    }

    fn close(&self, handle: HandleId) -> Result<Outcome, Fault> {
        self.close_over(handle, None)
    }

    /// An upload is published only in the place of that version, if there is one.
    pub(super) fn close_over(
        &self,
        handle: HandleId,
        version: Option<&InodeVersion>,
    ) -> Result<Outcome, Fault> {
        let closed = self.remove(handle)?;
        if lock(&self.given_up).remove(&handle) {
            return Err(Fault::GivenUp);
        }
        let digest = match closed {
            Handle::Download(_) | Handle::Listing(_) => None,
            Handle::Upload(upload) => {
                // The table held the only other reference, and the lane runs nothing beside this.
                let upload = Arc::into_inner(upload).ok_or(Fault::NoSuchHandle)?;
                upload
                    .into_inner()
                    .unwrap_or_else(PoisonError::into_inner)
                    .publish_over(version, &self.pulse)?
            }
        };
        Ok(Outcome::digested(digest))
    }

    /// What stands at the path; if nothing does, what an interrupted upload of the same account left for it.
    fn attributes(
        &self,
        target: &RelativePath,
        reference: Result<OwnedFd, Fault>,
    ) -> Result<Outcome, Fault> {
        match reference {
            Ok(reference) => {
                let stat = rustix::fs::fstat(&reference)?;
                Ok(Outcome::Attributes(attributes::from_stat(&stat)))
            }
            Err(missing @ Fault::Os(rustix::io::Errno::NOENT)) => {
                let place = self.tree()?.place_behind_links(target);
                match place.and_then(|place| partial::attributes(&place, &self.names, target)) {
                    Ok(Some(attributes)) => Ok(Outcome::Attributes(attributes)),
                    Ok(None) | Err(_) => Err(missing),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    fn discard_partial(&self, target: &RelativePath) -> bool {
        let place = self.tree().and_then(|tree| tree.place(target));
        place.is_ok_and(|place| partial::discard(&place, &self.names, target))
    }

    pub(super) fn on_descriptor<T>(
        &self,
        handle: HandleId,
        act: impl FnOnce(&OwnedFd) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.handle(handle)? {
            Handle::Download(download) => act(&download.0),
            Handle::Upload(upload) => act(lock(&upload).file()),
            Handle::Listing(listing) => act(lock(&listing).directory()),
        }
    }

    fn set_link_attributes(
        &self,
        target: &RelativePath,
        attributes: &Attributes,
    ) -> Result<Outcome, Fault> {
        let tree = self.tree()?;
        let reference = tree.reference_link(target)?;
        match tree::file_type(&rustix::fs::fstat(&reference)?) {
            FileType::Symlink => {
                attributes::apply_to_link(&tree.place(target)?, attributes)?;
                Ok(Outcome::Done)
            }
            FileType::RegularFile
            | FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => set_attributes(&reference, attributes),
        }
    }

    /// Among the gateways that serve the directories in which these lie.
    fn turns(&self, targets: [Option<&RelativePath>; 2]) -> [Option<Turn>; 2] {
        targets.map(|target| {
            let place = self.tree().ok()?.place(target?).ok()?;
            turns::among_others(&place.directory)
        })
    }

    fn unlink(&self, target: &RelativePath, flags: AtFlags) -> Result<Outcome, Fault> {
        let place = self.tree()?.place(target)?;
        rustix::fs::unlinkat(&place.directory, place.name.as_slice(), flags)?;
        Ok(Outcome::Done)
    }

    fn rename(
        &self,
        from: &RelativePath,
        to: Option<&RelativePath>,
        replace: Replace,
    ) -> Result<Outcome, Fault> {
        let tree = self.tree()?;
        let (from, to) = (
            tree.place(from)?,
            tree.place(to.ok_or(Fault::MountItself)?)?,
        );
        let (old, new) = (from.name.as_slice(), to.name.as_slice());
        match replace {
            Replace::Refuse => upload::rename_to_free(&from.directory, old, &to.directory, new)?,
            Replace::Allow => {
                match rustix::fs::renameat(&from.directory, old, &to.directory, new) {
                    Err(rustix::io::Errno::XDEV) => return Err(Fault::OtherFileSystem),
                    renamed => renamed?,
                }
            }
        }
        Ok(Outcome::Done)
    }

    /// Gives a regular file a second name. The file is held while it is judged, so that no other can take its place.
    fn link(&self, from: &RelativePath, to: Option<&RelativePath>) -> Result<Outcome, Fault> {
        let tree = self.tree()?;
        let file = tree.reference_regular(from)?;
        let to = tree.place(to.ok_or(Fault::MountItself)?)?;
        match rustix::fs::linkat(
            rustix::fs::CWD,
            tree::path_of(&file),
            &to.directory,
            to.name.as_slice(),
            AtFlags::SYMLINK_FOLLOW,
        ) {
            Err(rustix::io::Errno::XDEV) => Err(Fault::OtherFileSystem),
            linked => {
                linked?;
                Ok(Outcome::Done)
            }
        }
    }
}

/// True for what changes which file a name stands for, or attributes of one. An upload is looked at by itself.
fn changes_names(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Remove { .. }
            | Operation::Rename { .. }
            | Operation::PosixRename { .. }
            | Operation::Hardlink { .. }
            | Operation::Setstat { .. }
            | Operation::Lsetstat { .. }
            | Operation::Fsetstat { .. }
    )
}

/// The answer to a READ.
pub(super) fn data_or_end(data: Bytes) -> Outcome {
    if data.is_empty() {
        Outcome::End
    } else {
        Outcome::Data(data)
    }
}

#[derive(Debug, Clone, Copy)]
enum Replace {
    Refuse,
    Allow,
}

/// Sets attributes of what is open; a size can't be set through a descriptor that only refers.
fn set_attributes(descriptor: &OwnedFd, wanted: &Attributes) -> Result<Outcome, Fault> {
    if wanted.size.is_some() {
        return Err(Fault::NotWritable);
    }
    attributes::apply(descriptor, wanted)?;
    Ok(Outcome::Done)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
