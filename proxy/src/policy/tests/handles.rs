//! What handles are good for.

use super::*;

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
