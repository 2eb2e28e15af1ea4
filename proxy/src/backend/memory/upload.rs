//! Uploads in progress, and those that were interrupted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use sha2::{Digest as _, Sha256};

use super::{closed, error, lock, tree::Node};
use crate::{
    backend::{
        BackendError, ErrorKind,
        staging::{
            Beginning, Claim, Landing, Progress, Refusal, SessionNames, StagingName, shown_length,
            unless_missing,
        },
    },
    operation::{Access, Attributes},
    path::RelativePath,
};

/// More than any test needs.
const MAX_BYTES: usize = 1 << 30;

/// What interrupted uploads left, by the name that finds it again.
#[derive(Debug, Clone, Default)]
pub(super) struct Partials(Arc<Mutex<HashMap<StagingName, Kept>>>);

#[derive(Debug)]
struct Kept {
    attributes: Attributes,
    data: Vec<u8>,
}

/// Bytes that are seen by nobody until CLOSE publishes them.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) path: Vec<u8>,
    pub(super) access: Access,
    pub(super) attributes: Attributes,
    pub(super) data: Vec<u8>,
    progress: Progress,
    /// Set while a later session could go on.
    resumable: Option<(Claim, Partials)>,
}

impl Partials {
    /// What the account that began it is told of an interrupted upload.
    pub(super) fn attributes(&self, name: &StagingName) -> Option<Attributes> {
        let kept = lock(&self.0);
        let Kept { attributes, data } = kept.get(name)?;
        let mut node = Node::file(Vec::new());
        node.set(attributes);
        Some(Attributes {
            size: Some(shown_length(data.len() as u64)?),
            is_interrupted: true,
            ..node.attributes()
        })
    }

    pub(super) fn remove(&self, name: &StagingName) -> bool {
        lock(&self.0).remove(name).is_some()
    }
}

impl Upload {
    /// Of a path where nothing stands.
    pub(super) fn new(
        path: Vec<u8>,
        access: Access,
        attributes: &Attributes,
        (names, partials): (&SessionNames, &Partials),
        relative: &RelativePath,
    ) -> Result<Self, BackendError> {
        let missing = |_: Refusal| error(ErrorKind::NotFound);
        let mut upload = Self::replacing(path, access, attributes);
        let claim = names
            .resumable(relative)
            .and_then(|name| names.all().claim(name));
        let Some(claim) = unless_missing(access, claim).map_err(missing)? else {
            return Ok(upload);
        };
        let partial = lock(&partials.0).remove(claim.name());
        let partial = partial
            .filter(|kept| !access.truncate && shown_length(kept.data.len() as u64).is_some());
        if let Some(mut kept) = unless_missing(access, partial).map_err(missing)? {
            kept.data.pop();
            upload.progress = Progress::new(Beginning::Partial, kept.data.len() as u64);
            upload.attributes = kept.attributes;
            upload.data = kept.data;
        }
        upload.resumable = Some((claim, partials.clone()));
        Ok(upload)
    }

    /// Of a path with a file whose content does not matter.
    pub(super) fn replacing(path: Vec<u8>, access: Access, attributes: &Attributes) -> Self {
        Self {
            path,
            access,
            attributes: attributes.clone(),
            data: Vec::new(),
            progress: Progress::new(Beginning::Nothing, 0),
            resumable: None,
        }
    }

    /// Of a path with a file that is changed.
    pub(super) fn updating(
        path: Vec<u8>,
        access: Access,
        attributes: &Attributes,
        data: Vec<u8>,
    ) -> Self {
        let mut upload = Self::replacing(path, access, attributes);
        upload.progress = Progress::new(Beginning::Copy, data.len() as u64);
        upload.data = data;
        upload
    }

    /// Its attributes so far.
    pub(super) fn shown(&self) -> Attributes {
        let mut node = Node::file(Vec::new());
        node.set(&self.attributes);
        Attributes {
            size: Some(self.data.len() as u64),
            ..node.attributes()
        }
    }

    pub(super) fn write(&mut self, offset: u64, written: &[u8]) -> Result<(), BackendError> {
        let offset = if self.access.append {
            self.progress.length()
        } else {
            offset
        };
        let at = usize::try_from(offset).map_err(|_| error(ErrorKind::NoSpace))?;
        let end = at
            .checked_add(written.len())
            .filter(|&end| end <= MAX_BYTES)
            .ok_or_else(|| error(ErrorKind::NoSpace))?;
        let landing = self.progress.write(offset, written.len() as u64);
        self.prepare(landing);
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        if let Some(range) = self.data.get_mut(at..end) {
            range.copy_from_slice(written);
        }
        Ok(())
    }

    pub(super) fn set(&mut self, new: &Attributes) {
        if let Some(size) = new.size {
            let landing = self.progress.resize(size);
            self.prepare(landing);
            let size = usize::try_from(size).unwrap_or(MAX_BYTES);
            self.data.resize(size.min(MAX_BYTES), 0);
        }
        self.attributes.permissions = new.permissions.or(self.attributes.permissions);
        self.attributes.times = new.times.or(self.attributes.times);
        self.attributes.owner = new.owner.or(self.attributes.owner);
    }

    fn prepare(&mut self, landing: Landing) {
        match landing {
            Landing::InOrder | Landing::OutOfOrder => {}
            Landing::Cut(length) => self.data.truncate(usize::try_from(length).unwrap_or(0)),
            Landing::FirstOutOfOrder => self.resumable = None,
        }
    }

    /// The file to publish, and its digest if the bytes that passed through were not all of it.
    pub(super) fn finish(mut self) -> Result<(Node, Option<[u8; 32]>), BackendError> {
        if self.progress.beginning() == Beginning::Partial && !self.progress.is_touched() {
            return Err(closed());
        }
        self.resumable = None;
        let digest = self
            .progress
            .needs_reread(self.access)
            .then(|| Sha256::digest(&self.data).into());
        let mut node = Node::file(std::mem::take(&mut self.data));
        node.set(&self.attributes);
        Ok((node, digest))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some((claim, partials)) = self.resumable.take()
            && self.progress.is_resumable()
        {
            let kept = Kept {
                attributes: self.attributes.clone(),
                data: std::mem::take(&mut self.data),
            };
            lock(&partials.0).insert(claim.name().clone(), kept);
        }
    }
}
