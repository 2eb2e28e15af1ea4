mod handles;
mod path_rules;
mod places;

use std::collections::BTreeSet;

use portcullis_journal::{AccountKind, Intent as _};

use super::*;
use crate::operation::{Attributes, Check, DigestAlgorithm};

fn requester() -> Arc<Requester> {
    Arc::new(Requester {
        session: SessionId([7; 16]),
        user: Actor {
            uid: Some(1),
            name: "alice".into(),
            kind: Some(AccountKind::Human),
        },
        source: "192.0.2.10:50022".parse().unwrap(),
        mfa_window: None,
    })
}

fn path(raw: &str) -> VirtualPath {
    VirtualPath::clean(raw.as_bytes()).unwrap()
}

const ALL: [Permission; 11] = Permission::ALL;

fn permissions(granted: &[Permission]) -> Permissions {
    Permissions::of(|permission| granted.contains(&permission))
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
        rules: PathRules::default(),
        group: None,
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

fn append() -> Access {
    Access {
        append: true,
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
            open("/inbox/a", append()),
            vec![vec![Append], vec![Write, Overwrite]],
        ),
        (
            open(
                "/inbox/a",
                Access {
                    create: true,
                    ..append()
                },
            ),
            vec![vec![Write]],
        ),
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
fn a_rename_is_ended_after_a_crash_on_one_mount_and_nothing_else_is() {
    let mounts = [mount("/a", &[]), mount("/b", &[])];
    let settling = |operation| Permit::settling(&requester(), &mounts, OperationId(1), operation);
    let rename = |from, to| Operation::Rename {
        from: path(from),
        to: path(to),
    };
    let permit = settling(rename("/a/x", "/a/y")).unwrap();
    assert_eq!(permit.target().unwrap().as_bytes(), b"x");
    assert_eq!(permit.second_target().unwrap().as_bytes(), b"y");
    assert_eq!(permit.event().body["decision"], "reconciling");
    assert!(settling(rename("/a/x", "/b/x")).is_none());
    assert!(settling(rename("/a/x", "/x")).is_none());
    let remove = Operation::Remove { path: path("/a/x") };
    assert!(settling(remove).is_none());
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
