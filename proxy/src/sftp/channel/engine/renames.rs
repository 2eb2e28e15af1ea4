//! Renames of what the channel is uploading.
//!
//! Elsewhere a file has its name while it is written; here from its CLOSE on. A client that sends both without waiting may
//! send the RENAME first: sshfs sends CLOSE from another thread. Such a RENAME finds nothing, is on record with that, and is
//! tried once more, as an operation of its own, when the upload is closed.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Engine, RequestId, send};
use crate::{
    operation::{HandleId, Operation},
    sftp::{channel::writer::Outgoing, reply},
    status::Status,
};

/// A client that waits for its RENAME before it sends CLOSE is told after so long that there is no such file.
const PATIENCE: Duration = Duration::from_secs(1);

/// A rename that waits for the CLOSE of an upload.
pub(super) struct HeldRename {
    upload: HandleId,
    operation: Operation,
    request: RequestId,
    until: Instant,
}

impl HeldRename {
    pub(super) fn new(upload: HandleId, operation: Operation, request: RequestId) -> Self {
        Self {
            upload,
            operation,
            request,
            until: Instant::now() + PATIENCE,
        }
    }

    /// Resolves when it has waited long enough; pending if there is none.
    pub(super) async fn overdue(first: Option<&Self>) {
        match first {
            Some(held) => sleep_until(held.until).await,
            None => std::future::pending().await,
        }
    }
}

impl Engine {
    /// The upload has its name now, or will never have it.
    pub(super) fn rename_after_close(&mut self, upload: HandleId, outbox: &mpsc::Sender<Outgoing>) {
        let (now, later) = std::mem::take(&mut self.renames)
            .into_iter()
            .partition(|held| held.upload == upload);
        self.renames = later;
        for HeldRename {
            operation, request, ..
        } in now
        {
            self.submit(request, operation, outbox);
        }
    }

    /// Answers the oldest of those that wait: it has waited long enough.
    pub(super) fn give_up_rename(&mut self, outbox: &mpsc::Sender<Outgoing>) {
        if let Some(held) = self.renames.pop_front() {
            let reply = reply::status(held.request.id, Status::NoSuchFile);
            send(outbox, reply, held.request.place, None);
        }
    }
}
