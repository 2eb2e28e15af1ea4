//! Downloads that jump, end early, or are many.

use super::scripted::{Script, Scripted};
use crate::{
    backend::{ErrorKind, conformance::READ},
    operation::Operation,
};

#[tokio::test]
async fn a_download_that_the_server_cuts_short_is_an_error_and_not_an_end() {
    let server = Scripted::start(Script {
        cuts_downloads_at: Some(5),
        ..Script::default()
    })
    .await;
    server.has("/a", b"0123456789");
    let client = server.client();
    let handle = client.open("/a", READ).await;
    let read = Operation::Read {
        handle,
        offset: 0,
        length: 100,
    };
    let error = client.ask(read).await.unwrap_err();
    assert!(error.message.contains("5 of 10 bytes"), "{error}");
}

#[tokio::test]
async fn a_reader_may_jump_and_reads_a_little_out_of_order_use_one_transfer() {
    let content: Vec<u8> = (0..20_000_000_u32).map(|number| number as u8).collect();
    let server = Scripted::start(Script::default()).await;
    server.has("/a", &content);
    let client = server.client();
    let handle = client.open("/a", READ).await;
    for offset in [0_usize, 64_000, 32_000, 96_000, 18_000_000, 10, 19_999_990] {
        let length = 32_000.min(content.len() - offset);
        let data = client.read(handle, offset as u64, 32_000).await;
        assert!(data == content[offset..offset + length], "at {offset}");
    }
    let transfers = |verb: &str| {
        server
            .commands()
            .iter()
            .filter(|line| line.starts_with(verb))
            .count()
    };
    assert_eq!(transfers("RETR"), 4);
    assert_eq!(transfers("REST"), 3);
    client.close(handle).await;
}

#[tokio::test]
async fn more_downloads_than_connections_take_turns() {
    let server = Scripted::start(Script::default()).await;
    let content = vec![5; 3_000_000];
    let client = server.client();
    let mut handles = Vec::new();
    for number in 0..6 {
        let name = format!("/{number}");
        server.has(&name, &content);
        handles.push(client.open(&name, READ).await);
    }
    for offset in 0..3 {
        for handle in &handles {
            assert_eq!(
                client.read(*handle, offset * 32_000, 32_000).await.len(),
                32_000
            );
        }
    }
}

#[tokio::test]
async fn a_download_that_stops_coming_costs_one_deadline() {
    let server = Scripted::start(Script {
        stalls: true,
        ..Script::default()
    })
    .await;
    server.has("/a", b"0123456789");
    let client = server.client();
    let handle = client.open("/a", READ).await;
    let read = Operation::Read {
        handle,
        offset: 0,
        length: 10,
    };
    assert_eq!(client.refusal(read).await, ErrorKind::TimedOut);
    client.close(handle).await;
}

#[tokio::test]
async fn bytes_are_fetched_before_they_are_asked_for_and_no_more_than_the_window_holds() {
    let server = Scripted::start(Script::default()).await;
    server.has("/a", &vec![3; 64 << 20]);
    let client = server.client();
    let handle = client.open("/a", READ).await;
    assert_eq!(client.read(handle, 0, 32_000).await.len(), 32_000);
    let sent = || server.disk.lock().unwrap().sent;
    super::until("the window to fill", || sent() >= 4 << 20).await;
    // What the sockets hold comes on top.
    assert!(sent() < 32 << 20, "{}", sent());
    client.close(handle).await;
}
