use std::collections::BTreeSet;

use portcullis_journal::{AccountKind, Intent as _};

use super::*;
use crate::operation::{Check, DigestAlgorithm};

fn requester() -> Arc<Requester> {
    Arc::new(Requester {
        session: SessionId([7; 16]),
        user: Actor {
            uid: Some(1),
            name: "alice".into(),
            kind: Some(AccountKind::Human),
        },
        source: "192.0.2.10:50022".parse().unwrap(),
    })
}

fn path(raw: &str) -> VirtualPath {
    VirtualPath::clean(raw.as_bytes()).unwrap()
}

const ALL: [Permission; 10] = [
    Permission::List,
    Permission::Read,
    Permission::Write,
    Permission::Overwrite,
    Permission::Rename,
    Permission::Delete,
    Permission::Mkdir,
    Permission::Rmdir,
    Permission::Setattr,
    Permission::Symlink,
];

fn permissions(granted: &[Permission]) -> Permissions {
    let has = |permission| granted.contains(&permission);
    Permissions {
        list: has(Permission::List),
        read: has(Permission::Read),
        write: has(Permission::Write),
        overwrite: has(Permission::Overwrite),
        rename: has(Permission::Rename),
        delete: has(Permission::Delete),
        mkdir: has(Permission::Mkdir),
        rmdir: has(Permission::Rmdir),
        setattr: has(Permission::Setattr),
        symlink: has(Permission::Symlink),
    }
}

fn mount(at: &str, granted: &[Permission]) -> Mount {
    Mount {
        at: path(at),
        backend: "memory".into(),
        directory: b"/".to_vec(),
        permissions: permissions(granted),
        allowance: Allowance::default(),
        extensions: Some(Extensions {
            hardlink: true,
            copy_data: true,
        }),
        resume: None,
    }
}

fn ask(mounts: &[Mount], operation: Operation) -> Result<Permit, Denied> {
    authorize(
        &requester(),
        mounts,
        OperationId(1),
        operation,
        Named::default(),
    )
}

fn open(raw: &str, access: Access) -> Operation {
    Operation::Open {
        path: path(raw),
        handle: HandleId(1),
        access,
        attributes: Attributes::default(),
    }
}

fn upload() -> Access {
    Access {
        write: true,
        create: true,
        truncate: true,
        ..Access::default()
    }
}

fn update() -> Access {
    Access {
        write: true,
        ..Access::default()
    }
}

fn download() -> Access {
    Access {
        read: true,
        ..Access::default()
    }
}

fn mode() -> Attributes {
    Attributes {
        permissions: Some(0o600),
        ..Attributes::default()
    }
}

fn check() -> Check {
    Check {
        algorithm: DigestAlgorithm::Sha256,
        offset: 0,
        length: None,
        block_size: None,
    }
}

fn size() -> Attributes {
    Attributes {
        size: Some(0),
        ..Attributes::default()
    }
}

/// Every operation on a name, with each smallest set of permissions that suffices.
fn matrix() -> Vec<(Operation, Vec<Vec<Permission>>)> {
    use Permission::*;
    let at = || path("/inbox/a");
    vec![
        (open("/inbox/a", download()), vec![vec![Read]]),
        (open("/inbox/a", upload()), vec![vec![Write]]),
        (open("/inbox/a", update()), vec![vec![Write, Overwrite]]),
        (
            open(
                "/inbox/a",
                Access {
                    read: true,
                    ..upload()
                },
            ),
            vec![vec![Read, Write]],
        ),
        (
            Operation::CheckFileName {
                path: at(),
                handle: HandleId(1),
                check: check(),
            },
            vec![vec![Read]],
        ),
        (
            Operation::Hardlink {
                from: at(),
                to: path("/inbox/b"),
            },
            vec![vec![Read, Write]],
        ),
        (Operation::Stat { path: at() }, vec![vec![List], vec![Read]]),
        (
            Operation::Lstat { path: at() },
            vec![vec![List], vec![Read]],
        ),
        (
            Operation::Readlink { path: at() },
            vec![vec![List], vec![Read]],
        ),
        (
            Operation::Statvfs { path: at() },
            vec![vec![List], vec![Read]],
        ),
        (
            Operation::Opendir {
                path: at(),
                handle: HandleId(1),
            },
            vec![vec![List]],
        ),
        (
            Operation::Setstat {
                path: at(),
                attributes: mode(),
            },
            vec![vec![Setattr]],
        ),
        (
            Operation::Lsetstat {
                path: at(),
                attributes: mode(),
            },
            vec![vec![Setattr]],
        ),
        (
            Operation::Setstat {
                path: at(),
                attributes: size(),
            },
            vec![vec![Overwrite]],
        ),
        (
            Operation::Setstat {
                path: at(),
                attributes: Attributes {
                    size: Some(1),
                    ..mode()
                },
            },
            vec![vec![Overwrite, Setattr]],
        ),
        (Operation::Remove { path: at() }, vec![vec![Delete]]),
        (
            Operation::Mkdir {
                path: at(),
                attributes: Attributes::default(),
            },
            vec![vec![Mkdir]],
        ),
        (Operation::Rmdir { path: at() }, vec![vec![Rmdir]]),
        (
            Operation::Rename {
                from: at(),
                to: path("/inbox/b"),
            },
            vec![vec![Rename]],
        ),
        (
            Operation::PosixRename {
                from: at(),
                to: path("/inbox/b"),
            },
            vec![vec![Rename]],
        ),
        (
            Operation::Symlink {
                target: "b".into(),
                link: at(),
            },
            vec![vec![Symlink]],
        ),
    ]
}

#[test]
fn each_operation_passes_with_exactly_the_permissions_it_needs() {
    for (operation, sufficient) in matrix() {
        for bits in 0..(1_u32 << ALL.len()) {
            let granted: Vec<Permission> = (0..ALL.len())
                .filter(|bit| bits & (1 << bit) != 0)
                .map(|bit| ALL[bit])
                .collect();
            let expected = sufficient
                .iter()
                .any(|needed| needed.iter().all(|one| granted.contains(one)));
            let verdict = ask(&[mount("/inbox", &granted)], operation.clone());
            assert_eq!(
                verdict.is_ok(),
                expected,
                "{} with {granted:?}: {verdict:?}",
                operation.name()
            );
        }
    }
}

#[test]
fn a_path_counts_by_component_and_what_no_mount_holds_does_not_exist() {
    let mounts = [mount("/inbox", &ALL), mount("/deep/er/box", &ALL)];
    let stat = |raw: &str| {
        ask(&mounts, Operation::Stat { path: path(raw) }).map(|permit| permit.route().clone())
    };
    let Ok(Route::Mount { mount, target, .. }) = stat("/inbox/x/y") else {
        panic!("inside the mount")
    };
    assert_eq!((mount, target.as_bytes()), (MountId(0), &b"x/y"[..]));
    assert_eq!(stat("/inbox2"), Err(Denied::Nowhere));
    assert_eq!(stat("/inbox/../etc/passwd"), Err(Denied::Nowhere));
    assert_eq!(stat("/"), Ok(Route::Gateway));
    assert_eq!(stat("/deep"), Ok(Route::Gateway));
    assert_eq!(stat("/deep/er"), Ok(Route::Gateway));
    assert_eq!(stat("/deep/other"), Err(Denied::Nowhere));
}

#[test]
fn directories_above_the_mounts_are_listed_and_nothing_else() {
    let mounts = [mount("/deep/box", &ALL)];
    assert!(
        ask(
            &mounts,
            Operation::Opendir {
                path: path("/deep"),
                handle: HandleId(1)
            }
        )
        .is_ok()
    );
    for operation in [
        open("/deep", download()),
        open("/deep", upload()),
        Operation::Remove {
            path: path("/deep"),
        },
        Operation::Rmdir {
            path: path("/deep"),
        },
        Operation::Mkdir {
            path: path("/deep"),
            attributes: Attributes::default(),
        },
        Operation::Setstat {
            path: path("/deep"),
            attributes: mode(),
        },
        Operation::Rename {
            from: path("/deep"),
            to: path("/deep/box/x"),
        },
        Operation::Rename {
            from: path("/deep/box/x"),
            to: path("/deep"),
        },
        Operation::Symlink {
            target: "a".into(),
            link: path("/deep"),
        },
        Operation::Readlink {
            path: path("/deep"),
        },
    ] {
        assert_eq!(
            ask(&mounts, operation.clone()).unwrap_err(),
            Denied::AboveMounts,
            "{}",
            operation.name()
        );
    }
}

#[test]
fn the_directory_of_a_mount_itself_stays_and_its_content_can_change() {
    let mounts = [mount("/inbox", &ALL)];
    let twice = |at: &str| {
        let at = path(at);
        vec![
            open(std::str::from_utf8(at.as_bytes()).unwrap(), upload()),
            Operation::Remove { path: at.clone() },
            Operation::Rmdir { path: at.clone() },
            Operation::Mkdir {
                path: at.clone(),
                attributes: Attributes::default(),
            },
            Operation::Setstat {
                path: at.clone(),
                attributes: mode(),
            },
            Operation::Rename {
                from: at.clone(),
                to: path("/inbox/z"),
            },
            Operation::PosixRename {
                from: path("/inbox/z"),
                to: at.clone(),
            },
            Operation::Symlink {
                target: "a".into(),
                link: at.clone(),
            },
            Operation::Hardlink {
                from: path("/inbox/z"),
                to: at,
            },
        ]
    };
    for operation in twice("/inbox") {
        assert_eq!(
            ask(&mounts, operation.clone()).unwrap_err(),
            Denied::MountPoint,
            "{}",
            operation.name()
        );
    }
    for operation in twice("/inbox/a") {
        assert!(
            ask(&mounts, operation.clone()).is_ok(),
            "{}",
            operation.name()
        );
    }
}

#[test]
fn without_overwrite_an_upload_is_exclusive_and_a_replacing_rename_is_a_plain_one() {
    let rename = Operation::PosixRename {
        from: path("/inbox/a"),
        to: path("/inbox/b"),
    };
    let careful = [mount("/inbox", &[Permission::Write, Permission::Rename])];
    let permit = ask(&careful, open("/inbox/a", upload())).unwrap();
    assert!(matches!(permit.operation(), Operation::Open { access, .. } if access.exclusive));
    assert_eq!(permit.event().body["decision"], "without_overwrite");
    let permit = ask(&careful, rename.clone()).unwrap();
    assert!(matches!(permit.operation(), Operation::Rename { .. }));
    assert_eq!(permit.event().body["decision"], "without_overwrite");

    let free = [mount(
        "/inbox",
        &[Permission::Write, Permission::Rename, Permission::Overwrite],
    )];
    let permit = ask(&free, open("/inbox/a", upload())).unwrap();
    assert!(matches!(permit.operation(), Operation::Open { access, .. } if !access.exclusive));
    assert_eq!(permit.event().body["decision"], "as_asked");
    let permit = ask(&free, rename).unwrap();
    assert!(matches!(permit.operation(), Operation::PosixRename { .. }));
}

#[test]
fn a_rename_stays_on_its_mount() {
    let mounts = [mount("/a", &ALL), mount("/b", &ALL)];
    let rename = |from: &str, to: &str| {
        ask(
            &mounts,
            Operation::Rename {
                from: path(from),
                to: path(to),
            },
        )
    };
    let permit = rename("/a/x", "/a/sub/y").unwrap();
    assert_eq!(permit.target().unwrap().as_bytes(), b"x");
    assert_eq!(permit.second_target().unwrap().as_bytes(), b"sub/y");
    assert_eq!(rename("/a/x", "/b/x").unwrap_err(), Denied::AcrossMounts);
}

#[test]
fn a_link_leads_down_or_is_refused() {
    let mounts = [mount("/inbox", &ALL)];
    let link = |target: &'static [u8]| {
        ask(
            &mounts,
            Operation::Symlink {
                target: target.into(),
                link: path("/inbox/sub/link"),
            },
        )
        .map(|_| ())
    };
    for fine in [&b"a"[..], b"a/b", b"./a", b"..a", b"a..", b"caf\xe9"] {
        assert_eq!(link(fine), Ok(()), "{fine:?}");
    }
    for wrong in [
        &b""[..],
        b"/",
        b"/inbox/a",
        b"..",
        b"../a",
        b"a/..",
        b"a/../b",
        b"a\0",
        b".portcullis-x/a",
    ] {
        assert_eq!(link(wrong), Err(Denied::LinkTarget), "{wrong:?}");
    }
}

#[test]
fn a_handle_serves_only_what_it_was_opened_for() {
    let mounts = [mount("/inbox", &ALL)];
    let handle = |operation: Operation| ask(&mounts, operation).unwrap().opens().unwrap();
    let reading = handle(open("/inbox/a", download()));
    let writing = handle(open("/inbox/a", upload()));
    let listing = handle(Operation::Opendir {
        path: path("/inbox"),
        handle: HandleId(1),
    });
    let id = HandleId(1);
    let table: [(Operation, [bool; 3]); 10] = [
        (
            Operation::Read {
                handle: id,
                offset: 0,
                length: 1,
            },
            [true, false, false],
        ),
        (
            Operation::Write {
                handle: id,
                offset: 0,
                data: "x".into(),
            },
            [false, true, false],
        ),
        (Operation::Readdir { handle: id }, [false, false, true]),
        (Operation::Fsync { handle: id }, [true, true, false]),
        (
            Operation::Fsetstat {
                handle: id,
                attributes: size(),
            },
            [false, true, false],
        ),
        (
            Operation::Fsetstat {
                handle: id,
                attributes: mode(),
            },
            [true, true, false],
        ),
        (
            Operation::CheckFile {
                handle: id,
                check: check(),
            },
            [true, false, false],
        ),
        (Operation::Fstat { handle: id }, [true, true, true]),
        (Operation::Fstatvfs { handle: id }, [true, true, true]),
        (Operation::Close { handle: id }, [true, true, true]),
    ];
    for (operation, expected) in table {
        for (open, expected) in [&reading, &writing, &listing].into_iter().zip(expected) {
            let verdict = authorize(
                &requester(),
                &mounts,
                OperationId(1),
                operation.clone(),
                Named::one(Some(open)),
            );
            assert_eq!(
                verdict.is_ok(),
                expected,
                "{} on {:?}",
                operation.name(),
                open.kind()
            );
        }
        assert_eq!(ask(&mounts, operation).unwrap_err(), Denied::UnknownHandle);
    }
}

#[test]
fn attributes_through_a_handle_need_the_permission_that_they_need_through_a_name() {
    let upload_only = [mount("/inbox", &[Permission::Write])];
    let handle = ask(&upload_only, open("/inbox/a", upload()))
        .unwrap()
        .opens()
        .unwrap();
    let set = |mounts: &[Mount], attributes| {
        authorize(
            &requester(),
            mounts,
            OperationId(1),
            Operation::Fsetstat {
                handle: HandleId(1),
                attributes,
            },
            Named::one(Some(&handle)),
        )
        .map(|_| ())
    };
    assert_eq!(
        set(&upload_only, mode()),
        Err(Denied::Missing(Permission::Setattr))
    );
    assert_eq!(set(&upload_only, size()), Ok(()));
    let with_setattr = [mount("/inbox", &[Permission::Write, Permission::Setattr])];
    assert_eq!(set(&with_setattr, mode()), Ok(()));
}

#[test]
fn an_account_without_mounts_sees_an_empty_root() {
    assert!(
        ask(
            &[],
            Operation::Opendir {
                path: path("/"),
                handle: HandleId(1)
            }
        )
        .is_ok()
    );
    assert_eq!(
        ask(&[], Operation::Stat { path: path("/a") }).unwrap_err(),
        Denied::Nowhere
    );
}

#[test]
fn the_intent_says_who_what_and_where_in_bytes_that_a_log_can_hold() {
    let mounts = [mount("/inbox", &ALL)];
    let permit = ask(
        &mounts,
        Operation::Rename {
            from: VirtualPath::clean(b"/inbox/caf\xe9").unwrap(),
            to: path("/inbox/b"),
        },
    )
    .unwrap();
    let event = permit.event();
    assert_eq!(event.operation, Some(OperationId(1)));
    assert_eq!(event.session, Some(SessionId([7; 16])));
    assert_eq!(event.user.as_ref().unwrap().name, "alice");
    assert_eq!(event.body["sftp_op"], "rename");
    assert_eq!(event.body["path"], "b64:L2luYm94L2NhZuk=");
    assert_eq!(event.body["path2"], "/inbox/b");
    let keys: BTreeSet<&str> = event.body.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        BTreeSet::from(["sftp_op", "path", "path2", "mount", "decision"])
    );
}

#[test]
fn the_nearest_mount_decides_and_what_leads_to_one_below_stays_as_it_is() {
    use Permission::*;
    let mounts = [mount("/a", &ALL), mount("/a/b/c", &[Read])];
    let target = |operation| {
        ask(&mounts, operation).map(|permit| match permit.route() {
            Route::Mount { mount, target, .. } => (mount.0, target.as_bytes().to_vec()),
            Route::Gateway => panic!("the gateway serves it"),
        })
    };
    assert_eq!(target(open("/a/b/x", upload())), Ok((0, b"b/x".to_vec())));
    assert_eq!(target(open("/a/b/c/x", download())), Ok((1, b"x".to_vec())));
    assert_eq!(
        target(open("/a/b/c/x", upload())),
        Err(Denied::Missing(Write))
    );
    let change = |at: &str| {
        let at = path(at);
        [
            Operation::Rmdir { path: at.clone() },
            Operation::Remove { path: at.clone() },
            Operation::Mkdir {
                path: at.clone(),
                attributes: Attributes::default(),
            },
            Operation::Setstat {
                path: at.clone(),
                attributes: mode(),
            },
            Operation::Rename {
                from: at.clone(),
                to: path("/a/z"),
            },
            Operation::PosixRename {
                from: path("/a/z"),
                to: at.clone(),
            },
            Operation::Symlink {
                target: "z".into(),
                link: at.clone(),
            },
            open(std::str::from_utf8(at.as_bytes()).unwrap(), upload()),
        ]
    };
    for operation in change("/a/b").into_iter().chain(change("/a")) {
        assert_eq!(
            ask(&mounts, operation.clone()).unwrap_err(),
            Denied::MountPoint,
            "{}",
            operation.name()
        );
    }
    for operation in change("/a/bb") {
        assert!(
            ask(&mounts, operation.clone()).is_ok(),
            "{}",
            operation.name()
        );
    }
    let into = Operation::Rename {
        from: path("/a/z"),
        to: path("/a/b/c/z"),
    };
    assert_eq!(ask(&mounts, into).unwrap_err(), Denied::AcrossMounts);
}
