//! A client of the SFTP engine in the same process: what scp does is asked for as a client would ask.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Broken;
use crate::{
    backend::sftp::wire::{self, Kind, Reply, Request},
    operation::{Attributes, Entry},
    sftp::{Sink, Source, framing::Framer},
    status::Status,
};

/// Chunks on their way to the engine or back.
const QUEUE: usize = 4;

/// The engine's end: what the client asks for.
#[derive(Debug)]
pub(super) struct Requests(mpsc::Receiver<Bytes>);

impl Source for Requests {
    async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    /// Who asks for nothing more takes nothing more.
    async fn gone(&mut self) {}
}

/// The engine's end: what it answers.
#[derive(Debug)]
pub(super) struct Replies(mpsc::Sender<Bytes>);

impl Sink for Replies {
    async fn send(&mut self, bytes: Bytes) -> bool {
        self.0.send(bytes).await.is_ok()
    }
}

/// What the engine says of a request that it did not do, as the other side may hear it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    pub(super) message: String,
    pub(super) is_end: bool,
}

/// A request whose answer is waited for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pending(u32);

#[derive(Debug)]
pub(super) struct Client {
    requests: mpsc::Sender<Bytes>,
    replies: mpsc::Receiver<Bytes>,
    framer: Framer,
    arrived: HashMap<u32, Reply>,
    next: u32,
}

/// The engine's two ends and the client.
pub(super) fn pipe() -> (Requests, Replies, Client) {
    let (to_engine, requests) = mpsc::channel(QUEUE);
    let (replies, from_engine) = mpsc::channel(QUEUE);
    let client = Client {
        requests: to_engine,
        replies: from_engine,
        framer: Framer::default(),
        arrived: HashMap::new(),
        next: 0,
    };
    (Requests(requests), Replies(replies), client)
}

impl Client {
    /// INIT and VERSION.
    pub(super) async fn greet(&mut self) -> Result<(), Broken> {
        self.send(wire::init()).await?;
        self.frame().await.map(|_| ())
    }

    pub(super) async fn ask(&mut self, request: Request) -> Result<Pending, Broken> {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let frame = request.finish(id);
        self.send(frame.head).await?;
        if !frame.data.is_empty() {
            self.send(frame.data).await?;
        }
        Ok(Pending(id))
    }

    pub(super) async fn reply(&mut self, Pending(id): Pending) -> Result<Reply, Broken> {
        loop {
            if let Some(reply) = self.arrived.remove(&id) {
                return Ok(reply);
            }
            let frame = self.frame().await?;
            let (answered, reply) = wire::parse(frame).map_err(|_| Broken::Engine)?;
            self.arrived.insert(answered, reply);
        }
    }

    /// For a request that is answered with a status.
    pub(super) async fn done(&mut self, pending: Pending) -> Result<Result<(), Refused>, Broken> {
        let reply = self.reply(pending).await?;
        if let Reply::Status { code: 0, .. } = reply {
            return Ok(Ok(()));
        }
        refused(reply).map(Err)
    }

    pub(super) async fn handle(
        &mut self,
        request: Request,
    ) -> Result<Result<Bytes, Refused>, Broken> {
        let pending = self.ask(request).await?;
        let reply = self.reply(pending).await?;
        if let Reply::Handle(handle) = reply {
            return Ok(Ok(handle));
        }
        refused(reply).map(Err)
    }

    pub(super) async fn attributes(
        &mut self,
        request: Request,
    ) -> Result<Result<Attributes, Refused>, Broken> {
        let pending = self.ask(request).await?;
        let reply = self.reply(pending).await?;
        if let Reply::Attributes(attributes) = reply {
            return Ok(Ok(attributes));
        }
        refused(reply).map(Err)
    }

    /// The next names of a listing; none at its end.
    pub(super) async fn names(
        &mut self,
        handle: &[u8],
    ) -> Result<Result<Vec<Entry>, Refused>, Broken> {
        let pending = self.ask(Request::new(Kind::Readdir).string(handle)).await?;
        let reply = self.reply(pending).await?;
        if let Reply::Names(names) = reply {
            return Ok(Ok(names));
        }
        let refused = refused(reply)?;
        Ok(if refused.is_end {
            Ok(Vec::new())
        } else {
            Err(refused)
        })
    }

    pub(super) async fn simple(&mut self, request: Request) -> Result<Result<(), Refused>, Broken> {
        let pending = self.ask(request).await?;
        self.done(pending).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        self.requests.send(bytes).await.map_err(|_| Broken::Engine)
    }

    async fn frame(&mut self) -> Result<Bytes, Broken> {
        loop {
            if let Some(frame) = self.framer.next_frame().map_err(|_| Broken::Engine)? {
                return Ok(frame);
            }
            let chunk = self.replies.recv().await.ok_or(Broken::Engine)?;
            self.framer.push(chunk);
        }
    }
}

/// What a reply that is no success says.
pub(super) fn refused(reply: Reply) -> Result<Refused, Broken> {
    match reply {
        Reply::Status { code, message } => Ok(Refused {
            message,
            is_end: code == Status::Eof.code(),
        }),
        Reply::Handle(_)
        | Reply::Data(_)
        | Reply::Names(_)
        | Reply::Attributes(_)
        | Reply::Extended(_) => Err(Broken::Engine),
    }
}
