//! Uploads that go wrong, and what is published all the same.

use std::time::Instant;

use super::{
    path,
    scripted::{Script, Scripted, TIMEOUT},
};
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, REPLACE},
    },
    operation::{Access, Attributes, HandleId, Operation},
};

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_published() {
    let server = Scripted::start(Script {
        room: Some(100_000),
        ..Script::default()
    })
    .await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    let mut refused = None;
    for number in 0..1000 {
        let write = Operation::Write {
            handle,
            offset: number * 100_000,
            data: vec![0; 100_000].into(),
        };
        if let Err(error) = client.ask(write).await {
            refused = Some(error.kind);
            break;
        }
    }
    assert_eq!(refused, Some(ErrorKind::NoSpace));
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::NoSpace
    );
    assert!(server.names().is_empty(), "{:?}", server.names());
}

#[tokio::test]
async fn an_upload_that_ends_with_a_gap_an_overlap_or_a_refusal_is_withdrawn() {
    let server = Scripted::start(Script::default()).await;
    server.has("/a", b"old");
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "head").await;
    client.write(handle, 8, "tail").await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert!(
        error.message.contains("bytes 4 to 8 were never written"),
        "{error}"
    );

    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 2, "tail").await;
    assert_eq!(
        try_write(&client, handle, 0, b"head".to_vec()).await,
        ErrorKind::Unsupported
    );
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );

    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "head").await;
    assert_eq!(
        try_write(&client, handle, 2, b"again".to_vec()).await,
        ErrorKind::Unsupported
    );
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );

    assert_eq!(server.names(), ["/a"]);
    assert_eq!(server.file("/a").unwrap(), b"old");
}

#[tokio::test]
async fn writes_out_of_order_are_put_in_order_within_the_window_and_refused_beyond() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 8, "tail").await;
    client.write(handle, 4, "body").await;
    client.write(handle, 0, "head").await;
    client.close(handle).await;
    assert_eq!(server.file("/a").unwrap(), b"headbodytail");

    let handle = client.open("/b", REPLACE).await;
    let chunk = vec![7; 16 << 20];
    client.write(handle, 1, chunk.clone()).await;
    client.write(handle, 1 + (16 << 20), chunk.clone()).await;
    assert_eq!(
        try_write(&client, handle, 1 + (32 << 20), vec![7]).await,
        ErrorKind::Unsupported
    );
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );
    assert_eq!(server.names(), ["/a"]);
}

#[tokio::test]
async fn a_server_that_keeps_fewer_bytes_than_it_confirms_is_found_out() {
    let server = Scripted::start(Script {
        answers: [("SIZE", "213 3")].into(),
        ..Script::default()
    })
    .await;
    let client = server.client();
    let handle = client
        .open(
            "/a",
            Access {
                truncate: true,
                ..REPLACE
            },
        )
        .await;
    client.write(handle, 0, "content").await;
    let error = client.ask(Operation::Close { handle }).await.unwrap_err();
    assert!(error.message.contains("3 bytes of 7"), "{error}");
    assert!(server.names().is_empty());
}

#[tokio::test]
async fn where_rename_does_not_replace_the_old_file_is_moved_aside_first() {
    let server = Scripted::start(Script {
        replaces: false,
        ..Script::default()
    })
    .await;
    server.has("/a", b"old");
    let client = server.client();
    client.put("/a", "new").await;
    assert_eq!(server.file("/a").unwrap(), b"new");
    client.put("/b", "b").await;
    client
        .done(Operation::PosixRename {
            from: path("/b"),
            to: path("/a"),
        })
        .await;
    assert_eq!(server.file("/a").unwrap(), b"b");
    let missing = Operation::PosixRename {
        from: path("/b"),
        to: path("/a"),
    };
    assert_eq!(client.refusal(missing).await, ErrorKind::NotFound);
    assert_eq!(
        server.names(),
        ["/a"],
        "neither the old file nor a staging file is left"
    );
}

#[tokio::test]
async fn attributes_that_the_server_cant_set_are_refused_and_do_not_cost_the_upload() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "content").await;
    let set = |attributes| Operation::Fsetstat { handle, attributes };
    client
        .done(set(Attributes {
            times: Some((1, 1)),
            ..Attributes::default()
        }))
        .await;
    assert_eq!(
        client.refusal(Operation::Close { handle }).await,
        ErrorKind::Unsupported
    );
    assert_eq!(server.file("/a").unwrap(), b"content");

    // Learned: the next one hears it before the upload ends.
    let handle = client.open("/b", REPLACE).await;
    let times = Attributes {
        times: Some((1, 1)),
        ..Attributes::default()
    };
    let set = Operation::Fsetstat {
        handle,
        attributes: times.clone(),
    };
    assert_eq!(client.refusal(set).await, ErrorKind::Unsupported);
    client.close(handle).await;
    let set = Operation::Setstat {
        path: path("/b"),
        attributes: times,
    };
    assert_eq!(client.refusal(set).await, ErrorKind::Unsupported);
    let size = Operation::Setstat {
        path: path("/b"),
        attributes: Attributes {
            size: Some(0),
            ..Attributes::default()
        },
    };
    assert_eq!(client.refusal(size).await, ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_session_that_is_dropped_without_its_end_leaves_nothing_behind() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "half").await;
    super::until("the staging file to come", || server.names().len() == 1).await;
    drop(client);
    super::until("the staging file to go", || server.names().is_empty()).await;
}

#[tokio::test]
async fn more_uploads_than_connections_are_refused_and_one_fewer_goes_on() {
    let server = Scripted::start(Script::default()).await;
    let client = server.client();
    let mut handles = Vec::new();
    for number in 0..3 {
        handles.push(client.open(format!("/{number}"), REPLACE).await);
    }
    let error = client
        .ask(client.open_operation("/3", REPLACE))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("close one first"), "{error}");
    assert!(
        client.is_missing("/x").await,
        "names are served all the while"
    );
    for handle in handles {
        client.close(handle).await;
    }
    client.put("/3", "").await;
    assert_eq!(server.names(), ["/0", "/1", "/2", "/3"]);
}

async fn try_write(client: &Client, handle: HandleId, offset: u64, data: Vec<u8>) -> ErrorKind {
    client
        .refusal(Operation::Write {
            handle,
            offset,
            data: data.into(),
        })
        .await
}

#[tokio::test]
async fn a_server_that_stops_reading_costs_one_deadline_and_the_upload() {
    let server = Scripted::start(Script {
        stalls: true,
        ..Script::default()
    })
    .await;
    let client = server.client();
    let handle = client.open("/a", REPLACE).await;
    let begun = Instant::now();
    let mut refused = None;
    for number in 0..1000 {
        let write = Operation::Write {
            handle,
            offset: number * 100_000,
            data: vec![0; 100_000].into(),
        };
        if let Err(error) = client.ask(write).await {
            refused = Some(error.kind);
            break;
        }
    }
    assert_eq!(refused, Some(ErrorKind::TimedOut));
    assert!(begun.elapsed() < TIMEOUT * 5, "{:?}", begun.elapsed());
    let closed = client.refusal(Operation::Close { handle }).await;
    assert_eq!(closed, ErrorKind::TimedOut);
    assert!(server.names().is_empty(), "{:?}", server.names());
}

#[tokio::test]
async fn set_user_id_is_not_passed_on_and_plain_permissions_are() {
    let server = Scripted::start(Script {
        answers: [("SITE", "200 changed")].into(),
        ..Script::default()
    })
    .await;
    server.has("/a", b"");
    let set = Operation::Setstat {
        path: path("/a"),
        attributes: Attributes {
            permissions: Some(0o104_750),
            ..Attributes::default()
        },
    };
    server.client().done(set).await;
    assert!(server.commands().contains(&"SITE CHMOD 750 /a".to_owned()));
}
