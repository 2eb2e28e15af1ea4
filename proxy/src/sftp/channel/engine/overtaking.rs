//! Operations on a name that the channel is uploading, and that overtook the CLOSE.
//!
//! Elsewhere a file has its name while it is written; here from its CLOSE on. A client that sends both without waiting may
//! send the CLOSE last: sshfs sends it from another thread. Such an operation finds nothing, is on record with that, and is
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

/// A client that waits for its reply before it sends CLOSE is told after so long that there is no such file.
const PATIENCE: Duration = Duration::from_secs(1);

/// An operation that waits for the CLOSE of an upload.
pub(super) struct Held {
    upload: HandleId,
    operation: Operation,
    request: RequestId,
    until: Instant,
}

impl Held {
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
    pub(super) fn try_again_after_close(
        &mut self,
        upload: HandleId,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let (now, later) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.upload == upload);
        self.held = later;
        for Held {
            operation, request, ..
        } in now
        {
            self.submit(request, operation, outbox);
        }
    }

    /// Answers the oldest of those that wait: it has waited long enough.
    pub(super) fn give_up_held(&mut self, outbox: &mpsc::Sender<Outgoing>) {
        if let Some(held) = self.held.pop_front() {
            let reply = reply::status(held.request.id, Status::NoSuchFile);
            send(outbox, reply, held.request.place, None);
        }
    }
}
