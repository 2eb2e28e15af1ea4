//! Rules of interrupted uploads: continued by the account that began them, and by nobody else.

use sha2::{Digest as _, Sha256};

use super::{Client, READ, REPLACE, Subject, WRITE, client::path};
use crate::{
    backend::{ErrorKind, Owner},
    operation::{Access, Operation},
};

/// As lftp opens a file to go on with it. PuTTY's psftp and FileZilla open it with [`WRITE`] alone.
const CONTINUE: Access = Access {
    create: true,
    ..WRITE
};
/// As OpenSSH's `reput` does.
const APPEND: Access = Access {
    append: true,
    ..CONTINUE
};
const FIRST: &[u8] = b"the first half, ";
const SECOND: &[u8] = b"and the second";

fn whole() -> Vec<u8> {
    [FIRST, SECOND].concat()
}

fn sha256(content: &[u8]) -> Option<[u8; 32]> {
    Some(Sha256::digest(content).into())
}

fn stranger(subject: &Subject) -> Client {
    subject.client_of(&Owner::new(*b"mallory"))
}

/// Leaves the first half of an upload to `name`. False if this backend keeps none.
async fn interrupted(subject: &Subject, name: &str) -> bool {
    let client = subject.client();
    let handle = client.open(name, REPLACE).await;
    client.write(handle, 0, FIRST).await;
    client.end().await;
    is_kept(&client)
}

fn is_kept(client: &Client) -> bool {
    let least = client.can().resume_from;
    least.is_some_and(|least| least <= FIRST.len() as u64)
}

/// Goes on as a client does that asks for the size of what is there, and closes.
async fn finish(client: &Client, access: Access) -> Option<[u8; 32]> {
    let size = client.stat("/a").await.unwrap().size.unwrap();
    let handle = client.open("/a", access).await;
    let rest = whole().split_off(usize::try_from(size).unwrap());
    client.write(handle, size, rest).await;
    client.close_digested(handle).await
}

pub(crate) async fn an_interrupted_upload_is_resumed_and_ends_byte_identical(subject: &Subject) {
    for access in [
        WRITE,
        CONTINUE,
        APPEND,
        // The policy makes every upload of an account exclusive that must not overwrite.
        Access {
            exclusive: true,
            ..CONTINUE
        },
        Access {
            exclusive: true,
            ..APPEND
        },
    ] {
        if !interrupted(subject, "/a").await {
            assert!(subject.client().is_missing("/a").await);
            return subject.expect_on_disk(&[]);
        }
        let client = subject.client();
        let shown = client.stat("/a").await.unwrap();
        assert_eq!(
            shown.size,
            Some(FIRST.len() as u64 - 1),
            "there is always something left to send"
        );
        assert!(!shown.is_directory());
        let lstat = Operation::Lstat { path: path("/a") };
        assert!(client.ask(lstat).await.is_ok());
        assert!(client.names("/").await.is_empty(), "it is never listed");
        let read = client.open_operation("/a", READ);
        assert_eq!(client.refusal(read).await, ErrorKind::NotFound);
        assert_eq!(
            finish(&client, access).await,
            sha256(&whole()),
            "{access:?}"
        );
        assert_eq!(client.get("/a").await, whole());
        assert_eq!(client.names("/").await, [b"a"]);
        subject.expect_on_disk(&["a"]);
        client.done(Operation::Remove { path: path("/a") }).await;
    }
}

pub(crate) async fn an_upload_that_is_interrupted_twice_is_resumed_twice(subject: &Subject) {
    if !interrupted(subject, "/a").await {
        return;
    }
    let client = subject.client();
    let handle = client.open("/a", APPEND).await;
    client
        .write(handle, 0, whole()[FIRST.len() - 1..20].to_vec())
        .await;
    client.end().await;
    let client = subject.client();
    assert_eq!(client.stat("/a").await.unwrap().size, Some(19));
    assert_eq!(finish(&client, CONTINUE).await, sha256(&whole()));
    assert_eq!(client.get("/a").await, whole());
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn another_account_neither_sees_nor_continues_an_interrupted_upload(
    subject: &Subject,
) {
    let is_kept = interrupted(subject, "/a").await;
    let other = stranger(subject);
    assert!(other.is_missing("/a").await);
    let lstat = Operation::Lstat { path: path("/a") };
    assert_eq!(other.refusal(lstat).await, ErrorKind::NotFound);
    let remove = Operation::Remove { path: path("/a") };
    assert_eq!(other.refusal(remove).await, ErrorKind::NotFound);
    let open = other.open_operation("/a", WRITE);
    assert_eq!(other.refusal(open).await, ErrorKind::NotFound);
    let handle = other.open("/b", CONTINUE).await;
    other.write(handle, 0, "b").await;
    other.close(handle).await;
    assert!(other.names("/").await == [b"b"]);
    if is_kept {
        assert_eq!(finish(&subject.client(), CONTINUE).await, sha256(&whole()));
    }
    // Both have begun the same path; neither's bytes reach the other's file.
    interrupted(subject, "/c").await;
    let handle = other.open("/c", CONTINUE).await;
    other.write(handle, 0, "c").await;
    other.close(handle).await;
    assert_eq!(subject.client().get("/c").await, b"c");
}

pub(crate) async fn an_open_that_truncates_discards_the_interrupted_upload(subject: &Subject) {
    interrupted(subject, "/a").await;
    let client = subject.client();
    client.put("/a", "new").await;
    assert_eq!(client.get("/a").await, b"new");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn a_write_from_the_beginning_does_not_keep_the_interrupted_end(
    subject: &Subject,
) {
    interrupted(subject, "/a").await;
    let client = subject.client();
    let handle = client.open("/a", CONTINUE).await;
    client.write(handle, 0, "new").await;
    client.close(handle).await;
    assert_eq!(client.get("/a").await, b"new");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn a_file_that_stands_hides_the_interrupted_upload(subject: &Subject) {
    interrupted(subject, "/a").await;
    stranger(subject).put("/a", "published").await;
    let client = subject.client();
    client.expect_size("/a", 9).await;
    assert_eq!(client.get("/a").await, b"published");
    client.put("/a", "replaced").await;
    assert_eq!(client.get("/a").await, b"replaced");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn an_interrupted_upload_that_is_closed_unwritten_is_not_published(
    subject: &Subject,
) {
    if !interrupted(subject, "/a").await {
        return;
    }
    let client = subject.client();
    let handle = client.open("/a", CONTINUE).await;
    client.refusal(Operation::Close { handle }).await;
    assert!(stranger(subject).is_missing("/a").await);
    let remove = || Operation::Remove { path: path("/a") };
    client.done(remove()).await;
    assert!(client.is_missing("/a").await);
    assert_eq!(client.refusal(remove()).await, ErrorKind::NotFound);
    subject.expect_on_disk(&[]);
}

pub(crate) async fn an_upload_with_a_gap_can_not_be_resumed(subject: &Subject) {
    let client = subject.client();
    if !client.can().random_access || !is_kept(&client) {
        return;
    }
    for gap in [FIRST.len() as u64 + 1, 3] {
        let handle = client.open("/a", REPLACE).await;
        client.write(handle, 0, FIRST).await;
        client.write(handle, gap, "elsewhere").await;
        let client = subject.client();
        assert!(client.is_missing("/a").await, "under way");
    }
    client.end().await;
    assert!(subject.client().is_missing("/a").await);
    subject.expect_on_disk(&[]);
}

pub(crate) async fn two_uploads_to_one_path_at_once_do_not_mix(subject: &Subject) {
    let (one, two) = (subject.client(), subject.client());
    let first = one.open("/a", REPLACE).await;
    one.write(first, 0, "one,").await;
    for access in [REPLACE, CONTINUE] {
        assert!(two.is_missing("/a").await, "the other one is under way");
        let second = two.open("/a", access).await;
        two.write(second, 0, "two").await;
        two.close(second).await;
        assert_eq!(two.get("/a").await, b"two");
        two.done(Operation::Remove { path: path("/a") }).await;
    }
    one.write(first, 4, "whole").await;
    one.close(first).await;
    assert_eq!(two.get("/a").await, b"one,whole");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn what_was_not_written_in_order_is_digested_from_the_file(subject: &Subject) {
    let client = subject.client();
    let can = client.can();
    if !can.random_access {
        return;
    }
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 4, "tail").await;
    client.write(handle, 0, "head").await;
    assert_eq!(client.close_digested(handle).await, sha256(b"headtail"));
    let handle = client.open("/b", REPLACE).await;
    client.write(handle, 0, "in order").await;
    assert_eq!(
        client.close_digested(handle).await,
        None,
        "what passed through is all of it"
    );
    if can.update {
        let handle = client.open("/a", WRITE).await;
        client.write(handle, 0, "H").await;
        assert_eq!(client.close_digested(handle).await, sha256(b"Headtail"));
    }
}
