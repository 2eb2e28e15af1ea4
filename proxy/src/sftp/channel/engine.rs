//! The reading task: parses, authorises, announces, schedules, runs and answers.

mod compound;
mod execution;
mod intake;
mod overtaking;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use portcullis_journal::{AppendError, OperationId, Recorded, Verdict};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    compound::Underway,
    execution::{Finished, grant},
    intake::{Announced, Announcing, Parked, first_durable, take_parked},
    overtaking::Held,
};
use super::{
    DRAIN_DEADLINE, Ended, MAX_REQUESTS, STALL_DEADLINE, Sink, Source, unfinished,
    writer::{Outgoing, write_replies},
};
use crate::{
    gate::{Covering, Gate},
    operation::Operation,
    policy::Permit,
    session::{Activity, Budget, Credit},
    sftp::{compound::Part, framing::Framer, handles::Handles, reply::Reply, schedule::Schedule},
};

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
    /// The request that is being carried out as several.
    underway: Option<Underway>,
    /// Those of names that are being written, oldest first.
    held: Vec<Held>,
    places: Arc<Semaphore>,
    /// For the replies to READ and READDIR.
    credit: Credit,
    /// For the data of WRITEs.
    write_credit: Credit,
    /// A WRITE that has arrived and waits for credit; nothing behind it is looked at.
    parked: Option<Parked>,
    /// Set while the oldest READ waits for credit.
    wanted: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    granted: Option<OwnedSemaphorePermit>,
    /// Nobody takes replies any more; what would only fetch data isn't begun.
    lost: bool,
}

/// A request of the client that has no written reply yet.
struct RequestId {
    id: u32,
    place: OwnedSemaphorePermit,
    /// For the data of a WRITE, until it is done.
    _written: Option<OwnedSemaphorePermit>,
}

/// Who gets the outcome of an operation.
enum Asker {
    Client(RequestId),
    /// The request that is carried out as several, of which this is a part.
    Compound(Part),
}

struct Job {
    asker: Asker,
    recorded: Recorded<Permit>,
    /// Its place in an extent, if it has one.
    covering: Option<Covering>,
}

enum Event {
    Cancelled,
    Finished(Finished),
    Durable(Result<Recorded<Permit>, AppendError>),
    Granted(Option<OwnedSemaphorePermit>),
    WriterGone,
    Overdue,
    Unparked(RequestId, Operation),
    Received(Option<Bytes>),
    Stalled,
}

impl Engine {
    pub(super) fn new(gate: Arc<Gate>, activity: Activity, budget: &Budget) -> Self {
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
            underway: None,
            held: Vec::new(),
            places: Arc::new(Semaphore::new(MAX_REQUESTS)),
            credit: Credit::to_read(budget),
            write_credit: Credit::to_write(budget),
            parked: None,
            wanted: None,
            granted: None,
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
            self.start(outbox);
            let reads = self.parked.is_none();
            let event = {
                let Self {
                    announced,
                    running,
                    wanted,
                    parked,
                    held,
                    ..
                } = &mut *self;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => Event::Cancelled,
                    Some(finished) = running.next() => Event::Finished(finished),
                    durable = first_durable(announced) => Event::Durable(durable),
                    granted = grant(wanted) => Event::Granted(granted),
                    _ = &mut *writer => Event::WriterGone,
                    (request, operation) = take_parked(parked) => Event::Unparked(request, operation),
                    () = Held::overdue(held) => Event::Overdue,
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
                Event::Overdue => self.go_on_without_close(outbox),
                Event::Unparked(request, operation) => {
                    self.submit(request, operation, outbox);
                    if let Err(ended) = self.take_frames(outbox) {
                        return ended;
                    }
                }
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
        while !(self.announced.is_empty() && self.schedule.is_idle() && self.held.is_empty()) {
            self.start(outbox);
            let Self {
                announced,
                running,
                wanted,
                held,
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
                () = Held::overdue(held) => Event::Overdue,
            };
            match event {
                Event::Overdue => self.go_on_without_close(outbox),
                Event::Finished(finished) => self.finish(finished, outbox),
                Event::Durable(durable) => self.schedule_first(durable, outbox),
                Event::Granted(granted) => self.granted = granted,
                Event::WriterGone => self.lost = true,
                Event::Cancelled | Event::Unparked(..) | Event::Received(_) | Event::Stalled => {}
            }
        }
    }

    /// Puts on record what did not come to its end.
    fn settle(&mut self, ended: Ended) {
        // What an extent covers is in the outcome of that.
        let announced = self.announced.drain(..).filter_map(|announced| {
            matches!(announced.intent, Announcing::Alone(_)).then_some(announced.operation)
        });
        let waiting = self
            .schedule
            .take_waiting()
            .filter_map(|job| job.covering.is_none().then(|| job.recorded.intent().id()));
        for id in announced.chain(waiting) {
            unfinished(&self.gate, id, Verdict::Failure, "not_forwarded");
        }
        self.running.clear();
        self.underway = None;
        self.held.clear();
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

/// A random number below 2^53, so that JSON can carry it, with room for 2^32 handles above it.
fn first_handle() -> u64 {
    let mut random = [0; 4];
    // Only makes records easier to tell apart.
    let _ = getrandom::fill(&mut random);
    u64::from(u32::from_be_bytes(random) >> 12) << 32
}
