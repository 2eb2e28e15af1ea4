//! Against a real server (SeaweedFS, `cargo xtask setup`), and through a front before it that fails on demand.

mod conformance;
mod directories;
mod faults;
mod front;
mod tls;
mod transfers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use portcullis_tests::server::{
    PASSWORD,
    seaweed::{ACCESS_KEY, BUCKET, Seaweed},
};

use super::{AccessKey, S3Service, S3Settings};
use crate::{
    backend::{BackendService as _, conformance::Client, ftp::TlsTrust},
    testing,
};

/// What reaches the bucket at an endpoint.
fn settings(endpoint: String) -> S3Settings {
    S3Settings {
        endpoint,
        region: "us-east-1".to_owned(),
        bucket: BUCKET.to_owned(),
        prefix: "test".to_owned(),
        access_key: AccessKey::new(ACCESS_KEY, PASSWORD),
        trust: TlsTrust::WebRoots,
        timeout: Duration::from_secs(15),
    }
}

/// The server of all tests; it takes seconds to start.
async fn server() -> &'static Seaweed {
    tokio::task::spawn_blocking(Seaweed::shared).await.unwrap()
}

/// A directory of the shared server that no other test has.
fn directory() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("d{}", NEXT.fetch_add(1, Ordering::Relaxed)).into_bytes()
}

fn session(settings: &S3Settings, directory: &[u8]) -> Client {
    Client::new(
        S3Service::new(settings)
            .unwrap()
            .session(directory, &testing::owner()),
    )
}

/// A session in a directory of its own on the real server.
async fn client() -> Client {
    session(&settings(server().await.endpoint()), &directory())
}

/// Bytes that differ from each other at any distance.
fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Services live as long as their sessions.
fn service(endpoint: String) -> Arc<S3Service> {
    Arc::new(S3Service::new(&settings(endpoint)).unwrap())
}
