//! A backend in memory, with the staging of the real ones: an upload is seen under its name once CLOSE has published it.
//!
//! Tests can look at what clients see, hold operations back, make them fail, and watch each one arrive.

mod tree;
mod upload;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_journal::Recorded;
use tokio::sync::watch;

use self::{
    tree::{Node, Tree, join},
    upload::{Partials, Upload},
};
use super::{
    Backend, BackendError, BackendService, Capabilities, ErrorKind, Execution, Origin, Owner,
    Shown,
    staging::{LEAST_RESUMABLE, SessionNames, StagingNames, UploadSettings},
};
use crate::{
    operation::{Access, Attributes, Entry, FilesystemStatus, HandleId, Operation, Outcome},
    policy::Permit,
};

/// Sees an operation in the moment in which the backend gets it.
type Observer = Arc<dyn Fn(&Recorded<Permit>) + Send + Sync>;

/// One tree of files, shared by all sessions.
#[derive(Clone)]
pub struct Memory {
    tree: Arc<Mutex<Tree>>,
    names: StagingNames,
    partials: Partials,
    arrivals: Arc<AtomicU64>,
    observer: Arc<Mutex<Option<Observer>>>,
    failure: Arc<Mutex<Option<BackendError>>>,
    running: Arc<watch::Sender<bool>>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            tree: Arc::default(),
            names: StagingNames::new(UploadSettings::default(), b""),
            partials: Partials::default(),
            arrivals: Arc::default(),
            observer: Arc::default(),
            failure: Arc::default(),
            running: Arc::new(watch::Sender::new(true)),
        }
    }

    /// Operations that have arrived so far.
    pub fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::SeqCst)
    }

    /// Calls `observer` with each operation as it arrives.
    pub fn observe(&self, observer: impl Fn(&Recorded<Permit>) + Send + Sync + 'static) {
        *lock(&self.observer) = Some(Arc::new(observer));
    }

    /// Every operation from here on fails so; `None` ends that.
    pub fn fail_with(&self, failure: Option<BackendError>) {
        *lock(&self.failure) = failure;
    }

    /// Holds back what arrives from here on until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.running.send_replace(false);
    }

    pub fn resume(&self) {
        self.running.send_replace(true);
    }

    /// Content of a published file.
    pub fn file(&self, path: &[u8]) -> Option<Vec<u8>> {
        match lock(&self.tree).get(path)? {
            Node::File { data, .. } => Some(data.clone()),
            Node::Directory { .. } | Node::Link { .. } => None,
        }
    }

    pub fn put(&self, path: &[u8], data: &[u8]) {
        lock(&self.tree).insert(path, Node::file(data.to_vec()));
    }

    pub fn make_directory(&self, path: &[u8]) {
        lock(&self.tree).insert(path, Node::directory());
    }

    /// Every published path.
    pub fn paths(&self) -> Vec<Vec<u8>> {
        lock(&self.tree).paths()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl BackendService for Memory {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        let names = self.names.session(owner, directory);
        let directory = directory
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
            .fold(Vec::new(), |path, component| join(&path, component));
        Arc::new(MemorySession {
            state: Arc::new(Mutex::new(State {
                memory: self.clone(),
                names,
                directory,
                open: HashMap::new(),
                ended: false,
            })),
        })
    }
}

/// One session's handles.
#[derive(Debug)]
struct MemorySession {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    memory: Memory,
    names: SessionNames,
    directory: Vec<u8>,
    open: HashMap<HandleId, Open>,
    ended: bool,
}

#[derive(Debug)]
enum Open {
    Directory { rest: Vec<Entry> },
    Reading { path: Vec<u8> },
    Writing(Upload),
}

impl Backend for MemorySession {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_access: true,
            update: true,
            resume_from: Some(LEAST_RESUMABLE),
            read_back: true,
            rereads: true,
            atomic_replace: true,
            symlinks: true,
            set_times: true,
            set_permissions: true,
            filesystem_status: true,
            any_name: true,
            shows: Shown::ALL,
        }
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let memory = lock(&self.state).memory.clone();
        memory.arrivals.fetch_add(1, Ordering::SeqCst);
        let observer = lock(&memory.observer).clone();
        if let Some(observer) = observer {
            observer(&recorded);
        }
        let state = Arc::clone(&self.state);
        async move {
            let mut running = memory.running.subscribe();
            // The sender lives in `memory`, so this can't fail.
            let _ = running.wait_for(|running| *running).await;
            let failure = lock(&memory.failure).clone();
            if let Some(failure) = failure {
                return Err(failure);
            }
            lock(&state).run(recorded.intent())
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        let state = Arc::clone(&self.state);
        async move {
            let mut state = lock(&state);
            state.open.clear();
            state.ended = true;
        }
        .boxed()
    }
}

impl State {
    fn run(&mut self, permit: &Permit) -> Result<Outcome, BackendError> {
        if self.ended {
            return Err(error(ErrorKind::Unavailable));
        }
        let tree = Arc::clone(&self.memory.tree);
        let mut tree = lock(&tree);
        let below = |relative: Option<&crate::path::RelativePath>| {
            relative
                .into_iter()
                .flat_map(crate::path::RelativePath::components)
                .fold(self.directory.clone(), |path, name| join(&path, name))
        };
        let target = below(permit.target());
        match permit.operation() {
            Operation::Open {
                handle,
                access,
                attributes,
                ..
            } => {
                let open = self.begin(&tree, target, permit, *access, attributes)?;
                self.open.insert(*handle, open);
                Ok(Outcome::Opened)
            }
            Operation::Opendir { handle, .. } => {
                let rest = tree.list(&tree.follow(&target)?)?;
                self.open.insert(*handle, Open::Directory { rest });
                Ok(Outcome::Opened)
            }
            Operation::Close { handle } => match self.open.remove(handle).ok_or_else(closed)? {
                Open::Directory { .. } | Open::Reading { .. } => Ok(Outcome::Done),
                Open::Writing(upload) => {
                    if upload.access.exclusive && tree.get(&upload.path).is_some() {
                        return Err(error(ErrorKind::AlreadyExists));
                    }
                    tree.parent_must_exist(&upload.path)?;
                    let path = upload.path.clone();
                    let (node, digest) = upload.finish()?;
                    tree.insert(&path, node);
                    Ok(Outcome::digested(digest))
                }
            },
            Operation::Read {
                handle,
                offset,
                length,
            } => match self.open.get(handle).ok_or_else(closed)? {
                Open::Reading { path } => match (tree.existing(path), self.uploading(path)) {
                    (Ok(Node::File { data, .. }), _) => Ok(slice(data, *offset, *length)),
                    (Ok(Node::Directory { .. } | Node::Link { .. }), _) => {
                        Err(error(ErrorKind::IsADirectory))
                    }
                    (Err(_), Some(upload)) => Ok(slice(&upload.data, *offset, *length)),
                    (Err(missing), None) => Err(missing),
                },
                Open::Writing(upload) => Ok(slice(&upload.data, *offset, *length)),
                Open::Directory { .. } => Err(closed()),
            },
            Operation::Write {
                handle,
                offset,
                data: written,
            } => {
                let Some(Open::Writing(upload)) = self.open.get_mut(handle) else {
                    return Err(closed());
                };
                upload.write(*offset, written)?;
                Ok(Outcome::Done)
            }
            Operation::Stat { .. } => {
                let found = tree
                    .follow(&target)
                    .and_then(|path| tree.existing(&path).map(Node::attributes));
                self.or_partial(found, permit).map(Outcome::Attributes)
            }
            Operation::Lstat { .. } => {
                let found = tree.existing(&target).map(Node::attributes);
                self.or_partial(found, permit).map(Outcome::Attributes)
            }
            Operation::Fstat { handle } => match self.open.get(handle).ok_or_else(closed)? {
                Open::Directory { .. } => Ok(Outcome::Attributes(Node::directory().attributes())),
                Open::Reading { path } => match (tree.existing(path), self.uploading(path)) {
                    (Ok(node), _) => Ok(Outcome::Attributes(node.attributes())),
                    (Err(_), Some(upload)) => Ok(Outcome::Attributes(upload.shown())),
                    (Err(missing), None) => Err(missing),
                },
                Open::Writing(upload) => Ok(Outcome::Attributes(upload.shown())),
            },
            Operation::Setstat { attributes, .. } => {
                let target = tree.follow(&target)?;
                let node = tree.existing_mut(&target)?;
                if attributes.size.is_some() && matches!(node, Node::Directory { .. }) {
                    return Err(error(ErrorKind::IsADirectory));
                }
                node.set(attributes);
                Ok(Outcome::Done)
            }
            Operation::Lsetstat { attributes, .. } => {
                tree.existing_mut(&target)?.set(attributes);
                Ok(Outcome::Done)
            }
            Operation::Fsetstat {
                handle,
                attributes: new,
            } => match self.open.get_mut(handle).ok_or_else(closed)? {
                Open::Directory { .. } => Err(error(ErrorKind::Unsupported)),
                Open::Reading { path } => {
                    tree.existing_mut(path)?.set(new);
                    Ok(Outcome::Done)
                }
                Open::Writing(upload) => {
                    upload.set(new);
                    Ok(Outcome::Done)
                }
            },
            Operation::Readdir { handle } => {
                let Some(Open::Directory { rest }) = self.open.get_mut(handle) else {
                    return Err(closed());
                };
                let batch: Vec<Entry> = rest.drain(..rest.len().min(100)).collect();
                Ok(if batch.is_empty() {
                    Outcome::End
                } else {
                    Outcome::Names(batch)
                })
            }
            Operation::Remove { .. } => {
                match tree.existing(&target) {
                    Ok(Node::Directory { .. }) => return Err(error(ErrorKind::IsADirectory)),
                    Ok(Node::File { .. } | Node::Link { .. }) => tree.remove(&target),
                    Err(missing) => {
                        let partial = permit
                            .target()
                            .and_then(|target| self.names.interrupted(target));
                        if !partial.is_some_and(|name| self.memory.partials.remove(&name)) {
                            return Err(missing);
                        }
                    }
                }
                Ok(Outcome::Done)
            }
            Operation::Mkdir { attributes, .. } => {
                if tree.get(&target).is_some() {
                    return Err(error(ErrorKind::AlreadyExists));
                }
                tree.parent_must_exist(&target)?;
                let mut node = Node::directory();
                node.set(attributes);
                tree.insert(&target, node);
                Ok(Outcome::Done)
            }
            Operation::Rmdir { .. } => {
                if !tree.list(&target)?.is_empty() {
                    return Err(error(ErrorKind::NotEmpty));
                }
                tree.remove(&target);
                Ok(Outcome::Done)
            }
            Operation::Rename { .. } => {
                let to = below(permit.second_target());
                tree.existing(&target)?;
                if tree.get(&to).is_some() {
                    return Err(error(ErrorKind::AlreadyExists));
                }
                tree.rename(&target, &to)?;
                Ok(Outcome::Done)
            }
            Operation::PosixRename { .. } => {
                tree.rename(&target, &below(permit.second_target()))?;
                Ok(Outcome::Done)
            }
            Operation::Readlink { .. } => match tree.existing(&target)? {
                Node::Link { target } => Ok(Outcome::Target(target.clone())),
                Node::File { .. } | Node::Directory { .. } => {
                    Err(error(ErrorKind::InvalidArgument))
                }
            },
            Operation::Symlink {
                target: content, ..
            } => {
                if tree.get(&target).is_some() {
                    return Err(error(ErrorKind::AlreadyExists));
                }
                tree.parent_must_exist(&target)?;
                tree.insert(
                    &target,
                    Node::Link {
                        target: content.clone(),
                    },
                );
                Ok(Outcome::Done)
            }
            Operation::Statvfs { .. } | Operation::Fstatvfs { .. } => {
                Ok(Outcome::FilesystemStatus(FilesystemStatus {
                    block_size: 4096,
                    fragment_size: 4096,
                    blocks: 1 << 20,
                    blocks_free: 1 << 19,
                    blocks_available: 1 << 19,
                    name_max: 255,
                    ..FilesystemStatus::default()
                }))
            }
            Operation::Fsync { handle } => {
                self.open.get(handle).ok_or_else(closed)?;
                Ok(Outcome::Done)
            }
            // Its files have one name each.
            Operation::Hardlink { .. }
            | Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Realpath { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. }
            | Operation::Tend { .. } => Err(error(ErrorKind::Unsupported)),
        }
    }

    /// The latest of this session's uploads to `path`.
    fn uploading(&self, path: &[u8]) -> Option<&Upload> {
        let uploads = self.open.iter().filter_map(|(id, open)| match open {
            Open::Writing(upload) if upload.path == path => Some((id, upload)),
            Open::Writing(_) | Open::Reading { .. } | Open::Directory { .. } => None,
        });
        uploads.max_by_key(|(id, _)| **id).map(|(_, upload)| upload)
    }

    fn or_partial(
        &self,
        found: Result<Attributes, BackendError>,
        permit: &Permit,
    ) -> Result<Attributes, BackendError> {
        found.or_else(|missing| {
            permit
                .target()
                .and_then(|target| self.names.interrupted(target))
                .and_then(|name| self.memory.partials.attributes(&name))
                .ok_or(missing)
        })
    }

    fn begin(
        &self,
        tree: &Tree,
        target: Vec<u8>,
        permit: &Permit,
        access: Access,
        attributes: &Attributes,
    ) -> Result<Open, BackendError> {
        let path = match tree.follow(&target) {
            Ok(path) => path,
            Err(missing)
                if missing.kind == ErrorKind::NotFound
                    && (access.writes() || self.uploading(&target).is_some()) =>
            {
                target
            }
            Err(failure) => return Err(failure),
        };
        let (existing, attributes) = match tree.get(&path) {
            // A replaced file keeps its mode.
            Some(Node::File { data, .. }) => (
                Some(data.clone()),
                &Attributes {
                    permissions: tree.existing(&path)?.attributes().permissions,
                    ..attributes.clone()
                },
            ),
            Some(Node::Directory { .. }) => return Err(error(ErrorKind::IsADirectory)),
            Some(Node::Link { .. }) => return Err(error(ErrorKind::Failure)),
            None => (None, attributes),
        };
        if !access.writes() {
            return match existing {
                Some(_) => Ok(Open::Reading { path }),
                None if self.uploading(&path).is_some() => Ok(Open::Reading { path }),
                None => Err(error(ErrorKind::NotFound)),
            };
        }
        tree.parent_must_exist(&path)?;
        let relative = permit.target().ok_or_else(closed)?;
        let own = (&self.names, &self.memory.partials);
        Ok(Open::Writing(match existing {
            Some(_) if access.exclusive => return Err(error(ErrorKind::AlreadyExists)),
            Some(_) if access.truncate => {
                if let Some(name) = self.names.interrupted(relative) {
                    self.memory.partials.remove(&name);
                }
                Upload::replacing(path, access, attributes)
            }
            Some(data) => Upload::updating(path, access, attributes, data),
            None => Upload::new(path, access, attributes, own, relative)?,
        }))
    }
}

fn slice(data: &[u8], offset: u64, length: u32) -> Outcome {
    let from = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(data.len());
    let to = from.saturating_add(length as usize).min(data.len());
    match data.get(from..to) {
        Some(bytes) if !bytes.is_empty() => Outcome::Data(Bytes::copy_from_slice(bytes)),
        _ => Outcome::End,
    }
}

fn closed() -> BackendError {
    error(ErrorKind::InvalidHandle)
}

fn error(kind: ErrorKind) -> BackendError {
    BackendError::new(kind, Origin::Backend, kind.code())
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::conformance::{Subject, suite};

    suite!(super::subject);

    async fn subject() -> Subject {
        Subject {
            service: Arc::new(Memory::new()),
            directory: b"/".to_vec(),
            disk: None,
            keep: Box::new(()),
        }
    }
}
