//! One channel to the server: many requests in flight, each answer to its request.
//!
//! The reader never waits for the writer, and neither waits for whoever asked: answers go into slots, requests come from
//! a bounded queue. A server that sends nothing and takes nothing for the deadline is given up, with all that waits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client::Msg};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    abilities::Abilities,
    fault::{Fault, Loss},
    pool::Lease,
    wire::{self, Frame, Reply, Request},
    writes::Writes,
};
use crate::{backend::ErrorKind, sftp::framing::Framer};

/// Requests that wait to be sent: what the engine takes from one client, cut to the smallest limits. 32 MiB of WRITEs and 8 MiB
/// of READs by 1 KiB, and 8,192 others.
const QUEUE: usize = 48 * 1024;
/// SFTP on an open channel. Ends when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Frame>,
    pub(super) abilities: Abilities,
    handles: Arc<AtomicU64>,
}

/// One of the handles that the server allows; free again when dropped.
#[derive(Debug)]
pub(super) struct HandleSlot(Arc<AtomicU64>);

impl Drop for HandleSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Shared {
    deadline: Duration,
    state: Mutex<State>,
    begun: Instant,
    /// Milliseconds after `begun` when bytes last moved, in either direction.
    moved: AtomicU64,
    /// Told when the last answer that was waited for has come, or none will come any more.
    emptied: Notify,
    /// Cancelled when the channel ends, or the SSH connection below it.
    ended: CancellationToken,
}

#[derive(Debug)]
enum State {
    Open {
        next: u32,
        waiting: HashMap<u32, Slot>,
    },
    Closed(Loss),
}

#[derive(Debug)]
struct Slot {
    answer: oneshot::Sender<Reply>,
    /// The upload that this WRITE belongs to.
    writes: Option<Arc<Writes>>,
}

/// A slot whose answer will not come counts as a failed write.
impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(writes) = self.writes.take() {
            writes.lost();
        }
    }
}

/// An answer that is on its way.
#[derive(Debug)]
#[must_use = "the request is sent, but nobody waits for its answer"]
pub(super) struct Answer {
    slot: oneshot::Receiver<Reply>,
    shared: Arc<Shared>,
    asked: Instant,
}

impl Connection {
    /// Begins the protocol on a fresh channel.
    pub(super) async fn open(
        lease: Lease,
        ended: CancellationToken,
        read: ChannelReadHalf,
        write: ChannelWriteHalf<Msg>,
        deadline: Duration,
    ) -> Result<Self, Loss> {
        let mut incoming = Incoming {
            read,
            framer: Framer::default(),
        };
        write
            .data_bytes(wire::init())
            .await
            .map_err(|error| Loss::unavailable(format!("sending INIT failed: {error}")))?;
        let Some(frame) = incoming.next_frame(|| ()).await? else {
            return Err(Loss::unavailable(
                "the server ended the SFTP subsystem at once",
            ));
        };
        let (version, extensions) = wire::parse_version(frame)
            .map_err(|error| Loss::unavailable(format!("the server began with {error}")))?;
        if version != wire::VERSION {
            return Err(Loss::unavailable(format!(
                "the server speaks SFTP version {version}; version {} is needed",
                wire::VERSION
            )));
        }
        let shared = Arc::new(Shared {
            deadline,
            state: Mutex::new(State::Open {
                next: 1,
                waiting: HashMap::new(),
            }),
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            emptied: Notify::new(),
            ended,
        });
        let (queue, queued) = mpsc::channel(QUEUE);
        tokio::spawn(send(lease, write, queued, shared.clone()));
        tokio::spawn(receive(incoming, shared.clone()));
        let mut connection = Self {
            shared,
            queue,
            handles: Arc::default(),
            abilities: Abilities::announced(&extensions),
        };
        if connection.abilities.limits {
            connection.ask_limits().await?;
        }
        Ok(connection)
    }

    async fn ask_limits(&mut self) -> Result<(), Loss> {
        let asked = self.send(Request::extended("limits@openssh.com"));
        if let Reply::Extended(answer) = asked.reply().await? {
            self.abilities
                .limit(answer)
                .map_err(|error| Loss::unavailable(format!("the server sent {error}")))?;
        }
        Ok(())
    }

    /// Queues a request, in the order of the calls.
    pub(super) fn send(&self, request: Request) -> Answer {
        self.send_counted(request, None)
    }

    /// Queues a WRITE of an upload.
    pub(super) fn send_write(&self, request: Request, writes: &Arc<Writes>) -> Answer {
        self.send_counted(request, Some(writes.clone()))
    }

    fn send_counted(&self, request: Request, writes: Option<Arc<Writes>>) -> Answer {
        let (answer, slot) = oneshot::channel();
        let answer_to_come = Answer {
            slot,
            shared: self.shared.clone(),
            asked: Instant::now(),
        };
        if let Some(writes) = &writes {
            writes.begin();
        }
        let slot = Slot { answer, writes };
        let mut state = self.shared.state();
        if let State::Open { next, waiting } = &mut *state {
            let id = *next;
            *next = next.wrapping_add(1);
            waiting.insert(id, slot);
            // Within the lock, so that two threads can't queue in another order than their ids.
            let queued = self.queue.try_send(request.finish(id));
            drop(state);
            if queued.is_err() {
                self.shared.close(Loss::unavailable(
                    "too many requests wait for the server, or the connection just ended",
                ));
            }
        }
        answer_to_come
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.shared.state(), State::Open { .. })
    }

    /// Room for one more open handle.
    pub(super) fn take_handle(&self) -> Result<HandleSlot, Fault> {
        let most = self.abilities.handles;
        let slot = HandleSlot(self.handles.clone());
        let others = self.handles.fetch_add(1, Ordering::Relaxed);
        if most > 0 && others >= most {
            return Err(Fault::TooManyHandles { most });
        }
        Ok(slot)
    }

    /// Waits until every request is answered, as long as bytes move within the deadline.
    pub(super) async fn settle(&self) {
        let asked = Instant::now();
        loop {
            let emptied = self.shared.emptied.notified();
            if !self.shared.owes_answers() {
                return;
            }
            let patience = self.shared.patience(asked);
            if timeout_at(patience, emptied).await.is_err()
                && self.shared.patience(asked) <= patience
            {
                return;
            }
        }
    }
}

impl Answer {
    /// Waits for the answer, as long as bytes move within the deadline.
    pub(super) async fn reply(mut self) -> Result<Reply, Loss> {
        loop {
            let patience = self.shared.patience(self.asked);
            match timeout_at(patience, &mut self.slot).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(_)) => return Err(self.shared.loss()),
                Err(_) if self.shared.patience(self.asked) > patience => {}
                Err(_) => {
                    let loss = Loss {
                        kind: ErrorKind::TimedOut,
                        why: format!(
                            "no answer within {} s; whether the request was carried out is not known",
                            self.shared.deadline.as_secs_f32()
                        ),
                    };
                    self.shared.close(loss.clone());
                    return Err(loss);
                }
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.begun + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// When an answer to what was asked then is given up, unless bytes move until then.
    fn patience(&self, asked: Instant) -> Instant {
        self.last_moved().max(asked) + self.deadline
    }

    fn owes_answers(&self) -> bool {
        matches!(&*self.state(), State::Open { waiting, .. } if !waiting.is_empty())
    }

    fn loss(&self) -> Loss {
        match &*self.state() {
            State::Open { .. } => Loss::unavailable("the request was dropped"),
            State::Closed(loss) => loss.clone(),
        }
    }

    /// Ends the connection; all that waits learns why. The first reason stays.
    fn close(&self, loss: Loss) {
        let abandoned = {
            let mut state = self.state();
            match &*state {
                State::Open { .. } => Some(std::mem::replace(&mut *state, State::Closed(loss))),
                State::Closed(_) => None,
            }
        };
        drop(abandoned);
        self.emptied.notify_waiters();
        self.ended.cancel();
    }

    fn deliver(&self, id: u32, reply: Reply) -> Result<(), Loss> {
        let slot = match &mut *self.state() {
            State::Open { waiting, .. } => {
                let slot = waiting.remove(&id);
                if waiting.is_empty() {
                    self.emptied.notify_waiters();
                }
                slot
            }
            State::Closed(_) => return Ok(()),
        };
        let Some(mut slot) = slot else {
            return Err(Loss::unavailable(format!(
                "the server answered request {id}, which does not wait for an answer"
            )));
        };
        if let Some(writes) = slot.writes.take() {
            writes.answered(&reply);
        }
        slot.answer(reply);
        Ok(())
    }
}

impl Slot {
    fn answer(mut self, reply: Reply) {
        let (unused, _) = oneshot::channel();
        // Nobody waits any more: the session ended, or gave the operation up.
        let _ = std::mem::replace(&mut self.answer, unused).send(reply);
    }
}

struct Incoming {
    read: ChannelReadHalf,
    framer: Framer,
}

impl Incoming {
    /// The next packet; `None` once the channel has ended.
    async fn next_frame(&mut self, moved: impl Fn()) -> Result<Option<Bytes>, Loss> {
        loop {
            match self.framer.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => {
                    return Err(Loss::unavailable(format!("the server sent {error}")));
                }
            }
            match self.read.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    moved();
                    self.framer.push(data);
                }
                Some(ChannelMsg::Failure) => {
                    return Err(Loss::unavailable(
                        "the server refused the sftp subsystem; it must be enabled for this user",
                    ));
                }
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return Ok(None),
                // Exit status, window changes, standard error: nothing of SFTP.
                Some(_) => {}
            }
        }
    }
}

async fn receive(mut incoming: Incoming, shared: Arc<Shared>) {
    let loss = loop {
        let frame = tokio::select! {
            frame = incoming.next_frame(|| shared.touch()) => frame,
            () = shared.ended.cancelled() => Ok(None),
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => break Loss::unavailable("the server closed the connection"),
            Err(loss) => break loss,
        };
        let delivered = wire::parse(frame)
            .map_err(|error| Loss::unavailable(format!("the server sent {error}")))
            .and_then(|(id, reply)| shared.deliver(id, reply));
        if let Err(loss) = delivered {
            break loss;
        }
    };
    shared.close(loss);
}

/// Sends what is queued. Ends, and with it the channel, once nobody can queue any more.
async fn send(
    lease: Lease,
    write: ChannelWriteHalf<Msg>,
    mut queued: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
) {
    let ended = shared.ended.clone();
    let sending = async {
        while let Some(Frame { head, data }) = queued.recv().await {
            write.data_bytes(head).await?;
            if !data.is_empty() {
                write.data_bytes(data).await?;
            }
            shared.touch();
        }
        Ok::<(), russh::Error>(())
    };
    // `data_bytes` may be dropped here: after the end nothing is sent on this channel.
    let sent = tokio::select! {
        sent = sending => sent,
        () = ended.cancelled() => Ok(()),
    };
    if let Err(error) = sent {
        shared.close(Loss::unavailable(format!(
            "sending to the server failed: {error}"
        )));
    }
    shared.close(Loss::unavailable("the connection was ended"));
    if shared.loss().kind == ErrorKind::TimedOut {
        lease.doubt();
    }
    if let Ok(Ok(())) = timeout(shared.deadline, write.close()).await {
        lease.leave_clean();
    }
}
