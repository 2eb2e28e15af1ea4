//! One upload to the server: what is written where, and how it ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::{
    Publication,
    connection::{Answer, Connection},
    copy,
    fault::Fault,
    file::{self, File},
    perform,
    session::Session,
    staged::{Fate, Staged},
    wire::{Kind, Reply, Request, flags},
    writes::Writes,
};
use crate::{
    backend::staging::{
        self, Beginning, Content, Found, Landing, Progress, Publish, Refusal, UploadPlan, Watched,
    },
    operation::{Access, Attributes, Outcome},
    path::RelativePath,
};

const DEFAULT_MODE: u32 = 0o666;
pub(super) const PERMISSION_BITS: u32 = 0o777;
/// Bytes after which the server is asked to sync what it has, so that CLOSE need not wait for all of a long file at once.
const SYNC_EVERY: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
const NO_SUCH_FILE: u32 = 2;
const FAILURE: u32 = 4;
const UNSUPPORTED: u32 = 8;

/// An upload in progress. Dropped before it is published, it leaves its staging file to a later session if that can resume
/// it, and removes it otherwise.
#[derive(Debug)]
pub(super) struct Upload {
    file: File,
    path: Vec<u8>,
    access: Access,
    publish: Publish,
    /// The file that this one began as a copy of.
    original: Option<Version>,
    writes: Arc<Writes>,
    state: Mutex<State>,
    /// Weak, since the session owns the upload.
    session: Weak<Session>,
}

#[derive(Debug)]
struct State {
    progress: Progress,
    attributes_set: bool,
    /// Bytes written since the server was last asked to sync.
    unsynced: u64,
    /// What it was asked meanwhile: one for each [`SYNC_EVERY`] bytes.
    syncs: Vec<Answer>,
    /// `None` if the final name is written to directly.
    staged: Option<Staged>,
}

/// Tells a file and its content from another, as far as version 3 can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    size: Option<u64>,
    modified: Option<u32>,
}

impl Version {
    fn of(attributes: &Attributes) -> Self {
        Self {
            size: attributes.size,
            modified: attributes.times.map(|(_, modified)| modified),
        }
    }
}

impl Upload {
    pub(super) async fn begin(
        session: &Arc<Session>,
        connection: Arc<Connection>,
        target: &RelativePath,
        path: Vec<u8>,
        access: Access,
        wanted: &Attributes,
    ) -> Result<Self, Fault> {
        let asked = connection.send(Request::new(Kind::Lstat).string(&path));
        let partial = Staged::look_for_partial(session, &connection, target, &path);
        let found = standing(asked).await?;
        let plan = plan(access, found.as_ref())?;
        let upload = |file, original, progress, staged| Self {
            file,
            path: path.clone(),
            access,
            publish: plan.publish,
            original,
            writes: Arc::default(),
            state: Mutex::new(State {
                progress,
                attributes_set: false,
                unsynced: 0,
                syncs: Vec::new(),
                staged,
            }),
            session: Arc::downgrade(session),
        };
        let mode = wanted.permissions.map(|mode| mode & PERMISSION_BITS);
        if session.publication() == Publication::Direct {
            let request = Request::new(Kind::Open)
                .string(&path)
                .number(direct_flags(access))
                .attributes(&with_mode(mode.unwrap_or(DEFAULT_MODE)));
            let file = File::opened(connection, request).await?;
            let (beginning, length) = match &found {
                Some(found) if plan.content == Content::Existing => {
                    (Beginning::Copy, found.size.unwrap_or(0))
                }
                Some(_) | None => (Beginning::Nothing, 0),
            };
            return Ok(upload(file, None, Progress::new(beginning, length), None));
        }
        let Some(found) = found else {
            let mode = mode.unwrap_or(DEFAULT_MODE);
            let (file, staged, progress) =
                Staged::begin(session, connection, target, &path, access, mode, partial).await?;
            return Ok(upload(file, None, progress, Some(staged)));
        };
        if !connection.abilities.posix_rename {
            return Err(Fault::NoReplace);
        }
        session.discard_partial(&connection, target, &path);
        let kept_mode = found.permissions.map(|mode| mode & PERMISSION_BITS);
        let mode = kept_mode.or(mode).unwrap_or(DEFAULT_MODE);
        let (file, staged) = Staged::begin_hidden(session, connection, &path, access, mode).await?;
        // The server's umask must not change the mode that the file already has. A server that can't keep it says so with an
        // answer that nobody needs.
        if let Some(mode) = kept_mode {
            drop(file.ask(|handle| {
                Request::new(Kind::Fsetstat)
                    .string(handle)
                    .attributes(&with_mode(mode))
            }));
        }
        let mut upload = upload(
            file,
            None,
            Progress::new(Beginning::Nothing, 0),
            Some(staged),
        );
        if plan.content == Content::Existing && found.size != Some(0) {
            upload.copy_existing(session, &found).await?;
        }
        Ok(upload)
    }

    /// Fills the staging file with what stands under the final name.
    async fn copy_existing(&mut self, session: &Session, found: &Attributes) -> Result<(), Fault> {
        let connection = self.file.connection().clone();
        let existing = File::open(connection, &self.path).await?;
        let length = copy::copy(&existing, &self.file, session.copy_limit()).await?;
        existing.close().await?;
        let times = Attributes {
            times: found.times,
            ..Attributes::default()
        };
        drop(self.file.ask(|handle| {
            Request::new(Kind::Fsetstat)
                .string(handle)
                .attributes(&times)
        }));
        self.original = Some(Version::of(found));
        self.state().progress = Progress::new(Beginning::Copy, length);
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where it will stand on the server.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Opens the staging file for reading under a handle of its own, which outlives this upload.
    pub(super) async fn read_back(&self) -> Result<File, Fault> {
        let connection = self.file.connection().clone();
        let opening = {
            // Held until the request is queued: the staging file gets no other name before.
            let state = self.state();
            let path = state.staged.as_ref().map_or(&*self.path, Staged::path);
            File::opening(connection, File::asked_to_read(path))?
        };
        opening.await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, in as many requests as the server's limit wants, all in flight at once.
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Result<Outcome, Fault> {
        let length = data.len() as u64;
        for answer in self.queue_write(offset, data)? {
            if let Err(fault) = file::done(answer).await {
                return Err(self.explained(fault, length).await);
            }
        }
        Ok(Outcome::Done)
    }

    /// Version 3 has no status for a full disk: a server that only says "failure" is asked how much room there is.
    async fn explained(&self, fault: Fault, length: u64) -> Fault {
        let Fault::Answered {
            code: FAILURE,
            message,
        } = fault
        else {
            return fault;
        };
        let room = if self.file.connection().abilities.fstatvfs {
            let asked = self
                .file
                .ask(|handle| Request::extended("fstatvfs@openssh.com").string(handle));
            perform::room(asked).await.ok()
        } else {
            None
        };
        if room.is_some_and(|room| room < length) {
            return Fault::NoSpace(message);
        }
        Fault::Answered {
            code: FAILURE,
            message,
        }
    }

    fn queue_write(&self, offset: u64, mut data: Bytes) -> Result<Vec<Answer>, Fault> {
        let connection = self.file.connection();
        let most = connection.abilities.write as usize;
        let mut answers = Vec::new();
        let written = data.len() as u64;
        let mut at = {
            let mut state = self.state();
            // With `append` the offset does not count (filexfer-02 section 6.3). The staging file is ours alone, so its end is
            // known; a file that is written to directly grows by others too, and the server sees to it.
            let at = if self.access.append && state.staged.is_some() {
                state.progress.length()
            } else {
                offset
            };
            let landing = state.progress.write(at, data.len() as u64);
            self.prepare(&mut state, landing, &mut answers)?;
            at
        };
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
        let mut state = self.state();
        state.unsynced = state.unsynced.saturating_add(written);
        if state.unsynced >= SYNC_EVERY {
            state.unsynced = 0;
            state.syncs.extend(self.ask_to_sync());
        }
        Ok(answers)
    }

    /// `None` if the server can't.
    fn ask_to_sync(&self) -> Option<Answer> {
        let request = |handle: &Bytes| Request::extended("fsync@openssh.com").string(handle);
        let can = self.file.connection().abilities.fsync;
        can.then(|| self.file.ask(request))
    }

    /// Queues what must be done before a write that lands so. If it fails, the upload counts as one with a failed write.
    fn prepare(
        &self,
        state: &mut State,
        landing: Landing,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Fault> {
        let connection = self.file.connection();
        let request = match (landing, &mut state.staged) {
            (Landing::InOrder | Landing::OutOfOrder, _) | (_, None) => None,
            (Landing::Cut(length), Some(_)) => Some(resize(self.file.handle(), length)),
            (Landing::FirstOutOfOrder, Some(staged)) => staged.hide(&self.path)?,
        };
        answers.extend(request.map(|request| connection.send_write(request, &self.writes)));
        Ok(())
    }

    pub(super) async fn set_attributes(&self, wanted: &Attributes) -> Result<Outcome, Fault> {
        let mut answers = Vec::new();
        {
            let mut state = self.state();
            if let Some(size) = wanted.size {
                let landing = state.progress.resize(size);
                self.prepare(&mut state, landing, &mut answers)?;
            }
            state.attributes_set = true;
            answers.push(self.file.ask(|handle| {
                Request::new(Kind::Fsetstat)
                    .string(handle)
                    .attributes(wanted)
            }));
        }
        for answer in answers {
            file::done(answer).await?;
        }
        Ok(Outcome::Done)
    }

    /// Ends the upload: everything written and synced, then the name. Withdraws it if that fails, unless the connection was
    /// lost and it can be resumed. Gives the SHA-256 of what is published if that had to be read again. What it may only take the
    /// place of is given with its attributes.
    pub(super) async fn publish(
        &self,
        over: Option<(&Attributes, &Watched)>,
    ) -> Result<Option<[u8; 32]>, Fault> {
        let (is_touched, attributes_set, beginning) = {
            let state = self.state();
            let progress = &state.progress;
            (
                progress.is_touched(),
                state.attributes_set,
                progress.beginning(),
            )
        };
        if !is_touched {
            match beginning {
                // Neither complete nor withdrawn by anybody's wish: it stays what it was.
                Beginning::Partial => {
                    self.file.close().await?;
                    return Err(Fault::NothingWritten);
                }
                Beginning::Copy if !attributes_set => {
                    self.file.close().await?;
                    self.withdraw().await;
                    return Ok(None);
                }
                Beginning::Copy | Beginning::Nothing => {}
            }
        }
        let published = self.finish(over).await;
        match &published {
            Ok(_) => self.set_fate(Fate::Published),
            Err(Fault::Lost(_)) => {}
            Err(_) => self.withdraw().await,
        }
        published
    }

    fn set_fate(&self, fate: Fate) {
        if let Some(staged) = &mut self.state().staged {
            staged.fate = fate;
        }
    }

    async fn withdraw(&self) {
        let path = {
            let mut state = self.state();
            let Some(staged) = &mut state.staged else {
                return;
            };
            staged.fate = Fate::Remove;
            staged.path().to_vec()
        };
        let request = Request::new(Kind::Remove).string(&path);
        // Without an answer, the session tries again over its next connection.
        if self.file.connection().send(request).reply().await.is_ok() {
            self.set_fate(Fate::Published);
        }
    }

    async fn finish(
        &self,
        over: Option<(&Attributes, &Watched)>,
    ) -> Result<Option<[u8; 32]>, Fault> {
        if let Some((attributes, _)) = over {
            let times = Attributes {
                times: attributes.times,
                ..Attributes::default()
            };
            // A server that can't set them says so with an answer that nobody needs.
            drop(self.file.ask(|handle| {
                Request::new(Kind::Fsetstat)
                    .string(handle)
                    .attributes(&times)
            }));
        }
        self.sync_and_close().await?;
        self.writes.all_succeeded().await?;
        let connection = self.file.connection();
        let (staging_path, length, needs_reread) = {
            let state = self.state();
            let path = state.staged.as_ref().map(|staged| staged.path().to_vec());
            let needs_reread = state.progress.needs_reread(self.access);
            (path, state.progress.length(), needs_reread)
        };
        let digest = if needs_reread {
            let path = staging_path.as_ref().unwrap_or(&self.path);
            copy::digest(connection, path, staging_path.is_some().then_some(length)).await?
        } else {
            None
        };
        let Some(staging_path) = staging_path else {
            return Ok(digest);
        };
        let names = self
            .session
            .upgrade()
            .map(|session| session.names().clone());
        let _held;
        let _turn;
        match (over, &names) {
            (Some((_, watched)), _) => _held = watched.hold()?,
            (None, Some(names)) => _turn = names.all().changing(&[&self.path]).await,
            (None, None) => {}
        }
        let original = over.map(|(attributes, _)| Version::of(attributes));
        if let Some(original) = original.or(self.original) {
            let asked = connection.send(Request::new(Kind::Lstat).string(&self.path));
            if standing(asked).await?.as_ref().map(Version::of) != Some(original) {
                return Err(Fault::ChangedMeanwhile);
            }
        }
        match self.publish {
            Publish::Replace if connection.abilities.posix_rename => {
                let request = Request::extended("posix-rename@openssh.com")
                    .string(&staging_path)
                    .string(&self.path);
                file::done(connection.send(request)).await?;
            }
            Publish::Replace | Publish::MustNotExist => {
                perform::rename(connection, &staging_path, &self.path).await?;
            }
        }
        Ok(digest)
    }

    async fn sync_and_close(&self) -> Result<(), Fault> {
        let mut syncs = std::mem::take(&mut self.state().syncs);
        syncs.extend(self.ask_to_sync());
        // All requests are on their way before any answer is waited for.
        let closing = self.file.close();
        let synced = async {
            for sync in syncs {
                match file::done(sync).await {
                    Ok(_)
                    | Err(Fault::Answered {
                        code: UNSUPPORTED, ..
                    }) => {}
                    Err(fault) => return Err(fault),
                }
            }
            Ok(())
        };
        let (synced, closed) = futures_util::future::join(synced, closing).await;
        synced.and(closed)
    }

    /// Waits until the server has answered every WRITE, so that it is known whether the upload can be resumed.
    pub(super) async fn settle(&self) {
        // What failed is asked for when the upload is dropped.
        let _ = self.writes.all_succeeded().await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(staged) = state.staged.take() else {
            return;
        };
        match staged.fate {
            Fate::Published => {}
            Fate::Resumable if state.progress.is_resumable() && !self.writes.was_refused() => {
                tracing::info!(
                    staging_file = %String::from_utf8_lossy(staged.path()),
                    published_name = %String::from_utf8_lossy(&self.path),
                    bytes = state.progress.length(),
                    "an upload was interrupted; its account can resume it"
                );
            }
            Fate::Resumable | Fate::Remove => {
                if let Some(session) = self.session.upgrade() {
                    session.abandon(staged);
                }
            }
        }
    }
}

/// What stands at a path; a link is not followed.
pub(super) async fn standing(asked: Answer) -> Result<Option<Attributes>, Fault> {
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
    match staging::plan(access, standing) {
        Err(Refusal::NotFound) => Ok(UploadPlan::RESUME),
        plan => Ok(plan?),
    }
}

/// The client's own flags.
fn direct_flags(access: Access) -> u32 {
    [
        (access.read, flags::READ),
        (access.writes(), flags::WRITE),
        (access.append, flags::APPEND),
        (access.create, flags::CREATE),
        (access.truncate, flags::TRUNCATE),
        (access.create && access.exclusive, flags::EXCLUSIVE),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |all, (_, flag)| all | flag)
}

/// Sets the length of an open file.
pub(super) fn resize(handle: &Bytes, length: u64) -> Request {
    let size = Attributes {
        size: Some(length),
        ..Attributes::default()
    };
    Request::new(Kind::Fsetstat)
        .string(handle)
        .attributes(&size)
}

pub(super) fn with_mode(mode: u32) -> Attributes {
    Attributes {
        permissions: Some(mode),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_changed_and_a_link_is_not() {
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
        let content = |access| plan(access, Some(&file(7))).unwrap().content;
        assert_eq!(content(replace), Content::Empty);
        assert_eq!(content(write), Content::Existing);
        let link = Attributes {
            permissions: Some(0o120_777),
            ..Attributes::default()
        };
        assert!(matches!(
            plan(replace, Some(&link)),
            Err(Fault::ThroughLink)
        ));
    }

    #[test]
    fn a_direct_upload_opens_the_file_as_the_client_did() {
        let append = Access {
            append: true,
            create: true,
            ..Access::default()
        };
        assert_eq!(
            direct_flags(append),
            flags::WRITE | flags::APPEND | flags::CREATE
        );
        let all = Access {
            read: true,
            write: true,
            append: true,
            create: true,
            truncate: true,
            exclusive: true,
        };
        assert_eq!(direct_flags(all), 0x3f);
    }
}
