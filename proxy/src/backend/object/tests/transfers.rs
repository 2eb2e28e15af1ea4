//! Uploads in parts, downloads in ranges.

use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};

use super::{
    client, content, directory,
    front::{Fate, Front, first},
    server, session, settings,
};
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, WRITE},
    },
    operation::{Access, HandleId, Operation, Outcome},
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 255 * 1024;

fn writes(handle: HandleId, content: &[u8]) -> Vec<Operation> {
    content
        .chunks(CHUNK)
        .enumerate()
        .map(|(number, data)| Operation::Write {
            handle,
            offset: (number * CHUNK) as u64,
            data: data.to_vec().into(),
        })
        .collect()
}

async fn write_all(client: &Client, operations: Vec<Operation>) {
    let mut started = Vec::new();
    for operation in operations {
        started.push(client.start(operation).await);
    }
    for outcome in join_all(started).await {
        assert_eq!(outcome.unwrap(), Outcome::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_goes_in_parts_and_appears_whole_at_close() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    let content = content(20 * MIB + 17);
    let handle = client.open("/big", REPLACE).await;
    let mut operations = writes(handle, &content);
    // Neighbours in the wrong order, as clients with several writers send them.
    for pair in operations.chunks_mut(2) {
        pair.reverse();
    }
    write_all(&client, operations).await;
    assert!(client.is_missing("/big").await);
    client.close(handle).await;
    assert_eq!(
        client.stat("/big").await.unwrap().size,
        Some(content.len() as u64)
    );
    assert!(client.get("/big").await == content);
    assert_eq!(front.count("PUT", "partNumber="), 3, "8, 8 and 4 MiB");
    assert_eq!(front.count("POST", "uploadId="), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_upload_is_one_request_beside_the_look_at_what_stands_there() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    client.put("/small", "x").await;
    assert_eq!(front.count("PUT", "/small"), 1);
    assert_eq!(front.count("POST", ""), 0);
    assert!(front.count("", "") <= 3, "HEAD, LIST, PUT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_with_a_gap_is_refused_and_its_parts_are_dropped() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    let handle = client.open("/gap", REPLACE).await;
    write_all(&client, writes(handle, &content(9 * MIB))).await;
    client
        .write(handle, 10 * MIB as u64, "behind the gap")
        .await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failure);
    assert!(
        error
            .message
            .contains("bytes 9437184 to 10485760 were never written"),
        "{error}"
    );
    assert!(client.is_missing("/gap").await);
    assert_eq!(front.count("DELETE", "uploadId="), 1);
    assert_eq!(front.count("POST", "uploadId="), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_parts_is_dropped_with_its_session() {
    let front = Front::start(|_| Fate::HandOn).await;
    let place = directory();
    let client = session(&settings(front.endpoint.clone()), &place);
    let handle = client.open("/half", REPLACE).await;
    write_all(&client, writes(handle, &content(9 * MIB))).await;
    client.end().await;
    assert_eq!(front.count("DELETE", "uploadId="), 1);
    let other = session(&settings(server().await.endpoint()), &place);
    assert!(other.is_missing("/half").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_upload_in_parts_leaves_a_file_alone_that_appeared_in_the_last_moment() {
    // The look before the completion is told that there is nothing: only the condition of the completion is left.
    let front = Front::start(|seen| {
        if seen.is("HEAD", "/late") {
            Fate::Refuse(404, "")
        } else {
            Fate::HandOn
        }
    })
    .await;
    let place = directory();
    let client = session(&settings(front.endpoint.clone()), &place);
    let other = session(&settings(server().await.endpoint()), &place);
    let exclusive = Access {
        exclusive: true,
        ..REPLACE
    };
    for size in [9 * MIB, 10] {
        let handle = client.open("/late", exclusive).await;
        write_all(&client, writes(handle, &content(size))).await;
        other.put("/late", "early").await;
        assert_eq!(
            client.refusal(Operation::Close { handle }).await,
            ErrorKind::AlreadyExists
        );
        assert_eq!(other.get("/late").await, b"early");
        other
            .done(Operation::Remove {
                path: crate::path::VirtualPath::clean(b"/late").unwrap(),
            })
            .await;
    }
    assert_eq!(front.count("DELETE", "uploadId="), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seventeenth_upload_of_a_session_waits_for_a_close() {
    let client = client().await;
    let mut handles = Vec::new();
    for number in 0..16 {
        handles.push(client.open(format!("/{number}"), REPLACE).await);
    }
    let refused = client.refusal(client.open_operation("/16", REPLACE)).await;
    assert_eq!(refused, ErrorKind::Failure);
    client.close(handles.pop().unwrap()).await;
    client.put("/16", "x").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_takes_a_few_large_ranges_and_not_one_for_each_read() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    let content = content(9 * MIB + 5);
    client.put("/big", content.clone()).await;
    let handle = client.open("/big", READ).await;
    let mut reads = Vec::new();
    let length = 32 * 1024;
    for offset in (0..content.len()).step_by(length) {
        let read = Operation::Read {
            handle,
            offset: offset as u64,
            length: length as u32,
        };
        reads.push(client.start(read).await);
    }
    let mut received = Vec::new();
    for outcome in join_all(reads).await {
        let Outcome::Data(data) = outcome.unwrap() else {
            panic!("READ within the file gave no data");
        };
        received.extend_from_slice(&data);
    }
    assert!(received == content);
    assert_eq!(front.count("GET", "/big"), 3, "4, 4 and 1 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_files_than_are_fetched_ahead_are_read_side_by_side() {
    let client = client().await;
    let content = content(5 * MIB);
    client.put("/big", content.clone()).await;
    let mut handles = Vec::new();
    for _ in 0..40 {
        handles.push(client.open("/big", READ).await);
    }
    // The last ones, which have no place, first: nobody waits for what another holds.
    for handle in handles.into_iter().rev() {
        let mut received = 0;
        while received < content.len() {
            let data = client.read(handle, received as u64, 255 * 1024).await;
            assert!(content[received..].starts_with(&data));
            received += data.len();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_at_any_offset_bring_what_stands_there() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    let content = content(13 * MIB);
    client.put("/big", content.clone()).await;
    let handle = client.open("/big", READ).await;
    let end = content.len();
    for (offset, length) in [
        (0, 10),
        (10, 100_000),
        // Across the border of two ranges, behind, ahead, far behind, to the end.
        (4 * MIB - 10, 20),
        (4 * MIB - 30, 50_000),
        (8 * MIB, 1000),
        (12 * MIB, 200_000),
        (5, 1),
        (12 * MIB + 200_000, 255 * 1024),
        (1000, 2000),
        (3000, 2000),
        (end - 1, 100),
        (4 * MIB - 1, 2),
    ] {
        let data = client.read(handle, offset as u64, length as u32).await;
        let expected = &content[offset..end.min(offset + length)];
        assert!(data == expected, "{length} bytes at {offset}");
    }
    assert_eq!(client.read(handle, end as u64, 1).await, "");
    // What a jump asks for is what is fetched.
    let alone = client.open("/big", READ).await;
    let before = front.count("GET", "/big");
    client.read(alone, 11 * MIB as u64, 100).await;
    assert_eq!(front.count("GET", "/big"), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_while_it_is_read_is_an_error_and_not_a_mixture() {
    let client = client().await;
    client.put("/a", vec![1; 9 * MIB]).await;
    let handle = client.open("/a", READ).await;
    assert_eq!(client.read(handle, 0, 3).await, vec![1; 3]);
    client.put("/a", vec![2; 9 * MIB]).await;
    let error = client
        .ask(Operation::Read {
            handle,
            offset: 8 * MIB as u64,
            length: 3,
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failure);
    assert!(
        error.message.contains("replaced while it was read"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_written_in_order_has_a_digest_of_what_was_published() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    let swapped = |handle, content: &[u8]| {
        let mut operations = writes(handle, content);
        for pair in operations.chunks_mut(2) {
            pair.reverse();
        }
        operations
    };
    // One PUT, and parts: those are read again.
    for (name, size, read_again) in [("/small", MIB, 0), ("/big", 9 * MIB, 1)] {
        let content = content(size);
        let sha256: [u8; 32] = Sha256::digest(&content).into();
        let gets = || front.count("GET", &format!("{name} "));
        let handle = client.open(name, REPLACE).await;
        write_all(&client, swapped(handle, &content)).await;
        assert_eq!(client.close_digested(handle).await, Some(sha256), "{name}");
        assert_eq!(gets(), read_again, "{name}");
        // What passed through in order is digested there.
        let handle = client.open(name, REPLACE).await;
        write_all(&client, writes(handle, &content)).await;
        assert_eq!(client.close_digested(handle).await, None, "{name}");
        assert_eq!(gets(), read_again, "{name}");
    }
    // It could continue something, as far as the gateway knows: digested on the way here.
    let content = content(9 * MIB);
    let access = Access {
        create: true,
        ..WRITE
    };
    let handle = client.open("/new", access).await;
    write_all(&client, swapped(handle, &content)).await;
    let sha256: [u8; 32] = Sha256::digest(&content).into();
    assert_eq!(client.close_digested(handle).await, Some(sha256));
    assert_eq!(front.count("GET", "/new "), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_cannot_be_read_again_is_published_without_a_digest() {
    let front = Front::start(first(usize::MAX, "GET", "/big ", Fate::Refuse(412, ""))).await;
    let place = directory();
    let client = session(&settings(front.endpoint.clone()), &place);
    let content = content(9 * MIB);
    let handle = client.open("/big", REPLACE).await;
    let mut operations = writes(handle, &content);
    operations.swap(0, 1);
    write_all(&client, operations).await;
    assert_eq!(client.close_digested(handle).await, None);
    let other = session(&settings(server().await.endpoint()), &place);
    assert!(other.get("/big").await == content);
}
