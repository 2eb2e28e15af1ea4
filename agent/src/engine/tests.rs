mod changes;
mod confirm;
mod drills;
mod ends;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, TimeDelta, Utc};
use portcullis_journal::{AppendError, EventKind};
use tempfile::TempDir;

use super::*;
use crate::{
    bans::Limits,
    control::{
        ChangeReply, Code,
        peer::{Identity, Peer, Roles},
    },
    datapath::fake::Fake,
    entry::Entry,
    prefix,
    state::{HistoryLimits, Options},
    traffic::LivePeer,
};

const MINUTE: Duration = Duration::from_secs(60);
const ADMIN: &str = "192.0.2.10";

/// A recorder that remembers, and fails on demand.
#[derive(Clone, Default)]
struct Notebook {
    events: Arc<Mutex<Vec<Event>>>,
    is_full: Arc<AtomicBool>,
    /// How many rules the kernel had when each record was made.
    datapath: Fake,
    rules_then: Arc<Mutex<Vec<usize>>>,
}

impl Recorder for Notebook {
    fn record<'a>(
        &'a self,
        event: Event,
    ) -> Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send + 'a>> {
        Box::pin(async move {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(AppendError::Closed);
            }
            self.rules_then
                .lock()
                .unwrap()
                .push(self.datapath.told().rules.len());
            self.events.lock().unwrap().push(event);
            Ok(())
        })
    }

    fn is_healthy(&self) -> bool {
        !self.is_full.load(Ordering::SeqCst)
    }
}

/// Connections that a test sets.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<Vec<LivePeer>>>);

impl Traffic for Connections {
    fn live_peers(&self) -> Vec<LivePeer> {
        self.0.lock().unwrap().clone()
    }
}

/// An engine over a fake kernel and a real state directory.
struct Bench {
    engine: Engine,
    datapath: Fake,
    notebook: Notebook,
    connections: Connections,
    directory: TempDir,
    protected: Vec<IpNet>,
    now: Moment,
}

impl Bench {
    async fn new() -> Self {
        Self::protecting(&[ADMIN]).await
    }

    async fn protecting(protected: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let datapath = Fake::default();
        let protected: Vec<IpNet> = protected.iter().map(|text| net(text)).collect();
        let now = Moment {
            wall: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            boot: Duration::from_secs(1_000),
        };
        let notebook = Notebook {
            datapath: datapath.clone(),
            ..Notebook::default()
        };
        let connections = Connections::default();
        let engine = engine(
            &directory,
            &datapath,
            &notebook,
            &connections,
            &protected,
            now,
        );
        let mut bench = Self {
            engine,
            datapath,
            notebook,
            connections,
            directory,
            protected,
            now,
        };
        bench.engine.start(LiveFacts::default(), now).await.unwrap();
        bench
    }

    /// The daemon is killed and starts again; the kernel goes on.
    async fn restart(&mut self) {
        // Nothing of the engine but what is in its files.
        let engine = engine(
            &self.directory,
            &self.datapath,
            &self.notebook,
            &self.connections,
            &self.protected,
            self.now,
        );
        self.engine = engine;
        self.engine
            .start(LiveFacts::default(), self.now)
            .await
            .unwrap();
    }

    fn pass(&mut self, time: Duration) {
        self.now.boot += time;
        self.now.wall += time;
    }

    async fn ban(&mut self, source: &str) -> Result<Ban, Failure> {
        let terms = Terms::default();
        self.engine
            .ban(net(source), MINUTE, "test", &terms, &root(1), self.now)
            .await
    }

    async fn change(&mut self, change: Change, terms: Terms) -> Result<ChangeReply, Failure> {
        self.engine.change(change, &terms, &root(1), self.now).await
    }

    async fn add(&mut self, prefix: &str) -> Result<ChangeReply, Failure> {
        let change = Change::Add(vec![Entry::allow(net(prefix))]);
        self.change(change, Terms::default()).await
    }

    async fn replace(&mut self, prefixes: &[&str], terms: Terms) -> Result<ChangeReply, Failure> {
        let entries = prefixes.iter().map(|prefix| Entry::allow(net(prefix)));
        self.change(Change::Replace(entries.collect()), terms).await
    }

    fn kinds(&self) -> Vec<EventKind> {
        let events = self.notebook.events.lock().unwrap();
        events.iter().map(|event| event.kind).collect()
    }

    fn actions(&self) -> Vec<String> {
        let events = self.notebook.events.lock().unwrap();
        events
            .iter()
            .map(|event| event.body["action"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What a restart would find: entries and bans.
    fn kept(&self) -> (usize, usize) {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let (_, content) = Store::open(copy.path(), OPTIONS).unwrap();
        (content.lists.len(), content.bans.len())
    }

    /// The prefixes that the kernel allows.
    fn allowed(&self) -> Vec<IpNet> {
        self.datapath.told().with(&Action::Allow(None))
    }

    fn banned(&self) -> Vec<IpNet> {
        self.datapath.told().with(&Action::Ban)
    }

    fn connect(&self, peers: &[&str]) {
        *self.connections.0.lock().unwrap() = peers
            .iter()
            .map(|address| LivePeer {
                address: address.parse().unwrap(),
                protocol: 6,
                local_port: 22,
            })
            .collect();
    }
}

const OPTIONS: Options = Options {
    segment_bytes: 1 << 20,
    history: HistoryLimits {
        keep: 100,
        max_bytes: 1 << 30,
    },
};

fn engine(
    directory: &TempDir,
    datapath: &Fake,
    notebook: &Notebook,
    connections: &Connections,
    protected: &[IpNet],
    now: Moment,
) -> Engine {
    let limits = Limits {
        max_lifetime: MINUTE * 60,
        max_entries: 100,
        widest_ipv4: 24,
        widest_ipv6: 48,
        max_in_ipv4_24: 100,
        max_in_ipv6_48: 100,
        never: Vec::new(),
    };
    let (store, content) = Store::open(directory.path(), OPTIONS).unwrap();
    let settings = Settings {
        protected: protected.to_vec(),
        datapath: datapath::Settings::default(),
        max_cut_flows: 2,
    };
    let parts = Parts {
        datapath: Box::new(datapath.clone()),
        recorder: Box::new(notebook.clone()),
        traffic: Box::new(connections.clone()),
        store,
        sources: Board::default(),
        outage: None,
    };
    Engine::new(
        settings,
        BanBook::new(limits, protected),
        content,
        parts,
        now,
    )
}

fn net(text: &str) -> IpNet {
    prefix::parse(text).unwrap()
}

/// Root, over a connection with this number.
fn root(connection: u64) -> Peer {
    Peer {
        identity: Identity::Process { uid: 0, pid: None },
        name: "root".to_owned(),
        roles: Roles {
            admin: true,
            ..Roles::default()
        },
        connection,
    }
}

/// An administrator over TLS, from this address.
fn remote(address: &str) -> Peer {
    Peer {
        identity: Identity::Certificate {
            address: format!("{address}:40000").parse().unwrap(),
            port: 9465,
        },
        name: "CN=ops".to_owned(),
        ..root(1)
    }
}

fn within(seconds: u64) -> Terms {
    Terms {
        confirm_within: Some(Duration::from_secs(seconds)),
        ..Terms::default()
    }
}

fn forced() -> Terms {
    Terms {
        force: true,
        ..Terms::default()
    }
}

fn ending(prefix: &str, at: DateTime<Utc>) -> Entry {
    Entry {
        expires: Some(at),
        ..Entry::allow(net(prefix))
    }
}
