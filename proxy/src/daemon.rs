//! The life of the process: build the parts, announce the addresses, serve, drain with a deadline.

mod alerts;
mod backends;
mod bans;
mod encryption;
mod exception;
mod judges;
mod lag;
mod manifests;
mod names;
mod offers;
mod quiet;
mod reconcile;
mod records;
mod reload;
mod requests;
mod rest;
mod revocation;
mod room;
mod sinks;
mod verification;
mod witnesses;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::Utc;
use portcullis_audit::hidden::HiddenKeyError;
use portcullis_journal::{AppendError, Journal, OpenError, Options, Recovery};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    alerts::Alerts,
    encryption::{Encryption, Vaults},
    manifests::Manifests,
    names::JournalNames,
    reload::{InForce, Reloader},
    rest::{Rest, Stored},
    sinks::Sinks,
    witnesses::Witnesses,
};
use crate::{
    accounts::{Accounts, AccountsError},
    auth::{
        Authenticator,
        attempt::Settings,
        ldap::DirectoryError,
        password::{Cost, Hasher, PasswordError},
        throttle::Throttles,
    },
    config::{AtRest, Config, ConfigError, JournalConfig},
    metrics, ssh,
    throttle_store::{self, StoreError, ThrottleStore},
};

pub use backends::BuildError;
pub use encryption::SettleError;
pub use sinks::SinkError;

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    #[error("open the journal")]
    Journal(#[from] OpenError),
    #[error("open the key of hidden paths, journal.path_key_file")]
    PathKey(#[from] HiddenKeyError),
    #[error("open the accounts database {}", path.display())]
    Accounts {
        path: PathBuf,
        source: AccountsError,
    },
    #[error("open what sources owe for failures")]
    Throttles(#[from] StoreError),
    #[error("prepare password checks")]
    Passwords(#[from] PasswordError),
    #[error(transparent)]
    Backend(#[from] BuildError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Algorithms(#[from] ssh::UnknownAlgorithm),
    #[error("start the threads of connections")]
    Workers(#[source] io::Error),
    #[error(transparent)]
    Listen(#[from] ssh::ListenError),
    #[error("serve metrics")]
    Metrics(#[source] io::Error),
    #[error("collect metrics")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
    #[error("prepare the look at stored files, in {}", path.display())]
    Rest { path: PathBuf, source: io::Error },
    #[error("prepare manifests.directory, {}; make it writable for the daemon's user (ReadWritePaths= in its unit), or name another", path.display())]
    Manifests { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Destroyed(#[from] SettleError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("wait for signals")]
    Signals(#[source] io::Error),
    #[error("record the start or the end of the gateway")]
    Unrecorded(#[source] AppendError),
}

/// Serves until SIGTERM or SIGINT, under `config` and, from each SIGHUP on, under what its file at `path` says then.
///
/// # Errors
/// If a part can't be built, or the start can't be recorded.
pub async fn run(mut config: Config, path: PathBuf) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    let metrics_handle = metrics::install()?;
    let (journal, recovery) = open_journal(&config.journal)?;
    if encryption::settle(&config.journal)? {
        config = Config::load(&path, Utc::now().date_naive())?;
    }
    encryption::tell_left(&config.journal);
    let names = Arc::new(JournalNames::of(&config.journal));
    let built = backends::build(&config, &journal, &names, None)?;
    let accounts =
        Accounts::open(&config.accounts.database).map_err(|source| DaemonError::Accounts {
            path: config.accounts.database.clone(),
            source,
        })?;

    let stop = CancellationToken::new();
    let mut background = JoinSet::new();
    built.probe_new().await;
    built.prepare_new();
    if !recovery.unknown.is_empty() {
        tracing::warn!(
            operations = recovery.unknown.len(),
            "operations were under way at the last crash: whether they were done is unknown, and the journal says so"
        );
        let services = built.services();
        reconcile::left_unknown(
            &journal,
            &config.journal.directory,
            &recovery,
            &accounts,
            &services,
        )
        .await
        .map_err(DaemonError::Unrecorded)?;
    }
    encryption::finish(&config, &built, &journal).await;
    let bans = config
        .bans
        .as_ref()
        .map(|config| bans::relay(config, &journal, &stop));
    let store = ThrottleStore::beside(&config.accounts.database)?;
    let throttles = Throttles::new(config.throttles(), bans.clone(), Utc::now());
    store.load(&throttles)?;
    let settings = Settings {
        max_failures: config.server.max_auth_failures,
        flow: config.auth.flow,
        throttles: throttles.clone(),
        failure_floor: failure_floor(config.auth.password.cost)?,
        passwords: config.auth.password.clone(),
        ..Settings::default()
    };
    let judges = judges::build(&config.auth, None)?;
    let stored_accounts = accounts.clone();
    let kept_accounts = accounts.clone();
    let authenticator = Authenticator::new(accounts, journal.clone(), settings)?
        .with_account_defaults(config.accounts.defaults)
        .with_judges(judges.clone());
    authenticator.change_trust(|_| revocation::trust(&config.auth));
    background.spawn(authenticator.clone().follow_changes());
    if let Some(config) = &config.allowlist {
        background.spawn(offers::keep(config.clone(), authenticator.allowlist()));
    }

    let keeper = tokio::spawn(throttle_store::keep(store, throttles, stop.clone()));
    let today = Utc::now().date_naive();
    let terms = ssh::Terms::new(&config, authenticator.clone(), built.services(), today)?;
    let server = ssh::Server::new(terms, journal.clone()).map_err(DaemonError::Workers)?;
    let (checked, journal_config) = (journal.clone(), config.journal.clone());
    background.spawn(async move { verification::watch(checked, &journal_config).await });
    let limits = server.limits();
    background.spawn(room::watch(
        journal.clone(),
        config.journal.directory.clone(),
        config.journal.room,
        move |is_held| limits.hold(is_held),
    ));
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
    let begun = journal.status().durable;
    records::started(&journal, &config, &addresses)
        .await
        .map_err(DaemonError::Unrecorded)?;
    exception::announce(&config);
    let log = sinks::log(&config.journal, &journal);
    let sinks = Sinks::start(sinks::settings(&config)?, &config, log.clone(), &journal);
    let alerts = Alerts::start(&config.alerts, &config.journal, &journal, log, begun);
    background.spawn(sinks::measure(sinks.clone(), stop.clone()));
    let witnesses = Witnesses::start(&config.witnesses, &config.journal, &journal);
    let stored = Stored::of(&config, built.services());
    names.place(stored.places());
    if config.at_rest.values().any(AtRest::checks_names) {
        background.spawn(Arc::clone(&names).keep());
    }
    let rest = Rest::start(
        &config.verification,
        &config.journal,
        journal.clone(),
        stored_accounts,
        stored,
        stop.clone(),
    )
    .map_err(|source| DaemonError::Rest {
        path: config.journal.verification(),
        source,
    })?;
    let encryption = Encryption::start(
        &config.journal,
        journal.clone(),
        (kept_accounts, Vaults::of(&config, &built)),
        stop.clone(),
    )
    .map_err(|source| DaemonError::Rest {
        path: config.journal.verification(),
        source,
    })?;
    let manifests = config.manifests.as_ref().map(|manifests| {
        Manifests::start(manifests, &config.journal, journal.clone(), stop.clone()).map_err(
            |source| DaemonError::Manifests {
                path: manifests.directory.clone(),
                source,
            },
        )
    });
    let manifests = manifests.transpose()?;
    for (listener, address) in listeners.into_iter().zip(&addresses) {
        tracing::info!(%address, policy = config.server.cipher_policy.name(), "listening");
        server.accept_on(listener);
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let revoked_keys = watch::Sender::new(config.auth.revoked_keys.clone());
    background.spawn(revocation::follow(
        revoked_keys.subscribe(),
        authenticator.clone(),
        journal.clone(),
    ));
    let reloader = Reloader {
        path,
        in_force: Mutex::new(Arc::new(InForce {
            config,
            built,
            bans,
            judges,
        })),
        authenticator,
        revoked_keys,
        server: &server,
        journal: journal.clone(),
        sinks: &sinks,
        alerts: &alerts,
        witnesses: &witnesses,
        rest: &rest,
        encryption: &encryption,
        names,
        stop: stop.clone(),
    };
    let mut policy_ends = reloader.policy_ends();
    let signal = loop {
        tokio::select! {
            wanted = signals.next() => match wanted {
                Wanted::End(signal) => break signal,
                Wanted::Reload => tokio::select! {
                    signal = signals.termination() => break signal,
                    () = reloader.reload() => policy_ends = reloader.policy_ends(),
                },
            },
            () = exception::over(policy_ends) => {
                reloader.end_policy().await;
                policy_ends = None;
            }
        }
    };
    let grace = reloader.in_force().config.server.shutdown_grace;
    tracing::info!(signal, "no new connections; transfers may end");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let cut = server
        .drain(grace, async {
            signals.termination().await;
        })
        .await;
    if cut > 0 {
        tracing::warn!(connections = cut, "connections were cut");
    }
    if let Some(manifests) = &manifests {
        manifests.finish().await;
    }
    stop.cancel();
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the last counts of failures are not written");
    }
    background.shutdown().await;
    rest.end().await;
    encryption.end().await;
    if let Some(manifests) = manifests {
        manifests.end().await;
    }
    alerts.end().await;
    records::stopped(&journal, signal, cut)
        .await
        .map_err(DaemonError::Unrecorded)?;
    journal.close().await.map_err(DaemonError::Unrecorded)?;
    tokio::join!(sinks.drain(), witnesses.drain());
    tracing::info!("stopped");
    Ok(())
}

/// No failure may be told before a password check is over, also if the operator has made it dearer.
fn failure_floor(cost: Cost) -> Result<Duration, PasswordError> {
    const HASHES: u32 = 3;
    let hash = Hasher::with_cost(cost)?.duration();
    Ok(Settings::default()
        .failure_floor
        .max(hash.saturating_mul(HASHES)))
}

fn open_journal(config: &JournalConfig) -> Result<(Journal, Recovery), DaemonError> {
    let options = Options {
        veil: config.veil()?,
        ..config.options()
    };
    let (journal, recovery) = Journal::open(options)?;
    tracing::info!(records = recovery.records, directory = %config.directory.display(), "journal open");
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            "the last record was torn by a crash and dropped; the journal says so"
        );
    }
    Ok((journal, recovery))
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

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::End("SIGTERM"),
            _ = self.interrupt.recv() => Wanted::End("SIGINT"),
            _ = self.hang_up.recv() => Wanted::Reload,
        }
    }

    /// The next signal that ends the gateway.
    async fn termination(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What a signal asks for.
enum Wanted {
    End(&'static str),
    Reload,
}
