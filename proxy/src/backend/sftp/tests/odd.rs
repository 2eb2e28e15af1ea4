//! An SSH server of the tests' own in front of OpenSSH's `sftp-server`. It keeps to the protocol and has habits that OpenSSH
//! has not.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use portcullis_tests::{files, locate};
use russh::{
    Channel, ChannelId, ChannelOpenFailure,
    server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{mpsc, watch},
};

use super::*;

const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ_REQUEST: u8 = 5;
const WRITE_REQUEST: u8 = 6;
const OPENDIR: u8 = 11;
const EXTENDED: u8 = 200;
const HANDLE: u8 = 102;
/// Answers that are held back at most, to go out in another order.
const HELD: usize = 64;

/// What the server does otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// Most bytes of a READ or WRITE, announced and enforced.
    pub(super) data: Option<u32>,
    /// Most open handles of a channel, announced and enforced.
    pub(super) handles: usize,
    /// Answers go out last first, as many as are on their way at once.
    pub(super) shuffles: bool,
    /// A READ brings no more bytes than this, also before the end of the file.
    pub(super) short_reads: Option<u32>,
    /// Most channels of a connection.
    pub(super) channels: usize,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            data: None,
            handles: usize::MAX,
            shuffles: false,
            short_reads: None,
            channels: usize::MAX,
        }
    }
}

/// The server. It runs until its value is dropped.
pub(super) struct Odd {
    pub(super) home: PathBuf,
    address: SocketAddr,
    host_key: ssh_key::PublicKey,
    key: ssh_key::PrivateKey,
    shared: Arc<Shared>,
    _stopping: tokio_util::sync::DropGuard,
    _scratch: tempfile::TempDir,
}

#[derive(Debug)]
struct Shared {
    habits: Habits,
    home: PathBuf,
    program: PathBuf,
    connections: AtomicUsize,
    open_connections: watch::Sender<usize>,
    requests: Mutex<Vec<u8>>,
    /// What happens to the next request of this type.
    trouble: Mutex<Option<(u8, Trouble)>>,
}

/// A request is carried out, but its answer does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The connection breaks.
    Break,
    Hang,
}

impl Odd {
    pub(super) async fn start(habits: Habits) -> Self {
        let scratch = files::folder("odd-server").unwrap();
        let home = scratch.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let private = |name| {
            let path = files::ssh_key(scratch.path(), name).unwrap();
            let text = std::fs::read_to_string(path).unwrap();
            ssh_key::PrivateKey::from_openssh(text.as_bytes()).unwrap()
        };
        let host_key = private("host");
        let shared = Arc::new(Shared {
            habits,
            home: home.clone(),
            program: locate::peer("openssh", "usr/lib/openssh/sftp-server").unwrap(),
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
            open_connections: watch::Sender::new(0),
            trouble: Mutex::default(),
        });
        let config = Arc::new(server::Config {
            keys: vec![host_key.clone()],
            ..server::Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = CancellationToken::new();
        let accepting = {
            let (shared, stopping) = (shared.clone(), stopping.clone());
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    serve(&config, socket, &shared, &stopping).await;
                }
            }
        };
        tokio::spawn(stopping.clone().run_until_cancelled_owned(accepting));
        Self {
            home,
            address,
            host_key: host_key.public_key().clone(),
            key: private("login"),
            shared,
            _stopping: stopping.drop_guard(),
            _scratch: scratch,
        }
    }

    pub(super) fn settings(&self) -> SftpSettings {
        settings(self.address, self.host_key.clone(), self.key.clone())
    }

    /// Connections so far.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How often a request of this type has come.
    pub(super) fn asked(&self, kind: u8) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|&&asked| asked == kind).count()
    }

    /// Carries the next request of this type out and breaks its connection before the answer.
    pub(super) fn break_at(&self, kind: u8) {
        *self.shared.trouble.lock().unwrap() = Some((kind, Trouble::Break));
    }

    /// Carries the next request of this type out and never answers it.
    pub(super) fn hang_at(&self, kind: u8) {
        *self.shared.trouble.lock().unwrap() = Some((kind, Trouble::Hang));
    }

    pub(super) fn open_connections(&self) -> usize {
        *self.shared.open_connections.borrow()
    }

    pub(super) async fn wait_for_open_connections(&self, expected: usize) {
        let mut open = self.shared.open_connections.subscribe();
        let reached = open.wait_for(|&open| open == expected);
        let reached = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        assert!(reached, "{} connections stay open", self.open_connections());
    }
}

/// Serves the connection until it ends or `stopping`, in the background.
async fn serve(
    config: &Arc<server::Config>,
    socket: TcpStream,
    shared: &Arc<Shared>,
    stopping: &CancellationToken,
) {
    let cut = stopping.child_token();
    let socket = socket.into_std().unwrap();
    let same = socket.try_clone().unwrap();
    let handler = Connection {
        shared: shared.clone(),
        channels: HashMap::new(),
        open: Arc::default(),
        cut: cut.clone(),
    };
    let socket = TcpStream::from_std(socket).unwrap();
    let config = config.clone();
    let open_connections = shared.open_connections.clone();
    open_connections.send_modify(|open| *open += 1);
    tokio::spawn(async move {
        if let Ok(session) = server::run_stream(config, socket, handler).await {
            let _ = session.await;
        }
        open_connections.send_modify(|open| *open -= 1);
    });
    tokio::spawn(async move {
        cut.cancelled().await;
        let _ = same.shutdown(std::net::Shutdown::Both);
    });
}

struct Connection {
    shared: Arc<Shared>,
    channels: HashMap<ChannelId, Channel<Msg>>,
    open: Arc<AtomicUsize>,
    cut: CancellationToken,
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.open.load(Ordering::Relaxed) >= self.shared.habits.channels {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let channel = self.channels.remove(&id).unwrap();
        session.channel_success(id)?;
        let mut child = Command::new(&self.shared.program)
            .arg("-d")
            .arg(&self.shared.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let relay = Relaying {
            shared: self.shared.clone(),
            cut: self.cut.clone(),
            handles: HashSet::new(),
            opening: HashSet::new(),
            unanswered: 0,
            held: Vec::new(),
            troubled: None,
        };
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let open = self.open.clone();
        tokio::spawn(async move {
            let (read, write) = tokio::io::split(channel.into_stream());
            relay.run(read, write, stdin, stdout).await;
            let _ = child.wait().await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }
}

/// One channel: what goes to `sftp-server`, and what comes back.
struct Relaying {
    shared: Arc<Shared>,
    cut: CancellationToken,
    handles: HashSet<Bytes>,
    /// Ids of OPENs that are on their way.
    opening: HashSet<u32>,
    unanswered: usize,
    held: Vec<Bytes>,
    /// The request in trouble.
    troubled: Option<(u32, Trouble)>,
}

impl Relaying {
    async fn run(
        mut self,
        from_client: impl AsyncRead + Unpin + Send + 'static,
        mut to_client: impl AsyncWrite + Unpin,
        to_program: impl AsyncWrite + Unpin,
        from_program: impl AsyncRead + Unpin + Send + 'static,
    ) {
        let mut to_program = Some(to_program);
        let mut requests = frames(from_client);
        let mut answers = frames(from_program);
        let cut = self.cut.clone();
        loop {
            // The end of the program's answers is the end: it has carried out all that it was asked.
            let send = tokio::select! {
                () = cut.cancelled() => return,
                request = requests.recv(), if to_program.is_some() => {
                    match (request.map(|request| self.take(request)), &mut to_program) {
                        (Some(Ok(request)), Some(program)) => {
                            self.unanswered += 1;
                            program.write_all(&framed(&request)).await
                        }
                        (Some(Err(refusal)), _) => to_client.write_all(&framed(&refusal)).await,
                        (None, _) | (_, None) => {
                            to_program = None;
                            Ok(())
                        }
                    }
                }
                answer = answers.recv() => {
                    let Some(answer) = answer else { return };
                    let Some(batch) = self.answered(answer) else { return };
                    to_client.write_all(&batch).await
                }
            };
            if send.is_err() {
                return;
            }
        }
    }

    /// What the program is asked, or the answer that it need not be asked for.
    fn take(&mut self, request: Bytes) -> Result<Bytes, Bytes> {
        const FAILURE: u32 = 4;
        const BAD_MESSAGE: u32 = 5;
        let kind = request[0];
        self.shared.requests.lock().unwrap().push(kind);
        if kind == INIT {
            return Ok(request);
        }
        let mut fields = request.slice(1..);
        let id = fields.get_u32();
        let due = |trouble: &mut (u8, Trouble)| trouble.0 == kind;
        if let Some((_, trouble)) = self.shared.trouble.lock().unwrap().take_if(due) {
            self.troubled = Some((id, trouble));
        }
        let habits = self.shared.habits;
        match kind {
            OPEN | OPENDIR => {
                if self.handles.len() + self.opening.len() >= habits.handles {
                    return Err(status(id, FAILURE, "too many open handles"));
                }
                self.opening.insert(id);
            }
            CLOSE => {
                self.handles.remove(&string(&mut fields));
            }
            READ_REQUEST => {
                string(&mut fields);
                fields.advance(8);
                let length = fields.get_u32();
                if habits.data.is_some_and(|most| length > most) {
                    return Err(status(id, BAD_MESSAGE, "a READ beyond the limit"));
                }
                let length = length.min(habits.short_reads.unwrap_or(length));
                let head = request.len() - 4;
                let mut cut = BytesMut::from(&request[..head]);
                cut.put_u32(length);
                return Ok(cut.freeze());
            }
            WRITE_REQUEST => {
                string(&mut fields);
                fields.advance(8);
                if habits.data.is_some_and(|most| fields.get_u32() > most) {
                    return Err(status(id, BAD_MESSAGE, "a WRITE beyond the limit"));
                }
            }
            EXTENDED if string(&mut fields) == "limits@openssh.com" => {
                if let Some(data) = habits.data {
                    let mut answer = BytesMut::from(&[201][..]);
                    answer.put_u32(id);
                    let handles = u64::try_from(habits.handles).unwrap();
                    for limit in [u64::from(data) + 1024, data.into(), data.into(), handles] {
                        answer.put_u64(limit);
                    }
                    return Err(answer.freeze());
                }
            }
            _ => {}
        }
        Ok(request)
    }

    /// The packets that go to the client; `None` once the connection is cut.
    fn answered(&mut self, answer: Bytes) -> Option<Bytes> {
        self.unanswered -= 1;
        let mut fields = answer.slice(1..);
        let id = fields.get_u32();
        if let Some((troubled, trouble)) = self.troubled
            && troubled == id
        {
            return match trouble {
                Trouble::Break => {
                    self.cut.cancel();
                    None
                }
                Trouble::Hang => Some(Bytes::new()),
            };
        }
        let was_opening = self.opening.remove(&id);
        if was_opening && answer[0] == HANDLE {
            self.handles.insert(string(&mut fields));
        }
        self.held.push(answer);
        let habits = self.shared.habits;
        if habits.shuffles && self.unanswered > 0 && self.held.len() < HELD {
            return Some(Bytes::new());
        }
        let batch: Vec<u8> = self
            .held
            .drain(..)
            .rev()
            .flat_map(|answer| framed(&answer))
            .collect();
        Some(batch.into())
    }
}

/// The packets of a stream, each without its length.
fn frames(mut stream: impl AsyncRead + Unpin + Send + 'static) -> mpsc::Receiver<Bytes> {
    // More than a client has on its way: who waited here for the program would keep it from answering.
    let (sender, receiver) = mpsc::channel(64 * 1024);
    tokio::spawn(async move {
        while let Ok(length) = stream.read_u32().await {
            let mut frame = vec![0; length as usize];
            if stream.read_exact(&mut frame).await.is_err()
                || sender.send(frame.into()).await.is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&u32::try_from(packet.len()).unwrap().to_be_bytes(), packet].concat()
}

fn string(fields: &mut Bytes) -> Bytes {
    let length = fields.get_u32() as usize;
    fields.split_to(length)
}

fn status(id: u32, code: u32, message: &str) -> Bytes {
    let mut answer = BytesMut::from(&[101][..]);
    answer.put_u32(id);
    answer.put_u32(code);
    answer.put_u32(u32::try_from(message.len()).unwrap());
    answer.put_slice(message.as_bytes());
    answer.put_u32(0);
    answer.freeze()
}
