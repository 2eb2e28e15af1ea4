//! One control connection: connecting, logging in, and the commands, each with its deadline.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use suppaftp::{
    Encoding, FtpResult, Mode, Status,
    tokio::{AsyncRustlsFtpStream, AsyncRustlsStream, TransferStream},
    types::FileType,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
};

use super::{
    fault::Fault,
    location::Location,
    settings::{FtpSettings, FtpTls},
    tls::{TlsClient, TlsSettingsError},
};
use crate::backend::ErrorKind;

/// An open data connection. Dropping it breaks the transfer off; the connection's next command reads the reply to that.
pub(super) type Transfer = TransferStream<AsyncRustlsStream>;

/// An idle connection is asked for a sign of life after this time.
const TRUSTED_IDLE: Duration = Duration::from_secs(20);

/// Most bytes of one directory listing.
const LISTING_BYTES: u64 = 64 * 1024 * 1024;

/// An FTP server, and what was learned about it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) settings: FtpSettings,
    pub(super) quirks: Quirks,
    tls: Option<TlsClient>,
}

/// Commands that the server announced or seemed to know, and refused. Learned once, for all sessions.
#[derive(Debug, Default)]
pub(super) struct Quirks {
    pub(super) no_epsv: Quirk,
    pub(super) no_mlst: Quirk,
    pub(super) no_mlsd: Quirk,
    pub(super) no_size: Quirk,
    pub(super) no_mdtm: Quirk,
    /// LIST does not take the path of a file.
    pub(super) no_list_file: Quirk,
    /// `LIST -a` is not understood.
    pub(super) no_list_all: Quirk,
    pub(super) no_set_time: Quirk,
    pub(super) no_chmod: Quirk,
}

#[derive(Debug, Default)]
pub(super) struct Quirk(AtomicBool);

impl Quirk {
    pub(super) fn learn(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Server {
    pub(super) fn new(settings: FtpSettings) -> Result<Self, TlsSettingsError> {
        let tls = match &settings.tls {
            FtpTls::None => None,
            FtpTls::Explicit { server_name, trust } => Some(TlsClient::new(server_name, trust)?),
        };
        Ok(Self {
            settings,
            quirks: Quirks::default(),
            tls,
        })
    }
}

/// A logged-in control connection.
pub(super) struct Connection {
    ftp: AsyncRustlsFtpStream,
    server: Arc<Server>,
    features: HashMap<String, Option<String>>,
    /// False from the moment a command is sent until its reply has come: an abandoned command leaves the connection
    /// out of step.
    in_step: bool,
    last_reply: Instant,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server.settings.address)
            .field("in_step", &self.in_step)
            .finish_non_exhaustive()
    }
}

/// Sends a command and awaits its reply within the server's deadline.
macro_rules! ask {
    ($connection:expr, $command:literal, $exchange:expr) => {{
        $connection.in_step = false;
        let reply = tokio::time::timeout($connection.server.settings.timeout, $exchange).await;
        $connection.judge($command, reply)
    }};
}

impl Connection {
    /// Connects, starts TLS where configured, logs in, asks for the features and sets binary transfers.
    pub(super) async fn open(server: &Arc<Server>) -> Result<Self, Fault> {
        match Self::try_open(server).await {
            Err(Fault::Tls { cause })
                if server
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.retry_with_tls13(&cause)) =>
            {
                Self::try_open(server).await
            }
            result => result,
        }
    }

    async fn try_open(server: &Arc<Server>) -> Result<Self, Fault> {
        let settings = &server.settings;
        let socket = within(settings.timeout, TcpStream::connect(&settings.address))
            .await
            .and_then(|socket| {
                socket.set_nodelay(true)?;
                Ok(socket)
            })
            .map_err(|error| Fault::Unreachable {
                cause: error.to_string(),
            })?;
        let needs_epsv = socket.peer_addr().is_ok_and(|peer| peer.is_ipv6());
        let mut ftp = early(
            settings.timeout,
            "the greeting",
            AsyncRustlsFtpStream::connect_with_stream(socket),
        )
        .await?;
        ftp.set_encoding(Octets).await;
        if let Some(tls) = &server.tls {
            ftp = early(
                settings.timeout,
                "AUTH TLS",
                ftp.into_secure(tls.connector(), tls.server_name()),
            )
            .await
            .map_err(Fault::before_tls)?;
        }
        let user = octets(settings.user.as_bytes());
        let password = zeroize::Zeroizing::new(octets(settings.password.as_bytes()));
        early(
            settings.timeout,
            "the login",
            ftp.login(user.as_str(), password.as_str()),
        )
        .await
        .map_err(Fault::before_login)?;
        ftp.set_passive_nat_workaround(true);
        let mut connection = Self {
            ftp,
            server: Arc::clone(server),
            features: HashMap::new(),
            in_step: true,
            last_reply: Instant::now(),
        };
        connection.prepare(needs_epsv).await?;
        Ok(connection)
    }

    async fn prepare(&mut self, needs_epsv: bool) -> Result<(), Fault> {
        match ask!(self, "FEAT", self.ftp.feat()) {
            Ok(features) => {
                self.features = features
                    .into_iter()
                    .map(|(name, value)| (name.to_ascii_uppercase(), value))
                    .collect();
            }
            Err(fault) if fault.is_refusal() => {}
            Err(fault) => return Err(fault),
        }
        if self.announces("UTF8") {
            // Some want it before they take UTF-8 names, others refuse it because they always do.
            let told = ask!(self, "OPTS UTF8 ON", self.ftp.opts("UTF8", Some("ON")));
            accept_refusal(told)?;
        }
        ask!(self, "TYPE I", self.ftp.transfer_type(FileType::Binary))?;
        let epsv = needs_epsv || (self.announces("EPSV") && !self.server.quirks.no_epsv.is_known());
        self.ftp.set_mode(if epsv {
            Mode::ExtendedPassive
        } else {
            Mode::Passive
        });
        Ok(())
    }

    /// True if FEAT named it.
    pub(super) fn announces(&self, feature: &str) -> bool {
        self.features.contains_key(feature)
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(super) fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// Whether the server still answers. Costs a round trip only if there is reason to ask.
    pub(super) async fn is_alive(&mut self) -> bool {
        if !self.in_step {
            return false;
        }
        let mut byte = [0];
        let waiting = self.ftp.get_ref().await.peek(&mut byte).now_or_never();
        match waiting {
            // Closed by the server.
            Some(Ok(0) | Err(_)) => false,
            // A farewell (421), or the reply to a transfer that was broken off.
            Some(Ok(_)) => self.is_answering().await,
            None if self.last_reply.elapsed() > TRUSTED_IDLE => self.is_answering().await,
            None => true,
        }
    }

    async fn is_answering(&mut self) -> bool {
        ask!(self, "NOOP", self.ftp.noop()).is_ok()
    }

    /// The login directory.
    pub(super) async fn login_directory(&mut self) -> Result<Vec<u8>, Fault> {
        let directory = ask!(self, "PWD", self.ftp.pwd())?;
        Ok(from_octets(&directory))
    }

    pub(super) async fn change_directory(&mut self, path: &Location) -> Result<(), Fault> {
        ask!(self, "CWD", self.ftp.cwd(octets(path.as_bytes())))
    }

    pub(super) async fn size(&mut self, path: &Location) -> Result<u64, Fault> {
        let size = ask!(self, "SIZE", self.ftp.size(octets(path.as_bytes())))?;
        Ok(size as u64)
    }

    /// Time of the last modification, seconds since 1970.
    pub(super) async fn modified(&mut self, path: &Location) -> Result<u32, Fault> {
        let time = ask!(self, "MDTM", self.ftp.mdtm(octets(path.as_bytes())))?;
        u32::try_from(time.and_utc().timestamp()).map_err(|_| Fault::Garbled {
            command: "MDTM",
            answer: time.to_string(),
        })
    }

    /// False if the server does not undo the doubling of 0xFF that RFC 959 demands on the control connection: it would
    /// act on another name.
    pub(super) fn takes_names_with_0xff(&self) -> bool {
        let greeting = self.ftp.get_welcome_msg().unwrap_or_default();
        !greeting.contains("vsFTPd")
    }

    /// The line of facts that MLST answers.
    pub(super) async fn facts(&mut self, path: &Location) -> Result<Vec<u8>, Fault> {
        let line = ask!(self, "MLST", self.ftp.mlst(Some(&octets(path.as_bytes()))))?;
        Ok(from_octets(&line))
    }

    pub(super) async fn delete(&mut self, path: &Location) -> Result<(), Fault> {
        ask!(self, "DELE", self.ftp.rm(octets(path.as_bytes())))
    }

    pub(super) async fn make_directory(&mut self, path: &Location) -> Result<(), Fault> {
        ask!(self, "MKD", self.ftp.mkdir(octets(path.as_bytes())))
    }

    pub(super) async fn remove_directory(&mut self, path: &Location) -> Result<(), Fault> {
        ask!(self, "RMD", self.ftp.rmdir(octets(path.as_bytes())))
    }

    /// RNFR and RNTO. Whether an existing `to` is replaced is the server's choice.
    pub(super) async fn rename(&mut self, from: &Location, to: &Location) -> Result<(), Fault> {
        let from = octets(from.as_bytes());
        ask!(
            self,
            "RNFR/RNTO",
            self.ftp.rename(from, octets(to.as_bytes()))
        )
    }

    /// `MFMT` (draft-somers-ftp-mfxx-04), or the `MDTM` with a time that vsftpd and others take.
    pub(super) async fn set_modified(&mut self, path: &Location, time: u32) -> Result<(), Fault> {
        let time = chrono::DateTime::from_timestamp(i64::from(time), 0)
            .unwrap_or_default()
            .format("%Y%m%d%H%M%S");
        let path = octets(path.as_bytes());
        if self.announces("MFMT") {
            let command = format!("MFMT {time} {path}");
            ask!(
                self,
                "MFMT",
                self.ftp.custom_command(command, &[Status::File])
            )?;
        } else {
            let command = format!("MDTM {time} {path}");
            let taken = [
                Status::File,
                Status::RequestedFileActionOk,
                Status::CommandOk,
            ];
            ask!(
                self,
                "MDTM with a time",
                self.ftp.custom_command(command, &taken)
            )?;
        }
        Ok(())
    }

    pub(super) async fn change_mode(&mut self, path: &Location, mode: u32) -> Result<(), Fault> {
        let command = format!("SITE CHMOD {:o} {}", mode & 0o777, octets(path.as_bytes()));
        let taken = [Status::CommandOk, Status::RequestedFileActionOk];
        ask!(self, "SITE CHMOD", self.ftp.custom_command(command, &taken))?;
        Ok(())
    }

    /// Opens an upload.
    pub(super) async fn store(&mut self, path: &Location) -> Result<Transfer, Fault> {
        let path = octets(path.as_bytes());
        let stored = ask!(self, "STOR", self.ftp.put_with_stream(&path));
        if self.falls_back_to_pasv(&stored) {
            return ask!(self, "STOR", self.ftp.put_with_stream(&path));
        }
        stored
    }

    /// Opens a download that begins at `offset`.
    pub(super) async fn retrieve(
        &mut self,
        path: &Location,
        offset: u64,
    ) -> Result<Transfer, Fault> {
        let path = octets(path.as_bytes());
        let offset = usize::try_from(offset).map_err(|_| Fault::Garbled {
            command: "REST",
            answer: "offset beyond this machine's address space".to_owned(),
        })?;
        ask!(self, "REST", self.ftp.resume_transfer(offset))?;
        let opened = ask!(self, "RETR", self.ftp.retr_as_stream(&path));
        if self.falls_back_to_pasv(&opened) {
            ask!(self, "REST", self.ftp.resume_transfer(offset))?;
            return ask!(self, "RETR", self.ftp.retr_as_stream(&path));
        }
        opened
    }

    /// MLSD: one line of facts for each name.
    pub(super) async fn machine_listing(&mut self, path: &Location) -> Result<Vec<Vec<u8>>, Fault> {
        let command = format!("MLSD {}", octets(path.as_bytes()));
        self.lines("MLSD", &command).await
    }

    /// LIST of the current directory: a path as argument would be taken for a pattern or for options by some servers.
    pub(super) async fn listing(&mut self, hidden_too: bool) -> Result<Vec<Vec<u8>>, Fault> {
        self.lines("LIST", if hidden_too { "LIST -a" } else { "LIST" })
            .await
    }

    /// LIST of one file: a line, on most servers.
    pub(super) async fn listing_of_file(&mut self, path: &Location) -> Result<Vec<Vec<u8>>, Fault> {
        let command = format!("LIST {}", octets(path.as_bytes()));
        self.lines("LIST", &command).await
    }

    async fn lines(&mut self, name: &'static str, command: &str) -> Result<Vec<Vec<u8>>, Fault> {
        const OPENING: [Status; 2] = [Status::AboutToSend, Status::AlreadyOpen];
        let mut opened = self.data_command(name, command, &OPENING).await;
        if self.falls_back_to_pasv(&opened) {
            opened = self.data_command(name, command, &OPENING).await;
        }
        let mut reader = BufReader::with_capacity(64 * 1024, opened?);
        let mut lines = Vec::new();
        let mut room = LISTING_BYTES;
        self.in_step = false;
        loop {
            let mut line = Vec::new();
            let read = within(
                self.server.settings.timeout,
                (&mut reader).take(room).read_until(b'\n', &mut line),
            )
            .await;
            match read {
                Ok(0) if room > 0 => break,
                Ok(0) => {
                    return Err(Fault::Garbled {
                        command: name,
                        answer: format!("a listing of more than {LISTING_BYTES} bytes"),
                    });
                }
                Ok(count) => room = room.saturating_sub(count as u64),
                // Several servers close the socket without TLS' farewell; the reply says whether the listing is whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(lost(name, &error)),
            }
            while line
                .last()
                .is_some_and(|byte| matches!(byte, b'\r' | b'\n'))
            {
                line.pop();
            }
            lines.push(line);
        }
        self.finish(name, reader.into_inner()).await?;
        Ok(lines)
    }

    async fn data_command(
        &mut self,
        name: &'static str,
        command: &str,
        opening: &[Status],
    ) -> Result<Transfer, Fault> {
        self.in_step = false;
        let opened = tokio::time::timeout(
            self.server.settings.timeout,
            self.ftp.custom_data_command(command, opening),
        )
        .await;
        self.judge(name, opened).map(|(_, transfer)| transfer)
    }

    /// Ends a transfer and reads the reply that says whether it is whole.
    pub(super) async fn finish(
        &mut self,
        name: &'static str,
        transfer: Transfer,
    ) -> Result<(), Fault> {
        self.in_step = false;
        let finished = tokio::time::timeout(self.server.settings.timeout, transfer.finish()).await;
        self.judge(name, finished)
    }

    /// Takes the outcome of an exchange, and with it whether the connection is still in step.
    fn judge<T>(
        &mut self,
        command: &'static str,
        reply: Result<FtpResult<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Fault> {
        let reply = reply
            .map_err(|_| Fault::TimedOut {
                command,
                timeout: self.server.settings.timeout,
            })
            .and_then(|reply| reply.map_err(|error| Fault::of(command, error)));
        self.in_step = match &reply {
            Ok(_) => true,
            Err(fault) => fault.is_refusal(),
        };
        self.last_reply = Instant::now();
        reply
    }

    /// A server that announced EPSV and does not know it gets PASV from then on.
    fn falls_back_to_pasv<T>(&mut self, opened: &Result<T, Fault>) -> bool {
        let quirk = &self.server.quirks.no_epsv;
        let unknown = matches!(opened, Err(fault) if fault.is_unknown_command());
        if unknown && self.announces("EPSV") && !quirk.is_known() {
            quirk.learn();
            self.ftp.set_mode(Mode::Passive);
            return true;
        }
        false
    }
}

/// A refusal is an answer too.
pub(super) fn accept_refusal(reply: Result<(), Fault>) -> Result<(), Fault> {
    match reply {
        Err(fault) if !fault.is_refusal() => Err(fault),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The fault of a data connection that failed.
pub(super) fn lost(command: &'static str, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::TimedOut {
        return Fault::judged(
            ErrorKind::TimedOut,
            format!("the data connection of {command} stands still: {error}"),
        );
    }
    Fault::Lost {
        command,
        cause: error.to_string(),
    }
}

/// An I/O action with a deadline.
pub(super) async fn within<T>(
    timeout: Duration,
    action: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(timeout, action).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {} s", timeout.as_secs_f32()),
        )),
    }
}

/// An exchange before there is a [`Connection`].
async fn early<T>(
    timeout: Duration,
    command: &'static str,
    exchange: impl Future<Output = FtpResult<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, exchange).await {
        Ok(reply) => reply.map_err(|error| Fault::of(command, error)),
        Err(_) => Err(Fault::TimedOut { command, timeout }),
    }
}

/// Carries names as the bytes they are: U+0000 to U+00FF stand for one byte each.
#[derive(Debug)]
struct Octets;

impl Encoding for Octets {
    fn decode(&self, bytes: &[u8]) -> String {
        octets(bytes)
    }

    fn encode(&self, text: &str) -> io::Result<Vec<u8>> {
        Ok(from_octets(text))
    }
}

fn octets(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The inverse of [`octets`]. Other characters do not occur: all text comes from there or is ASCII.
fn from_octets(text: &str) -> Vec<u8> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?'))
        .collect()
}
