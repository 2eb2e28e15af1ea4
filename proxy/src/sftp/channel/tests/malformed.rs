//! Packets that no client should send: each is answered or ends the channel, and each is on record.

use super::*;

#[tokio::test]
async fn what_is_understood_but_refused_is_answered_and_recorded_and_the_channel_goes_on() {
    let mut client = Client::start().await;
    let long_path = vec![b'a'; 65_536];
    let deep_path = b"a/".repeat(32_768);
    let refused: Vec<(Packet, Status, &str)> = vec![
        (Packet::new(17), Status::BadMessage, "truncated"),
        (Packet::new(17).number(5), Status::BadMessage, "truncated"),
        (
            Packet::new(17).number(u32::MAX),
            Status::BadMessage,
            "truncated",
        ),
        (stat(b"/a").number(0), Status::BadMessage, "trailing_bytes"),
        (stat(b"/a\0b"), Status::BadMessage, "nul_in_path"),
        (stat(b"\0"), Status::BadMessage, "nul_in_path"),
        (stat(&long_path), Status::BadMessage, "path_too_long"),
        (stat(&deep_path), Status::BadMessage, "path_too_long"),
        (stat(&[b'a'; 256]), Status::BadMessage, "name_too_long"),
        (
            stat(b"/.portcullis-1/x"),
            Status::PermissionDenied,
            "reserved_name",
        ),
        (
            Packet::new(4).string(b""),
            Status::Failure,
            "unknown_handle",
        ),
        (
            Packet::new(4).string(&[0; 7]),
            Status::Failure,
            "unknown_handle",
        ),
        (
            Packet::new(4).string(&[0; 9]),
            Status::Failure,
            "unknown_handle",
        ),
        (
            Packet::new(4).string(&[0xff; 8]),
            Status::Failure,
            "unknown_handle",
        ),
        (
            Packet::new(9).string(b"/a").number(0x10),
            Status::BadMessage,
            "attribute_flags",
        ),
        (
            Packet::new(9).string(b"/a").number(1).long(1 << 63),
            Status::BadMessage,
            "range",
        ),
        (
            Packet::new(9)
                .string(b"/a")
                .number(0x8000_0000)
                .number(u32::MAX),
            Status::BadMessage,
            "truncated",
        ),
        (Packet::new(0), Status::OpUnsupported, "unknown_type"),
        (Packet::new(2), Status::OpUnsupported, "unknown_type"),
        (Packet::new(21), Status::OpUnsupported, "unknown_type"),
        (Packet::new(101), Status::OpUnsupported, "unknown_type"),
        (Packet::new(255), Status::OpUnsupported, "unknown_type"),
        (
            Packet::extended("hardlink@openssh.com")
                .string(b"/a")
                .string(b"/b"),
            Status::OpUnsupported,
            "disabled_extension",
        ),
        (
            Packet::extended("copy-data"),
            Status::OpUnsupported,
            "disabled_extension",
        ),
        (
            Packet::extended(""),
            Status::OpUnsupported,
            "unknown_extension",
        ),
        (
            Packet::extended("check-file@example.com"),
            Status::OpUnsupported,
            "unknown_extension",
        ),
    ];
    let mut reasons = Vec::new();
    for (packet, status, reason) in refused {
        assert_eq!(client.status(packet.clone()).await, status, "{reason}");
        reasons.push(reason);
    }
    let handle = client.open(b"/a", REPLACE).await;
    let outside = write(handle, i64::MAX as u64, b"x");
    assert_eq!(client.status(outside).await, Status::BadMessage);
    let outside = read(handle, u64::MAX, 1);
    assert_eq!(client.status(outside).await, Status::BadMessage);
    reasons.extend(["range", "range"]);
    let arrivals = client.memory.arrivals();
    assert_eq!(arrivals, 1, "only the OPEN reaches the backend");
    let left = client.leave().await;
    assert_eq!(left.refusals(), reasons);
    assert_eq!(left.ended, Ended::ClosedByClient);
}

#[tokio::test]
async fn dots_in_every_position_stay_inside() {
    let mut client = Client::with(
        vec![testing::everything("/inbox", "memory")],
        testing::journal,
    )
    .await;
    client.put(b"/inbox/a", b"x").await;
    for inside in [
        &b"/inbox/a"[..],
        b"inbox/a",
        b"../inbox/a",
        b"/../../inbox/a",
        b"/inbox/../inbox/a",
        b"/inbox/./a/.",
        b"/inbox/b/../a",
        b"//inbox//a//",
    ] {
        assert!(
            matches!(client.ask(stat(inside)).await, Reply::Attributes(..)),
            "{}",
            String::from_utf8_lossy(inside)
        );
    }
    for outside in [
        &b"/inbox/../etc/passwd"[..],
        b"/inbox/..a",
        b"../etc/passwd",
        b"/inbox/a/../../etc",
        b"/inbox2",
        b"..inbox/a",
        b"/..%2finbox",
        b"/inbox\\..\\a",
    ] {
        assert_eq!(
            client.status(stat(outside)).await,
            Status::NoSuchFile,
            "{}",
            String::from_utf8_lossy(outside)
        );
    }
}

#[tokio::test]
async fn a_lost_frame_ends_the_channel_with_a_record() {
    let cases: [(&[u8], Ended); 4] = [
        (&[0, 0, 0, 0], Ended::Framing(FramingError::Empty)),
        (
            &[0xff; 4],
            Ended::Framing(FramingError::TooLong { length: u32::MAX }),
        ),
        (&[0, 0, 0, 1, 17], Ended::NoRequestId),
        (&[0, 0, 0, 5, 1, 0, 0, 0, 3], Ended::NotInit),
    ];
    for (bytes, expected) in cases {
        let mut client = Client::start().await;
        client.put(b"/before", b"x").await;
        client.send_raw(Bytes::copy_from_slice(bytes)).await;
        let left = client.finish().await;
        assert_eq!(left.ended, expected);
        assert!(left.refusals().contains(&expected.code()), "{expected:?}");
        assert!(left.memory.file(b"before").is_some());
    }
}

#[tokio::test]
async fn a_channel_begins_with_init_of_version_three_or_later() {
    for (packet, expected) in [
        (&[1, 0, 0, 0, 2][..], Ended::Version { version: 2 }),
        (&[17, 0, 0, 0, 1, 0, 0, 0, 0], Ended::NotInit),
        (&[1, 0], Ended::NotInit),
    ] {
        let client = Client::raw(vec![testing::everything("/", "memory")], testing::journal);
        client.send(packet).await;
        let left = client.finish().await;
        assert_eq!(left.ended, expected, "{packet:?}");
        assert_eq!(left.memory.arrivals(), 0);
    }
    let mut client = Client::raw(vec![testing::everything("/", "memory")], testing::journal);
    client.send(&[1, 0, 0, 0, 6]).await;
    assert_eq!(client.frame().await.unwrap()[..5], [2, 0, 0, 0, 3]);
}

#[tokio::test]
async fn a_request_id_that_is_in_flight_twice_is_answered_twice() {
    let mut client = Client::start().await;
    client.put(b"/a", b"x").await;
    for _ in 0..3 {
        client.send(&stat(b"/a").with_id(77)).await;
    }
    for _ in 0..3 {
        let frame = client.frame().await.unwrap();
        assert_eq!(frame[..5], [105, 0, 0, 0, 77]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_inside_a_packet_is_recorded() {
    let client = Client::start().await;
    client.send_raw(Bytes::from_static(&[0, 0, 0, 20, 3])).await;
    let left = client.leave().await;
    assert_eq!(left.ended, Ended::CutPacket);
    assert_eq!(left.refusals(), ["cut_packet"]);
}

/// Mutations of good packets and plain noise, the same in every run.
#[tokio::test]
async fn noise_never_panics_and_every_packet_is_answered_or_ends_the_channel() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let handle = HandleId(1);
    let good = [
        open(b"/a", REPLACE),
        open(b"/a", READ),
        close(handle),
        read(handle, 0, 100),
        write(handle, 0, b"data"),
        stat(b"/a"),
        Packet::new(11).string(b"/"),
        Packet::new(12).handle(handle),
        Packet::new(18).string(b"/a").string(b"/b"),
        Packet::new(9)
            .string(b"/a")
            .number(0xf)
            .long(3)
            .number(1)
            .number(2)
            .number(3)
            .number(4)
            .number(5),
        Packet::extended("posix-rename@openssh.com")
            .string(b"/a")
            .string(b"/b"),
        Packet::extended("users-groups-by-id@openssh.com")
            .string(&[0; 8])
            .string(&[0; 4]),
        Packet::extended("limits@openssh.com"),
    ];
    let mut client = Client::start().await;
    let mut answered = 0;
    for round in 0..1000_u32 {
        let mut packet = good[random() as usize % good.len()].with_id(round);
        for _ in 0..random() % 4 {
            let at = random() as usize % packet.len();
            match random() % 4 {
                0 => packet[at] = random() as u8,
                1 => packet[at] ^= 1 << (random() % 8),
                2 => packet.truncate(at.max(5)),
                _ => packet.insert(at, random() as u8),
            }
        }
        client.send(&packet).await;
        match client.frame().await {
            Some(_) => answered += 1,
            None => {
                let left = client.finish().await;
                assert_eq!(left.ended, Ended::NotInit, "after {packet:?}");
                client = Client::start().await;
            }
        }
    }
    assert!(answered > 900, "{answered}");
}

#[tokio::test]
async fn the_record_of_a_refused_write_has_its_header_and_none_of_its_data() {
    let mut client = Client::start().await;
    let handle = client.open(b"/a", REPLACE).await;
    let refused = write(handle, u64::MAX, b"a patient's name");
    assert_eq!(client.status(refused).await, Status::BadMessage);
    let left = client.leave().await;
    assert_eq!(left.refusals(), ["range"]);
    let evidence = left.of("op.denied")[0]["evidence"].to_string();
    // In base64 and in clear: 29 bytes of header make at most 40 letters.
    assert!(!evidence.contains("patient"), "{evidence}");
    assert!(evidence.len() < 64, "{evidence}");
}
