//! Servers that announce small limits, answer out of order, and read less than they are asked for.

use super::{
    odd::{Habits, Odd},
    *,
};

suite!(super::subject);

async fn subject() -> Subject {
    let server = Odd::start(Habits {
        data: Some(4096),
        handles: 160,
        shuffles: true,
        short_reads: Some(1500),
        ..Habits::default()
    })
    .await;
    Subject {
        service: Arc::new(SftpService::new(server.settings())),
        directory: Vec::new(),
        disk: Some(server.home.clone()),
        keep: Box::new(server),
    }
}

#[tokio::test]
async fn a_read_that_the_server_cuts_short_is_filled_up_to_the_end_of_the_file() {
    let server = Odd::start(Habits {
        data: Some(4096),
        short_reads: Some(1500),
        shuffles: true,
        ..Habits::default()
    })
    .await;
    let content: Vec<u8> = (0..100_000_u32).map(|number| (number >> 3) as u8).collect();
    std::fs::write(server.home.join("a"), &content).unwrap();
    let client = client(server.settings());
    let handle = client.open("/a", READ).await;
    let read = client.read(handle, 1000, 40_000).await;
    // Only the last part may stay short.
    assert!(read.len() > 40_000 - 4096, "{}", read.len());
    assert!(read == content[1000..1000 + read.len()]);
    let end = client.read(handle, 98_000, 40_000).await;
    assert!(!end.is_empty() && end == content[98_000..98_000 + end.len()]);
    assert!(client.read(handle, 100_000, 40_000).await.is_empty());
    assert!(client.get("/a").await == content);
}

#[tokio::test]
async fn a_server_that_announces_few_handles_is_not_asked_for_one_more_and_serves_again_after_a_close()
 {
    let server = Odd::start(Habits {
        data: Some(32_768),
        handles: 3,
        ..Habits::default()
    })
    .await;
    let client = client(server.settings());
    std::fs::write(server.home.join("a"), "content").unwrap();
    let mut handles = Vec::new();
    for _ in 0..3 {
        handles.push(client.open("/a", READ).await);
    }
    let (kind, message) = message(&client, client.open_operation("/a", READ)).await;
    assert_eq!(kind, ErrorKind::Failure);
    assert!(message.contains("3 open handles"), "{message}");
    for &handle in &handles {
        assert_eq!(client.read(handle, 0, 7).await, "content");
    }
    client.close(handles.remove(0)).await;
    assert_eq!(client.get("/a").await, b"content");
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pipeline_of_writes_passes_through_the_smallest_limits() {
    const CHUNK: usize = 255 * 1024;
    const CHUNKS: usize = 80;
    let server = Odd::start(Habits {
        data: Some(1024),
        ..Habits::default()
    })
    .await;
    let client = client(server.settings());
    let handle = client.open("/a", REPLACE).await;
    let mut writes = Vec::new();
    for number in 0..CHUNKS {
        let write = Operation::Write {
            handle,
            offset: (number * CHUNK) as u64,
            data: vec![number as u8; CHUNK].into(),
        };
        writes.push(client.start(write).await);
    }
    for outcome in futures_util::future::join_all(writes).await {
        outcome.unwrap();
    }
    client.close(handle).await;
    let written = std::fs::read(server.home.join("a")).unwrap();
    assert_eq!(written.len(), CHUNKS * CHUNK);
    assert!(
        written
            .chunks(CHUNK)
            .enumerate()
            .all(|(number, chunk)| chunk.iter().all(|&byte| byte == number as u8))
    );
}
