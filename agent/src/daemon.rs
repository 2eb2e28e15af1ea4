//! The daemon's life: build, announce, serve, drain.

use std::{
    io::IsTerminal as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::Utc;
use portcullis_journal::{EventKind, Journal, Options as JournalOptions};
use serde_json::{Map, json};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    bans::BanBook,
    config::Config,
    control::server::{self, Service},
    datapath::{
        self, InterfaceState, InterfaceStatus, MonitoredSet,
        pins::Pins,
        xdp::{Options, XdpDatapath},
    },
    engine::{Engine, REQUESTS, Settings},
    interface::Changes,
    metrics::endpoint,
    record::{self, Recorder},
    state::StateDir,
};

/// A record waits at most so long for others to share its way to the disk.
const GROUP_COMMIT: Duration = Duration::from_millis(2);
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
const RESERVE_BYTES: u64 = 1024 * 1024;
/// How long requests under way may take once the daemon is to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT. Enforcement goes on afterwards.
///
/// # Errors
/// If it can't start, or can't put its end on record.
pub async fn run(config: Config) -> Result<()> {
    let started = Instant::now();
    log_to_stderr();
    // Before anything else is made: a second daemon must change nothing.
    let pins = Pins::lock(&config.pin_dir)?;
    let state = StateDir::open(&config.state_dir)?;
    let allowlist = state.allowlist()?;
    let mut bans = BanBook::new(config.bans.clone(), &config.protected);
    bans.restore(state.bans()?, Utc::now());

    let datapath = XdpDatapath::open(&options(&config), pins)?;
    if !datapath.takes_over()
        && allowlist.is_empty()
        && config.protected.is_empty()
        && !config.monitor
    {
        bail!(
            "the allowlist is empty and nothing is protected: every packet would be dropped, those of your own session too. Set `protected` to your own addresses, or `monitor = true` for a start"
        );
    }
    let journal = open_journal(&config)?;
    let details = Map::from_iter([("interfaces".to_owned(), json!(config.interfaces))]);
    journal
        .record(record::life(EventKind::AppStart, details))
        .await
        .context("record the start")?;

    // What can fail comes before the first packet is judged.
    let metrics = endpoint::install().context("set metrics up")?;
    let listener = server::bind(&config.control.socket)
        .with_context(|| format!("bind control socket {}", config.control.socket.display()))?;
    let metrics_listener = match config.metrics {
        Some(address) => Some(
            endpoint::bind(address)
                .await
                .with_context(|| format!("bind metrics.listen = \"{address}\""))?,
        ),
        None => None,
    };
    let settings = Settings {
        protected: config.protected.clone(),
        datapath: datapath::Settings {
            policy: config.policy,
            monitored: if config.monitor {
                MonitoredSet::All
            } else {
                MonitoredSet::None
            },
            ..datapath::Settings::default()
        },
    };
    let mut engine = Engine::new(
        settings,
        allowlist,
        bans,
        Box::new(datapath),
        Box::new(journal.clone()),
        state,
        started,
    );
    engine.follow().context("put the lists into the kernel")?;
    refuse_unusable(engine.tend())?;

    announce(&listener, metrics_listener.as_ref());

    let stop = CancellationToken::new();
    let (requests, queue) = mpsc::channel(REQUESTS);
    let service = Service::new(requests.clone(), engine.reports(), stop.clone());
    let engine = start(engine, queue)?;
    let control = tokio::spawn(server::serve(listener, service, config.control.clone()));
    let exporter = metrics_listener.map(|listener| {
        tokio::spawn(endpoint::serve(
            listener,
            metrics,
            requests.clone(),
            stop.clone(),
        ))
    });
    drop(requests);
    notify(&[sd_notify::NotifyState::Ready]);

    wait_for_end().await?;
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; enforcement goes on without the daemon");
    stop.cancel();
    drain(control).await;
    if let Some(exporter) = exporter {
        drain(exporter).await;
    }
    // With the last sender gone the engine ends.
    tokio::task::spawn_blocking(move || engine.join())
        .await?
        .map_err(|_| anyhow!("the engine panicked"))?;
    journal
        .record(record::life(EventKind::AppStop, Map::new()))
        .await
        .context("record the end")?;
    journal.close().await.context("close the journal")
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A second initialisation happens only when a test runs two daemons in one process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

fn options(config: &Config) -> Options {
    Options {
        interfaces: config.interfaces.clone(),
        mode: config.mode,
        sample_one_in: config.events.sample_one_in,
        events_per_second: config.events.per_second,
        table: datapath::mode::TableChoice::Compiled,
    }
}

fn open_journal(config: &Config) -> Result<Journal> {
    let settings = &config.journal;
    let (journal, recovery) = Journal::open(JournalOptions {
        directory: settings.directory.clone(),
        node: settings.node.clone(),
        signing_key: settings.signing_key.clone(),
        max_delay: GROUP_COMMIT,
        segment_bytes: SEGMENT_BYTES,
        reserve_bytes: RESERVE_BYTES,
    })
    .context("open the journal (journal.directory, journal.signing_key)")?;
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            "the journal ended in a torn record, which was dropped"
        );
    }
    Ok(journal)
}

/// At the start an interface that can't be held is an error; later it is reported and tried again.
fn refuse_unusable(interfaces: &[InterfaceStatus]) -> Result<()> {
    for InterfaceStatus { name, state, .. } in interfaces {
        match state {
            InterfaceState::Enforcing { .. } | InterfaceState::Gone => {}
            InterfaceState::Occupied {
                program,
                program_name,
                ..
            } if program_name == agent_ebpf::layout::PROGRAM => bail!(
                "interface {name} is held by another portcullis-agent, or by pins in another pin_dir (XDP program {program}); it is left alone. Stop that agent and `unload` its pins first"
            ),
            InterfaceState::Occupied {
                program,
                program_name,
                ..
            } => bail!(
                "interface {name} already runs XDP program {program} ({program_name}), which is not ours and is left alone; detach it first (`ip link show {name}` shows it)"
            ),
            InterfaceState::Failed { error, .. } => bail!("interface {name}: {error}"),
        }
    }
    Ok(())
}

fn announce(control: &UnixListener, metrics: Option<&TcpListener>) {
    if let Ok(address) = control.local_addr() {
        tracing::info!(?address, "control socket");
    }
    if let Some(Ok(address)) = metrics.map(TcpListener::local_addr) {
        tracing::info!(%address, "metrics");
    }
}

/// The engine has a thread of its own: waiting for the kernel's readers takes milliseconds, and would hold up the others.
fn start(
    engine: Engine,
    queue: mpsc::Receiver<crate::engine::Request>,
) -> Result<thread::JoinHandle<Box<dyn Recorder>>> {
    let handle = Handle::current();
    let mut changes = Changes::subscribe().context("listen for changes of interfaces")?;
    thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || handle.block_on(engine.run(queue, async || changes.changed().await)))
        .context("start the engine")
}

async fn wait_for_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn drain(mut task: tokio::task::JoinHandle<std::io::Result<()>>) {
    match tokio::time::timeout(DRAIN, &mut task).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "a listener failed"),
        Ok(Err(error)) => tracing::warn!(%error, "a listener failed"),
        Err(_) => task.abort(),
    }
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "no service manager to notify");
    }
}
