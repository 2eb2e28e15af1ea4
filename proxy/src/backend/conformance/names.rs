//! Rules of names: renaming, removing, directories, listings, links.

use super::{READ, REPLACE, Subject, client::path};
use crate::{
    backend::ErrorKind,
    operation::{Attributes, Operation, Outcome},
};

fn rename(from: &str, to: &str) -> Operation {
    Operation::Rename {
        from: path(from),
        to: path(to),
    }
}

pub(crate) async fn a_rename_moves_and_never_replaces(subject: &Subject) {
    let client = subject.client();
    client.mkdir("/d").await;
    client.put("/a", "a").await;
    client.put("/b", "b").await;
    let refused = client.refusal(rename("/a", "/b")).await;
    assert!(
        matches!(refused, ErrorKind::AlreadyExists | ErrorKind::Failure),
        "{refused:?}"
    );
    assert_eq!(client.get("/b").await, b"b");
    client.done(rename("/a", "/d/c")).await;
    assert!(client.is_missing("/a").await);
    assert_eq!(client.get("/d/c").await, b"a");
    client.done(rename("/d", "/e")).await;
    assert_eq!(client.get("/e/c").await, b"a");
    assert_eq!(
        client.refusal(rename("/nothing", "/f")).await,
        ErrorKind::NotFound
    );
}

pub(crate) async fn a_posix_rename_replaces(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "new").await;
    client.put("/b", "old").await;
    let replace = Operation::PosixRename {
        from: path("/a"),
        to: path("/b"),
    };
    match client.ask(replace).await {
        Ok(outcome) => assert_eq!(outcome, Outcome::Done),
        Err(refused) => {
            assert!(!client.can().atomic_replace, "{refused}");
            assert_eq!(refused.kind, ErrorKind::Unsupported);
            assert_eq!(client.get("/b").await, b"old");
            return;
        }
    }
    assert!(client.is_missing("/a").await);
    assert_eq!(client.get("/b").await, b"new");
}

pub(crate) async fn a_removed_file_is_gone_and_a_missing_one_is_not_found(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "a").await;
    client.put("/b", "b").await;
    let remove = |name| Operation::Remove { path: path(name) };
    client.done(remove("/a")).await;
    assert!(client.is_missing("/a").await);
    assert_eq!(client.refusal(remove("/a")).await, ErrorKind::NotFound);
    let refused = client.refusal(client.open_operation("/a", READ)).await;
    assert_eq!(refused, ErrorKind::NotFound);
    assert_eq!(client.get("/b").await, b"b");
}

pub(crate) async fn directories_are_made_and_removed_only_while_empty(subject: &Subject) {
    let client = subject.client();
    let rmdir = |name| Operation::Rmdir { path: path(name) };
    client.mkdir("/d").await;
    let again = client
        .refusal(Operation::Mkdir {
            path: path("/d"),
            attributes: Attributes::default(),
        })
        .await;
    assert!(
        matches!(again, ErrorKind::AlreadyExists | ErrorKind::Failure),
        "{again:?}"
    );
    client.put("/d/a", "a").await;
    let full = client.refusal(rmdir("/d")).await;
    assert!(
        matches!(full, ErrorKind::NotEmpty | ErrorKind::Failure),
        "{full:?}"
    );
    assert_eq!(client.get("/d/a").await, b"a");
    client.done(Operation::Remove { path: path("/d/a") }).await;
    client.done(rmdir("/d")).await;
    assert!(client.is_missing("/d").await);
    assert_eq!(client.refusal(rmdir("/d")).await, ErrorKind::NotFound);
}

pub(crate) async fn a_listing_names_everything_once_and_nothing_else(subject: &Subject) {
    const FILES: usize = 250;
    let client = subject.client();
    client.mkdir("/d").await;
    client.mkdir("/d/sub").await;
    for number in 0..FILES {
        client.put(format!("/d/file {number:03}.txt"), "xyz").await;
    }
    let mut entries = client.list("/d").await;
    let has_sizes = client.can().shows.listed_sizes;
    entries.sort_by(|one, two| one.name.cmp(&two.name));
    assert_eq!(entries.len(), FILES + 1, "neither `.` nor `..` is listed");
    let directory = entries.pop().unwrap();
    assert_eq!(directory.name, "sub");
    assert!(directory.attributes.is_directory());
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(entry.name, format!("file {number:03}.txt"));
        assert_eq!(entry.attributes.size, has_sizes.then_some(3));
        assert!(!entry.attributes.is_directory());
    }
    assert!(client.names("/d/sub").await.is_empty());
}

pub(crate) async fn a_name_that_is_not_utf8_is_kept_byte_for_byte(subject: &Subject) {
    let client = subject.client();
    let (grave, acute) = (&b"/caf\xe8.txt"[..], &b"/caf\xe9.txt"[..]);
    if !client.can().any_name {
        // Neither taken nor changed to something else; its neighbour in UTF-8 passes.
        let refused = client.refusal(client.open_operation(grave, REPLACE)).await;
        assert_eq!(refused, ErrorKind::Unsupported);
        client.put("/café.txt", "acute").await;
        assert_eq!(client.names("/").await, ["café.txt".as_bytes()]);
        return;
    }
    client.put(grave, "grave").await;
    client.put(acute, "acute").await;
    assert_eq!(
        client.names("/").await,
        [b"caf\xe8.txt".to_vec(), b"caf\xe9.txt".to_vec()]
    );
    assert_eq!(client.get(grave).await, b"grave");
    client
        .done(Operation::Rename {
            from: path(acute),
            to: path(b"/\xfe"),
        })
        .await;
    assert_eq!(client.get(b"/\xfe").await, b"acute");
    client.done(Operation::Remove { path: path(grave) }).await;
    assert_eq!(client.names("/").await, [b"\xfe"]);
}

pub(crate) async fn links_are_stored_as_they_were_given(subject: &Subject) {
    let client = subject.client();
    client.mkdir("/d").await;
    client.put("/d/a", "a").await;
    let link = Operation::Symlink {
        target: "d/a".into(),
        link: path("/link"),
    };
    if !client.can().symlinks {
        assert_eq!(client.refusal(link).await, ErrorKind::Unsupported);
        return;
    }
    client.done(link).await;
    assert_eq!(
        client
            .ask(Operation::Readlink {
                path: path("/link")
            })
            .await
            .unwrap(),
        Outcome::Target("d/a".into())
    );
    assert_eq!(client.get("/link").await, b"a");
    assert_eq!(client.stat("/link").await.unwrap().size, Some(1));
    match client
        .ask(Operation::Lstat {
            path: path("/link"),
        })
        .await
    {
        Ok(Outcome::Attributes(attributes)) => assert_eq!(
            attributes.permissions.unwrap() & Attributes::TYPE_MASK,
            Attributes::SYMLINK
        ),
        other => panic!("LSTAT gave {other:?}"),
    }
    let _ = client
        .refusal(Operation::Readlink { path: path("/d/a") })
        .await;
    client
        .done(Operation::Remove {
            path: path("/link"),
        })
        .await;
    assert_eq!(client.get("/d/a").await, b"a");
}

pub(crate) async fn a_hard_link_is_the_same_file_and_never_replaces(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "content").await;
    client.put("/taken", "old").await;
    let link = |to: &str| Operation::Hardlink {
        from: path("/a"),
        to: path(to),
    };
    match client.ask(link("/b")).await {
        Ok(outcome) => assert_eq!(outcome, Outcome::Done),
        Err(refused) => {
            assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused}");
            assert!(client.is_missing("/b").await);
            return;
        }
    }
    assert_eq!(client.get("/b").await, b"content");
    client.refusal(link("/taken")).await;
    assert_eq!(client.get("/taken").await, b"old");
    client.done(Operation::Remove { path: path("/a") }).await;
    assert_eq!(client.get("/b").await, b"content");
}
