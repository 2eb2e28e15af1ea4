//! The life of the process: build the parts, announce the addresses, serve, drain with a deadline.

mod backends;
mod bans;
mod exception;
mod records;

use std::{io, path::PathBuf, sync::Arc};

use portcullis_journal::{AppendError, Journal, OpenError, Options};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::bans::BanRelay;
use crate::{
    accounts::{Accounts, AccountsError},
    agent_client::AgentClient,
    auth::{
        Authenticator,
        attempt::{Bans, Settings},
        password::PasswordError,
        throttle::ThrottleConfig,
    },
    config::{BansConfig, Config, JournalConfig},
    metrics,
    session::Backends,
    ssh,
};

pub use backends::BuildError;

/// Ban requests that wait for the agent; one that finds the queue full is dropped, its source will fail again.
const BAN_QUEUE: usize = 64;

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    #[error("open the journal")]
    Journal(#[from] OpenError),
    #[error("open the accounts database {}", path.display())]
    Accounts {
        path: PathBuf,
        source: AccountsError,
    },
    #[error("prepare password checks")]
    Passwords(#[from] PasswordError),
    #[error(transparent)]
    Backend(#[from] BuildError),
    #[error(transparent)]
    Server(#[from] ssh::StartError),
    #[error(transparent)]
    Listen(#[from] ssh::ListenError),
    #[error("serve metrics")]
    Metrics(#[source] io::Error),
    #[error("collect metrics")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
    #[error("wait for signals")]
    Signals(#[source] io::Error),
    #[error("record the start or the end of the gateway")]
    Unrecorded(#[source] AppendError),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// If a part can't be built, or the start can't be recorded.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    let metrics_handle = metrics::install()?;
    let journal = open_journal(&config.journal).await?;
    let built = backends::build(&config.backends, &config.journal.node)?;
    let backends: Backends = Arc::new(built.services);
    let accounts =
        Accounts::open(&config.accounts.database).map_err(|source| DaemonError::Accounts {
            path: config.accounts.database.clone(),
            source,
        })?;

    let stop = CancellationToken::new();
    let mut background = JoinSet::new();
    for (failover, interval) in built.failovers {
        failover.probe().await;
        background.spawn(failover.watch(interval));
    }
    let bans = config.bans.as_ref().map(|bans| {
        let (settings, relay) = relay_bans(bans, &journal);
        background.spawn(relay.run());
        settings
    });
    let settings = Settings {
        max_failures: config.server.max_auth_failures,
        bans,
        ..Settings::default()
    };
    let authenticator = Authenticator::new(accounts, journal.clone(), settings)?;
    background.spawn(authenticator.clone().follow_changes());

    let server = ssh::Server::new(
        &config.server,
        &config.sftp,
        authenticator,
        Arc::clone(&backends),
        journal.clone(),
        config.journal.digests,
    )?;
    let listeners = ssh::bind(&config.server.listen).await?;
    if let Some(endpoint) = &config.metrics {
        let listener = metrics::bind(endpoint.listen)
            .await
            .map_err(DaemonError::Metrics)?;
        let serve = metrics::serve(listener, metrics_handle.clone(), stop.clone());
        background.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "metrics are not served any more");
            }
        });
    }
    background.spawn(metrics::refresh(
        metrics_handle,
        journal.clone(),
        stop.clone(),
    ));

    let addresses: Vec<_> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    records::started(&journal, &config, &addresses)
        .await
        .map_err(DaemonError::Unrecorded)?;
    for (listener, address) in listeners.into_iter().zip(&addresses) {
        tracing::info!(%address, policy = config.server.cipher_policy.name(), "listening");
        server.accept_on(listener);
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let signal = signals.termination().await;
    tracing::info!(signal, "no new connections; transfers may end");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let cut = server
        .drain(config.server.shutdown_grace, async {
            signals.termination().await;
        })
        .await;
    if cut > 0 {
        tracing::warn!(connections = cut, "connections were cut");
    }
    stop.cancel();
    background.shutdown().await;
    records::stopped(&journal, signal, cut)
        .await
        .map_err(DaemonError::Unrecorded)?;
    journal.close().await.map_err(DaemonError::Unrecorded)?;
    tracing::info!("stopped");
    Ok(())
}

async fn open_journal(config: &JournalConfig) -> Result<Journal, DaemonError> {
    let (journal, recovery) = Journal::open(Options {
        node: config.node.clone(),
        signing_key: config.signing_key.clone(),
        ..Options::default_in(&config.directory)
    })?;
    tracing::info!(records = recovery.records, directory = %config.directory.display(), "journal open");
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            "the last record was torn by a crash and dropped; the journal says so"
        );
    }
    if !recovery.unknown.is_empty() {
        tracing::warn!(
            operations = recovery.unknown.len(),
            "operations were under way at the last crash: whether they were done is unknown, and the journal says so"
        );
        records::left_unknown(&journal, &recovery.unknown)
            .await
            .map_err(DaemonError::Unrecorded)?;
    }
    Ok(journal)
}

fn relay_bans(config: &BansConfig, journal: &Journal) -> (Bans, BanRelay) {
    let (sender, requests) = tokio::sync::mpsc::channel(BAN_QUEUE);
    let settings = Bans {
        config: ThrottleConfig {
            failures: config.failures,
            window: config.window,
            lifetime: config.lifetime,
        },
        requests: sender,
    };
    let relay = BanRelay {
        requests,
        agent: AgentClient::new(&config.agent_socket),
        exempt: config.exempt.clone(),
        journal: journal.clone(),
    };
    (settings, relay)
}

/// The signals that the daemon knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal that ends the gateway.
    async fn termination(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => {
                    tracing::warn!("SIGHUP ignored: the configuration is read at the start; accounts need no reload");
                }
            }
        }
    }
}
