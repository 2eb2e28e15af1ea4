//! The end of an upload: the rest of its bytes, and its name.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use portcullis_at_rest::Head;
use sha2::{Digest as _, Sha256};

use super::{
    answer,
    download::Download,
    fault::Fault,
    session::{Handle, Session},
    steps::Steps,
    tend::is_same_file,
    upload::{Gathered, Origin, Piece, Rest, Upload},
};
use crate::{
    backend::{BackendError, Execution},
    operation::{Access, Attributes, HandleId, Operation, Outcome, Stored},
    path::VirtualPath,
};

impl Session {
    pub(super) fn close(self, steps: Steps, handle: HandleId) -> Execution {
        let closed = self.handles.table().remove(&handle);
        let upload = match closed {
            Some(Handle::Upload(upload)) => upload,
            Some(Handle::Download(_) | Handle::Plain | Handle::Directory) | None => {
                return steps.pass();
            }
        };
        // The table held the only other reference, and nothing runs beside a CLOSE.
        let Some(upload) = Arc::into_inner(upload) else {
            return answer(Err(Fault::NoSuchHandle));
        };
        let upload = upload.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !upload.is_open_below() {
            return async move { self.publish_update(&steps, upload, handle).await }.boxed();
        }
        let is_as_it_was = matches!(upload.origin, Origin::Partial { .. }) && !upload.is_touched();
        if is_as_it_was && !upload.is_spoiled {
            // The backend says that it publishes nothing, and keeps it.
            return steps.pass();
        }
        let times = upload.pending.times;
        let withdrawal = upload.withdrawal();
        let rest = upload.finish(&self.vault, self.can_read);
        match rest {
            Ok(Rest::Pieces {
                pieces,
                made,
                stored: Some(readers),
            }) => {
                let pieces = start(&steps, handle, pieces);
                let download = Download::new(handle, *readers, &self.buffers);
                async move {
                    finish(pieces).await?;
                    match read_back(&steps, download).await {
                        Ok(sha256) => {
                            if let Some(set) = set_times(&steps, handle, times) {
                                set.await?;
                            }
                            steps.close(handle).await?;
                            Ok(published(made, Some(sha256)))
                        }
                        Err(error) => {
                            self.spoiled.fetch_add(1, Ordering::Relaxed);
                            if let Some((offset, data)) = withdrawal {
                                let _ = steps.write(handle, offset, data).await;
                            }
                            Err(error)
                        }
                    }
                }
                .boxed()
            }
            Ok(Rest::Pieces {
                pieces,
                made,
                stored: None,
            }) => {
                let mut started = start(&steps, handle, pieces);
                started.extend(set_times(&steps, handle, times));
                started.push(steps.pass());
                let done = finish(started);
                async move { done.await.map(|_| published(made, None)) }.boxed()
            }
            Ok(Rest::Gathered(gathered)) => {
                async move { publish(&steps, handle, *gathered, times).await }.boxed()
            }
            Err(fault) => {
                self.spoiled.fetch_add(1, Ordering::Relaxed);
                withdraw(&steps, handle, withdrawal, fault)
            }
        }
    }

    /// Writes a changed file anew, if nobody else has changed it.
    async fn publish_update(
        &self,
        steps: &Steps,
        mut upload: Upload,
        handle: HandleId,
    ) -> Result<Outcome, BackendError> {
        let Origin::Update { beginning, .. } = &upload.origin else {
            return Err(Fault::NoSuchHandle.into());
        };
        if !upload.is_touched() && upload.pending == Attributes::default() {
            return Ok(unchanged(&upload));
        }
        let beneath = handle.beneath();
        steps.open(&upload.path, beneath, Access::READ).await?;
        let now = steps.read(beneath, 0, Head::LENGTH).await;
        let closed = steps.close(beneath).await;
        if !is_same_file(&now?, beginning) {
            return Err(Fault::ChangedMeanwhile.into());
        }
        closed?;
        if upload.minted.is_none() {
            upload.minted = self.vault.mint().await?;
        }
        let (path, pending) = (upload.path.clone(), upload.pending.clone());
        let Rest::Gathered(gathered) = upload.finish(&self.vault, self.can_read)? else {
            return Err(Fault::NoSuchHandle.into());
        };
        steps.open(&path, handle, Access::REPLACE).await?;
        let times = pending.times;
        let mut set = Ok(Outcome::Done);
        if pending != Attributes::default() {
            let attributes = pending;
            set = steps
                .start(Operation::Fsetstat { handle, attributes })
                .await;
        }
        let published = publish(steps, handle, *gathered, times).await?;
        // Attributes that can't be set cost the file nothing.
        set.map(|_| published)
    }

    /// SETSTAT with a size.
    pub(super) async fn resize(
        self,
        steps: Steps,
        path: VirtualPath,
        attributes: Attributes,
    ) -> Result<Outcome, BackendError> {
        let access = Access {
            write: true,
            ..Access::READ
        };
        let handle = self.own_handle();
        let mut upload = self.load(&steps, &path, handle, access).await?;
        let mut outcome = unchanged(&upload);
        if let Some(size) = attributes.size
            && size != upload.length()
        {
            upload.resize(size)?;
            outcome = self.publish_update(&steps, upload, handle).await?;
        }
        let rest = Attributes {
            size: None,
            ..attributes
        };
        if rest != Attributes::default() {
            let set = Operation::Setstat {
                path,
                attributes: rest,
            };
            steps.start(set).await?;
        }
        Ok(outcome)
    }
}

/// Of an update that changed nothing: the file that stands there still.
fn unchanged(upload: &Upload) -> Outcome {
    let Origin::Update { beginning, .. } = &upload.origin else {
        return Outcome::Done;
    };
    let stored = Head::parse(beginning).ok().map(|head| Stored {
        object: head.object(),
        size: upload.length(),
    });
    if stored.is_none() {
        return Outcome::Done;
    }
    Outcome::Published {
        sha256: None,
        stored,
    }
}

pub(super) fn start(steps: &Steps, handle: HandleId, pieces: Vec<Piece>) -> Vec<Execution> {
    let mut started = Vec::with_capacity(pieces.len());
    let mut pieces = pieces.into_iter().peekable();
    while let Some((offset, mut data)) = pieces.next() {
        // Heads are small: they go with what follows them.
        while data.len() < SMALL
            && let Some((_, next)) = pieces.next_if(|(at, _)| *at == offset + data.len() as u64)
        {
            data = Bytes::from([data, next].concat());
        }
        started.push(steps.write(handle, offset, data));
    }
    started
}

/// Bytes of a piece that is not worth a WRITE of its own.
const SMALL: usize = 1024;

pub(super) fn finish(started: Vec<Execution>) -> Execution {
    async move {
        let mut last = Outcome::Done;
        for outcome in join_all(started).await {
            last = outcome?;
        }
        // The digest of a backend is that of what lies there.
        Ok(if let Outcome::Published { .. } = last {
            Outcome::Done
        } else {
            last
        })
    }
    .boxed()
}

/// What failed is not gone on with: neither by this session nor by a later one.
pub(super) fn withdraw(
    steps: &Steps,
    handle: HandleId,
    withdrawal: Option<Piece>,
    fault: Fault,
) -> Execution {
    let written = withdrawal.map(|(offset, data)| steps.write(handle, offset, data));
    async move {
        if let Some(written) = written {
            // A backend that refuses it has lost the upload as well.
            let _ = written.await;
        }
        Err(fault.into())
    }
    .boxed()
}

/// The SHA-256 of what is stored.
async fn read_back(steps: &Steps, download: Download) -> Result<[u8; 32], BackendError> {
    let mut digest = Sha256::new();
    let mut offset = 0;
    while let Outcome::Data(data) = download.read(steps, offset, READ_BACK).await? {
        offset += data.len() as u64;
        digest.update(&data);
    }
    Ok(digest.finalize().into())
}

/// Bytes that are read at once.
const READ_BACK: u32 = 1 << 20;

/// Sets times again that the client set before the last bytes were written. Whether they can be set it has heard then.
fn set_times(steps: &Steps, handle: HandleId, times: Option<(u32, u32)>) -> Option<Execution> {
    let set = steps.start(Operation::Fsetstat {
        handle,
        attributes: Attributes {
            times: Some(times?),
            ..Attributes::default()
        },
    });
    Some(set.map(|_| Ok(Outcome::Done)).boxed())
}

async fn publish(
    steps: &Steps,
    handle: HandleId,
    mut gathered: Gathered,
    times: Option<(u32, u32)>,
) -> Result<Outcome, BackendError> {
    loop {
        let pieces = gathered.next()?;
        if pieces.is_empty() {
            break;
        }
        finish(start(steps, handle, pieces)).await?;
    }
    if let Some(set) = set_times(steps, handle, times) {
        set.await?;
    }
    steps.close(handle).await?;
    Ok(published(gathered.made(), gathered.digest()))
}

fn published(made: Stored, sha256: Option<[u8; 32]>) -> Outcome {
    Outcome::Published {
        sha256,
        stored: Some(made),
    }
}
