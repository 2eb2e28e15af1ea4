//! Operations on a name that the channel is uploading, and that may have overtaken the CLOSE.
//!
//! Elsewhere a file has its name and its bytes while it is written; here from its CLOSE on. A client that has written all and
//! goes on may send its CLOSE last: sshfs sends it from another thread. What reads the file anew or changes it by its name
//! waits for that CLOSE, for a short time: the client may mean what it says.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Engine, RequestId};
use crate::{
    operation::{HandleId, Operation},
    path::VirtualPath,
    sftp::channel::writer::Outgoing,
};

/// How long a change waits. Done too early it would be lost with the CLOSE, or the CLOSE with it.
const PATIENCE_TO_CHANGE: Duration = Duration::from_secs(1);
/// How long an OPEN for reading waits. Some clients read what they are still writing.
const PATIENCE_TO_READ: Duration = Duration::from_millis(250);
/// Who looks so much later than it was due has not listened meanwhile, and the CLOSE may have arrived.
const LATE: Duration = Duration::from_millis(50);
/// For what arrived in such a time.
const GRACE: Duration = Duration::from_millis(250);
/// How often: a machine may be overloaded for long.
const GRACES: u8 = 8;

/// An operation that waits for the CLOSE of an upload.
pub(super) struct Held {
    upload: HandleId,
    operation: Operation,
    request: RequestId,
    until: Instant,
    graces: u8,
}

impl Held {
    /// The time in which the gateway itself stood still does not count.
    fn forgive(&mut self, now: Instant) {
        if now.saturating_duration_since(self.until) > LATE && self.graces > 0 {
            self.graces -= 1;
            self.until = now + GRACE;
        }
    }

    /// Resolves when one has waited long enough; pending if there is none.
    pub(super) async fn overdue(held: &[Self]) {
        match held.iter().map(|held| held.until).min() {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

impl Engine {
    /// Puts a request to the policy, unless it has to wait for the CLOSE of what it names. Attributes are set where the bytes
    /// go.
    pub(super) fn submit(
        &mut self,
        request: RequestId,
        mut operation: Operation,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        if let Operation::Setstat { path, attributes } = &operation
            && let Some(handle) = self.handles.upload_to(path)
        {
            let attributes = attributes.clone();
            operation = Operation::Fsetstat { handle, attributes };
        }
        let waits = waits_for(&operation).and_then(|(paths, patience)| {
            let mut paths = paths.into_iter().flatten();
            let upload = paths.find_map(|path| self.handles.upload_within(path))?;
            Some((upload, patience))
        });
        match waits {
            Some((upload, patience)) => self.held.push(Held {
                upload,
                operation,
                request,
                until: Instant::now() + patience,
                graces: GRACES,
            }),
            None => self.carry_out(request, operation, outbox),
        }
    }

    /// The upload has its name now, or will never have it.
    pub(super) fn go_on_after_close(&mut self, upload: HandleId, outbox: &mpsc::Sender<Outgoing>) {
        for held in self
            .held
            .extract_if(.., |held| held.upload == upload)
            .collect::<Vec<_>>()
        {
            self.release(held, outbox);
        }
    }

    /// What has waited long enough does not wait any more.
    pub(super) fn go_on_without_close(&mut self, outbox: &mpsc::Sender<Outgoing>) {
        let now = Instant::now();
        for held in &mut self.held {
            held.forgive(now);
        }
        for held in self
            .held
            .extract_if(.., |held| held.until <= now)
            .collect::<Vec<_>>()
        {
            self.release(held, outbox);
        }
    }

    fn release(&mut self, held: Held, outbox: &mpsc::Sender<Outgoing>) {
        let Held {
            mut operation,
            request,
            ..
        } = held;
        if let Operation::Open { handle, .. } = &mut operation {
            // Others have been opened since.
            *handle = self.handles.next_id();
        }
        self.carry_out(request, operation, outbox);
    }
}

/// The names that an operation needs to have been uploaded, with all below them, and how long it waits for that.
fn waits_for(operation: &Operation) -> Option<([Option<&VirtualPath>; 2], Duration)> {
    if let Operation::Open { path, access, .. } = operation {
        let changes = access.writes() || access.create || access.truncate;
        let patience = if changes {
            PATIENCE_TO_CHANGE
        } else {
            PATIENCE_TO_READ
        };
        return Some(([Some(path), None], patience));
    }
    if let Operation::Remove { path } | Operation::Rmdir { path } = operation {
        return Some(([Some(path), None], PATIENCE_TO_CHANGE));
    }
    if let Operation::Rename { from, to }
    | Operation::PosixRename { from, to }
    | Operation::Hardlink { from, to } = operation
    {
        return Some(([Some(from), Some(to)], PATIENCE_TO_CHANGE));
    }
    None
}
