use std::{
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use rustix::fs::FileType;

use super::*;
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, REPLACE, Subject, WRITE, opened_handle, suite},
        staging::StagingName,
    },
    operation::{Access, Attributes},
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
    LocalService::new(settings(directory)).unwrap()
}

fn settings(directory: &Path) -> LocalSettings {
    LocalSettings {
        directory: directory.to_owned(),
        uploads: UploadSettings::default(),
        timeout: Duration::from_secs(30),
    }
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
        let client =
            Client::new(service(directory.path()).session(b"/inside", &crate::testing::owner()));
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
        let client = Client::new(service.session(directory, &crate::testing::owner()));
        let stat = Operation::Stat { path: path("/") };
        assert_eq!(client.refusal(stat).await, expected);
    }
    assert!(
        Client::new(service.session(b"/", &crate::testing::owner()))
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
        Client::new(service(walls.directory.path()).session(b"/inside", &crate::testing::owner())),
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
        service.sweep_leftovers(now + UploadSettings::DEFAULT_RETENTION + Duration::from_secs(60)),
        1
    );
    assert!(!walls.inside("d").join(&leftover).exists());
    assert!(walls.inside(".portcullis-notes").exists() && walls.inside("file").exists());
}

#[tokio::test]
async fn a_staging_file_in_use_is_never_swept_however_old() {
    let walls = Walls::new();
    let service = service(walls.directory.path());
    let client = Client::new(service.session(b"/inside", &crate::testing::owner()));
    let handle = client.open("/new", REPLACE).await;
    client.write(handle, 0, "slowly").await;
    let later = SystemTime::now() + UploadSettings::DEFAULT_RETENTION + Duration::from_secs(60);
    assert_eq!(service.sweep_leftovers(later), 0);
    client.end().await;
    assert_eq!(
        service.sweep_leftovers(SystemTime::now()),
        0,
        "interrupted, and kept for the retention time"
    );
    assert!(client_of(&service).stat("/new").await.is_ok());
    assert_eq!(service.sweep_leftovers(later), 1);
    assert!(client_of(&service).is_missing("/new").await);
}

fn client_of(service: &LocalService) -> Client {
    Client::new(service.session(b"/inside", &crate::testing::owner()))
}

async fn interrupt(client: &Client, content: &'static str) {
    let handle = client.open("/new", REPLACE).await;
    client.write(handle, 0, content).await;
    client.end().await;
}

#[tokio::test]
async fn a_killed_gateway_finds_its_partials_again_and_another_node_or_kernel_does_not() {
    let walls = Walls::new();
    interrupt(&client_of(&service(walls.directory.path())), "half of it").await;
    // Another service has no memory of the first: only the name on disk leads back.
    assert!(
        client_of(&service(walls.directory.path()))
            .stat("/new")
            .await
            .is_ok()
    );
    let elsewhere = LocalService::new(LocalSettings {
        uploads: UploadSettings {
            node: "elsewhere".to_owned(),
            ..UploadSettings::default()
        },
        ..settings(walls.directory.path())
    });
    let mut after_power_cut = service(walls.directory.path());
    after_power_cut.names = StagingNames::new(UploadSettings::default(), b"another boot");
    for service in [elsewhere.unwrap(), after_power_cut] {
        let client = client_of(&service);
        assert!(client.is_missing("/new").await);
        client.put("/new", "whole").await;
        assert_eq!(client.get("/new").await, b"whole");
        client.done(Operation::Remove { path: path("/new") }).await;
    }
}

#[tokio::test]
async fn without_resume_an_interrupted_upload_is_removed_at_once() {
    let walls = Walls::new();
    let service = LocalService::new(LocalSettings {
        uploads: UploadSettings {
            resume: false,
            ..UploadSettings::default()
        },
        ..settings(walls.directory.path())
    })
    .unwrap();
    interrupt(&client_of(&service), "half of it").await;
    assert!(client_of(&service).is_missing("/new").await);
    let left = std::fs::read_dir(walls.directory.path().join("inside")).unwrap();
    assert_eq!(left.count(), 1);
}

#[tokio::test]
async fn a_link_planted_under_a_partials_name_is_neither_shown_nor_written_to() {
    let walls = Walls::new();
    let service = service(walls.directory.path());
    interrupt(&client_of(&service), "half of it").await;
    let partial = std::fs::read_dir(walls.directory.path().join("inside"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap() != "file")
        .unwrap();
    let append = Access {
        append: true,
        create: true,
        ..WRITE
    };
    for is_symbolic in [false, true] {
        std::fs::remove_file(&partial).unwrap();
        let forbidden = walls.outside("file");
        if is_symbolic {
            symlink(forbidden, &partial).unwrap();
        } else {
            std::fs::hard_link(forbidden, &partial).unwrap();
        }
        let client = client_of(&service);
        assert!(client.is_missing("/new").await);
        let handle = client.open("/new", append).await;
        client.write(handle, 0, "whole").await;
        client.close(handle).await;
        assert_eq!(client.get("/new").await, b"whole");
        client.done(Operation::Remove { path: path("/new") }).await;
        std::fs::write(&partial, "").unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(walls.outside("file")).unwrap(),
        "outside"
    );
}

#[tokio::test]
async fn an_operation_that_hangs_is_answered_in_time_and_its_handle_is_good_for_nothing_more() {
    let walls = Walls::new();
    let service = LocalService::new(LocalSettings {
        timeout: Duration::from_millis(200),
        ..settings(walls.directory.path())
    })
    .unwrap();
    let all = service.pool.free();
    let backend = service.backend(b"/inside", &crate::testing::owner());
    let lane = backend.lane.clone();
    let client = Client::new(Arc::new(backend));
    let reading = client.open("/file", READ).await;
    let handle = client.open("/new", REPLACE).await;
    client.write(handle, 0, "acknowledged").await;
    // Stands for a disk that does not answer: the session's thread waits within it.
    let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
    let hanging = lane.run_at_any_rate(move || {
        let _ = held.recv();
    });
    let write = |offset| Operation::Write {
        handle,
        offset,
        data: "lost".into(),
    };
    let late = client.open_operation("/late", REPLACE);
    let late_handle = opened_handle(&late);
    assert_eq!(client.refusal(write(12)).await, ErrorKind::TimedOut);
    assert_eq!(client.refusal(late).await, ErrorKind::TimedOut);
    assert_eq!(service.pool.free(), all - 1, "the thread is still taken");
    assert_eq!(
        client_of(&service).get("/file").await,
        b"inside",
        "other sessions go on"
    );
    release.send(()).unwrap();
    hanging.await.unwrap();
    assert_eq!(client.refusal(write(12)).await, ErrorKind::TimedOut);
    let close = Operation::Close { handle };
    assert_eq!(client.refusal(close).await, ErrorKind::TimedOut);
    let close = Operation::Close {
        handle: late_handle,
    };
    client.refusal(close).await;
    assert_eq!(client.read(reading, 0, 10).await, "inside");
    assert_eq!(client.names("/").await, [b"file"], "nothing is published");
}
