//! Encryption at rest, over any backend: what lies there is made by [`portcullis_at_rest`], what sessions see is the plaintext.
//!
//! An operation is carried out by steps of the backend below, each a part of what is on record
//! ([`Permit::step`](crate::policy::Permit::step)). Names, directories and links are the backend's own.

mod download;
mod fault;
mod steps;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all, ready},
};
use portcullis_at_rest::{ExtentReaders, Head, HeadError, Keyring, Layout, Realm};
use portcullis_journal::Recorded;

use self::{
    download::Download,
    fault::Fault,
    steps::Steps,
    upload::{Gathered, Origin, Piece, Rest, Upload},
};
use super::{
    Backend, BackendError, BackendService, Capabilities, ErrorKind, Execution, HalfwayRenames,
    Owner,
};
use crate::{
    operation::{Access, Attributes, HandleId, Operation, Outcome},
    path::VirtualPath,
    policy::Permit,
};

/// Most uploads of a session that failed; they stay open at the backend until the session ends.
const MAX_SPOILED: usize = 64;

const READ: Access = Access {
    read: true,
    write: false,
    append: false,
    create: false,
    truncate: false,
    exclusive: false,
};
const REPLACE: Access = Access {
    read: false,
    write: true,
    truncate: true,
    ..READ
};

/// How one backend's files are encrypted.
#[derive(Debug)]
pub struct Vault {
    pub ring: Keyring,
    /// Of the backend.
    pub realm: Realm,
    /// What is done with files that are not encrypted.
    pub foreign: Foreign,
    /// Most bytes of a file that can be changed, or written in any order.
    pub update_limit: u64,
    /// Where such a file waits for its CLOSE, encrypted.
    pub spool_directory: PathBuf,
}

/// What is done with files that are not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// They can be listed, moved and removed, and not opened.
    Refuse,
    /// They are read as they are, until they are migrated.
    Read,
}

/// An encrypted backend.
#[derive(Debug)]
pub struct EncryptedService {
    service: Arc<dyn BackendService>,
    vault: Arc<Vault>,
}

impl EncryptedService {
    pub fn new(service: Arc<dyn BackendService>, vault: Vault) -> Self {
        Self {
            service,
            vault: Arc::new(vault),
        }
    }
}

impl BackendService for EncryptedService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        // What an interrupted upload left can't be continued yet.
        let owner = owner.clone().resuming(Some(false));
        Arc::new(Encrypted {
            session: Session {
                backend: self.service.session(directory, &owner),
                vault: Arc::clone(&self.vault),
                handles: Arc::default(),
                spoiled: Arc::default(),
                own: Arc::default(),
            },
        })
    }
}

#[derive(Debug)]
struct Encrypted {
    session: Session,
}

/// What the operations of one session share.
#[derive(Debug, Clone)]
struct Session {
    backend: Arc<dyn Backend>,
    vault: Arc<Vault>,
    handles: Arc<Mutex<HashMap<HandleId, Handle>>>,
    spoiled: Arc<AtomicU64>,
    /// Numbers of handles that belong to no operation's handle.
    own: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
enum Handle {
    Download(Arc<Download>),
    Upload(Arc<Mutex<Upload>>),
    /// A file that is not encrypted.
    Plain,
    Directory,
}

/// A file that was opened to be looked at.
enum Found {
    Encrypted(Box<ExtentReaders>, Attributes),
    Plain(Attributes),
}

impl Backend for Encrypted {
    fn capabilities(&self) -> Capabilities {
        let below = self.session.backend.capabilities();
        Capabilities {
            random_access: true,
            update: true,
            resume: false,
            read_back: false,
            ..below
        }
    }

    fn member(&self) -> Option<&str> {
        self.session.backend.member()
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let session = self.session.clone();
        let steps = Steps::new(&session.backend, recorded);
        match steps.operation().clone() {
            Operation::Open {
                path,
                handle,
                access,
                attributes,
            } => {
                if access.writes() {
                    session
                        .open_upload(steps, path, handle, access, attributes)
                        .boxed()
                } else {
                    session.open_download(steps, path, handle)
                }
            }
            Operation::Opendir { handle, .. } => {
                let opening = steps.pass();
                async move {
                    let outcome = opening.await?;
                    session.insert(handle, Handle::Directory);
                    Ok(outcome)
                }
                .boxed()
            }
            Operation::Close { handle } => session.close(steps, handle),
            Operation::Read {
                handle,
                offset,
                length,
            } => match session.handle(handle) {
                Some(Handle::Download(download)) => download.read(&steps, offset, length),
                Some(Handle::Upload(upload)) => {
                    let read = lock(&upload).read(offset, length);
                    answer(read.map(|data| {
                        if data.is_empty() {
                            Outcome::End
                        } else {
                            Outcome::Data(data.into())
                        }
                    }))
                }
                Some(Handle::Plain | Handle::Directory) | None => steps.pass(),
            },
            Operation::Write {
                handle,
                offset,
                data,
            } => match session.handle(handle) {
                Some(Handle::Upload(upload)) => {
                    let written = lock(&upload).write(offset, &data, &session.vault);
                    match written {
                        Ok(pieces) => finish(start(&steps, handle, pieces)),
                        Err(fault) => answer(Err(fault)),
                    }
                }
                Some(_) => answer(Err(Fault::WrongHandle)),
                None => answer(Err(Fault::NoSuchHandle)),
            },
            Operation::Readdir { .. } => {
                let reading = steps.pass();
                async move {
                    let mut outcome = reading.await?;
                    if let Outcome::Names(entries) = &mut outcome {
                        for entry in entries {
                            show_plaintext(&mut entry.attributes);
                        }
                    }
                    Ok(outcome)
                }
                .boxed()
            }
            Operation::Stat { path } | Operation::Lstat { path } => {
                session.stat(steps, path).boxed()
            }
            Operation::Fstat { handle } => session.fstat(steps, handle),
            Operation::Fsetstat { handle, attributes } => {
                session.set_open(steps, handle, attributes)
            }
            Operation::Setstat { path, attributes } if attributes.size.is_some() => {
                session.resize(steps, path, attributes).boxed()
            }
            Operation::Fsync { handle } => match session.handle(handle) {
                // Nothing of it is on the backend before it is closed.
                Some(Handle::Upload(upload)) if !lock(&upload).is_open_below() => {
                    answer(Ok(Outcome::Done))
                }
                _ => steps.pass(),
            },
            Operation::Setstat { .. }
            | Operation::Lsetstat { .. }
            | Operation::Remove { .. }
            | Operation::Mkdir { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::PosixRename { .. }
            | Operation::Readlink { .. }
            | Operation::Symlink { .. }
            | Operation::Hardlink { .. }
            | Operation::Statvfs { .. }
            | Operation::Fstatvfs { .. }
            | Operation::Realpath { .. }
            | Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. } => steps.pass(),
        }
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        lock(&self.session.handles).clear();
        self.session.backend.end()
    }

    fn halfway_renames(&self) -> Option<&dyn HalfwayRenames> {
        // Names are those of the backend, and what is encrypted is compared as it is.
        self.session.backend.halfway_renames()
    }
}

impl Session {
    fn handle(&self, id: HandleId) -> Option<Handle> {
        lock(&self.handles).get(&id).cloned()
    }

    fn insert(&self, id: HandleId, handle: Handle) {
        lock(&self.handles).insert(id, handle);
    }

    fn own_handle(&self) -> HandleId {
        HandleId(self.own.fetch_add(1, Ordering::Relaxed)).beneath()
    }

    fn open_download(self, steps: Steps, path: VirtualPath, handle: HandleId) -> Execution {
        let opening = steps.pass();
        async move {
            opening.await?;
            let found = match self.look(&steps, handle).await {
                Ok(found) => found,
                Err(error) => {
                    let _ = steps.close(handle).await;
                    // Of what the session itself uploads there is nothing to be read yet.
                    if error.kind == ErrorKind::NotAuthentic && self.uploads_to(&path).is_some() {
                        return Err(Fault::NotReadable.into());
                    }
                    return Err(error);
                }
            };
            let opened = match found {
                Found::Encrypted(readers, _) => {
                    Handle::Download(Arc::new(Download::new(handle, *readers)))
                }
                Found::Plain(_) => Handle::Plain,
            };
            self.insert(handle, opened);
            Ok(Outcome::Opened)
        }
        .boxed()
    }

    /// Looks what is open under `handle`.
    async fn look(&self, steps: &Steps, handle: HandleId) -> Result<Found, BackendError> {
        let beginning = steps.read(handle, 0, Head::LENGTH);
        let attributes = steps.attributes(handle);
        let (beginning, attributes) = futures_util::join!(beginning, attributes);
        let (beginning, mut attributes) = (beginning?, attributes?);
        let head = match Head::parse(&beginning) {
            Err(HeadError::Foreign | HeadError::Empty | HeadError::Short)
                if self.vault.foreign == Foreign::Read =>
            {
                return Ok(Found::Plain(attributes));
            }
            head => head.map_err(Fault::from)?,
        };
        let key = self
            .vault
            .ring
            .unwrap(&head, &self.vault.realm)
            .map_err(Fault::from)?;
        let stored = attributes.size.ok_or(Fault::NoSize)?;
        let layout = Layout::of_stored(stored).map_err(Fault::from)?;
        attributes.size = Some(layout.plaintext());
        let readers = ExtentReaders::new(&key, head, layout);
        Ok(Found::Encrypted(Box::new(readers), attributes))
    }

    async fn open_upload(
        self,
        steps: Steps,
        path: VirtualPath,
        handle: HandleId,
        access: Access,
        attributes: Attributes,
    ) -> Result<Outcome, BackendError> {
        if self.spoiled.load(Ordering::Relaxed) >= MAX_SPOILED as u64 {
            return Err(Fault::TooManySpoiled.into());
        }
        let is_fresh = access.truncate || access.create && access.exclusive;
        let mut upload = None;
        if !is_fresh {
            upload = match self.load(&steps, &path, handle.beneath(), access).await {
                Err(error) if error.kind == ErrorKind::NotFound && access.create => None,
                loaded => Some(loaded?),
            };
        }
        let upload = match upload {
            Some(upload) => upload,
            None => {
                let below = Access {
                    create: access.create,
                    exclusive: access.exclusive,
                    ..REPLACE
                };
                let attributes = Attributes {
                    size: None,
                    ..attributes
                };
                let open = Operation::Open {
                    path: path.clone(),
                    handle,
                    access: below,
                    attributes,
                };
                steps.start(open).await?;
                Upload::fresh(path, access, &self.vault)?
            }
        };
        self.insert(handle, Handle::Upload(Arc::new(Mutex::new(upload))));
        Ok(Outcome::Opened)
    }

    /// The content of the file at `path`, to be changed. It is not open any more when this returns.
    async fn load(
        &self,
        steps: &Steps,
        path: &VirtualPath,
        handle: HandleId,
        access: Access,
    ) -> Result<Upload, BackendError> {
        steps.open(path, handle, READ).await?;
        let loaded = self.load_open(steps, path, handle, access).await;
        let closed = steps.close(handle).await;
        let upload = loaded?;
        closed?;
        Ok(upload)
    }

    async fn load_open(
        &self,
        steps: &Steps,
        path: &VirtualPath,
        handle: HandleId,
        access: Access,
    ) -> Result<Upload, BackendError> {
        let found = self.look(steps, handle).await?;
        let limit = self.vault.update_limit;
        let too_large = |size: u64| {
            if size > limit {
                Err(Fault::TooLargeToUpdate(limit))
            } else {
                Ok(())
            }
        };
        let (path, vault) = (path.clone(), &*self.vault);
        match found {
            Found::Plain(attributes) => {
                let size = attributes.size.ok_or(Fault::NoSize)?;
                too_large(size)?;
                let beginning = steps.read(handle, 0, Head::LENGTH).await?;
                let mut upload = Upload::update(path, access, attributes, beginning, vault)?;
                while upload.length() < size {
                    let left = size - upload.length();
                    let wanted = usize::try_from(left).map_or(LOAD, |left| left.min(LOAD));
                    let data = steps.read(handle, upload.length(), wanted).await?;
                    if data.is_empty() {
                        return Err(Fault::ChangedMeanwhile.into());
                    }
                    upload.load(upload.length(), &data)?;
                }
                Ok(upload)
            }
            Found::Encrypted(readers, attributes) => {
                let size = readers.layout().plaintext();
                too_large(size)?;
                let beginning = readers.head().as_bytes().to_vec();
                let mut upload = Upload::update(path, access, attributes, beginning, vault)?;
                let download = Download::new(handle, *readers);
                let wanted = u32::try_from(LOAD).unwrap_or(u32::MAX);
                loop {
                    let outcome = download.read(steps, upload.length(), wanted).await?;
                    let Outcome::Data(data) = outcome else {
                        return Ok(upload);
                    };
                    upload.load(upload.length(), &data)?;
                }
            }
        }
    }

    fn uploads_to(&self, path: &VirtualPath) -> Option<Arc<Mutex<Upload>>> {
        let handles = lock(&self.handles);
        handles.values().find_map(|handle| match handle {
            Handle::Upload(upload) if lock(upload).path == *path => Some(Arc::clone(upload)),
            Handle::Upload(_) | Handle::Download(_) | Handle::Plain | Handle::Directory => None,
        })
    }

    async fn stat(self, steps: Steps, path: VirtualPath) -> Result<Outcome, BackendError> {
        let mut outcome = steps.pass().await?;
        let Outcome::Attributes(attributes) = &mut outcome else {
            return Ok(outcome);
        };
        let upload = self.uploads_to(&path);
        if let Some(upload) = upload.as_deref().map(lock)
            && attributes.size == Some(upload.stored())
        {
            attributes.size = Some(upload.length());
        } else if self.vault.foreign == Foreign::Refuse || !may_be_encrypted(attributes) {
            show_plaintext(attributes);
        } else {
            let handle = self.own_handle();
            if steps.open(&path, handle, READ).await.is_ok() {
                let found = self.look(&steps, handle).await;
                let _ = steps.close(handle).await;
                if !matches!(found, Ok(Found::Plain(_))) {
                    show_plaintext(attributes);
                }
            }
        }
        Ok(outcome)
    }

    fn fstat(self, steps: Steps, handle: HandleId) -> Execution {
        match self.handle(handle) {
            Some(Handle::Download(download)) => {
                let size = download.layout().plaintext();
                with_size(steps.pass(), size)
            }
            Some(Handle::Upload(upload)) => {
                let upload = lock(&upload);
                match &upload.origin {
                    Origin::Fresh => with_size(steps.pass(), upload.length()),
                    Origin::Update { attributes, .. } => {
                        answer(Ok(Outcome::Attributes(Attributes {
                            size: Some(upload.length()),
                            permissions: upload.pending.permissions.or(attributes.permissions),
                            times: upload.pending.times.or(attributes.times),
                            ..attributes.clone()
                        })))
                    }
                }
            }
            Some(Handle::Plain | Handle::Directory) | None => steps.pass(),
        }
    }

    fn set_open(self, steps: Steps, handle: HandleId, attributes: Attributes) -> Execution {
        let Some(Handle::Upload(upload)) = self.handle(handle) else {
            return if attributes.size.is_some() {
                answer(Err(Fault::WrongHandle))
            } else {
                steps.pass()
            };
        };
        let mut upload = lock(&upload);
        if let Some(size) = attributes.size
            && let Err(fault) = upload.resize(size)
        {
            return answer(Err(fault));
        }
        let rest = Attributes {
            size: None,
            ..attributes
        };
        if upload.is_open_below() {
            if rest == Attributes::default() {
                return answer(Ok(Outcome::Done));
            }
            // What is written later would change it.
            upload.pending.times = rest.times.or(upload.pending.times);
            return steps.start(Operation::Fsetstat {
                handle,
                attributes: rest,
            });
        }
        let pending = &mut upload.pending;
        pending.owner = rest.owner.or(pending.owner);
        pending.permissions = rest.permissions.or(pending.permissions);
        pending.times = rest.times.or(pending.times);
        answer(Ok(Outcome::Done))
    }

    fn close(self, steps: Steps, handle: HandleId) -> Execution {
        let closed = lock(&self.handles).remove(&handle);
        let upload = match closed {
            Some(Handle::Upload(upload)) => upload,
            Some(Handle::Download(_) | Handle::Plain | Handle::Directory) | None => {
                return steps.pass();
            }
        };
        // The table held the only other reference, and nothing runs beside a CLOSE.
        let Some(upload) = Arc::into_inner(upload) else {
            return answer(Err(Fault::NoSuchHandle));
        };
        let upload = upload.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !upload.is_open_below() {
            return async move { self.publish_update(&steps, upload, handle).await }.boxed();
        }
        let is_spoiled = upload.is_spoiled;
        let times = upload.pending.times;
        let rest = upload.finish(&self.vault);
        match rest {
            Ok(Rest::Pieces(pieces)) => {
                let mut started = start(&steps, handle, pieces);
                started.extend(set_times(&steps, handle, times));
                started.push(steps.pass());
                finish(started)
            }
            Ok(Rest::Gathered(gathered)) => {
                async move { publish(&steps, handle, *gathered, times).await }.boxed()
            }
            Err(fault) => {
                if is_spoiled || !matches!(fault, Fault::Spoiled) {
                    self.spoiled.fetch_add(1, Ordering::Relaxed);
                }
                answer(Err(fault))
            }
        }
    }

    /// Writes a changed file anew, if nobody else has changed it.
    async fn publish_update(
        &self,
        steps: &Steps,
        upload: Upload,
        handle: HandleId,
    ) -> Result<Outcome, BackendError> {
        let Origin::Update { beginning, .. } = &upload.origin else {
            return Err(Fault::NoSuchHandle.into());
        };
        if !upload.is_touched() && upload.pending == Attributes::default() {
            return Ok(Outcome::Done);
        }
        let beneath = handle.beneath();
        steps.open(&upload.path, beneath, READ).await?;
        let now = steps.read(beneath, 0, Head::LENGTH).await;
        let closed = steps.close(beneath).await;
        if now? != *beginning {
            return Err(Fault::ChangedMeanwhile.into());
        }
        closed?;
        let (path, pending) = (upload.path.clone(), upload.pending.clone());
        let Rest::Gathered(gathered) = upload.finish(&self.vault)? else {
            return Err(Fault::NoSuchHandle.into());
        };
        steps.open(&path, handle, REPLACE).await?;
        let times = pending.times;
        let mut set = Ok(Outcome::Done);
        if pending != Attributes::default() {
            let attributes = pending;
            set = steps
                .start(Operation::Fsetstat { handle, attributes })
                .await;
        }
        let published = publish(steps, handle, *gathered, times).await?;
        // Attributes that can't be set cost the file nothing.
        set.map(|_| published)
    }

    /// SETSTAT with a size.
    async fn resize(
        self,
        steps: Steps,
        path: VirtualPath,
        attributes: Attributes,
    ) -> Result<Outcome, BackendError> {
        let access = Access {
            write: true,
            ..READ
        };
        let handle = self.own_handle();
        let mut upload = self.load(&steps, &path, handle, access).await?;
        if let Some(size) = attributes.size
            && size != upload.length()
        {
            upload.resize(size)?;
            let handle = self.own_handle();
            let Rest::Gathered(gathered) = upload.finish(&self.vault)? else {
                return Err(Fault::NoSuchHandle.into());
            };
            steps.open(&path, handle, REPLACE).await?;
            publish(&steps, handle, *gathered, None).await?;
        }
        let rest = Attributes {
            size: None,
            ..attributes
        };
        if rest != Attributes::default() {
            let set = Operation::Setstat {
                path,
                attributes: rest,
            };
            steps.start(set).await?;
        }
        Ok(Outcome::Done)
    }
}

impl Upload {
    /// It is open for writing on the backend.
    fn is_open_below(&self) -> bool {
        matches!(self.origin, Origin::Fresh)
    }
}

/// Bytes that are loaded at once of a file that is to be changed.
const LOAD: usize = 256 << 10;

fn start(steps: &Steps, handle: HandleId, pieces: Vec<Piece>) -> Vec<Execution> {
    let mut started = Vec::with_capacity(pieces.len());
    let mut pieces = pieces.into_iter().peekable();
    while let Some((offset, mut data)) = pieces.next() {
        // Heads are small: they go with what follows them.
        while data.len() < SMALL
            && let Some((_, next)) = pieces.next()
        {
            data = Bytes::from([data, next].concat());
        }
        started.push(steps.write(handle, offset, data));
    }
    started
}

/// Bytes of a piece that is not worth a WRITE of its own.
const SMALL: usize = 1024;

fn finish(started: Vec<Execution>) -> Execution {
    async move {
        let mut last = Outcome::Done;
        for outcome in join_all(started).await {
            last = outcome?;
        }
        // The digest of a backend is that of what lies there.
        Ok(if let Outcome::Published { .. } = last {
            Outcome::Done
        } else {
            last
        })
    }
    .boxed()
}

/// Sets times again that the client set before the last bytes were written. Whether they can be set it has heard then.
fn set_times(steps: &Steps, handle: HandleId, times: Option<(u32, u32)>) -> Option<Execution> {
    let set = steps.start(Operation::Fsetstat {
        handle,
        attributes: Attributes {
            times: Some(times?),
            ..Attributes::default()
        },
    });
    Some(set.map(|_| Ok(Outcome::Done)).boxed())
}

async fn publish(
    steps: &Steps,
    handle: HandleId,
    mut gathered: Gathered,
    times: Option<(u32, u32)>,
) -> Result<Outcome, BackendError> {
    loop {
        let pieces = gathered.next()?;
        if pieces.is_empty() {
            break;
        }
        finish(start(steps, handle, pieces)).await?;
    }
    if let Some(set) = set_times(steps, handle, times) {
        set.await?;
    }
    steps.close(handle).await?;
    Ok(match gathered.digest() {
        Some(sha256) => Outcome::Published { sha256 },
        None => Outcome::Done,
    })
}

fn with_size(asked: Execution, size: u64) -> Execution {
    async move {
        let mut outcome = asked.await?;
        if let Outcome::Attributes(attributes) = &mut outcome {
            attributes.size = Some(size);
        }
        Ok(outcome)
    }
    .boxed()
}

/// True for a regular file of a size that an encrypted one can have.
fn may_be_encrypted(attributes: &Attributes) -> bool {
    let kind = attributes
        .permissions
        .map(|mode| mode & Attributes::TYPE_MASK);
    matches!(kind, None | Some(0 | Attributes::REGULAR))
        && attributes
            .size
            .is_some_and(|size| Layout::of_stored(size).is_ok())
}

/// The size of the plaintext, for what may be an encrypted file.
fn show_plaintext(attributes: &mut Attributes) {
    if may_be_encrypted(attributes)
        && let Some(stored) = attributes.size
        && let Ok(layout) = Layout::of_stored(stored)
    {
        attributes.size = Some(layout.plaintext());
    }
}

fn answer(result: Result<Outcome, Fault>) -> Execution {
    ready(result.map_err(BackendError::from)).boxed()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
