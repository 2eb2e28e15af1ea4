//! How files come to stand on the server.

use sha2::Digest as _;

use super::*;

#[tokio::test]
async fn a_server_that_copies_serves_updates_of_any_size_and_a_change_meanwhile_is_noticed() {
    let server = Server::start();
    let client = client(SftpSettings {
        copy_limit: 0,
        ..server.settings()
    });
    // More than one request to copy.
    let mut content = vec![1; 40 << 20];
    std::fs::write(server.sshd.home.join("a"), &content).unwrap();
    let handle = client.open("/a", APPEND).await;
    client.write(handle, 0, "end").await;
    client.close(handle).await;
    content.extend(b"end");
    assert!(std::fs::read(server.sshd.home.join("a")).unwrap() == content);
    let handle = client.open("/a", WRITE).await;
    client.write(handle, 0, "lost").await;
    std::fs::write(server.sshd.home.join("a"), "someone else's").unwrap();
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::Failure);
    assert_eq!(client.get("/a").await, b"someone else's");
    assert_eq!(server.names(), ["a"]);
}

#[tokio::test]
async fn a_direct_upload_stands_under_its_name_from_the_first_byte_on_and_others_do_not() {
    let server = Server::start();
    let direct = SftpSettings {
        publication: Publication::Direct,
        ..server.settings()
    };
    let writer = client(direct.clone());
    let handle = writer.open("/a", REPLACE).await;
    writer.write(handle, 0, "half").await;
    assert_eq!(server.names(), ["a"]);
    assert_eq!(writer.get("/a").await, b"half");
    writer.end().await;
    let writer = client(direct);
    assert_eq!(writer.stat("/a").await.unwrap().size, Some(4));
    let handle = writer.open("/a", APPEND).await;
    writer.write(handle, 4, ", whole").await;
    assert_eq!(
        writer.close_digested(handle).await,
        Some(sha2::Sha256::digest(b"half, whole").into())
    );
    let handle = client(server.settings()).open("/b", REPLACE).await;
    assert!(!server.names().contains(&"b".to_owned()), "{handle:?}");
    assert_eq!(writer.get("/a").await, b"half, whole");
}

#[tokio::test]
async fn a_staging_file_is_swept_when_its_directory_is_used_once_nobody_has_touched_it_for_long() {
    let server = Server::start();
    let age = |name: &str, hours: u64| {
        let path = server.sshd.home.join(name);
        let file = std::fs::File::create(&path).unwrap();
        let modified = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(modified).unwrap();
    };
    let (old, young) = (
        ".portcullis-0123456789abcdef.part",
        ".portcullis-fedcba9876543210.part",
    );
    for name in [old, "old.csv", ".portcullis-notes"] {
        age(name, 30);
    }
    age(young, 20);
    let kept = [young, ".portcullis-notes", "old.csv"];
    let client = client(server.settings());
    assert_eq!(client.names("/").await, [b"old.csv"]);
    client.end().await;
    assert_eq!(server.names(), kept);
    // An upload has its directory searched too.
    age(old, 30);
    let uploader =
        Client::new(SftpService::new(server.settings()).session(b"", &crate::testing::owner()));
    uploader.put("/old.csv", "new").await;
    let deadline = Instant::now() + PATIENCE;
    while server.names() != kept {
        assert!(Instant::now() < deadline, "{:?}", server.names());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_the_mount_names_is_below_the_login_directory_or_absolute() {
    let server = Server::start();
    let service = SftpService::new(server.settings());
    client(server.settings()).mkdir("/inbox").await;
    let absolute = server.sshd.home.join("inbox");
    for directory in [
        &b"inbox"[..],
        b"./inbox/",
        absolute.as_os_str().as_encoded_bytes(),
    ] {
        let client = Client::new(service.session(directory, &crate::testing::owner()));
        client.put("/a", directory.to_vec()).await;
        assert_eq!(std::fs::read(absolute.join("a")).unwrap(), directory);
        assert!(client.stat("/").await.unwrap().is_directory());
        assert_eq!(client.names("/").await, [b"a"]);
    }
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_an_upload_over_a_link_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    let client = client(server.settings());
    client.put("/a", "old").await;
    let on_disk = server.sshd.home.join("a");
    std::fs::set_permissions(&on_disk, std::fs::Permissions::from_mode(0o606)).unwrap();
    client.put("/a", "new").await;
    let mode = std::fs::metadata(&on_disk).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o606);
    std::os::unix::fs::symlink("a", server.sshd.home.join("link")).unwrap();
    for access in [REPLACE, WRITE] {
        let open = client.open_operation("/link", access);
        assert_eq!(client.refusal(open).await, ErrorKind::Unsupported);
    }
    let exclusive = Access {
        exclusive: true,
        ..REPLACE
    };
    let open = client.open_operation("/link", exclusive);
    assert_eq!(client.refusal(open).await, ErrorKind::AlreadyExists);
    assert_eq!(client.get("/link").await, b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_in_both_directions_at_once_do_not_wait_for_each_other() {
    const CHUNK: usize = 255 * 1024;
    const CHUNKS: u64 = 128;
    let server = Server::start();
    let client = client(server.settings());
    let upload = async |name: &str| {
        let handle = client.open(name, REPLACE).await;
        let mut writes = Vec::new();
        for number in 0..CHUNKS {
            let write = Operation::Write {
                handle,
                offset: number * CHUNK as u64,
                data: vec![number as u8; CHUNK].into(),
            };
            writes.push(client.start(write).await);
        }
        for outcome in futures_util::future::join_all(writes).await {
            outcome.unwrap();
        }
        client.close(handle).await;
    };
    let download = async |name: &str| {
        let handle = client.open(name, READ).await;
        let mut reads = Vec::new();
        for number in 0..CHUNKS {
            let read = Operation::Read {
                handle,
                offset: number * CHUNK as u64,
                length: CHUNK as u32,
            };
            reads.push(client.start(read).await);
        }
        let mut outcomes = futures_util::future::join_all(reads).await.into_iter();
        for number in 0..CHUNKS {
            let Ok(Outcome::Data(data)) = outcomes.next().unwrap() else {
                panic!("READ {number} gave no data");
            };
            assert!(data.len() == CHUNK && data.iter().all(|&byte| byte == number as u8));
        }
        client.close(handle).await;
    };
    let both = async {
        upload("/one").await;
        tokio::join!(upload("/two"), download("/one"));
        download("/two").await;
    };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("neither direction waits for the other");
}
