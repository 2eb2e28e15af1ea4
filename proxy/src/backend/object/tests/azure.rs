//! Azure Blob Storage: on Azurite.

use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_tests::server::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};

use super::{
    content, directory,
    front::{Fate, Front, Seen, first},
    session,
};
use crate::{
    backend::{
        ErrorKind, Origin, Settled,
        conformance::{Client, READ, REPLACE, Subject},
        object::{AzureKey, Credential, ObjectService, ObjectSettings, SecretText},
    },
    operation::{Access, HandleId, Operation, Outcome},
    path::VirtualPath,
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 255 * 1024;

async fn server() -> &'static Azurite {
    tokio::task::spawn_blocking(Azurite::shared).await.unwrap()
}

fn settings_with(endpoint: String, key: AzureKey) -> ObjectSettings {
    ObjectSettings {
        bucket: CONTAINER.to_owned(),
        credential: Credential::Azure {
            account: ACCOUNT.to_owned(),
            key,
        },
        ..super::settings(endpoint)
    }
}

fn settings(endpoint: String) -> ObjectSettings {
    settings_with(endpoint, AzureKey::Shared(SecretText::new(KEY)))
}

async fn start() -> Subject {
    Subject {
        service: std::sync::Arc::new(
            ObjectService::new(&settings(server().await.endpoint())).unwrap(),
        ),
        directory: directory(),
        disk: None,
        keep: Box::new(()),
    }
}

crate::backend::conformance::suite!(super::start);

async fn client() -> Client {
    session(&settings(server().await.endpoint()), &directory())
}

async fn front(rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static) -> Front {
    Front::before(server().await.address, None, rule).await
}

fn through(front: &Front) -> Client {
    session(
        &settings(format!("{}/{ACCOUNT}", front.endpoint)),
        &directory(),
    )
}

fn path(name: &str) -> VirtualPath {
    VirtualPath::clean(name.as_bytes()).unwrap()
}

fn rename(from: &str, to: &str) -> Operation {
    Operation::Rename {
        from: path(from),
        to: path(to),
    }
}

async fn write_all(client: &Client, handle: HandleId, content: &[u8]) {
    for (number, data) in content.chunks(CHUNK).enumerate() {
        let write = Operation::Write {
            handle,
            offset: (number * CHUNK) as u64,
            data: data.to_vec().into(),
        };
        assert_eq!(client.ask(write).await.unwrap(), Outcome::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_goes_in_blocks_and_appears_whole_at_close() {
    let front = front(|_| Fate::HandOn).await;
    let client = through(&front);
    let content = content(20 * MIB + 17);
    let handle = client.open("/big", REPLACE).await;
    write_all(&client, handle, &content).await;
    assert!(client.is_missing("/big").await);
    client.close(handle).await;
    assert!(client.get("/big").await == content);
    assert_eq!(front.count("PUT", "comp=block&"), 3, "8, 8 and 4 MiB");
    assert_eq!(front.count("PUT", "comp=blocklist"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_upload_leaves_a_file_alone_that_appeared_in_the_last_moment() {
    // The look before the publication is told that there is nothing: only the condition is left.
    let front = front(|seen| {
        if seen.is("HEAD", "/late") {
            Fate::Refuse(404, "")
        } else {
            Fate::HandOn
        }
    })
    .await;
    let place = directory();
    let client = session(&settings(format!("{}/{ACCOUNT}", front.endpoint)), &place);
    let other = session(&settings(server().await.endpoint()), &place);
    let exclusive = Access {
        exclusive: true,
        ..REPLACE
    };
    for size in [10, 9 * MIB] {
        let handle = client.open("/late", exclusive).await;
        write_all(&client, handle, &content(size)).await;
        other.put("/late", "early").await;
        assert_eq!(
            client.refusal(Operation::Close { handle }).await,
            ErrorKind::AlreadyExists,
            "{size}"
        );
        assert_eq!(other.get("/late").await, b"early");
        other
            .done(Operation::Remove {
                path: path("/late"),
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_access_signature_is_enough_also_for_copies_and_directories() {
    let server = server().await;
    let signature = AzureKey::Signature(SecretText::new(&server.signature));
    let client = session(&settings_with(server.endpoint(), signature), &directory());
    client.mkdir("/d").await;
    client.put("/d/käse 100% #1?.txt", "content").await;
    client
        .done(rename("/d/käse 100% #1?.txt", "/d/b+c&d.txt"))
        .await;
    assert_eq!(client.names("/d").await, [b"b+c&d.txt"]);
    assert_eq!(client.get("/d/b+c&d.txt").await, b"content");
    client.done(rename("/d", "/e")).await;
    assert_eq!(client.names("/").await, [b"e"]);
    assert_eq!(client.get("/e/b+c&d.txt").await, b"content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_azure_would_change_are_refused() {
    let client = client().await;
    for name in ["/a.", "/a\\b"] {
        let open = client.open_operation(name, REPLACE);
        assert_eq!(client.refusal(open).await, ErrorKind::Unsupported);
    }
    client.put("/a.b", "x").await;
    assert_eq!(client.names("/").await, [b"a.b"]);
}

/// The first look at `/b` is handed on: nothing stands there. What the copy and later looks are answered is made up.
fn copying(looks: &'static [&'static str]) -> impl Fn(&Seen) -> Fate + Send + Sync + 'static {
    const PENDING: &str = "HTTP/1.1 202 Accepted\r\nx-ms-copy-status: pending\r\nContent-Length: 0";
    let looked = AtomicUsize::new(0);
    move |seen| {
        if seen.is("HEAD", "/b ") {
            match looked.fetch_add(1, Ordering::Relaxed) {
                0 => Fate::HandOn,
                number => Fate::Head(looks[(number - 1).min(looks.len() - 1)]),
            }
        } else if seen.is("PUT", "/b ") {
            Fate::Head(PENDING)
        } else {
            Fate::HandOn
        }
    }
}

const COPIES: &str =
    "HTTP/1.1 200 OK\r\nx-ms-copy-status: pending\r\nx-ms-copy-progress: 1/7\r\nContent-Length: 0";
const COPIED: &str = "HTTP/1.1 200 OK\r\nx-ms-copy-status: success\r\nContent-Length: 0";
const FAILED: &str = "HTTP/1.1 200 OK\r\nx-ms-copy-status: failed\r\n\
     x-ms-copy-status-description: 500 InternalError\r\nContent-Length: 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_original_goes_only_when_a_copy_that_was_begun_is_done() {
    let done = front(copying(&[COPIES, COPIED])).await;
    let client = through(&done);
    client.put("/a", "content").await;
    client.done(rename("/a", "/b")).await;
    assert_eq!(done.count("HEAD", "/b "), 3);
    assert!(client.is_missing("/a").await);

    let failed = front(copying(&[COPIES, FAILED])).await;
    let client = through(&failed);
    client.put("/a", "content").await;
    let error = client.ask(rename("/a", "/b")).await.unwrap_err();
    assert!(error.message.contains("500 InternalError"), "{error}");
    assert_eq!(client.get("/a").await, b"content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_stands_still_is_given_up_and_the_original_stays() {
    let front = front(copying(&[COPIES])).await;
    let mut settings = settings(format!("{}/{ACCOUNT}", front.endpoint));
    settings.timeout = std::time::Duration::from_secs(2);
    let client = session(&settings, &directory());
    client.put("/a", "content").await;
    let error = client.ask(rename("/a", "/b")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert_eq!(client.get("/a").await, b"content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_whose_copy_lost_its_answer_is_done_and_not_in_its_own_way() {
    let front = front(first(1, "PUT", "/b ", Fate::LoseAnswer)).await;
    let client = through(&front);
    client.put("/a", "content").await;
    client.done(rename("/a", "/b")).await;
    assert!(client.is_missing("/a").await);
    assert_eq!(client.get("/b").await, b"content");
    assert_eq!(front.count("PUT", "/b "), 1);
}

/// Each copy has a tag of its own here, so that files are compared by their content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_original_was_not_removed_is_found_and_the_original_removed() {
    let refused = Fate::Refuse(403, "AuthorizationFailure");
    let front = front(first(1, "DELETE", "/a", refused)).await;
    let client = through(&front);
    client.put("/a", content(9 * MIB)).await;
    let announced = chrono::Utc::now().timestamp();
    client.ask(rename("/a", "/b")).await.unwrap_err();
    client.put("/c", content(9 * MIB - 1)).await;
    for (to, is_copy) in [("/c", false), ("/b", true)] {
        let settled = client.settle(rename("/a", to), announced).await;
        let settled = settled.unwrap().unwrap();
        let removed = matches!(
            settled,
            Settled::Copied {
                removed: Ok(()),
                ..
            }
        );
        assert_eq!(removed, is_copy, "{settled:?}");
        assert_eq!(client.is_missing("/a").await, is_copy);
    }
    assert!(client.get("/b").await == content(9 * MIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_goes_on_behind_the_marker() {
    let page = |names: &[&str], next: &str| {
        let blobs: String = names
            .iter()
            .map(|name| {
                format!(
                    "<Blob><Name>test/many/{name}</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>"
                )
            })
            .collect();
        format!(
            "<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        )
    };
    let (begin, end) = (page(&["a", "b"], "2!7!="), page(&["c"], ""));
    let front = front(move |seen| {
        if seen.line.contains("marker=2%217%21%3D&") {
            Fate::Answer(end.clone())
        } else {
            Fate::Answer(begin.clone())
        }
    })
    .await;
    let client = session(&settings(format!("{}/{ACCOUNT}", front.endpoint)), b"many");
    assert_eq!(client.names("/").await, [b"a", b"b", b"c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_or_container_is_the_gateways_fault_and_the_message_says_what_to_check() {
    let good = settings(server().await.endpoint());
    let wrong_key = settings_with(
        good.endpoint.clone(),
        AzureKey::Shared(SecretText::new("d3Jvbmc=")),
    );
    let mut wrong_container = good.clone();
    wrong_container.bucket = "nobodys".to_owned();
    for (settings, advice) in [
        (wrong_key, "access key"),
        (wrong_container, "backend's bucket"),
    ] {
        let client = session(&settings, &directory());
        let error = client
            .ask(Operation::Opendir {
                path: VirtualPath::root(),
                handle: HandleId(1),
            })
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, error.origin),
            (ErrorKind::Unavailable, Origin::Gateway),
            "{error}"
        );
        assert!(error.message.contains(advice), "{error}");
        assert!(!error.message.contains(KEY), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_while_it_is_read_is_an_error_and_not_a_mixture() {
    let client = client().await;
    client.put("/a", vec![1; 9 * MIB]).await;
    let handle = client.open("/a", READ).await;
    assert_eq!(client.read(handle, 0, 3).await, vec![1; 3]);
    client.put("/a", vec![2; 9 * MIB]).await;
    let read = Operation::Read {
        handle,
        offset: 8 * MIB as u64,
        length: 3,
    };
    let error = client.ask(read).await.unwrap_err();
    assert!(
        error.message.contains("replaced while it was read"),
        "{error}"
    );
}
