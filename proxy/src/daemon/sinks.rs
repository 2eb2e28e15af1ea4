//! Sinks as the configuration has them: begun, changed and ended while the gateway runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;
use portcullis_audit::{
    alert::Watched,
    format::{Product, syslog::Syslog},
    sink::{
        self, Ended, Log, Login, Mail, Meter, Notice, Reading, Running, Security, Settings,
        Signing, Target, Tls, Token,
    },
};
use portcullis_journal::{Event, EventKind, Journal, Verdict, record::untrusted};
use rustls::{
    ClientConfig,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    backends::trusted,
    lag::{Change, Lag, Limit},
};
use crate::{
    backend::ftp::{TlsSettingsError, client_config_as, settings::AuthoritiesError},
    config::{
        Config, JournalConfig, MailTransport, SinkConfig, SinkTarget, SinkTls, SinkTransport,
    },
    metrics,
};

/// How long the gateway's last records may take to their collectors.
const DRAIN: Duration = Duration::from_secs(3);
/// How often lags are looked at.
const MEASURE: Duration = Duration::from_secs(5);
/// Longest part of an error that goes into a record, in bytes.
const LONGEST_ERROR: usize = 512;

/// Why a sink can't be begun.
#[derive(Debug, thiserror::Error)]
#[error("prepare sink {name}")]
pub struct SinkError {
    name: String,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Tls(#[from] TlsSettingsError),
    #[error("its certificate's name is not usable")]
    Name(#[from] rustls_pki_types::InvalidDnsNameError),
    #[error("its client key is not usable")]
    Key(#[from] rustls_pki_types::pem::Error),
    #[error("its token is not usable")]
    Token,
}

/// What the sinks of a configuration need.
pub(super) fn settings(config: &Config) -> Result<Vec<Settings>, SinkError> {
    config
        .sinks
        .iter()
        .map(|sink| {
            of(sink, &config.journal).map_err(|cause| SinkError {
                name: sink.name.clone(),
                cause,
            })
        })
        .collect()
}

fn of(config: &SinkConfig, journal: &JournalConfig) -> Result<Settings, Cause> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let product = Product {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: version.clone(),
    };
    let target = match &config.target {
        SinkTarget::Syslog {
            address,
            transport,
            format,
            facility,
            enterprise,
            app_name,
            message_bytes,
        } => Target::Syslog {
            host: address.host.clone(),
            port: address.port,
            tls: match transport {
                SinkTransport::Plaintext(_) => None,
                SinkTransport::Tls(tls) => Some(named(tls)?),
            },
            syslog: Syslog {
                facility: *facility,
                enterprise: *enterprise,
                message_bytes: *message_bytes,
                format: *format,
                is_synced: None,
                product: Product {
                    name: app_name.clone(),
                    version,
                },
            },
        },
        SinkTarget::File { path, format } => Target::File {
            path: path.clone(),
            format: *format,
        },
        SinkTarget::Https {
            url,
            tls,
            token,
            signing,
            format,
            batch,
        } => Target::Https {
            url: url.clone(),
            tls: client(tls)?,
            token: match token {
                None => None,
                Some(token) => Some(Token::new(token.expose()).ok_or(Cause::Token)?),
            },
            format: *format,
            batch: *batch,
            signing: signing.as_ref().map(|secret| Signing::new(secret.expose())),
        },
        SinkTarget::Smtp(mail) => Target::Smtp(Box::new(Mail {
            host: mail.address.host.clone(),
            port: mail.address.port,
            security: match &mail.transport {
                MailTransport::StartTls(tls) => Security::StartTls(named(tls)?),
                MailTransport::Implicit(tls) => Security::Implicit(named(tls)?),
                MailTransport::Plaintext(_) => Security::None,
            },
            login: mail.login.as_ref().map(|login| Login {
                user: login.user.clone(),
                password: login.password.expose().to_owned(),
            }),
            from: mail.from.clone(),
            to: mail.to.clone(),
            subject_prefix: mail.subject_prefix.clone(),
        })),
    };
    Ok(Settings {
        name: config.name.clone(),
        target,
        checkpoints: config.checkpoints,
        begin: config.begin,
        selection: config.selection,
        timeout: config.timeout,
        cursor: journal.sinks.join(format!("{}.cursor", config.name)),
        product,
    })
}

fn named(tls: &SinkTls) -> Result<Tls, Cause> {
    Ok(Tls {
        server_name: sink::server_name(&tls.server_name)?,
        config: client(tls)?,
    })
}

fn client(tls: &SinkTls) -> Result<Arc<ClientConfig>, Cause> {
    let identity = match &tls.identity {
        None => None,
        Some(identity) => Some((
            identity.certificates.clone(),
            PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())?,
        )),
    };
    let trust = trusted(&tls.trust)?;
    Ok(Arc::new(client_config_as(
        identity,
        &trust,
        &[&TLS13, &TLS12],
    )?))
}

/// The sinks at work. Clones share them.
#[derive(Clone)]
pub(super) struct Sinks(Arc<Shared>);

struct Shared {
    log: Log,
    journal: Journal,
    running: Mutex<BTreeMap<String, Running>>,
    judged: Mutex<Judged>,
}

/// When sinks are behind.
#[derive(Debug, Default)]
struct Judged {
    limits: Vec<Limit>,
    /// Sinks that pass over most records: how many wait says nothing.
    alerts_only: BTreeSet<String>,
}

impl Judged {
    fn of(config: &Config) -> Self {
        let limits = config.alerts.iter().filter_map(|rule| match rule.watched {
            Watched::SinkBehind { seconds, records } => Some(Limit {
                seconds,
                records: Some(records),
            }),
            Watched::BruteForce { .. }
            | Watched::MassDownload { .. }
            | Watched::OffHours(_)
            | Watched::DenialBurst { .. }
            | Watched::RelaxationExpiring { .. }
            | Watched::VerifyFailed
            | Watched::Disk
            | Watched::FilesAltered => None,
        });
        let alerts_only = config
            .sinks
            .iter()
            .filter(|sink| sink.takes_only_alerts())
            .map(|sink| sink.name.clone());
        Self {
            limits: limits.collect(),
            alerts_only: alerts_only.collect(),
        }
    }

    fn limits(&self, sink: &str) -> Vec<Limit> {
        let mut limits = self.limits.clone();
        if self.alerts_only.contains(sink) {
            for limit in &mut limits {
                limit.records = None;
            }
        }
        limits
    }
}

/// The journal as those who follow it see it.
pub(super) fn log(config: &JournalConfig, journal: &Journal) -> Log {
    let status = journal.clone();
    Log {
        directory: config.directory.clone(),
        node: config.node.clone(),
        durable: Arc::new(move || status.status().durable),
    }
}

impl Sinks {
    pub(super) fn start(
        settings: Vec<Settings>,
        config: &Config,
        log: Log,
        journal: &Journal,
    ) -> Self {
        let sinks = Self(Arc::new(Shared {
            log,
            journal: journal.clone(),
            running: Mutex::default(),
            judged: Mutex::new(Judged::of(config)),
        }));
        for settings in settings {
            sinks.begin(settings, None);
        }
        sinks
    }

    /// Ends what is gone or different, and begins what is new or different. Waits for none of them.
    pub(super) fn change(&self, settings: Vec<Settings>, before: &Config, after: &Config) {
        let find =
            |config: &Config, name: &str| config.sinks.iter().position(|sink| sink.name == name);
        let is_same = |name: &str| match (find(before, name), find(after, name)) {
            (Some(old), Some(new)) => before.sinks.get(old) == after.sinks.get(new),
            _ => false,
        };
        let names: Vec<String> = self.running().keys().cloned().collect();
        let mut ended = BTreeMap::new();
        for name in names.into_iter().filter(|name| !is_same(name)) {
            if let Some(running) = self.running().remove(&name) {
                ended.insert(name, running.end());
            }
        }
        for settings in settings {
            if !self.running().contains_key(&settings.name) {
                let before = ended.remove(&settings.name);
                self.begin(settings, before);
            }
        }
        *self.judged() = Judged::of(after);
        for (name, gone) in ended {
            metrics::sink(&name, gone.meter().last());
        }
    }

    /// Gives the collectors the last records, if they take them soon.
    pub(super) async fn drain(&self) {
        for running in self.running().values() {
            running.drain();
        }
        let deadline = Instant::now() + DRAIN;
        while !self.running().values().all(Running::is_over) {
            if Instant::now() >= deadline {
                tracing::warn!(
                    "a collector has not the last records; they are sent at the next start"
                );
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn begin(&self, settings: Settings, before: Option<Ended>) {
        let name = settings.name.clone();
        let (told, journal) = (name.clone(), self.0.journal.clone());
        let started = sink::start(settings, self.0.log.clone(), before, move |notice| {
            // The append goes on by itself.
            drop(journal.append_soon(event(&told, &notice)));
        });
        match started {
            Ok(running) => {
                self.running().insert(name, running);
            }
            Err(error) => tracing::error!(sink = name, %error, "a sink has no thread"),
        }
    }

    fn meters(&self) -> Vec<(String, Arc<Meter>)> {
        self.running()
            .iter()
            .map(|(name, running)| (name.clone(), running.meter()))
            .collect()
    }

    fn judged(&self) -> std::sync::MutexGuard<'_, Judged> {
        self.0.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the gauges of the sinks true until `stop`, and says which of them are behind.
pub(super) async fn measure(sinks: Sinks, stop: CancellationToken) {
    let mut interval = time::interval(MEASURE);
    let mut lags: BTreeMap<String, Lag> = BTreeMap::new();
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let now = Utc::now().timestamp_millis();
        let meters = sinks.meters();
        lags.retain(|name, _| meters.iter().any(|(sink, _)| sink == name));
        for (name, meter) in meters {
            let reading = meter.read((sinks.0.log.durable)(), now);
            metrics::sink(&name, reading);
            let limits = sinks.judged().limits(&name);
            let lag = lags.entry(name.clone()).or_default();
            if let Some(change) = lag.look(reading, &limits) {
                // The append goes on by itself.
                drop(
                    sinks
                        .0
                        .journal
                        .append_soon(lag_event(&name, change, reading)),
                );
            }
        }
    }
}

/// `log.sink` of a sink whose collector is slow, or no longer so.
fn lag_event(sink: &str, change: Change, reading: Reading) -> Event {
    let mut event = Event::new(EventKind::LogSink);
    let (outcome, reason) = match change {
        Change::Behind => (Verdict::Failure, "behind"),
        Change::CaughtUp => (Verdict::Success, "caught_up"),
    };
    event.outcome = Some(outcome);
    event.reason = Some(reason.to_owned());
    for (key, value) in [
        ("sink", sink.into()),
        ("lag_seconds", reading.lag_seconds.into()),
        ("lag_records", reading.lag_records.into()),
    ] {
        event.body.insert(key.to_owned(), value);
    }
    event
}

/// `log.sink`
fn event(sink: &str, notice: &Notice) -> Event {
    let mut event = Event::new(EventKind::LogSink);
    let mut put = |key: &str, value: serde_json::Value| event.body.insert(key.to_owned(), value);
    put("sink", sink.into());
    let (outcome, reason) = match notice {
        Notice::Lost { first, last } => {
            put("first", (*first).into());
            put("last", (*last).into());
            (Verdict::Failure, "lost")
        }
        Notice::GivenUp { seq, error } => {
            put("alert", (*seq).into());
            put("error", shown(error));
            (Verdict::Failure, "given_up")
        }
        Notice::Down { next, error } => {
            put("next", (*next).into());
            put("error", shown(error));
            (Verdict::Failure, "down")
        }
        Notice::Up { next } => {
            put("next", (*next).into());
            (Verdict::Success, "up")
        }
    };
    event.outcome = Some(outcome);
    event.reason = Some(reason.to_owned());
    event
}

fn shown(error: &str) -> serde_json::Value {
    let bytes = error.as_bytes();
    untrusted(bytes.get(..LONGEST_ERROR).unwrap_or(bytes))
}
