use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{
    operation::{Access, DigestAlgorithm},
    path::VirtualPath,
};

const NEW: HandleId = HandleId(99);

fn packet(kind: u8, fields: &[&[u8]]) -> Bytes {
    let mut packet = BytesMut::new();
    packet.put_u8(kind);
    packet.put_u32(7);
    for field in fields {
        packet.put_slice(field);
    }
    packet.freeze()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut field = (bytes.len() as u32).to_be_bytes().to_vec();
    field.extend(bytes);
    field
}

fn parsed(frame: Bytes) -> Operation {
    match parse(frame, NEW, Extensions::default()).unwrap() {
        Request::Operation { id, operation } => {
            assert_eq!(id, 7);
            operation
        }
        Request::Init { .. } => panic!("an INIT"),
    }
}

#[test]
fn the_data_of_a_write_is_not_copied() {
    let frame = packet(
        kind::WRITE,
        &[&string(&NEW.to_wire()), &[0; 8], &string(b"payload")],
    );
    let Operation::Write { data, .. } = parsed(frame.clone()) else {
        panic!("a WRITE");
    };
    assert_eq!(data, "payload");
    assert!(frame.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn the_flags_of_an_open_mean_what_the_draft_says() {
    let access = |flags: u32| {
        let frame = packet(kind::OPEN, &[&string(b"/a"), &flags.to_be_bytes(), &[0; 4]]);
        let Operation::Open { access, handle, .. } = parsed(frame) else {
            panic!("an OPEN");
        };
        assert_eq!(handle, NEW);
        access
    };
    let nothing = Access::default();
    assert_eq!(
        access(0x01),
        Access {
            read: true,
            ..nothing
        }
    );
    assert_eq!(
        access(0x00),
        Access {
            read: true,
            ..nothing
        }
    );
    assert_eq!(
        access(0x02),
        Access {
            write: true,
            ..nothing
        }
    );
    assert_eq!(
        access(0x04),
        Access {
            append: true,
            ..nothing
        }
    );
    assert_eq!(
        access(0x3b),
        Access {
            read: true,
            write: true,
            create: true,
            truncate: true,
            exclusive: true,
            ..nothing
        }
    );
}

#[test]
fn a_read_is_cut_to_what_is_announced() {
    let frame = packet(
        kind::READ,
        &[&string(&NEW.to_wire()), &[0; 8], &u32::MAX.to_be_bytes()],
    );
    assert!(matches!(
        parsed(frame),
        Operation::Read {
            length: MAX_DATA,
            ..
        }
    ));
}

#[test]
fn extended_attributes_are_skipped_and_what_follows_them_is_seen() {
    let extended = [
        &string(b"/a")[..],
        &0x8000_0004_u32.to_be_bytes(),
        &0o600_u32.to_be_bytes(),
        &1_u32.to_be_bytes(),
        &string(b"name"),
        &string(b"value"),
    ];
    let Operation::Setstat { attributes, .. } = parsed(packet(kind::SETSTAT, &extended)) else {
        panic!("a SETSTAT");
    };
    assert_eq!(attributes.permissions, Some(0o600));
    let mut longer = extended.to_vec();
    longer.push(b"x");
    assert_eq!(
        parse(packet(kind::SETSTAT, &longer), NEW, Extensions::default())
            .unwrap_err()
            .reason,
        Reason::TrailingBytes
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whatever_a_client_sends_is_understood_or_refused(
        kind in prop_oneof![0_u8..22, Just(kind::EXTENDED), any::<u8>()],
        extension in prop_oneof![
            Just(&b""[..]),
            Just(&b"\0\0\0\x18posix-rename@openssh.com"[..]),
            Just(&b"\0\0\0\x1fusers-groups-by-id@openssh.com"[..]),
            Just(&b"\0\0\0\x17expand-path@openssh.com"[..]),
        ],
        noise in proptest::collection::vec(prop_oneof![Just(0_u8), 0_u8..9, any::<u8>()], 0..80),
    ) {
        let frame = packet(kind, &[extension, &noise]);
        if let Err(refused) = parse(frame.clone(), NEW, Extensions::default()) {
            prop_assert_eq!(refused.id, Some(7));
            prop_assert!(refused.evidence.len() <= frame.len());
        }
    }

    #[test]
    fn a_path_comes_through_as_the_bytes_it_is(name in proptest::collection::vec(any::<u8>(), 1..100)) {
        let frame = packet(kind::STAT, &[&string(&name)]);
        match (parse(frame, NEW, Extensions::default()), VirtualPath::clean(&name)) {
            (Ok(Request::Operation { operation, .. }), Ok(path)) => {
                prop_assert_eq!(operation, Operation::Stat { path });
            }
            (Err(refused), Err(error)) => prop_assert_eq!(refused.reason, Reason::Path(error)),
            (parsed, cleaned) => prop_assert!(false, "{:?} but {:?}", parsed, cleaned),
        }
    }
}

fn check_file(algorithms: &[u8], length: u64, block_size: u32) -> Bytes {
    packet(
        kind::EXTENDED,
        &[
            &string(b"check-file-handle"),
            &string(&NEW.to_wire()),
            &string(algorithms),
            &5_u64.to_be_bytes(),
            &length.to_be_bytes(),
            &block_size.to_be_bytes(),
        ],
    )
}

#[test]
fn of_the_digests_that_a_client_takes_the_first_sound_one_is_computed() {
    for (wanted, expected) in [
        (&b"sha256"[..], DigestAlgorithm::Sha256),
        (b"md5,sha1,sha512,sha256", DigestAlgorithm::Sha512),
        (b"crc32,sha384", DigestAlgorithm::Sha384),
    ] {
        let Operation::CheckFile { check, .. } = parsed(check_file(wanted, 0, 0)) else {
            panic!("a check-file");
        };
        assert_eq!(check.algorithm, expected);
        assert_eq!(
            (check.offset, check.length, check.block_size),
            (5, None, None)
        );
    }
    for broken in [&b"md5"[..], b"sha1,md5,crc32", b"", b"SHA256", b"sha256 "] {
        let refused = parse(check_file(broken, 0, 0), NEW, Extensions::default()).unwrap_err();
        assert_eq!(refused.reason, Reason::DigestAlgorithm, "{broken:?}");
        assert_eq!(refused.reason.status(), Status::OpUnsupported);
    }
}

#[test]
fn the_blocks_of_a_check_have_at_least_256_bytes() {
    let Operation::CheckFile { check, .. } = parsed(check_file(b"sha256", 1000, 256)) else {
        panic!("a check-file");
    };
    assert_eq!((check.length, check.block_size), (Some(1000), Some(256)));
    let refused = parse(check_file(b"sha256", 1000, 255), NEW, Extensions::default());
    assert_eq!(refused.unwrap_err().reason, Reason::BlockSize { size: 255 });
}

#[test]
fn a_range_beyond_2_to_the_63_is_refused_wherever_it_is_named() {
    let reason = |frame| {
        let on = Extensions {
            hardlink: true,
            copy_data: true,
        };
        parse(frame, NEW, on).map_err(|refused| refused.reason)
    };
    let last = i64::MAX as u64;
    assert!(reason(check_file(b"sha256", last - 5, 0)).is_ok());
    assert_eq!(
        reason(check_file(b"sha256", last - 4, 0)),
        Err(Reason::Range)
    );
    let copy = |offset: u64, length: u64, target_offset: u64| {
        packet(
            kind::EXTENDED,
            &[
                &string(b"copy-data"),
                &string(&NEW.to_wire()),
                &offset.to_be_bytes(),
                &length.to_be_bytes(),
                &string(&HandleId(3).to_wire()),
                &target_offset.to_be_bytes(),
            ],
        )
    };
    assert!(reason(copy(0, last, 0)).is_ok());
    assert_eq!(reason(copy(1, last, 0)), Err(Reason::Range));
    assert_eq!(reason(copy(0, last, 1)), Err(Reason::Range));
    assert_eq!(reason(copy(0, 0, last + 1)), Err(Reason::Range));
}

#[test]
fn what_is_off_by_default_is_refused_until_it_is_switched_on() {
    let link = packet(
        kind::EXTENDED,
        &[
            &string(b"hardlink@openssh.com"),
            &string(b"/a"),
            &string(b"/b"),
        ],
    );
    let only_copy = Extensions {
        copy_data: true,
        ..Extensions::default()
    };
    for off in [Extensions::default(), only_copy] {
        let refused = parse(link.clone(), NEW, off).unwrap_err();
        assert_eq!(refused.reason, Reason::DisabledExtension);
        assert_eq!(refused.name, "hardlink");
    }
    let on = Extensions {
        hardlink: true,
        ..Extensions::default()
    };
    assert!(parse(link, NEW, on).is_ok());
}

#[test]
fn a_request_that_ends_inside_a_field_is_refused_wherever_it_ends() {
    let handle = string(&NEW.to_wire());
    let attributes = [
        &0x8000_000f_u32.to_be_bytes()[..],
        &3_u64.to_be_bytes(),
        &[0; 20],
        &1_u32.to_be_bytes(),
        &string(b"name"),
        &string(b"value"),
    ]
    .concat();
    let (path, number, long) = (string(b"/a"), [0; 4], [0; 8]);
    let extended = |name: &[u8], fields: &[&[u8]]| {
        let name = string(name);
        let fields: Vec<&[u8]> = [&name[..]]
            .into_iter()
            .chain(fields.iter().copied())
            .collect();
        packet(kind::EXTENDED, &fields)
    };
    for whole in [
        packet(kind::OPEN, &[&path, &number, &attributes]),
        packet(kind::CLOSE, &[&handle]),
        packet(kind::READ, &[&handle, &long, &number]),
        packet(kind::WRITE, &[&handle, &long, &string(b"data")]),
        packet(kind::LSTAT, &[&path]),
        packet(kind::FSTAT, &[&handle]),
        packet(kind::SETSTAT, &[&path, &attributes]),
        packet(kind::FSETSTAT, &[&handle, &attributes]),
        packet(kind::OPENDIR, &[&path]),
        packet(kind::READDIR, &[&handle]),
        packet(kind::REMOVE, &[&path]),
        packet(kind::MKDIR, &[&path, &attributes]),
        packet(kind::RMDIR, &[&path]),
        packet(kind::REALPATH, &[&path]),
        packet(kind::STAT, &[&path]),
        packet(kind::RENAME, &[&path, &string(b"/b")]),
        packet(kind::READLINK, &[&path]),
        packet(kind::SYMLINK, &[&string(b"to"), &path]),
        extended(b"posix-rename@openssh.com", &[&path, &string(b"/b")]),
        extended(b"statvfs@openssh.com", &[&path]),
        extended(b"fstatvfs@openssh.com", &[&handle]),
        extended(b"fsync@openssh.com", &[&handle]),
        extended(b"lsetstat@openssh.com", &[&path, &attributes]),
        extended(
            b"users-groups-by-id@openssh.com",
            &[&string(&long), &string(&number)],
        ),
        check_file(b"sha256", 1000, 256),
    ] {
        let kind = whole[0];
        assert!(
            parse(whole.clone(), NEW, Extensions::default()).is_ok(),
            "the whole request of type {kind}"
        );
        for end in 0..whole.len() {
            let refused = parse(whole.slice(..end), NEW, Extensions::default());
            let refused = refused.expect_err("part of a request is none");
            assert_eq!(
                refused.id,
                (end >= 5).then_some(7),
                "type {kind}, {end} bytes"
            );
            assert_eq!(
                refused.reason,
                Reason::Truncated,
                "type {kind}, {end} bytes"
            );
        }
    }
}
