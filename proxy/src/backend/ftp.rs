//! FTP servers, in plain text or with TLS, as a backend.
//!
//! FTP knows neither handles nor offsets in both directions: a file is sent or fetched in one go. Each open file is a task
//! that owns its transfer (`upload`, `update`, `download`), one more task does what concerns names (`names`), and they share a few
//! control connections (`pool`). Every wait on the server has a deadline.

mod charset;
mod connection;
mod download;
mod fault;
mod handle;
mod listing;
#[cfg(any(test, fuzzing))]
pub(crate) use listing::fuzz as fuzz_listing;
mod location;
mod names;
mod partial;
mod pool;
mod server;
pub mod settings;
mod tending;
mod tls;
mod update;
mod upload;
mod window;

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
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::tls::client_config;
pub(crate) use self::tls::client_config_as;
use self::{
    fault::Fault, handle::OpenAs, pool::Pool, server::Server, settings::Charset, tending::changing,
};
pub use self::{
    settings::{FtpSettings, FtpTls, Password, TlsTrust},
    tls::TlsSettingsError,
};
use crate::{
    backend::{
        Backend, BackendError, BackendService, Beginning, Capabilities, ErrorKind, Execution,
        FileVersion, Origin, Owner, Tending,
        asked::{Asked, HandleRequest},
        staging::{self, LEAST_RESUMABLE, Unreadable},
    },
    operation::{HandleId, Operation, Outcome},
    path::RelativePath,
    policy::Permit,
};

/// Requests that may wait for one handle, or for the commands about names. A channel has fewer in flight.
const QUEUE: usize = 1024;

/// One FTP server.
#[derive(Debug)]
pub struct FtpService {
    server: Arc<Server>,
}

impl FtpService {
    /// # Errors
    /// If TLS is wanted and its settings can't be used.
    pub fn new(settings: FtpSettings) -> Result<Self, TlsSettingsError> {
        Ok(Self {
            server: Arc::new(Server::new(settings)?),
        })
    }
}

impl BackendService for FtpService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        let ended = CancellationToken::new();
        Arc::new(FtpBackend {
            pool: Arc::new(Pool::new(
                Arc::clone(&self.server),
                directory,
                owner,
                ended.clone(),
            )),
            handles: Mutex::new(HashMap::new()),
            names: Mutex::new(None),
            uploads: Unreadable::default(),
            tasks: TaskTracker::new(),
            ended,
        })
    }
}

struct FtpBackend {
    pool: Arc<Pool>,
    handles: Mutex<HashMap<HandleId, mpsc::Sender<Asked<HandleRequest>>>>,
    /// The queue of the task that does what concerns names; it begins with the first such operation.
    names: Mutex<Option<mpsc::Sender<Asked<NameRequest>>>>,
    uploads: Unreadable,
    tasks: TaskTracker,
    ended: CancellationToken,
}

impl fmt::Debug for FtpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FtpBackend")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// An operation about a path, not about an open file.
#[derive(Debug)]
enum NameRequest {
    Attributes(RelativePath),
    SetAttributes(RelativePath, crate::operation::Attributes),
    Remove(RelativePath),
    MakeDirectory(RelativePath),
    RemoveDirectory(RelativePath),
    Rename(RelativePath, RelativePath),
    Replace(RelativePath, RelativePath),
}

impl Backend for FtpBackend {
    fn capabilities(&self) -> Capabilities {
        // What a server can't is known once it was asked.
        let server = self.pool.server();
        let (settings, quirks, shows) = (&server.settings, &server.quirks, server.shows());
        Capabilities {
            random_access: false,
            update: settings.copy_limit > 0 && shows.sizes,
            resume_from: (settings.uploads.resume && self.pool.may_resume())
                .then_some(LEAST_RESUMABLE),
            read_back: false,
            // A READ ends the transfer, after which a client could not go on everywhere.
            rereads: self.pool.is_beneath_a_layer(),
            atomic_replace: false,
            symlinks: false,
            set_times: !quirks.no_set_time.is_known(),
            set_permissions: !quirks.no_chmod.is_known(),
            filesystem_status: false,
            any_name: settings.charset == Charset::AsTheyAre,
            shows,
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
        let Some(target) = permit.target().cloned() else {
            return self.refuse(unsupported("an operation without a path on this mount"));
        };
        let execution = self.start(&permit, target);
        self.uploads.watch(&permit, execution)
    }

    fn tending(&self) -> Option<&dyn Tending> {
        Some(self)
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.ended.cancel();
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.tasks.close();
        let (tasks, pool) = (self.tasks.clone(), Arc::clone(&self.pool));
        async move {
            tasks.wait().await;
            pool.close_idle();
        }
        .boxed()
    }
}

impl Tending for FtpBackend {
    fn is_in_place(&self) -> bool {
        false
    }

    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>> {
        let pool = Arc::clone(&self.pool);
        self.tend(&recorded.into_intent(), |path| async move {
            tending::exchange(&pool, &path, &beginning).await
        })
    }

    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution {
        let pool = Arc::clone(&self.pool);
        self.tend(&recorded.into_intent(), |path| async move {
            let destroyed = tending::destroy(&pool, &path, &beginning).await;
            destroyed.map(|()| Outcome::Done)
        })
    }

    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>> {
        let pool = Arc::clone(&self.pool);
        self.tend(&recorded.into_intent(), |path| async move {
            tending::version(&pool, &path).await
        })
    }

    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution {
        let permit = recorded.into_intent();
        let sender = permit.operation().handle().and_then(|handle| {
            let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
            handles.remove(&handle)
        });
        let execution = self.ask(sender, HandleRequest::CloseOver(version));
        self.uploads.watch(&permit, execution)
    }
}

impl Drop for FtpBackend {
    /// Uploads of a session that was not ended are withdrawn all the same.
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl FtpBackend {
    fn start(&self, permit: &Permit, target: RelativePath) -> Execution {
        match permit.operation() {
            Operation::Open { handle, access, .. } => match staging::intention(*access) {
                Ok(intention) => self.open(*handle, OpenAs::File(target, *access, intention)),
                Err(refusal) => self.refuse(Fault::judged(refusal.kind(), refusal.to_string())),
            },
            Operation::Opendir { handle, .. } => self.open(*handle, OpenAs::Directory(target)),
            Operation::Close { handle } => self.close(*handle),
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
            ),
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
            ),
            Operation::Fstat { handle } => self.ask_handle(*handle, HandleRequest::Attributes),
            Operation::Fsetstat { handle, attributes } => {
                self.ask_handle(*handle, HandleRequest::SetAttributes(attributes.clone()))
            }
            Operation::Readdir { handle } => self.ask_handle(*handle, HandleRequest::ReadDirectory),
            Operation::Stat { .. } | Operation::Lstat { .. } => {
                self.ask_names(NameRequest::Attributes(target))
            }
            Operation::Setstat { attributes, .. } | Operation::Lsetstat { attributes, .. } => {
                self.ask_names(NameRequest::SetAttributes(target, attributes.clone()))
            }
            Operation::Remove { .. } => self.ask_names(NameRequest::Remove(target)),
            // The server's umask decides: MKD takes no mode.
            Operation::Mkdir { .. } => self.ask_names(NameRequest::MakeDirectory(target)),
            Operation::Rmdir { .. } => self.ask_names(NameRequest::RemoveDirectory(target)),
            Operation::Rename { .. } => match permit.second_target() {
                Some(second) => self.ask_names(NameRequest::Rename(target, second.clone())),
                None => self.refuse(unsupported("a rename without a destination on this mount")),
            },
            Operation::PosixRename { .. } => match permit.second_target() {
                Some(second) => self.ask_names(NameRequest::Replace(target, second.clone())),
                None => self.refuse(unsupported("a rename without a destination on this mount")),
            },
            Operation::Readlink { .. } => self.refuse(unsupported("reading symbolic links")),
            Operation::Symlink { .. } => self.refuse(unsupported("making symbolic links")),
            Operation::Statvfs { .. } | Operation::Fstatvfs { .. } => {
                self.refuse(unsupported("the status of a file system"))
            }
            // Done would claim that the bytes are on the server's disk.
            Operation::Fsync { .. } => self.refuse(unsupported("fsync")),
            Operation::Hardlink { .. } => self.refuse(unsupported("hard links")),
            Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Realpath { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. }
            | Operation::Tend { .. } => self.refuse(unsupported("what the gateway itself answers")),
        }
    }

    /// Does it in a task of its own, on what the permit is for.
    fn tend<T: Send + 'static, W: Future<Output = Result<T, Fault>> + Send + 'static>(
        &self,
        permit: &Permit,
        work: impl FnOnce(RelativePath) -> W,
    ) -> BoxFuture<'static, Result<T, BackendError>> {
        let server = self.pool.server().settings.address.clone();
        let Some(target) = permit.target().cloned() else {
            let error = unsupported("an operation without a path on this mount").at(&server);
            return async move { Err(error) }.boxed();
        };
        let (answer, answered) = oneshot::channel();
        let work = work(target);
        self.tasks.spawn(async move {
            let done = work.await.map_err(|fault| fault.at(&server));
            // Whoever asked may be gone.
            let _ = answer.send(done);
        });
        self.answered(answered)
    }

    fn open(&self, handle: HandleId, what: OpenAs) -> Execution {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (answer, opened) = oneshot::channel();
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(handle, sender);
        self.tasks.spawn(handle::serve(
            Arc::clone(&self.pool),
            what,
            answer,
            requests,
            self.ended.clone(),
        ));
        self.answered(opened)
    }

    fn close(&self, handle: HandleId) -> Execution {
        let sender = self
            .handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle);
        self.ask(sender, HandleRequest::Close)
    }

    fn ask_handle(&self, handle: HandleId, request: HandleRequest) -> Execution {
        let sender = self
            .handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
            .cloned();
        self.ask(sender, request)
    }

    fn ask_names(&self, request: NameRequest) -> Execution {
        let sender = self
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| {
                let (sender, requests) = mpsc::channel(QUEUE);
                self.tasks.spawn(serve_names(
                    Arc::clone(&self.pool),
                    requests,
                    self.ended.clone(),
                ));
                sender
            })
            .clone();
        self.ask(Some(sender), request)
    }

    fn ask<R>(&self, sender: Option<mpsc::Sender<Asked<R>>>, request: R) -> Execution {
        let (answer, answered) = oneshot::channel();
        let sent = match sender {
            Some(sender) => sender.try_send(Asked { request, answer }),
            None => {
                return self.refuse(Fault::judged(
                    ErrorKind::InvalidHandle,
                    "the handle is not open",
                ));
            }
        };
        match sent {
            Ok(()) => self.answered(answered),
            Err(mpsc::error::TrySendError::Closed(_)) => self.refuse(Fault::judged(
                ErrorKind::InvalidHandle,
                "the handle is not open",
            )),
            Err(mpsc::error::TrySendError::Full(_)) => self.refuse(Fault::judged(
                ErrorKind::Failure,
                format!("more than {QUEUE} requests wait for one handle"),
            )),
        }
    }

    fn answered<T: Send + 'static>(
        &self,
        answer: oneshot::Receiver<Result<T, BackendError>>,
    ) -> BoxFuture<'static, Result<T, BackendError>> {
        let server = self.pool.server().settings.address.clone();
        async move {
            answer.await.unwrap_or_else(|_| {
                Err(BackendError::new(
                    ErrorKind::Unavailable,
                    Origin::Gateway,
                    format!("FTP server {server}: the session ended before the operation was done"),
                ))
            })
        }
        .boxed()
    }

    fn refuse(&self, fault: Fault) -> Execution {
        let error = fault.at(&self.pool.server().settings.address);
        async move { Err(error) }.boxed()
    }
}

fn unsupported(what: &str) -> Fault {
    Fault::judged(ErrorKind::Unsupported, format!("FTP can't do {what}"))
}

/// Does what concerns names, one request after the other.
async fn serve_names(
    pool: Arc<Pool>,
    mut requests: mpsc::Receiver<Asked<NameRequest>>,
    ended: CancellationToken,
) {
    loop {
        let asked = tokio::select! {
            biased;
            () = ended.cancelled() => return,
            asked = requests.recv() => asked,
        };
        let Some(Asked { request, answer }) = asked else {
            return;
        };
        let outcome = serve_name(&pool, request)
            .await
            .map_err(|fault| fault.at(&pool.server().settings.address));
        // Whoever asked may be gone.
        let _ = answer.send(outcome);
    }
}

async fn serve_name(pool: &Arc<Pool>, request: NameRequest) -> Result<Outcome, Fault> {
    let mut lease = pool.lease().await?;
    match request {
        NameRequest::Attributes(path) => {
            let found = match names::all_attributes(&mut lease, &path).await? {
                None => partial::attributes(pool, &mut lease, &path).await?,
                found => found,
            };
            return match found {
                Some(attributes) => Ok(Outcome::Attributes(attributes)),
                None => Err(names::not_found(&path)),
            };
        }
        NameRequest::SetAttributes(path, attributes) => {
            let _turn = changing(pool, &mut lease, &[&path]).await?;
            names::set_attributes(&mut lease, &path, &attributes).await?;
        }
        NameRequest::Remove(path) => {
            let _turn = changing(pool, &mut lease, &[&path]).await?;
            match names::remove(&mut lease, &path).await {
                Err(fault) if fault.kind() == Some(ErrorKind::NotFound) => {
                    partial::remove(pool, &mut lease, &path)
                        .await?
                        .ok_or(fault)?;
                }
                removed => removed?,
            }
        }
        NameRequest::MakeDirectory(path) => names::make_directory(&mut lease, &path).await?,
        NameRequest::RemoveDirectory(path) => names::remove_directory(&mut lease, &path).await?,
        NameRequest::Rename(from, to) => {
            let _turn = changing(pool, &mut lease, &[&from, &to]).await?;
            names::rename(&mut lease, &from, &to).await?;
        }
        NameRequest::Replace(from, to) => {
            let _turn = changing(pool, &mut lease, &[&from, &to]).await?;
            names::replace(&mut lease, &from, &to).await?;
        }
    }
    Ok(Outcome::Done)
}
