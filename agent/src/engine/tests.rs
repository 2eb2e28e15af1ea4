use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use portcullis_journal::{AppendError, EventKind};
use tempfile::TempDir;

use super::*;
use crate::{
    bans::Limits,
    control::{Code, peer::Roles},
    datapath::fake::Fake,
    prefix,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A recorder that remembers, and fails on demand.
#[derive(Clone, Default)]
struct Notebook {
    events: Arc<Mutex<Vec<Event>>>,
    is_full: Arc<AtomicBool>,
    /// What the kernel held when each record was made.
    datapath: Fake,
    banned_then: Arc<Mutex<Vec<usize>>>,
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
            self.banned_then
                .lock()
                .unwrap()
                .push(self.datapath.told().with(&Action::Ban).len());
            self.events.lock().unwrap().push(event);
            Ok(())
        })
    }

    fn is_healthy(&self) -> bool {
        !self.is_full.load(Ordering::SeqCst)
    }
}

struct Bench {
    engine: Engine,
    datapath: Fake,
    notebook: Notebook,
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let datapath = Fake::default();
        let notebook = Notebook {
            datapath: datapath.clone(),
            ..Notebook::default()
        };
        let limits = Limits {
            max_lifetime: MINUTE * 60,
            max_entries: 100,
            widest_ipv4: 24,
            widest_ipv6: 48,
        };
        let protected = vec![net("192.0.2.10")];
        let mut engine = Engine::new(
            Settings {
                protected: protected.clone(),
                datapath: datapath::Settings::default(),
            },
            Allowlist::default(),
            BanBook::new(limits, &protected),
            Box::new(datapath.clone()),
            Box::new(notebook.clone()),
            StateDir::open(directory.path()).unwrap(),
            Instant::now(),
        );
        engine.follow().unwrap();
        Self {
            engine,
            datapath,
            notebook,
            directory,
        }
    }

    async fn ban(&mut self, source: &str) -> Result<Ban, Failure> {
        self.engine
            .ban(net(source), MINUTE, "test", &root(), now())
            .await
    }

    async fn add(&mut self, prefix: &str) -> Result<AllowSummary, Failure> {
        let entry = Entry {
            prefix: net(prefix),
            comment: None,
        };
        self.engine
            .allow(AllowChange::Add(vec![entry]), &root())
            .await
    }

    fn kinds(&self) -> Vec<EventKind> {
        self.notebook
            .events
            .lock()
            .unwrap()
            .iter()
            .map(|event| event.kind)
            .collect()
    }

    fn kept(&self) -> (usize, usize) {
        let state = StateDir::open(self.directory.path()).unwrap();
        (
            state.allowlist().unwrap().len(),
            state.bans().unwrap().len(),
        )
    }
}

fn net(text: &str) -> IpNet {
    prefix::parse(text).unwrap()
}

fn root() -> Peer {
    Peer {
        uid: 0,
        name: "root".to_owned(),
        roles: Roles {
            admin: true,
            ..Roles::default()
        },
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

#[tokio::test]
async fn a_change_is_on_record_before_the_kernel_has_it() {
    let mut bench = Bench::new();
    bench.ban("198.51.100.7").await.unwrap();
    assert_eq!(
        *bench.notebook.banned_then.lock().unwrap(),
        [0],
        "the record came first"
    );
    assert_eq!(bench.datapath.told().with(&Action::Ban).len(), 1);
    assert_eq!(bench.kinds(), [EventKind::BanChange]);
}

#[tokio::test]
async fn without_a_record_nothing_is_changed() {
    let mut bench = Bench::new();
    bench.notebook.is_full.store(true, Ordering::SeqCst);
    let before = bench.datapath.told().generation;
    assert_eq!(
        bench.ban("198.51.100.7").await.unwrap_err().code,
        Code::Journal
    );
    assert_eq!(
        bench.add("203.0.113.0/24").await.unwrap_err().code,
        Code::Journal
    );
    assert!(bench.datapath.told().with(&Action::Ban).is_empty());
    assert_eq!(bench.datapath.told().generation, before);
    assert_eq!(bench.kept(), (0, 0));

    bench.notebook.is_full.store(false, Ordering::SeqCst);
    assert!(bench.ban("198.51.100.7").await.is_ok());
    assert!(bench.add("203.0.113.0/24").await.is_ok());
    assert_eq!(bench.kept(), (1, 1));
}

#[tokio::test]
async fn a_change_that_can_not_be_kept_is_not_made() {
    let mut bench = Bench::new();
    // A directory in the file's place: even root can't write it.
    std::fs::create_dir_all(bench.directory.path().join("bans.new")).unwrap();
    std::fs::create_dir_all(bench.directory.path().join("allowlist.new")).unwrap();
    assert_eq!(
        bench.ban("198.51.100.7").await.unwrap_err().code,
        Code::State
    );
    assert_eq!(
        bench.add("203.0.113.0/24").await.unwrap_err().code,
        Code::State
    );
    assert!(bench.datapath.told().with(&Action::Ban).is_empty());
    assert!(bench.datapath.told().with(&Action::Allow(None)).is_empty());
}

#[tokio::test]
async fn a_kernel_that_refused_gets_it_again() {
    let mut bench = Bench::new();
    bench.datapath.set_refuses(true);
    assert_eq!(
        bench.ban("198.51.100.7").await.unwrap_err().code,
        Code::Kernel
    );
    bench.datapath.set_refuses(false);
    bench.engine.follow().unwrap();
    assert_eq!(bench.datapath.told().with(&Action::Ban).len(), 1);
}

#[tokio::test]
async fn the_same_list_again_is_neither_recorded_nor_switched() {
    let mut bench = Bench::new();
    let first = bench.add("203.0.113.0/24").await.unwrap();
    let second = bench.add("203.0.113.0/24").await.unwrap();
    assert_eq!((first.put, second.put), (1, 0));
    assert_eq!(first.generation, second.generation);
    assert_eq!(bench.kinds(), [EventKind::AllowChange]);
}

#[tokio::test]
async fn removing_what_is_not_listed_changes_nothing() {
    let mut bench = Bench::new();
    bench.add("203.0.113.0/24").await.unwrap();
    let both = AllowChange::Remove(vec![net("203.0.113.0/24"), net("203.0.113.7")]);
    assert_eq!(
        bench.engine.allow(both, &root()).await.unwrap_err().code,
        Code::NotFound
    );
    assert_eq!(bench.kept(), (1, 0));
}

#[tokio::test]
async fn a_ban_is_swept_at_its_end_and_on_record() {
    let mut bench = Bench::new();
    bench.ban("198.51.100.7").await.unwrap();
    bench
        .engine
        .sweep(now() + MINUTE - Duration::from_secs(1))
        .await;
    assert_eq!(bench.datapath.told().with(&Action::Ban).len(), 1);
    bench.engine.sweep(now() + MINUTE).await;
    assert!(bench.datapath.told().with(&Action::Ban).is_empty());
    assert_eq!(bench.kinds(), [EventKind::BanChange, EventKind::BanChange]);
    assert_eq!(bench.kept(), (0, 0));
}
