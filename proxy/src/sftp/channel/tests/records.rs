//! What stands in the journal, and that nothing happens without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use portcullis_journal::{Options, disk::fault::FaultyDisk};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::backend::failover::{FailoverService, Member, Probe};
use crate::operation::Operation;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_intent_is_durable_before_its_backend_sees_the_operation() {
    let mut client = Client::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let early = Arc::new(AtomicU64::new(0));
    client.memory.observe({
        let (journal, seen, early) = (
            client.journal.clone(),
            Arc::clone(&seen),
            Arc::clone(&early),
        );
        move |recorded| {
            if journal.status().durable <= recorded.id().0 {
                early.fetch_add(1, Ordering::SeqCst);
            }
            seen.lock()
                .unwrap()
                .push((recorded.id().0, recorded.intent().id().0));
        }
    });
    for file in 0..20 {
        let name = format!("/{file}");
        let handle = client.open(name.as_bytes(), REPLACE).await;
        let mut ids = Vec::new();
        for at in 0..100 {
            ids.push(client.request(write(handle, at * 4, b"abcd")).await);
        }
        ids.push(client.request(close(handle)).await);
        for id in ids {
            assert_eq!(client.reply(id).await, Reply::Status(Status::Ok));
        }
        let handle = client.open(name.as_bytes(), READ).await;
        let ids = {
            let mut ids = Vec::new();
            for at in 0..100 {
                ids.push(client.request(read(handle, at * 4, 4)).await);
            }
            ids
        };
        for id in ids {
            assert!(matches!(client.reply(id).await, Reply::Data(_)));
        }
    }
    let left = client.leave().await;
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 4000, "{}", seen.len());
    assert_eq!(
        early.load(Ordering::SeqCst),
        0,
        "operations without a durable intent"
    );
    for (record, operation) in seen.iter() {
        let intent = &left.records[usize::try_from(*record).unwrap()];
        assert_eq!(intent["event"], "op.intent");
        assert_eq!(intent["op_id"], *operation);
    }
}

#[tokio::test]
async fn while_the_journal_cannot_be_written_nothing_reaches_the_backend_and_then_service_returns()
{
    let disk = FaultyDisk::new();
    let on_disk = disk.clone();
    let mut client = Client::with(vec![testing::everything("/", "memory")], move |directory| {
        let options = Options::default_in(directory.join("journal"));
        Journal::open_on(on_disk, options).unwrap().0
    })
    .await;
    client.put(b"/before", b"x").await;
    let handle = client.open(b"/during", REPLACE).await;
    let before = client.memory.arrivals();
    disk.set_writes_fail(true);
    for refused in [
        open(b"/a", REPLACE),
        write(handle, 0, b"lost"),
        close(handle),
        stat(b"/before"),
        Packet::new(13).string(b"/before"),
        Packet::new(18).string(b"/before").string(b"/after"),
        Packet::new(11).string(b"/"),
    ] {
        assert_eq!(
            client.status(refused.clone()).await,
            Status::Failure,
            "{refused:?}"
        );
    }
    assert_eq!(client.memory.arrivals(), before);
    assert_eq!(client.memory.paths(), [b"before".to_vec()]);
    disk.set_writes_fail(false);
    // The handle whose CLOSE was refused is still open.
    while client.status(write(handle, 0, b"kept")).await != Status::Ok {}
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(client.memory.file(b"during").unwrap(), b"kept");
}

#[tokio::test]
async fn a_change_whose_outcome_cannot_be_recorded_is_not_acknowledged() {
    let disk = FaultyDisk::new();
    let on_disk = disk.clone();
    let mut client = Client::with(vec![testing::everything("/", "memory")], move |directory| {
        let options = Options::default_in(directory.join("journal"));
        Journal::open_on(on_disk, options).unwrap().0
    })
    .await;
    client.memory.put(b"a", b"x");
    client.memory.observe(move |recorded| {
        if matches!(recorded.intent().operation(), Operation::Remove { .. }) {
            disk.set_writes_fail(true);
        }
    });
    assert_eq!(
        client.status(Packet::new(13).string(b"/a")).await,
        Status::Failure
    );
    assert_eq!(client.memory.file(b"a"), None);
}

#[tokio::test]
async fn each_request_has_an_intent_and_an_outcome_and_each_refusal_a_record() {
    let mut client = Client::start().await;
    client.put(b"/a", b"x").await;
    client.status(Packet::new(13).string(b"/missing")).await;
    client.status(Packet::extended("copy-data")).await;
    client.ask(Packet::new(16).string(b".")).await;
    let left = client.leave().await;
    let intents: Vec<_> = left.of("op.intent");
    let asked: Vec<_> = intents
        .iter()
        .map(|record| record["sftp_op"].as_str().unwrap())
        .collect();
    assert_eq!(asked, ["open", "write", "close", "remove", "realpath"]);
    let ended: BTreeMap<u64, &Value> = left
        .of("op.outcome")
        .into_iter()
        .map(|record| (record["op_id"].as_u64().unwrap(), record))
        .collect();
    let statuses: Vec<_> = intents
        .iter()
        .map(|intent| {
            ended[&intent["op_id"].as_u64().unwrap()]["status"]
                .as_str()
                .unwrap()
        })
        .collect();
    let ok = Status::Ok.name();
    assert_eq!(statuses, [ok, ok, ok, Status::NoSuchFile.name(), ok]);
    assert_eq!(left.refusals(), ["disabled_extension"]);
    assert_eq!(left.of("op.denied")[0]["evidence"], "copy-data");
    assert_eq!(intents[0]["path"], "/a");
    assert_eq!(intents[0]["flags"], "write,create,truncate");
    assert_eq!(intents[1]["handle_id"], intents[0]["handle_id"]);
    assert_eq!(intents[1]["offset"], 0);
    assert_eq!(intents[1]["len"], 1);
    for record in &intents {
        assert_eq!(record["user"]["name"], "alice");
        assert_eq!(record["session_id"], intents[0]["session_id"]);
    }
}

fn hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

#[tokio::test]
async fn a_transfer_is_summed_up_with_its_digest() {
    let mut client = Client::start().await;
    let content: Vec<u8> = (0..100_000_u32).map(|byte| (byte * 7) as u8).collect();
    let handle = client.open(b"/a", REPLACE).await;
    let mut ids = Vec::new();
    for (at, chunk) in content.chunks(1000).enumerate() {
        ids.push(client.request(write(handle, at as u64 * 1000, chunk)).await);
    }
    ids.push(client.request(close(handle)).await);
    for id in ids {
        client.reply(id).await;
    }
    let handle = client.open(b"/a", READ).await;
    let mut ids = Vec::new();
    for at in 0..=100 {
        ids.push(client.request(read(handle, at * 1000, 1000)).await);
    }
    for id in ids {
        client.reply(id).await;
    }
    client.status(close(handle)).await;
    let left = client.leave().await;
    let summaries = left.of("xfer.summary");
    assert_eq!(summaries.len(), 2);
    for (summary, direction) in summaries.iter().zip(["upload", "download"]) {
        assert_eq!(summary["direction"], direction);
        assert_eq!(summary["path"], "/a");
        assert_eq!(summary["bytes"], 100_000);
        assert_eq!(summary["sha256"], hash(&content));
        assert_eq!(summary["sha256_source"], "stream");
        assert_eq!(summary["outcome"], "success");
    }
    assert_eq!(summaries[1]["ranges_complete"], true);
}

#[tokio::test]
async fn an_upload_out_of_order_or_onto_old_bytes_has_the_digest_of_what_was_published() {
    let mut client = Client::start().await;
    client.put(b"/old", b"0123456789").await;
    let out_of_order = client.open(b"/a", REPLACE).await;
    client.status(write(out_of_order, 5, b"world")).await;
    client.status(write(out_of_order, 0, b"hello")).await;
    client.status(close(out_of_order)).await;
    let onto_old = client.open(b"/old", WRITE).await;
    client.status(write(onto_old, 0, b"x")).await;
    client.status(close(onto_old)).await;
    let left = client.leave().await;
    let summaries = left.of("xfer.summary");
    for (summary, content) in summaries[1..]
        .iter()
        .zip([&b"helloworld"[..], b"x123456789"])
    {
        assert_eq!(summary["sha256"], hash(content));
        assert_eq!(summary["sha256_source"], "reread");
    }
    assert_eq!(summaries.len(), 3);
}

#[tokio::test]
async fn a_transfer_in_part_or_without_its_close_has_no_digest_and_says_why() {
    let mut client = Client::start().await;
    client.put(b"/old", b"0123456789").await;
    let partly = client.open(b"/old", READ).await;
    client.ask(read(partly, 4, 2)).await;
    client.status(close(partly)).await;
    let unclosed = client.open(b"/a", REPLACE).await;
    client.status(write(unclosed, 5, b"world")).await;
    let appended = client
        .open(b"/b", WRITE | CREATE | APPEND | EXCLUSIVE)
        .await;
    client.status(write(appended, 0, b"hello")).await;
    let left = client.leave().await;
    let summaries = &left.of("xfer.summary")[1..];
    let reasons: Vec<_> = summaries
        .iter()
        .map(|summary| {
            assert_eq!(summary["sha256"], Value::Null);
            assert_eq!(summary["sha256_source"], Value::Null);
            summary["sha256_reason"].as_str().unwrap()
        })
        .collect();
    assert_eq!(
        reasons,
        ["not_sequential", "not_sequential", "not_from_nothing"]
    );
    assert_eq!(summaries[0]["ranges_complete"], false);
}

const WRITE: u32 = 0x02;
const APPEND: u32 = 0x04;
const CREATE: u32 = 0x08;
const EXCLUSIVE: u32 = 0x20;

#[tokio::test]
async fn operation_ids_are_unique_and_every_refusal_names_who() {
    let mut client = Client::start().await;
    for _ in 0..100 {
        client.ask(stat(b"/")).await;
        client.status(stat(b"/\0")).await;
    }
    let left = client.leave().await;
    let ids: BTreeSet<u64> = left
        .records
        .iter()
        .filter(|record| record["event"] != "op.outcome")
        .filter_map(|record| record["op_id"].as_u64())
        .collect();
    assert_eq!(ids.len(), 200);
    for denied in left.of("op.denied") {
        assert_eq!(denied["user"]["name"], "alice");
        assert_eq!(denied["outcome"], "deny");
    }
}

#[tokio::test]
async fn the_member_that_a_session_was_given_stands_in_the_records_of_what_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let member = |name: &str, memory: &Memory| {
        // Healthy until it is looked for.
        let probe = Probe::Directory(directory.path().join(name));
        Member::new(name, Arc::new(memory.clone()), probe)
    };
    let (first, second) = (Memory::new(), Memory::new());
    first.put(b"a", b"1");
    let pair = FailoverService::new("pair", vec![member("one", &first), member("two", &second)]);
    let services = HashMap::from([("pair".to_owned(), Arc::new(pair) as _)]);
    let mut mount = testing::everything("/in", "pair");
    mount.allowance.read_rate = std::num::NonZeroU64::new(1 << 30);
    let mut client = Client::serving(
        services,
        vec![mount],
        Extensions::default(),
        testing::journal,
    )
    .greeted()
    .await;
    let handle = client.open(b"/in/a", READ).await;
    client.ask(read(handle, 0, 10)).await;
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(client.status(stat(b"/in/b")).await, Status::NoSuchFile);
    client.ask(stat(b"/")).await;
    let left = client.leave().await;
    let members: Vec<_> = left
        .of("op.outcome")
        .into_iter()
        .map(|record| record["member"].as_str())
        .collect();
    assert_eq!(members, [Some("one"), None, None, Some("one"), None]);
}
