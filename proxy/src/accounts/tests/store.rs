//! A database that is locked, read-only, damaged or of a newer program: an error that says so, in bounded time.

use std::io::{Seek as _, SeekFrom, Write as _};

use super::{super::*, database, name, with_account};

fn error_of<T: fmt::Debug>(result: Result<T, AccountsError>) -> (AccountsError, String) {
    let error = result.unwrap_err();
    let message = error.to_string();
    (error, message)
}

#[test]
fn a_lock_of_another_process_is_waited_for_once_and_not_once_for_each_who_waits() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    assert!(Accounts::open(&path).is_ok(), "opening needs no lock");
    assert!(accounts.profile("alice").unwrap().is_some(), "nor do reads");
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let disabled = accounts.administer("test").disable(&name("alice"));
                let (error, message) = error_of(disabled);
                assert!(matches!(error, AccountsError::Locked), "{error:?}");
                assert!(message.contains("for 5 s"), "{message}");
                assert_eq!(error.code(), "accounts_locked");
            });
        }
    });
    // Each one after the other would take 20 s.
    assert!(begin.elapsed() < 3 * BUSY_TIMEOUT, "{:?}", begin.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    accounts.administer("test").disable(&name("alice")).unwrap();
}

#[test]
fn what_can_not_be_written_is_an_error_that_says_so() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    accounts.forbid_writes(true);
    let (error, message) = error_of(accounts.administer("test").disable(&name("alice")));
    assert!(matches!(error, AccountsError::ReadOnly), "{error:?}");
    assert!(message.contains("can't be written"), "{message}");
    assert!(accounts.profile("alice").unwrap().is_some());
}

#[test]
fn pages_that_make_no_sense_are_an_error_at_the_first_read_of_them() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    // The last one to close moves the log into the file.
    drop(accounts);
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    // All behind the first page, where the schema begins.
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xAA; length as usize - 4096]).unwrap();
    drop(file);
    let profile = Accounts::open(&path).and_then(|accounts| accounts.profile("alice"));
    let (error, message) = error_of(profile);
    assert!(matches!(error, AccountsError::Corrupt(_)), "{error:?}");
    assert!(message.contains("restore a backup"), "{message}");
    assert_eq!(error.code(), "accounts_damaged");
}

#[test]
fn a_newer_program_may_change_the_schema_under_a_running_one_which_then_refuses() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    let newer = Connection::open(&path).unwrap();
    let version: i64 = newer
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    newer
        .pragma_update(None, "user_version", version + 1)
        .unwrap();
    let (error, message) = error_of(accounts.profile("alice"));
    assert!(message.contains("run the newer program"), "{message}");
    assert_eq!(error.code(), "accounts_newer");
    let (error, _) = error_of(accounts.administer("test").disable(&name("alice")));
    assert!(matches!(error, AccountsError::NewerSchema { .. }));
    newer.pragma_update(None, "user_version", version).unwrap();
    assert!(accounts.profile("alice").unwrap().is_some());
}
