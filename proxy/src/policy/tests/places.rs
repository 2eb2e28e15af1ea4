//! Mounts, what lies above them, and mounts below mounts.

use super::*;

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
