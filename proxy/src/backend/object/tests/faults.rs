//! What the server or the network does wrong.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{
    PASSWORD, access_key, client, content, directory,
    front::{Fate, Front, first},
    server, session, settings,
};
use crate::{
    backend::{
        BackendError, ErrorKind, Origin,
        conformance::{Client, READ, REPLACE},
    },
    operation::{Access, Operation, Outcome},
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 255 * 1024;

/// A session through a front, with a deadline that a test can wait for.
fn through(front: &Front, seconds: u64) -> Client {
    let mut settings = settings(front.endpoint.clone());
    settings.timeout = Duration::from_secs(seconds);
    session(&settings, &directory())
}

/// An upload up to its CLOSE; what the first failed request said.
async fn upload(client: &Client, name: &str, content: &[u8]) -> Result<(), BackendError> {
    let handle = client.open(name, REPLACE).await;
    for (number, data) in content.chunks(CHUNK).enumerate() {
        client
            .ask(Operation::Write {
                handle,
                offset: (number * CHUNK) as u64,
                data: data.to_vec().into(),
            })
            .await?;
    }
    client.ask(Operation::Close { handle }).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    for (method, part) in [
        ("HEAD", "/a"),
        ("GET", "list-type"),
        ("PUT", "partNumber=1"),
        ("POST", "uploads"),
        ("GET", "/a "),
    ] {
        let front = Front::start(first(2, method, part, Fate::Refuse(503, "SlowDown"))).await;
        let client = through(&front, 15);
        let content = content(9 * MIB);
        upload(&client, "/a", &content).await.unwrap();
        assert!(client.get("/a").await == content, "{method} {part}");
        assert!(front.count(method, part) > 2, "{method} {part}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_reset_in_the_middle_is_sent_again() {
    let front = Front::start(first(1, "PUT", "partNumber=1", Fate::CutBody(MIB))).await;
    let client = through(&front, 15);
    let content = content(9 * MIB);
    upload(&client, "/a", &content).await.unwrap();
    assert!(client.get("/a").await == content);
    assert_eq!(front.count("PUT", "partNumber=1"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_cut_goes_on_where_it_was() {
    let front = Front::start(first(1, "GET", "/a ", Fate::CutAnswer(MIB))).await;
    let client = through(&front, 15);
    let content = content(3 * MIB);
    upload(&client, "/a", &content).await.unwrap();
    assert!(client.get("/a").await == content);
    assert_eq!(front.count("GET", "/a "), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_upload_is_not_sent_twice_if_its_answer_is_lost() {
    let front = Front::start(first(1, "PUT", "/a", Fate::LoseAnswer)).await;
    let client = through(&front, 15);
    let exclusive = Access {
        exclusive: true,
        ..REPLACE
    };
    let handle = client.open("/a", exclusive).await;
    client.write(handle, 0, "x").await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(
        error.message.contains("whether it was done is not known"),
        "{error}"
    );
    assert_eq!(front.count("PUT", "/a"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_given_up_after_the_deadline() {
    for (method, part) in [
        ("HEAD", "/a"),
        ("GET", "list-type"),
        ("PUT", "/a"),
        ("GET", "/a "),
    ] {
        let front = Front::start(first(usize::MAX, method, part, Fate::Hang)).await;
        let client = through(&front, 1);
        let begun = Instant::now();
        let error = timeout(Duration::from_secs(20), async {
            if method == "GET" && part == "/a " {
                return client.ask(client.open_operation("/a", READ)).await;
            }
            let open = client.open_operation("/a", REPLACE);
            let handle = crate::backend::conformance::opened_handle(&open);
            client.ask(open).await?;
            client.ask(Operation::Close { handle }).await
        })
        .await
        .expect("the deadline cuts it")
        .unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{method} {part}: {error}");
        assert!(begun.elapsed() >= Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_stands_still_spoils_the_upload_and_the_parts_are_dropped() {
    let front = Front::start(first(usize::MAX, "PUT", "partNumber=2", Fate::Hang)).await;
    let client = through(&front, 1);
    let error = upload(&client, "/a", &content(17 * MIB)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert!(client.is_missing("/a").await);
    assert_eq!(front.count("POST", "uploadId="), 0);
    assert_eq!(front.count("DELETE", "uploadId="), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_fails_in_the_body_of_a_success_is_a_failure() {
    let body =
        "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>m</Message></Error>";
    let front = Front::start(first(1, "POST", "uploadId=", Fate::Answer(body.to_owned()))).await;
    let client = through(&front, 15);
    let error = upload(&client, "/a", &content(9 * MIB)).await.unwrap_err();
    assert!(
        error
            .message
            .contains("COMPLETE was answered 500 InternalError"),
        "{error}"
    );
    assert!(client.is_missing("/a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_nothing_stops_the_writer_at_three_parts() {
    let front = Front::start(first(usize::MAX, "PUT", "partNumber=", Fate::Hang)).await;
    let client = through(&front, 60);
    let handle = client.open("/a", REPLACE).await;
    let mut taken = 0;
    loop {
        let write = Operation::Write {
            handle,
            offset: taken as u64,
            data: vec![1; CHUNK].into(),
        };
        match timeout(Duration::from_secs(2), client.ask(write)).await {
            Ok(outcome) => assert_eq!(outcome.unwrap(), Outcome::Done),
            Err(_) => break,
        }
        taken += CHUNK;
        assert!(
            taken <= 24 * MIB,
            "two parts on their way and one that fills"
        );
    }
    assert!(taken >= 16 * MIB, "parts go while others fill");
    client.end().await;
    assert_eq!(front.count("DELETE", "uploadId="), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_s3_are_errors() {
    let front = Front::start(|seen| {
        if seen.is("GET", "list-type") {
            Fate::Answer("<html>Please log in</html>".to_owned())
        } else {
            Fate::Refuse(404, "")
        }
    })
    .await;
    let client = through(&front, 15);
    let error = client.stat("/a").await.unwrap_err();
    assert_eq!(
        (error.kind, error.origin),
        (ErrorKind::Unavailable, Origin::Backend)
    );
    assert!(
        error.message.contains("is not that of an object store"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_cut() {
    let endless = format!("<ListBucketResult>{}", " ".repeat(17 * MIB));
    let front = Front::start(move |_| Fate::Answer(endless.clone())).await;
    let error = through(&front, 15)
        .ask(Operation::Opendir {
            path: crate::path::VirtualPath::root(),
            handle: crate::operation::HandleId(1),
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(
        error
            .message
            .contains("longer than any that an object store gives"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_or_bucket_is_the_gateways_fault_and_the_message_says_what_to_check() {
    let good = settings(server().await.endpoint());
    let mut wrong_secret = good.clone();
    wrong_secret.credential = access_key(super::ACCESS_KEY, "wrong");
    let mut wrong_id = good.clone();
    wrong_id.credential = access_key("NOBODY", PASSWORD);
    let mut wrong_bucket = good.clone();
    wrong_bucket.bucket = "nobodys".to_owned();
    for (settings, advice) in [
        (wrong_secret, "access key"),
        (wrong_id, "access key"),
        (wrong_bucket, "backend's bucket"),
    ] {
        let client = session(&settings, &directory());
        let error = client
            .ask(Operation::Opendir {
                path: crate::path::VirtualPath::root(),
                handle: crate::operation::HandleId(1),
            })
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, error.origin),
            (ErrorKind::Unavailable, Origin::Gateway),
            "{error}"
        );
        assert!(error.message.contains(advice), "{error}");
        assert!(!error.message.contains(PASSWORD), "{error}");
    }
    assert!(client().await.names("/").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_unavailable() {
    let port = portcullis_tests::place::free_port();
    let mut settings = settings(format!("http://127.0.0.1:{port}"));
    settings.timeout = Duration::from_secs(2);
    let error = session(&settings, b"").stat("/a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("no connection"), "{error}");
}
