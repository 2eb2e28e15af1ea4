//! An FTP server in memory that can be told to misbehave.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::super::{FtpService, FtpSettings, FtpTls, Password, settings::Charset};
use crate::backend::{BackendService as _, conformance::Client, staging::UploadSettings};

/// How it differs from an obliging server with nothing but RFC 959, SIZE, MDTM and EPSV.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// The lines of FEAT; refused if there are none.
    pub(super) features: &'static [&'static str],
    /// Commands that are answered as given, `REFUSED` or another reply.
    pub(super) answers: BTreeMap<&'static str, &'static str>,
    /// A command for which there is no port when it comes first.
    pub(super) no_port_at: Option<&'static str>,
    /// A command that is never answered.
    pub(super) hang_at: Option<&'static str>,
    /// What LIST prints, whatever is there.
    pub(super) listing: Option<&'static [u8]>,
    /// LIST prints that again and again.
    pub(super) endless_listing: bool,
    /// A command, at which it once does this to the control connection.
    pub(super) breaks: Option<(&'static str, Break)>,
    /// Address in the reply to PASV.
    pub(super) claimed_address: &'static str,
    /// RNTO over an existing file works.
    pub(super) replaces: bool,
    /// The data connection of RETR is closed after so many bytes, and the reply is still 226.
    pub(super) cuts_downloads_at: Option<usize>,
    /// STOR keeps no more than this and says 552.
    pub(super) room: Option<usize>,
    /// Data connections are opened, and then nothing more happens on them.
    pub(super) stalls: bool,
    /// AUTH TLS is known.
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// TLS begins with the connection, and AUTH TLS is unknown.
    pub(super) implicit: bool,
    /// Of the client's settings.
    pub(super) keepalive: Duration,
    /// Of the client's settings.
    pub(super) charset: Charset,
    /// Of the client's settings.
    pub(super) resume: bool,
}

/// How a server goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// It closes the connection instead of an answer.
    HangUp,
    /// It closes the connection within the answer.
    HalfAnswer,
    /// It says what is not FTP, and closes.
    Garbage,
    /// It says 421 and closes.
    Farewell,
    /// It does what it is told, and closes the connection before the last answer.
    Obey,
    /// The data connection is reset when it is opened; the control connection stays.
    ResetData,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

pub(super) const REFUSED: &str = "502 Command not implemented";

impl Default for Script {
    fn default() -> Self {
        Self {
            features: &["EPSV", "SIZE", "MDTM", "REST STREAM"],
            answers: BTreeMap::new(),
            no_port_at: None,
            hang_at: None,
            listing: None,
            endless_listing: false,
            breaks: None,
            claimed_address: "127,0,0,1",
            replaces: true,
            cuts_downloads_at: None,
            room: None,
            stalls: false,
            tls: None,
            implicit: false,
            keepalive: Duration::from_secs(60),
            charset: Charset::AsTheyAre,
            resume: false,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) directories: BTreeSet<Vec<u8>>,
    /// Every command line, as it came on the wire.
    pub(super) commands: Vec<Vec<u8>>,
    pub(super) logins: usize,
    /// Bytes of files that the data connections took.
    pub(super) sent: usize,
    /// Control connections.
    pub(super) open: usize,
    /// What [`Script::breaks`] says has happened.
    pub(super) broken: bool,
}

impl Disk {
    /// How often the command came.
    fn asked(&self, verb: &str) -> usize {
        let is_it =
            |line: &&Vec<u8>| line.split(|byte| *byte == b' ').next() == Some(verb.as_bytes());
        self.commands.iter().filter(is_it).count()
    }
}

#[derive(Debug)]
pub(super) struct Scripted {
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) service: FtpService,
    pub(super) address: SocketAddr,
    listener: tokio::task::JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// How long a client of these tests waits for the server.
pub(super) const TIMEOUT: Duration = Duration::from_millis(700);

impl Scripted {
    pub(super) async fn start(script: Script) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let disk = Arc::new(Mutex::new(Disk::default()));
        let shared = Arc::clone(&disk);
        let (script_keepalive, script_charset, script_resume) =
            (script.keepalive, script.charset, script.resume);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = socket.accept().await {
                let session = Session::new(script.clone(), Arc::clone(&shared), client);
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    shared.lock().unwrap().open += 1;
                    session.run().await;
                    shared.lock().unwrap().open -= 1;
                });
            }
        });
        let service = FtpService::new(FtpSettings {
            address: address.to_string(),
            user: "gateway".to_owned(),
            password: Password::new("secret"),
            tls: FtpTls::None,
            timeout: TIMEOUT,
            keepalive: script_keepalive,
            charset: script_charset,
            uploads: UploadSettings {
                resume: script_resume,
                ..UploadSettings::default()
            },
            copy_limit: 1 << 20,
        })
        .unwrap();
        Self {
            disk,
            service,
            address,
            listener,
        }
    }

    /// A session whose mount is the root.
    pub(super) fn client(&self) -> Client {
        Client::new(self.service.session(b"/", &crate::testing::owner()))
    }

    pub(super) fn has(&self, name: &str, content: &[u8]) {
        let path = name.as_bytes().to_vec();
        self.disk.lock().unwrap().files.insert(path, content.into());
    }

    pub(super) fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.disk
            .lock()
            .unwrap()
            .files
            .get(name.as_bytes())
            .cloned()
    }

    /// The names of all files, uploads in progress included.
    pub(super) fn names(&self) -> Vec<String> {
        let disk = self.disk.lock().unwrap();
        disk.files
            .keys()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    pub(super) fn commands(&self) -> Vec<String> {
        let disk = self.disk.lock().unwrap();
        disk.commands
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }
}

/// The end of a connection that was reset.
struct Broken;

impl AsyncWrite for Broken {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

struct Session {
    script: Script,
    disk: Arc<Mutex<Disk>>,
    /// Absent for the moment in which TLS begins.
    control: Option<BufReader<Box<dyn Wire>>>,
    passive: Option<TcpListener>,
    restart: usize,
    /// The next data connection is reset.
    resets: bool,
    /// Nothing is said any more.
    mute: bool,
    renaming: Option<Vec<u8>>,
    directory: Vec<u8>,
}

impl Session {
    fn new(script: Script, disk: Arc<Mutex<Disk>>, client: TcpStream) -> Self {
        Self {
            script,
            disk,
            control: Some(BufReader::new(Box::new(client))),
            passive: None,
            restart: 0,
            resets: false,
            mute: false,
            renaming: None,
            directory: b"/".to_vec(),
        }
    }

    async fn run(mut self) {
        if self.script.implicit {
            self.protect().await;
        }
        self.say("220 scripted").await;
        loop {
            let mut line = Vec::new();
            let Some(control) = &mut self.control else {
                return;
            };
            match control.read_until(b'\n', &mut line).await {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => return,
            }
            assert!(line.ends_with(b"\r\n"), "{line:?} is a whole line");
            line.truncate(line.len() - 2);
            self.disk.lock().unwrap().commands.push(line.clone());
            let (verb, argument) = match line.iter().position(|&byte| byte == b' ') {
                Some(space) => (&line[..space], &line[space + 1..]),
                None => (&line[..], &b""[..]),
            };
            let verb = String::from_utf8_lossy(verb).into_owned();
            if self.script.hang_at == Some(verb.as_str()) {
                std::future::pending::<()>().await;
            }
            if self.breaks_at(&verb).await {
                return;
            }
            let asked = self.disk.lock().unwrap().asked(&verb);
            if self.script.no_port_at == Some(verb.as_str()) && asked == 1 {
                self.say("425 Address already in use").await;
            } else if let Some(answer) = self.script.answers.get(verb.as_str()) {
                self.say(answer).await;
            } else {
                self.obey(&verb, argument).await;
            }
            if self.mute {
                return;
            }
        }
    }

    /// True if the connection ends here.
    async fn breaks_at(&mut self, verb: &str) -> bool {
        let Some((_, how)) = self.script.breaks.filter(|(at, _)| *at == verb) else {
            return false;
        };
        if std::mem::replace(&mut self.disk.lock().unwrap().broken, true) {
            return false;
        }
        match how {
            Break::HangUp => {}
            Break::HalfAnswer => {
                if let Some(control) = &mut self.control {
                    let _ = control.write_all(b"22").await;
                    let _ = control.flush().await;
                }
            }
            Break::Garbage => self.say("\u{0}\u{1}GET / HTTP/1.1").await,
            Break::Farewell => self.say("421 closing").await,
            Break::Obey => {
                self.mute = true;
                return false;
            }
            Break::ResetData => {
                self.resets = true;
                return false;
            }
        }
        true
    }

    async fn say(&mut self, reply: &str) {
        // The marks of a transfer still come: only its last answer is lost.
        if self.mute && !reply.starts_with('1') {
            return;
        }
        if let Some(control) = &mut self.control {
            // The client may be gone.
            let _ = control.write_all(format!("{reply}\r\n").as_bytes()).await;
            let _ = control.flush().await;
        }
    }

    async fn obey(&mut self, verb: &str, argument: &[u8]) {
        match verb {
            "AUTH" if self.script.tls.is_some() && !self.script.implicit => self.begin_tls().await,
            "PBSZ" | "PROT" if self.script.tls.is_some() => self.say("200 fine").await,
            "USER" => self.say("331 password").await,
            "PASS" => {
                self.disk.lock().unwrap().logins += 1;
                self.say("230 welcome").await;
            }
            "FEAT" if self.script.features.is_empty() => self.say(REFUSED).await,
            "FEAT" => {
                let lines: String = self
                    .script
                    .features
                    .iter()
                    .map(|feature| format!(" {feature}\r\n"))
                    .collect();
                self.say(&format!("211-Features:\r\n{lines}211 End")).await;
            }
            "TYPE" | "NOOP" | "OPTS" => self.say("200 fine").await,
            "PWD" => self.say("257 \"/\" is here").await,
            "EPSV" => {
                let port = self.listen().await.port();
                self.say(&format!("229 Extended passive (|||{port}|)"))
                    .await;
            }
            "PASV" => {
                let port = self.listen().await.port();
                let address = self.script.claimed_address;
                self.say(&format!(
                    "227 Passive ({address},{},{})",
                    port >> 8,
                    port & 255
                ))
                .await;
            }
            "REST" => {
                self.restart = String::from_utf8_lossy(argument).parse().unwrap();
                self.say("350 go on").await;
            }
            "STOR" => {
                let offset = std::mem::take(&mut self.restart);
                self.store(argument, offset).await;
            }
            "APPE" => self.store(argument, usize::MAX).await,
            "RETR" => self.retrieve(argument).await,
            "LIST" | "MLSD" => self.list(verb, argument).await,
            _ => {
                let reply = self.names(verb, argument);
                self.say(&reply).await;
            }
        }
    }

    fn names(&mut self, verb: &str, argument: &[u8]) -> String {
        let mut disk = self.disk.lock().unwrap();
        let argument = argument.to_vec();
        let is_directory = argument == b"/" || disk.directories.contains(&argument);
        match verb {
            "CWD" if is_directory => {
                self.directory = argument;
                "250 there".to_owned()
            }
            "SIZE" => match disk.files.get(&argument) {
                Some(content) => format!("213 {}", content.len()),
                None => "550 failed".to_owned(),
            },
            "MDTM" if disk.files.contains_key(&argument) => "213 20200102030405".to_owned(),
            "DELE" if disk.files.remove(&argument).is_some() => "250 gone".to_owned(),
            "MKD" if !is_directory => {
                disk.directories.insert(argument);
                "257 made".to_owned()
            }
            "RMD" if disk.directories.remove(&argument) => "250 gone".to_owned(),
            "RNFR" if disk.files.contains_key(&argument) => {
                self.renaming = Some(argument);
                "350 to where".to_owned()
            }
            "RNTO" if self.script.replaces || !disk.files.contains_key(&argument) => {
                let from = self.renaming.take().unwrap();
                let content = disk.files.remove(&from).unwrap();
                disk.files.insert(argument, content);
                "250 renamed".to_owned()
            }
            "CWD" | "MDTM" | "DELE" | "MKD" | "RMD" | "RNFR" | "RNTO" => "550 failed".to_owned(),
            _ => REFUSED.to_owned(),
        }
    }

    async fn listen(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.passive = Some(listener);
        address
    }

    async fn begin_tls(&mut self) {
        self.say("234 begin").await;
        self.protect().await;
    }

    async fn protect(&mut self) {
        let plain = self.control.take().unwrap().into_inner();
        let acceptor = TlsAcceptor::from(self.script.tls.clone().unwrap());
        if let Ok(protected) = acceptor.accept(plain).await {
            self.control = Some(BufReader::new(Box::new(protected)));
        }
    }

    async fn data(&mut self) -> Box<dyn Wire> {
        let listener = self.passive.take().unwrap();
        let plain = listener.accept().await.unwrap().0;
        if std::mem::take(&mut self.resets) {
            rustix::net::sockopt::set_socket_linger(&plain, Some(Duration::ZERO)).unwrap();
            drop(plain);
            return Box::new(tokio::io::join(tokio::io::empty(), Broken));
        }
        match &self.script.tls {
            Some(config) => {
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                Box::new(acceptor.accept(plain).await.unwrap())
            }
            None => Box::new(plain),
        }
    }

    /// Replaces the file, or writes over it from `offset` on.
    async fn store(&mut self, path: &[u8], offset: usize) {
        let reset = self.resets;
        let mut position = {
            let mut disk = self.disk.lock().unwrap();
            let file = disk.files.entry(path.to_vec()).or_default();
            if offset == 0 {
                file.clear();
            }
            offset.min(file.len())
        };
        self.say("150 go").await;
        let mut data = self.data().await;
        if reset {
            return self.say("426 broken off").await;
        }
        if self.script.stalls {
            std::future::pending::<()>().await;
        }
        let mut buffer = vec![0; 64 * 1024];
        let mut stored = 0;
        while let Ok(count) = data.read(&mut buffer).await {
            if count == 0 {
                self.say("226 stored").await;
                return;
            }
            stored += count;
            if self.script.room.is_some_and(|room| stored > room) {
                drop(data);
                self.say("552 the disk is full").await;
                return;
            }
            let mut disk = self.disk.lock().unwrap();
            if let Some(file) = disk.files.get_mut(path) {
                let end = position + count;
                file.resize(file.len().max(end), 0);
                file[position..end].copy_from_slice(&buffer[..count]);
                position = end;
            }
        }
        self.say("426 broken off").await;
    }

    async fn retrieve(&mut self, path: &[u8]) {
        let content = self.disk.lock().unwrap().files.get(path).cloned();
        let Some(content) = content else {
            return self.say("550 failed").await;
        };
        self.say("150 go").await;
        let mut data = self.data().await;
        if self.script.stalls {
            std::future::pending::<()>().await;
        }
        let end = self
            .script
            .cuts_downloads_at
            .map_or(content.len(), |cut| cut.min(content.len()));
        let from = std::mem::take(&mut self.restart).min(end);
        let mut sent = Ok(());
        for piece in content[from..end].chunks(64 * 1024) {
            sent = data.write_all(piece).await;
            if sent.is_err() {
                break;
            }
            self.disk.lock().unwrap().sent += piece.len();
        }
        match sent {
            Ok(()) => {
                let _ = data.shutdown().await;
                drop(data);
                self.say("226 sent").await;
            }
            Err(_) => self.say("426 broken off").await,
        }
    }

    async fn list(&mut self, verb: &str, argument: &[u8]) {
        if self.passive.is_none() {
            return self.say("425 no data connection").await;
        }
        let printed = match self.script.listing {
            Some(listing) => listing.to_vec(),
            None if argument.starts_with(b"-") => Vec::new(),
            None => {
                let disk = self.disk.lock().unwrap();
                let mut lines = Vec::new();
                for (path, content) in &disk.files {
                    let name = path.rsplit(|&byte| byte == b'/').next().unwrap();
                    let size = content.len();
                    let facts = if verb == "MLSD" {
                        format!("type=file;size={size}; ")
                    } else {
                        format!("-rw-r--r-- 1 user group {size} Jan  2  2020 ")
                    };
                    lines.extend_from_slice(facts.as_bytes());
                    lines.extend_from_slice(name);
                    lines.extend_from_slice(b"\r\n");
                }
                lines
            }
        };
        self.say("150 go").await;
        let mut data = self.data().await;
        let mut sent = data.write_all(&printed).await;
        while self.script.endless_listing && sent.is_ok() {
            sent = data.write_all(&printed).await;
        }
        if sent.is_err() {
            return self.say("426 broken off").await;
        }
        let _ = data.shutdown().await;
        drop(data);
        self.say("226 listed").await;
    }
}
