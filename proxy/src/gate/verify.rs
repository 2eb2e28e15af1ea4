//! What lies on a backend, for the gateway's comparison with the log. It looks by itself, and each look is on record as an
//! operation of a session of its own; the READs of a file have one record before and one after.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::FuturesOrdered};
use portcullis_journal::{Journal, Urgency};

use super::{
    extents::Announcement,
    gateway_error,
    measure::{self, next_handle},
    next_operation,
};
use crate::{
    allowance::Allowance,
    backend::{Backend, BackendError, BackendService, Owner},
    operation::{Attributes, Entry, Outcome},
    pace::Pace,
    path::VirtualPath,
    policy::{
        DataOps, Extent, FileLook, Look, Mount, PathRules, Permissions, Permit, Requester, Verify,
    },
    sftp::digest::Digest,
};

/// Bytes of a READ: whole segments of an encrypted file, which then are one READ below.
const CHUNK: u32 = 192 << 10;
/// READs under way, 4 MiB: each passes from thread to thread, and threads of the lowest priority may wait for their turn. Servers are
/// far away.
const AHEAD: usize = 21;

fn owner(pace: &Pace) -> Owner {
    let owner = Owner::new(b"gateway".as_slice()).resuming(Some(false));
    owner.paced(pace.clone())
}

/// A backend as the gateway looks at it.
#[derive(Debug)]
pub struct Verified {
    pub journal: Journal,
    pub requester: Arc<Requester>,
    /// Of the backend's root, at its place.
    pub mount: Mount,
    pub backend: Arc<dyn Backend>,
}

impl Verified {
    /// What lies below a directory of a backend, as a mount names it, at the place of the backend's name. Files are copied at
    /// that pace.
    ///
    /// # Errors
    /// If that is no path, or there is no randomness.
    pub fn below(
        journal: Journal,
        name: &str,
        service: &dyn BackendService,
        directory: &[u8],
        pace: &Pace,
    ) -> Result<Self, BackendError> {
        let requester = Requester::gateway().map_err(|error| gateway_error(error.to_string()))?;
        let at = VirtualPath::clean(name.as_bytes())
            .map_err(|error| gateway_error(error.to_string()))?;
        let mount = Mount {
            at,
            backend: name.to_owned(),
            directory: directory.to_vec(),
            permissions: Permissions::default(),
            rules: PathRules::default(),
            group: None,
            allowance: Allowance::default(),
            extensions: None,
            resume: Some(false),
        };
        Ok(Self {
            journal,
            requester: Arc::new(requester),
            backend: service.session(&mount.directory, &owner(pace)),
            mount,
        })
    }

    /// Goes on with a new session of the backend.
    pub async fn renew(&mut self, service: &dyn BackendService, pace: &Pace) {
        self.backend.end().await;
        self.backend = service.session(&self.mount.directory, &owner(pace));
    }

    /// All that lies in a directory, but for `.` and `..`.
    ///
    /// # Errors
    /// If the backend says so, or a look can't be recorded.
    pub async fn entries(&self, directory: &VirtualPath) -> Result<Vec<Entry>, BackendError> {
        let handle = next_handle();
        let look = |look| self.look(directory, Verify::Directory(look));
        look(Look::Open(handle)).await?;
        let mut all = Vec::new();
        let listed = loop {
            match look(Look::Next(handle)).await {
                Ok(Outcome::Names(entries)) => all.extend(
                    entries
                        .into_iter()
                        .filter(|entry| !matches!(&entry.name[..], b"." | b"..")),
                ),
                Ok(_) => break Ok(all),
                Err(error) => break Err(error),
            }
        };
        let closed = look(Look::Close(handle)).await;
        let all = listed?;
        closed?;
        Ok(all)
    }

    /// What lies there; a link is not followed.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub async fn stat(&self, path: &VirtualPath) -> Result<Attributes, BackendError> {
        let outcome = self.look(path, Verify::File(FileLook::Stat)).await?;
        if let Outcome::Attributes(attributes) = outcome {
            Ok(attributes)
        } else {
            Err(gateway_error("no attributes".to_owned()))
        }
    }

    /// The SHA-256 of a file, which is believed to have `size` bytes, if that is known.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub async fn sha256(
        &self,
        path: &VirtualPath,
        size: Option<u64>,
        pace: &Pace,
    ) -> Result<[u8; 32], BackendError> {
        let handle = next_handle();
        self.look(path, Verify::File(FileLook::Open(handle)))
            .await?;
        let read = |offset| {
            let length = CHUNK;
            self.permit(
                path,
                Verify::File(FileLook::Read {
                    handle,
                    offset,
                    length,
                }),
            )
        };
        let digest = self.digest(read, size.unwrap_or(u64::MAX), pace).await;
        let closed = self.look(path, Verify::File(FileLook::Close(handle))).await;
        let digest = digest?;
        closed?;
        Ok(digest)
    }

    async fn digest(
        &self,
        read: impl Fn(u64) -> Result<Permit, BackendError>,
        size: u64,
        pace: &Pace,
    ) -> Result<[u8; 32], BackendError> {
        let extent = Extent::of(&read(0)?, DataOps::Summary, next_operation())
            .ok_or_else(|| gateway_error("no stretch".to_owned()))?;
        let announcement = Arc::new(Announcement::new(self.journal.clone(), extent.clone()));
        let durable = self.journal.record_intent(extent, Urgency::Now).await;
        announcement.settle(durable);
        let digest = Digest::new();
        let mut asked = 0_u64;
        let mut under_way = FuturesOrdered::new();
        loop {
            // Behind the end there is nothing to ask for but whether it is the end.
            while under_way.is_empty() || under_way.len() < AHEAD && asked < size {
                under_way.push_back(self.read(&announcement, read(asked)?, asked)?);
                asked += u64::from(CHUNK);
            }
            let Some((offset, result)) = under_way.next().await else {
                break;
            };
            let Outcome::Data(data) = result? else {
                break;
            };
            let bytes = data.len() as u64;
            digest.add(data);
            pace.take(bytes).await;
            if bytes < u64::from(CHUNK) {
                // The others are not where this one ended.
                while under_way.next().await.is_some() {}
                asked = offset + bytes;
            }
        }
        while under_way.next().await.is_some() {}
        drop(announcement);
        tokio::task::spawn_blocking(move || digest.finish())
            .await
            .map_err(|error| gateway_error(error.to_string()))
    }

    fn read(
        &self,
        announcement: &Arc<Announcement>,
        permit: Permit,
        offset: u64,
    ) -> Result<impl Future<Output = (u64, Result<Outcome, BackendError>)> + use<>, BackendError>
    {
        let unrecorded = || gateway_error("the look can't be recorded".to_owned());
        let mut covering = announcement.covering(&permit).ok_or_else(unrecorded)?;
        let recorded = covering
            .prove(permit)
            .map_err(|error| gateway_error(error.to_string()))?;
        covering.begin();
        let execution = self.backend.execute(recorded);
        Ok(async move {
            let result = execution.await;
            covering.end(offset, 0, &result);
            (offset, result)
        })
    }

    fn permit(&self, path: &VirtualPath, look: Verify) -> Result<Permit, BackendError> {
        Permit::verifying(&self.requester, &self.mount, next_operation(), path, look)
            .ok_or_else(|| gateway_error("a path outside the backend".to_owned()))
    }

    async fn look(&self, path: &VirtualPath, look: Verify) -> Result<Outcome, BackendError> {
        let permit = self.permit(path, look)?;
        measure::perform(&self.journal, &self.backend, permit).await
    }
}
