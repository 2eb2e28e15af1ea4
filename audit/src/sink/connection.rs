//! What all ways to a collector have in common.

mod file;
mod https;
mod smtp;
mod syslog;

use std::{io, path::PathBuf, time::Duration};

use portcullis_journal::EventKind;
use serde_json::Value;

use super::{Mail, NoMail, Selection, Settings, Target};
use crate::{
    format::{Entry, Format, checkpoint_line, checkpoint_size},
    raw,
};
use file::Appender;
use https::Poster;
use smtp::Mailer;
use syslog::Stream;

/// Why a collector has not what was to be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    #[error("no address for {host}")]
    Resolve { host: String, source: io::Error },
    #[error("connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not answer within {} s", limit.as_secs())]
    Silent { address: String, limit: Duration },
    #[error("{address} shows a certificate that is not trusted, and was sent nothing: {reason}")]
    Certificate { address: String, reason: String },
    #[error("{address} does not accept the gateway's own certificate, or wants one: {alert}")]
    OwnCertificate { address: String, alert: String },
    #[error("speak TLS with {address}")]
    Tls { address: String, source: io::Error },
    #[error("{address} closed the connection")]
    Closed { address: String },
    #[error("send to {address}")]
    Broken { address: String, source: io::Error },
    #[error("{address} takes no bytes: nothing moved for {} s", limit.as_secs())]
    Stalled { address: String, limit: Duration },
    #[error("{address} answered {status}{}", if answer.is_empty() { String::new() } else { format!(": {answer:?}") })]
    Refused {
        address: String,
        status: u16,
        /// Its beginning.
        answer: String,
    },
    #[error("post to {address}")]
    Post {
        address: String,
        source: hyper_util::client::legacy::Error,
    },
    #[error(
        "{address} offers no STARTTLS, and was sent nothing; use its port for TLS from the start with tls = \"implicit\""
    )]
    NoStartTls { address: String },
    #[error("{address} is not ready to speak TLS: {answer:?}")]
    NotReady { address: String, answer: String },
    #[error("send a mail by {address}")]
    Smtp {
        address: String,
        source: lettre::transport::smtp::Error,
    },
    #[error("append to {}", path.display())]
    Append { path: PathBuf, source: io::Error },
}

/// What was read of the log and goes out together, in the form of its target.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Messages or lines, one after the other.
    bytes: Vec<u8>,
    pub(super) records: usize,
    /// Those that go out.
    pub(super) chosen: usize,
    /// Time of the first record, in milliseconds since 1970.
    pub(super) oldest: Option<i64>,
    /// Checkpoints, where they do not go between records.
    notes: Vec<u8>,
    /// What the last of them covers.
    pub(super) checkpoint: Option<u64>,
}

/// A line that can't be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadLine {
    #[error("it is no record; let portcullis-verify check the log")]
    NotARecord,
    #[error(transparent)]
    NoMail(#[from] NoMail),
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0 && self.is_hollow()
    }

    /// There is nothing to send.
    pub(super) fn is_hollow(&self) -> bool {
        self.bytes.is_empty() && self.notes.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.notes.clear();
        self.records = 0;
        self.chosen = 0;
        self.oldest = None;
        self.checkpoint = None;
    }

    pub(super) fn add(&mut self, settings: &Settings, line: &[u8]) -> Result<(), BadLine> {
        let alerts = matches!(settings.selection, Selection::Alerts { .. });
        if alerts && raw::EVENT.of(line) != Some(EventKind::LogAlert.name().as_bytes()) {
            self.records += 1;
            return Ok(());
        }
        let entry = Entry::parse(line).ok_or(BadLine::NotARecord)?;
        if alerts && !is_for(&settings.name, &entry) {
            self.records += 1;
            return Ok(());
        }
        if self.oldest.is_none() {
            self.oldest = entry.milliseconds();
        }
        match &settings.target {
            Target::Syslog { syslog, .. } => self.bytes.extend(syslog.frame(&entry)),
            Target::File {
                format: Format::Json,
                ..
            }
            | Target::Https {
                format: Format::Json,
                ..
            } => {
                self.bytes.extend_from_slice(line);
                self.bytes.push(b'\n');
            }
            Target::File { format, .. } | Target::Https { format, .. } => {
                self.bytes.extend(format.write(&entry, &settings.product));
                self.bytes.push(b'\n');
            }
            Target::Smtp(mail) => self.bytes.extend(mail.message(&entry)?),
        }
        self.records += 1;
        self.chosen += 1;
        Ok(())
    }

    pub(super) fn add_note(&mut self, settings: &Settings, node: &str, note: &[u8]) {
        match &settings.target {
            Target::Syslog { syslog, .. } => {
                let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ");
                self.bytes
                    .extend(syslog.checkpoint(note, node, &now.to_string()));
            }
            Target::File { .. } => self.notes.extend_from_slice(note),
            Target::Https { .. } => {
                self.bytes.extend(checkpoint_line(note, node));
                self.bytes.push(b'\n');
            }
            // Alerts go alone.
            Target::Smtp(_) => {}
        }
        self.checkpoint = checkpoint_size(note);
    }
}

fn is_for(sink: &str, alert: &Entry<'_>) -> bool {
    let to = alert.record.body.get("to").and_then(Value::as_array);
    to.is_some_and(|to| to.iter().any(|name| name == sink))
}

impl Target {
    /// Most records in a batch, where the target has an opinion.
    pub(super) fn batch(&self) -> Option<usize> {
        match self {
            Self::Https { batch, .. } => Some(*batch),
            Self::Smtp(_) => Some(1),
            Self::Syslog { .. } | Self::File { .. } => None,
        }
    }
}

/// Of a batch: lines, or a single document.
fn content_type(format: Format, batch: usize) -> &'static str {
    match format {
        Format::Json | Format::Ocsf if batch == 1 => "application/json",
        Format::Json | Format::Ocsf => "application/x-ndjson",
        Format::Cef => "text/plain; charset=utf-8",
    }
}

/// What a send says about what was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    /// How long the connection has to stand until the collector has it for sure.
    pub(super) settles_after: Duration,
}

impl Receipt {
    pub(super) const CERTAIN: Self = Self {
        settles_after: Duration::ZERO,
    };
}

/// A way to the collector that is open.
pub(super) enum Connection {
    Syslog(Box<Stream>),
    File(Appender),
    Https(Box<Poster>),
    Smtp(Box<Mailer>),
}

impl Connection {
    pub(super) async fn open(settings: &Settings) -> Result<Self, SendError> {
        Ok(match &settings.target {
            Target::Syslog {
                host, port, tls, ..
            } => Self::Syslog(Box::new(
                Stream::open(host, *port, tls.as_ref(), settings.timeout).await?,
            )),
            Target::File { path, .. } => Self::File(Appender::open(path)?),
            Target::Https {
                url,
                tls,
                token,
                format,
                batch,
                signing,
            } => Self::Https(Box::new(Poster::new(
                url,
                tls,
                token.as_ref(),
                signing.clone(),
                content_type(*format, *batch),
                settings.timeout,
            ))),
            Target::Smtp(mail) => {
                Self::Smtp(Box::new(Mailer::new(Mail::clone(mail), settings.timeout)))
            }
        })
    }

    pub(super) async fn send(&mut self, batch: &Batch) -> Result<Receipt, SendError> {
        match self {
            Self::Syslog(stream) => stream.send(&batch.bytes).await,
            Self::File(file) => file.append(&batch.bytes, &batch.notes),
            Self::Https(poster) => poster.post(&batch.bytes).await,
            Self::Smtp(mailer) => mailer.send(&batch.bytes).await,
        }
    }

    /// # Errors
    /// If the collector has hung up.
    pub(super) async fn check(&mut self) -> Result<(), SendError> {
        match self {
            Self::Syslog(stream) => stream.check().await,
            Self::File(_) | Self::Https(_) | Self::Smtp(_) => Ok(()),
        }
    }

    /// Resolves when the collector hangs up.
    pub(super) async fn broken(&mut self) -> SendError {
        match self {
            Self::Syslog(stream) => stream.broken().await,
            Self::File(_) | Self::Https(_) | Self::Smtp(_) => std::future::pending().await,
        }
    }

    /// Ends the connection. All that was sent is with the collector when this returns.
    ///
    /// # Errors
    /// If that can't be told.
    pub(super) async fn finish(&mut self) -> Result<(), SendError> {
        match self {
            Self::Syslog(stream) => stream.finish().await,
            Self::File(_) | Self::Https(_) | Self::Smtp(_) => Ok(()),
        }
    }
}
