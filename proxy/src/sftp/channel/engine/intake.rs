//! From the bytes that arrived to the schedule: understood, permitted, announced, on record.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_journal::{
    AppendError, OperationId, PendingIntent, Recorded, Urgency, record::untrusted,
};
use serde_json::Map;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Asker, Engine, Job, RequestId,
    compound::gateway_error,
    execution::{cost, undo_of},
    send,
};
use crate::{
    gate::Covering,
    operation::{HandleId, MAX_OPEN_HANDLES, Operation},
    policy::{Direction, Extent, Named, Permit, describe},
    sftp::{
        channel::{Ended, MAX_REQUESTS, writer::Outgoing},
        reply,
        request::{self, Refused, Request},
        schedule::Claims,
    },
    status::Status,
};

/// Of a refused packet, so much goes into the record, in bytes.
const EVIDENCE: usize = 4096;

/// With so many unanswered requests a channel is in the midst of a transfer. At 32 KiB each they are 1 MiB, which in the two
/// milliseconds that an intent waits at most lets 500 MiB/s pass.
const PLENTY: usize = 32;

/// A permitted request whose intent is on its way to the disk.
pub(super) struct Announced {
    pub(super) operation: OperationId,
    pub(super) asker: Asker,
    pub(super) claims: Claims,
    pub(super) intent: Announcing,
    pub(super) undo: Undo,
}

/// How a request gets on record.
pub(super) enum Announcing {
    Alone(PendingIntent<Permit>),
    /// With others of its extent; the first of them brings that on record.
    Covered {
        extent: Option<PendingIntent<Extent>>,
        /// `None` once this has resolved.
        permit: Option<Permit>,
        covering: Covering,
    },
}

/// What to take back when an intent can't be recorded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    Nothing,
    Reservation,
    Closing(HandleId),
}

/// A WRITE that waits for credit.
pub(super) struct Parked {
    request: RequestId,
    operation: Operation,
    written: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
}

impl Engine {
    /// Takes in every packet that is complete, up to a WRITE that has to wait for credit.
    pub(super) fn take_frames(&mut self, outbox: &mpsc::Sender<Outgoing>) -> Result<(), Ended> {
        while let Some(frame) = self.framer.next_frame().map_err(Ended::Framing)? {
            let extensions = self.gate.extensions();
            let parsed = request::parse(frame, self.handles.next_id(), extensions);
            let place = Arc::clone(&self.places)
                .try_acquire_owned()
                .map_err(|_| Ended::TooManyRequests)?;
            match parsed {
                Ok(Request::Init { version }) if !self.greeted => {
                    if version < 3 {
                        return Err(Ended::Version { version });
                    }
                    self.greeted = true;
                    send(outbox, reply::version(extensions), place, None);
                }
                Ok(Request::Init { .. }) => return Err(Ended::NotInit),
                Ok(Request::Operation { .. }) | Err(Refused { .. }) if !self.greeted => {
                    return Err(Ended::NotInit);
                }
                Ok(Request::Operation { id, operation }) => {
                    let mut request = RequestId {
                        id,
                        place,
                        _written: None,
                    };
                    if let Operation::Write { data, .. } = &operation {
                        // No packet is near 4 GiB.
                        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
                        match self.write_credit.try_take(bytes) {
                            Some(written) => request._written = Some(written),
                            None => {
                                self.parked = Some(Parked {
                                    written: self.write_credit.take(bytes).boxed(),
                                    request,
                                    operation,
                                });
                                return Ok(());
                            }
                        }
                    }
                    self.submit(request, operation, outbox);
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
    pub(super) fn carry_out(
        &mut self,
        request: RequestId,
        operation: Operation,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let find = |id: Option<HandleId>| id.and_then(|id| self.handles.find(id)).cloned();
        let handle = find(operation.handle());
        let second = find(operation.second_handle());
        let undo = undo_of(&operation);
        let opens = matches!(undo, Undo::Reservation);
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
        let named = Named {
            handle: handle.as_deref(),
            second: second.as_deref(),
        };
        let permit = match self.gate.authorize(operation, named) {
            Ok(permit) => permit,
            Err(denied) => {
                let reply = reply::status(request.id, Status::from(&denied));
                return send(outbox, reply, request.place, None);
            }
        };
        let claims = Claims::of(&permit, handle.as_deref()).and_upload(self.upload_behind(&permit));
        let urgency = self.urgency(permit.operation());
        match undo {
            Undo::Nothing => {}
            Undo::Reservation => self.handles.reserve(),
            Undo::Closing(handle) => self.handles.set_closing(handle, true),
        }
        let operation = permit.id();
        let intent = self.announce(permit, urgency);
        self.announced.push_back(Announced {
            operation,
            asker: Asker::Client(request),
            claims,
            intent,
            undo,
        });
    }

    fn announce(&mut self, permit: Permit, urgency: Urgency) -> Announcing {
        let operation = permit.operation();
        let slot = operation.handle().and_then(|id| self.handles.slot(id));
        let Some((direction, slot)) = Direction::of(operation).zip(slot) else {
            return Announcing::Alone(self.gate.announce(permit, urgency));
        };
        let current = slot.extents.of(direction);
        if let Some(covering) = current.as_ref().and_then(|extent| extent.covering(&permit)) {
            return Announcing::Covered {
                extent: None,
                permit: Some(permit),
                covering,
            };
        }
        let reserved = self.gate.reserve(&permit, urgency);
        match reserved
            .and_then(|(extent, pending)| Some((extent.covering(&permit)?, extent, pending)))
        {
            Some((covering, extent, pending)) => {
                *current = Some(extent);
                Announcing::Covered {
                    extent: Some(pending),
                    permit: Some(permit),
                    covering,
                }
            }
            None => Announcing::Alone(self.gate.announce(permit, urgency)),
        }
    }

    /// In the midst of a transfer, the requests before this one keep everybody busy until many intents are synced at once.
    fn urgency(&self, operation: &Operation) -> Urgency {
        let unanswered = MAX_REQUESTS - self.places.available_permits();
        let transfers = matches!(operation, Operation::Read { .. } | Operation::Write { .. });
        if transfers && unanswered >= PLENTY {
            Urgency::Soon
        } else {
            Urgency::Now
        }
    }

    /// The upload whose bytes an operation looks at by another way than its own handle.
    fn upload_behind(&self, permit: &Permit) -> Option<HandleId> {
        if let Operation::CheckFileName { path, .. } = permit.operation() {
            return self.handles.upload_to(path);
        }
        self.handles.upload_behind(permit.operation().handle()?)
    }

    /// Takes back what was booked for an operation that is not run.
    pub(super) fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Reservation => self.handles.settle(None),
            Undo::Closing(handle) => self.handles.set_closing(handle, false),
        }
    }

    /// The oldest intent is on record, or can't be.
    pub(super) fn schedule_first(
        &mut self,
        durable: Result<Recorded<Permit>, AppendError>,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let Some(Announced {
            asker,
            claims,
            intent,
            undo,
            ..
        }) = self.announced.pop_front()
        else {
            return;
        };
        match durable {
            Ok(recorded) => {
                let cost = cost(recorded.intent().operation());
                let covering = match intent {
                    Announcing::Alone(_) => None,
                    Announcing::Covered { covering, .. } => Some(covering),
                };
                let job = Job {
                    asker,
                    recorded,
                    covering,
                };
                self.schedule.push(job, claims, cost);
            }
            Err(error) => {
                tracing::error!(%error, "an operation is refused: its intent can't be recorded");
                self.take_back(undo);
                match asker {
                    Asker::Client(request) => {
                        let reply = reply::status(request.id, Status::Failure);
                        send(outbox, reply, request.place, None);
                    }
                    Asker::Compound(part) => {
                        self.part_failed(part, gateway_error(error.to_string()), outbox);
                    }
                }
            }
        }
    }
}

/// The oldest intent's fate; pending while there is none. All before it are durable, so only it needs to be asked.
pub(super) async fn first_durable(
    announced: &mut VecDeque<Announced>,
) -> Result<Recorded<Permit>, AppendError> {
    poll_fn(|context| match announced.front_mut() {
        Some(first) => match &mut first.intent {
            Announcing::Alone(intent) => Pin::new(intent).poll(context),
            Announcing::Covered {
                extent,
                permit,
                covering,
            } => {
                if let Some(pending) = extent {
                    covering.settle(ready!(Pin::new(pending).poll(context)));
                    *extent = None;
                }
                let permit = permit.take().ok_or(AppendError::Closed);
                Poll::Ready(permit.and_then(|permit| covering.prove(permit)))
            }
        },
        None => Poll::Pending,
    })
    .await
}

/// The parked WRITE once there is credit for it; pending while there is none.
pub(super) async fn take_parked(parked: &mut Option<Parked>) -> (RequestId, Operation) {
    poll_fn(|context| {
        let Some(waiting) = parked else {
            return Poll::Pending;
        };
        let written = ready!(waiting.written.poll_unpin(context));
        match parked.take() {
            Some(Parked {
                mut request,
                operation,
                ..
            }) => {
                request._written = written;
                Poll::Ready((request, operation))
            }
            None => Poll::Pending,
        }
    })
    .await
}
