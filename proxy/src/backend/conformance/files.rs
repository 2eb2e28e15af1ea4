//! Rules of reading, of handles and of attributes.

use super::{READ, REPLACE, Subject, client::path};
use crate::{
    backend::{Capabilities, ErrorKind},
    operation::{Attributes, Operation, Outcome},
};

pub(crate) async fn three_megabytes_come_back_as_they_went(subject: &Subject) {
    let content: Vec<u8> = (0_u32..3 << 20)
        .map(|position| (position.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let client = subject.client();
    let handle = client.open("/big", REPLACE).await;
    let mut writes = Vec::new();
    for (number, chunk) in content.chunks(255 * 1024).enumerate() {
        let write = Operation::Write {
            handle,
            offset: u64::try_from(number * 255 * 1024).unwrap(),
            data: chunk.to_vec().into(),
        };
        writes.push(client.start(write).await);
    }
    for outcome in futures_util::future::join_all(writes).await {
        assert_eq!(outcome.unwrap(), Outcome::Done);
    }
    client.close(handle).await;
    client
        .expect_size("/big", u64::try_from(content.len()).unwrap())
        .await;
    assert!(client.get("/big").await == content);
    let handle = client.open("/big", READ).await;
    let mut reads = Vec::new();
    for number in 0..12 {
        let read = Operation::Read {
            handle,
            offset: number * 256 * 1024,
            length: 1000,
        };
        reads.push(client.start(read).await);
    }
    for (number, outcome) in futures_util::future::join_all(reads)
        .await
        .into_iter()
        .enumerate()
    {
        let Outcome::Data(data) = outcome.unwrap() else {
            panic!("READ within the file gave no data");
        };
        assert!(content[number * 256 * 1024..].starts_with(&data));
    }
}

pub(crate) async fn a_read_past_the_end_is_an_end_and_not_an_error(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "0123456789").await;
    let handle = client.open("/a", READ).await;
    assert_eq!(client.read(handle, 0, 10).await, "0123456789");
    assert_eq!(client.read(handle, 4, 100).await, "456789");
    assert_eq!(client.read(handle, 10, 10).await, "");
    assert_eq!(client.read(handle, 1 << 40, 10).await, "");
    assert_eq!(client.read(handle, 2, 3).await, "234");
    client.close(handle).await;
}

pub(crate) async fn a_handle_is_good_until_it_is_closed(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "content").await;
    let handle = client.open("/a", READ).await;
    assert_eq!(client.read(handle, 0, 1).await, "c");
    client.close(handle).await;
    for refused in [
        Operation::Read {
            handle,
            offset: 0,
            length: 1,
        },
        Operation::Fstat { handle },
        Operation::Close { handle },
    ] {
        assert_eq!(client.refusal(refused).await, ErrorKind::InvalidHandle);
    }
}

pub(crate) async fn many_handles_are_open_at_once_and_not_mixed_up(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "abcdefghij").await;
    client.put("/b", "ABCDEFGHIJ").await;
    let mut handles = Vec::new();
    for number in 0..150_u64 {
        let name = if number % 2 == 0 { "/a" } else { "/b" };
        handles.push((number, client.open(name, READ).await));
    }
    for (number, handle) in handles {
        let expected = if number % 2 == 0 { "abc" } else { "ABC" };
        assert_eq!(
            client.read(handle, 0, 3).await,
            expected,
            "handle number {number}"
        );
        client.close(handle).await;
    }
}

pub(crate) async fn an_ended_session_does_nothing_more(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "content").await;
    let handle = client.open("/a", READ).await;
    client.end().await;
    for refused in [
        Operation::Read {
            handle,
            offset: 0,
            length: 1,
        },
        Operation::Remove { path: path("/a") },
        client.open_operation("/b", REPLACE),
    ] {
        let _ = client.refusal(refused).await;
    }
    let other = subject.client();
    assert_eq!(other.get("/a").await, b"content");
    assert!(other.is_missing("/b").await);
    subject.expect_on_disk(&["a"]);
}

pub(crate) async fn attributes_tell_files_from_directories(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "12345").await;
    client.mkdir("/d").await;
    assert!(client.stat("/").await.unwrap().is_directory());
    assert!(client.stat("/d").await.unwrap().is_directory());
    let file = client.stat("/a").await.unwrap();
    assert!(!file.is_directory());
    client.expect_size("/a", 5).await;
    let handle = client.open("/a", READ).await;
    match client.ask(Operation::Fstat { handle }).await {
        Ok(Outcome::Attributes(open)) => assert_eq!(open.size, file.size),
        other => panic!("FSTAT gave {other:?}"),
    }
    for (name, missing) in [("/nothing", true), ("/nothing/below", true), ("/a", false)] {
        assert_eq!(client.is_missing(name).await, missing, "{name}");
    }
    if client.can().filesystem_status {
        match client.ask(Operation::Statvfs { path: path("/") }).await {
            Ok(Outcome::FilesystemStatus(status)) => {
                assert!(status.block_size > 0 && status.blocks > 0, "{status:?}");
            }
            other => panic!("statvfs gave {other:?}"),
        }
    }
}

pub(crate) async fn set_attributes_stay(subject: &Subject) {
    let client = subject.client();
    client.put("/a", "content").await;
    let times = Attributes {
        times: Some((1_200_000_000, 1_234_567_890)),
        ..Attributes::default()
    };
    let permissions = Attributes {
        permissions: Some(0o640),
        ..Attributes::default()
    };
    let can_set_times: fn(Capabilities) -> bool = |can| can.set_times;
    let can_set_permissions: fn(Capabilities) -> bool = |can| can.set_permissions;
    for (attributes, can_set) in [(times, can_set_times), (permissions, can_set_permissions)] {
        let set = Operation::Setstat {
            path: path("/a"),
            attributes: attributes.clone(),
        };
        let said_it_can = can_set(client.can());
        match client.ask(set).await {
            Ok(outcome) => assert_eq!(outcome, Outcome::Done),
            Err(refused) => {
                assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused}");
                assert!(
                    !can_set(client.can()),
                    "what is refused is known: {refused}"
                );
                assert_eq!(client.get("/a").await, b"content");
                continue;
            }
        }
        assert!(
            said_it_can,
            "{attributes:?} was set by a backend that can't"
        );
        let stands = client.stat("/a").await.unwrap();
        let shows = client.can().shows;
        if let Some((_, modified)) = attributes.times
            && shows.exact_times
        {
            assert_eq!(stands.times.unwrap().1, modified);
        }
        if let Some(mode) = attributes.permissions
            && shows.permissions
        {
            assert_eq!(stands.permissions.unwrap() & 0o777, mode);
        }
    }
}
