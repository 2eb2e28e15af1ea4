//! The journal as its callers see it, on a disk that fails on demand.

mod durability;
mod growth;
mod keys;
mod mutations;
mod recovery;
mod retention;
mod sealing;
mod tampering;

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Event, EventKind, Intent, Journal, OperationId, Options, Recovery, SessionId,
    disk::fault::FaultyDisk, record::untrusted,
};

/// A log in memory with its key.
struct Bench {
    disk: FaultyDisk,
    keys: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            disk: FaultyDisk::new(),
            keys: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::default_in(self.keys.path().join("log"));
        options.node = "gw1".into();
        options.reserve_bytes = 4096;
        options.compression_level = None;
        options
    }

    fn open(&self) -> (Journal, Recovery) {
        Journal::open_on(self.disk.clone(), self.options()).unwrap()
    }

    fn journal(&self) -> Journal {
        self.open().0
    }

    fn journal_that_waits(&self, max_delay: Duration) -> Journal {
        let options = Options {
            max_delay,
            ..self.options()
        };
        Journal::open_on(self.disk.clone(), options).unwrap().0
    }

    /// The same log on another disk.
    fn on(&self, disk: FaultyDisk) -> Self {
        let keys = tempfile::tempdir().unwrap();
        for name in ["log.key", "log.key.pub"] {
            std::fs::copy(self.keys.path().join(name), keys.path().join(name)).unwrap();
        }
        Self { disk, keys }
    }

    fn records(&self) -> Vec<Value> {
        records(&self.disk)
    }
}

/// All records, as far as they are durable.
fn records(disk: &FaultyDisk) -> Vec<Value> {
    let text: Vec<u8> = segments(disk)
        .into_iter()
        .flat_map(|name| disk.durable(&name))
        .collect();
    text.split_inclusive(|&b| b == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn segments(disk: &FaultyDisk) -> Vec<String> {
    use crate::disk::Disk as _;
    crate::segment::segments(disk.names().unwrap())
        .into_iter()
        .map(|(_, name)| name)
        .collect()
}

fn names(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect()
}

/// Every record follows the one before it.
fn assert_chained(disk: &FaultyDisk) {
    let mut chain = crate::chain::Chain::default();
    for name in segments(disk) {
        for line in disk.durable(&name).split_inclusive(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\n").expect("a whole line");
            let envelope = crate::line::Envelope::parse(line).expect("a record");
            assert_eq!(envelope.seq, chain.next());
            assert!(envelope.follows(chain.prev()), "record {}", envelope.seq);
            chain.follow(line);
        }
    }
}

fn named(name: &str) -> Event {
    let mut event = Event::new(EventKind::ConnectionOpen);
    event.body.insert("name".into(), untrusted(name.as_bytes()));
    event
}

#[derive(Debug, Clone, PartialEq)]
struct Put(u64);

impl Intent for Put {
    fn event(&self) -> Event {
        let mut event = Event::new(EventKind::OperationIntent);
        event.session = Some(SessionId([7; 16]));
        event.operation = Some(OperationId(self.0));
        event
    }
}

fn outcome(operation: u64) -> Event {
    Event {
        kind: EventKind::OperationOutcome,
        ..Put(operation).event()
    }
}

/// Waits until `condition` holds; fails after a minute.
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never held");
        std::thread::sleep(Duration::from_millis(1));
    }
}
