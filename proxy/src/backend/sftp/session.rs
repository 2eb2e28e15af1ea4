//! One session's use of one mount: its connection, its handles, and what it leaves behind.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{BoxFuture, FutureExt, Shared};

use super::{
    Publication, SftpSettings,
    connection::Connection,
    fault::{Fault, Loss},
    file::{Directory, File},
    pool::Pool,
    staged::{Staged, beside},
    sweep::Sweeps,
    upload::Upload,
    wire::{Kind, Request},
};
use crate::{
    backend::{
        BackendError,
        staging::{Claim, SessionNames},
    },
    operation::{HandleId, Outcome},
    path::RelativePath,
    policy::Permit,
};

/// One session's use of one mount.
pub(super) struct Session {
    pool: Arc<Pool>,
    directory: Vec<u8>,
    names: SessionNames,
    sweeps: Arc<Sweeps>,
    link: Mutex<Link>,
    handles: Mutex<HashMap<HandleId, Handle>>,
    /// Staging files on the server that no upload owns any more, and that none can resume.
    orphans: Mutex<Vec<Staged>>,
}

type Connecting = Shared<BoxFuture<'static, Result<Arc<Connection>, Loss>>>;

enum Link {
    Down,
    Connecting(Connecting),
    Up(Arc<Connection>),
    Ended,
}

#[derive(Debug, Clone)]
pub(super) enum Handle {
    File(Arc<File>),
    Upload(Arc<Upload>),
    Directory(Arc<Directory>),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.server())
    }
}

impl Session {
    pub(super) fn new(
        pool: Arc<Pool>,
        names: SessionNames,
        sweeps: Arc<Sweeps>,
        directory: &[u8],
    ) -> Arc<Self> {
        Arc::new(Self {
            pool,
            directory: directory.to_vec(),
            names,
            sweeps,
            link: Mutex::new(Link::Down),
            handles: Mutex::default(),
            orphans: Mutex::default(),
        })
    }

    pub(super) fn sweeps(&self) -> &Sweeps {
        &self.sweeps
    }

    fn settings(&self) -> &SftpSettings {
        self.pool.settings()
    }

    pub(super) fn names(&self) -> &SessionNames {
        &self.names
    }

    pub(super) fn publication(&self) -> Publication {
        self.settings().publication
    }

    pub(super) fn copy_limit(&self) -> u64 {
        self.settings().copy_limit
    }

    fn server(&self) -> String {
        format!("{}:{}", self.settings().host, self.settings().port)
    }

    pub(super) fn blame(&self, fault: &Fault, permit: &Permit) -> BackendError {
        let shown =
            |path: &RelativePath| String::from_utf8_lossy(&self.on_server(path)).into_owned();
        let what = match (permit.target(), permit.second_target()) {
            (Some(target), Some(second)) => format!("{} to {}", shown(target), shown(second)),
            (Some(target), None) => shown(target),
            (None, _) => "operation".to_owned(),
        };
        fault.on(&what, &self.server())
    }

    /// The path as the server is asked for it: below the mount's directory, which may itself count from the login
    /// directory.
    pub(super) fn on_server(&self, path: &RelativePath) -> Vec<u8> {
        let directory = &self.directory;
        match (directory.as_slice(), path.as_bytes()) {
            (b"", b"") => b".".to_vec(),
            (directory, b"") => directory.to_vec(),
            (b"" | b".", path) => path.to_vec(),
            (directory, path) if directory.ends_with(b"/") => [directory, path].concat(),
            (directory, path) => [directory, b"/", path].concat(),
        }
    }

    /// As [`Session::on_server`], for what changes or replaces the name itself.
    pub(super) fn named_on_server(&self, path: &RelativePath) -> Result<Vec<u8>, Fault> {
        if path.is_empty() {
            return Err(Fault::MountItself);
        }
        Ok(self.on_server(path))
    }

    /// The open connection, or the one that this opens.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Loss> {
        let connecting = {
            let mut link = lock(&self.link);
            match &*link {
                Link::Ended => return Err(Loss::unavailable("the session has ended")),
                Link::Up(connection) if connection.is_open() => return Ok(connection.clone()),
                Link::Connecting(connecting) => connecting.clone(),
                Link::Up(_) | Link::Down => {
                    let pool = self.pool.clone();
                    let connecting = async move { pool.open().await.map(Arc::new) }
                        .boxed()
                        .shared();
                    *link = Link::Connecting(connecting.clone());
                    connecting
                }
            }
        };
        let result = connecting.clone().await;
        let mut link = lock(&self.link);
        if matches!(&*link, Link::Connecting(current) if current.ptr_eq(&connecting)) {
            *link = match &result {
                Ok(connection) => {
                    self.remove_orphans(connection);
                    Link::Up(connection.clone())
                }
                Err(_) => Link::Down,
            };
        }
        if matches!(&*link, Link::Ended) {
            return Err(Loss::unavailable("the session has ended"));
        }
        result
    }

    /// Leaves a staging file to be removed, at once if there is a connection.
    pub(super) fn abandon(&self, staged: Staged) {
        lock(&self.orphans).push(staged);
        if let Link::Up(connection) = &*lock(&self.link) {
            self.remove_orphans(connection);
        }
    }

    fn remove_orphans(&self, connection: &Connection) {
        if !connection.is_open() {
            return;
        }
        for orphan in std::mem::take(&mut *lock(&self.orphans)) {
            let (path, claims) = orphan.into_parts();
            remove(connection, &path, claims);
        }
    }

    /// Removes what an interrupted upload to `target` left, unless it is in use. The answer is not waited for.
    pub(super) fn discard_partial(
        &self,
        connection: &Connection,
        target: &RelativePath,
        path: &[u8],
    ) {
        let name = self.names.resumable(target);
        if let Some(claim) = name.and_then(|name| self.names.all().claim(name)) {
            let staging_path = beside(path, claim.name().as_bytes());
            remove(connection, &staging_path, vec![claim]);
        }
    }

    pub(super) fn handles(&self) -> MutexGuard<'_, HashMap<HandleId, Handle>> {
        lock(&self.handles)
    }

    pub(super) fn handle(&self, id: HandleId) -> Result<Handle, Fault> {
        self.handles().get(&id).cloned().ok_or(Fault::NoSuchHandle)
    }

    /// The latest of this session's uploads to `path` on the server.
    pub(super) fn upload_to(&self, path: &[u8]) -> Option<Arc<Upload>> {
        let handles = self.handles();
        let uploads = handles.iter().filter_map(|(id, handle)| match handle {
            Handle::Upload(upload) => Some((*id, upload)),
            Handle::File(_) | Handle::Directory(_) => None,
        });
        uploads
            .filter(|(_, upload)| upload.path() == path)
            .max_by_key(|(id, _)| *id)
            .map(|(_, upload)| Arc::clone(upload))
    }

    pub(super) fn insert(&self, id: HandleId, handle: Handle) -> Result<Outcome, Fault> {
        if matches!(*lock(&self.link), Link::Ended) {
            return Err(Loss::unavailable("the session has ended").into());
        }
        self.handles().insert(id, handle);
        Ok(Outcome::Opened)
    }

    /// Ends the session: uploads that can't be resumed are withdrawn, also on a server that has to be reached again for it.
    pub(super) async fn end(self: &Arc<Self>) {
        let open: Vec<Handle> = self.handles().drain().map(|(_, handle)| handle).collect();
        let settled = async {
            for handle in &open {
                if let Handle::Upload(upload) = handle {
                    upload.settle().await;
                }
            }
        };
        // A server that does not answer has taken what it has taken, from the first byte on.
        let _ = tokio::time::timeout(self.settings().timeout, settled).await;
        drop(open);
        let is_left = !lock(&self.orphans).is_empty();
        if is_left {
            // If the server can't be reached, its administrator finds `.portcullis-*.part` files, which say what they are.
            if let Err(loss) = self.connection().await {
                tracing::warn!(server = self.server(), error = %loss, "staging files are left on the server");
            }
        }
        let link = std::mem::replace(&mut *lock(&self.link), Link::Ended);
        if let Link::Up(connection) = link {
            connection.settle().await;
        }
    }
}

/// Removes a staging file, whose names stay taken until the server has answered. The answer itself changes nothing: a file
/// that is not there is as good as removed.
pub(super) fn remove(connection: &Connection, path: &[u8], claims: Vec<Claim>) {
    let asked = connection.send(Request::new(Kind::Remove).string(path));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let _ = asked.reply().await;
            drop(claims);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
