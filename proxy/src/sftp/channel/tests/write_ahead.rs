//! No operation reaches a backend before its intent is durable: shown by byte offsets for each of many operations, and by
//! cutting the power at many moments.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use portcullis_journal::{
    OperationId, Options, SessionId,
    disk::{Disk, DiskFile, fault::FaultyDisk},
};

use super::*;
use crate::policy::DataOps;

/// Operations of the proof, and of it alone.
const OPERATIONS: &str = "PORTCULLIS_WRITE_AHEAD_OPERATIONS";
/// Power cuts.
const CUTS: &str = "PORTCULLIS_POWER_CUTS";
const SEED: &str = "PORTCULLIS_POWER_CUT_SEED";

const CLIENTS: usize = 8;
/// Requests that a client has under way.
const BATCH: u64 = 100;

/// What is given, or what fits into every run.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// A disk that keeps of segments only where each record ends and up to where all is synced.
#[derive(Clone, Default)]
struct Ruler {
    beside: FaultyDisk,
    marks: Arc<Mutex<Marks>>,
    /// Bytes of the log that are durable.
    synced: Arc<AtomicU64>,
    order: Order,
}

/// When a disk says that it has synced.
#[derive(Clone, Copy, Default, PartialEq)]
enum Order {
    #[default]
    Afterwards,
    /// Before it has: the fault that the proof must see.
    Before,
}

#[derive(Default)]
struct Marks {
    written: u64,
    /// Behind the end of each record.
    ends: Vec<u64>,
}

impl Ruler {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the record with that number is durable now.
    fn has(&self, record: u64) -> bool {
        // First what is synced, so that what is synced later does not count.
        let synced = self.synced.load(Ordering::SeqCst);
        let end = self.marks().ends.get(record as usize).copied();
        end.is_some_and(|end| end <= synced)
    }

    fn journal(&self, keys: &std::path::Path) -> Journal {
        let options = Options {
            // One segment: nothing is ever read back.
            segment_bytes: u64::MAX,
            ..Options::default_in(keys.join("journal"))
        };
        Journal::open_on(self.clone(), options).unwrap().0
    }
}

impl Disk for Ruler {
    fn names(&self) -> io::Result<Vec<String>> {
        self.beside.names()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let beside = self.beside.open(name)?;
        Ok(if name.ends_with(".jsonl") {
            Box::new(Measured(self.clone()))
        } else {
            beside
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.beside.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.beside.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.beside.sync_names()
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        self.beside.lock()
    }
}

/// The segment of a [`Ruler`].
struct Measured(Ruler);

impl DiskFile for Measured {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.marks().written)
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut marks = self.0.marks();
        assert_eq!(offset, marks.written, "a log is only appended to");
        let ends = bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
        marks
            .ends
            .extend(ends.map(|(at, _)| offset + at as u64 + 1));
        marks.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        let written = self.0.marks().written;
        match self.0.order {
            Order::Afterwards => {
                std::thread::sleep(Duration::from_micros(50));
                self.0.synced.fetch_max(written, Ordering::SeqCst);
            }
            Order::Before => {
                let synced = Arc::clone(&self.0.synced);
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(2));
                    synced.fetch_max(written, Ordering::SeqCst);
                });
            }
        }
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn forget_cached(&self) {}
}

/// What the backends saw.
#[derive(Default)]
struct Arrivals {
    all: AtomicU64,
    early: AtomicU64,
}

/// A client of its own on the common journal.
async fn client(journal: &Journal, data_ops: DataOps) -> Client {
    let journal = journal.clone();
    let memory = Memory::new();
    let services = HashMap::from([("memory".to_owned(), Arc::new(memory.clone()) as _)]);
    let client = Client::behind(
        Budget::default(),
        services,
        vec![testing::everything("/", "memory")],
        Extensions::default(),
        move |_| journal,
        |gate| gate.with_data_ops(data_ops),
    );
    Client { memory, ..client }.greeted().await
}

/// Takes operations from many clients to backends that compare; returns how many came, and how many came early.
async fn measured(ruler: &Ruler, data_ops: DataOps, operations: u64) -> (u64, u64) {
    let keys = tempfile::tempdir().unwrap();
    let journal = ruler.journal(keys.path());
    let arrivals = Arc::new(Arrivals::default());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = client(&journal, data_ops).await;
        client.memory.observe({
            let (ruler, arrivals) = (ruler.clone(), Arc::clone(&arrivals));
            move |recorded| {
                let has = ruler.has(recorded.id().0);
                arrivals.all.fetch_add(1, Ordering::SeqCst);
                arrivals.early.fetch_add(u64::from(!has), Ordering::SeqCst);
            }
        });
        let arrivals = Arc::clone(&arrivals);
        tasks.spawn(async move {
            while arrivals.all.load(Ordering::SeqCst) < operations {
                one_round(&mut client).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    journal.close().await.unwrap();
    (
        arrivals.all.load(Ordering::SeqCst),
        arrivals.early.load(Ordering::SeqCst),
    )
}

/// A file that is uploaded, read and removed, with many requests under way.
async fn one_round(client: &mut Client) {
    let handle = client.open(b"/file", REPLACE).await;
    all_at_once(client, |at| write(handle, at * 4, b"data")).await;
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    let handle = client.open(b"/file", READ).await;
    for _ in 0..8 {
        all_at_once(client, |at| read(handle, at * 4, 4)).await;
    }
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    all_at_once(client, |_| stat(b"/file")).await;
    let remove = Packet::new(13).string(b"/file");
    assert_eq!(client.status(remove).await, Status::Ok);
}

async fn all_at_once(client: &mut Client, request: impl Fn(u64) -> Packet) {
    let mut framed = BytesMut::new();
    for at in 0..BATCH {
        let packet = request(at).with_id(client.next_id);
        client.next_id += 1;
        framed.put_u32(packet.len() as u32);
        framed.put_slice(&packet);
    }
    client.send_raw(framed.freeze()).await;
    for _ in 0..BATCH {
        client.frame().await.expect("a reply");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_offset_that_is_durable_lies_behind_the_intent_of_every_operation_that_arrives() {
    let operations = number(OPERATIONS, 100_000);
    for (data_ops, operations) in [
        (DataOps::Each, operations),
        (DataOps::Extent, operations / 4),
        (DataOps::Summary, operations / 4),
    ] {
        let (all, early) = measured(&Ruler::default(), data_ops, operations).await;
        assert!(all >= operations, "only {all} operations arrived");
        assert_eq!(early, 0, "of {all} operations so many came early");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_sees_a_disk_that_says_too_early_that_it_has_synced() {
    let ruler = Ruler {
        order: Order::Before,
        ..Ruler::default()
    };
    let (all, early) = measured(&ruler, DataOps::Each, 2_000).await;
    assert!(early > 0, "none of {all} was seen");
}

/// An operation as the backend saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    record: u64,
    session: SessionId,
    operation: OperationId,
}

/// Requests of every kind that changes something, without end.
async fn change_without_end(mut client: Client) {
    for round in 0_u64.. {
        let name = |what: &str| format!("/{what}{round}").into_bytes();
        let handle = client.open(&name("file"), REPLACE).await;
        for at in 0..4 {
            client.request(write(handle, at * 4, b"data")).await;
        }
        client.request(close(handle)).await;
        client
            .request(Packet::new(14).string(&name("folder")).number(0))
            .await;
        let rename = Packet::new(18).string(&name("file")).string(&name("moved"));
        let renamed = client.request(rename).await;
        client.reply(renamed).await;
        let removed = client.request(Packet::new(13).string(&name("moved"))).await;
        client.reply(removed).await;
    }
}

/// Cuts the power after so many operations have arrived; `fate` says of each write that was not synced how much came through.
async fn cut_after(arrivals: usize, fate: impl FnMut(usize) -> usize) {
    let disk = FaultyDisk::new();
    let keys = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 20_000,
        compression_level: None,
        ..Options::default_in(keys.path().join("journal"))
    };
    let journal = Journal::open_on(disk.clone(), options.clone()).unwrap().0;
    let client = client(&journal, DataOps::Each).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let enough = Arc::new(tokio::sync::Notify::new());
    client.memory.observe({
        let (seen, enough) = (Arc::clone(&seen), Arc::clone(&enough));
        move |recorded| {
            let permit = recorded.intent();
            let mut seen = seen.lock().unwrap();
            seen.push(Seen {
                record: recorded.id().0,
                session: permit.requester().session,
                operation: permit.id(),
            });
            if seen.len() >= arrivals {
                enough.notify_one();
            }
        }
    });
    let changing = tokio::spawn(change_without_end(client));
    timeout(PATIENCE, enough.notified()).await.unwrap();
    // First what the backend had seen, so that nothing of it can be younger than the disk.
    let seen = seen.lock().unwrap().clone();
    let rebooted = disk.after_power_cut(fate);
    changing.abort();

    let (after, recovery) = Journal::open_on(rebooted.clone(), options).unwrap();
    after.close().await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    rebooted.copy_to(&copy.path().join("journal")).unwrap();
    let records = testing::records(copy.path());
    let unknown: BTreeSet<_> = recovery
        .unknown
        .iter()
        .map(|(session, operation)| (session.0, operation.0))
        .collect();
    for one in &seen {
        let intent = &records[one.record as usize];
        assert_eq!(intent["event"], "op.intent", "{one:?}");
        assert_eq!(intent["op_id"], one.operation.0, "{one:?}");
        assert_eq!(intent["session_id"], hex::encode(one.session.0));
        let has_outcome = records[..recovery.records as usize]
            .iter()
            .any(|record| record["event"] == "op.outcome" && record["op_id"] == one.operation.0);
        assert_ne!(
            has_outcome,
            unknown.contains(&(one.session.0, one.operation.0)),
            "{one:?} is neither done nor unknown"
        );
    }
    let keys =
        portcullis_journal::tree::key::read_verifier_keys(&keys.path().join("journal.key.pub"));
    let report = portcullis_journal::verify::directory::verify(
        &copy.path().join("journal"),
        keys.unwrap(),
        None,
    );
    let report = report.unwrap();
    assert!(report.is_sound(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_leaves_no_operation_without_its_intent_and_no_torn_record() {
    let seed = number(SEED, fastrand::u64(..));
    let cuts = number(CUTS, 50);
    let mut random = fastrand::Rng::with_seed(seed);
    for cut in 0..cuts {
        let arrivals = random.usize(1..120);
        let mut fates = random.fork();
        let done = tokio::spawn(cut_after(arrivals, move |length| match fates.u8(..3) {
            0 => 0,
            1 => length,
            _ => fates.usize(..=length),
        }));
        assert!(done.await.is_ok(), "cut {cut} of {SEED}={seed}");
    }
}
