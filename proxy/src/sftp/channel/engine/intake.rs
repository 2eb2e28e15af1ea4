//! From the bytes that arrived to the schedule: understood, permitted, announced, on record.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use portcullis_journal::{AppendError, OperationId, PendingIntent, Recorded, record::untrusted};
use serde_json::Map;
use tokio::sync::mpsc;

use super::{Engine, Job, RequestId, execution::cost, send};
use crate::{
    operation::{HandleId, MAX_OPEN_HANDLES, Operation},
    policy::{Permit, describe},
    sftp::{
        channel::{Ended, writer::Outgoing},
        reply,
        request::{self, Refused, Request},
        schedule::Claims,
    },
    status::Status,
};

/// Of a refused packet, so much goes into the record, in bytes.
const EVIDENCE: usize = 4096;

/// A permitted request whose intent is on its way to the disk.
pub(super) struct Announced {
    pub(super) operation: OperationId,
    request: RequestId,
    claims: Claims,
    intent: PendingIntent<Permit>,
    undo: Undo,
}

/// What to take back when an intent can't be recorded.
enum Undo {
    Nothing,
    Reservation,
    Closing(HandleId),
    QueuedWrite(usize),
}

impl Engine {
    /// Takes in every packet that is complete.
    pub(super) fn take_frames(&mut self, outbox: &mpsc::Sender<Outgoing>) -> Result<(), Ended> {
        while let Some(frame) = self.framer.next_frame().map_err(Ended::Framing)? {
            let parsed = request::parse(frame, self.handles.next_id());
            let place = Arc::clone(&self.places)
                .try_acquire_owned()
                .map_err(|_| Ended::TooManyRequests)?;
            match parsed {
                Ok(Request::Init { version }) if !self.greeted => {
                    if version < 3 {
                        return Err(Ended::Version { version });
                    }
                    self.greeted = true;
                    send(outbox, reply::version(), place, None);
                }
                Ok(Request::Init { .. }) => return Err(Ended::NotInit),
                Ok(Request::Operation { .. }) | Err(Refused { .. }) if !self.greeted => {
                    return Err(Ended::NotInit);
                }
                Ok(Request::Operation { id, operation }) => {
                    self.submit(RequestId { id, place }, operation, outbox);
                }
                Err(refused) => {
                    self.record_refusal(&refused);
                    let id = refused.id.ok_or(Ended::NoRequestId)?;
                    send(
                        outbox,
                        reply::status(id, refused.reason.status()),
                        place,
                        None,
                    );
                }
            }
        }
        Ok(())
    }

    fn record_refusal(&self, refused: &Refused) {
        let mut asked = Map::new();
        asked.insert("sftp_op".into(), refused.name.into());
        let evidence = refused
            .evidence
            .get(..EVIDENCE)
            .unwrap_or(&refused.evidence);
        asked.insert("evidence".into(), untrusted(evidence));
        asked.insert("len".into(), refused.evidence.len().into());
        self.gate
            .deny(refused.reason.code(), &refused.reason.to_string(), asked);
    }

    /// Puts a request to the policy, and its intent on record in the order of arrival.
    fn submit(
        &mut self,
        request: RequestId,
        operation: Operation,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let handle = operation
            .handle()
            .and_then(|id| self.handles.find(id))
            .cloned();
        let opens = matches!(
            operation,
            Operation::Open { .. } | Operation::Opendir { .. }
        );
        if opens && self.handles.is_full() {
            let mut asked = Map::new();
            describe(&operation, &mut asked);
            self.gate.deny(
                "too_many_handles",
                &format!("{MAX_OPEN_HANDLES} files and directories are open"),
                asked,
            );
            let reply = reply::status(request.id, Status::Failure);
            return send(outbox, reply, request.place, None);
        }
        let permit = match self.gate.authorize(operation, handle.as_deref()) {
            Ok(permit) => permit,
            Err(denied) => {
                let reply = reply::status(request.id, Status::from(&denied));
                return send(outbox, reply, request.place, None);
            }
        };
        let claims = Claims::of(&permit, handle.as_deref());
        let undo = if let Operation::Write { data, .. } = permit.operation() {
            self.queued_writes += data.len();
            Undo::QueuedWrite(data.len())
        } else if let Operation::Close { handle } = permit.operation() {
            self.handles.set_closing(*handle, true);
            Undo::Closing(*handle)
        } else if opens {
            self.handles.reserve();
            Undo::Reservation
        } else {
            Undo::Nothing
        };
        self.announced.push_back(Announced {
            operation: permit.id(),
            request,
            claims,
            intent: self.gate.announce(permit),
            undo,
        });
    }

    /// The oldest intent is on record, or can't be.
    pub(super) fn schedule_first(
        &mut self,
        durable: Result<Recorded<Permit>, AppendError>,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let Some(Announced {
            request,
            claims,
            undo,
            ..
        }) = self.announced.pop_front()
        else {
            return;
        };
        match durable {
            Ok(recorded) => {
                let cost = cost(recorded.intent().operation());
                self.schedule.push(Job { request, recorded }, claims, cost);
            }
            Err(error) => {
                tracing::error!(%error, "an operation is refused: its intent can't be recorded");
                match undo {
                    Undo::Nothing => {}
                    Undo::Reservation => self.handles.settle(None),
                    Undo::Closing(handle) => self.handles.set_closing(handle, false),
                    Undo::QueuedWrite(bytes) => self.queued_writes -= bytes,
                }
                let reply = reply::status(request.id, Status::Failure);
                send(outbox, reply, request.place, None);
            }
        }
    }
}

/// The oldest intent's fate; pending while there is none. All before it are durable, so only it needs to be asked.
pub(super) async fn first_durable(
    announced: &mut VecDeque<Announced>,
) -> Result<Recorded<Permit>, AppendError> {
    poll_fn(|context| match announced.front_mut() {
        Some(first) => Pin::new(&mut first.intent).poll(context),
        None => Poll::Pending,
    })
    .await
}
