//! However a channel ends: what was not closed is withdrawn, and the record says so.

use super::*;
use crate::backend::{BackendError, ErrorKind, Origin};

/// A client with half an upload under way.
async fn uploading() -> (Client, HandleId) {
    let mut client = Client::start().await;
    let handle = client.open(b"/half", REPLACE).await;
    assert_eq!(client.status(write(handle, 0, b"half")).await, Status::Ok);
    (client, handle)
}

#[tokio::test]
async fn an_upload_that_was_not_closed_is_never_published() {
    let (client, _) = uploading().await;
    let left = client.leave().await;
    assert_eq!(left.ended, Ended::ClosedByClient);
    assert!(left.memory.paths().is_empty());
    let summary = left.of("xfer.summary")[0];
    assert_eq!(summary["outcome"], "failure");
    assert_eq!(summary["reason"], "not_closed");
    assert_eq!(summary["close_reason"], "closed_by_client");
    assert_eq!(summary["bytes"], 4);
}

#[tokio::test]
async fn a_session_that_is_cut_ends_at_once_and_publishes_nothing() {
    let (mut client, handle) = uploading().await;
    client.memory.pause();
    let stuck = client.request(write(handle, 4, b"more")).await;
    let publishing = client.request(close(handle)).await;
    let memory = client.memory.clone();
    let arrived = memory.arrivals();
    while memory.arrivals() == arrived && arrived < 3 {
        tokio::task::yield_now().await;
    }
    client.cancel.cancel();
    let left = client.finish().await;
    assert_eq!(left.ended, Ended::Cancelled);
    assert!(left.memory.paths().is_empty());
    let unknown: Vec<_> = left
        .of("op.outcome")
        .into_iter()
        .filter(|record| record["outcome"] == "unknown")
        .collect();
    assert_eq!(
        unknown.len(),
        1,
        "the WRITE at the backend, ids {stuck} and {publishing}"
    );
    assert_eq!(left.of("op.intent").len(), left.of("op.outcome").len());
    assert_eq!(left.of("xfer.summary")[0]["close_reason"], "cancelled");
}

#[tokio::test]
async fn what_arrived_before_the_client_left_is_still_done() {
    let mut client = Client::start().await;
    let handle = client.open(b"/a", REPLACE).await;
    for at in 0..100 {
        client.request(write(handle, at, b"x")).await;
    }
    client.request(close(handle)).await;
    let left = client.leave().await;
    assert_eq!(left.memory.file(b"a").unwrap(), [b'x'; 100]);
    assert_eq!(left.of("xfer.summary")[0]["outcome"], "success");
}

#[tokio::test]
async fn a_close_that_cannot_publish_says_so_to_client_and_record() {
    let (mut client, handle) = uploading().await;
    client.memory.fail_with(Some(BackendError::new(
        ErrorKind::NoSpace,
        Origin::Backend,
        "the legacy server's disk is full",
    )));
    assert_eq!(client.status(close(handle)).await, Status::Failure);
    client.memory.fail_with(None);
    assert_eq!(
        client.status(close(handle)).await,
        Status::Failure,
        "the handle is gone"
    );
    let left = client.leave().await;
    assert!(left.memory.paths().is_empty());
    let summary = left.of("xfer.summary")[0];
    assert_eq!(
        (&summary["outcome"], &summary["reason"]),
        (&"failure".into(), &"no_space".into())
    );
    let failed = left
        .of("op.outcome")
        .into_iter()
        .find(|record| record["outcome"] == "failure")
        .unwrap();
    assert_eq!(failed["error"], "the legacy server's disk is full");
    assert_eq!(failed["origin"], "backend");
}

#[tokio::test]
async fn a_write_that_failed_takes_the_digest_with_it() {
    let (mut client, handle) = uploading().await;
    client.memory.fail_with(Some(BackendError::new(
        ErrorKind::NoSpace,
        Origin::Backend,
        "full",
    )));
    assert_eq!(
        client.status(write(handle, 4, b"lost")).await,
        Status::Failure
    );
    client.memory.fail_with(None);
    client.status(close(handle)).await;
    let left = client.leave().await;
    assert_eq!(left.of("xfer.summary")[0]["sha256_reason"], "write_failed");
}

#[tokio::test]
async fn a_mount_whose_backend_is_not_configured_fails_with_the_way_out() {
    let mut client =
        Client::with(vec![testing::everything("/", "removed")], testing::journal).await;
    assert_eq!(client.status(stat(b"/a")).await, Status::Failure);
    let left = client.leave().await;
    let error = left.of("op.outcome")[0]["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(error.contains("[backends.removed]"), "{error}");
}
