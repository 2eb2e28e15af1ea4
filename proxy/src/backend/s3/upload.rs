//! One file being written: parts of a multipart upload while it comes, its completion at CLOSE. A file smaller than a
//! part is one PUT at CLOSE. Nothing is seen under its name before.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{PutPayload, multipart::PartId};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Limits,
    bucket::Bucket,
    fault::Fault,
    location::Key,
    names,
    parts::{Assembly, Disorder, Part, part_size},
};
use crate::{
    backend::{
        ErrorKind,
        staging::{self, Content, Found, Publish},
    },
    operation::{Access, Attributes},
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
    publish: Publish,
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
    /// In order; `None` for one on its way.
    sent: Vec<Option<PartId>>,
    sending: JoinSet<(usize, Result<PartId, Fault>)>,
}

impl Upload {
    pub(super) async fn open(
        bucket: &Arc<Bucket>,
        key: Key,
        root: &Key,
        access: Access,
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
                    "{key} exists, and S3 can't change or continue a file in place; replace it as a whole (open with \
                     truncation)"
                ),
            ));
        }
        parent?;
        Ok(Self {
            bucket: Arc::clone(bucket),
            key,
            root: root.clone(),
            publish: plan.publish,
            assembly: Assembly::new(Arc::clone(&limits.window)),
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
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => none.insert(Multipart {
                id: self.bucket.begin(&self.key).await?,
                sent: Vec::new(),
                sending: JoinSet::new(),
            }),
        };
        let at_once = if part_size(part.index) == part_size(0) {
            IN_FLIGHT
        } else {
            1
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
            self.key.clone(),
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

    /// CLOSE: gives the file its name. On any failure nothing stands there that was not there before.
    pub(super) async fn publish(mut self) -> Result<(), Fault> {
        let outcome = self.complete().await;
        if outcome.is_err() {
            self.withdraw().await;
        }
        outcome
    }

    async fn complete(&mut self) -> Result<(), Fault> {
        if let Some(fault) = self.failed.take() {
            return Err(fault);
        }
        let only_if_absent = self.publish == Publish::MustNotExist;
        // Servers that do not know the condition are asked before.
        if only_if_absent && self.something_stands().await? {
            return Err(self.appeared());
        }
        let rest = self.assembly.rest().map_err(disordered)?;
        let published = if self.multipart.is_none() {
            let content = PutPayload::from_iter(rest.content);
            self.bucket.put(&self.key, content, only_if_absent).await
        } else {
            if rest.length > 0 {
                self.send(rest).await?;
            }
            self.join(only_if_absent).await
        };
        published.map_err(|fault| {
            if fault.is_failed_precondition() {
                self.appeared()
            } else {
                fault
            }
        })
    }

    async fn join(&mut self, only_if_absent: bool) -> Result<(), Fault> {
        let Some(multipart) = &mut self.multipart else {
            return Ok(());
        };
        while !multipart.sending.is_empty() {
            multipart.wait_for_one().await?;
        }
        let parts: Vec<_> = multipart.sent.drain(..).flatten().collect();
        self.bucket
            .complete(&self.key, &multipart.id, &parts, only_if_absent)
            .await
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
        match self.bucket.abort(&self.key, &multipart.id).await {
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

fn disordered(disorder: Disorder) -> Fault {
    let kind = match disorder {
        Disorder::WrittenBefore(_) | Disorder::WindowFull(_) => ErrorKind::Unsupported,
        Disorder::Gap(..) => ErrorKind::Failure,
    };
    Fault::judged(kind, disorder.to_string())
}
