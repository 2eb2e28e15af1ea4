//! One upload to the server: a staging file beside the final name, and how it ends.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

use super::{
    connection::{Connection, Writes},
    fault::Fault,
    file::{self, File},
    session::{self, Session},
    wire::{Kind, Reply, Request, flags},
};
use crate::{
    backend::staging::{self, Content, Found, Publish, StagingName, UploadPlan},
    operation::{Access, Attributes, Outcome},
};

const DEFAULT_MODE: u32 = 0o666;
const PERMISSION_BITS: u32 = 0o777;
const NO_SUCH_FILE: u32 = 2;
const UNSUPPORTED: u32 = 8;

/// An upload in progress. Dropped before it is published, it is withdrawn.
#[derive(Debug)]
pub(super) struct Upload {
    file: File,
    staged: Staged,
    path: Vec<u8>,
    publish: Publish,
    writes: Arc<Writes>,
}

/// The staging file; left to the session for removal when dropped, unless it is no longer ours.
#[derive(Debug)]
struct Staged {
    /// Weak, since the session owns the upload.
    session: Weak<Session>,
    path: Vec<u8>,
    is_gone: AtomicBool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_gone.load(Ordering::Relaxed)
            && let Some(session) = self.session.upgrade()
        {
            session.abandon(std::mem::take(&mut self.path));
        }
    }
}

impl Upload {
    pub(super) async fn begin(
        session: &Arc<Session>,
        connection: Arc<Connection>,
        path: Vec<u8>,
        access: Access,
        wanted: &Attributes,
    ) -> Result<Self, Fault> {
        let found = look(&connection, &path).await?;
        let plan = plan(access, found.as_ref())?;
        if found.is_some() && !connection.abilities.posix_rename {
            return Err(Fault::NoReplace);
        }
        let kept_mode = found
            .and_then(|attributes| attributes.permissions)
            .map(|mode| mode & PERMISSION_BITS);
        let name = StagingName::random().map_err(|_| Fault::NoRandomness)?;
        let staged = Staged {
            session: Arc::downgrade(session),
            path: beside(&path, name.as_bytes()),
            is_gone: AtomicBool::new(false),
        };
        let mode = kept_mode
            .or(wanted.permissions.map(|mode| mode & PERMISSION_BITS))
            .unwrap_or(DEFAULT_MODE);
        let request = Request::new(Kind::Open)
            .string(&staged.path)
            .number(open_flags(access))
            .attributes(&with_mode(mode));
        let file = File::opened(connection, request).await?;
        if let Some(mode) = kept_mode {
            // The server's umask must not change the mode that the file already has. A server that can't keep it says so
            // with an answer that nobody needs.
            drop(file.ask(|handle| {
                Request::new(Kind::Fsetstat)
                    .string(handle)
                    .attributes(&with_mode(mode))
            }));
        }
        Ok(Self {
            file,
            staged,
            path,
            publish: plan.publish,
            writes: Arc::default(),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes, in as many requests as the server's limit wants, all in flight at once.
    pub(super) async fn write(&self, offset: u64, mut data: Bytes) -> Result<Outcome, Fault> {
        let connection = self.file.connection();
        let most = connection.abilities.write as usize;
        let mut at = offset;
        let mut answers = Vec::new();
        loop {
            let part = data.split_to(data.len().min(most));
            let length = part.len() as u64;
            let request = Request::new(Kind::Write)
                .string(self.file.handle())
                .long(at)
                .data(part);
            answers.push(connection.send_write(request, &self.writes));
            at = at.saturating_add(length);
            if data.is_empty() {
                break;
            }
        }
        for answer in answers {
            file::done(answer).await?;
        }
        Ok(Outcome::Done)
    }

    /// Ends the upload: everything written and synced, then the name. Withdraws it if that fails.
    pub(super) async fn publish(&self) -> Result<(), Fault> {
        let published = self.close_and_rename().await;
        let is_gone = published.is_ok() || self.remove_staging_file().await;
        self.staged.is_gone.store(is_gone, Ordering::Relaxed);
        published
    }

    /// False if the connection is lost.
    async fn remove_staging_file(&self) -> bool {
        let request = Request::new(Kind::Remove).string(&self.staged.path);
        self.file.connection().send(request).reply().await.is_ok()
    }

    async fn close_and_rename(&self) -> Result<(), Fault> {
        let connection = self.file.connection();
        let synced = connection.abilities.fsync.then(|| {
            self.file
                .ask(|handle| Request::extended("fsync@openssh.com").string(handle))
        });
        let closing = self.file.close();
        if let Some(synced) = synced {
            // Both requests are on their way before either answer is waited for.
            let (synced, closed) = futures_util::future::join(file::done(synced), closing).await;
            match synced {
                Ok(_)
                | Err(Fault::Answered {
                    code: UNSUPPORTED, ..
                }) => {}
                Err(fault) => return Err(fault),
            }
            closed?;
        } else {
            closing.await?;
        }
        self.writes.all_succeeded().await?;
        match self.publish {
            Publish::MustNotExist => {
                session::rename(connection, &self.staged.path, &self.path).await?;
            }
            Publish::Replace if connection.abilities.posix_rename => {
                let request = Request::extended("posix-rename@openssh.com")
                    .string(&self.staged.path)
                    .string(&self.path);
                file::done(connection.send(request)).await?;
            }
            Publish::Replace => {
                session::rename(connection, &self.staged.path, &self.path).await?;
            }
        }
        Ok(())
    }
}

/// What stands at the path itself; a link is not followed.
async fn look(connection: &Connection, path: &[u8]) -> Result<Option<Attributes>, Fault> {
    let asked = connection.send(Request::new(Kind::Lstat).string(path));
    match asked.reply().await? {
        Reply::Attributes(attributes) => Ok(Some(attributes)),
        Reply::Status {
            code: NO_SUCH_FILE, ..
        } => Ok(None),
        reply @ (Reply::Status { .. }
        | Reply::Handle(_)
        | Reply::Data(_)
        | Reply::Names(_)
        | Reply::Extended(_)) => Err(file::refusal(reply)),
    }
}

fn plan(access: Access, found: Option<&Attributes>) -> Result<UploadPlan, Fault> {
    let kind = found
        .and_then(|attributes| attributes.permissions)
        .map(|mode| mode & Attributes::TYPE_MASK);
    let is_exclusive = access.create && access.exclusive;
    let standing = match (found, kind) {
        (None, _) => Found::Nothing,
        (Some(_), Some(Attributes::DIRECTORY)) => Found::Directory,
        (Some(_), Some(Attributes::SYMLINK)) if !is_exclusive => return Err(Fault::ThroughLink),
        // Servers that send no type bits have nothing but files and directories.
        (Some(_), Some(Attributes::REGULAR | 0) | None) => Found::File,
        (Some(_), Some(_)) => Found::Special,
    };
    let plan = staging::plan(access, standing)?;
    let is_empty = found.is_some_and(|attributes| attributes.size == Some(0));
    match plan.content {
        Content::Existing if !is_empty => Err(Fault::NoUpdate),
        Content::Existing | Content::Empty => Ok(plan),
    }
}

fn open_flags(access: Access) -> u32 {
    let mut wanted = flags::WRITE | flags::CREATE | flags::EXCLUSIVE;
    if access.read {
        wanted |= flags::READ;
    }
    if access.append {
        wanted |= flags::APPEND;
    }
    wanted
}

fn with_mode(mode: u32) -> Attributes {
    Attributes {
        permissions: Some(mode),
        ..Attributes::default()
    }
}

fn beside(path: &[u8], name: &[u8]) -> Vec<u8> {
    let end = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    [path.get(..end).unwrap_or_default(), name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_staging_file_stands_beside_the_final_name() {
        assert_eq!(beside(b"/in/a.csv", b"s"), b"/in/s");
        assert_eq!(beside(b"a.csv", b"s"), b"s");
        assert_eq!(beside(b"/a.csv", b"s"), b"/s");
    }

    #[test]
    fn a_file_is_replaced_whole_and_only_an_empty_one_may_be_continued() {
        let file = |size| Attributes {
            size: Some(size),
            permissions: Some(0o100_644),
            ..Attributes::default()
        };
        let write = Access {
            write: true,
            ..Access::default()
        };
        let replace = Access {
            create: true,
            truncate: true,
            ..write
        };
        assert!(plan(replace, Some(&file(7))).is_ok());
        assert!(plan(write, Some(&file(0))).is_ok());
        assert!(matches!(plan(write, Some(&file(7))), Err(Fault::NoUpdate)));
        let link = Attributes {
            permissions: Some(0o120_777),
            ..Attributes::default()
        };
        assert!(matches!(
            plan(replace, Some(&link)),
            Err(Fault::ThroughLink)
        ));
    }
}
