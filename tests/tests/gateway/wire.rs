//! An SFTP client that sends exactly the bytes it is told to, for what no real client would send.
//!
//! SSH is the library's; the SFTP frames are built here from filexfer-02, apart from the proxy's own code.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use russh::{Channel, ChannelMsg};
use tokio::net::TcpStream;
use tokio::time::timeout;

use portcullis_tests::account::Account;

/// How long an answer may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Request and reply types (filexfer-02 section 3).
pub(crate) mod kind {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
}

/// Status codes (filexfer-02 section 7).
pub(crate) mod status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const BAD_MESSAGE: u32 = 5;
    pub(crate) const OP_UNSUPPORTED: u32 = 8;
}

/// `pflags` of OPEN (filexfer-02 section 6.3).
pub(crate) mod open {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const WRITE: u32 = 0x02;
    pub(crate) const APPEND: u32 = 0x04;
    pub(crate) const CREATE: u32 = 0x08;
    pub(crate) const TRUNCATE: u32 = 0x10;
    /// What an ordinary upload asks for.
    pub(crate) const UPLOAD: u32 = WRITE | CREATE | TRUNCATE;
}

/// The body of a frame: its type, and what follows, field by field. The length goes before it when it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    /// A frame of this type.
    pub(crate) fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    /// A request: type and id.
    pub(crate) fn request(kind: u8, id: u32) -> Self {
        Self::new(kind).u32(id)
    }

    /// Adds a number.
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds a number.
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds a string with its length.
    pub(crate) fn string(self, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(length).raw(value)
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The whole frame with its length before it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        [&length.to_be_bytes(), self.0.as_slice()].concat()
    }
}

/// A reply's type, id and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// One of [`kind`].
    pub kind: u8,
    /// The request's id.
    pub id: u32,
    /// The rest.
    pub body: Vec<u8>,
}

impl Reply {
    /// The code of a STATUS; `None` for other replies.
    pub(crate) fn status(&self) -> Option<u32> {
        (self.kind == kind::STATUS)
            .then(|| number(&self.body))
            .flatten()
    }

    /// The first string of the body: a handle, or the data of a READ.
    pub(crate) fn string(&self) -> Result<Vec<u8>> {
        let length = number(&self.body).context("the reply has a string")?;
        let string = self.body.get(4..4 + usize::try_from(length)?);
        match self.kind {
            kind::HANDLE | kind::DATA => Ok(string.context("the string is whole")?.to_vec()),
            _ => bail!("expected a handle or data, got {self:?}"),
        }
    }

    /// The names of a NAME reply, in its order, without long names and attributes' values.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>> {
        if self.kind != kind::NAME {
            bail!("expected names, got {self:?}");
        }
        let mut rest = Rest(&self.body);
        (0..rest.u32()?)
            .map(|_| {
                let name = rest.string()?.to_vec();
                rest.string()?;
                rest.skip_attributes()?;
                Ok(name)
            })
            .collect()
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .context("the reply is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        number(self.take(4)?).context("four bytes")
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.u32()?)?;
        self.take(length)
    }

    fn skip_attributes(&mut self) -> Result<()> {
        let flags = self.u32()?;
        for (flag, bytes) in [(0x1, 8), (0x2, 8), (0x4, 4), (0x8, 8)] {
            if flags & flag != 0 {
                self.take(bytes)?;
            }
        }
        Ok(())
    }
}

struct AnyHostKey;

impl client::Handler for AnyHostKey {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A connection that may be authenticated.
pub(crate) struct Connection(Handle<AnyHostKey>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Connects; nobody is logged in yet.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        Self::over(timeout(PATIENCE, TcpStream::connect(address)).await??).await
    }

    /// Speaks SSH over a connection that is there.
    pub(crate) async fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let config = client::Config {
            window_size: 8 << 20,
            ..client::Config::default()
        };
        let connecting = client::connect_stream(Arc::new(config), stream, AnyHostKey);
        Ok(Self(timeout(PATIENCE, connecting).await??))
    }

    /// Tries the key; true for success, whole or partial.
    pub(crate) async fn key(&mut self, user: &str, key: &Path) -> Result<(bool, bool)> {
        let key = PrivateKeyWithHashAlg::new(Arc::new(load_secret_key(key, None)?), None);
        Ok(outcome(
            timeout(PATIENCE, self.0.authenticate_publickey(user, key)).await??,
        ))
    }

    /// Tries the method `password`: (success, partial success).
    pub(crate) async fn password(&mut self, user: &str, password: &str) -> Result<(bool, bool)> {
        Ok(outcome(
            timeout(PATIENCE, self.0.authenticate_password(user, password)).await??,
        ))
    }

    /// Answers the prompts of keyboard-interactive from `answers`, by what they ask for: (success, partial success).
    pub(crate) async fn keyboard_interactive(
        &mut self,
        user: &str,
        password: &str,
        code: &str,
    ) -> Result<(bool, bool)> {
        let starting = self.0.authenticate_keyboard_interactive_start(user, None);
        let mut response = timeout(PATIENCE, starting).await??;
        loop {
            let prompts = match response {
                KeyboardInteractiveAuthResponse::Success => return Ok((true, false)),
                KeyboardInteractiveAuthResponse::Failure {
                    partial_success, ..
                } => return Ok((false, partial_success)),
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
            };
            let answers = prompts
                .iter()
                .map(|prompt| match prompt.prompt.as_str() {
                    "Password: " => Ok(password.to_owned()),
                    "One-time password: " => Ok(code.to_owned()),
                    other => bail!("an unexpected prompt: {other:?}"),
                })
                .collect::<Result<Vec<_>>>()?;
            let responding = self.0.authenticate_keyboard_interactive_respond(answers);
            response = timeout(PATIENCE, responding).await??;
        }
    }

    /// Opens a session channel, without a subsystem.
    pub(crate) async fn channel(&self) -> Result<Channel<client::Msg>> {
        Ok(timeout(PATIENCE, self.0.channel_open_session()).await??)
    }

    /// Opens SFTP on a channel of its own and negotiates version 3.
    pub(crate) async fn sftp(&self) -> Result<Wire> {
        let mut wire = self.subsystem().await?;
        wire.send(&Frame::new(kind::INIT).u32(3)).await?;
        let version = wire.reply().await?;
        if version.kind != kind::VERSION || version.id != 3 {
            bail!("the server doesn't speak version 3: {version:?}");
        }
        Ok(wire)
    }

    /// Opens SFTP on a channel of its own, before any frame.
    pub(crate) async fn subsystem(&self) -> Result<Wire> {
        let channel = self.channel().await?;
        timeout(PATIENCE, channel.request_subsystem(true, "sftp")).await??;
        Ok(Wire {
            channel,
            received: Vec::new(),
            next_id: 0,
        })
    }
}

fn outcome(result: AuthResult) -> (bool, bool) {
    match result {
        AuthResult::Success => (true, false),
        AuthResult::Failure {
            partial_success, ..
        } => (false, partial_success),
    }
}

/// Logs in with the key and the password, which takes no one-time code.
pub(crate) async fn log_in(address: SocketAddr, account: &Account) -> Result<Connection> {
    log_in_over(Connection::open(address).await?, account).await
}

/// As [`log_in`], on a connection that is there.
pub(crate) async fn log_in_over(
    mut connection: Connection,
    account: &Account,
) -> Result<Connection> {
    let (_, partial) = connection.key(&account.name, &account.key).await?;
    if !partial {
        bail!("the key alone gave no partial success");
    }
    let (success, _) = connection
        .keyboard_interactive(&account.name, &account.password, "")
        .await?;
    if !success {
        bail!("key and password were refused");
    }
    Ok(connection)
}

/// An SFTP channel.
pub(crate) struct Wire {
    channel: Channel<client::Msg>,
    received: Vec<u8>,
    next_id: u32,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("received", &self.received.len())
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.send_raw(frame.bytes()).await
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_raw(&mut self, bytes: Vec<u8>) -> Result<()> {
        timeout(PATIENCE, self.channel.data_bytes(bytes)).await??;
        Ok(())
    }

    /// The next reply.
    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        self.next().await?.context("the server closed the channel")
    }

    /// The next reply, or `None` when the server has closed the channel.
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.take_frame() {
                return Ok(Some(reply));
            }
            match timeout(PATIENCE, self.channel.wait())
                .await
                .context("the server doesn't answer")?
            {
                Some(ChannelMsg::Data { data }) => self.received.extend_from_slice(&data),
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return Ok(None),
                Some(_) => {}
            }
        }
    }

    fn take_frame(&mut self) -> Option<Reply> {
        let length = usize::try_from(number(&self.received)?).ok()?;
        let frame = self.received.get(4..4 + length)?.to_vec();
        self.received.drain(..4 + length);
        let (kind, rest) = frame.split_first()?;
        Some(Reply {
            kind: *kind,
            id: number(rest)?,
            body: rest.get(4..)?.to_vec(),
        })
    }

    /// Sends the request that `fill` completes and returns its reply.
    pub(crate) async fn ask(
        &mut self,
        kind: u8,
        fill: impl FnOnce(Frame) -> Frame,
    ) -> Result<Reply> {
        self.next_id += 1;
        let id = self.next_id;
        self.send(&fill(Frame::request(kind, id))).await?;
        let reply = self.reply().await?;
        if reply.id != id {
            bail!("asked as {id}, answered {reply:?}");
        }
        Ok(reply)
    }

    /// Opens a file and returns its handle.
    pub(crate) async fn open(&mut self, path: &[u8], flags: u32) -> Result<Vec<u8>> {
        let reply = self
            .ask(kind::OPEN, |frame| frame.string(path).u32(flags).u32(0))
            .await?;
        reply
            .string()
            .with_context(|| format!("open {}", String::from_utf8_lossy(path)))
    }

    /// Writes and returns the status.
    pub(crate) async fn write(
        &mut self,
        handle: &[u8],
        offset: u64,
        data: &[u8],
    ) -> Result<Option<u32>> {
        let reply = self
            .ask(kind::WRITE, |frame| {
                frame.string(handle).u64(offset).string(data)
            })
            .await?;
        Ok(reply.status())
    }

    /// Closes a handle and returns the status.
    pub(crate) async fn close(&mut self, handle: &[u8]) -> Result<Option<u32>> {
        Ok(self
            .ask(kind::CLOSE, |frame| frame.string(handle))
            .await?
            .status())
    }

    /// Uploads a whole file.
    pub(crate) async fn put(&mut self, path: &[u8], data: &[u8]) -> Result<()> {
        let handle = self.open(path, open::UPLOAD).await?;
        for (index, chunk) in data.chunks(32 << 10).enumerate() {
            let offset = u64::try_from(index * (32 << 10))?;
            let written = self.write(&handle, offset, chunk).await?;
            if written != Some(status::OK) {
                bail!("write at {offset}: {written:?}");
            }
        }
        match self.close(&handle).await? {
            Some(status::OK) => Ok(()),
            other => bail!("close: {other:?}"),
        }
    }

    /// Downloads a whole file.
    pub(crate) async fn get(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let handle = self.open(path, open::READ).await?;
        let mut data = Vec::new();
        loop {
            let offset = u64::try_from(data.len())?;
            let reply = self
                .ask(kind::READ, |frame| {
                    frame.string(&handle).u64(offset).u32(256 << 10)
                })
                .await?;
            if reply.status() == Some(status::EOF) {
                break;
            }
            data.extend(reply.string()?);
        }
        self.close(&handle).await?;
        Ok(data)
    }

    /// Sends a request on one path and returns the status.
    pub(crate) async fn path_status(&mut self, kind: u8, path: &[u8]) -> Result<Option<u32>> {
        Ok(self.ask(kind, |frame| frame.string(path)).await?.status())
    }

    /// The size that STAT answers with; `None` if nothing is there.
    pub(crate) async fn size(&mut self, path: &[u8]) -> Result<Option<u64>> {
        let reply = self.ask(kind::STAT, |frame| frame.string(path)).await?;
        if reply.kind != kind::ATTRS {
            return Ok(None);
        }
        // Behind the flags, of which the lowest says that there is a size.
        let size = reply.body.get(4..12).context("STAT gives a size")?;
        Ok(Some(u64::from_be_bytes(size.try_into()?)))
    }

    /// Every name in a folder.
    pub(crate) async fn list(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let handle = self
            .ask(kind::OPENDIR, |frame| frame.string(path))
            .await?
            .string()?;
        let mut names = Vec::new();
        loop {
            let reply = self
                .ask(kind::READDIR, |frame| frame.string(&handle))
                .await?;
            if reply.status() == Some(status::EOF) {
                break;
            }
            names.extend(reply.names()?);
        }
        self.close(&handle).await?;
        Ok(names)
    }
}
