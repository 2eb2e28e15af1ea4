//! One file being written: parts of a multipart upload while it comes, its completion at CLOSE. A file smaller than a
//! part is one PUT at CLOSE. Nothing is seen under its name before.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{PutPayload, multipart::PartId};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Limits,
    bucket::Bucket,
    fault::Fault,
    location::Key,
    names,
    parts::{Assembly, Disorder, Part},
    tending,
    turns::Turn,
    wire::{Over, Version},
};
use crate::{
    backend::{
        ErrorKind, FileVersion,
        staging::{self, Beginning, Content, Found, Progress, Publish, StagingName},
    },
    operation::{Access, Attributes, Outcome},
};

/// Parts of one upload that are on their way at a time; larger parts go one by one.
const IN_FLIGHT: usize = 2;

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Upload {
    bucket: Arc<Bucket>,
    key: Key,
    /// The mount's directory.
    root: Key,
    access: Access,
    publish: Publish,
    /// What it may replace is said at CLOSE.
    is_tended: bool,
    progress: Progress,
    assembly: Assembly,
    multipart: Option<Multipart>,
    /// The session's places for parts on their way.
    places: Arc<Semaphore>,
    /// The first failure. From then on nothing can be published.
    failed: Option<Fault>,
}

#[derive(Debug)]
struct Multipart {
    id: String,
    /// Where the parts are joined: the file's own key, or a hidden one beside it if the service can't join them under the
    /// condition that nothing stands there.
    key: Key,
    /// In order; `None` for one on its way.
    sent: Vec<Option<PartId>>,
    sending: JoinSet<(usize, Result<PartId, Fault>)>,
}

impl Upload {
    pub(super) async fn open(
        bucket: &Arc<Bucket>,
        key: Key,
        root: &Key,
        (access, is_tended): (Access, bool),
        limits: &Limits,
    ) -> Result<Self, Fault> {
        let (found, parent) = futures_util::future::join(
            names::find(bucket, &key, root),
            names::parent_exists(bucket, &key, root),
        )
        .await;
        let found = found?;
        let standing = match &found {
            None => Found::Nothing,
            Some(attributes) if attributes.is_directory() => Found::Directory,
            Some(_) => Found::File,
        };
        let plan = staging::plan(access, standing)
            .map_err(|refusal| Fault::judged(refusal.kind(), format!("{key}: {refusal}")))?;
        let is_empty = found.is_some_and(|attributes| attributes.size == Some(0));
        if plan.content == Content::Existing && !is_empty {
            return Err(Fault::judged(
                ErrorKind::Unsupported,
                format!(
                    "{key} exists, and an object store can't change or continue a file in place; replace it as a whole \
                     (open with truncation)"
                ),
            ));
        }
        parent?;
        let progress = Progress::new(Beginning::Nothing, 0);
        let mut assembly =
            Assembly::new(bucket.interface().part_sizes(), Arc::clone(&limits.window));
        if progress.needs_reread(access) {
            assembly.keep_digest();
        }
        Ok(Self {
            bucket: Arc::clone(bucket),
            key,
            root: root.clone(),
            access,
            publish: plan.publish,
            is_tended,
            progress,
            assembly,
            multipart: None,
            places: Arc::clone(&limits.parts),
            failed: None,
        })
    }

    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            size: Some(self.assembly.written()),
            permissions: Some(names::FILE_MODE),
            ..Attributes::default()
        }
    }

    /// Refuses all but the size that the file has anyway.
    pub(super) fn set_attributes(&self, attributes: &Attributes) -> Result<(), Fault> {
        let beside_size = Attributes {
            size: None,
            ..attributes.clone()
        };
        let same_size = attributes
            .size
            .is_none_or(|size| size == self.assembly.written());
        if same_size && beside_size == Attributes::default() {
            Ok(())
        } else {
            Err(names::cannot_set_attributes())
        }
    }

    /// Takes bytes. It waits while more parts are full than may be on their way.
    pub(super) async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let written = self.accept(offset, data).await;
        if let Err(fault) = &written {
            self.assembly.clear();
            self.failed = Some(fault.clone());
        }
        written
    }

    async fn accept(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if !data.is_empty() {
            self.progress.write(offset, data.len() as u64);
        }
        self.assembly.write(offset, data).map_err(disordered)?;
        while let Some(part) = self.assembly.full_part() {
            self.send(part).await?;
        }
        if let Some(multipart) = &mut self.multipart {
            while let Some(sent) = multipart.sending.try_join_next() {
                multipart.note(sent)?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, part: Part) -> Result<(), Fault> {
        if self.multipart.is_none() {
            self.multipart = Some(self.begin().await?);
        }
        let Some(multipart) = &mut self.multipart else {
            return Ok(());
        };
        let at_once = if self.bucket.interface().part_sizes().is_large(part.index) {
            1
        } else {
            IN_FLIGHT
        };
        while multipart.sending.len() >= at_once {
            multipart.wait_for_one().await?;
        }
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| Fault::judged(ErrorKind::Unavailable, "the session has ended"))?;
        let (bucket, key, id) = (
            Arc::clone(&self.bucket),
            multipart.key.clone(),
            multipart.id.clone(),
        );
        multipart.sent.push(None);
        multipart.sending.spawn(async move {
            let _place = place;
            let content = PutPayload::from_iter(part.content);
            (
                part.index,
                bucket.put_part(&key, &id, part.index, content).await,
            )
        });
        Ok(())
    }

    async fn begin(&self) -> Result<Multipart, Fault> {
        let has_condition = self.is_tended || self.publish == Publish::MustNotExist;
        let key = if has_condition && !self.bucket.interface().completes_conditionally() {
            hidden_beside(&self.key)?
        } else {
            self.key.clone()
        };
        Ok(Multipart {
            id: self.bucket.begin(&key).await?,
            key,
            sent: Vec::new(),
            sending: JoinSet::new(),
        })
    }

    /// CLOSE: gives the file its name. On any failure nothing stands there that was not there before.
    pub(super) async fn publish(mut self) -> Result<Outcome, Fault> {
        let over = match self.publish {
            Publish::MustNotExist => Over::Nothing,
            Publish::Replace => Over::Anything,
        };
        let outcome = self.complete(over).await;
        if outcome.is_err() {
            self.withdraw().await;
        }
        outcome
    }

    /// CLOSE: gives the file its name in the place of that version.
    pub(super) async fn publish_over(mut self, version: FileVersion) -> Result<Outcome, Fault> {
        let outcome = match tending::condition(&self.bucket, &self.key, version).await {
            Ok((_, version)) => self.complete(Over::Only(&version)).await,
            Err(fault) => Err(fault),
        };
        if outcome.is_err() {
            self.withdraw().await;
        }
        outcome
    }

    async fn complete(&mut self, over: Over<'_>) -> Result<Outcome, Fault> {
        if let Some(fault) = self.failed.take() {
            return Err(fault);
        }
        let _turn = Turn::of(&self.bucket, &self.key).await;
        // Servers that do not know the condition are asked before.
        if matches!(over, Over::Nothing) && self.something_stands().await? {
            return Err(self.appeared());
        }
        let rest = self.assembly.rest().map_err(disordered)?;
        let published = if self.multipart.is_none() {
            self.put(rest, over).await
        } else {
            if rest.length > 0 {
                self.send(rest).await?;
            }
            self.join(over).await
        };
        match published {
            Ok(sha256) => Ok(Outcome::digested(sha256)),
            Err(fault) if fault.is_failed_precondition() => Err(match over {
                Over::Only(_) => tending::replaced(&self.key),
                Over::Nothing | Over::Anything => self.appeared(),
            }),
            Err(fault) => Err(fault),
        }
    }

    /// A file smaller than a part.
    async fn put(&mut self, whole: Part, over: Over<'_>) -> Result<Option<[u8; 32]>, Fault> {
        let sha256 = self.progress.needs_reread(self.access).then(|| {
            let mut digest = Sha256::new();
            whole.content.iter().for_each(|piece| digest.update(piece));
            digest.finalize().into()
        });
        let content = PutPayload::from_iter(whole.content);
        self.bucket.put(&self.key, content, over).await?;
        Ok(sha256)
    }

    /// Joins the parts. The digest is there unless the one that was computed on the way here will do.
    async fn join(&mut self, over: Over<'_>) -> Result<Option<[u8; 32]>, Fault> {
        let Some(multipart) = &mut self.multipart else {
            return Ok(None);
        };
        while !multipart.sending.is_empty() {
            multipart.wait_for_one().await?;
        }
        let parts: Vec<_> = multipart.sent.drain(..).flatten().collect();
        let (bucket, joined) = (&self.bucket, multipart.key.clone());
        let is_hidden = joined != self.key;
        let at_once = if is_hidden { Over::Anything } else { over };
        let tag = bucket
            .complete(&joined, &multipart.id, &parts, at_once)
            .await?;
        // Nothing is left of it to withdraw.
        self.multipart = None;
        let sha256 = match self.assembly.take_digest() {
            None if self.progress.needs_reread(self.access) => {
                reread(bucket, &joined, tag, self.assembly.written()).await
            }
            kept => kept,
        };
        if is_hidden {
            let copied = bucket
                .copy(&joined, &Version::default(), &self.key, over)
                .await;
            if let Err(fault) = bucket.delete(&joined).await {
                tracing::warn!(
                    bucket = bucket.name(), key = %joined, %fault,
                    "a hidden file that an upload was gathered in could not be removed"
                );
            }
            copied?;
        }
        Ok(sha256)
    }

    async fn something_stands(&self) -> Result<bool, Fault> {
        let found = names::find(&self.bucket, &self.key, &self.root).await?;
        Ok(found.is_some())
    }

    fn appeared(&self) -> Fault {
        Fault::judged(
            ErrorKind::AlreadyExists,
            format!("{} has appeared since the upload began", self.key),
        )
    }

    /// Ends the upload without publishing it, and drops its parts.
    pub(super) async fn withdraw(&mut self) {
        let Some(mut multipart) = self.multipart.take() else {
            return;
        };
        multipart.sending.shutdown().await;
        match self.bucket.abort(&multipart.key, &multipart.id).await {
            Ok(()) => {}
            // Joined, or aborted before.
            Err(fault) if fault.is_not_found() => {}
            Err(fault) => tracing::warn!(
                bucket = self.bucket.name(), key = %self.key, upload = multipart.id, %fault,
                "the parts of a withdrawn upload could not be dropped; a lifecycle rule of the bucket should do it"
            ),
        }
    }
}

impl Multipart {
    async fn wait_for_one(&mut self) -> Result<(), Fault> {
        match self.sending.join_next().await {
            Some(sent) => self.note(sent),
            None => Ok(()),
        }
    }

    fn note(
        &mut self,
        sent: Result<(usize, Result<PartId, Fault>), tokio::task::JoinError>,
    ) -> Result<(), Fault> {
        let lost = || Fault::judged(ErrorKind::Failure, "a part of the upload was lost");
        let (index, part) = sent.map_err(|_| lost())?;
        *self.sent.get_mut(index).ok_or_else(lost)? = Some(part?);
        Ok(())
    }
}

/// The digest of the version that has the tag, read again. The file stands already, so that a failure leaves the record
/// without a digest, and no more.
async fn reread(bucket: &Bucket, key: &Key, tag: Option<String>, length: u64) -> Option<[u8; 32]> {
    let digest = async {
        let mut fetched = bucket.get(key, 0..length, tag.as_deref()).await?;
        let (mut digest, mut read) = (Sha256::new(), 0);
        while let Some(piece) = fetched.content.next().await {
            let piece = piece.map_err(|error| bucket.content_fault(&error))?;
            read += piece.len() as u64;
            digest.update(&piece);
        }
        if read == length {
            Ok(digest.finalize().into())
        } else {
            Err(Fault::judged(
                ErrorKind::Failure,
                format!("{read} of {length} bytes came"),
            ))
        }
    };
    if tag.is_none() {
        tracing::warn!(
            bucket = bucket.name(), %key,
            "the server does not say which version an upload became: it has no digest"
        );
        return None;
    }
    match digest.await {
        Ok(sha256) => Some(sha256),
        Err(fault) => {
            tracing::warn!(
                bucket = bucket.name(), %key, %fault,
                "an upload was published and could not be read again: it has no digest"
            );
            None
        }
    }
}

/// A key in the same directory that no client sees.
pub(super) fn hidden_beside(key: &Key) -> Result<Key, Fault> {
    let name = StagingName::random()
        .map_err(|error| Fault::judged(ErrorKind::Failure, format!("no randomness: {error}")))?;
    let directory = key
        .parent()
        .map_or_else(String::new, |parent| parent.children());
    let name = String::from_utf8_lossy(name.as_bytes());
    Ok(Key::listed(&format!("{directory}{name}")))
}

fn disordered(disorder: Disorder) -> Fault {
    let kind = match disorder {
        Disorder::WrittenBefore(_) | Disorder::WindowFull(_) => ErrorKind::Unsupported,
        Disorder::Gap(..) => ErrorKind::Failure,
    };
    Fault::judged(kind, disorder.to_string())
}
