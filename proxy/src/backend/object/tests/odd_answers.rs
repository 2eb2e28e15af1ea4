//! Answers that are late, short, cut, or not those of the file that was asked for. Each ends in the right bytes or in an error.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{
    content, directory,
    front::{Fate, Front, Seen, first},
    server, session, settings,
};
use crate::{
    backend::{
        BackendError, ErrorKind,
        conformance::{Client, READ, REPLACE},
    },
    operation::{Operation, Outcome},
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 255 * 1024;

/// A session through a front, and one without it in the same directory.
async fn behind(
    seconds: u64,
    rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static,
) -> (Front, Client, Client) {
    let front = Front::start(rule).await;
    let place = directory();
    let mut settings = settings(front.endpoint.clone());
    settings.timeout = Duration::from_secs(seconds);
    let client = session(&settings, &place);
    settings.endpoint = server().await.endpoint();
    (front, client, session(&settings, &place))
}

async fn upload(client: &Client, name: &str, content: &[u8]) -> Result<Outcome, BackendError> {
    let handle = client.open(name, REPLACE).await;
    for (number, data) in content.chunks(CHUNK).enumerate() {
        let write = Operation::Write {
            handle,
            offset: (number * CHUNK) as u64,
            data: data.to_vec().into(),
        };
        client.ask(write).await?;
    }
    client.ask(Operation::Close { handle }).await
}

/// What a client has read before the first error, if there is one.
async fn download(client: &Client, name: &str) -> (Vec<u8>, Option<BackendError>) {
    let open = client.open_operation(name, READ);
    let handle = crate::backend::conformance::opened_handle(&open);
    let mut received = Vec::new();
    if let Err(error) = client.ask(open).await {
        return (received, Some(error));
    }
    loop {
        let read = Operation::Read {
            handle,
            offset: received.len() as u64,
            length: CHUNK as u32,
        };
        match client.ask(read).await {
            Ok(Outcome::Data(data)) => received.extend_from_slice(&data),
            Ok(_) => return (received, None),
            Err(error) => return (received, Some(error)),
        }
    }
}

/// Reads through a front; what came before the error is a beginning of the file, never other bytes.
async fn is_refused(fate: Fate, met: usize, said: &[&str]) {
    let (_front, client, direct) = behind(3, first(met, "GET", "/a ", fate)).await;
    let content = content(9 * MIB + 3);
    direct.put("/a", content.clone()).await;
    let (received, error) = download(&client, "/a").await;
    assert!(content.starts_with(&received), "{said:?}");
    let error = error.unwrap_or_else(|| panic!("{said:?}: {} bytes came", received.len()));
    assert!(
        said.iter().any(|said| error.message.contains(said)),
        "{error}"
    );
    assert!(received.len() < content.len(), "{error}");
}

fn set(head: &mut [String], name: &str, value: &str) {
    let line = head
        .iter_mut()
        .find(|line| line.to_ascii_lowercase().starts_with(name));
    *line.unwrap() = format!("{name}: {value}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_asked_again_when_it_says_and_not_before() {
    const LATER: &str = "HTTP/1.1 503 Slow Down\r\nRetry-After: 2\r\nContent-Length: 0";
    for (method, part) in [
        ("PUT", "partNumber=1"),
        ("GET", "list-type"),
        ("GET", "/a "),
    ] {
        let (front, client, _) = behind(15, first(1, method, part, Fate::Head(LATER))).await;
        let content = content(9 * MIB);
        let begun = Instant::now();
        upload(&client, "/a", &content).await.unwrap();
        assert!(client.get("/a").await == content, "{method} {part}");
        assert!(begun.elapsed() >= Duration::from_secs(2), "{method} {part}");
        assert!(front.count(method, part) >= 2);
    }
    // An hour is longer than anybody waits.
    const MUCH_LATER: &str = "HTTP/1.1 503 Slow Down\r\nRetry-After: 3600\r\nContent-Length: 0";
    let (_front, client, direct) = behind(
        3,
        first(usize::MAX, "PUT", "partNumber=", Fate::Head(MUCH_LATER)),
    )
    .await;
    let error = upload(&client, "/a", &content(9 * MIB)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("503"), "{error}");
    assert!(direct.is_missing("/a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_never_gets_through_leaves_the_old_file_and_no_parts() {
    for fate in [
        Fate::CutBody(MIB),
        Fate::LoseAnswer,
        Fate::Refuse(503, "SlowDown"),
        Fate::Refuse(500, "InternalError"),
    ] {
        let (front, client, direct) =
            behind(15, first(usize::MAX, "PUT", "partNumber=2", fate.clone())).await;
        direct.put("/a", "old").await;
        let error = upload(&client, "/a", &content(17 * MIB)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{fate:?}: {error}");
        assert!(error.message.contains("PUT part"), "{fate:?}: {error}");
        assert_eq!(direct.get("/a").await, b"old", "{fate:?}");
        assert_eq!(front.count("POST", "uploadId="), 0, "{fate:?}");
        assert_eq!(front.count("DELETE", "uploadId="), 1, "{fate:?}");
        assert!(front.count("PUT", "partNumber=2") > 1, "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_answer_is_waited_for_within_the_deadline() {
    for (method, part) in [
        ("PUT", "partNumber=1"),
        ("POST", "uploadId="),
        ("GET", "/a "),
    ] {
        let (front, client, _) = behind(4, first(1, method, part, Fate::Delay(2500))).await;
        let content = content(9 * MIB);
        upload(&client, "/a", &content).await.unwrap();
        assert!(client.get("/a").await == content, "{method} {part}");
        let asked = if method == "GET" { 3 } else { 1 };
        assert_eq!(front.count(method, part), asked, "{method} {part}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_always_cut_is_an_error_and_never_a_short_file() {
    for at in [0, 100, 1000, MIB] {
        is_refused(
            Fate::CutAnswer(at),
            usize::MAX,
            &["broke off", "no byte moved", "the server ended"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_shorter_than_it_says_is_an_error() {
    // Its end is orderly, and so is its length: only the range says how much was wanted.
    let short = Fate::Change(|head, body| {
        body.truncate(body.len() / 2);
        set(head, "content-length", &body.len().to_string());
    });
    is_refused(
        short,
        usize::MAX,
        &["the server ended", "range", "more bytes"],
    )
    .await;
    // The connection ends before the length that it named.
    let ended = Fate::Change(|_, body| body.truncate(body.len() / 2));
    is_refused(ended, usize::MAX, &["broke off", "the server ended"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_another_range_is_an_error() {
    let shifted = Fate::Change(|head, body| {
        let size = 9 * MIB + 3;
        let end = 100 + body.len() - 1;
        set(head, "content-range", &format!("bytes 100-{end}/{size}"));
    });
    is_refused(shifted, usize::MAX, &["Requested 0..4194304, got 100.."]).await;
    let whole = Fate::Change(|head, _| "HTTP/1.1 200 OK".clone_into(&mut head[0]));
    is_refused(whole, usize::MAX, &["range", "partial"]).await;
    let without = Fate::Change(|head, _| head.retain(|line| !line.starts_with("Content-Range")));
    is_refused(without, usize::MAX, &["Content-Range header not present"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_bytes_of_another_version_are_an_error_and_not_mixed_in() {
    // A cache that does not know the condition: the later ranges are those of an older file, under its own tag.
    let stale = Fate::Change(|head, body| {
        set(head, "etag", "\"00000000000000000000000000000000\"");
        body.fill(0);
    });
    replaced(stale).await;
    // The same from a server that names no tags: only the size tells.
    let shorter = Fate::Change(|head, body| {
        head.retain(|line| !line.to_ascii_lowercase().starts_with("etag"));
        let range = head
            .iter()
            .position(|line| line.to_ascii_lowercase().starts_with("content-range"));
        let line = &mut head[range.unwrap()];
        *line = format!("{}/{}", line.split_once('/').unwrap().0, 20 * MIB);
        body.fill(0);
    });
    replaced(shorter).await;
}

/// All ranges meet the fate but those with which the file is opened.
async fn replaced(fate: Fate) {
    let met = AtomicUsize::new(0);
    let (_front, client, direct) = behind(3, move |seen| {
        if seen.is("GET", "/a ") && met.fetch_add(1, Ordering::Relaxed) > 1 {
            fate.clone()
        } else {
            Fate::HandOn
        }
    })
    .await;
    let content = content(9 * MIB);
    direct.put("/a", content.clone()).await;
    let handle = client.open("/a", READ).await;
    let (received, error) = download(&client, "/a").await;
    assert!(content.starts_with(&received) && received.len() < content.len());
    let jump = Operation::Read {
        handle,
        offset: 8 * MIB as u64,
        length: 100,
    };
    for error in [error.unwrap(), client.ask(jump).await.unwrap_err()] {
        assert!(
            error.message.contains("replaced while it was read"),
            "{error}"
        );
    }
}
