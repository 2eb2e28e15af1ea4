//! Rules of uploads: nothing half-done is ever visible.

use super::{
    Client, READ, REPLACE, Subject, WRITE,
    client::{opened_handle, path},
};
use crate::{
    backend::{Capabilities, ErrorKind, Owner, staging},
    operation::{Access, Attributes, Operation, Outcome},
};

const EXCLUSIVE: Access = Access {
    exclusive: true,
    ..REPLACE
};

pub(crate) async fn an_upload_appears_complete_at_close_and_not_before(subject: &Subject) {
    let (writer, reader) = (subject.client(), subject.client());
    let handle = writer.open("/a.csv", REPLACE).await;
    writer.write(handle, 0, "first,").await;
    assert!(reader.is_missing("/a.csv").await);
    assert!(
        writer.is_missing("/a.csv").await,
        "not even its writer sees it"
    );
    assert!(
        reader.names("/").await.is_empty(),
        "the staging file is hidden"
    );
    writer.write(handle, 6, "second").await;
    writer.close(handle).await;
    assert_eq!(reader.get("/a.csv").await, b"first,second");
    assert_eq!(reader.names("/").await, [b"a.csv"]);
    subject.expect_on_disk(&["a.csv"]);
}

pub(crate) async fn an_upload_is_synced_on_request_and_goes_on(subject: &Subject) {
    let client = subject.client();
    let handle = client.open("/a", REPLACE).await;
    client.write(handle, 0, "first,").await;
    match client.ask(Operation::Fsync { handle }).await {
        Ok(Outcome::Done) => {}
        Err(error) if error.kind == ErrorKind::Unsupported => {}
        other => panic!("FSYNC gave {other:?}"),
    }
    client.write(handle, 6, "second").await;
    client.close(handle).await;
    assert_eq!(client.get("/a").await, b"first,second");
}

pub(crate) async fn a_session_reads_what_it_uploads_and_no_other_does(subject: &Subject) {
    let (writer, other) = (subject.client(), subject.client());
    let upload = writer.open("/a", REPLACE).await;
    writer.write(upload, 0, "first,").await;
    let elsewhere = other.open_operation("/a", READ);
    assert_eq!(other.refusal(elsewhere).await, ErrorKind::NotFound);
    let missing = writer.open_operation("/b", READ);
    assert_eq!(writer.refusal(missing).await, ErrorKind::NotFound);
    if writer.can().read_back {
        let reader = writer.open("/a", READ).await;
        assert_eq!(writer.read(reader, 0, 100).await, "first,");
        writer.write(upload, 6, "second").await;
        assert_eq!(writer.read(reader, 6, 100).await, "second");
        let Ok(Outcome::Attributes(shown)) = writer.ask(Operation::Fstat { handle: reader }).await
        else {
            panic!("FSTAT of what is uploaded");
        };
        assert_eq!(shown.size, Some(12));
        // What is gone from the reader's hands goes on.
        writer.close(reader).await;
    } else {
        let open = writer.open_operation("/a", READ);
        assert_eq!(writer.refusal(open).await, ErrorKind::Unsupported);
        writer.write(upload, 6, "second").await;
    }
    assert!(
        other.is_missing("/a").await,
        "it is not published by being read"
    );
    writer.close(upload).await;
    assert_eq!(other.get("/a").await, b"first,second");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn a_handle_that_reads_an_upload_outlives_it(subject: &Subject) {
    let client = subject.client();
    if !client.can().read_back {
        return;
    }
    let upload = client.open("/a", REPLACE).await;
    client.write(upload, 0, "0123456789").await;
    let reader = client.open("/a", READ).await;
    client.close(upload).await;
    assert_eq!(client.read(reader, 5, 100).await, "56789");
    client.close(reader).await;
    assert_eq!(client.get("/a").await, b"0123456789");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn an_empty_upload_is_an_empty_file(subject: &Subject) {
    let client = subject.client();
    client.put("/empty", "").await;
    assert_eq!(client.get("/empty").await, b"");
    client.expect_size("/empty", 0).await;
}

pub(crate) async fn an_upload_that_is_not_closed_is_withdrawn_with_its_session(subject: &Subject) {
    let writer = subject.client();
    writer.put("/kept", "old").await;
    for name in ["/new", "/kept"] {
        let handle = writer.open(name, REPLACE).await;
        writer.write(handle, 0, "half of it").await;
    }
    writer.end().await;
    let reader = subject.client_of(&Owner::new(*b"mallory"));
    assert!(reader.is_missing("/new").await);
    assert_eq!(reader.get("/kept").await, b"old");
    assert_eq!(reader.names("/").await, [b"kept"]);
    if !subject.client().is_missing("/new").await {
        // Its account may come back for it.
        subject
            .client()
            .done(Operation::Remove { path: path("/new") })
            .await;
    }
    subject.expect_on_disk(&["kept"]);
}

pub(crate) async fn a_replaced_file_is_the_old_one_until_close(subject: &Subject) {
    let (writer, reader) = (subject.client(), subject.client());
    writer.put("/a", "the old content").await;
    let handle = writer.open("/a", REPLACE).await;
    writer.write(handle, 0, "new").await;
    assert_eq!(reader.get("/a").await, b"the old content");
    writer.close(handle).await;
    assert_eq!(reader.get("/a").await, b"new");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn an_exclusive_upload_leaves_an_existing_file_alone(subject: &Subject) {
    let client = subject.client();
    client.put("/taken", "old").await;
    let refused = client
        .refusal(client.open_operation("/taken", EXCLUSIVE))
        .await;
    assert_eq!(refused, ErrorKind::AlreadyExists);
    let handle = client.open("/free", EXCLUSIVE).await;
    client.write(handle, 0, "new").await;
    client.close(handle).await;
    assert_eq!(client.get("/taken").await, b"old");
    assert_eq!(client.get("/free").await, b"new");
}

pub(crate) async fn an_exclusive_upload_leaves_a_file_alone_that_appeared_meanwhile(
    subject: &Subject,
) {
    let (first, second) = (subject.client(), subject.client());
    let handle = first.open("/a", EXCLUSIVE).await;
    first.write(handle, 0, "late").await;
    second.put("/a", "early").await;
    let refused = first.refusal(Operation::Close { handle }).await;
    assert!(
        matches!(refused, ErrorKind::AlreadyExists | ErrorKind::Failure),
        "{refused:?}"
    );
    assert_eq!(second.get("/a").await, b"early");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn an_update_keeps_the_rest_of_the_file_and_shows_at_close(subject: &Subject) {
    let (writer, reader) = (subject.client(), subject.client());
    writer.put("/a", "0123456789").await;
    writer.expect_size("/a", 10).await;
    if !writer.can().update {
        return expect_update_refused(&writer, WRITE).await;
    }
    let handle = writer
        .open(
            "/a",
            Access {
                read: true,
                ..WRITE
            },
        )
        .await;
    writer.write(handle, 3, "xyz").await;
    assert_eq!(writer.read(handle, 0, 100).await, "012xyz6789");
    assert_eq!(reader.get("/a").await, b"0123456789");
    writer.close(handle).await;
    assert_eq!(reader.get("/a").await, b"012xyz6789");
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn an_append_goes_to_the_end(subject: &Subject) {
    let append = Access {
        append: true,
        create: true,
        ..WRITE
    };
    let client = subject.client();
    client.put("/a", "one,").await;
    client.expect_size("/a", 4).await;
    if !client.can().update {
        return expect_update_refused(&client, append).await;
    }
    let handle = client.open("/a", append).await;
    client.write(handle, 0, "two,").await;
    client.write(handle, 0, "three").await;
    client.close(handle).await;
    assert_eq!(client.get("/a").await, b"one,two,three");
}

async fn expect_update_refused(client: &Client, access: Access) {
    let before = client.get("/a").await;
    let refused = client.refusal(client.open_operation("/a", access)).await;
    assert_eq!(refused, ErrorKind::Unsupported);
    assert_eq!(client.get("/a").await, before);
}

pub(crate) async fn an_upload_to_a_missing_directory_or_over_a_directory_is_refused(
    subject: &Subject,
) {
    let client = subject.client();
    client.mkdir("/there").await;
    let missing = client
        .refusal(client.open_operation("/nowhere/a", REPLACE))
        .await;
    assert_eq!(missing, ErrorKind::NotFound);
    let over = client
        .refusal(client.open_operation("/there", REPLACE))
        .await;
    assert!(
        matches!(over, ErrorKind::IsADirectory | ErrorKind::Failure),
        "{over:?}"
    );
    client.put("/there/a", "x").await;
    assert_eq!(client.names("/there").await, [b"a"]);
    assert_eq!(client.names("/").await, [b"there"]);
}

pub(crate) async fn writing_without_creating_needs_a_file(subject: &Subject) {
    let client = subject.client();
    let truncate = Access {
        truncate: true,
        ..WRITE
    };
    for access in [WRITE, truncate, READ] {
        let refused = client.refusal(client.open_operation("/a", access)).await;
        assert_eq!(refused, ErrorKind::NotFound, "{access:?}");
    }
    client.put("/a", "old").await;
    let handle = client.open("/a", truncate).await;
    client.write(handle, 0, "n").await;
    client.close(handle).await;
    assert_eq!(client.get("/a").await, b"n");
}

pub(crate) async fn pipelined_writes_arrive_in_order_and_whole(subject: &Subject) {
    const CHUNK: usize = 10_000;
    let client = subject.client();
    let handle = client.open("/a", REPLACE).await;
    let mut expected = Vec::new();
    let mut started = Vec::new();
    for number in 0_u8..60 {
        let data = vec![number; CHUNK];
        let write = Operation::Write {
            handle,
            offset: u64::try_from(expected.len()).unwrap(),
            data: data.clone().into(),
        };
        started.push(client.start(write).await);
        expected.extend(data);
    }
    started.push(client.start(Operation::Close { handle }).await);
    for outcome in futures_util::future::join_all(started).await {
        let outcome = outcome.unwrap();
        // What came in order has its digest from elsewhere.
        let is_done = matches!(
            outcome,
            Outcome::Done | Outcome::Published { sha256: None, .. }
        );
        assert!(is_done, "{outcome:?}");
    }
    assert!(client.get("/a").await == expected);
}

pub(crate) async fn writes_out_of_order_land_where_they_belong(subject: &Subject) {
    let client = subject.client();
    let handle = client.open("/a", REPLACE).await;
    let last = Operation::Write {
        handle,
        offset: 4,
        data: "tail".into(),
    };
    if client.can().random_access {
        client.done(last).await;
        client.write(handle, 0, "head").await;
        client.close(handle).await;
        assert_eq!(client.get("/a").await, b"headtail");
    } else {
        // Refused, or kept in the hope that the bytes before it still come.
        let _ = client.ask(last).await;
        let _ = client.refusal(Operation::Close { handle }).await;
        assert!(
            client.is_missing("/a").await,
            "a file with a gap is not published"
        );
        subject.expect_on_disk(&[]);
    }
}

pub(crate) async fn mode_and_time_set_while_uploading_survive_publication(subject: &Subject) {
    let client = subject.client();
    // What a server can't set is known once it was asked to; that costs an upload its attributes, not its content.
    let can = loop {
        let can = client.can();
        if try_with_mode_and_time(&client, can).await {
            break can;
        }
        assert_ne!(client.can(), can, "what is refused is known");
    };
    assert_eq!(client.get("/a").await, b"content");
    let attributes = client.stat("/a").await.unwrap();
    let shows = client.can().shows;
    if can.set_permissions && shows.permissions {
        assert_eq!(attributes.permissions.unwrap() & 0o777, 0o600);
    }
    if can.set_times && shows.exact_times {
        assert_eq!(attributes.times.unwrap().1, 1_111_111_111);
    }
    assert!(!staging::is_reserved(&client.names("/").await[0]));
    assert_eq!(
        client
            .ask(Operation::Lstat { path: path("/a") })
            .await
            .unwrap(),
        Outcome::Attributes(attributes)
    );
}

/// Uploads a file with what the backend says that it can set; false if that turned out too much.
async fn try_with_mode_and_time(client: &Client, can: Capabilities) -> bool {
    let open = client.open_with(
        "/a",
        REPLACE,
        Attributes {
            permissions: Some(0o640),
            ..Attributes::default()
        },
    );
    let handle = opened_handle(&open);
    assert_eq!(client.ask(open).await.unwrap(), Outcome::Opened);
    client.write(handle, 0, "content").await;
    let wanted = Attributes {
        permissions: can.set_permissions.then_some(0o600),
        times: can.set_times.then_some((1_000_000_000, 1_111_111_111)),
        ..Attributes::default()
    };
    if wanted != Attributes::default() {
        client
            .done(Operation::Fsetstat {
                handle,
                attributes: wanted,
            })
            .await;
    }
    match client.ask(Operation::Close { handle }).await {
        Ok(Outcome::Done | Outcome::Published { .. }) => true,
        Err(refused) => {
            assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused}");
            assert_eq!(client.get("/a").await, b"content");
            false
        }
        Ok(other) => panic!("CLOSE gave {other:?}"),
    }
}
