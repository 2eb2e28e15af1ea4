//! Drives the requests that are carried out as several: each part goes the way of a request of the client.

use std::{sync::Arc, time::Instant};

use portcullis_journal::{Recorded, Urgency, Verdict};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Asker, Engine, RequestId, execution,
    intake::{Announced, Announcing},
    send,
};
use crate::{
    backend::{BackendError, ErrorKind, Origin},
    gate::Failed,
    operation::{HandleId, Operation, Outcome},
    policy::{Named, OpenHandle, Permit},
    sftp::{
        channel::{unfinished, writer::Outgoing},
        compound::{Compound, Part, Step},
        reply,
        schedule::{Claims, Ticket},
    },
};

/// The request that is under way; the schedule lets one run at a time.
pub(super) struct Underway {
    ticket: Ticket,
    request: RequestId,
    permit: Permit,
    begun: Instant,
    work: Compound<OwnedSemaphorePermit>,
}

impl Engine {
    /// Begins a request that is carried out as several; gives back any other.
    pub(super) fn begin_compound(
        &mut self,
        ticket: Ticket,
        asker: Asker,
        recorded: Recorded<Permit>,
        outbox: &mpsc::Sender<Outgoing>,
    ) -> Option<(Asker, Recorded<Permit>)> {
        let Asker::Client(request) = asker else {
            return Some((asker, recorded));
        };
        let work = Compound::of(recorded.intent().operation(), |id| {
            self.handles
                .slot_ref(id)
                .map(|slot| Arc::clone(&slot.handle))
        });
        let Some(work) = work else {
            return Some((Asker::Client(request), recorded));
        };
        if self.lost && work.only_reads() {
            unfinished(
                &self.gate,
                recorded.intent().id(),
                Verdict::Failure,
                "not_forwarded",
            );
            if let Operation::CheckFileName { .. } = recorded.intent().operation() {
                self.handles.settle(None);
            }
            self.schedule.done(ticket);
            return None;
        }
        let permit = recorded.into_intent();
        self.running_ids.insert(permit.id());
        self.underway = Some(Underway {
            ticket,
            request,
            permit,
            begun: Instant::now(),
            work,
        });
        self.advance(outbox);
        None
    }

    /// A part has come to its end.
    pub(super) fn part_ended(
        &mut self,
        part: Part,
        result: Result<Outcome, Failed>,
        opened: Option<HandleId>,
        credit: Option<OwnedSemaphorePermit>,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let opened = opened
            .and_then(|id| self.handles.slot_ref(id))
            .map(|slot| Arc::clone(&slot.handle));
        if let Some(underway) = &mut self.underway {
            let result = result.map_err(|failed| match failed {
                Failed::Backend(error) => error,
                Failed::Unrecorded(error) => gateway_error(error.to_string()),
            });
            underway.work.ended(part, result, opened, credit);
        }
        self.advance(outbox);
    }

    /// A part was not run.
    pub(super) fn part_failed(
        &mut self,
        part: Part,
        error: BackendError,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        self.part_ended(part, Err(Failed::Backend(error)), None, None, outbox);
    }

    /// True for a part of a copy, which is carried out although the client is gone: a CLOSE may be behind it.
    pub(super) fn is_copying(&self, asker: &Asker) -> bool {
        matches!(asker, Asker::Compound(_))
            && self
                .underway
                .as_ref()
                .is_some_and(|underway| !underway.work.only_reads())
    }

    fn advance(&mut self, outbox: &mpsc::Sender<Outgoing>) {
        while let Some(underway) = &mut self.underway {
            match underway.work.step() {
                Step::Wait => return,
                Step::Run(part, operation, handle) => self.run_part(part, operation, handle),
                // The intent of this request, or of the CLOSE that ends it, comes behind what is recalled: that is durable
                // before the answer is given.
                Step::Recall(handle) => {
                    let on_record = self.gate.on_record(&underway.permit, handle);
                    underway.work.recalled(on_record);
                }
                Step::Finish(result) => self.conclude(result, outbox),
            }
        }
    }

    fn run_part(&mut self, part: Part, operation: Operation, handle: Option<Arc<OpenHandle>>) {
        let undo = execution::undo_of(&operation);
        match self
            .gate
            .authorize(operation, Named::one(handle.as_deref()))
        {
            Ok(permit) => self.announced.push_back(Announced {
                operation: permit.id(),
                asker: Asker::Compound(part),
                // The whole request holds its lanes.
                claims: Claims::none(),
                intent: Announcing::Alone(self.gate.announce(permit, Urgency::Now)),
                undo,
            }),
            Err(denied) => {
                self.take_back(undo);
                if let Some(underway) = &mut self.underway {
                    let error = BackendError::new(
                        ErrorKind::PermissionDenied,
                        Origin::Client,
                        denied.to_string(),
                    );
                    underway.work.ended(part, Err(error), None, None);
                }
            }
        }
    }

    fn conclude(&mut self, result: Result<Outcome, BackendError>, outbox: &mpsc::Sender<Outgoing>) {
        let Some(underway) = self.underway.take() else {
            return;
        };
        self.running_ids.remove(&underway.permit.id());
        self.schedule.done(underway.ticket);
        if underway.work.is_unopened() {
            self.handles.settle(None);
        }
        self.gate.conclude(
            &underway.permit,
            &result,
            underway.work.moved(),
            underway.work.told_by(),
            underway.begun.elapsed(),
        );
        let id = underway.request.id;
        let reply = match result {
            Ok(outcome) => reply::outcome(id, outcome, None, 0, &mut Vec::new()),
            Err(error) => {
                let failed = Failed::Backend(error);
                self.gate.complain(&failed);
                reply::status(id, failed.status())
            }
        };
        send(outbox, reply, underway.request.place, None);
    }
}

pub(super) fn gateway_error(message: String) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Origin::Gateway, message)
}
