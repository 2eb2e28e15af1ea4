//! Directories, which a bucket does not have.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{StreamExt as _, stream};
use object_store::PutPayload;

use super::{
    client, directory,
    front::{Fate, Front, first},
    server, session, settings,
};
use crate::{
    backend::{
        ErrorKind,
        conformance::READ,
        object::{bucket::Bucket, directory::Directory, location::Key, wire::Over},
    },
    operation::{Attributes, Operation, Outcome},
    path::VirtualPath,
};

fn path(name: &str) -> VirtualPath {
    VirtualPath::clean(name.as_bytes()).unwrap()
}

fn rename(from: &str, to: &str) -> Operation {
    Operation::Rename {
        from: path(from),
        to: path(to),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_without_a_marker_is_a_directory_as_long_as_something_is_below() {
    let settings = settings(server().await.endpoint());
    let outer = String::from_utf8(directory()).unwrap();
    // A mount's own directory needs no marker: what is put there makes the prefix `implicit` for the other mount.
    let inner = session(&settings, format!("{outer}/implicit/deep").as_bytes());
    inner.put("/file", "x").await;
    let client = session(&settings, outer.as_bytes());
    assert!(client.stat("/implicit").await.unwrap().is_directory());
    assert!(client.stat("/implicit/deep").await.unwrap().is_directory());
    assert_eq!(client.names("/").await, [b"implicit"]);
    let mkdir = Operation::Mkdir {
        path: path("/implicit"),
        attributes: Attributes::default(),
    };
    assert_eq!(client.refusal(mkdir).await, ErrorKind::AlreadyExists);
    let rmdir = |name| Operation::Rmdir { path: path(name) };
    assert_eq!(
        client.refusal(rmdir("/implicit")).await,
        ErrorKind::NotEmpty
    );
    let remove = |name| Operation::Remove { path: path(name) };
    assert_eq!(
        client.refusal(remove("/implicit")).await,
        ErrorKind::IsADirectory
    );
    let open = client.open_operation("/implicit", READ);
    assert_eq!(client.refusal(open).await, ErrorKind::IsADirectory);
    assert_eq!(
        client.refusal(rmdir("/implicit/deep/file")).await,
        ErrorKind::NotADirectory
    );
    client.put("/implicit/beside", "y").await;
    client.done(remove("/implicit/deep/file")).await;
    assert_eq!(client.get("/implicit/beside").await, b"y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_of_an_empty_mount_is_there() {
    let client = client().await;
    assert!(client.stat("/").await.unwrap().is_directory());
    assert!(client.names("/").await.is_empty());
    let open = client.open_operation("/", READ);
    assert_eq!(client.refusal(open).await, ErrorKind::IsADirectory);
    assert!(client.is_missing("/a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_moves_with_all_that_is_in_it_and_never_over_another() {
    let client = client().await;
    client.mkdir("/old").await;
    client.mkdir("/old/empty").await;
    client.mkdir("/old/sub").await;
    for number in 0..20 {
        client
            .put(format!("/old/sub/{number}"), format!("{number}"))
            .await;
    }
    client.mkdir("/other").await;
    let over = client.refusal(rename("/old", "/other")).await;
    assert_eq!(over, ErrorKind::AlreadyExists);
    let into = client.refusal(rename("/old", "/old/sub/x")).await;
    assert_eq!(into, ErrorKind::InvalidArgument);
    client.done(rename("/old", "/new")).await;
    assert!(client.is_missing("/old").await);
    assert_eq!(
        client.names("/new").await,
        [b"empty".to_vec(), b"sub".to_vec()]
    );
    assert_eq!(client.names("/new/sub").await.len(), 20);
    assert_eq!(client.get("/new/sub/7").await, b"7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_copied_whole_stays_where_it_was() {
    let front = Front::start(|seen| {
        if seen.is("PUT", "/new/b") {
            Fate::Refuse(403, "AccessDenied")
        } else {
            Fate::HandOn
        }
    })
    .await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    client.mkdir("/old").await;
    for name in ["/old/a", "/old/b", "/old/c"] {
        client.put(name, name).await;
    }
    let refused = client.refusal(rename("/old", "/new")).await;
    assert_eq!(refused, ErrorKind::PermissionDenied);
    assert_eq!(client.names("/old").await, [b"a", b"b", b"c"]);
    assert!(client.is_missing("/new/a").await);
    assert!(client.is_missing("/new/c").await);
}

/// A server with real directories makes those on the way to a file, and then refuses the marker: it "exists already".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_moves_before_what_it_holds() {
    let front = Front::start(|_| Fate::HandOn).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    client.mkdir("/old").await;
    client.mkdir("/old/sub").await;
    client.put("/old/a", "a").await;
    client.put("/old/sub/b", "b").await;
    client.done(rename("/old", "/new")).await;
    let puts = front.lines("PUT");
    let at = |part: &str| puts.iter().position(|line| line.contains(part)).unwrap();
    assert!(at("/new/ ") < at("/new/sub/ "), "{puts:?}");
    assert!(
        at("/new/sub/ ") < at("/new/a").min(at("/new/sub/b")),
        "{puts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_whose_original_cannot_be_removed_leaves_both_and_says_so() {
    let front = Front::start(|seen| {
        if seen.is("DELETE", "/a") {
            Fate::Refuse(403, "AccessDenied")
        } else {
            Fate::HandOn
        }
    })
    .await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    client.put("/a", "content").await;
    let error = client.ask(rename("/a", "/b")).await.unwrap_err();
    assert!(error.message.contains("is still there too"), "{error}");
    assert_eq!(client.get("/a").await, b"content");
    assert_eq!(client.get("/b").await, b"content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_does_not_replace_a_file_that_appears_in_the_last_moment() {
    let front = Front::start(|seen| {
        if seen.is("HEAD", "/b ") {
            Fate::Refuse(404, "")
        } else {
            Fate::HandOn
        }
    })
    .await;
    let place = directory();
    let client = session(&settings(front.endpoint.clone()), &place);
    let other = session(&settings(server().await.endpoint()), &place);
    other.put("/a", "mine").await;
    other.put("/b", "theirs").await;
    assert_eq!(
        client.refusal(rename("/a", "/b")).await,
        ErrorKind::AlreadyExists
    );
    assert_eq!(other.get("/a").await, b"mine");
    assert_eq!(other.get("/b").await, b"theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_whose_copy_lost_its_answer_is_done_and_not_in_its_own_way() {
    let front = Front::start(first(1, "PUT", "/b ", Fate::LoseAnswer)).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    client.put("/a", "content").await;
    client.done(rename("/a", "/b")).await;
    assert!(client.is_missing("/a").await);
    assert_eq!(client.get("/b").await, b"content");
    assert_eq!(
        front.count("PUT", "/b "),
        1,
        "a second one would find the first"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_whose_copy_was_refused_for_a_moment_is_tried_again() {
    let front = Front::start(first(2, "PUT", "/b ", Fate::Refuse(503, "SlowDown"))).await;
    let client = session(&settings(front.endpoint.clone()), &directory());
    client.put("/a", "content").await;
    client.done(rename("/a", "/b")).await;
    assert!(client.is_missing("/a").await);
    assert_eq!(front.count("PUT", "/b "), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_that_got_lost_does_not_take_anothers_file_for_its_copy() {
    // The first look finds nothing, the copy never arrives, the second look finds what somebody else has put there.
    let looked = AtomicUsize::new(0);
    let front = Front::start(move |seen| {
        if seen.is("HEAD", "/b ") && looked.fetch_add(1, Ordering::Relaxed) == 0 {
            Fate::Refuse(404, "")
        } else if seen.is("PUT", "/b ") {
            Fate::CutBody(0)
        } else {
            Fate::HandOn
        }
    })
    .await;
    let place = directory();
    let client = session(&settings(front.endpoint.clone()), &place);
    let other = session(&settings(server().await.endpoint()), &place);
    other.put("/a", "mine!!").await;
    other.put("/b", "theirs").await;
    let error = client.ask(rename("/a", "/b")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("is not known"), "{error}");
    assert_eq!(other.get("/a").await, b"mine!!");
    assert_eq!(other.get("/b").await, b"theirs");
}

/// A page of a listing with names of some length, as a server would give it.
fn page(number: usize, last: bool) -> String {
    let mut body = String::from("<ListBucketResult>");
    if !last {
        body.push_str(&format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>",
            number + 1
        ));
    }
    for name in 0..1000 {
        body.push_str(&format!(
            "<Contents><Key>test/many/{number:03}-{name:03}</Key><Size>1</Size>\
             <LastModified>2026-11-22T11:51:24Z</LastModified></Contents>"
        ));
    }
    body.push_str("</ListBucketResult>");
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_names_come_page_by_page() {
    let front = Front::start(|seen| {
        let number = seen
            .line
            .split_once("continuation-token=")
            .and_then(|(_, rest)| rest.split('&').next())
            .map_or(0, |token| token.parse().unwrap());
        Fate::Answer(page(number, number == 99))
    })
    .await;
    let client = session(&settings(front.endpoint.clone()), b"many");
    let names = client.names("/").await;
    assert_eq!(names.len(), 100_000);
    assert_eq!(names[99_999], b"099-999");
    assert_eq!(front.count("GET", "list-type=2"), 100);
    let once: HashSet<_> = names.iter().collect();
    assert_eq!(once.len(), names.len());

    let bucket = Bucket::new(&settings(front.endpoint.clone())).unwrap();
    let many = Key::listed("test/many");
    let mut listing = Directory::open(&bucket, &many, &many).await.unwrap();
    let (mut seen, mut most) = (0, listing.held());
    while let Outcome::Names(names) = listing.read().await.unwrap() {
        seen += names.len();
        most = most.max(names.len() + listing.held());
    }
    assert_eq!((seen, most), (100_000, 1000), "a page is held, and no more");
}

/// Also with what a bucket does not hold in the order of its names: prefixes between keys, and names of several bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_files_of_a_real_server_are_listed_once_each() {
    const FILES: usize = 10_000;
    let settings = settings(server().await.endpoint());
    let place = directory();
    let bucket = Bucket::new(&settings).unwrap();
    let prefix = format!("test/{}", String::from_utf8_lossy(&place));
    let name = |number: usize| match number % 4 {
        0 => format!("{number:05} ä&<"),
        1 => format!("{number:05}/file"),
        _ => format!("{number:05}"),
    };
    stream::iter(0..FILES)
        .map(|number| {
            let key = Key::listed(&format!("{prefix}/{}", name(number)));
            let bucket = Arc::clone(&bucket);
            async move {
                bucket
                    .put(&key, PutPayload::new(), Over::Anything)
                    .await
                    .unwrap()
            }
        })
        .buffer_unordered(64)
        .collect::<()>()
        .await;
    let client = session(&settings, &place);
    let mut names = client.names("/").await;
    names.sort();
    let shown = |number| name(number).trim_end_matches("/file").as_bytes().to_vec();
    let mut expected: Vec<_> = (0..FILES).map(shown).collect();
    expected.sort();
    assert!(names == expected, "{} names", names.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_fetched_as_they_are_read_and_a_circle_of_them_is_an_error() {
    let front = Front::start(|_| Fate::Answer(page(6, false))).await;
    let client = session(&settings(front.endpoint.clone()), b"many");
    let handle = crate::operation::HandleId(1 << 20);
    let opendir = Operation::Opendir {
        path: path("/"),
        handle,
    };
    client.ask(opendir).await.unwrap();
    for _ in 0..10 {
        client.ask(Operation::Readdir { handle }).await.unwrap();
    }
    assert_eq!(front.count("GET", ""), 1);
    let refused = client.refusal(Operation::Readdir { handle }).await;
    assert_eq!(refused, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_no_path_leads_to_hide_nothing_else() {
    let listing = "<ListBucketResult><Contents><Key>test/odd/a</Key><Size>1</Size></Contents>\
                   <Contents><Key>test/odd/.portcullis-0123456789abcdef.part</Key><Size>1</Size></Contents>\
                   <CommonPrefixes><Prefix>test/odd//</Prefix></CommonPrefixes>\
                   <CommonPrefixes><Prefix>test/odd/../</Prefix></CommonPrefixes>\
                   <CommonPrefixes><Prefix>test/odd/b/</Prefix></CommonPrefixes></ListBucketResult>";
    let front = Front::start(|_| Fate::Answer(listing.to_owned())).await;
    let client = session(&settings(front.endpoint.clone()), b"odd");
    assert_eq!(client.names("/").await, [b"a", b"b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_more_than_a_thousand_files_is_not_moved() {
    let front = Front::start(|seen| {
        if seen.is("GET", "prefix=test%2Fx%2Fold%2F") {
            Fate::Answer(page(0, false))
        } else if seen.is("GET", "list-type") {
            Fate::Answer("<ListBucketResult></ListBucketResult>".to_owned())
        } else {
            Fate::Refuse(404, "")
        }
    })
    .await;
    let client = session(&settings(front.endpoint.clone()), b"x");
    let refused = client.refusal(rename("/old", "/new")).await;
    assert_eq!(refused, ErrorKind::Unsupported);
    assert_eq!(front.count("PUT", "") + front.count("DELETE", ""), 0);
}
