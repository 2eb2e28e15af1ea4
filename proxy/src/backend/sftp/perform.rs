//! What each operation asks of the server.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    connection::{Answer, Connection},
    fault::Fault,
    file::{self, Directory, File},
    session::{Handle, Session},
    staged::{self, beside},
    upload::{Upload, standing},
    wire::{self, Kind, Reply, Request},
};
use crate::{
    backend::staging::{self, Intention},
    operation::{Attributes, FilesystemStatus, HandleId, Operation, Outcome},
    path::RelativePath,
    policy::Permit,
};

const NO_SUCH_FILE: u32 = 2;

impl Session {
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
                    let path = self.on_server(target);
                    let file = match File::open(connection, &path).await {
                        Err(
                            missing @ Fault::Answered {
                                code: NO_SUCH_FILE, ..
                            },
                        ) => match self.upload_to(&path) {
                            Some(upload) => upload.read_back().await?,
                            None => return Err(missing),
                        },
                        file => file?,
                    };
                    self.insert(*handle, Handle::File(Arc::new(file)))
                }
                Intention::Upload => {
                    let path = self.named_on_server(target)?;
                    let connection = self.connection().await?;
                    self.sweeps().search(&connection, self.names().all(), &path);
                    let upload =
                        Upload::begin(self, connection, target, path, *access, attributes).await?;
                    self.insert(*handle, Handle::Upload(Arc::new(upload)))
                }
            },
            Operation::Opendir { handle, .. } => {
                let connection = self.connection().await?;
                let path = self.on_server(target);
                let directory =
                    Directory::open(connection, path, self.names().all().clone()).await?;
                self.insert(*handle, Handle::Directory(Arc::new(directory)))
            }
            Operation::Close { handle } => {
                let closed = self.handles().remove(handle);
                let digest = match closed.ok_or(Fault::NoSuchHandle)? {
                    Handle::File(file) => file.close().await.map(|()| None),
                    Handle::Directory(directory) => directory.close().await.map(|()| None),
                    Handle::Upload(upload) => upload.publish(None).await,
                }?;
                Ok(Outcome::digested(digest))
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
                let path = self.on_server(target);
                let _turn = self.names().all().changing(&[&path]).await;
                let request = Request::new(Kind::Setstat).string(&path);
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
                let _turn = self.names().all().changing(&[&path]).await;
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
                let _turn = self.names().all().changing(&[&from, &to]).await;
                rename(&connection, &from, &to).await?;
                Ok(Outcome::Done)
            }
            Operation::PosixRename { .. } => {
                let (from, to) = self.both(target, second)?;
                if !self.connection().await?.abilities.posix_rename {
                    return Err(Fault::NotAnnounced("posix-rename@openssh.com"));
                }
                let _turn = self.names().all().changing(&[&from, &to]).await;
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
            | Operation::UsersGroupsById { .. }
            | Operation::Tend { .. } => Err(Fault::ForTheGateway),
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
                let Some(name) = self.names().interrupted(target) else {
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
            .names()
            .resumable(target)
            .and_then(|name| self.names().all().claim(name))?;
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
    Ok(Outcome::FilesystemStatus(status(asked).await?))
}

/// Bytes that can be written.
pub(super) async fn room(asked: Answer) -> Result<u64, Fault> {
    let status = status(asked).await?;
    Ok(status.blocks_available.saturating_mul(status.fragment_size))
}

async fn status(asked: Answer) -> Result<FilesystemStatus, Fault> {
    let reply = asked.reply().await?;
    if let Reply::Extended(payload) = reply {
        Ok(wire::filesystem_status(payload)?)
    } else {
        Err(file::refusal(reply))
    }
}
