//! Encrypted names, over any backend: what lies there has the names that [`Names`] makes, what sessions see are theirs.
//!
//! Files are not its business. It stands below what encrypts them and above the backend, whose own files (uploads under way, the
//! key of the names) have names of their own.

mod renamed;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use portcullis_at_rest::names::Names;
use portcullis_journal::Recorded;

pub use self::renamed::{Foreign, Renamed};
use super::{
    Backend, BackendError, BackendService, Beginning, Capabilities, ErrorKind, Execution,
    FileVersion, HalfwayRenames, Origin, Owner, Settled, Tending,
};
use crate::policy::Permit;

/// Who has the key of a backend's names.
pub trait NamesKeeper: Send + Sync + fmt::Debug {
    /// The names, if they are known and the mount's `directory` is there.
    fn entered(&self, directory: &[u8]) -> Option<Arc<Names>>;

    /// Reads the key, or makes it where there is none, and makes `directory` if it is missing.
    fn enter(&self, directory: &[u8]) -> BoxFuture<'static, Result<Arc<Names>, BackendError>>;

    /// What hears of names that are none.
    fn foreign(&self) -> Foreign;

    /// Why nobody reads them any more, if their key was destroyed.
    fn lost(&self) -> Option<BackendError>;
}

/// A backend with encrypted names.
#[derive(Debug)]
pub struct NamedService {
    service: Arc<dyn BackendService>,
    keeper: Arc<dyn NamesKeeper>,
}

impl NamedService {
    pub fn new(service: Arc<dyn BackendService>, keeper: Arc<dyn NamesKeeper>) -> Self {
        Self { service, keeper }
    }
}

impl BackendService for NamedService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        let session = Named(Arc::new(Session {
            root: self.service.session(b"", owner),
            service: Arc::clone(&self.service),
            keeper: Arc::clone(&self.keeper),
            directory: directory.to_vec(),
            owner: owner.clone(),
            open: OnceLock::new(),
            has_ended: AtomicBool::new(false),
        }));
        if let Some(names) = self.keeper.entered(directory) {
            // What is wrong with the directory, its first use says.
            let _ = session.0.open(&names);
        }
        Arc::new(session)
    }
}

/// A session of which nothing reaches the backend before the names are known.
#[derive(Debug, Clone)]
struct Named(Arc<Session>);

#[derive(Debug)]
struct Session {
    /// Says what the backend can do, and does nothing.
    root: Arc<dyn Backend>,
    service: Arc<dyn BackendService>,
    keeper: Arc<dyn NamesKeeper>,
    directory: Vec<u8>,
    owner: Owner,
    open: OnceLock<Arc<Renamed>>,
    has_ended: AtomicBool,
}

impl Session {
    fn open(&self, names: &Arc<Names>) -> Result<Arc<Renamed>, BackendError> {
        let directory = stored_directory(names, &self.directory)?;
        let renamed = self.open.get_or_init(|| {
            let backend = self.service.session(&directory, &self.owner);
            let names = Arc::clone(names);
            Arc::new(Renamed::new(names, backend, self.keeper.foreign()))
        });
        Ok(Arc::clone(renamed))
    }

    async fn enter(&self) -> Result<Arc<Renamed>, BackendError> {
        if let Some(renamed) = self.open.get() {
            return Ok(Arc::clone(renamed));
        }
        let names = self.keeper.enter(&self.directory).await?;
        if self.has_ended.load(Ordering::Acquire) {
            let message = "the session has ended";
            let (kind, origin) = (ErrorKind::InvalidHandle, Origin::Gateway);
            return Err(BackendError::new(kind, origin, message));
        }
        self.open(&names)
    }
}

impl Backend for Named {
    fn capabilities(&self) -> Capabilities {
        Renamed::over(self.0.root.capabilities())
    }

    fn member(&self) -> Option<&str> {
        self.0.root.member()
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        if let Some(lost) = self.0.keeper.lost() {
            return ready(Err(lost)).boxed();
        }
        if let Some(renamed) = self.0.open.get() {
            return renamed.execute(recorded);
        }
        // Only operations by path can come here: what is open was opened with the names.
        let session = Arc::clone(&self.0);
        async move { session.enter().await?.execute(recorded).await }.boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.0.has_ended.store(true, Ordering::Release);
        let opened = self.0.open.get().map(|renamed| renamed.end());
        let root = self.0.root.end();
        async move {
            root.await;
            if let Some(opened) = opened {
                opened.await;
            }
        }
        .boxed()
    }

    fn tending(&self) -> Option<&dyn Tending> {
        self.0.root.tending().map(|_| self as _)
    }

    fn halfway_renames(&self) -> Option<&dyn HalfwayRenames> {
        self.0.root.halfway_renames().map(|_| self as _)
    }
}

impl Tending for Named {
    fn is_in_place(&self) -> bool {
        self.0.root.tending().is_some_and(Tending::is_in_place)
    }

    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>> {
        let session = Arc::clone(&self.0);
        async move { session.enter().await?.exchange(recorded, beginning).await }.boxed()
    }

    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution {
        let session = Arc::clone(&self.0);
        async move { session.enter().await?.destroy(recorded, beginning).await }.boxed()
    }

    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>> {
        let session = Arc::clone(&self.0);
        async move { session.enter().await?.version(recorded).await }.boxed()
    }

    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution {
        let session = Arc::clone(&self.0);
        async move { session.enter().await?.close_over(recorded, version).await }.boxed()
    }
}

impl HalfwayRenames for Named {
    fn settle(
        &self,
        recorded: Recorded<Permit>,
        announced: i64,
    ) -> BoxFuture<'static, Result<Settled, BackendError>> {
        let session = Arc::clone(&self.0);
        async move { session.enter().await?.settle(recorded, announced).await }.boxed()
    }
}

/// The names of a mount's directory, from the backend's root on. A slash before them says nothing.
///
/// # Errors
/// For `..`, which the names could not follow.
pub fn directory_names(directory: &[u8]) -> Result<Vec<&[u8]>, BackendError> {
    let names = directory.split(|byte| *byte == b'/');
    let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        let message = "the directory of a mount can't have .. where names are encrypted";
        let (kind, origin) = (ErrorKind::Unsupported, Origin::Gateway);
        return Err(BackendError::new(kind, origin, message));
    }
    Ok(names)
}

fn stored_directory(names: &Names, directory: &[u8]) -> Result<Vec<u8>, BackendError> {
    let stored: Result<Vec<_>, _> = directory_names(directory)?
        .into_iter()
        .map(|name| names.encrypt(name))
        .collect();
    let stored = stored.map_err(|error| {
        BackendError::new(ErrorKind::Unsupported, Origin::Gateway, error.to_string())
    })?;
    Ok(stored.join(&b'/'))
}
