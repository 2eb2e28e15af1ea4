//! Object stores as a backend: S3, Azure Blob Storage, Cloud Storage.
//!
//! A bucket knows keys and whole objects, not directories, handles or updates. Each open file is a task (`handle`): one
//! being written is a multipart upload, published by its completion (`upload`, `parts`); one being read is fetched in
//! ranges (`download`). Directories are prefixes (`directory`, `names`). The `object_store` crate signs, retries and
//! speaks (`client`), over a transport of our own (`transport`), beside it requests that it lacks (`wire`). What differs
//! between the services stands in `interface` and below `wire`; all else knows only a bucket (`bucket`).

mod bucket;
mod client;
mod directory;
mod download;
mod fault;
mod handle;
mod interface;
mod location;
mod names;
mod parts;
pub mod settings;
mod settle;
mod tending;
mod transport;
mod turns;
mod upload;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_journal::Recorded;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::settings::{AccessKey, AzureKey, Credential, ObjectSettings, SecretText};
use self::{
    bucket::Bucket,
    fault::Fault,
    handle::{OpenAs, Opening},
    location::{Base, Key},
};
use crate::{
    backend::{
        Backend, BackendError, BackendService, Beginning, Capabilities, ErrorKind, Execution,
        FileVersion, HalfwayRenames, Origin, Owner, Settled, Shown, Tending,
        asked::{Asked, HandleRequest},
        ftp::TlsSettingsError,
        staging::{self, Unreadable},
    },
    operation::{Attributes, HandleId, Operation, Outcome},
    path::RelativePath,
    policy::Permit,
};

/// Requests that may wait for one handle. A channel has fewer in flight.
const QUEUE: usize = 1024;
/// Uploads that one session may have open on a mount: each holds up to a part of 8 MiB that fills.
const UPLOADS: usize = 16;
/// Parts of all uploads of a session that are on their way.
const PARTS: usize = 8;

/// Ranges that all downloads of a session fetch faster than they are read; the others are fetched at the reader's pace.
const RANGES_AHEAD: usize = 24;

/// What one session may hold on a mount, so that no client makes the gateway's memory its own.
#[derive(Debug)]
struct Limits {
    /// Open uploads.
    uploads: Arc<Semaphore>,
    /// Parts on their way.
    parts: Arc<Semaphore>,
    /// Bytes that wait for earlier ones.
    window: Arc<Semaphore>,
    /// Ranges that are fetched ahead.
    ahead: Arc<Semaphore>,
}

impl Limits {
    fn new() -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            parts: Arc::new(Semaphore::new(PARTS)),
            window: Arc::new(Semaphore::new(parts::REORDER_WINDOW)),
            ahead: Arc::new(Semaphore::new(RANGES_AHEAD)),
        }
    }
}

/// Why a bucket can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectSettingsError {
    #[error(transparent)]
    Tls(#[from] TlsSettingsError),
    #[error("the settings are not usable")]
    Library(#[source] object_store::Error),
}

/// One bucket.
#[derive(Debug)]
pub struct ObjectService {
    bucket: Arc<Bucket>,
    prefix: String,
}

impl ObjectService {
    /// # Errors
    /// If the trust anchors or the endpoint can't be used.
    pub fn new(settings: &ObjectSettings) -> Result<Self, ObjectSettingsError> {
        Ok(Self {
            bucket: Bucket::new(settings)?,
            prefix: settings.prefix.clone(),
        })
    }
}

impl BackendService for ObjectService {
    fn session(&self, directory: &[u8], _owner: &Owner) -> Arc<dyn Backend> {
        Arc::new(ObjectBackend {
            bucket: Arc::clone(&self.bucket),
            base: Base::new(self.bucket.interface(), &self.prefix, directory),
            handles: Mutex::new(HashMap::new()),
            limits: Arc::new(Limits::new()),
            uploads: Unreadable::default(),
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
        })
    }
}

struct ObjectBackend {
    bucket: Arc<Bucket>,
    base: Result<Base, Fault>,
    handles: Mutex<HashMap<HandleId, mpsc::Sender<Asked<HandleRequest>>>>,
    limits: Arc<Limits>,
    uploads: Unreadable,
    tasks: TaskTracker,
    ended: CancellationToken,
}

impl fmt::Debug for ObjectBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectBackend")
            .field("bucket", &self.bucket)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Backend for ObjectBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_access: false,
            update: false,
            resume_from: None,
            read_back: false,
            rereads: false,
            atomic_replace: true,
            symlinks: false,
            set_times: false,
            set_permissions: false,
            filesystem_status: false,
            any_name: false,
            shows: Shown {
                permissions: false,
                exact_times: false,
                ..Shown::ALL
            },
        }
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        if self.ended.is_cancelled() {
            return self.refuse(Fault::judged(
                ErrorKind::Unavailable,
                "the session has ended",
            ));
        }
        let permit = recorded.into_intent();
        let Some(target) = permit.target() else {
            return self.refuse(unsupported("an operation without a path on this mount"));
        };
        match self.start(&permit, target) {
            Ok(execution) => self.uploads.watch(&permit, execution),
            Err(fault) => self.refuse(fault),
        }
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.ended.cancel();
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.tasks.close();
        let tasks = self.tasks.clone();
        async move { tasks.wait().await }.boxed()
    }

    fn tending(&self) -> Option<&dyn Tending> {
        Some(self)
    }

    fn halfway_renames(&self) -> Option<&dyn HalfwayRenames> {
        Some(self)
    }
}

impl Tending for ObjectBackend {
    fn is_in_place(&self) -> bool {
        false
    }

    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>> {
        let bucket = Arc::clone(&self.bucket);
        self.tend(&recorded.into_intent(), |key| async move {
            tending::exchange(&bucket, &key, &beginning).await
        })
    }

    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution {
        let bucket = Arc::clone(&self.bucket);
        self.tend(&recorded.into_intent(), |key| async move {
            let destroyed = tending::destroy(&bucket, &key, &beginning).await;
            destroyed.map(|()| Outcome::Done)
        })
    }

    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>> {
        let bucket = Arc::clone(&self.bucket);
        self.tend(&recorded.into_intent(), |key| async move {
            tending::version(&bucket, &key).await
        })
    }

    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution {
        let permit = recorded.into_intent();
        let not_open = || Fault::judged(ErrorKind::InvalidHandle, "the handle is not open");
        let handle = permit.operation().handle().ok_or_else(not_open);
        let closing = handle.and_then(|handle| {
            let sender = self.handles().remove(&handle);
            self.ask(sender, HandleRequest::CloseOver(version))
        });
        match closing {
            Ok(execution) => self.uploads.watch(&permit, execution),
            Err(fault) => self.refuse(fault),
        }
    }
}

impl HalfwayRenames for ObjectBackend {
    fn settle(
        &self,
        recorded: Recorded<Permit>,
        announced: i64,
    ) -> BoxFuture<'static, Result<Settled, BackendError>> {
        let permit = recorded.into_intent();
        let bucket = Arc::clone(&self.bucket);
        let places = || {
            let nowhere = || unsupported("a look at a rename without two paths on this mount");
            let root = self.base.as_ref().map_err(Fault::clone)?.root();
            let from = self.key(permit.target().ok_or_else(nowhere)?)?;
            let to = self.key(permit.second_target().ok_or_else(nowhere)?)?;
            Ok::<_, Fault>((from, to, root))
        };
        let places = places();
        async move {
            let settled = async {
                let (from, to, root) = places?;
                settle::settle(&bucket, &from, &to, &root, announced).await
            };
            settled.await.map_err(|fault| fault.at(bucket.name()))
        }
        .boxed()
    }
}

impl Drop for ObjectBackend {
    /// Uploads of a session that was not ended are withdrawn all the same.
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl ObjectBackend {
    fn start(&self, permit: &Permit, target: &RelativePath) -> Result<Execution, Fault> {
        let bucket = Arc::clone(&self.bucket);
        let root = self.base.as_ref().map_err(Fault::clone)?.root();
        let key = || self.key(target);
        let second = || {
            let missing = || unsupported("a rename without a destination on this mount");
            self.key(permit.second_target().ok_or_else(missing)?)
        };
        Ok(match permit.operation() {
            Operation::Open { handle, access, .. } => {
                let intention = staging::intention(*access)
                    .map_err(|refusal| Fault::judged(refusal.kind(), refusal.to_string()))?;
                let what = OpenAs::File(*access, intention);
                self.open((*handle, permit.is_tending()), key()?, root, what)
            }
            Operation::Opendir { handle, .. } => {
                self.open((*handle, false), key()?, root, OpenAs::Directory)
            }
            Operation::Close { handle } => {
                let sender = self.handles().remove(handle);
                self.ask(sender, HandleRequest::Close)?
            }
            Operation::Read {
                handle,
                offset,
                length,
            } => self.ask_handle(
                *handle,
                HandleRequest::Read {
                    offset: *offset,
                    length: *length,
                },
            )?,
            Operation::Write {
                handle,
                offset,
                data,
            } => self.ask_handle(
                *handle,
                HandleRequest::Write {
                    offset: *offset,
                    data: data.clone(),
                },
            )?,
            Operation::Fstat { handle } => self.ask_handle(*handle, HandleRequest::Attributes)?,
            Operation::Fsetstat { handle, attributes } => {
                self.ask_handle(*handle, HandleRequest::SetAttributes(attributes.clone()))?
            }
            Operation::Readdir { handle } => {
                self.ask_handle(*handle, HandleRequest::ReadDirectory)?
            }
            Operation::Stat { .. } | Operation::Lstat { .. } => {
                let key = key()?;
                self.run(async move {
                    let found = names::attributes(&bucket, &key, &root).await?;
                    Ok(Outcome::Attributes(found))
                })
            }
            Operation::Setstat { attributes, .. } | Operation::Lsetstat { attributes, .. } => {
                let key = key()?;
                let sets_nothing = *attributes == Attributes::default();
                self.run(async move {
                    names::attributes(&bucket, &key, &root).await?;
                    if sets_nothing {
                        Ok(Outcome::Done)
                    } else {
                        Err(names::cannot_set_attributes())
                    }
                })
            }
            Operation::Remove { .. } => {
                let key = key()?;
                self.change(async move { names::remove(&bucket, &key, &root).await })
            }
            Operation::Mkdir { .. } => {
                let key = key()?;
                self.change(async move { names::make_directory(&bucket, &key, &root).await })
            }
            Operation::Rmdir { .. } => {
                let key = key()?;
                self.change(async move { names::remove_directory(&bucket, &key, &root).await })
            }
            Operation::Rename { .. } => {
                let (from, to) = (key()?, second()?);
                self.change(async move { names::rename(&bucket, &from, &to, &root).await })
            }
            Operation::PosixRename { .. } => {
                let (from, to) = (key()?, second()?);
                self.change(async move { names::replace(&bucket, &from, &to, &root).await })
            }
            Operation::Readlink { .. } => return Err(unsupported("reading symbolic links")),
            Operation::Symlink { .. } => return Err(unsupported("making symbolic links")),
            Operation::Statvfs { .. } | Operation::Fstatvfs { .. } => {
                return Err(unsupported("the status of a file system"));
            }
            // Done would claim that the bytes are kept; before CLOSE they are not.
            Operation::Fsync { .. } => return Err(unsupported("fsync")),
            Operation::Hardlink { .. } => return Err(unsupported("hard links")),
            Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Realpath { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. }
            | Operation::Tend { .. } => {
                return Err(unsupported("what the gateway itself answers"));
            }
        })
    }

    fn key(&self, path: &RelativePath) -> Result<Key, Fault> {
        self.base.as_ref().map_err(Fault::clone)?.key(path)
    }

    fn handles(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<HandleId, mpsc::Sender<Asked<HandleRequest>>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(
        &self,
        (handle, is_tended): (HandleId, bool),
        key: Key,
        root: Key,
        what: OpenAs,
    ) -> Execution {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (answer, opened) = oneshot::channel();
        self.handles().insert(handle, sender);
        let opening = Opening {
            bucket: Arc::clone(&self.bucket),
            key,
            root,
            what,
            is_tended,
            limits: Arc::clone(&self.limits),
        };
        self.tasks
            .spawn(handle::serve(opening, answer, requests, self.ended.clone()));
        self.answered(opened)
    }

    fn ask_handle(&self, handle: HandleId, request: HandleRequest) -> Result<Execution, Fault> {
        let sender = self.handles().get(&handle).cloned();
        self.ask(sender, request)
    }

    fn ask(
        &self,
        sender: Option<mpsc::Sender<Asked<HandleRequest>>>,
        request: HandleRequest,
    ) -> Result<Execution, Fault> {
        let not_open = || Fault::judged(ErrorKind::InvalidHandle, "the handle is not open");
        let (answer, answered) = oneshot::channel();
        sender
            .ok_or_else(not_open)?
            .try_send(Asked { request, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Closed(_) => not_open(),
                mpsc::error::TrySendError::Full(_) => Fault::judged(
                    ErrorKind::Failure,
                    format!("more than {QUEUE} requests wait for one handle"),
                ),
            })?;
        Ok(self.answered(answered))
    }

    /// As [`run`](Self::run), on what the permit is for.
    fn tend<T: Send + 'static, W: Future<Output = Result<T, Fault>> + Send + 'static>(
        &self,
        permit: &Permit,
        work: impl FnOnce(Key) -> W,
    ) -> BoxFuture<'static, Result<T, BackendError>> {
        let missing = || unsupported("an operation without a path on this mount");
        let key = permit.target().ok_or_else(missing);
        match key.and_then(|target| self.key(target)) {
            Ok(key) => self.run(work(key)),
            Err(fault) => {
                let error = fault.at(self.bucket.name());
                async move { Err(error) }.boxed()
            }
        }
    }

    /// Runs an operation in a task of its own: once begun it comes to its end, whatever becomes of the client. A rename
    /// is not left half-done.
    fn run<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, BackendError>> {
        let (answer, answered) = oneshot::channel();
        let bucket = Arc::clone(&self.bucket);
        self.tasks.spawn(async move {
            let outcome = operation.await.map_err(|fault| fault.at(bucket.name()));
            // Whoever asked may be gone.
            let _ = answer.send(outcome);
        });
        self.answered(answered)
    }

    fn change(
        &self,
        operation: impl Future<Output = Result<(), Fault>> + Send + 'static,
    ) -> Execution {
        self.run(operation.map(|done| done.map(|()| Outcome::Done)))
    }

    fn answered<T: Send + 'static>(
        &self,
        answer: oneshot::Receiver<Result<T, BackendError>>,
    ) -> BoxFuture<'static, Result<T, BackendError>> {
        let bucket = Arc::clone(&self.bucket);
        async move {
            answer.await.unwrap_or_else(|_| {
                Err(BackendError::new(
                    ErrorKind::Unavailable,
                    Origin::Gateway,
                    format!(
                        "{}: the session ended before the operation was done",
                        bucket.name()
                    ),
                ))
            })
        }
        .boxed()
    }

    fn refuse(&self, fault: Fault) -> Execution {
        let error = fault.at(self.bucket.name());
        async move { Err(error) }.boxed()
    }
}

fn unsupported(what: &str) -> Fault {
    Fault::judged(
        ErrorKind::Unsupported,
        format!("an object store can't do {what}"),
    )
}
