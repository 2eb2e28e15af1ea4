//! What the task that owns an open file is asked, where each has one.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{BackendError, FileVersion};
use crate::operation::{Attributes, Outcome};

/// What is asked of an open handle.
#[derive(Debug)]
pub(super) enum HandleRequest {
    Read {
        offset: u64,
        length: u32,
    },
    Write {
        offset: u64,
        data: Bytes,
    },
    Attributes,
    SetAttributes(Attributes),
    ReadDirectory,
    Close,
    /// Publishes an upload only in the place of that version.
    CloseOver(FileVersion),
}

/// The end of a handle.
pub(super) struct Closing {
    /// An upload is published only in its place.
    pub(super) over: Option<FileVersion>,
}

impl HandleRequest {
    pub(super) fn closing(&self) -> Option<Closing> {
        match self {
            Self::Close => Some(Closing { over: None }),
            Self::CloseOver(version) => Some(Closing {
                over: Some(version.clone()),
            }),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Attributes
            | Self::SetAttributes(_)
            | Self::ReadDirectory => None,
        }
    }
}

/// A request with the place for its answer.
pub(super) struct Asked<R> {
    pub(super) request: R,
    pub(super) answer: oneshot::Sender<Result<Outcome, BackendError>>,
}
