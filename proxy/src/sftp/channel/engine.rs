//! The reading task: parses, authorises, announces, schedules, runs and answers.

use std::{
    collections::{BTreeSet, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use portcullis_journal::{
    AppendError, OperationId, PendingIntent, Recorded, Verdict, record::untrusted,
};
use serde_json::Map;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    DRAIN_DEADLINE, Ended, MAX_REQUESTS, READ_CREDIT, STALL_DEADLINE, Sink, Source, WRITE_QUEUE,
    unfinished,
    writer::{Outgoing, write_replies},
};
use crate::{
    gate::{Failed, Gate, Summary},
    operation::{HandleId, MAX_OPEN_HANDLES, Operation, Outcome},
    policy::{OpenHandle, Permit},
    session::Activity,
    sftp::{
        framing::Framer,
        handles::Handles,
        reply::{self, Reply},
        request::{self, Refused, Request},
        schedule::{Claims, Schedule, Ticket},
        transfer::Transfer,
    },
    status::Status,
};

/// Credit that a READDIR takes until its reply is written, in bytes.
const READDIR_COST: u32 = 128 * 1024;
/// Of a refused packet, so much goes into the record, in bytes.
const EVIDENCE: usize = 4096;

pub(super) struct Engine {
    gate: Arc<Gate>,
    activity: Activity,
    framer: Framer,
    greeted: bool,
    handles: Handles,
    /// Intents in the order of arrival, not yet durable.
    announced: VecDeque<Announced>,
    schedule: Schedule<Job>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    running_ids: BTreeSet<OperationId>,
    places: Arc<Semaphore>,
    read_credit: Arc<Semaphore>,
    /// Set while the oldest READ waits for credit.
    wanted: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    granted: Option<OwnedSemaphorePermit>,
    queued_writes: usize,
    /// Nobody takes replies any more; what would only fetch data isn't begun.
    lost: bool,
}

struct Announced {
    operation: OperationId,
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

/// A request of the client that has no written reply yet.
struct RequestId {
    id: u32,
    place: OwnedSemaphorePermit,
}

struct Job {
    request: RequestId,
    recorded: Recorded<Permit>,
}

/// An operation that has ended.
struct Finished {
    ticket: Ticket,
    operation: OperationId,
    request: RequestId,
    credit: Option<OwnedSemaphorePermit>,
    after: After,
    result: Result<Outcome, Failed>,
}

/// What the end of an operation changes in the channel.
enum After {
    Nothing,
    Opened(OpenHandle),
    Read { handle: HandleId, offset: u64 },
    Wrote { handle: HandleId, bytes: usize },
    Listed(HandleId),
    Resized(HandleId),
}

enum Event {
    Cancelled,
    Finished(Finished),
    Durable(Result<Recorded<Permit>, AppendError>),
    Granted(Option<OwnedSemaphorePermit>),
    WriterGone,
    Received(Option<Bytes>),
    Stalled,
}

impl Engine {
    pub(super) fn new(gate: Arc<Gate>, activity: Activity) -> Self {
        Self {
            gate,
            activity,
            framer: Framer::default(),
            greeted: false,
            handles: Handles::new(first_handle()),
            announced: VecDeque::new(),
            schedule: Schedule::default(),
            running: FuturesUnordered::new(),
            running_ids: BTreeSet::new(),
            places: Arc::new(Semaphore::new(MAX_REQUESTS)),
            read_credit: Arc::new(Semaphore::new(READ_CREDIT)),
            wanted: None,
            granted: None,
            queued_writes: 0,
            lost: false,
        }
    }

    pub(super) async fn serve(
        mut self,
        mut source: impl Source,
        sink: impl Sink + 'static,
        cancel: CancellationToken,
    ) -> Ended {
        // Every reply in it holds a place, so it is never full.
        let (outbox, replies) = mpsc::channel(MAX_REQUESTS + 1);
        let mut writer = tokio::spawn(write_replies(replies, sink));
        let ended = self
            .receive(&mut source, &outbox, &mut writer, &cancel)
            .await;
        self.lost = ended == Ended::ConnectionLost;
        let finishing = async {
            if ended.drains() {
                self.drain(&outbox, &mut source, &cancel).await;
            }
            self.settle(ended);
            drop(outbox);
            if !self.lost && ended.drains() {
                tokio::select! {
                    _ = &mut writer => {}
                    () = source.gone() => {}
                    () = cancel.cancelled() => {}
                }
            }
        };
        if timeout(DRAIN_DEADLINE, finishing).await.is_err() {
            tracing::warn!("the requests of an ended channel took too long");
            self.settle(ended);
        }
        writer.abort();
        ended
    }

    /// Serves until there is nothing more to receive.
    async fn receive(
        &mut self,
        source: &mut impl Source,
        outbox: &mpsc::Sender<Outgoing>,
        writer: &mut JoinHandle<()>,
        cancel: &CancellationToken,
    ) -> Ended {
        loop {
            self.start();
            let reads = self.queued_writes < WRITE_QUEUE;
            let event = {
                let Self {
                    announced,
                    running,
                    wanted,
                    ..
                } = &mut *self;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => Event::Cancelled,
                    Some(finished) = running.next() => Event::Finished(finished),
                    durable = first_durable(announced) => Event::Durable(durable),
                    granted = grant(wanted) => Event::Granted(granted),
                    _ = &mut *writer => Event::WriterGone,
                    received = source.next(), if reads => Event::Received(received),
                    () = sleep(STALL_DEADLINE), if !reads => Event::Stalled,
                }
            };
            match event {
                Event::Cancelled => return Ended::Cancelled,
                Event::WriterGone => return Ended::ConnectionLost,
                Event::Stalled => return Ended::Stalled,
                Event::Finished(finished) => self.finish(finished, outbox),
                Event::Durable(durable) => self.schedule_first(durable, outbox),
                Event::Granted(granted) => self.granted = granted,
                Event::Received(None) => {
                    return if self.framer.is_between_frames() {
                        Ended::ClosedByClient
                    } else {
                        Ended::CutPacket
                    };
                }
                Event::Received(Some(chunk)) => {
                    self.activity.touch(Instant::now());
                    self.framer.push(chunk);
                    if let Err(ended) = self.take_frames(outbox) {
                        return ended;
                    }
                }
            }
        }
    }

    /// Runs what has arrived to its end.
    async fn drain(
        &mut self,
        outbox: &mpsc::Sender<Outgoing>,
        source: &mut impl Source,
        cancel: &CancellationToken,
    ) {
        while !(self.announced.is_empty() && self.schedule.is_idle()) {
            self.start();
            let Self {
                announced,
                running,
                wanted,
                lost,
                ..
            } = &mut *self;
            let event = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = source.gone(), if !*lost => Event::WriterGone,
                Some(finished) = running.next() => Event::Finished(finished),
                durable = first_durable(announced) => Event::Durable(durable),
                granted = grant(wanted) => Event::Granted(granted),
            };
            match event {
                Event::Finished(finished) => self.finish(finished, outbox),
                Event::Durable(durable) => self.schedule_first(durable, outbox),
                Event::Granted(granted) => self.granted = granted,
                Event::WriterGone => self.lost = true,
                Event::Cancelled | Event::Received(_) | Event::Stalled => {}
            }
        }
    }

    /// Puts on record what did not come to its end.
    fn settle(&mut self, ended: Ended) {
        let announced = self
            .announced
            .drain(..)
            .map(|announced| announced.operation);
        let waiting = self.schedule.take_waiting();
        for id in announced.chain(waiting.map(|job| job.recorded.intent().id())) {
            unfinished(&self.gate, id, Verdict::Failure, "not_forwarded");
        }
        self.running.clear();
        for id in std::mem::take(&mut self.running_ids) {
            unfinished(&self.gate, id, Verdict::Unknown, ended.code());
        }
        for slot in self.handles.take_all() {
            if let Some(transfer) = slot.transfer {
                let mut event =
                    transfer.summary(&slot.handle, self.gate.requester(), None, Instant::now());
                event
                    .body
                    .insert("close_reason".into(), ended.code().into());
                self.gate.append(event);
            }
        }
    }

    fn take_frames(&mut self, outbox: &mpsc::Sender<Outgoing>) -> Result<(), Ended> {
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
            crate::policy::describe(&operation, &mut asked);
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
        let undo = match permit.operation() {
            Operation::Write { data, .. } => {
                self.queued_writes += data.len();
                Undo::QueuedWrite(data.len())
            }
            Operation::Close { handle } => {
                self.handles.set_closing(*handle, true);
                Undo::Closing(*handle)
            }
            _ if opens => {
                self.handles.reserve();
                Undo::Reservation
            }
            _ => Undo::Nothing,
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
    fn schedule_first(
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

    /// Starts all that may run now.
    fn start(&mut self) {
        loop {
            let Self {
                schedule,
                read_credit,
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
                match Arc::clone(read_credit).try_acquire_many_owned(cost) {
                    Ok(credit) => Some(Some(credit)),
                    Err(_) => {
                        let credit = Arc::clone(read_credit).acquire_many_owned(cost);
                        *wanted = Some(credit.map(Result::ok).boxed());
                        None
                    }
                }
            });
            let Some((ticket, job, credit)) = next else {
                return;
            };
            self.run(ticket, job, credit.flatten());
        }
    }

    fn run(&mut self, ticket: Ticket, job: Job, credit: Option<OwnedSemaphorePermit>) {
        let Job { request, recorded } = job;
        let operation = recorded.intent().id();
        if self.lost && cost(recorded.intent().operation()) > 0 {
            unfinished(&self.gate, operation, Verdict::Failure, "not_forwarded");
            return self.schedule.done(ticket);
        }
        let mut summary: Option<Summary> = None;
        let mut already = None;
        let after = match recorded.intent().operation() {
            Operation::Open { .. } | Operation::Opendir { .. } => recorded
                .intent()
                .opens()
                .map_or(After::Nothing, After::Opened),
            Operation::Read { handle, offset, .. } => After::Read {
                handle: *handle,
                offset: *offset,
            },
            Operation::Write {
                handle,
                offset,
                data,
            } => {
                if let Some(transfer) = self.transfer(*handle) {
                    transfer.writing(*offset, data);
                }
                After::Wrote {
                    handle: *handle,
                    bytes: data.len(),
                }
            }
            Operation::Readdir { handle } => {
                if let Some(slot) = self.handles.slot(*handle)
                    && !slot.unsent.is_empty()
                {
                    already = Some(Outcome::Names(std::mem::take(&mut slot.unsent)));
                }
                After::Listed(*handle)
            }
            Operation::Fsetstat { handle, attributes } if attributes.size.is_some() => {
                After::Resized(*handle)
            }
            Operation::Close { handle } => {
                summary = self.take_summary(*handle);
                After::Nothing
            }
            _ => After::Nothing,
        };
        let performed = match already {
            Some(outcome) => self.gate.answer(recorded, outcome).boxed(),
            None => self.gate.perform(recorded, summary).boxed(),
        };
        self.running_ids.insert(operation);
        self.running.push(
            performed
                .map(move |result| Finished {
                    ticket,
                    operation,
                    request,
                    credit,
                    after,
                    result,
                })
                .boxed(),
        );
    }

    fn finish(&mut self, finished: Finished, outbox: &mpsc::Sender<Outgoing>) {
        let Finished {
            ticket,
            operation,
            request,
            credit,
            after,
            result,
        } = finished;
        self.activity.touch(Instant::now());
        self.schedule.done(ticket);
        self.running_ids.remove(&operation);
        let mut opened = None;
        let mut listed = None;
        match after {
            After::Nothing => {}
            After::Opened(handle) => {
                let open = matches!(result, Ok(Outcome::Opened)).then(|| {
                    opened = Some(handle.id());
                    let transfer = Transfer::of(&handle, Instant::now());
                    (handle, transfer)
                });
                self.handles.settle(open);
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
                self.queued_writes -= bytes;
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
                tracing::info!(error = %failed, "an operation failed");
                reply::status(request.id, failed.status())
            }
        };
        send(outbox, reply, request.place, credit);
    }

    fn transfer(&mut self, handle: HandleId) -> Option<&mut Transfer> {
        self.handles.slot(handle)?.transfer.as_mut()
    }

    /// Closes the channel's own books on a handle, whatever its CLOSE brings.
    fn take_summary(&mut self, handle: HandleId) -> Option<Summary> {
        let slot = self.handles.remove(handle)?;
        let transfer = slot.transfer?;
        let requester = Arc::clone(self.gate.requester());
        Some(Box::new(move |result| {
            transfer.summary(&slot.handle, &requester, Some(result), Instant::now())
        }))
    }
}

/// Puts a reply into the outbox, which has room for one from everybody who holds a place.
fn send(
    outbox: &mpsc::Sender<Outgoing>,
    reply: Reply,
    place: OwnedSemaphorePermit,
    credit: Option<OwnedSemaphorePermit>,
) {
    let outgoing = Outgoing {
        reply,
        place,
        credit,
    };
    // Fails only if the writer is gone; the channel is about to end then.
    drop(outbox.try_send(outgoing));
}

/// Bytes of credit that an operation needs to run.
fn cost(operation: &Operation) -> u32 {
    match operation {
        Operation::Read { length, .. } => (*length).max(1),
        Operation::Readdir { .. } => READDIR_COST,
        _ => 0,
    }
}

/// The oldest intent's fate; pending while there is none. All before it are durable, so only it needs to be asked.
async fn first_durable(
    announced: &mut VecDeque<Announced>,
) -> Result<Recorded<Permit>, AppendError> {
    poll_fn(|context| match announced.front_mut() {
        Some(first) => Pin::new(&mut first.intent).poll(context),
        None => Poll::Pending,
    })
    .await
}

async fn grant(
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

/// A random number below 2^53, so that JSON can carry it, with room for 2^32 handles above it.
fn first_handle() -> u64 {
    let mut random = [0; 4];
    // Only makes records easier to tell apart.
    let _ = getrandom::fill(&mut random);
    u64::from(u32::from_be_bytes(random) >> 12) << 32
}

fn unix_time() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}
