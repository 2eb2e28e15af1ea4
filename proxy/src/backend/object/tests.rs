//! Against real servers (SeaweedFS and Azurite, `cargo xtask setup`), and through a front before them that fails on demand.

mod azure;
mod conformance;
mod directories;
mod faults;
mod front;
mod gcs;
mod odd_answers;
mod renames;
mod tending;
mod tls;
mod transfers;
mod two_writers;

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

use super::{AccessKey, Credential, ObjectService, ObjectSettings};
use crate::{
    backend::{BackendService as _, conformance::Client, ftp::TlsTrust},
    testing,
};

fn access_key(id: &str, secret: &str) -> Credential {
    Credential::S3 {
        region: "us-east-1".to_owned(),
        key: AccessKey::new(id, secret),
    }
}

/// What reaches the bucket at an endpoint.
fn settings(endpoint: String) -> ObjectSettings {
    ObjectSettings {
        endpoint,
        bucket: BUCKET.to_owned(),
        prefix: "test".to_owned(),
        credential: access_key(ACCESS_KEY, PASSWORD),
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

fn session(settings: &ObjectSettings, directory: &[u8]) -> Client {
    Client::new(
        ObjectService::new(settings)
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
fn service(endpoint: String) -> Arc<ObjectService> {
    Arc::new(ObjectService::new(&settings(endpoint)).unwrap())
}
