//! What the operations of one session share: what is open, and how it is looked at and loaded.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt as _;
use portcullis_at_rest::{ExtentReaders, Head, HeadError, Holder, Layout, ObjectId};
use portcullis_audit::catalogue::{Named, OnRecord, joined};

use super::{
    Foreign, Vault, answer,
    download::Download,
    fault::{Fault, NotTold},
    lock,
    shown::{may_be_encrypted, show_plaintext, with_size},
    steps::Steps,
    upload::{Origin, Upload},
};
use crate::{
    backend::{Backend, BackendError, ErrorKind, Execution, buffers::Buffers},
    operation::{Access, Attributes, Care, HandleId, Operation, Outcome},
    pace::Pace,
    path::VirtualPath,
};

/// Most uploads of a session that failed; they stay open at the backend until the session ends.
const MAX_SPOILED: usize = 64;

/// Bytes that are loaded at once of a file that is to be changed.
const LOAD: usize = 256 << 10;

/// What the operations of one session share.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) backend: Arc<dyn Backend>,
    /// Below the backend's root.
    pub(super) directory: Arc<[u8]>,
    /// Of what the gateway copies by itself.
    pub(super) pace: Pace,
    pub(super) vault: Arc<Vault>,
    pub(super) buffers: Buffers,
    pub(super) handles: Arc<Handles>,
    pub(super) spoiled: Arc<AtomicU64>,
    /// What is being uploaded can be read from the backend.
    pub(super) can_read: bool,
    /// It also keeps what an interrupted upload left.
    pub(super) can_resume: bool,
    /// It takes WRITEs anywhere, and can cut an upload.
    pub(super) is_random: bool,
    /// Numbers of handles that belong to no operation's handle.
    pub(super) own: Arc<AtomicU64>,
}

/// What is open.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<HashMap<HandleId, Handle>>);

impl Handles {
    pub(super) fn table(&self) -> MutexGuard<'_, HashMap<HandleId, Handle>> {
        lock(&self.0)
    }
}

impl Holder for Handles {
    /// What is left has no keys.
    fn wipe(&self) {
        self.table().retain(|_, handle| match handle {
            Handle::Download(_) | Handle::Upload(_) => false,
            Handle::Plain | Handle::Directory => true,
        });
    }
}

#[derive(Debug, Clone)]
pub(super) enum Handle {
    Download(Arc<Download>),
    Upload(Arc<Mutex<Upload>>),
    /// A file that is not encrypted.
    Plain,
    Directory,
}

/// A file that was opened to be looked at.
pub(super) enum Found {
    Encrypted(Box<ExtentReaders>, Attributes),
    Plain(Attributes),
}

impl Session {
    pub(super) fn handle(&self, id: HandleId) -> Option<Handle> {
        self.handles.table().get(&id).cloned()
    }

    pub(super) fn insert(&self, id: HandleId, handle: Handle) {
        self.handles.table().insert(id, handle);
    }

    /// Why an operation gets nothing any more, if the keys of the backend were destroyed: what is written, and what was open with
    /// them.
    pub(super) fn refused(&self, operation: &Operation) -> Option<Fault> {
        let record = self.vault.ring.record()?;
        let is_lost = match operation {
            Operation::Open { access, .. } => access.writes(),
            Operation::Setstat { attributes, .. } => attributes.size.is_some(),
            Operation::Close { handle }
            | Operation::Read { handle, .. }
            | Operation::Write { handle, .. }
            | Operation::Fstat { handle }
            | Operation::Fsetstat { handle, .. }
            | Operation::Fsync { handle } => match self.handle(*handle) {
                Some(Handle::Plain | Handle::Directory) => false,
                Some(Handle::Download(_) | Handle::Upload(_)) | None => true,
            },
            Operation::Tend { care, .. } => match care {
                Care::Rewrap | Care::Encrypt { .. } => true,
                Care::Identify | Care::Shred { .. } => false,
            },
            Operation::Opendir { .. }
            | Operation::Readdir { .. }
            | Operation::Stat { .. }
            | Operation::Lstat { .. }
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
            | Operation::UsersGroupsById { .. } => false,
        };
        is_lost.then_some(Fault::Destroyed(record))
    }

    pub(super) fn own_handle(&self) -> HandleId {
        HandleId(self.own.fetch_add(1, Ordering::Relaxed)).beneath()
    }

    pub(super) fn open_download(
        self,
        steps: Steps,
        path: VirtualPath,
        handle: HandleId,
    ) -> Execution {
        let opening = steps.pass();
        async move {
            opening.await?;
            let mut found = self.look_named(&steps, handle).await;
            if matches!(&found, Ok((_, Named::Other(_)))) {
                // Unless somebody has just replaced it, it is the same again.
                steps.close(handle).await?;
                steps.pass().await?;
                found = self.look_named(&steps, handle).await;
            }
            let found = match found {
                Ok((_, Named::Other(record))) => Err(Fault::OtherFile(record).into()),
                Ok((found, Named::Fits(on_record))) => Ok((found, self.vouched(on_record))),
                Ok((found, Named::Unsaid | Named::Changing)) => Ok((found, None)),
                Err(error) => Err(error),
            };
            let found = match found {
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
                (Found::Encrypted(readers, _), on_record) => {
                    let download =
                        Download::new(handle, *readers, &self.buffers).known_as(on_record);
                    Handle::Download(Arc::new(download))
                }
                (Found::Plain(_), _) => Handle::Plain,
            };
            self.insert(handle, opened);
            Ok(Outcome::Opened)
        }
        .boxed()
    }

    /// Looks what is open under `handle`, and whether that was put where it lies.
    async fn look_named(
        &self,
        steps: &Steps,
        handle: HandleId,
    ) -> Result<(Found, Named), BackendError> {
        let found = self.look(steps, handle).await?;
        let named = match &found {
            Found::Encrypted(readers, _) => self.named(steps, readers.head().object()).await?,
            Found::Plain(_) => Named::Unsaid,
        };
        Ok((found, named))
    }

    /// What clients may be told in place of the stored bytes.
    fn vouched(&self, on_record: Option<OnRecord>) -> Option<OnRecord> {
        on_record.filter(|_| self.vault.vouch)
    }

    async fn named(&self, steps: &Steps, object: ObjectId) -> Result<Named, BackendError> {
        let Some(places) = &self.vault.names else {
            return Ok(Named::Unsaid);
        };
        let Some(target) = steps.place().filter(|_| !steps.is_of_the_gateway()) else {
            return Ok(Named::Unsaid);
        };
        let path = joined(&self.directory, target.as_bytes());
        let backends = places.backends.iter();
        let at = backends.map(|backend| (backend.clone(), path.clone()));
        let named = places
            .names
            .named(steps.asker(), at.collect(), object)
            .await;
        named.map_err(|why| Fault::NamesUnknown(NotTold(why)).into())
    }

    /// Looks what is open under `handle`.
    pub(super) async fn look(
        &self,
        steps: &Steps,
        handle: HandleId,
    ) -> Result<Found, BackendError> {
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
        let (head, key) = self.unwrap(steps, handle, head).await?;
        let stored = attributes.size.ok_or(Fault::NoSize)?;
        let layout = Layout::of_stored(stored).map_err(Fault::from)?;
        attributes.size = Some(layout.plaintext());
        let readers = ExtentReaders::new(&key, head, layout);
        Ok(Found::Encrypted(Box::new(readers), attributes))
    }

    pub(super) async fn open_upload(
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
        // Before anything is open below.
        let minted = self.vault.mint().await?;
        let mut upload = None;
        if !access.truncate {
            upload = self.resume(&steps, &path, handle, access).await?;
        }
        let is_fresh = access.truncate || access.create && access.exclusive;
        if upload.is_none() && !is_fresh {
            upload = match self.load(&steps, &path, handle.beneath(), access).await {
                Err(error) if error.kind == ErrorKind::NotFound && access.create => None,
                loaded => Some(loaded?),
            };
        }
        let mut upload = match upload {
            Some(upload) => upload,
            None => {
                let below = Access {
                    read: self.can_read,
                    create: access.create,
                    exclusive: access.exclusive,
                    ..Access::REPLACE
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
        upload.minted = minted;
        self.insert(handle, Handle::Upload(Arc::new(Mutex::new(upload))));
        Ok(Outcome::Opened)
    }

    /// Opens what an interrupted upload of the same account left, if it is enough to go on with.
    async fn resume(
        &self,
        steps: &Steps,
        path: &VirtualPath,
        handle: HandleId,
        access: Access,
    ) -> Result<Option<Upload>, BackendError> {
        if !self.can_resume {
            return Ok(None);
        }
        let stat = Operation::Stat { path: path.clone() };
        let stored = match steps.start(stat).await {
            Ok(Outcome::Attributes(attributes)) if attributes.is_interrupted => attributes.size,
            Ok(_) | Err(_) => None,
        };
        let Some(stored) = stored.filter(|stored| Layout::whole_extents(*stored) > 0) else {
            return Ok(None);
        };
        let below = Access {
            read: true,
            append: false,
            ..access
        };
        steps.open(path, handle, below).await?;
        let head = steps.read(handle, 0, Head::LENGTH).await;
        let upload = match head {
            Err(error) => Err(error),
            Ok(head) => Ok(self.partial(path, access, stored, &head).await),
        };
        match upload {
            Ok(Ok(upload)) => Ok(Some(upload)),
            // It stays open below, since a CLOSE would publish it.
            Ok(Err(fault)) => {
                self.spoiled.fetch_add(1, Ordering::Relaxed);
                Err(Fault::PartialLost(Box::new(fault)).into())
            }
            Err(error) => {
                self.spoiled.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    async fn partial(
        &self,
        path: &VirtualPath,
        access: Access,
        stored: u64,
        head: &[u8],
    ) -> Result<Upload, Fault> {
        let head = Head::parse(head)?;
        let key = self.vault.unwrap(&head).await?;
        let mut renewed = None;
        if !self.vault.ring.is_current(&head) {
            if !self.is_random {
                return Err(Fault::OtherKeys);
            }
            renewed = Some(self.vault.rewrap(&head).await?);
        }
        let partial = (stored, head, key);
        let mut upload =
            Upload::partial(path.clone(), access, partial, self.is_random, &self.vault)?;
        upload.renewed = renewed;
        Ok(upload)
    }

    /// The content of the file at `path`, to be changed. It is not open any more when this returns.
    pub(super) async fn load(
        &self,
        steps: &Steps,
        path: &VirtualPath,
        handle: HandleId,
        access: Access,
    ) -> Result<Upload, BackendError> {
        steps.open(path, handle, Access::READ).await?;
        let loaded = self.load_open(steps, path, handle, access).await;
        let closed = steps.close(handle).await;
        let upload = loaded?;
        closed?;
        Ok(upload)
    }

    pub(super) async fn load_open(
        &self,
        steps: &Steps,
        path: &VirtualPath,
        handle: HandleId,
        access: Access,
    ) -> Result<Upload, BackendError> {
        let (found, named) = self.look_named(steps, handle).await?;
        if let Named::Other(record) = named {
            return Err(Fault::OtherFile(record).into());
        }
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
                let mut upload =
                    Upload::update(path, access, attributes, beginning.to_vec(), vault)?;
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
                let download = Download::new(handle, *readers, &self.buffers);
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

    pub(super) fn uploads_to(&self, path: &VirtualPath) -> Option<Arc<Mutex<Upload>>> {
        let handles = self.handles.table();
        handles.values().find_map(|handle| match handle {
            Handle::Upload(upload) if lock(upload).path == *path => Some(Arc::clone(upload)),
            Handle::Upload(_) | Handle::Download(_) | Handle::Plain | Handle::Directory => None,
        })
    }

    pub(super) async fn stat(
        self,
        steps: Steps,
        path: VirtualPath,
    ) -> Result<Outcome, BackendError> {
        let mut outcome = steps.pass().await?;
        let Outcome::Attributes(attributes) = &mut outcome else {
            return Ok(outcome);
        };
        let upload = self.uploads_to(&path);
        if let Some(upload) = upload.as_deref().map(lock)
            && attributes.size == Some(upload.stored())
        {
            attributes.size = Some(upload.length());
        } else if attributes.is_interrupted {
            let shown = attributes.size.map(Layout::whole_extents);
            if shown.is_none_or(|shown| shown == 0) {
                return Err(Fault::NothingLeft.into());
            }
            attributes.size = shown;
        } else if self.vault.foreign == Foreign::Refuse || !may_be_encrypted(attributes) {
            show_plaintext(attributes);
        } else {
            let handle = self.own_handle();
            if steps.open(&path, handle, Access::READ).await.is_ok() {
                let found = self.look(&steps, handle).await;
                let _ = steps.close(handle).await;
                if !matches!(found, Ok(Found::Plain(_))) {
                    show_plaintext(attributes);
                }
            }
        }
        Ok(outcome)
    }

    pub(super) fn fstat(self, steps: Steps, handle: HandleId) -> Execution {
        match self.handle(handle) {
            Some(Handle::Download(download)) => {
                let size = download.layout().plaintext();
                with_size(steps.pass(), size)
            }
            Some(Handle::Upload(upload)) => {
                let upload = lock(&upload);
                match &upload.origin {
                    Origin::Fresh | Origin::Partial { .. } => {
                        with_size(steps.pass(), upload.length())
                    }
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

    pub(super) fn set_open(
        self,
        steps: Steps,
        handle: HandleId,
        attributes: Attributes,
    ) -> Execution {
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
}
