//! One session's use of one mount: its connection, its handles, and what each operation asks of the server.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, Shared};

use super::{
    Publication, SftpSettings,
    connection::{Answer, Connection},
    fault::{Fault, Loss},
    file::{self, Directory, File},
    login,
    staged::{self, Staged, beside},
    sweep::Sweeps,
    upload::{Upload, standing},
    wire::{self, Kind, Reply, Request},
};
use crate::{
    backend::{
        BackendError,
        staging::{self, Claim, Intention, SessionNames},
    },
    operation::{Attributes, HandleId, Operation, Outcome},
    path::RelativePath,
    policy::Permit,
};

/// One session's use of one mount.
pub(super) struct Session {
    settings: Arc<SftpSettings>,
    directory: Vec<u8>,
    names: SessionNames,
    sweeps: Arc<Sweeps>,
    link: Mutex<Link>,
    handles: Mutex<HashMap<HandleId, Handle>>,
    /// Staging files on the server that no upload owns any more, and that none can resume.
    orphans: Mutex<Vec<Staged>>,
}

const NO_SUCH_FILE: u32 = 2;

type Connecting = Shared<BoxFuture<'static, Result<Arc<Connection>, Loss>>>;

enum Link {
    Down,
    Connecting(Connecting),
    Up(Arc<Connection>),
    Ended,
}

#[derive(Debug, Clone)]
enum Handle {
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
        settings: Arc<SftpSettings>,
        names: SessionNames,
        sweeps: Arc<Sweeps>,
        directory: &[u8],
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            directory: directory.to_vec(),
            names,
            sweeps,
            link: Mutex::new(Link::Down),
            handles: Mutex::default(),
            orphans: Mutex::default(),
        })
    }

    pub(super) fn names(&self) -> &SessionNames {
        &self.names
    }

    pub(super) fn publication(&self) -> Publication {
        self.settings.publication
    }

    pub(super) fn copy_limit(&self) -> u64 {
        self.settings.copy_limit
    }

    fn server(&self) -> String {
        format!("{}:{}", self.settings.host, self.settings.port)
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
    fn on_server(&self, path: &RelativePath) -> Vec<u8> {
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
    fn named_on_server(&self, path: &RelativePath) -> Result<Vec<u8>, Fault> {
        if path.is_empty() {
            return Err(Fault::MountItself);
        }
        Ok(self.on_server(path))
    }

    /// The open connection, or the one that this opens.
    async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Loss> {
        let connecting = {
            let mut link = lock(&self.link);
            match &*link {
                Link::Ended => return Err(Loss::unavailable("the session has ended")),
                Link::Up(connection) if connection.is_open() => return Ok(connection.clone()),
                Link::Connecting(connecting) => connecting.clone(),
                Link::Up(_) | Link::Down => {
                    let settings = self.settings.clone();
                    let connecting = async move { login::connect(&settings).await.map(Arc::new) }
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

    fn handles(&self) -> MutexGuard<'_, HashMap<HandleId, Handle>> {
        lock(&self.handles)
    }

    fn handle(&self, id: HandleId) -> Result<Handle, Fault> {
        self.handles().get(&id).cloned().ok_or(Fault::NoSuchHandle)
    }

    fn insert(&self, id: HandleId, handle: Handle) -> Result<Outcome, Fault> {
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
        let _ = tokio::time::timeout(self.settings.timeout, settled).await;
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

    pub(super) async fn perform(self: &Arc<Self>, permit: &Permit) -> Result<Outcome, Fault> {
        let target = permit.target().ok_or(Fault::ForTheGateway)?;
        let second = permit.second_target();
        match permit.operation() {
            Operation::Open {
                handle,
                access,
                attributes,
                ..
            } => match staging::intention(*access)? {
                Intention::Download => {
                    let connection = self.connection().await?;
                    let file = File::open(connection, &self.on_server(target)).await?;
                    self.insert(*handle, Handle::File(Arc::new(file)))
                }
                Intention::Upload => {
                    let path = self.named_on_server(target)?;
                    let connection = self.connection().await?;
                    self.sweeps.search(&connection, self.names.all(), &path);
                    let upload =
                        Upload::begin(self, connection, target, path, *access, attributes).await?;
                    self.insert(*handle, Handle::Upload(Arc::new(upload)))
                }
            },
            Operation::Opendir { handle, .. } => {
                let connection = self.connection().await?;
                let path = self.on_server(target);
                let directory = Directory::open(connection, path, self.names.all().clone()).await?;
                self.insert(*handle, Handle::Directory(Arc::new(directory)))
            }
            Operation::Close { handle } => {
                let closed = self.handles().remove(handle);
                let digest = match closed.ok_or(Fault::NoSuchHandle)? {
                    Handle::File(file) => file.close().await.map(|()| None),
                    Handle::Directory(directory) => directory.close().await.map(|()| None),
                    Handle::Upload(upload) => upload.publish().await,
                }?;
                Ok(digest.map_or(Outcome::Done, |sha256| Outcome::Published { sha256 }))
            }
            Operation::Read {
                handle,
                offset,
                length,
            } => match self.handle(*handle)? {
                Handle::File(file) => file.read(*offset, *length).await,
                Handle::Upload(upload) => upload.file().read(*offset, *length).await,
                Handle::Directory(_) => Err(Fault::HandleOfDirectory),
            },
            Operation::Write {
                handle,
                offset,
                data,
            } => match self.handle(*handle)? {
                Handle::Upload(upload) => upload.write(*offset, data.clone()).await,
                Handle::File(_) => Err(Fault::NoSuchHandle),
                Handle::Directory(_) => Err(Fault::HandleOfDirectory),
            },
            Operation::Readdir { handle } => match self.handle(*handle)? {
                Handle::Directory(directory) => directory.next_names().await,
                Handle::File(_) | Handle::Upload(_) => Err(Fault::HandleOfFile),
            },
            Operation::Fstat { handle } => {
                let asked =
                    self.ask_handle(*handle, |handle| Request::new(Kind::Fstat).string(handle))?;
                file::attributes(asked).await.map(Outcome::Attributes)
            }
            Operation::Fsetstat { handle, attributes } => {
                if let Handle::Upload(upload) = self.handle(*handle)? {
                    return upload.set_attributes(attributes).await;
                }
                let asked = self.ask_handle(*handle, |handle| {
                    Request::new(Kind::Fsetstat)
                        .string(handle)
                        .attributes(attributes)
                })?;
                file::done(asked).await
            }
            Operation::Fsync { handle } => {
                if !self.connection_of(*handle)?.abilities.fsync {
                    return Err(Fault::NotAnnounced("fsync@openssh.com"));
                }
                let asked = self.ask_handle(*handle, |handle| {
                    Request::extended("fsync@openssh.com").string(handle)
                })?;
                file::done(asked).await
            }
            Operation::Fstatvfs { handle } => {
                if !self.connection_of(*handle)?.abilities.fstatvfs {
                    return Err(Fault::NotAnnounced("fstatvfs@openssh.com"));
                }
                filesystem_status(self.ask_handle(*handle, |handle| {
                    Request::extended("fstatvfs@openssh.com").string(handle)
                })?)
                .await
            }
            Operation::Stat { .. } => self.attributes(Kind::Stat, target).await,
            Operation::Lstat { .. } => self.attributes(Kind::Lstat, target).await,
            Operation::Setstat { attributes, .. } => {
                let request = Request::new(Kind::Setstat).string(&self.on_server(target));
                self.ask(request.attributes(attributes)).await
            }
            Operation::Lsetstat { attributes, .. } => {
                if !self.connection().await?.abilities.lsetstat {
                    return Err(Fault::NotAnnounced("lsetstat@openssh.com"));
                }
                let request =
                    Request::extended("lsetstat@openssh.com").string(&self.on_server(target));
                self.ask(request.attributes(attributes)).await
            }
            Operation::Remove { .. } => {
                let path = self.named_on_server(target)?;
                match self.ask(Request::new(Kind::Remove).string(&path)).await {
                    Err(
                        missing @ Fault::Answered {
                            code: NO_SUCH_FILE, ..
                        },
                    ) => self.remove_partial(target, &path).await.ok_or(missing),
                    removed => removed,
                }
            }
            Operation::Rmdir { .. } => {
                let path = self.named_on_server(target)?;
                self.ask(Request::new(Kind::Rmdir).string(&path)).await
            }
            Operation::Mkdir { attributes, .. } => {
                let request = Request::new(Kind::Mkdir).string(&self.on_server(target));
                // Size, owner and times of a new directory are the server's.
                let wanted = Attributes {
                    permissions: attributes.permissions.map(|mode| mode & 0o777),
                    ..Attributes::default()
                };
                self.ask(request.attributes(&wanted)).await
            }
            Operation::Rename { .. } => {
                let (from, to) = self.both(target, second)?;
                let connection = self.connection().await?;
                rename(&connection, &from, &to).await?;
                Ok(Outcome::Done)
            }
            Operation::PosixRename { .. } => {
                let (from, to) = self.both(target, second)?;
                if !self.connection().await?.abilities.posix_rename {
                    return Err(Fault::NotAnnounced("posix-rename@openssh.com"));
                }
                let request = Request::extended("posix-rename@openssh.com");
                self.ask(request.string(&from).string(&to)).await
            }
            Operation::Readlink { .. } => {
                let asked = self
                    .ask_path(Kind::Readlink, &self.on_server(target))
                    .await?;
                let reply = asked.reply().await?;
                if let Reply::Names(names) = reply {
                    let target = names.into_iter().next().ok_or(Fault::WrongAnswer)?;
                    Ok(Outcome::Target(target.name))
                } else {
                    Err(file::refusal(reply))
                }
            }
            Operation::Symlink { target: stored, .. } => {
                let link = self.named_on_server(target)?;
                let connection = self.connection().await?;
                // OpenSSH has the two in the other order than the draft (PROTOCOL section 4.1), and nearly everybody follows it.
                let (first, second) = if connection.abilities.draft_symlink {
                    (link.as_slice(), stored.as_ref())
                } else {
                    (stored.as_ref(), link.as_slice())
                };
                let request = Request::new(Kind::Symlink);
                file::done(connection.send(request.string(first).string(second))).await
            }
            Operation::Statvfs { .. } => {
                let connection = self.connection().await?;
                if !connection.abilities.statvfs {
                    return Err(Fault::NotAnnounced("statvfs@openssh.com"));
                }
                let request = Request::extended("statvfs@openssh.com");
                filesystem_status(connection.send(request.string(&self.on_server(target)))).await
            }
            Operation::Hardlink { .. } => {
                let (from, to) = self.both(target, second)?;
                if !self.connection().await?.abilities.hardlink {
                    return Err(Fault::NotAnnounced("hardlink@openssh.com"));
                }
                let request = Request::extended("hardlink@openssh.com");
                self.ask(request.string(&from).string(&to)).await
            }
            Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Realpath { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. } => Err(Fault::ForTheGateway),
        }
    }

    /// What stands at the path; if nothing does, what an interrupted upload of the same account left for it.
    async fn attributes(
        self: &Arc<Self>,
        kind: Kind,
        target: &RelativePath,
    ) -> Result<Outcome, Fault> {
        let path = self.on_server(target);
        let asked = self.ask_path(kind, &path).await?;
        match file::attributes(asked).await {
            Err(
                missing @ Fault::Answered {
                    code: NO_SUCH_FILE, ..
                },
            ) => {
                let Some(name) = self.names.interrupted(target) else {
                    return Err(missing);
                };
                let staging_path = beside(&path, name.as_bytes());
                let asked = self.ask_path(Kind::Lstat, &staging_path).await?;
                let found = standing(asked).await.ok().flatten();
                found
                    .as_ref()
                    .and_then(staged::shown)
                    .map(Outcome::Attributes)
                    .ok_or(missing)
            }
            found => found.map(Outcome::Attributes),
        }
    }

    async fn remove_partial(
        self: &Arc<Self>,
        target: &RelativePath,
        path: &[u8],
    ) -> Option<Outcome> {
        let claim = self
            .names
            .resumable(target)
            .and_then(|name| self.names.all().claim(name))?;
        let staging_path = beside(path, claim.name().as_bytes());
        let request = Request::new(Kind::Remove).string(&staging_path);
        self.ask(request).await.ok()
    }

    fn both(
        &self,
        from: &RelativePath,
        to: Option<&RelativePath>,
    ) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let to = to.ok_or(Fault::MountItself)?;
        Ok((self.named_on_server(from)?, self.named_on_server(to)?))
    }

    /// Sends a request that is answered with a status.
    async fn ask(self: &Arc<Self>, request: Request) -> Result<Outcome, Fault> {
        let asked = self.connection().await?.send(request);
        file::done(asked).await
    }

    async fn ask_path(self: &Arc<Self>, kind: Kind, path: &[u8]) -> Result<Answer, Fault> {
        Ok(self
            .connection()
            .await?
            .send(Request::new(kind).string(path)))
    }

    fn ask_handle(
        &self,
        id: HandleId,
        request: impl FnOnce(&Bytes) -> Request,
    ) -> Result<Answer, Fault> {
        Ok(match self.handle(id)? {
            Handle::File(file) => file.ask(request),
            Handle::Upload(upload) => upload.file().ask(request),
            Handle::Directory(directory) => directory.ask(request),
        })
    }

    fn connection_of(&self, id: HandleId) -> Result<Arc<Connection>, Fault> {
        Ok(match self.handle(id)? {
            Handle::File(file) => file.connection().clone(),
            Handle::Upload(upload) => upload.file().connection().clone(),
            Handle::Directory(directory) => directory.connection().clone(),
        })
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

/// Renames and never replaces. Version 3 wants that of RENAME, but some servers replace, so they are asked first.
pub(super) async fn rename(connection: &Connection, from: &[u8], to: &[u8]) -> Result<(), Fault> {
    let asked = connection.send(Request::new(Kind::Lstat).string(to));
    match file::attributes(asked).await {
        Ok(_) => return Err(staging::Refusal::AlreadyExists.into()),
        Err(Fault::Answered { .. }) => {}
        Err(fault) => return Err(fault),
    }
    let request = Request::new(Kind::Rename).string(from).string(to);
    file::done(connection.send(request)).await?;
    Ok(())
}

async fn filesystem_status(asked: Answer) -> Result<Outcome, Fault> {
    let reply = asked.reply().await?;
    if let Reply::Extended(payload) = reply {
        let status = wire::filesystem_status(payload)?;
        Ok(Outcome::FilesystemStatus(status))
    } else {
        Err(file::refusal(reply))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
