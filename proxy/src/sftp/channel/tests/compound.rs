//! `check-file`, `copy-data` and `hardlink@openssh.com`: what they bring, and that they are on record as what they do.

use sha2::{Digest as _, Sha256, Sha512};

use super::*;
use crate::{
    backend::{
        BackendError, ErrorKind, Origin,
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    },
    operation::MAX_DATA,
};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte / 3) as u8).collect()
}

fn check_by_name(path: &[u8], algorithms: &[u8]) -> Packet {
    Packet::extended("check-file-name")
        .string(path)
        .string(algorithms)
        .long(0)
        .long(0)
        .number(0)
}

fn check_by_handle(handle: HandleId, offset: u64, length: u64, block_size: u32) -> Packet {
    Packet::extended("check-file-handle")
        .handle(handle)
        .string(b"sha256")
        .long(offset)
        .long(length)
        .number(block_size)
}

fn copy(source: HandleId, range: (u64, u64), target: HandleId, target_offset: u64) -> Packet {
    Packet::extended("copy-data")
        .handle(source)
        .long(range.0)
        .long(range.1)
        .handle(target)
        .long(target_offset)
}

/// Algorithm and digests of a reply.
fn digests(reply: Reply) -> (Bytes, Bytes) {
    let Reply::Extended(body) = reply else {
        panic!("{reply:?} has no digests");
    };
    let mut fields = Fields::new(body.clone());
    assert_eq!(fields.string().unwrap(), "check-file");
    let algorithm = fields.string().unwrap();
    let head = 4 + "check-file".len() + 4 + algorithm.len();
    (algorithm, body.slice(head..))
}

const BOTH: Extensions = Extensions {
    hardlink: true,
    copy_data: true,
};

#[tokio::test]
async fn the_digest_of_a_file_is_that_of_its_bytes_by_name_and_by_handle() {
    let mut client = Client::start().await;
    let content = content(3 * MAX_DATA as usize + 17);
    client.memory.put(b"a", &content);
    let reply = client.ask(check_by_name(b"/a", b"md5,sha512,sha256")).await;
    let (algorithm, digest) = digests(reply);
    assert_eq!(algorithm, "sha512");
    assert_eq!(digest[..], Sha512::digest(&content)[..]);

    let handle = client.open(b"/a", READ).await;
    let (algorithm, blocks) = digests(
        client
            .ask(check_by_handle(handle, 5, 300_000, 65_536))
            .await,
    );
    assert_eq!(algorithm, "sha256");
    let expected: Vec<u8> = content[5..300_005]
        .chunks(65_536)
        .flat_map(Sha256::digest)
        .collect();
    assert_eq!(blocks[..], expected[..]);
    assert_eq!(client.status(close(handle)).await, Status::Ok);

    let left = client.leave().await;
    let parts: Vec<_> = left
        .of("op.intent")
        .into_iter()
        .map(|intent| intent["sftp_op"].as_str().unwrap())
        .collect();
    assert_eq!(&parts[..3], ["check_file_name", "open", "read"]);
    let asked = left.of("op.intent")[0];
    assert_eq!(
        (
            asked["algorithm"].as_str(),
            asked["offset"].as_u64(),
            asked["len"].as_u64()
        ),
        (Some("sha512"), Some(0), None)
    );
    let outcome = left
        .of("op.outcome")
        .into_iter()
        .find(|outcome| outcome["op_id"] == asked["op_id"])
        .expect("the whole has an outcome");
    assert_eq!(outcome["bytes"].as_u64(), Some(content.len() as u64));
    let summary = left.of("xfer.summary")[0];
    assert_eq!(summary["direction"], "download");
    assert_eq!(summary["sha256"], hex::encode(Sha256::digest(&content)));
    assert_eq!(summary["ranges_complete"], true);
}

#[tokio::test]
async fn a_digest_needs_the_permission_to_read_and_nothing_else() {
    for (granted, expected) in [("read", true), ("list,write,overwrite,setattr", false)] {
        let mut mount = testing::everything("/", "memory");
        mount.permissions = crate::policy::Permissions::parse(granted).unwrap();
        let mut client = Client::with(vec![mount], testing::journal).await;
        client.memory.put(b"a", b"secret");
        let reply = client.ask(check_by_name(b"/a", b"sha256")).await;
        if expected {
            assert_eq!(digests(reply).1[..], Sha256::digest(b"secret")[..]);
        } else {
            assert_eq!(reply, Reply::Status(Status::PermissionDenied));
            let handle = client.open(b"/b", REPLACE).await;
            let by_handle = check_by_handle(handle, 0, 0, 0);
            assert_eq!(client.status(by_handle).await, Status::PermissionDenied);
            let arrivals = client.memory.arrivals();
            assert_eq!(arrivals, 1, "only the OPEN reached the backend");
        }
    }
}

#[tokio::test]
async fn requests_beside_a_check_are_answered_while_it_runs_and_a_close_waits_for_it() {
    let mut client = Client::start().await;
    client.memory.put(b"a", &content(1000));
    let handle = client.open(b"/a", READ).await;
    client.memory.pause();
    let checked = client.request(check_by_handle(handle, 0, 0, 0)).await;
    let closed = client.request(close(handle)).await;
    let beside = Packet::new(16).string(b"/x/..");
    assert!(matches!(client.ask(beside).await, Reply::Names(_)));
    assert!(client.replies.is_empty(), "neither is done");
    client.memory.resume();
    let (_, digest) = digests(client.reply(checked).await);
    assert_eq!(digest[..], Sha256::digest(content(1000))[..]);
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
}

#[tokio::test]
async fn a_check_ends_with_the_session_and_is_on_record_as_not_known() {
    let mut client = Client::start().await;
    client.memory.put(b"a", &content(1000));
    client.memory.pause();
    let arrived = client.memory.arrivals();
    client.request(check_by_name(b"/a", b"sha256")).await;
    while client.memory.arrivals() == arrived {
        tokio::task::yield_now().await;
    }
    client.cancel.cancel();
    let memory = client.memory.clone();
    let left = client.finish().await;
    memory.resume();
    assert_eq!(left.ended, Ended::Cancelled);
    let whole = left.of("op.intent")[0];
    let outcome = left
        .of("op.outcome")
        .into_iter()
        .find(|outcome| outcome["op_id"] == whole["op_id"])
        .expect("an outcome");
    assert_eq!(outcome["outcome"], "unknown");
}

#[tokio::test]
async fn a_check_that_fails_says_why_and_leaves_nothing_open() {
    let mut client = Client::start().await;
    assert_eq!(
        client.status(check_by_name(b"/missing", b"sha256")).await,
        Status::NoSuchFile
    );
    client.memory.put(b"a", b"x");
    client.memory.fail_with(Some(BackendError::new(
        ErrorKind::TimedOut,
        Origin::Backend,
        "no answer",
    )));
    for _ in 0..2 * crate::operation::MAX_OPEN_HANDLES {
        let failed = client.status(check_by_name(b"/a", b"sha256")).await;
        assert_eq!(failed, Status::Failure);
    }
    client.memory.fail_with(None);
    let blocks = Packet::extended("check-file-name")
        .string(b"/a")
        .string(b"sha256")
        .long(0)
        .long(1 << 40)
        .number(256);
    for _ in 0..2 * crate::operation::MAX_OPEN_HANDLES {
        assert_eq!(client.status(blocks.clone()).await, Status::Failure);
    }
    digests(client.ask(check_by_name(b"/a", b"sha256")).await);
}

#[tokio::test]
async fn a_copy_moves_a_range_and_both_files_have_it_on_record() {
    let mut client = Client::with_extensions(BOTH).await;
    let content = content(2 * MAX_DATA as usize + 99);
    client.memory.put(b"a", &content);
    let source = client.open(b"/a", READ).await;
    let target = client.open(b"/b", REPLACE).await;
    assert_eq!(
        client.status(copy(source, (0, 0), target, 0)).await,
        Status::Ok
    );
    assert_eq!(client.memory.file(b"b"), None, "seen before CLOSE");
    assert_eq!(client.status(close(target)).await, Status::Ok);
    assert!(client.memory.file(b"b").unwrap() == content);
    assert_eq!(client.status(close(source)).await, Status::Ok);
    let left = client.leave().await;
    for summary in left.of("xfer.summary") {
        assert_eq!(summary["bytes"].as_u64(), Some(content.len() as u64));
        assert_eq!(summary["sha256"], hex::encode(Sha256::digest(&content)));
    }
    assert_eq!(left.of("xfer.summary").len(), 2);
    let names: Vec<_> = left
        .of("op.intent")
        .into_iter()
        .map(|intent| intent["sftp_op"].as_str().unwrap().to_owned())
        .collect();
    for (part, count) in [("copy_data", 1), ("write", 3)] {
        assert_eq!(names.iter().filter(|name| *name == part).count(), count);
    }
}

#[tokio::test]
async fn a_copy_needs_one_handle_that_reads_and_another_that_writes() {
    let mut client = Client::with_extensions(BOTH).await;
    client.memory.put(b"a", b"0123456789");
    client.memory.put(b"c", b"c");
    let source = client.open(b"/a", READ).await;
    let other = client.open(b"/c", READ).await;
    let target = client.open(b"/b", REPLACE).await;
    for (from, to, expected) in [
        (target, source, Status::PermissionDenied),
        (source, other, Status::PermissionDenied),
        (target, target, Status::PermissionDenied),
        (source, HandleId(1), Status::Failure),
        (HandleId(1), target, Status::Failure),
        (source, target, Status::Ok),
    ] {
        assert_eq!(client.status(copy(from, (0, 0), to, 0)).await, expected);
    }
    let more_than_there_is = copy(source, (0, 11), target, 0);
    assert_eq!(client.status(more_than_there_is).await, Status::Eof);
    let onto_itself = client.open(b"/a", REPLACE).await;
    let same = copy(source, (0, 0), onto_itself, 0);
    assert_eq!(client.status(same).await, Status::Failure);
}

#[tokio::test]
async fn what_is_off_by_default_is_announced_and_served_only_once_it_is_on() {
    for (extensions, expected) in [(Extensions::default(), false), (BOTH, true)] {
        let mounts = vec![testing::everything("/", "memory")];
        let mut client = Client::raw_with(mounts, extensions, testing::journal);
        client.send(&[1, 0, 0, 0, 3]).await;
        let version = client.frame().await.expect("a VERSION packet");
        for name in [&b"copy-data"[..], b"hardlink@openssh.com"] {
            let announced = version.windows(name.len()).any(|window| window == name);
            assert_eq!(announced, expected);
        }
        client.memory.put(b"a", b"0123456789");
        let source = client.open(b"/a", READ).await;
        let target = client.open(b"/b", REPLACE).await;
        let copied = client.status(copy(source, (0, 0), target, 0)).await;
        let refused = Status::OpUnsupported;
        assert_eq!(copied, if expected { Status::Ok } else { refused });
    }
}

#[tokio::test]
async fn a_mounts_own_list_widens_and_narrows_what_the_server_has() {
    let with = |at: &str, extensions| Mount {
        extensions,
        ..testing::everything(at, "memory")
    };
    for (server, own, on, off) in [
        (Extensions::default(), BOTH, "/own", "/rest"),
        (BOTH, Extensions::default(), "/rest", "/own"),
    ] {
        let mounts = vec![with("/own", Some(own)), with("/rest", None)];
        let mut client = Client::raw_with(mounts, server, testing::journal);
        client.send(&[1, 0, 0, 0, 3]).await;
        let version = client.frame().await.expect("a VERSION packet");
        let name = b"copy-data";
        assert!(version.windows(name.len()).any(|window| window == name));
        client.memory.put(b"a", b"0123456789");
        let at = |mount: &str, name: &str| format!("{mount}/{name}").into_bytes();
        let mut copied = Vec::new();
        for (from, to) in [(on, on), (off, off), (on, off), (off, on)] {
            let source = client.open(&at(from, "a"), READ).await;
            let target = client.open(&at(to, "b"), REPLACE).await;
            copied.push(client.status(copy(source, (0, 0), target, 0)).await);
            client.status(close(source)).await;
            client.status(close(target)).await;
        }
        let refused = Status::OpUnsupported;
        assert_eq!(copied, [Status::Ok, refused, refused, refused]);
        let linked = link(&at(off, "a"), &at(off, "c"));
        assert_eq!(client.status(linked).await, refused);
        let left = client.leave().await;
        let denied = left.of("op.denied");
        assert_eq!(denied.len(), 4);
        assert!(
            denied
                .iter()
                .all(|denial| denial["reason"] == "disabled_extension")
        );
    }
}

/// A client whose mount is a directory of this machine.
fn local(directory: &std::path::Path, permissions: &str) -> Client {
    let service = LocalService::new(LocalSettings {
        directory: directory.to_owned(),
        uploads: UploadSettings::default(),
        timeout: PATIENCE,
    })
    .unwrap();
    let mut mount = testing::everything("/", "local");
    mount.permissions = crate::policy::Permissions::parse(permissions).unwrap();
    Client::serving(
        HashMap::from([("local".to_owned(), Arc::new(service) as _)]),
        vec![mount],
        BOTH,
        testing::journal,
    )
}

fn link(from: &[u8], to: &[u8]) -> Packet {
    Packet::extended("hardlink@openssh.com")
        .string(from)
        .string(to)
}

#[tokio::test]
async fn a_hard_link_needs_read_and_write_and_never_replaces_or_leaves_the_mount() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let inside = tempfile::tempdir().unwrap();
    std::fs::write(inside.path().join("a"), "a").unwrap();
    std::fs::create_dir(inside.path().join("folder")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), inside.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path(), inside.path().join("out")).unwrap();
    for lacking in ["list,read", "list,write,overwrite"] {
        let mut client = local(inside.path(), lacking).greeted().await;
        assert_eq!(
            client.status(link(b"/a", b"/b")).await,
            Status::PermissionDenied
        );
    }
    let mut client = local(inside.path(), "read,write").greeted().await;
    for (from, to) in [
        (&b"/link"[..], &b"/b"[..]),
        (b"/out/secret", b"/b"),
        (b"/a", b"/out/b"),
        (b"/folder", b"/b"),
        (b"/a", b"/a"),
        (b"/a", b"/folder"),
    ] {
        assert_ne!(
            client.status(link(from, to)).await,
            Status::Ok,
            "{from:?} {to:?}"
        );
    }
    assert!(!inside.path().join("b").exists() && !outside.path().join("b").exists());
    let staged = client.open(b"/upload", REPLACE).await;
    assert_eq!(client.status(write(staged, 0, b"x")).await, Status::Ok);
    assert_eq!(
        client.status(link(b"/upload", b"/b")).await,
        Status::NoSuchFile
    );
    assert_eq!(client.status(link(b"/a", b"/folder/b")).await, Status::Ok);
    std::fs::write(inside.path().join("a"), "both").unwrap();
    let second = std::fs::read_to_string(inside.path().join("folder/b")).unwrap();
    assert_eq!(second, "both");
}

#[tokio::test]
async fn a_hard_link_that_overtakes_the_close_of_its_upload_is_made_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = local(folder.path(), "list,read,write").greeted().await;
    let handle = client.open(b"/a", REPLACE).await;
    assert_eq!(client.status(write(handle, 0, b"hello")).await, Status::Ok);
    let linked = client.request(link(b"/a", b"/b")).await;
    let closed = client.request(close(handle)).await;
    assert_eq!(client.reply(closed).await, Reply::Status(Status::Ok));
    assert_eq!(client.reply(linked).await, Reply::Status(Status::Ok));
    assert_eq!(std::fs::read(folder.path().join("b")).unwrap(), b"hello");
    client.leave().await;
}
