//! An existing file that is continued or changed.
//!
//! FTP can't copy on the server, and what stands under the name must stay whole until CLOSE. So the old content goes through
//! the gateway: straight into the staging file if the client continues the file at its end, and into memory if it writes
//! or reads elsewhere. Files up to a configured size only.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    download::Download,
    fault::Fault,
    names,
    partial::Staged,
    pool::{Lease, Pool},
    upload::Upload,
};
use crate::{
    backend::{ErrorKind, staging::Publish},
    operation::{Access, Attributes, Outcome},
    path::RelativePath,
};

/// Bytes copied at once.
const PIECE: u32 = 256 * 1024;

/// A file that was opened for writing with its content kept.
#[derive(Debug)]
pub(super) struct Update {
    pool: Arc<Pool>,
    path: RelativePath,
    /// What stood at the path when it was opened.
    original: Attributes,
    size: u64,
    access: Access,
    state: State,
    /// To be set when it is published.
    attributes: Attributes,
    /// The first failure. From then on nothing can be published.
    failed: Option<Fault>,
}

#[derive(Debug)]
enum State {
    /// Nothing was read or written.
    Untouched,
    /// The old content is in the staging file, and writes go on from its end.
    Continued(Box<Upload>),
    /// The content is here, and goes to the server at CLOSE.
    Held(Held),
}

#[derive(Debug)]
struct Held {
    content: BytesMut,
    is_changed: bool,
    _permit: OwnedSemaphorePermit,
}

impl Update {
    /// # Errors
    /// If the file is larger than may be copied, or of unknown size.
    pub(super) fn open(
        pool: &Arc<Pool>,
        path: RelativePath,
        original: Attributes,
        access: Access,
    ) -> Result<Self, Fault> {
        let limit = pool.server().settings.copy_limit;
        let size = original.size.ok_or_else(|| {
            Fault::judged(
                ErrorKind::Unsupported,
                format!("{path:?} can't be continued or changed: the server does not say how large it is"),
            )
        })?;
        if size > limit {
            return Err(Fault::judged(
                ErrorKind::Unsupported,
                format!(
                    "{path:?} has {size} bytes: to be continued or changed, a file is copied through the gateway, and \
                     copy_limit_bytes allows that up to {limit}; replace it as a whole (open with truncation)"
                ),
            ));
        }
        Ok(Self {
            pool: Arc::clone(pool),
            path,
            original,
            size,
            access,
            state: State::Untouched,
            attributes: Attributes::default(),
            failed: None,
        })
    }

    pub(super) fn attributes(&self) -> Attributes {
        let size = match &self.state {
            State::Untouched => self.size,
            State::Continued(upload) => upload.length(),
            State::Held(held) => held.content.len() as u64,
        };
        Attributes {
            size: Some(size),
            ..self.original.clone()
        }
    }

    pub(super) async fn set_attributes(&mut self, wanted: &Attributes) -> Result<(), Fault> {
        let result = self.try_set_attributes(wanted).await;
        self.remember(result)
    }

    async fn try_set_attributes(&mut self, wanted: &Attributes) -> Result<(), Fault> {
        if let State::Continued(upload) = &mut self.state {
            return upload.set_attributes(wanted);
        }
        names::keep_settable(self.pool.server(), &mut self.attributes, wanted)?;
        let Some(size) = wanted
            .size
            .filter(|&size| Some(size) != self.attributes().size)
        else {
            return Ok(());
        };
        let size = self.index(size)?;
        let held = self.hold(size > 0).await?;
        held.content.resize(size, 0);
        held.is_changed = true;
        Ok(())
    }

    /// As [`Download::read`].
    pub(super) async fn read(&mut self, offset: u64, length: u32) -> Result<Bytes, Fault> {
        if matches!(self.state, State::Continued(_)) {
            return Err(Fault::judged(
                ErrorKind::Unsupported,
                "FTP can't do reading a file while it is continued",
            ));
        }
        let held = self.hold(true).await?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from
            .saturating_add(usize::try_from(length).unwrap_or(usize::MAX))
            .min(held.content.len());
        let data = held.content.get(from..to).unwrap_or_default();
        Ok(Bytes::copy_from_slice(data))
    }

    pub(super) async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let result = self.try_write(offset, data).await;
        self.remember(result)
    }

    async fn try_write(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        if matches!(self.state, State::Untouched) && (self.access.append || offset == self.size) {
            self.carry_on().await?;
        }
        if let State::Continued(upload) = &mut self.state {
            return upload.write(offset, data).await;
        }
        let from = if self.access.append {
            self.attributes().size.unwrap_or(self.size)
        } else {
            offset
        };
        let end = self.index(from.saturating_add(data.len() as u64))?;
        let from = end - data.len();
        let held = self.hold(true).await?;
        if held.content.len() < end {
            held.content.resize(end, 0);
        }
        if let Some(place) = held.content.get_mut(from..end) {
            place.copy_from_slice(&data);
        }
        held.is_changed = true;
        Ok(())
    }

    /// A changed file may become as large as one that may be changed.
    fn index(&self, end: u64) -> Result<usize, Fault> {
        let limit = self.pool.server().settings.copy_limit;
        usize::try_from(end)
            .ok()
            .filter(|_| end <= limit)
            .ok_or_else(|| {
                Fault::judged(
                    ErrorKind::Unsupported,
                    format!("a file that is changed may grow to {limit} bytes (copy_limit_bytes)"),
                )
            })
    }

    /// Begins a staging file with the old content.
    async fn carry_on(&mut self) -> Result<(), Fault> {
        let lease = self.pool.lease_for_transfer().await?;
        let mut upload = self.begin(lease).await?;
        // Until the copy is whole nothing may be published, whatever becomes of this task.
        let fault = Fault::judged(
            ErrorKind::Failure,
            "the copy of the old content was broken off",
        );
        self.failed = Some(fault);
        upload.set_attributes(&std::mem::take(&mut self.attributes))?;
        self.state = State::Continued(Box::new(upload));
        self.copy().await?;
        self.failed = None;
        Ok(())
    }

    async fn begin(&self, lease: Lease) -> Result<Upload, Fault> {
        let staged = Staged::new(&self.pool, &self.path, false)?;
        let how = (self.access, Publish::Replace);
        let upload = Upload::begin(&self.pool, lease, self.path.clone(), staged, how).await?;
        Ok(upload.replacing(self.original.clone()))
    }

    /// Copies the old content to the upload.
    async fn copy(&mut self) -> Result<(), Fault> {
        let mut old = Download::of(&self.pool, self.path.clone(), self.original.clone());
        while let State::Continued(upload) = &mut self.state {
            let offset = upload.length();
            if offset >= self.size {
                break;
            }
            let data = next_piece(&mut old, &self.path, offset, self.size).await?;
            upload.write(offset, data).await?;
            upload.send_all().await?;
        }
        Ok(())
    }

    /// The content in memory, fetched if it is wanted and not here yet.
    async fn hold(&mut self, with_content: bool) -> Result<&mut Held, Fault> {
        if !matches!(self.state, State::Held(_)) {
            let permit = self.pool.server().hold_a_file()?;
            let mut content = BytesMut::new();
            if with_content {
                let mut old = Download::of(&self.pool, self.path.clone(), self.original.clone());
                while (content.len() as u64) < self.size {
                    let data =
                        next_piece(&mut old, &self.path, content.len() as u64, self.size).await?;
                    content.extend_from_slice(&data);
                }
            }
            self.state = State::Held(Held {
                content,
                is_changed: false,
                _permit: permit,
            });
        }
        match &mut self.state {
            State::Held(held) => Ok(held),
            State::Untouched | State::Continued(_) => {
                Err(Fault::judged(ErrorKind::Failure, "the file is not held"))
            }
        }
    }

    fn remember(&mut self, result: Result<(), Fault>) -> Result<(), Fault> {
        if let Err(fault) = &result {
            self.failed = Some(fault.clone());
        }
        result
    }

    /// False while the window to the server is full.
    pub(super) fn has_room(&self) -> bool {
        match &self.state {
            State::Continued(upload) => upload.has_room(),
            State::Untouched | State::Held(_) => true,
        }
    }

    /// As [`Upload::send`].
    pub(super) async fn send(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Continued(upload) => upload.send().await,
            State::Untouched | State::Held(_) => std::future::pending().await,
        }
    }

    /// As [`Upload::break_off`].
    pub(super) async fn break_off(&mut self, error: &io::Error) {
        if let State::Continued(upload) = &mut self.state {
            upload.break_off(error).await;
        }
    }

    /// CLOSE: as [`Upload::publish`]. If nothing was written, only attributes are set.
    pub(super) async fn publish(mut self) -> Result<Outcome, Fault> {
        if let Some(fault) = self.failed.take() {
            self.end().await;
            return Err(fault);
        }
        match std::mem::replace(&mut self.state, State::Untouched) {
            State::Continued(upload) => upload.publish().await,
            State::Held(held) if held.is_changed => {
                let lease = self.pool.lease_for_transfer().await?;
                let mut upload = self.begin(lease).await?;
                let content = held.content.freeze();
                let mut written = upload.set_attributes(&self.attributes);
                if written.is_ok() {
                    written = upload.write(0, content).await;
                }
                if let Err(fault) = written {
                    upload.fail(fault);
                }
                upload.publish().await
            }
            State::Untouched | State::Held(_) => {
                let mut lease = self.pool.lease().await?;
                names::set_attributes(&mut lease, &self.path, &self.attributes).await?;
                Ok(Outcome::Done)
            }
        }
    }

    /// Ends it without publishing.
    pub(super) async fn end(&mut self) {
        if let State::Continued(upload) = &mut self.state {
            upload.end().await;
        }
    }
}

async fn next_piece(
    old: &mut Download,
    path: &RelativePath,
    offset: u64,
    size: u64,
) -> Result<Bytes, Fault> {
    let left = u32::try_from(size - offset).unwrap_or(u32::MAX);
    let data = old.read(offset, left.min(PIECE)).await?;
    if data.is_empty() {
        return Err(Fault::judged(
            ErrorKind::Failure,
            format!("{path:?} became shorter while it was copied"),
        ));
    }
    Ok(data)
}
