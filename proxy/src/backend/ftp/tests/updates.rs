//! Files that are continued or changed, and uploads that are continued.

use super::{
    path,
    scripted::{REFUSED, Script, Scripted},
};
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, WRITE, opened_handle},
    },
    operation::{Access, Attributes, Operation},
};

const APPEND: Access = Access {
    append: true,
    create: true,
    ..WRITE
};
const CONTINUE: Access = Access {
    create: true,
    ..WRITE
};

async fn count(server: &Scripted, verb: &str) -> usize {
    server
        .commands()
        .iter()
        .filter(|line| line.starts_with(verb))
        .count()
}

#[tokio::test]
async fn a_file_is_continued_at_its_end_and_the_old_one_stands_until_close() {
    for access in [WRITE, CONTINUE, APPEND] {
        let server = Scripted::start(Script::default()).await;
        server.has("/a", b"the beginning");
        let client = server.client();
        let handle = client.open("/a", access).await;
        client.write(handle, 13, ", the middle").await;
        client.write(handle, 25, " and the end").await;
        assert_eq!(server.file("/a").unwrap(), b"the beginning");
        client.close(handle).await;
        let whole = b"the beginning, the middle and the end";
        assert_eq!(server.file("/a").unwrap(), whole);
        assert_eq!(server.names(), ["/a"]);
    }
}

#[tokio::test]
async fn a_file_beyond_the_copy_limit_is_refused_with_the_way_out_and_one_at_the_limit_is_continued()
 {
    let server = Scripted::start(Script::default()).await;
    server.has("/large", &vec![1; (1 << 20) + 1]);
    server.has("/limit", &vec![1; 1 << 20]);
    server.has("/empty", b"");
    let client = server.client();
    let open = client.open_operation("/large", APPEND);
    let error = client.ask(open).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("copy_limit_bytes"), "{error}");
    for (name, length) in [("/limit", 1 << 20), ("/empty", 0)] {
        let handle = client.open(name, WRITE).await;
        client.write(handle, length as u64, "end").await;
        client.close(handle).await;
        assert_eq!(server.file(name).unwrap().len(), length + 3);
    }
}

#[tokio::test]
async fn a_changed_file_can_be_read_cut_and_extended_and_grows_to_the_limit_only() {
    let server = Scripted::start(Script::default()).await;
    server.has("/a", b"0123456789");
    let client = server.client();
    let both = Access {
        read: true,
        ..WRITE
    };
    let handle = client.open("/a", both).await;
    assert_eq!(client.read(handle, 2, 3).await, "234");
    client.write(handle, 12, "cd").await;
    assert_eq!(client.read(handle, 8, 100).await, &b"89\0\0cd"[..]);
    let cut = |size| Operation::Fsetstat {
        handle,
        attributes: Attributes {
            size: Some(size),
            ..Attributes::default()
        },
    };
    client.done(cut(4)).await;
    client.close(handle).await;
    assert_eq!(server.file("/a").unwrap(), b"0123");

    let handle = client.open("/a", both).await;
    client.write(handle, 0, "x").await;
    let write = |offset| Operation::Write {
        handle,
        offset,
        data: "y".into(),
    };
    client.done(write((1 << 20) - 1)).await;
    assert_eq!(client.refusal(write(1 << 20)).await, ErrorKind::Unsupported);
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::Unsupported);
    assert_eq!(
        server.file("/a").unwrap(),
        b"0123",
        "spoiled, not published"
    );
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_not_overwritten() {
    for offset in [3, 0] {
        let server = Scripted::start(Script::default()).await;
        server.has("/a", b"old");
        let client = server.client();
        let handle = client.open("/a", WRITE).await;
        client.write(handle, offset, "mine").await;
        server.has("/a", b"theirs");
        let error = client.ask(Operation::Close { handle }).await.unwrap_err();
        assert!(error.message.contains("somebody else"), "{error}");
        assert_eq!(server.file("/a").unwrap(), b"theirs");
        assert_eq!(server.names(), ["/a"]);
    }
}

#[tokio::test]
async fn a_file_that_is_opened_for_writing_and_closed_is_left_alone() {
    let server = Scripted::start(Script::default()).await;
    server.has("/a", b"content");
    let client = server.client();
    let handle = client.open("/a", WRITE).await;
    client.close(handle).await;
    assert_eq!(server.file("/a").unwrap(), b"content");
    assert_eq!(
        count(&server, "STOR").await + count(&server, "RETR").await,
        0
    );
}

async fn interrupted(server: &Scripted) -> Client {
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "0123456789").await;
    client.end().await;
    server.client()
}

#[tokio::test]
async fn an_interrupted_upload_is_continued_by_rest_or_where_that_is_missing_by_appe() {
    for rest in [true, false] {
        let answers = if rest {
            [].into()
        } else {
            [("REST", REFUSED)].into()
        };
        let server = Scripted::start(Script {
            answers,
            resume: true,
            ..Script::default()
        })
        .await;
        let client = interrupted(&server).await;
        assert_eq!(client.stat("/a").await.unwrap().size, Some(9));
        let handle = client.open("/a", APPEND).await;
        client.write(handle, 9, "9abcdef").await;
        client.close(handle).await;
        assert_eq!(server.file("/a").unwrap(), b"0123456789abcdef");
        assert_eq!(count(&server, "APPE").await, usize::from(!rest));
        assert_eq!(client.get("/a").await, b"0123456789abcdef");
    }
}

#[tokio::test]
async fn where_nothing_can_be_continued_the_client_is_told_and_begins_anew() {
    let server = Scripted::start(Script {
        answers: [("REST", REFUSED), ("APPE", "550 not permitted")].into(),
        resume: true,
        ..Script::default()
    })
    .await;
    let client = interrupted(&server).await;
    let handle = client.open("/a", APPEND).await;
    let write = Operation::Write {
        handle,
        offset: 9,
        data: "9abc".into(),
    };
    assert_eq!(client.refusal(write).await, ErrorKind::Unsupported);
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::Unsupported);
    assert!(client.is_missing("/a").await, "nothing is offered again");
    let handle = client.open("/a", CONTINUE).await;
    client.write(handle, 0, "whole").await;
    client.close(handle).await;
    assert_eq!(server.file("/a").unwrap(), b"whole");
    assert_eq!(server.names(), ["/a"]);
}

#[tokio::test]
async fn a_transfer_that_finds_no_port_is_asked_for_once_more_and_no_third_time() {
    for verb in ["STOR", "RETR", "MLSD"] {
        let server = Scripted::start(Script {
            features: &["EPSV", "SIZE", "MLST type*;size*;"],
            no_port_at: Some(verb),
            ..Script::default()
        })
        .await;
        let client = server.client();
        client.put("/a", "whole").await;
        assert_eq!(client.get("/a").await, b"whole", "{verb}");
        assert_eq!(client.names("/").await, [b"a"], "{verb}");
    }
    let server = Scripted::start(Script {
        features: &["EPSV", "SIZE"],
        answers: [("RETR", "425 Address already in use")].into(),
        ..Script::default()
    })
    .await;
    let client = server.client();
    client.put("/a", "whole").await;
    let open = client.open_operation("/a", READ);
    let refused = match client.ask(open.clone()).await {
        Ok(_) => {
            let handle = opened_handle(&open);
            let (offset, length) = (0, 10);
            let read = Operation::Read {
                handle,
                offset,
                length,
            };
            client.ask(read).await.unwrap_err()
        }
        Err(refused) => refused,
    };
    assert!(refused.message.contains("425"), "{refused}");
}

#[tokio::test]
async fn an_upload_is_kept_only_where_the_server_says_that_it_takes_the_rest() {
    for (answers, is_kept) in [
        (vec![("REST", "350 go on")], true),
        (vec![("REST", REFUSED), ("APPE", "501 which file?")], true),
        (vec![("REST", REFUSED), ("APPE", REFUSED)], false),
    ] {
        let server = Scripted::start(Script {
            features: &["EPSV", "SIZE"],
            answers: answers.iter().copied().collect(),
            resume: true,
            ..Script::default()
        })
        .await;
        let client = interrupted(&server).await;
        assert_eq!(server.names().len(), usize::from(is_kept), "{answers:?}");
        assert_eq!(client.is_missing("/a").await, !is_kept, "{answers:?}");
        assert_eq!(client.can().resume_from.is_some(), is_kept, "{answers:?}");
    }
}

#[tokio::test]
async fn a_client_that_begins_again_within_an_interrupted_upload_gets_no_foreign_end() {
    let server = Scripted::start(Script {
        resume: true,
        ..Script::default()
    })
    .await;
    for (offset, rest, whole) in [(0, "new", "new"), (4, "456789abc", "0123456789abc")] {
        let client = interrupted(&server).await;
        let handle = client.open("/a", CONTINUE).await;
        client.write(handle, offset, rest).await;
        client.close(handle).await;
        assert_eq!(server.file("/a").unwrap(), whole.as_bytes());
        client.done(Operation::Remove { path: path("/a") }).await;
    }
    // FTP can't cut what the server has.
    let client = interrupted(&server).await;
    let handle = client.open("/a", CONTINUE).await;
    client.write(handle, 4, "xy").await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert!(error.message.contains("10 bytes of 6"), "{error}");
    assert!(server.names().is_empty(), "{:?}", server.names());
}
