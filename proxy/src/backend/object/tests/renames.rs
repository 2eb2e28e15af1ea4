//! Renames that stopped between the copy and the removal, and files that change while they are renamed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::Utc;
use object_store::PutPayload;
use tokio::sync::Semaphore;

use super::{
    content, directory,
    front::{Fate, Front, Seen, first},
    server, session, settings,
};
use crate::{
    backend::{
        Content, ErrorKind, Settled,
        conformance::Client,
        object::{bucket::Bucket, location::Key, wire::Over},
    },
    operation::Operation,
    path::VirtualPath,
};

const MIB: usize = 1024 * 1024;

fn path(name: &str) -> VirtualPath {
    VirtualPath::clean(name.as_bytes()).unwrap()
}

fn rename(from: &str, to: &str) -> Operation {
    Operation::Rename {
        from: path(from),
        to: path(to),
    }
}

fn now() -> i64 {
    Utc::now().timestamp()
}

/// Sessions in one directory, behind a front and without it.
async fn behind(rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static) -> (Front, Client, Client) {
    let front = Front::start(rule).await;
    let place = directory();
    let client = session(&settings(front.endpoint.clone()), &place);
    let direct = session(&settings(server().await.endpoint()), &place);
    (front, client, direct)
}

async fn settle(client: &Client, from: &str, to: &str, announced: i64) -> Settled {
    let settled = client.settle(rename(from, to), announced).await;
    settled.expect("a bucket copies").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_original_was_not_removed_is_found_and_the_original_removed() {
    let refused = Fate::Refuse(403, "AccessDenied");
    let (_front, client, direct) = behind(first(usize::MAX, "DELETE", "/a ", refused)).await;
    for size in [0, 7, 9 * MIB] {
        let content = content(size);
        direct.put("/a", content.clone()).await;
        let announced = now();
        client.ask(rename("/a", "/b")).await.unwrap_err();
        // Who can't remove it says so, and changes nothing.
        let settled = settle(&client, "/a", "/b", announced).await;
        let Settled::Copied {
            files: 1,
            removed: Err(error),
        } = settled
        else {
            panic!("{settled:?}");
        };
        assert_eq!(error.kind, ErrorKind::PermissionDenied);
        assert!(direct.get("/a").await == content);

        let settled = settle(&direct, "/a", "/b", announced).await;
        assert!(
            matches!(
                settled,
                Settled::Copied {
                    files: 1,
                    removed: Ok(())
                }
            ),
            "{settled:?}"
        );
        assert!(direct.is_missing("/a").await);
        assert!(direct.get("/b").await == content);
        let again = settle(&direct, "/a", "/b", announced).await;
        assert!(matches!(again, Settled::Removed), "{again:?}");
        direct.done(Operation::Remove { path: path("/b") }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_files_of_which_none_is_known_to_be_the_others_copy_both_stay() {
    let client = session(&settings(server().await.endpoint()), &directory());
    client.put("/a", "mine!!").await;
    let left = settle(&client, "/a", "/b", now()).await;
    assert!(matches!(left, Settled::NotCopied), "{left:?}");
    for (other, announced, expected) in [
        ("theirs", now(), Content::Different),
        ("longer than that", now(), Content::Different),
        // The same, but it was there before the rename was.
        ("mine!!", now() + 3600, Content::Same),
    ] {
        client.put("/b", other).await;
        let left = settle(&client, "/a", "/b", announced).await;
        assert!(
            matches!(left, Settled::Both(found) if found == expected),
            "{other}: {left:?}"
        );
        assert_eq!(client.get("/a").await, b"mine!!");
        assert_eq!(client.get("/b").await, other.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_other_tags_are_compared_by_their_content() {
    let settings = settings(server().await.endpoint());
    let place = directory();
    let client = session(&settings, &place);
    let bucket = Bucket::new(&settings).unwrap();
    let name = String::from_utf8(place).unwrap();
    let mut bytes = content(9 * MIB);
    // The one came in parts, the other in one: S3 gives such copies another tag.
    client.put("/a", bytes.clone()).await;
    let whole = Key::listed(&format!("test/{name}/b"));
    for is_same in [false, true] {
        if !is_same {
            bytes[5 * MIB] ^= 1;
        }
        let payload = PutPayload::from(bytes.clone());
        bucket.put(&whole, payload, Over::Anything).await.unwrap();
        let left = settle(&client, "/a", "/b", now()).await;
        if is_same {
            assert!(matches!(left, Settled::Copied { .. }), "{left:?}");
        } else {
            assert!(
                matches!(left, Settled::Both(Content::Different)),
                "{left:?}"
            );
            bytes[5 * MIB] ^= 1;
        }
        assert_eq!(client.is_missing("/a").await, is_same);
        assert!(
            client.get("/b").await == {
                let mut expected = bytes.clone();
                expected[5 * MIB] ^= u8::from(!is_same);
                expected
            }
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_goes_on_being_removed_and_one_that_was_copied_in_part_stays() {
    let client = session(&settings(server().await.endpoint()), &directory());
    for name in ["/old", "/old/sub", "/new", "/new/sub"] {
        client.mkdir(name).await;
    }
    for name in ["/a", "/b", "/sub/c"] {
        client.put(format!("/old{name}"), name).await;
    }
    client.put("/new/a", "/a").await;
    let left = settle(&client, "/old", "/new", now()).await;
    // The markers and one file.
    assert!(
        matches!(
            left,
            Settled::CopiedInPart {
                copied: 3,
                files: 5
            }
        ),
        "{left:?}"
    );
    assert_eq!(client.names("/old").await.len(), 3);
    client.put("/new/b", "/b").await;
    client.put("/new/sub/c", "/c").await;
    let left = settle(&client, "/old", "/new", now()).await;
    assert!(
        matches!(left, Settled::CopiedInPart { copied: 4, .. }),
        "{left:?}"
    );
    client.put("/new/sub/c", "/sub/c").await;
    let remove = Operation::Remove {
        path: path("/old/b"),
    };
    client.done(remove).await;
    let left = settle(&client, "/old", "/new", now()).await;
    assert!(
        matches!(
            left,
            Settled::Copied {
                files: 4,
                removed: Ok(())
            }
        ),
        "{left:?}"
    );
    assert!(client.is_missing("/old").await);
    assert_eq!(
        client.names("/new").await,
        [b"a".to_vec(), b"b".to_vec(), b"sub".to_vec()]
    );
    assert_eq!(client.get("/new/sub/c").await, b"/sub/c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_removed_after_what_it_held() {
    let removal = Arc::new(Semaphore::new(0));
    let held = Fate::Hold(Arc::clone(&removal));
    let markers = Arc::new(Mutex::new(Vec::new()));
    let seen_markers = Arc::clone(&markers);
    let (front, client, direct) = behind(move |seen: &Seen| {
        if !seen.is("DELETE", "/ ") {
            return if seen.is("DELETE", "") {
                held.clone()
            } else {
                Fate::HandOn
            };
        }
        seen_markers.lock().unwrap().push(seen.line.clone());
        Fate::HandOn
    })
    .await;
    for directory in ["/d", "/d/sub", "/d/sub/empty"] {
        direct.mkdir(directory).await;
    }
    for file in ["/d/a", "/d/sub/b"] {
        direct.put(file, file).await;
    }
    let renaming = tokio::spawn(async move { client.done(rename("/d", "/e")).await });
    while front.count("DELETE", "/d/a ") + front.count("DELETE", "/d/sub/b ") < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(markers.lock().unwrap().is_empty());
    removal.add_permits(10);
    renaming.await.unwrap();
    let markers = markers.lock().unwrap().clone();
    for (marker, end) in markers.iter().zip(["/d/sub/empty/ ", "/d/sub/ ", "/d/ "]) {
        assert!(marker.contains(end), "{markers:?}");
    }
    assert_eq!(markers.len(), 3);
    assert_eq!(direct.names("/").await, [b"e".to_vec()]);
    assert_eq!(direct.get("/e/sub/b").await, b"/d/sub/b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_under_the_old_name_before_it_is_removed_stays() {
    for settles in [false, true] {
        let removal = Arc::new(Semaphore::new(0));
        let (front, client, direct) = behind(first(
            usize::MAX,
            "DELETE",
            "/a ",
            Fate::Hold(Arc::clone(&removal)),
        ))
        .await;
        direct.put("/a", "old").await;
        let announced = now();
        if settles {
            direct.put("/b", "old").await;
        }
        let renaming = tokio::spawn(async move {
            if settles {
                let settled = settle(&client, "/a", "/b", announced).await;
                assert!(
                    matches!(settled, Settled::Both(Content::Unknown)),
                    "{settled:?}"
                );
            } else {
                client.done(rename("/a", "/b")).await;
            }
        });
        while front.count("DELETE", "/a ") == 0 {
            tokio::task::yield_now().await;
        }
        direct.put("/a", "new").await;
        removal.add_permits(10);
        renaming.await.unwrap();
        assert_eq!(direct.get("/a").await, b"new");
        assert_eq!(direct.get("/b").await, b"old");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_before_it_is_copied_is_not_renamed() {
    let copy = Arc::new(Semaphore::new(0));
    let (front, client, direct) =
        behind(first(1, "PUT", "/b ", Fate::Hold(Arc::clone(&copy)))).await;
    direct.put("/a", "old").await;
    let renaming = tokio::spawn(async move { client.ask(rename("/a", "/b")).await });
    while front.count("PUT", "/b ") == 0 {
        tokio::task::yield_now().await;
    }
    direct.put("/a", "new").await;
    copy.add_permits(1);
    let error = renaming.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failure, "{error}");
    assert!(
        error.message.contains("was replaced while it was renamed"),
        "{error}"
    );
    assert_eq!(direct.get("/a").await, b"new");
    assert!(direct.is_missing("/b").await);
}

/// A server that knows no conditional removal (501), and one that finds its own tag wrong (412).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_works_on_servers_without_conditional_removal() {
    for fate in [
        Fate::Refuse(501, "NotImplemented"),
        Fate::Refuse(412, "PreconditionFailed"),
    ] {
        let (front, client, _) = behind(first(1, "DELETE", "/a ", fate)).await;
        client.put("/a", "content").await;
        client.done(rename("/a", "/b")).await;
        assert!(client.is_missing("/a").await);
        assert_eq!(client.get("/b").await, b"content");
        assert_eq!(front.count("DELETE", "/a "), 2);
    }
}
