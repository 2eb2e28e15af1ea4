mod groups;
mod restrictions;

use std::{
    num::{NonZeroU32, NonZeroU64},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use chrono::{DateTime, TimeZone as _, Utc};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    allowance::{AccountLimits, Allowance},
    auth::{
        public_key::{self, samples},
        totp::Authenticator,
    },
    path::VirtualPath,
    policy::{Mount, PathRules, Permissions},
};

mod directory_groups;
mod factors;
mod recovery;
mod store;

fn database() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/accounts.db");
    (directory, path)
}

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

fn with_account(accounts: &Accounts, text: &str) -> UserId {
    accounts
        .administer("test")
        .add(&name(text), AccountKind::Human, None)
        .unwrap()
}

fn mount(at: &str, backend: &str) -> Mount {
    Mount {
        allowance: Allowance::default(),
        extensions: None,
        resume: None,
        rules: PathRules::default(),
        group: None,
        at: VirtualPath::clean(at.as_bytes()).unwrap(),
        backend: backend.to_owned(),
        directory: b"/in".to_vec(),
        permissions: Permissions {
            list: true,
            ..Permissions::default()
        },
    }
}

fn epoch_of(accounts: &Accounts, uid: UserId) -> Option<i64> {
    let standing = accounts.standing(uid).unwrap();
    standing.map(|standing| standing.epoch)
}

fn instant(seconds: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_700_000_000 + seconds, 0).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_name_is_lower_case_letters_digits_and_three_marks_and_nothing_else() {
    for good in ["a", "0", "alice", "a.b_c-d", &"x".repeat(32)] {
        assert!(good.parse::<AccountName>().is_ok(), "{good:?}");
    }
    for bad in [
        "",
        "Alice",
        "al ice",
        "-a",
        ".a",
        "..",
        "_a",
        "a/b",
        "a\nb",
        "a\0",
        "älice",
        "a:b",
        &"x".repeat(33),
    ] {
        assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_database_is_made_for_its_owner_alone_and_an_exposed_one_is_refused() {
    let (_directory, path) = database();
    let parent = path.parent().unwrap();
    drop(Accounts::open(&path).unwrap());
    assert_eq!((mode(&path), mode(parent)), (0o600, 0o700));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        Accounts::open(&path),
        Err(AccountsError::Exposed { mode: 0o640, .. })
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(
        Accounts::open(&path),
        Err(AccountsError::DirectoryExposed { mode: 0o770, .. })
    ));
    fs::set_permissions(parent, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(Accounts::open(&path).is_ok());
}

#[test]
fn a_database_of_a_newer_program_and_a_file_that_is_none_are_refused() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    accounts
        .connection()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    drop(accounts);
    assert!(matches!(
        Accounts::open(&path),
        Err(AccountsError::NewerSchema { found: 99, .. })
    ));

    let (_directory, path) = database();
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path.parent().unwrap())
        .unwrap();
    fs::write(&path, "no database at all, but long enough to be looked at").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(
        Accounts::open(&path),
        Err(AccountsError::Corrupt(_))
    ));
}

#[test]
fn every_commit_is_synced() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let connection = accounts.connection();
    let pragma = |name: &str| -> String {
        connection
            .query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
}

#[test]
fn an_account_is_found_while_it_is_enabled() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    assert_eq!(accounts.profile("alice").unwrap().unwrap().uid, uid);
    assert_eq!(accounts.profile("bob").unwrap(), None);
    let admin = accounts.administer("test");
    admin.disable(&name("alice")).unwrap();
    assert_eq!(accounts.profile("alice").unwrap(), None);
    assert_eq!(epoch_of(&accounts, uid), None);
    admin.enable(&name("alice")).unwrap();
    assert!(accounts.profile("alice").unwrap().is_some());
    assert!(matches!(
        admin.add(&name("alice"), AccountKind::Human, None),
        Err(AccountsError::AccountExists { .. })
    ));
    assert!(matches!(
        admin.disable(&name("bob")),
        Err(AccountsError::NoSuchAccount { .. })
    ));
}

#[test]
fn a_key_of_one_account_is_refused_to_another_and_accepted_again_for_the_same() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let (alice, bob) = (
        with_account(&accounts, "alice"),
        with_account(&accounts, "bob"),
    );
    let admin = accounts.administer("test");
    let key = public_key::parse(samples::ED25519).unwrap();
    let fingerprint = admin.add_key(&name("alice"), &key).unwrap();
    assert_eq!(admin.add_key(&name("alice"), &key).unwrap(), fingerprint);
    let taken = admin.add_key(&name("bob"), &key).unwrap_err();
    assert!(matches!(&taken, AccountsError::KeyTaken { owner, .. } if owner == "alice"));
    assert!(accounts.key_terms(alice, &fingerprint).unwrap().is_some());
    assert!(accounts.key_terms(bob, &fingerprint).unwrap().is_none());

    admin.remove_key(&name("alice"), &fingerprint).unwrap();
    assert!(accounts.key_terms(alice, &fingerprint).unwrap().is_none());
    assert!(admin.remove_key(&name("alice"), &fingerprint).is_err());
    assert!(admin.add_key(&name("bob"), &key).is_ok());
}

#[test]
fn mounts_of_one_account_stand_beside_and_below_each_other() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    with_account(&accounts, "bob");
    let admin = accounts.administer("test");
    let alice = name("alice");
    admin.mount(&alice, &mount("/in/lab", "lab")).unwrap();
    admin.mount(&alice, &mount("/in/lab2", "lab")).unwrap();
    admin.mount(&name("bob"), &mount("/in", "lab")).unwrap();
    admin.mount(&alice, &mount("/in/lab", "archive")).unwrap();
    let found = accounts.mounts(uid).unwrap();
    assert_eq!(
        found,
        [mount("/in/lab", "archive"), mount("/in/lab2", "lab")]
    );
    for nested in ["/", "/in/lab/x"] {
        admin.mount(&alice, &mount(nested, "lab")).unwrap();
        admin.unmount(&alice, &mount(nested, "lab").at).unwrap();
    }
    admin.unmount(&alice, &found[0].at).unwrap();
    assert!(admin.unmount(&alice, &found[0].at).is_err());
    assert_eq!(accounts.mounts(uid).unwrap(), [mount("/in/lab2", "lab")]);
}

#[test]
fn each_permission_name_stands_for_itself_and_others_are_refused() {
    let all = "list,read,write,overwrite,rename,delete,mkdir,rmdir,setattr,symlink";
    let permissions = Permissions::parse(all).unwrap();
    assert_eq!(permissions.names().join(","), all);
    for one in all.split(',') {
        let permissions = Permissions::parse(one).unwrap();
        assert_eq!(permissions.names(), [one]);
    }
    for wrong in ["", "all", "list,", "List", "list read"] {
        assert!(Permissions::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_policy_exception_is_kept_whole_and_taken_back() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    let pair = FactorPolicy::PossessionPair(Exception {
        reason: "scanner".to_owned(),
        approver: "J. Doe".to_owned(),
        expires: NaiveDate::from_ymd_opt(2027, 6, 30).unwrap(),
    });
    admin.set_policy(&name("alice"), &pair).unwrap();
    assert_eq!(accounts.profile("alice").unwrap().unwrap().policy, pair);
    admin
        .set_policy(&name("alice"), &FactorPolicy::TwoClass)
        .unwrap();
    let policy = accounts.profile("alice").unwrap().unwrap().policy;
    assert_eq!(policy, FactorPolicy::TwoClass);
}

#[test]
fn what_takes_something_away_begins_a_new_epoch_and_what_gives_does_not() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let alice = name("alice");
    let admin = accounts.administer("test");
    let epoch = || epoch_of(&accounts, uid).unwrap();
    let key = public_key::parse(samples::ED25519).unwrap();
    let fingerprint = admin.add_key(&alice, &key).unwrap();
    admin.mount(&alice, &mount("/in", "lab")).unwrap();
    admin.enable(&alice).unwrap();
    assert_eq!(epoch(), 0);

    admin.mount(&alice, &mount("/in", "archive")).unwrap();
    assert_eq!(epoch(), 1);
    admin.remove_key(&alice, &fingerprint).unwrap();
    assert_eq!(epoch(), 2);
    let at = VirtualPath::clean(b"/in").unwrap();
    admin.unmount(&alice, &at).unwrap();
    admin.set_password(&alice, "$argon2id$").unwrap();
    admin.enroll_totp(&alice, &Authenticator::decoy()).unwrap();
    admin.set_policy(&alice, &FactorPolicy::TwoClass).unwrap();
    assert_eq!(epoch(), 6);
    admin.disable(&alice).unwrap();
    admin.enable(&alice).unwrap();
    assert_eq!(epoch(), 7);
}

#[test]
fn each_change_leaves_a_note_and_a_refused_one_leaves_none() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    let admin = accounts.administer("uid:1000");
    admin
        .set_password(&name("alice"), "$argon2id$secret")
        .unwrap();
    admin.mount(&name("alice"), &mount("/in", "lab")).unwrap();
    assert!(
        admin
            .unmount(&name("alice"), &mount("/in/x", "lab").at)
            .is_err()
    );
    assert!(admin.disable(&name("bob")).is_err());

    let changes = accounts.pending_changes().unwrap();
    let actions: Vec<_> = changes
        .iter()
        .map(|change| change.event.body["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["add", "set-password", "mount"]);
    let last = &changes[2].event;
    assert_eq!(last.user.as_ref().unwrap().name, "uid:1000");
    assert_eq!(last.body["account"], "alice");
    assert_eq!(last.body["at"], "/in");
    assert_eq!(last.body["change_id"], changes[2].id);
    assert!(!format!("{changes:?}").contains("$argon2id$"));

    accounts.forget_changes(changes[1].id).unwrap();
    let left = accounts.pending_changes().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, changes[2].id);
}

#[test]
fn the_allowance_of_a_mount_is_kept_and_one_without_has_none() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    let limited = Mount {
        allowance: Allowance {
            read_rate: NonZeroU64::new(20 << 20),
            write_rate: None,
            quota: Some(0),
        },
        ..mount("/in", "lab")
    };
    admin.mount(&name("alice"), &limited).unwrap();
    admin.mount(&name("alice"), &mount("/out", "lab")).unwrap();
    assert_eq!(
        accounts.mounts(uid).unwrap(),
        [limited.clone(), mount("/out", "lab")]
    );
    let shown = mounts::describe(&limited);
    assert_eq!(
        (&shown["read_rate"], &shown["quota"]),
        (&json!(20 << 20), &json!(0))
    );
}

#[test]
fn what_a_mount_says_of_extensions_and_resume_is_kept_and_so_is_silence() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    let mounts: Vec<_> = [
        ("/a", None, None),
        ("/b", Some("none"), Some(false)),
        ("/c", Some("copy-data,hardlink@openssh.com"), Some(true)),
    ]
    .into_iter()
    .map(|(at, list, resume)| Mount {
        extensions: list.map(|list| mounts::parse_extensions(list).unwrap()),
        resume,
        ..mount(at, "lab")
    })
    .collect();
    for mount in &mounts {
        admin.mount(&name("alice"), mount).unwrap();
    }
    assert_eq!(accounts.mounts(uid).unwrap(), mounts);
    assert!(mounts::describe(&mounts[0]).get("extensions").is_none());
    let shown = mounts::describe(&mounts[1]);
    assert_eq!(
        (&shown["extensions"], &shown["resume"]),
        (&json!([]), &json!(false))
    );
    for wrong in ["", "posix-rename@openssh.com", "none,copy-data"] {
        assert!(mounts::parse_extensions(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn limits_of_an_account_are_kept_and_only_narrower_ones_end_its_sessions() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    assert_eq!(accounts.limits(uid).unwrap(), AccountLimits::default());
    let set = |sessions, rate| {
        let limits = AccountLimits {
            sessions: NonZeroU32::new(sessions),
            read_rate: NonZeroU64::new(rate),
            write_rate: None,
        };
        let before = epoch_of(&accounts, uid);
        let admin = accounts.administer("test");
        admin.limit(&name("alice"), |_| limits).unwrap();
        assert_eq!(accounts.limits(uid).unwrap(), limits);
        epoch_of(&accounts, uid) != before
    };
    for (sessions, rate, ends) in [
        (3, 0, true),
        (3, 0, false),
        (4, 0, false),
        (4, 5000, true),
        (5, 6000, false),
        (5, 5000, true),
        (0, 0, false),
    ] {
        assert_eq!(set(sessions, rate), ends, "{sessions} {rate}");
    }
}

#[test]
fn sizes_and_rates_are_bytes_or_multiples_and_nothing_else() {
    for (text, bytes) in [
        ("0", 0),
        ("500000", 500_000),
        ("4K", 4096),
        ("20M", 20 << 20),
        ("5G", 5 << 30),
        ("1T", 1 << 40),
        ("9223372036854775807", i64::MAX as u64),
    ] {
        assert_eq!(mounts::parse_size(text), Ok(bytes), "{text}");
    }
    for wrong in [
        "",
        "K",
        "-1",
        "+1",
        "1k",
        "1 M",
        "1.5M",
        "9223372036854775808",
        "8388608T",
        "\u{e9}",
    ] {
        assert!(mounts::parse_size(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(mounts::parse_rate("4K").unwrap().get(), 4096);
    for wrong in ["4095", "0", "fast"] {
        assert!(mounts::parse_rate(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_key_under_another_comment_is_the_same_key() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    with_account(&accounts, "bob");
    let admin = accounts.administer("test");
    let key = public_key::parse(samples::ED25519).unwrap();
    let renamed = samples::ED25519.replace("alice@example", "bob@elsewhere");
    let renamed = public_key::parse(&renamed).unwrap();
    assert_ne!(key.comment(), renamed.comment());
    let fingerprint = admin.add_key(&name("alice"), &key).unwrap();
    assert_eq!(
        admin.add_key(&name("alice"), &renamed).unwrap(),
        fingerprint
    );
    assert!(matches!(
        admin.add_key(&name("bob"), &renamed),
        Err(AccountsError::KeyTaken { .. })
    ));
}

#[test]
fn sessions_end_when_a_keys_terms_become_narrower_and_not_when_they_widen() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let alice = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    let key = public_key::parse(samples::ED25519).unwrap();
    let fingerprint = admin.add_key(&name("alice"), &key).unwrap();
    let moment = |text: &str| keys::parse_expiry(text).unwrap();
    let terms = |sources: &[&str], expires: Option<&str>| KeyTerms {
        sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
        expires: expires.map(moment),
    };
    for (change, ends) in [
        (terms(&[], None), false),
        (terms(&["192.0.2.0/24"], None), true),
        (terms(&["192.0.0.0/16"], None), false),
        (terms(&["192.0.2.0/24", "198.51.100.0/24"], None), true),
        (
            terms(&["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"], None),
            false,
        ),
        (terms(&["192.0.2.0/24", "198.51.100.0/24"], None), true),
        (terms(&[], None), false),
        (terms(&[], Some("2999-01-01")), true),
        (terms(&[], Some("2999-01-02")), false),
        (terms(&[], Some("2999-01-01T00:00:00Z")), true),
        (terms(&[], None), false),
    ] {
        let epoch = || accounts.standing(alice).unwrap().unwrap().epoch;
        let before = epoch();
        admin
            .change_key(&name("alice"), &fingerprint, |_| change.clone())
            .unwrap();
        assert_eq!(epoch() != before, ends, "{change:?}");
        assert_eq!(
            accounts.key_terms(alice, &fingerprint).unwrap(),
            Some(change)
        );
    }
    let unknown = admin.change_key(&name("alice"), "SHA256:none", |terms| terms);
    assert!(matches!(unknown, Err(AccountsError::NoSuchKey { .. })));
}

#[test]
fn a_key_is_not_added_again_on_other_terms() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    let key = public_key::parse(samples::ED25519).unwrap();
    let narrow = KeyTerms {
        sources: vec!["192.0.2.0/24".parse().unwrap()],
        expires: None,
    };
    let alice = name("alice");
    let fingerprint = admin.add_key_on(&alice, &key, &narrow).unwrap();
    assert_eq!(
        admin.add_key_on(&alice, &key, &narrow).unwrap(),
        fingerprint
    );
    assert!(matches!(
        admin.add_key(&alice, &key),
        Err(AccountsError::KeyPresent { .. })
    ));
}

#[test]
fn a_day_counts_to_its_end_and_a_moment_to_the_second() {
    let at = |text: &str| keys::parse_expiry(text).map(|moment| moment.to_rfc3339());
    assert_eq!(at("2027-06-30").unwrap(), "2027-07-01T00:00:00+00:00");
    assert_eq!(
        at("2027-06-30T18:00:00.9+02:00").unwrap(),
        "2027-06-30T16:00:00+00:00"
    );
    for nonsense in [
        "",
        "tomorrow",
        "2027-02-30",
        "2027-06-30 18:00",
        "1e9",
        "+999999-01-01",
    ] {
        assert!(at(nonsense).is_err(), "{nonsense}");
    }
}

/// What can't be read never becomes "from anywhere".
#[test]
fn a_damaged_source_lets_nobody_in() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let alice = with_account(&accounts, "alice");
    let key = public_key::parse(samples::ED25519).unwrap();
    let fingerprint = accounts
        .administer("test")
        .add_key(&name("alice"), &key)
        .unwrap();
    let raw = Connection::open(&path).unwrap();
    for damage in ["anywhere", ",", "192.0.2.0/24,"] {
        raw.execute("UPDATE public_key SET sources = ?1", [damage])
            .unwrap();
        let terms = accounts.key_terms(alice, &fingerprint);
        assert!(
            matches!(terms, Err(AccountsError::Damaged { .. })),
            "{damage}"
        );
    }
}
