//! The key of a backend's names: read when it is first needed, and made where nothing is encrypted yet. What the gateway does for
//! that is on record as operations of a session of its own.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_at_rest::{
    Head, Holder, Keyring, Realm,
    names::{FILE_LENGTH, Names, resembles_one},
};
use portcullis_journal::{EventKind, Journal};

use super::{
    gateway_error,
    measure::{self, next_handle},
    next_operation,
};
use crate::{
    allowance::Allowance,
    backend::{
        Backend, BackendError, BackendService, ErrorKind, Origin, Owner,
        encrypted::waiting,
        named::{Foreign, NamesKeeper, Renamed, directory_names},
    },
    causes::chain,
    operation::{HandleId, Outcome},
    path::VirtualPath,
    policy::{KeyFile, Look, Mount, Naming, PathRules, Permissions, Permit, Requester},
};

/// Has the names of one backend, for all its sessions.
#[derive(Debug, Clone)]
pub struct Keeper(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    journal: Journal,
    /// As it is without this.
    service: Arc<dyn BackendService>,
    backend: String,
    ring: Keyring,
    realm: Realm,
    names: RwLock<Option<Arc<Names>>>,
    /// What all wait for that come while the key is read, and what came of it.
    reading: tokio::sync::Mutex<Option<BackendError>>,
    /// How often it was tried.
    attempts: AtomicU64,
    /// It is wrapped as new files are.
    is_current: AtomicBool,
    /// Directories of mounts that are there.
    entered: Mutex<HashSet<Vec<u8>>>,
    foreign: Foreign,
}

impl Keeper {
    /// Of the backend of that name, with files of `realm`; `service` must be the one below its names.
    pub fn new(
        journal: Journal,
        service: Arc<dyn BackendService>,
        backend: &str,
        ring: Keyring,
        realm: Realm,
    ) -> Self {
        let kept = Arc::new(Kept {
            journal,
            service,
            backend: backend.to_owned(),
            ring,
            realm,
            names: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
            is_current: AtomicBool::new(false),
            entered: Mutex::default(),
            foreign: Foreign::on(backend),
        });
        let held = Arc::downgrade(&kept);
        kept.ring.hold(held);
        Self(kept)
    }

    /// True once the key was read and needs no retired one.
    pub fn is_current(&self) -> bool {
        self.0.is_current.load(Ordering::Acquire)
    }

    /// Reads the key, or makes it, so that what is wrong with it is heard before the first client.
    pub async fn prepare(&self) {
        if let Err(error) = self.0.names().await
            && error.kind != ErrorKind::Shredded
        {
            tracing::error!(backend = self.0.backend, %error, "the names of the backend can't be read: its mounts can't be used");
        }
    }
}

impl NamesKeeper for Keeper {
    fn entered(&self, directory: &[u8]) -> Option<Arc<Names>> {
        let names = self.0.known()?;
        let is_there = directory_names(directory).is_ok_and(|names| names.is_empty())
            || self.0.entered().contains(directory);
        is_there.then_some(names)
    }

    fn enter(&self, directory: &[u8]) -> BoxFuture<'static, Result<Arc<Names>, BackendError>> {
        let (kept, directory) = (Arc::clone(&self.0), directory.to_vec());
        async move {
            let names = kept.names().await?;
            if !kept.entered().contains(&directory) {
                let visit = kept.visit()?;
                let made = visit.make(&names, &directory).await;
                visit.backend.end().await;
                made?;
                kept.entered().insert(directory);
            }
            Ok(names)
        }
        .boxed()
    }

    fn foreign(&self) -> Foreign {
        self.0.foreign.clone()
    }

    fn lost(&self) -> Option<BackendError> {
        self.0.lost()
    }
}

impl Holder for Kept {
    fn wipe(&self) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Kept {
    fn known(&self) -> Option<Arc<Names>> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn keep(&self, read: Arc<Names>) -> Result<Arc<Names>, BackendError> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever destroys the keys wipes this later.
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        Ok(Arc::clone(names.insert(read)))
    }

    /// If the keys of the backend were destroyed.
    fn lost(&self) -> Option<BackendError> {
        let record = self.ring.record()?;
        let (kind, origin) = (ErrorKind::Shredded, Origin::Gateway);
        Some(BackendError::new(kind, origin, &*record))
    }

    fn entered(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn names(&self) -> Result<Arc<Names>, BackendError> {
        if let Some(names) = self.known() {
            return Ok(names);
        }
        let asked = self.attempts.load(Ordering::Acquire);
        let mut failed = self.reading.lock().await;
        if let Some(names) = self.known() {
            return Ok(names);
        }
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        // One that began after this was asked is as good as its own.
        if self.attempts.load(Ordering::Acquire) > asked
            && let Some(error) = &*failed
        {
            return Err(error.clone());
        }
        self.attempts.fetch_add(1, Ordering::AcqRel);
        let visit = self.visit()?;
        let read = visit.names().await;
        visit.backend.end().await;
        match read {
            Ok(names) => self.keep(Arc::new(names)),
            Err(error) => {
                *failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn visit(&self) -> Result<Visit<'_>, BackendError> {
        let requester = Requester::gateway().map_err(|error| gateway_error(error.to_string()))?;
        let at = VirtualPath::clean(self.backend.as_bytes())
            .map_err(|error| gateway_error(error.to_string()))?;
        let mount = Mount {
            at,
            backend: self.backend.clone(),
            directory: Vec::new(),
            permissions: Permissions::default(),
            rules: PathRules::default(),
            group: None,
            allowance: Allowance::default(),
            extensions: None,
            resume: Some(false),
        };
        let owner = Owner::new(b"names".as_slice()).resuming(Some(false));
        Ok(Visit {
            kept: self,
            backend: self.service.session(b"", &owner),
            requester: Arc::new(requester),
            mount,
        })
    }
}

/// One use of the backend.
struct Visit<'a> {
    kept: &'a Kept,
    backend: Arc<dyn Backend>,
    requester: Arc<Requester>,
    mount: Mount,
}

impl Visit<'_> {
    async fn names(&self) -> Result<Names, BackendError> {
        if let Some(names) = self.read().await? {
            return Ok(names);
        }
        self.refuse_second_key().await?;
        let made = self.create().await;
        // Whoever made it, this one or another gateway: it is the one that counts.
        match (self.read().await, made) {
            (Ok(Some(names)), made) => {
                if made.is_ok() {
                    tracing::info!(
                        backend = self.kept.backend,
                        "the key of the backend's names was made: .portcullis-names belongs into each backup"
                    );
                }
                Ok(names)
            }
            (Ok(None), Err(error)) | (Err(error), _) => Err(error),
            (Ok(None), Ok(())) => Err(self.blame("it is not there after it was made")),
        }
    }

    async fn read(&self) -> Result<Option<Names>, BackendError> {
        let handle = next_handle();
        match self.key(KeyFile::Open(handle)).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let stored = self.content(handle).await;
        let closed = self.key(KeyFile::Close(handle)).await;
        let stored = stored?;
        closed?;
        let (ring, realm, bytes) = (self.kept.ring.clone(), self.kept.realm, stored.clone());
        let names = self
            .waiting(move || Names::open(&ring, &realm, &bytes))
            .await?;
        match self.rewrap(&stored).await {
            Ok(()) => self.kept.is_current.store(true, Ordering::Release),
            Err(error) => tracing::warn!(
                backend = self.kept.backend, %error,
                "the key of the backend's names is still wrapped to a retired key, which must stay configured"
            ),
        }
        Ok(Some(names))
    }

    /// Once keys were rotated: the file is small enough to be written anew.
    async fn rewrap(&self, stored: &[u8]) -> Result<(), BackendError> {
        let (ring, realm) = (&self.kept.ring, self.kept.realm.of_names());
        let Ok(head) = Head::parse(stored) else {
            return Ok(());
        };
        if ring.is_current(&head) {
            return Ok(());
        }
        let ring = ring.clone();
        let head = self.waiting(move || ring.rewrap(&head, &realm)).await?;
        let body = stored.get(Head::LENGTH..).unwrap_or_default();
        let handle = next_handle();
        self.begin().await?;
        self.key(KeyFile::Replace(handle)).await?;
        self.write(handle, [&head.as_bytes()[..], body].concat())
            .await
    }

    /// One byte more than the file should have, if it has it.
    async fn content(&self, handle: HandleId) -> Result<Vec<u8>, BackendError> {
        let mut stored = Vec::new();
        while stored.len() <= FILE_LENGTH {
            let left = FILE_LENGTH + 1 - stored.len();
            let step = KeyFile::Read {
                handle,
                offset: stored.len() as u64,
                length: u32::try_from(left).unwrap_or(u32::MAX),
            };
            let Outcome::Data(data) = self.key(step).await? else {
                break;
            };
            stored.extend_from_slice(&data);
        }
        Ok(stored)
    }

    /// Names that look encrypted had a key once.
    async fn refuse_second_key(&self) -> Result<(), BackendError> {
        let handle = next_handle();
        let look = |look| self.ask(&self.backend, Naming::Root(look));
        match look(Look::Open(handle)).await {
            // A prefix of a bucket with nothing below it.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let (mut encrypted, mut plain) = (0_usize, 0_usize);
        let listed = loop {
            match look(Look::Next(handle)).await {
                Ok(Outcome::Names(entries)) => {
                    for entry in &entries {
                        if resembles_one(&entry.name) {
                            encrypted += 1;
                        } else if !matches!(&entry.name[..], b"." | b"..") {
                            plain += 1;
                        }
                    }
                }
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let closed = look(Look::Close(handle)).await;
        listed?;
        closed?;
        if encrypted > 0 {
            return Err(self.blame(&format!(
                "it is gone, and {encrypted} names at the backend's root are encrypted with it: restore it from a backup; a new one would open none of them"
            )));
        }
        if plain > 0 {
            tracing::warn!(
                backend = self.kept.backend,
                names = plain,
                "what was there before encrypted_names is not shown to clients any more: upload it through the gateway"
            );
        }
        Ok(())
    }

    async fn create(&self) -> Result<(), BackendError> {
        let (ring, realm) = (self.kept.ring.clone(), self.kept.realm);
        let stored = self.waiting(move || Names::create(&ring, &realm)).await?;
        let handle = next_handle();
        self.begin().await?;
        self.key(KeyFile::Create(handle)).await?;
        self.write(handle, stored).await
    }

    /// Says in the log that no account's paths are changed: the session has no mounts.
    async fn begin(&self) -> Result<(), BackendError> {
        let mut mounts = self.requester.event(EventKind::SessionMounts);
        mounts.body.insert("mounts".into(), Vec::<()>::new().into());
        let recorded = self.kept.journal.append(mounts).await;
        recorded.map_err(|error| gateway_error(error.to_string()))?;
        Ok(())
    }

    /// The whole file. If it fails, it is not closed: what is half there is removed at the session's end.
    async fn write(&self, handle: HandleId, stored: Vec<u8>) -> Result<(), BackendError> {
        let data = Bytes::from(stored);
        self.key(KeyFile::Write { handle, data }).await?;
        self.key(KeyFile::Close(handle)).await?;
        Ok(())
    }

    /// Makes what is missing of the directory.
    async fn make(&self, names: &Arc<Names>, directory: &[u8]) -> Result<(), BackendError> {
        let foreign = self.kept.foreign.clone();
        let below: Arc<dyn Backend> = Arc::new(Renamed::new(
            Arc::clone(names),
            Arc::clone(&self.backend),
            foreign,
        ));
        let mut path = self.mount.at.as_bytes().to_vec();
        for name in directory_names(directory)? {
            path.push(b'/');
            path.extend_from_slice(name);
            let path =
                VirtualPath::clean(&path).map_err(|error| gateway_error(error.to_string()))?;
            let look = || self.ask(&below, Naming::Look(path.clone()));
            match look().await {
                Err(error) if error.kind == ErrorKind::NotFound => {}
                found => {
                    found?;
                    continue;
                }
            }
            if let Err(error) = self.ask(&below, Naming::Make(path.clone())).await {
                // Another session may have been faster.
                look().await.map_err(|_| error)?;
            }
        }
        Ok(())
    }

    async fn key(&self, step: KeyFile) -> Result<Outcome, BackendError> {
        self.ask(&self.backend, Naming::Key(step)).await
    }

    async fn ask(&self, backend: &Arc<dyn Backend>, step: Naming) -> Result<Outcome, BackendError> {
        let permit = Permit::naming(&self.requester, &self.mount, next_operation(), step)
            .ok_or_else(|| gateway_error("a path outside the backend".to_owned()))?;
        measure::perform(&self.kept.journal, backend, permit).await
    }

    /// What may have to wait for a token.
    async fn waiting<T: Send + 'static, E: std::error::Error + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, BackendError> {
        match waiting(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.blame(&chain(&error))),
            Err(fault) => Err(self.blame(&fault.to_string())),
        }
    }

    fn blame(&self, problem: &str) -> BackendError {
        let backend = &self.kept.backend;
        let message = format!(
            "the key of the names of backend {backend}, .portcullis-names at its root: {problem}"
        );
        BackendError::new(ErrorKind::Failure, Origin::Backend, message)
    }
}
