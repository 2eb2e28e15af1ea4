//! One control connection: connecting, logging in, and staying in step. Every exchange has a deadline.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use rustix::net::sockopt;
use suppaftp::{
    Encoding, FtpError, FtpResult, Mode, Status,
    tokio::{ImplAsyncFtpStream, TransferStream},
    types::FileType,
};
use tokio::net::TcpStream;

use super::{
    fault::Fault,
    listing::{PERMISSIONS_FACT, is_used},
    server::Server,
    settings::{Charset, FtpTls},
    tls::{BufferedConnector, BufferedTls, TlsClient, Unended},
};
use crate::backend::ErrorKind;

/// An open data connection. Dropping it breaks the transfer off; the connection's next command reads the reply to that.
pub(super) type Transfer = TransferStream<BufferedTls>;

/// A control connection, protected or not.
type Control = ImplAsyncFtpStream<BufferedTls>;

/// An idle connection is asked for a sign of life after this time.
const TRUSTED_IDLE: Duration = Duration::from_secs(20);

/// Between TCP keepalives: less than the idle time after which firewalls forget a connection.
const SOCKET_KEEPALIVE: Duration = Duration::from_secs(60);

/// A logged-in control connection.
pub(super) struct Connection {
    ftp: Control,
    server: Arc<Server>,
    features: HashMap<String, Option<String>>,
    /// False from the moment a command is sent until its reply has come: an abandoned command leaves the connection
    /// out of step.
    in_step: bool,
    /// A transfer was begun and not ended: some servers end the connection if it is broken off.
    has_transfer: bool,
    unended: Unended,
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
    ($connection:expr, $command:expr, $exchange:expr) => {{
        $connection.in_step = false;
        let reply = tokio::time::timeout($connection.server.settings.timeout, $exchange).await;
        $connection.judge($command, reply)
    }};
}

mod commands;
mod lines;

pub(super) use self::lines::{TakeLines, too_long};

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
        let (mut ftp, unended) = match &server.tls {
            None => (connect(server).await?, Unended::default()),
            Some(tls) => {
                let connector = tls.connector();
                let unended = connector.unended();
                let ftp = if matches!(settings.tls, FtpTls::Implicit { .. }) {
                    connect_implicit(server, tls, connector).await?
                } else {
                    let plain = connect(server).await?;
                    early(
                        settings.timeout,
                        "AUTH TLS",
                        plain.into_secure(connector, tls.server_name()),
                    )
                    .await
                    .map_err(Fault::before_tls)?
                };
                (ftp, unended)
            }
        };
        let needs_epsv = tune(&*ftp.get_ref().await);
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
        let ftp = ftp.passive_stream_builder(|address| {
            Box::pin(async move {
                let socket = TcpStream::connect(address).await;
                socket
                    .and_then(|socket| socket.set_nodelay(true).map(|()| socket))
                    .map_err(FtpError::ConnectionError)
            })
        });
        let mut connection = Self {
            ftp,
            server: Arc::clone(server),
            features: HashMap::new(),
            in_step: true,
            has_transfer: false,
            unended,
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
        if self.announces("UTF8") && self.server.settings.charset != Charset::Latin1 {
            // Some want it before they take UTF-8 names, others refuse it because they always do.
            let told = ask!(self, "OPTS UTF8 ON", self.ftp.opts("UTF8", Some("ON")));
            accept_refusal(told)?;
        }
        self.ask_for_facts().await?;
        ask!(self, "TYPE I", self.ftp.transfer_type(FileType::Binary))?;
        let epsv = needs_epsv || (self.announces("EPSV") && !self.server.quirks.no_epsv.is_known());
        self.ftp.set_mode(if epsv {
            Mode::ExtendedPassive
        } else {
            Mode::Passive
        });
        Ok(())
    }

    /// Has MLST and MLSD tell what the server knows and would leave out: FEAT marks with an asterisk what they tell unasked
    /// (RFC 3659 section 7.8).
    async fn ask_for_facts(&mut self) -> Result<(), Fault> {
        let Some(Some(offered)) = self.features.get("MLST") else {
            return Ok(());
        };
        let (mut wanted, mut all_told) = (String::new(), true);
        // Whether permission bits are told unasked, if they are offered.
        let mut modes = None;
        for fact in offered.split(';').map(str::trim) {
            let (name, is_told) = match fact.strip_suffix('*') {
                Some(name) => (name, true),
                None => (fact, false),
            };
            if is_used(name) {
                wanted.push_str(name);
                wanted.push(';');
                all_told &= is_told;
            }
            if name.eq_ignore_ascii_case(PERMISSIONS_FACT) {
                modes = Some(is_told);
            }
        }
        if !all_told {
            match ask!(self, "OPTS MLST", self.ftp.opts("MLST", Some(wanted))) {
                Ok(()) => modes = modes.map(|_| true),
                Err(fault) if fault.is_refusal() => {}
                Err(fault) => return Err(fault),
            }
        }
        if modes != Some(true) {
            self.server.quirks.no_modes.learn();
        }
        Ok(())
    }

    /// True if MLST tells what stands at a path.
    pub(super) fn tells_facts(&self) -> bool {
        self.announces("MLST") && !self.server.quirks.no_mlst.is_known()
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
        if std::mem::take(&mut self.has_transfer) {
            return self.is_answering().await;
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

    /// Asks for a sign of life.
    pub(super) async fn is_answering(&mut self) -> bool {
        ask!(self, "NOOP", self.ftp.noop()).is_ok()
    }

    /// Ends a transfer and reads the reply that says whether it is whole.
    pub(super) async fn finish(
        &mut self,
        name: &'static str,
        transfer: Transfer,
    ) -> Result<(), Fault> {
        self.in_step = false;
        self.has_transfer = false;
        self.unended.take();
        let finished = tokio::time::timeout(self.server.settings.timeout, transfer.finish()).await;
        self.judge(name, finished)?;
        match self.unended.take() {
            None => Ok(()),
            Some(cause) => Err(Fault::Lost {
                command: name,
                cause,
            }),
        }
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

    /// A transfer is asked for once more: of a server that found no port for its data (425), which is nobody's fault, and of one
    /// that announced EPSV and does not know it, which gets PASV from then on.
    fn is_asked_again<T>(&mut self, opened: &Result<T, Fault>) -> bool {
        if matches!(
            opened,
            Err(Fault::Refused {
                code: NO_DATA_CONNECTION,
                ..
            })
        ) {
            return true;
        }
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

/// RFC 959 section 4.2: nothing was transferred.
const NO_DATA_CONNECTION: u16 = 425;

/// Connects in plain text and reads the greeting.
async fn connect(server: &Server) -> Result<Control, Fault> {
    let settings = &server.settings;
    let socket = within(settings.timeout, TcpStream::connect(&settings.address))
        .await
        .map_err(|error| Fault::Unreachable {
            cause: error.to_string(),
        })?;
    let mut ftp = early(
        settings.timeout,
        "the greeting",
        Control::connect_with_stream(socket),
    )
    .await?;
    ftp.set_encoding(Octets).await;
    Ok(ftp)
}

/// TLS before the greeting; then the protection of data connections is asked for as with explicit TLS (RFC 4217 section 9).
async fn connect_implicit(
    server: &Server,
    tls: &TlsClient,
    connector: BufferedConnector,
) -> Result<Control, Fault> {
    let settings = &server.settings;
    let connecting =
        Control::connect_secure_implicit(settings.address.clone(), connector, tls.server_name());
    let mut ftp = match tokio::time::timeout(settings.timeout, connecting).await {
        Ok(Ok(ftp)) => ftp,
        Ok(Err(FtpError::ConnectionError(error))) if !is_broken_off(&error) => {
            return Err(Fault::Unreachable {
                cause: error.to_string(),
            });
        }
        Ok(Err(error)) => return Err(Fault::of("the TLS handshake", error).before_tls()),
        Err(_) => {
            return Err(Fault::TimedOut {
                command: "the TLS handshake",
                timeout: settings.timeout,
            });
        }
    };
    ftp.set_encoding(Octets).await;
    for command in ["PBSZ 0", "PROT P"] {
        early(
            settings.timeout,
            "PROT P",
            ftp.custom_command(command, &[Status::CommandOk]),
        )
        .await
        .map_err(Fault::before_tls)?;
    }
    Ok(ftp)
}

/// True if there was a connection, and it ended.
fn is_broken_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

/// Sets up a control connection's socket; true if it needs EPSV, because PASV can't say its addresses. Keepalives hold
/// the state of firewalls while a transfer of hours leaves the connection idle.
fn tune(socket: &TcpStream) -> bool {
    let set = socket.set_nodelay(true).and_then(|()| {
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, SOCKET_KEEPALIVE)?;
        Ok(sockopt::set_tcp_keepintvl(socket, SOCKET_KEEPALIVE)?)
    });
    if let Err(error) = set {
        tracing::debug!(%error, "a control connection's socket is not set up");
    }
    socket.peer_addr().is_ok_and(|peer| peer.is_ipv6())
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
