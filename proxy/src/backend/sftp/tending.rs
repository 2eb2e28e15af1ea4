//! Stored files are changed by the gateway itself: first bytes where they lie, and whole files by an upload that takes the place of
//! the one that was read.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    fault::Fault,
    file::{self, File},
    session::{Handle, Session},
    upload::{standing, with_mode},
    wire::{Kind, Request, flags},
};
use crate::{
    backend::{Beginning, FileVersion, staging::Refusal},
    operation::{Attributes, Outcome},
    policy::Permit,
};

const PERMISSION_DENIED: u32 = 3;
/// What the owner of a file needs.
const READ_AND_WRITE: u32 = 0o600;
const MODE: u32 = 0o7777;

impl Session {
    pub(super) async fn exchange(
        self: &Arc<Self>,
        permit: &Permit,
        beginning: &Beginning,
    ) -> Result<u64, Fault> {
        let target = permit.target().ok_or(Fault::ForTheGateway)?;
        let file = self.open_for_change(&self.named_on_server(target)?).await?;
        overwrite(&file, beginning).await?;
        file.close().await?;
        Ok((beginning.before.len() + beginning.after.len()) as u64)
    }

    pub(super) async fn destroy(
        self: &Arc<Self>,
        permit: &Permit,
        beginning: &Beginning,
    ) -> Result<Outcome, Fault> {
        let target = permit.target().ok_or(Fault::ForTheGateway)?;
        let path = self.named_on_server(target)?;
        let watched = self.names().all().watch(&path).await?;
        let file = self.open_for_change(&path).await?;
        overwrite(&file, beginning).await?;
        file.close().await?;
        // What a client has put there meanwhile is not removed.
        let _held = watched.hold()?;
        let removed = self.connection().await?;
        file::done(removed.send(Request::new(Kind::Remove).string(&path))).await
    }

    pub(super) async fn version(self: &Arc<Self>, permit: &Permit) -> Result<FileVersion, Fault> {
        let target = permit.target().ok_or(Fault::ForTheGateway)?;
        let path = self.named_on_server(target)?;
        let watched = Arc::new(self.names().all().watch(&path).await?);
        let asked = Request::new(Kind::Lstat).string(&path);
        let asked = self.connection().await?.send(asked);
        let attributes = standing(asked).await?.ok_or(Refusal::NotFound)?;
        Ok(FileVersion::Watched {
            attributes,
            watched,
        })
    }

    pub(super) async fn close_over(
        self: &Arc<Self>,
        permit: &Permit,
        version: &FileVersion,
    ) -> Result<Outcome, Fault> {
        let handle = permit.operation().handle().ok_or(Fault::NoSuchHandle)?;
        let closed = self.handles().remove(&handle);
        match (closed, version) {
            (
                Some(Handle::Upload(upload)),
                FileVersion::Watched {
                    attributes,
                    watched,
                },
            ) => {
                let digest = upload.publish(Some((attributes, watched))).await?;
                Ok(Outcome::digested(digest))
            }
            (
                Some(Handle::Upload(_) | Handle::File(_) | Handle::Directory(_)) | None,
                FileVersion::Inode(_) | FileVersion::Object { .. } | FileVersion::Watched { .. },
            ) => Err(Fault::NoSuchHandle),
        }
    }

    /// Opens a file for reading and writing. One that its owner, the account on the server, has made read-only may be written for
    /// this moment.
    async fn open_for_change(self: &Arc<Self>, path: &[u8]) -> Result<File, Fault> {
        let connection = self.connection().await?;
        let open = || {
            let request = Request::new(Kind::Open)
                .string(path)
                .number(flags::READ | flags::WRITE)
                .attributes(&Attributes::default());
            File::opened(Arc::clone(&connection), request)
        };
        let refused = match open().await {
            Err(
                fault @ Fault::Answered {
                    code: PERMISSION_DENIED,
                    ..
                },
            ) => fault,
            opened => return opened,
        };
        let asked = connection.send(Request::new(Kind::Lstat).string(path));
        let found = standing(asked).await?.and_then(|found| found.permissions);
        let is_file = |mode: u32| mode & Attributes::TYPE_MASK == Attributes::REGULAR;
        let Some(mode) = found.filter(|mode| is_file(*mode)) else {
            return Err(refused);
        };
        let set = |mode: u32| {
            let request = Request::new(Kind::Setstat).string(path);
            file::done(connection.send(request.attributes(&with_mode(mode & MODE))))
        };
        if set(mode | READ_AND_WRITE).await.is_err() {
            return Err(refused);
        }
        let opened = open().await;
        set(mode).await?;
        opened
    }
}

/// Exchanges the first bytes, and puts the times back.
async fn overwrite(file: &File, beginning: &Beginning) -> Result<(), Fault> {
    let Beginning {
        before,
        after,
        times,
        pace: _,
    } = beginning;
    let stat = || file.ask(|handle| Request::new(Kind::Fstat).string(handle));
    let asked = stat();
    // By the same handle: a server that makes a new file of what is opened for writing shows it here, before it does harm.
    let is_same = before.len() == after.len() && begins(file, before).await?;
    let found = file::attributes(asked).await?;
    if !is_same {
        return Err(Fault::ChangedMeanwhile);
    }
    // One request, which a server that is killed has carried out or not.
    let written = file.ask(|handle| {
        Request::new(Kind::Write)
            .string(handle)
            .long(0)
            .data(after.clone())
    });
    file::done(written).await?;
    let times = Attributes {
        times: times.or(found.times),
        ..Attributes::default()
    };
    let set = file.ask(|handle| {
        Request::new(Kind::Fsetstat)
            .string(handle)
            .attributes(&times)
    });
    let can_sync = file.connection().abilities.fsync;
    let synced =
        can_sync.then(|| file.ask(|handle| Request::extended("fsync@openssh.com").string(handle)));
    let asked = stat();
    match file::done(set).await {
        // What a server does not set, it has not set for the upload either.
        Ok(_) | Err(Fault::Answered { .. }) => {}
        Err(fault) => return Err(fault),
    }
    if let Some(synced) = synced {
        file::done(synced).await?;
    }
    let (now, before) = (file::attributes(asked).await?.size, found.size);
    if now == before {
        return Ok(());
    }
    Err(Fault::LengthChanged {
        expected: before.unwrap_or_default(),
        length: now.unwrap_or_default(),
    })
}

async fn begins(file: &File, expected: &Bytes) -> Result<bool, Fault> {
    let mut read = 0;
    while read < expected.len() {
        let left = u32::try_from(expected.len() - read).unwrap_or(u32::MAX);
        let Outcome::Data(data) = file.read(read as u64, left).await? else {
            return Ok(false);
        };
        if expected.get(read..read + data.len()) != Some(&data[..]) {
            return Ok(false);
        }
        read += data.len();
    }
    Ok(true)
}
