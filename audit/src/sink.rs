//! The way of a log to collectors elsewhere. The log is the spool: a sink reads what is durable and remembers how far its
//! collector has got.
//!
//! Each sink has a thread of its own. Nothing that a collector does, or leaves undone, reaches those who write the log.

mod connection;
pub(crate) mod cursor;
pub(crate) mod follow;
mod mail;
mod meter;
mod sender;

use std::{
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use sha2::Sha256;
use tokio::sync::watch;

pub use connection::SendError;
pub use mail::{Address, BadAddress, Login, Mail, NoMail, Security};
pub use meter::{Meter, Reading};

use crate::format::{Format, Product, syslog::Syslog};

/// Niceness of a thread that reads the log, beside that of its process.
pub(crate) const NICENESS: i32 = 5;

/// One sink.
#[derive(Clone)]
pub struct Settings {
    /// Names it in metrics, logs and records.
    pub name: String,
    pub target: Target,
    /// Whether the log's signed checkpoints go out too.
    pub checkpoints: bool,
    pub begin: Begin,
    pub selection: Selection,
    /// Longest wait for a connection, for an answer, and for a write to move.
    pub timeout: Duration,
    /// The file that says how far it has got.
    pub cursor: PathBuf,
    pub product: Product,
}

/// Where a sink begins that has no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest record that the log has.
    Oldest,
    /// With the next record after [`start`] was called.
    Now,
}

/// Which records a sink sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    All,
    /// `log.alert` where `to` has the sink's name.
    Alerts {
        /// One that the collector has not taken for so long is left out.
        give_up: Duration,
    },
}

/// Where records go, and how.
#[derive(Clone)]
pub enum Target {
    /// RFC 5424 with octet counting.
    Syslog {
        host: String,
        port: u16,
        /// `None` sends in clear.
        tls: Option<Tls>,
        syslog: Syslog,
    },
    /// Lines at the end of a file; checkpoints at the end of `<path>.checkpoints`.
    File { path: PathBuf, format: Format },
    /// `POST` of lines.
    Https {
        url: Url,
        tls: Arc<ClientConfig>,
        /// What `Authorization: Bearer` says.
        token: Option<Token>,
        format: Format,
        /// Most records in one request.
        batch: usize,
        /// Signs each request.
        signing: Option<Signing>,
    },
    /// A mail for each record, which has to be an alert.
    Smtp(Box<Mail>),
}

/// How a collector proves itself.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub server_name: ServerName<'static>,
}

/// An `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(hyper::Uri);

/// Why a text is no address for records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address such as \"https://collector.example.org/ingest\"{}", if *.is_plain { "; records are not posted in clear" } else { "" })]
pub struct BadUrl {
    text: String,
    is_plain: bool,
}

impl Url {
    /// # Errors
    /// If it is not a whole `https` address, or has a name and a password in it.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let bad = |is_plain| BadUrl {
            text: text.to_owned(),
            is_plain,
        };
        let uri: hyper::Uri = text.parse().map_err(|_| bad(false))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("https"), Some(authority)) if !authority.as_str().contains('@') => Ok(Self(uri)),
            (Some("http"), _) => Err(bad(true)),
            _ => Err(bad(false)),
        }
    }

    /// The name that the collector's certificate has to have.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }
}

/// A bearer token that prints as `<secret>`.
#[derive(Clone, PartialEq)]
pub struct Token(hyper::header::HeaderValue);

impl Token {
    /// `None` for text that no header can carry.
    pub fn new(text: &str) -> Option<Self> {
        let mut value = hyper::header::HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// The secret of HMAC-SHA-256 over requests; prints as `<secret>`.
#[derive(Clone, PartialEq)]
pub struct Signing(Vec<u8>);

impl Signing {
    pub fn new(secret: &str) -> Self {
        Self(secret.as_bytes().to_vec())
    }

    /// `v1=` and hexadecimal digits over `timestamp.body`; the timestamp is in seconds since 1970.
    fn sign(&self, timestamp: &str, body: &[u8]) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        Some(format!("v1={}", hex::encode(mac.finalize().into_bytes())))
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// The log that is sent.
#[derive(Clone)]
pub struct Log {
    pub directory: PathBuf,
    /// The node that writes it.
    pub node: String,
    /// How many records are durable. Called often.
    pub durable: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// What a sink has to say that belongs on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Records from `first` up to and including `last` were removed from the log before they were sent.
    Lost { first: u64, last: u64 },
    /// The collector did not take an alert, and it is too old to be tried again.
    GivenUp { seq: u64, error: String },
    /// The collector takes nothing for so long that somebody has to look.
    Down {
        /// The first record that waits.
        next: u64,
        error: String,
    },
    /// The collector that was down takes records again.
    Up { next: u64 },
}

/// How a sink is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    /// Send what is there, then end.
    Drain,
    End,
}

/// A sink at work. Dropping it ends it soon; its cursor says where to go on.
#[derive(Debug)]
pub struct Running {
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<()>>,
    meter: Arc<Meter>,
}

impl Running {
    /// What it has done so far.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Asks it to send what is there and to end then.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Drain);
    }

    /// Asks it to end.
    pub fn end(mut self) -> Ended {
        self.phase.send_replace(Phase::End);
        Ended {
            thread: self.thread.take(),
            meter: Arc::clone(&self.meter),
        }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// A sink that ends soon, for another of its name to go on with.
#[derive(Debug)]
pub struct Ended {
    thread: Option<JoinHandle<()>>,
    meter: Arc<Meter>,
}

impl Ended {
    /// What it has done.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Waits until it has ended.
    pub fn join(self) {
        if let Some(thread) = self.thread {
            // Its panic was its own.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::End);
    }
}

/// Begins to send. A sink of the same name that still ends is waited for, so that one cursor has one writer, and its counts
/// go on. `tell` is called from the sink's thread and must not wait.
///
/// # Errors
/// If there can't be another thread.
pub fn start(
    settings: Settings,
    log: Log,
    before: Option<Ended>,
    tell: impl Fn(Notice) + Send + 'static,
) -> io::Result<Running> {
    let (phase, watched) = watch::channel(Phase::Run);
    let meter = before
        .as_ref()
        .map_or_else(Arc::default, |before| Arc::clone(&before.meter));
    let counted = Arc::clone(&meter);
    // Not what the thread finds once it runs: a record that was written meanwhile would be missed.
    let now = (log.durable)();
    let thread = thread::Builder::new()
        .name(format!("sink {}", settings.name))
        .spawn(move || {
            if let Some(before) = before {
                before.join();
            }
            // Sessions come first; without the right to it, all are equal.
            let _ = rustix::process::nice(NICENESS);
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(sink = settings.name, %error, "a sink has no runtime");
                    return;
                }
            };
            runtime.block_on(sender::run(settings, log, now, counted, watched, &tell));
        })?;
    Ok(Running {
        phase,
        thread: Some(thread),
        meter,
    })
}

/// The name that a certificate has to have, of a host name or an address.
///
/// # Errors
/// If it is neither.
pub fn server_name(
    host: &str,
) -> Result<ServerName<'static>, rustls_pki_types::InvalidDnsNameError> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(ServerName::from(address)),
        Err(_) => ServerName::try_from(host.to_owned()),
    }
}

#[cfg(test)]
mod tests;
