//! The daemon's life: build, announce, serve, drain.

mod followers;

use std::{io::IsTerminal as _, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
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

use self::followers::Shared;
use crate::{
    bans::BanBook,
    clock::Moment,
    config::Config,
    control::{
        OutageStatus,
        server::{self, Remotes, Service, tls::Tls},
    },
    datapath::{
        self, InterfaceState, InterfaceStatus,
        pins::Pins,
        xdp::{Options, XdpDatapath},
    },
    engine::{Engine, Parts, REQUESTS, Refresh, Settings},
    facts::Facts,
    interface::Changes,
    metrics::{self, endpoint},
    record::{self, Recorder},
    sources::Board,
    state::{Options as StoreOptions, Store, heartbeat::Life},
    traffic::Connections,
};

/// A record does not wait for others to share its way to the disk: every change waits for its record.
const GROUP_COMMIT: Duration = Duration::ZERO;
/// The log of changes is folded into a snapshot whenever it has grown by so much: some ten thousand single edits.
const STATE_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
const RESERVE_BYTES: u64 = 1024 * 1024;
/// How long requests under way may take once the daemon is to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT. Enforcement goes on afterwards.
///
/// # Errors
/// If it can't start, or can't put its end on record.
pub async fn run(config: Config) -> Result<()> {
    let now = Moment::now();
    let mut life = Life::begin(now.wall);
    log_to_stderr();
    // Before anything else is made: a second daemon must change nothing.
    let pins = Pins::lock(&config.pin_dir)?;
    let (store, content) = Store::open(
        &config.state_dir,
        StoreOptions {
            segment_bytes: STATE_SEGMENT_BYTES,
            history: config.history,
        },
    )?;
    let outage = Life::last(&config.state_dir).and_then(|life| {
        life.dead_since().map(|since| OutageStatus {
            since,
            until: now.wall,
        })
    });
    let bans = BanBook::new(config.bans.clone(), &config.protected);

    let datapath = XdpDatapath::open(&options(&config), pins)?;
    let takes_over = datapath.takes_over();
    let journal = open_journal(&config)?;
    // What is put in force below is on record by this, whatever became of the records of its changes.
    let details = Map::from_iter([
        ("interfaces".to_owned(), json!(config.interfaces)),
        ("revision".to_owned(), json!(content.revision)),
        ("bans".to_owned(), json!(content.bans.len())),
    ]);
    journal
        .record(record::life(EventKind::AppStart, details))
        .await
        .context("record the start")?;

    // What can fail comes before the first packet is judged.
    let metrics = endpoint::install().context("set metrics up")?;
    metrics::life(
        now.wall,
        outage.as_ref().map(|outage| outage.until - outage.since),
    );
    let listener = server::bind(&config.control.socket)
        .with_context(|| format!("bind control socket {}", config.control.socket.display()))?;
    let tcp = match &config.control.tcp {
        Some(settings) => {
            let tls = Tls::new(settings.clone())?;
            let listener = TcpListener::bind(settings.listen)
                .await
                .with_context(|| format!("bind control.tcp.listen = \"{}\"", settings.listen))?;
            Some((listener, tls))
        }
        None => None,
    };
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
        datapath: config.datapath.clone(),
        max_cut_flows: config.max_cut_flows,
    };
    let board = Board::default();
    let parts = Parts {
        datapath: Box::new(datapath),
        recorder: Box::new(journal.clone()),
        traffic: Box::new(Connections),
        store,
        sources: board.clone(),
        outage,
    };
    let mut engine = Engine::new(settings, bans, content, parts, now);
    engine.keep_alive(config.state_dir.clone(), life.clone());
    let mut live = Facts::new(config.sources.facts.clone());
    live.refresh();
    let facts = followers::live(&live, &Remotes::default());
    if !takes_over && !engine.lets_anyone_in(&facts) {
        bail!(
            "no list lets anyone in and nothing is protected: every packet would be dropped, those of your own session too. Set `protected` to your own addresses, or `monitor = true` for a start"
        );
    }
    engine
        .start(facts, now)
        .await
        .context("put the lists into the kernel")?;
    refuse_unusable(engine.tend())?;

    announce(&listener, metrics_listener.as_ref());

    let stop = CancellationToken::new();
    let (requests, queue) = mpsc::channel(REQUESTS);
    let (refresh, asks) = Refresh::new();
    let service = Service::new(
        requests.clone(),
        refresh.clone(),
        engine.reports(),
        config.control.clone(),
        stop.clone(),
    );
    let mut followers = followers::follow(
        &config.sources,
        engine.source_lists(),
        config.state_dir.join("feeds"),
        (live, asks),
        &Shared {
            requests: requests.clone(),
            refresh,
            board,
            acceptance: service.acceptance(),
            remotes: service.remotes(),
            takes_offers: !config.control.offer_groups.is_empty(),
            stop: stop.clone(),
        },
    )?;
    let engine = start(engine, queue)?;
    let control = tokio::spawn(server::serve(listener, service.clone()));
    let tcp =
        tcp.map(|(listener, tls)| tokio::spawn(server::serve_tls(listener, tls, service.clone())));
    drop(service);
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
    for listener in [tcp, exporter].into_iter().flatten() {
        drain(listener).await;
    }
    let ended = async { while followers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!("sources of lists do not end in time and are aborted");
    }
    followers.shutdown().await;
    // With the last sender gone the engine ends.
    tokio::task::spawn_blocking(move || engine.join())
        .await?
        .map_err(|_| anyhow!("the engine panicked"))?;
    life.stopped = Some(Moment::now().wall);
    if let Err(error) = life.keep(&config.state_dir) {
        tracing::warn!(%error, "can't leave a sign of the end");
    }
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
        table: config.table,
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
        ..JournalOptions::default_in(&settings.directory)
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
            } if datapath::is_ours(program_name) => bail!(
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
