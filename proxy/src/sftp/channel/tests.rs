//! The engine as a client meets it: frames in, frames out, a backend in memory and a real journal behind it.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one reply that it expects"
)]

mod allowance;
mod bounds;
mod compound;
mod differential;
mod edges;
mod endings;
mod extents;
mod hidden;
mod malformed;
mod read_back;
mod records;
mod requests;
mod tree;
mod write_ahead;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use portcullis_journal::Journal;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    allowance::Ledger,
    backend::{BackendService, memory::Memory},
    operation::HandleId,
    policy::Mount,
    sftp::{
        Digests,
        framing::{Fields, Framer},
        request::Extensions,
    },
    status::Status,
    testing,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Pipe(mpsc::Receiver<Bytes>);

impl Source for Pipe {
    async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    async fn gone(&mut self) {
        std::future::pending().await
    }
}

struct Replies(mpsc::Sender<Bytes>);

impl Sink for Replies {
    async fn send(&mut self, bytes: Bytes) -> bool {
        self.0.send(bytes).await.is_ok()
    }
}

/// One client with a channel of its own.
struct Client {
    memory: Memory,
    journal: Journal,
    directory: tempfile::TempDir,
    to_server: Option<mpsc::Sender<Bytes>>,
    from_server: mpsc::Receiver<Bytes>,
    framer: Framer,
    replies: HashMap<u32, Bytes>,
    next_id: u32,
    budget: Budget,
    cancel: CancellationToken,
    serving: JoinHandle<Ended>,
}

impl Client {
    /// With every permission on a mount at `/`, greeted.
    async fn start() -> Self {
        Self::with(vec![testing::everything("/", "memory")], testing::journal).await
    }

    async fn with(mounts: Vec<Mount>, journal: impl FnOnce(&std::path::Path) -> Journal) -> Self {
        Self::raw(mounts, journal).greeted().await
    }

    /// Before INIT.
    fn raw(mounts: Vec<Mount>, journal: impl FnOnce(&std::path::Path) -> Journal) -> Self {
        Self::raw_with(mounts, Extensions::default(), journal)
    }

    /// With every permission on a mount at `/` and extensions that are off by default, greeted.
    async fn with_extensions(extensions: Extensions) -> Self {
        let mounts = vec![testing::everything("/", "memory")];
        Self::raw_with(mounts, extensions, testing::journal)
            .greeted()
            .await
    }

    async fn greeted(mut self) -> Self {
        self.send(&[1, 0, 0, 0, 3]).await;
        let version = self.frame().await.expect("a VERSION packet");
        assert_eq!(version[..5], [2, 0, 0, 0, 3]);
        self
    }

    fn raw_with(
        mounts: Vec<Mount>,
        extensions: Extensions,
        journal: impl FnOnce(&std::path::Path) -> Journal,
    ) -> Self {
        Self::on_memory(mounts, extensions, Budget::default(), journal)
    }

    fn on_memory(
        mounts: Vec<Mount>,
        extensions: Extensions,
        budget: Budget,
        journal: impl FnOnce(&std::path::Path) -> Journal,
    ) -> Self {
        let memory = Memory::new();
        let services = HashMap::from([("memory".to_owned(), Arc::new(memory.clone()) as _)]);
        Self {
            memory,
            ..Self::sharing(budget, services, mounts, extensions, journal)
        }
    }

    /// Another channel of the same connection, with every permission on a backend of its own, greeted.
    async fn beside(sibling: &Self) -> Self {
        let mounts = vec![testing::everything("/", "memory")];
        let budget = sibling.budget.clone();
        Self::on_memory(mounts, Extensions::default(), budget, testing::journal)
            .greeted()
            .await
    }

    /// On a backend in memory, with the gate as `adjust` makes it.
    fn adjusted(mounts: Vec<Mount>, adjust: impl FnOnce(Gate) -> Gate) -> Self {
        let memory = Memory::new();
        let services = HashMap::from([("memory".to_owned(), Arc::new(memory.clone()) as _)]);
        let client = Self::behind(
            Budget::default(),
            services,
            mounts,
            Extensions::default(),
            testing::journal,
            adjust,
        );
        Self { memory, ..client }
    }

    fn serving(
        services: HashMap<String, Arc<dyn BackendService>>,
        mounts: Vec<Mount>,
        extensions: Extensions,
        journal: impl FnOnce(&std::path::Path) -> Journal,
    ) -> Self {
        Self::sharing(Budget::default(), services, mounts, extensions, journal)
    }

    fn sharing(
        budget: Budget,
        services: HashMap<String, Arc<dyn BackendService>>,
        mounts: Vec<Mount>,
        extensions: Extensions,
        journal: impl FnOnce(&std::path::Path) -> Journal,
    ) -> Self {
        Self::behind(budget, services, mounts, extensions, journal, |gate| gate)
    }

    fn behind(
        budget: Budget,
        services: HashMap<String, Arc<dyn BackendService>>,
        mounts: Vec<Mount>,
        extensions: Extensions,
        journal: impl FnOnce(&std::path::Path) -> Journal,
        adjust: impl FnOnce(Gate) -> Gate,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        let gate = Gate::of(
            testing::requester(),
            Arc::new(mounts),
            Arc::new(services),
            extensions,
            Ledger::default(),
            journal.clone(),
        )
        .with_digests(Digests::OfAll);
        let gate = adjust(gate);
        let (to_server, source) = mpsc::channel(2);
        let (sink, from_server) = mpsc::channel(2);
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(serve_frames(
            Pipe(source),
            Replies(sink),
            gate,
            Activity::begin(std::time::Instant::now()),
            budget.clone(),
            cancel.clone(),
        ));
        Self {
            memory: Memory::new(),
            journal,
            directory,
            to_server: Some(to_server),
            from_server,
            framer: Framer::default(),
            replies: HashMap::new(),
            next_id: 1,
            budget,
            cancel,
            serving,
        }
    }

    async fn send(&self, packet: &[u8]) {
        let mut framed = BytesMut::new();
        framed.put_u32(packet.len() as u32);
        framed.put_slice(packet);
        self.send_raw(framed.freeze()).await;
    }

    async fn send_raw(&self, bytes: Bytes) {
        let sender = self.to_server.as_ref().expect("the channel is open");
        // Fails once the server has ended the channel.
        let _ = timeout(PATIENCE, sender.send(bytes))
            .await
            .expect("the server reads");
    }

    /// Sends a request and says under which id its reply will come.
    async fn request(&mut self, request: Packet) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&request.with_id(id)).await;
        id
    }

    /// The next packet, or `None` if the channel has ended.
    async fn frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.framer.next_frame().expect("well-formed replies") {
                return Some(frame);
            }
            let chunk = timeout(PATIENCE, self.from_server.recv())
                .await
                .expect("a reply in time")?;
            self.framer.push(chunk);
        }
    }

    /// The reply to one request; others are kept.
    async fn reply(&mut self, id: u32) -> Reply {
        while !self.replies.contains_key(&id) {
            let frame = self.frame().await.expect("the channel is open");
            let answered = u32::from_be_bytes(frame[1..5].try_into().unwrap());
            assert!(
                self.replies.insert(answered, frame).is_none(),
                "two replies to {answered}"
            );
        }
        Reply::parse(self.replies.remove(&id).unwrap())
    }

    async fn ask(&mut self, request: Packet) -> Reply {
        let id = self.request(request).await;
        self.reply(id).await
    }

    async fn status(&mut self, request: Packet) -> Status {
        match self.ask(request).await {
            Reply::Status(status) => status,
            other => panic!("{other:?} is no status"),
        }
    }

    async fn open(&mut self, path: &[u8], flags: u32) -> HandleId {
        match self.ask(open(path, flags)).await {
            Reply::Handle(handle) => handle,
            other => panic!("{other:?} is no handle"),
        }
    }

    async fn put(&mut self, path: &[u8], data: &[u8]) {
        let handle = self.open(path, REPLACE).await;
        assert_eq!(self.status(write(handle, 0, data)).await, Status::Ok);
        assert_eq!(self.status(close(handle)).await, Status::Ok);
    }

    /// Closes the channel as a client does, and waits until the server is done with it.
    async fn leave(mut self) -> Left {
        self.to_server = None;
        self.finish().await
    }

    /// Waits until the server has ended the channel by itself.
    async fn finish(mut self) -> Left {
        while timeout(PATIENCE, self.from_server.recv())
            .await
            .expect("the channel ends")
            .is_some()
        {}
        let ended = timeout(PATIENCE, &mut self.serving)
            .await
            .expect("the engine ends")
            .expect("the engine doesn't panic");
        self.journal.close().await.expect("the journal closes");
        Left {
            ended,
            records: testing::records(self.directory.path())
                .into_iter()
                .map(flat)
                .collect(),
            memory: self.memory,
            directory: self.directory,
        }
    }
}

/// A record with the fields of its body beside those of its envelope.
fn flat(mut record: Value) -> Value {
    let body = record["body"].take();
    for (name, value) in body.as_object().into_iter().flatten() {
        record[name] = value.clone();
    }
    record
}

/// What a channel leaves behind.
struct Left {
    ended: Ended,
    records: Vec<Value>,
    memory: Memory,
    directory: tempfile::TempDir,
}

impl Left {
    fn of(&self, event: &str) -> Vec<&Value> {
        self.records
            .iter()
            .filter(|record| record["event"] == event)
            .collect()
    }

    /// The reasons of all refusals, in order.
    fn refusals(&self) -> Vec<&str> {
        self.of("op.denied")
            .into_iter()
            .map(|record| record["reason"].as_str().expect("a refusal has a reason"))
            .collect()
    }
}

/// Write, append, create (filexfer-02 section 6.3).
const APPEND: u32 = 0x02 | 0x04 | 0x08;
const READ: u32 = 0x01;
const REPLACE: u32 = 0x02 | 0x08 | 0x10;

#[derive(Debug, Clone)]
struct Packet {
    kind: u8,
    body: BytesMut,
}

impl Packet {
    fn new(kind: u8) -> Self {
        Self {
            kind,
            body: BytesMut::new(),
        }
    }

    fn extended(name: &str) -> Self {
        Self::new(200).string(name.as_bytes())
    }

    fn string(mut self, bytes: &[u8]) -> Self {
        self.body.put_u32(bytes.len() as u32);
        self.body.put_slice(bytes);
        self
    }

    fn number(mut self, number: u32) -> Self {
        self.body.put_u32(number);
        self
    }

    fn long(mut self, number: u64) -> Self {
        self.body.put_u64(number);
        self
    }

    fn handle(self, handle: HandleId) -> Self {
        self.string(&handle.to_wire())
    }

    fn with_id(&self, id: u32) -> Vec<u8> {
        let mut packet = vec![self.kind];
        packet.extend(id.to_be_bytes());
        packet.extend(&self.body);
        packet
    }
}

fn open(path: &[u8], flags: u32) -> Packet {
    Packet::new(3).string(path).number(flags).number(0)
}

fn close(handle: HandleId) -> Packet {
    Packet::new(4).handle(handle)
}

fn read(handle: HandleId, offset: u64, length: u32) -> Packet {
    Packet::new(5).handle(handle).long(offset).number(length)
}

fn write(handle: HandleId, offset: u64, data: &[u8]) -> Packet {
    Packet::new(6).handle(handle).long(offset).string(data)
}

fn stat(path: &[u8]) -> Packet {
    Packet::new(17).string(path)
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Status(Status),
    Handle(HandleId),
    Data(Bytes),
    Names(Vec<(Bytes, Bytes)>),
    /// Flags and what follows them.
    Attributes(u32, Bytes),
    Extended(Bytes),
}

impl Reply {
    fn parse(frame: Bytes) -> Self {
        let mut rest = frame.clone();
        rest.advance(5);
        let mut fields = Fields::new(rest.clone());
        match frame[0] {
            101 => {
                let code = fields.number().unwrap();
                fields.string().unwrap();
                fields.string().unwrap();
                assert!(fields.is_empty());
                let all = [
                    Status::Ok,
                    Status::Eof,
                    Status::NoSuchFile,
                    Status::PermissionDenied,
                    Status::Failure,
                    Status::BadMessage,
                    Status::OpUnsupported,
                ];
                Self::Status(
                    all.into_iter()
                        .find(|status| status.code() == code)
                        .unwrap(),
                )
            }
            102 => {
                let handle = fields.string().unwrap();
                Self::Handle(HandleId::from_wire(&handle).unwrap())
            }
            103 => {
                let data = fields.string().unwrap();
                assert!(fields.is_empty());
                Self::Data(data)
            }
            104 => {
                let count = fields.number().unwrap();
                let names = (0..count)
                    .map(|_| {
                        let name = fields.string().unwrap();
                        let long = fields.string().unwrap();
                        let flags = fields.number().unwrap();
                        for (flag, numbers) in [(1, 2), (2, 2), (4, 1), (8, 2)] {
                            for _ in 0..if flags & flag != 0 { numbers } else { 0 } {
                                fields.number().unwrap();
                            }
                        }
                        (name, long)
                    })
                    .collect();
                assert!(fields.is_empty());
                Self::Names(names)
            }
            105 => {
                let flags = rest.get_u32();
                Self::Attributes(flags, rest)
            }
            201 => Self::Extended(rest),
            kind => panic!("reply of type {kind}"),
        }
    }
}
