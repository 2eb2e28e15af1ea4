use std::{
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, Subject, WRITE, opened_handle, suite},
        staging::StagingName,
    },
    path::VirtualPath,
};

suite!(super::subject);

async fn subject() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("mount");
    std::fs::create_dir(&disk).unwrap();
    Subject {
        service: Arc::new(service(directory.path())),
        directory: b"/mount".to_vec(),
        disk: Some(disk),
        keep: Box::new(directory),
    }
}

fn service(directory: &Path) -> LocalService {
    LocalService::new(LocalSettings {
        directory: directory.to_owned(),
    })
    .unwrap()
}

/// A mount `inside` with a forbidden neighbour `outside`.
struct Walls {
    directory: tempfile::TempDir,
    client: Client,
}

impl Walls {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["inside", "outside"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("file"), name).unwrap();
        }
        let client = Client::new(service(directory.path()).session(b"/inside"));
        Self { directory, client }
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.directory.path().join("inside").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.directory.path().join("outside").join(name)
    }
}

fn path(name: &str) -> VirtualPath {
    VirtualPath::clean(name.as_bytes()).unwrap()
}

fn rename(from: &str, to: &str) -> Operation {
    Operation::Rename {
        from: path(from),
        to: path(to),
    }
}

#[tokio::test]
async fn a_link_to_a_place_inside_is_followed_and_one_to_the_outside_is_refused() {
    let walls = Walls::new();
    symlink("file", walls.inside("near")).unwrap();
    symlink("../outside/file", walls.inside("far")).unwrap();
    symlink(walls.outside("file"), walls.inside("absolute")).unwrap();
    symlink("../outside", walls.inside("door")).unwrap();
    symlink("../outside/new", walls.inside("dangling")).unwrap();
    let client = &walls.client;
    assert_eq!(client.get("/near").await, b"inside");
    let set = Attributes {
        permissions: Some(0o777),
        ..Attributes::default()
    };
    for name in ["/far", "/absolute", "/door/file"] {
        for refused in [
            client.open_operation(name, READ),
            client.open_operation(name, REPLACE),
            client.open_operation(name, WRITE),
            Operation::Stat { path: path(name) },
            Operation::Setstat {
                path: path(name),
                attributes: set.clone(),
            },
        ] {
            assert_eq!(
                client.refusal(refused).await,
                ErrorKind::PermissionDenied,
                "{name}"
            );
        }
    }
    for refused in [
        client.open_operation("/dangling", REPLACE),
        Operation::Remove {
            path: path("/door/file"),
        },
        Operation::Mkdir {
            path: path("/door/new"),
            attributes: Attributes::default(),
        },
        Operation::Symlink {
            target: "file".into(),
            link: path("/door/new"),
        },
        rename("/file", "/door/new"),
        rename("/door/file", "/stolen"),
    ] {
        assert_eq!(client.refusal(refused).await, ErrorKind::PermissionDenied);
    }
    assert_eq!(
        std::fs::read_to_string(walls.outside("file")).unwrap(),
        "outside"
    );
    assert_eq!(
        std::fs::read_dir(walls.directory.path().join("outside"))
            .unwrap()
            .count(),
        1
    );
}

#[tokio::test]
async fn an_upload_through_a_link_inside_replaces_the_target_and_keeps_the_link() {
    let walls = Walls::new();
    std::fs::create_dir(walls.inside("d")).unwrap();
    symlink("d/target", walls.inside("link")).unwrap();
    walls.client.put("/link", "one").await;
    walls.client.put("/link", "two").await;
    assert_eq!(
        std::fs::read_to_string(walls.inside("d/target")).unwrap(),
        "two"
    );
    assert!(walls.inside("link").is_symlink());
    assert_eq!(walls.client.names("/d").await, [b"target"]);
}

#[tokio::test]
async fn a_link_that_is_swapped_in_during_the_lookup_never_leads_outside() {
    let walls = Walls::new();
    std::fs::create_dir(walls.inside("dir")).unwrap();
    std::fs::write(walls.inside("dir/file"), "inside").unwrap();
    symlink("../outside", walls.inside("trap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, one, two) = (stop.clone(), walls.inside("dir"), walls.inside("trap"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &one,
                    rustix::fs::CWD,
                    &two,
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .unwrap();
            }
        })
    };
    let client = &walls.client;
    let mut reached = 0;
    for _ in 0..300 {
        let open = client.open_operation("/dir/file", READ);
        let handle = opened_handle(&open);
        if client.ask(open).await.is_ok() {
            reached += 1;
            assert_eq!(client.read(handle, 0, 100).await, "inside");
            client.close(handle).await;
        }
        let upload = client.open_operation("/dir/new", REPLACE);
        let handle = opened_handle(&upload);
        if client.ask(upload).await.is_ok() {
            let _ = client.ask(Operation::Close { handle }).await;
        }
        let _ = client
            .ask(Operation::Remove {
                path: path("/dir/new"),
            })
            .await;
        let _ = client
            .ask(Operation::Setstat {
                path: path("/dir/file"),
                attributes: Attributes {
                    permissions: Some(0o604),
                    ..Attributes::default()
                },
            })
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(reached > 0, "the permitted neighbour was never reached");
    let outside = std::fs::metadata(walls.outside("file")).unwrap();
    assert_ne!(outside.permissions().mode() & 0o777, 0o604);
    assert_eq!(
        std::fs::read_dir(walls.directory.path().join("outside"))
            .unwrap()
            .count(),
        1
    );
}

#[tokio::test]
async fn a_pipe_a_socket_and_a_device_are_refused_without_waiting_for_them() {
    let walls = Walls::new();
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            walls.inside(name),
            kind,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
    }
    assert!(
        std::fs::metadata(walls.inside("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    for name in ["/fifo", "/socket"] {
        for access in [READ, WRITE, REPLACE] {
            let open = walls.client.open_operation(name, access);
            let refused = tokio::time::timeout(Duration::from_secs(5), walls.client.refusal(open))
                .await
                .expect("a pipe without a writer must not be waited for");
            assert_eq!(refused, ErrorKind::PermissionDenied, "{name}");
        }
    }
    assert_eq!(walls.client.get("/file").await, b"inside");
}

#[tokio::test]
async fn a_session_sees_nothing_of_a_mount_directory_that_leads_out_or_is_missing() {
    let walls = Walls::new();
    let service = service(&walls.directory.path().join("inside"));
    for (directory, expected) in [
        (&b"/../outside"[..], ErrorKind::PermissionDenied),
        (b"missing", ErrorKind::NotFound),
        (b"file", ErrorKind::NotADirectory),
    ] {
        let client = Client::new(service.session(directory));
        let stat = Operation::Stat { path: path("/") };
        assert_eq!(client.refusal(stat).await, expected);
    }
    assert!(
        Client::new(service.session(b"/"))
            .stat("/file")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_write_that_failed_keeps_close_from_publishing() {
    let walls = Walls::new();
    let client = &walls.client;
    let handle = client.open("/new", REPLACE).await;
    client.write(handle, 0, "good").await;
    let beyond_any_file = Operation::Write {
        handle,
        offset: u64::MAX / 2 - 10,
        data: vec![0; 100].into(),
    };
    let _ = client.refusal(beyond_any_file).await;
    let _ = client.refusal(Operation::Close { handle }).await;
    assert_eq!(client.names("/").await, [b"file"]);
    assert_eq!(
        std::fs::read_dir(walls.directory.path().join("inside"))
            .unwrap()
            .count(),
        1
    );
}

#[tokio::test]
async fn an_update_of_a_file_that_someone_else_changed_meanwhile_is_withdrawn() {
    let walls = Walls::new();
    let (one, two) = (
        &walls.client,
        Client::new(service(walls.directory.path()).session(b"/inside")),
    );
    let handle = one.open("/file", WRITE).await;
    one.write(handle, 0, "ONE").await;
    let append = Access {
        append: true,
        ..WRITE
    };
    let other = two.open("/file", append).await;
    two.write(other, 0, ", acknowledged").await;
    two.close(other).await;
    assert_eq!(
        one.refusal(Operation::Close { handle }).await,
        ErrorKind::Failure
    );
    assert_eq!(one.get("/file").await, b"inside, acknowledged");
    assert_eq!(one.names("/").await, [b"file"]);
}

#[tokio::test]
async fn a_file_opened_for_update_and_closed_untouched_stays_the_same_file() {
    let walls = Walls::new();
    let before = std::fs::metadata(walls.inside("file")).unwrap();
    let handle = walls.client.open("/file", WRITE).await;
    walls.client.close(handle).await;
    let after = std::fs::metadata(walls.inside("file")).unwrap();
    assert_eq!((before.ino(), before.mtime()), (after.ino(), after.mtime()));
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_clients_never_set_special_bits() {
    let walls = Walls::new();
    let mode = |name: &str| {
        std::fs::metadata(walls.inside(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    std::fs::set_permissions(walls.inside("file"), std::fs::Permissions::from_mode(0o604)).unwrap();
    walls.client.put("/file", "new").await;
    assert_eq!(mode("file"), 0o604);
    walls
        .client
        .done(Operation::Setstat {
            path: path("/file"),
            attributes: Attributes {
                permissions: Some(0o106_755),
                ..Attributes::default()
            },
        })
        .await;
    assert_eq!(mode("file"), 0o755);
    walls
        .client
        .done(Operation::Mkdir {
            path: path("/d"),
            attributes: Attributes {
                permissions: Some(0o7700),
                ..Attributes::default()
            },
        })
        .await;
    assert_eq!(mode("d"), 0o700);
}

#[tokio::test]
async fn only_staging_files_that_nobody_wrote_to_for_a_day_are_swept() {
    let walls = Walls::new();
    let leftover = StagingName::random().unwrap();
    let leftover = String::from_utf8(leftover.as_bytes().to_vec()).unwrap();
    std::fs::create_dir(walls.inside("d")).unwrap();
    std::fs::write(walls.inside("d").join(&leftover), "half").unwrap();
    std::fs::write(walls.inside(".portcullis-notes"), "an operator's").unwrap();
    let service = service(walls.directory.path());
    let now = SystemTime::now();
    assert_eq!(service.sweep_leftovers(now), 0);
    assert!(walls.inside("d").join(&leftover).exists());
    assert_eq!(
        service.sweep_leftovers(now + staging::LEFTOVER_AGE + Duration::from_secs(60)),
        1
    );
    assert!(!walls.inside("d").join(&leftover).exists());
    assert!(walls.inside(".portcullis-notes").exists() && walls.inside("file").exists());
}
