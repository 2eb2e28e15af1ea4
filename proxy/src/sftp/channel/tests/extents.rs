//! READs and WRITEs that are announced and concluded together.

use portcullis_journal::{Options, disk::fault::FaultyDisk};

use super::*;
use crate::{
    backend::{BackendError, ErrorKind, Origin},
    policy::DataOps,
};

async fn client(data_ops: DataOps) -> Client {
    let mounts = vec![testing::everything("/", "memory")];
    Client::adjusted(mounts, |gate| gate.with_data_ops(data_ops))
        .greeted()
        .await
}

/// Intents and outcomes of READs and WRITEs, paired: each intent has one outcome.
fn extents(left: &Left) -> Vec<(&Value, &Value)> {
    let outcomes = left.of("op.outcome");
    left.of("op.intent")
        .into_iter()
        .filter(|intent| intent["sftp_op"] == "read" || intent["sftp_op"] == "write")
        .map(|intent| {
            let mut ends = outcomes
                .iter()
                .filter(|outcome| outcome["op_id"] == intent["op_id"]);
            let end = ends.next().expect("an intent has an outcome");
            assert!(ends.next().is_none(), "an intent has one outcome");
            (intent, *end)
        })
        .collect()
}

/// Uploads eight bytes in two requests and reads them again.
async fn there_and_back(client: &mut Client) {
    let handle = client.open(b"/a", REPLACE).await;
    assert_eq!(client.status(write(handle, 0, b"01234")).await, Status::Ok);
    assert_eq!(client.status(write(handle, 5, b"567")).await, Status::Ok);
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    let handle = client.open(b"/a", READ).await;
    for at in 0..4 {
        let read = client.ask(read(handle, at * 2, 2)).await;
        assert!(matches!(read, Reply::Data(data) if data.len() == 2));
    }
    assert_eq!(client.status(read(handle, 8, 2)).await, Status::Eof);
    assert_eq!(client.status(close(handle)).await, Status::Ok);
}

#[tokio::test]
async fn the_requests_of_an_extent_have_one_intent_and_one_outcome() {
    for (data_ops, records, length) in [
        (DataOps::Each, 7, Value::from(5)),
        (DataOps::Extent, 2, DataOps::EXTENT.into()),
        (DataOps::Summary, 2, Value::Null),
    ] {
        let mut client = client(data_ops).await;
        there_and_back(&mut client).await;
        let left = client.leave().await;
        let extents = extents(&left);
        assert_eq!(extents.len(), records, "{data_ops:?}");
        let (intent, outcome) = extents[0];
        assert_eq!(intent["len"], length, "{data_ops:?}");
        if data_ops == DataOps::Each {
            assert_eq!(intent["extent"], Value::Null);
            assert_eq!(outcome["requests"], Value::Null);
            continue;
        }
        assert_eq!(intent["extent"], true);
        let of = |outcome: &Value| {
            ["bytes", "requests", "offset", "len"].map(|name| outcome[name].as_u64())
        };
        assert_eq!(of(outcome), [Some(8), Some(2), Some(0), Some(8)]);
        assert_eq!(of(extents[1].1), [Some(8), Some(5), Some(0), Some(8)]);
        for (_, outcome) in extents {
            assert_eq!(outcome["outcome"], "success");
            assert_eq!(outcome["failed"], Value::Null);
        }
        let bytes: Vec<_> = left
            .of("xfer.summary")
            .into_iter()
            .map(|record| record["bytes"].as_u64())
            .collect();
        assert_eq!(bytes, [Some(8), Some(8)], "the summaries are as ever");
    }
}

#[tokio::test]
async fn an_extent_ends_where_it_says_and_the_next_byte_begins_another() {
    let mut client = client(DataOps::Extent).await;
    let handle = client.open(b"/a", REPLACE).await;
    let end = DataOps::EXTENT;
    for (offset, expected) in [(0, 1), (end - 4, 1), (end - 3, 2), (2 * end - 8, 2), (5, 3)] {
        assert_eq!(
            client.status(write(handle, offset, b"data")).await,
            Status::Ok
        );
        let records = testing::records(client.directory.path());
        let writes = records
            .iter()
            .filter(|record| record["event"] == "op.intent")
            .filter(|record| record["body"]["sftp_op"] == "write");
        assert_eq!(writes.count(), expected, "after a WRITE at {offset}");
    }
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    let left = client.leave().await;
    let bytes: Vec<_> = extents(&left)
        .into_iter()
        .map(|(_, outcome)| outcome["bytes"].as_u64())
        .collect();
    assert_eq!(bytes, [Some(8), Some(8), Some(4)]);
}

#[tokio::test]
async fn what_failed_in_an_extent_is_counted_and_named() {
    let mut client = client(DataOps::Extent).await;
    client.memory.put(b"a", b"content");
    let handle = client.open(b"/a", READ).await;
    client.ask(read(handle, 0, 4)).await;
    client.memory.fail_with(Some(BackendError::new(
        ErrorKind::Unavailable,
        Origin::Backend,
        "the server is gone".to_owned(),
    )));
    assert_eq!(client.status(read(handle, 4, 4)).await, Status::Failure);
    client.memory.fail_with(None);
    client.status(close(handle)).await;
    let left = client.leave().await;
    let (_, outcome) = extents(&left)[0];
    assert_eq!(outcome["outcome"], "failure");
    assert_eq!(outcome["reason"], "unavailable");
    assert_eq!(outcome["error"], "the server is gone");
    assert_eq!(
        ["requests", "failed", "bytes"].map(|name| outcome[name].as_u64()),
        [Some(2), Some(1), Some(4)]
    );
}

#[tokio::test]
async fn what_was_under_way_when_the_channel_ended_is_unknown() {
    let mut client = client(DataOps::Extent).await;
    client.memory.put(b"a", b"content");
    let handle = client.open(b"/a", READ).await;
    client.ask(read(handle, 0, 4)).await;
    client.memory.pause();
    let arrived = client.memory.arrivals();
    client.request(read(handle, 0, 4)).await;
    while client.memory.arrivals() == arrived {
        tokio::task::yield_now().await;
    }
    client.cancel.cancel();
    let left = client.finish().await;
    let (_, outcome) = extents(&left)[0];
    assert_eq!(outcome["outcome"], "unknown");
    assert_eq!(
        ["requests", "unknown", "bytes"].map(|name| outcome[name].as_u64()),
        [Some(2), Some(1), Some(4)]
    );
}

#[tokio::test]
async fn without_a_record_of_the_extent_nothing_is_forwarded_and_then_service_returns() {
    let disk = FaultyDisk::new();
    let on_disk = disk.clone();
    let memory = Memory::new();
    let services = HashMap::from([("memory".to_owned(), Arc::new(memory.clone()) as _)]);
    let mut client = Client::behind(
        Budget::default(),
        services,
        vec![testing::everything("/", "memory")],
        Extensions::default(),
        move |directory| {
            let options = Options::default_in(directory.join("journal"));
            Journal::open_on(on_disk, options).unwrap().0
        },
        |gate| gate.with_data_ops(DataOps::Extent),
    )
    .greeted()
    .await;
    let handle = client.open(b"/a", REPLACE).await;
    let before = memory.arrivals();
    disk.set_writes_fail(true);
    let refused = [
        client.request(write(handle, 0, b"lost")).await,
        client.request(write(handle, 4, b"lost")).await,
    ];
    for id in refused {
        assert_eq!(client.reply(id).await, Reply::Status(Status::Failure));
    }
    assert_eq!(memory.arrivals(), before);
    disk.set_writes_fail(false);
    while client.status(write(handle, 0, b"kept")).await != Status::Ok {}
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(memory.file(b"a").unwrap(), b"kept");
}
