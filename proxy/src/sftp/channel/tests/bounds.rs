//! Clients that ask for much, read little, or do both at once.

use std::time::Instant;

use super::*;
use crate::session::Credit;

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_thousand_reads_whose_replies_nobody_takes_begin_only_as_far_as_their_credit_goes() {
    const LENGTH: u32 = 261_120;
    const READS: u32 = 6000;
    let mut client = Client::start().await;
    client.memory.put(b"big", &vec![7; LENGTH as usize]);
    let handle = client.open(b"/big", READ).await;
    let before = client.memory.arrivals();
    let mut ids = Vec::new();
    for _ in 0..READS {
        ids.push(client.request(read(handle, 0, LENGTH)).await);
    }
    let journal = client.journal.clone();
    until("all intents are on record", || {
        journal.status().durable > u64::from(READS)
    })
    .await;
    // The sink holds two chunks and one is being written: their credit is still held.
    let most = (Budget::READ + Credit::OWN) as u64 / u64::from(LENGTH) + 3;
    let begun = client.memory.arrivals() - before;
    assert!(
        begun <= most,
        "{begun} READs have begun; {most} fit into the credit"
    );
    for id in ids {
        let Reply::Data(data) = client.reply(id).await else {
            panic!("no data");
        };
        assert_eq!(data.len(), LENGTH as usize);
    }
}

#[tokio::test]
async fn a_channel_goes_on_while_its_siblings_hold_the_credit_of_the_session() {
    const LENGTH: u32 = 261_120;
    let mut client = Client::start().await;
    client.memory.put(b"big", &vec![7; LENGTH as usize]);
    let handle = client.open(b"/big", READ).await;
    let _siblings = Arc::clone(&client.budget.read)
        .try_acquire_many_owned(Budget::READ as u32)
        .unwrap();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(client.request(read(handle, 0, LENGTH)).await);
    }
    for id in ids {
        assert!(
            matches!(client.reply(id).await, Reply::Data(data) if data.len() == LENGTH as usize)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_are_busy_and_neither_stops_the_other() {
    const CHUNK: usize = 65_536;
    const COUNT: u64 = 600;
    let mut client = Client::start().await;
    client.memory.put(b"down", &vec![1; CHUNK]);
    let down = client.open(b"/down", READ).await;
    let up = client.open(b"/up", REPLACE).await;
    let sender = client.to_server.clone().unwrap();
    let sending = tokio::spawn(async move {
        let chunk = vec![2; CHUNK];
        for at in 0..COUNT {
            for (packet, id) in [
                (read(down, 0, CHUNK as u32), 10_000 + at as u32),
                (write(up, at * CHUNK as u64, &chunk), 20_000 + at as u32),
            ] {
                let packet = packet.with_id(id);
                let mut framed = (packet.len() as u32).to_be_bytes().to_vec();
                framed.extend(packet);
                // As small as a network may cut it.
                for piece in framed.chunks(16_384) {
                    sender.send(Bytes::copy_from_slice(piece)).await.unwrap();
                }
            }
        }
    });
    for at in 0..COUNT as u32 {
        assert_eq!(client.reply(20_000 + at).await, Reply::Status(Status::Ok));
        assert!(
            matches!(client.reply(10_000 + at).await, Reply::Data(data) if data.len() == CHUNK)
        );
    }
    sending.await.unwrap();
    assert_eq!(client.status(close(up)).await, Status::Ok);
    assert_eq!(
        client.memory.file(b"up").unwrap().len() as u64,
        COUNT * CHUNK as u64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_a_backend_does_not_take_stop_the_reading_and_go_on_with_it() {
    const CHUNK: usize = 261_120;
    let mut client = Client::start().await;
    let handle = client.open(b"/slow", REPLACE).await;
    client.memory.pause();
    let chunk = vec![3; CHUNK];
    let mut ids = Vec::new();
    let mut sent = 0;
    loop {
        let id = client.next_id;
        let packet = write(handle, sent * CHUNK as u64, &chunk).with_id(id);
        let mut framed = (packet.len() as u32).to_be_bytes().to_vec();
        framed.extend(packet);
        let sender = client.to_server.clone().unwrap();
        // The pipe holds two chunks: it stays full once the engine doesn't read.
        let stuck = timeout(Duration::from_secs(2), sender.send(framed.into())).await;
        if stuck.is_err() {
            break;
        }
        client.next_id += 1;
        ids.push(id);
        sent += 1;
    }
    let taken = sent * CHUNK as u64;
    let most = (Budget::WRITE + Credit::OWN) as u64;
    assert!(
        taken > most - 2 * CHUNK as u64,
        "stopped after {taken} bytes"
    );
    assert!(taken <= most + 4 * CHUNK as u64, "took {taken} bytes");
    client.memory.resume();
    for id in ids {
        assert_eq!(client.reply(id).await, Reply::Status(Status::Ok));
    }
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    assert_eq!(client.memory.file(b"slow").unwrap().len() as u64, taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_completes_while_the_backend_of_a_sibling_stands_still() {
    const CHUNK: usize = 261_120;
    let mut hung = Client::start().await;
    let mut sibling = Client::beside(&hung).await;
    let handle = hung.open(b"/slow", REPLACE).await;
    hung.memory.pause();
    let chunk = vec![3; CHUNK];
    // More than the session's part and its own: the channel stops reading, and its sender waits.
    let count = (Budget::WRITE + Credit::OWN) / CHUNK + 2;
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(
            hung.request(write(handle, (number * CHUNK) as u64, &chunk))
                .await,
        );
    }
    let budget = Arc::clone(&hung.budget.write);
    until("nothing is left for others", || {
        budget.available_permits() < CHUNK
    })
    .await;

    let upload = sibling.open(b"/quick", REPLACE).await;
    let mut writes = Vec::new();
    for number in 0..40 {
        let at = (number * CHUNK) as u64;
        writes.push(sibling.request(write(upload, at, &chunk)).await);
    }
    for id in writes {
        assert_eq!(sibling.reply(id).await, Reply::Status(Status::Ok));
    }
    assert_eq!(sibling.status(close(upload)).await, Status::Ok);
    let published = sibling.memory.file(b"quick").unwrap();
    assert_eq!(published.len(), 40 * CHUNK);

    hung.memory.resume();
    for id in ids {
        assert_eq!(hung.reply(id).await, Reply::Status(Status::Ok));
    }
    assert_eq!(hung.status(close(handle)).await, Status::Ok);
}

#[tokio::test]
async fn reads_that_wait_for_credit_do_not_hold_writes_on_another_handle() {
    const LENGTH: u32 = 261_120;
    let mut client = Client::start().await;
    client.memory.put(b"big", &vec![7; LENGTH as usize]);
    let reading = client.open(b"/big", READ).await;
    let writing = client.open(b"/up", REPLACE).await;
    for _ in 0..200 {
        client.request(read(reading, 0, LENGTH)).await;
    }
    client.request(write(writing, 0, b"passes")).await;
    client.request(close(writing)).await;
    let memory = client.memory.clone();
    until("the upload is published", || memory.file(b"up").is_some()).await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_replies_is_cut_off_at_the_limit() {
    let client = Client::start().await;
    let request = stat(b"/");
    let mut framed = BytesMut::new();
    for id in 0..1000 {
        let packet = request.with_id(id);
        framed.put_u32(packet.len() as u32);
        framed.put_slice(&packet);
    }
    let framed = framed.freeze();
    let sender = client.to_server.clone().unwrap();
    // Each reply is some thirty bytes; the writer gathers a few chunks of them beyond the limit.
    let mut sent = 0;
    while timeout(PATIENCE, sender.send(framed.clone()))
        .await
        .unwrap()
        .is_ok()
    {
        sent += 1;
        assert!(sent < 40, "not cut off");
    }
    drop(sender);
    let left = client.finish().await;
    assert_eq!(left.ended, Ended::TooManyRequests);
    assert!(left.refusals().contains(&"too_many_requests"));
}

#[tokio::test]
async fn many_files_are_open_at_once_and_one_too_many_is_refused() {
    let mut client = Client::start().await;
    let mut handles = Vec::new();
    for number in 0..crate::operation::MAX_OPEN_HANDLES {
        let name = format!("/{number}");
        client.memory.put(&name.as_bytes()[1..], name.as_bytes());
        handles.push(client.open(name.as_bytes(), READ).await);
    }
    assert_eq!(client.status(open(b"/0", READ)).await, Status::Failure);
    for (number, handle) in handles.iter().enumerate() {
        let expected = Bytes::from(format!("/{number}"));
        assert_eq!(
            client.ask(read(*handle, 0, 100)).await,
            Reply::Data(expected)
        );
    }
    assert_eq!(client.status(close(handles[0])).await, Status::Ok);
    client.open(b"/0", READ).await;
    let left = client.leave().await;
    assert_eq!(left.refusals(), ["too_many_handles"]);
}

#[tokio::test]
async fn hundreds_of_requests_are_at_the_backend_at_the_same_time() {
    let mut client = Client::start().await;
    client.memory.put(b"a", b"x");
    let handle = client.open(b"/a", READ).await;
    let before = client.memory.arrivals();
    client.memory.pause();
    for _ in 0..200 {
        client.request(read(handle, 0, 1000)).await;
    }
    let memory = client.memory.clone();
    until("all have arrived", || memory.arrivals() == before + 200).await;
    client.memory.resume();
}
