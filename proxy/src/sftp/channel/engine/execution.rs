//! From the schedule to the reply: what may run is run, and its end is booked and answered.

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use portcullis_journal::{OperationId, Recorded, Verdict};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Asker, Engine, Job, compound::gateway_error, intake::Undo, send};
use crate::{
    gate::{Failed, Summary},
    operation::{Attributes, HandleId, Operation, Outcome},
    path::VirtualPath,
    policy::{OpenHandle, Permit},
    session::UnderWay,
    sftp::{
        channel::{unfinished, writer::Outgoing},
        handles::Slot,
        reply,
        schedule::Ticket,
        transfer::Transfer,
    },
    status::Status,
};

/// Credit that a READDIR takes until its reply is written, in bytes.
const READDIR_COST: u32 = 128 * 1024;

/// An operation that has ended.
pub(super) struct Finished {
    ticket: Ticket,
    operation: OperationId,
    asker: Asker,
    credit: Option<OwnedSemaphorePermit>,
    after: After,
    result: Result<Outcome, Failed>,
    _under_way: UnderWay,
}

/// What the end of an operation changes in the channel.
enum After {
    Nothing,
    Opened(OpenHandle),
    /// This operation was for what stands at the path.
    Named {
        path: VirtualPath,
        operation: Operation,
    },
    Closed(HandleId),
    Read {
        handle: HandleId,
        offset: u64,
    },
    Wrote {
        handle: HandleId,
        bytes: usize,
    },
    Listed(HandleId),
    Resized(HandleId),
}

impl After {
    fn named(operation: &Operation) -> Option<Self> {
        let (Operation::Stat { path }
        | Operation::Lstat { path }
        | Operation::Setstat { path, .. }
        | Operation::Lsetstat { path, .. }) = operation
        else {
            return None;
        };
        Some(Self::Named {
            path: path.clone(),
            operation: operation.clone(),
        })
    }
}

/// The same for what the client uploads there. What is being closed has its name when that is done.
fn on_upload(operation: Operation, upload: &Slot) -> Operation {
    if upload.is_closing() {
        return operation;
    }
    let handle = upload.handle.id();
    if let Operation::Setstat { attributes, .. } | Operation::Lsetstat { attributes, .. } =
        operation
    {
        return Operation::Fsetstat { handle, attributes };
    }
    Operation::Fstat { handle }
}

/// True if what stands at a path is not what the client writes there: no file, or a file from before.
fn gives_way_to_upload(result: &Result<Outcome, Failed>) -> bool {
    match result {
        Ok(Outcome::Attributes(attributes)) => attributes
            .permissions
            .is_none_or(|mode| mode & Attributes::TYPE_MASK == Attributes::REGULAR),
        Ok(_) => false,
        Err(failed) => failed.status() == Status::NoSuchFile,
    }
}

impl Engine {
    /// Starts all that may run now.
    pub(super) fn start(&mut self, outbox: &mpsc::Sender<Outgoing>) {
        loop {
            let Self {
                schedule,
                credit,
                wanted,
                granted,
                lost,
                ..
            } = &mut *self;
            let next = schedule.next(|cost| {
                if *lost {
                    return Some(None);
                }
                if wanted.is_some() {
                    return None;
                }
                if let Some(granted) = granted.take() {
                    return Some(Some(granted));
                }
                match credit.try_take(cost) {
                    Some(taken) => Some(Some(taken)),
                    None => {
                        *wanted = Some(credit.take(cost).boxed());
                        None
                    }
                }
            });
            let Some((ticket, job, credit)) = next else {
                return;
            };
            self.run(ticket, job, credit.flatten(), outbox);
        }
    }

    fn run(
        &mut self,
        ticket: Ticket,
        job: Job,
        credit: Option<OwnedSemaphorePermit>,
        outbox: &mpsc::Sender<Outgoing>,
    ) {
        let Job {
            asker,
            recorded,
            covering,
        } = job;
        let operation = recorded.intent().id();
        if self.lost && cost(recorded.intent().operation()) > 0 && !self.is_copying(&asker) {
            if covering.is_none() {
                unfinished(&self.gate, operation, Verdict::Failure, "not_forwarded");
            }
            self.schedule.done(ticket);
            if let Asker::Compound(part) = asker {
                self.part_failed(part, gateway_error("the client is gone".to_owned()), outbox);
            }
            return;
        }
        let Some((asker, recorded)) = self.begin_compound(ticket, asker, recorded, outbox) else {
            return;
        };
        let (after, summary, already) = self.begin(&recorded);
        if covering.is_none() {
            self.running_ids.insert(operation);
        }
        let performed = match already {
            Some(outcome) => self.gate.answer(recorded, outcome).boxed(),
            None => self.gate.perform(recorded, summary, covering).boxed(),
        };
        let under_way = self.activity.begin_work();
        self.running.push(
            performed
                .map(move |result| Finished {
                    ticket,
                    operation,
                    asker,
                    credit,
                    after,
                    result,
                    _under_way: under_way,
                })
                .boxed(),
        );
    }

    pub(super) fn finish(&mut self, finished: Finished, outbox: &mpsc::Sender<Outgoing>) {
        let Finished {
            ticket,
            operation,
            asker,
            credit,
            after,
            result,
            _under_way,
        } = finished;
        self.activity.touch(Instant::now());
        self.schedule.done(ticket);
        self.running_ids.remove(&operation);
        let mut opened = None;
        let mut listed = None;
        let mut instead = None;
        let mut closed = None;
        match after {
            After::Nothing => {}
            After::Closed(handle) => closed = Some(handle),
            After::Named { path, operation } => {
                if gives_way_to_upload(&result)
                    && let Some(upload) = self.handles.written(&path)
                {
                    instead = Some(on_upload(operation, upload));
                }
            }
            After::Opened(handle) => {
                let open = matches!(result, Ok(Outcome::Opened)).then(|| {
                    opened = Some(handle.id());
                    let transfer = Transfer::of(&handle, self.gate.digests(), Instant::now());
                    (handle, transfer)
                });
                self.handles.settle(open);
                if let Some(slot) = opened.and_then(|id| self.handles.slot(id))
                    && slot.transfer.is_some()
                {
                    slot.under_way = Some(self.activity.begin_work());
                }
            }
            After::Read { handle, offset } => {
                if let Some(transfer) = self.transfer(handle) {
                    match &result {
                        Ok(Outcome::Data(data)) => transfer.read(offset, data),
                        Ok(Outcome::End) => transfer.read_end(offset),
                        Ok(_) | Err(_) => {}
                    }
                }
            }
            After::Wrote { handle, bytes } => {
                if let Some(transfer) = self.transfer(handle) {
                    match &result {
                        Ok(_) => transfer.wrote(bytes as u64),
                        Err(_) => transfer.write_failed(),
                    }
                }
            }
            After::Listed(handle) => listed = Some(handle),
            After::Resized(handle) => {
                if let Some(transfer) = self.transfer(handle) {
                    transfer.size_changed();
                }
            }
        }
        if let Some(handle) = closed {
            self.go_on_after_close(handle, outbox);
        }
        let request = match asker {
            Asker::Client(request) => request,
            Asker::Compound(part) => return self.part_ended(part, result, opened, credit, outbox),
        };
        // What a client is uploading is there for it, though for nobody else: sshfs looks before it writes.
        if let Some(operation) = instead {
            return self.carry_out(request, operation, outbox);
        }
        let reply = match result {
            Ok(outcome) => {
                let mut rest = Vec::new();
                let reply = reply::outcome(request.id, outcome, opened, unix_time(), &mut rest);
                if let Some(slot) = listed.and_then(|handle| self.handles.slot(handle)) {
                    slot.unsent = rest;
                }
                reply
            }
            Err(failed) => {
                self.gate.complain(&failed);
                reply::status(request.id, failed.status())
            }
        };
        send(outbox, reply, request.place, credit);
    }

    /// Books what begins: what its end will change, the summary that a CLOSE writes, and the answer if it is there already.
    fn begin(&mut self, recorded: &Recorded<Permit>) -> (After, Option<Summary>, Option<Outcome>) {
        let operation = recorded.intent().operation();
        if let Some(handle) = recorded.intent().opens() {
            return (After::Opened(handle), None, None);
        }
        if let Some(named) = After::named(operation) {
            return (named, None, None);
        }
        let Some(handle) = operation.handle() else {
            return (After::Nothing, None, None);
        };
        let mut summary = None;
        let mut already = None;
        let mut after = After::Nothing;
        if let Operation::Read { offset, .. } = *operation {
            after = After::Read { handle, offset };
        } else if let Operation::Write { offset, data, .. } = operation {
            if let Some(transfer) = self.transfer(handle) {
                transfer.writing(*offset, data);
            }
            let bytes = data.len();
            after = After::Wrote { handle, bytes };
        } else if let Operation::Readdir { .. } = operation {
            if let Some(slot) = self.handles.slot(handle)
                && !slot.unsent.is_empty()
            {
                already = Some(Outcome::Names(std::mem::take(&mut slot.unsent)));
            }
            after = After::Listed(handle);
        } else if let Operation::Fsetstat { attributes, .. } = operation {
            if attributes.size.is_some() {
                after = After::Resized(handle);
            }
        } else if let Operation::Close { .. } = operation {
            summary = self.take_summary(handle);
            after = After::Closed(handle);
        }
        (after, summary, already)
    }

    fn transfer(&mut self, handle: HandleId) -> Option<&mut Transfer> {
        self.handles.slot(handle)?.transfer.as_mut()
    }

    /// Closes the channel's own books on a handle, whatever its CLOSE brings.
    fn take_summary(&mut self, handle: HandleId) -> Option<Summary> {
        let slot = self.handles.remove(handle)?;
        let transfer = slot.transfer?;
        let requester = Arc::clone(self.gate.requester());
        Some(Summary {
            publishes: slot.handle.is_written(),
            event: Box::new(move |result| {
                transfer.summary(&slot.handle, &requester, Some(result), Instant::now())
            }),
        })
    }
}

/// What to take back if an operation is not run.
pub(super) fn undo_of(operation: &Operation) -> Undo {
    if let Operation::Open { .. } | Operation::Opendir { .. } | Operation::CheckFileName { .. } =
        operation
    {
        Undo::Reservation
    } else if let Operation::Close { handle } = operation {
        Undo::Closing(*handle)
    } else {
        Undo::Nothing
    }
}

/// Bytes of credit that an operation needs to run.
pub(super) fn cost(operation: &Operation) -> u32 {
    if let Operation::Read { length, .. } = operation {
        (*length).max(1)
    } else if let Operation::Readdir { .. } = operation {
        READDIR_COST
    } else {
        0
    }
}

/// Credit for the oldest READ that waits; pending while none does.
pub(super) async fn grant(
    wanted: &mut Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
) -> Option<OwnedSemaphorePermit> {
    poll_fn(|context| match wanted {
        Some(credit) => {
            let granted = std::task::ready!(credit.poll_unpin(context));
            *wanted = None;
            Poll::Ready(granted)
        }
        None => Poll::Pending,
    })
    .await
}

fn unix_time() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}
