//! The edges of what a client may send: every place to leave, handles that are not its own, the first and the last byte.

use super::*;

/// The packet with its length before it.
fn framed(packet: &[u8]) -> Vec<u8> {
    let mut framed = (packet.len() as u32).to_be_bytes().to_vec();
    framed.extend(packet);
    framed
}

#[tokio::test]
async fn a_client_may_leave_at_any_byte_and_only_a_closed_upload_is_published() {
    let first = {
        // Handles are counted from a random number, so the client has to hear the first.
        let mut client = Client::start().await;
        let handle = client.open(b"/a", REPLACE).await;
        [
            open(b"/a", REPLACE),
            write(handle, 0, b"data"),
            close(handle),
        ]
        .iter()
        .map(|packet| framed(&packet.with_id(1)).len())
        .collect::<Vec<_>>()
    };
    let whole: usize = first.iter().sum();
    for cut in 0..=whole {
        let mut client = Client::start().await;
        let mut left_over = cut;
        let mut handle = HandleId(0);
        for (number, length) in first.iter().enumerate() {
            let packet = match number {
                0 => open(b"/a", REPLACE),
                1 => write(handle, 0, b"data"),
                _ => close(handle),
            };
            let bytes = framed(&packet.with_id(1));
            assert_eq!(bytes.len(), *length);
            let sent = left_over.min(bytes.len());
            left_over -= sent;
            client
                .send_raw(Bytes::copy_from_slice(&bytes[..sent]))
                .await;
            if sent < bytes.len() {
                break;
            }
            if let Reply::Handle(opened) = client.reply(1).await {
                handle = opened;
            }
        }
        let left = client.leave().await;
        let is_between = [0, first[0], first[0] + first[1], whole].contains(&cut);
        let expected = if is_between {
            Ended::ClosedByClient
        } else {
            Ended::CutPacket
        };
        assert_eq!(left.ended, expected, "cut at {cut}");
        assert_eq!(
            left.memory.file(b"a").is_some(),
            cut == whole,
            "cut at {cut}"
        );
    }
}

#[tokio::test]
async fn a_handle_that_is_closed_or_of_another_channel_is_good_for_nothing() {
    let mut owner = Client::start().await;
    let mut stranger = Client::beside(&owner).await;
    owner.put(b"/a", b"secret").await;
    let closed = owner.open(b"/a", READ).await;
    assert_eq!(owner.status(close(closed)).await, Status::Ok);
    let foreign = owner.open(b"/a", READ).await;
    let uses = |handle: HandleId| {
        [
            close(handle),
            read(handle, 0, 10),
            write(handle, 0, b"x"),
            Packet::new(8).handle(handle),
            Packet::new(10).handle(handle).number(0),
            Packet::new(12).handle(handle),
            Packet::extended("fsync@openssh.com").handle(handle),
            Packet::extended("fstatvfs@openssh.com").handle(handle),
            Packet::extended("check-file-handle")
                .handle(handle)
                .string(b"sha256")
                .long(0)
                .long(0)
                .number(0),
        ]
    };
    let count = uses(closed).len();
    for request in uses(closed) {
        assert_eq!(owner.status(request).await, Status::Failure);
    }
    for request in uses(foreign) {
        assert_eq!(stranger.status(request).await, Status::Failure);
    }
    assert_eq!(
        owner.ask(read(foreign, 0, 10)).await,
        Reply::Data(Bytes::from_static(b"secret")),
        "its owner still reads"
    );
    for client in [owner, stranger] {
        let left = client.leave().await;
        assert_eq!(left.refusals(), vec!["unknown_handle"; count]);
    }
}

#[tokio::test]
async fn offsets_count_up_to_2_to_the_63_and_a_write_of_nothing_writes_nothing() {
    let mut client = Client::start().await;
    let handle = client.open(b"/a", REPLACE | READ).await;
    assert_eq!(client.status(write(handle, 0, b"")).await, Status::Ok);
    assert_eq!(client.status(write(handle, 0, b"four")).await, Status::Ok);
    assert_eq!(client.status(write(handle, 4, b"")).await, Status::Ok);
    let last = i64::MAX as u64;
    for (request, expected) in [
        (read(handle, 4, 10), Status::Eof),
        (read(handle, last - 10, 10), Status::Eof),
        (read(handle, last - 9, 10), Status::BadMessage),
        (read(handle, 1 << 63, 0), Status::BadMessage),
        (write(handle, last, b"x"), Status::BadMessage),
        (write(handle, u64::MAX, b""), Status::BadMessage),
    ] {
        assert_eq!(
            client.status(request.clone()).await,
            expected,
            "{request:?}"
        );
    }
    assert_eq!(client.status(close(handle)).await, Status::Ok);
    let left = client.leave().await;
    assert_eq!(left.memory.file(b"a").unwrap(), b"four");
}

#[tokio::test]
async fn a_name_has_255_bytes_of_any_kind_but_nul_and_a_slash() {
    let mut client = Client::start().await;
    let mut name = b"/".to_vec();
    name.extend([b'n'; 255]);
    client.put(&name, b"long").await;
    name.push(b'n');
    assert_eq!(
        client.status(open(&name, REPLACE)).await,
        Status::BadMessage
    );
    for odd in [
        &b"/two\nlines"[..],
        b"/\r",
        b"/ ",
        b"/\x7f",
        b"/\xff\xfe",
        b"/*",
    ] {
        client.put(odd, b"odd").await;
        assert_eq!(client.memory.file(&odd[1..]).unwrap(), b"odd", "{odd:?}");
    }
    let left = client.leave().await;
    assert_eq!(left.refusals(), ["name_too_long"]);
}
