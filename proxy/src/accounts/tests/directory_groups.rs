//! Groups that the directory names at a login: what they give, to whom, and what ends with them.

use std::collections::BTreeSet;

use super::*;

fn groups(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Alice, and the groups `lab` and `office`, with a mount each.
fn world() -> (TempDir, Accounts, UserId) {
    let (directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    for (group, at) in [("lab", "/in"), ("office", "/out")] {
        admin.add_group(&name(group)).unwrap();
        admin
            .mount_for_group(&name(group), &mount(at, group))
            .unwrap();
    }
    (directory, accounts, uid)
}

fn backends(mounts: Vec<Mount>) -> Vec<String> {
    mounts.into_iter().map(|mount| mount.backend).collect()
}

#[test]
fn a_login_has_the_groups_that_the_directory_named_at_it_and_no_others() {
    let (_directory, accounts, uid) = world();
    let at_login = |named: &[&str]| {
        let mounts = accounts.mounts_at_login(uid, &groups(named)).unwrap();
        backends(mounts)
    };
    assert!(at_login(&[]).is_empty());
    assert_eq!(at_login(&["lab"]), ["lab"]);
    assert_eq!(at_login(&["lab", "office", "nowhere"]), ["lab", "office"]);
    assert_eq!(at_login(&["office"]), ["office"]);
    assert_eq!(accounts.directory_groups_of(uid).unwrap(), ["office"]);
    assert_eq!(
        backends(accounts.mounts_by_directory(uid).unwrap()),
        ["office"]
    );
    assert!(
        accounts.mounts(uid).unwrap().is_empty(),
        "a login that the directory did not judge has none of them"
    );
    accounts
        .administer("test")
        .add_member(&name("office"), &name("alice"))
        .unwrap();
    assert_eq!(
        at_login(&["office"]),
        ["office"],
        "once, though named twice"
    );
}

#[test]
fn groups_with_a_mount_at_one_place_give_no_login_and_change_nothing() {
    let (_directory, accounts, uid) = world();
    let admin = accounts.administer("test");
    admin
        .mount_for_group(&name("office"), &mount("/in", "office"))
        .unwrap();
    accounts.mounts_at_login(uid, &groups(&["lab"])).unwrap();
    let refused = accounts.mounts_at_login(uid, &groups(&["lab", "office"]));
    let message = refused.unwrap_err().to_string();
    for word in ["lab", "office", "/in"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(accounts.directory_groups_of(uid).unwrap(), ["lab"]);
    admin.mount(&name("alice"), &mount("/in", "own")).unwrap();
    let settled = accounts.mounts_at_login(uid, &groups(&["lab", "office"]));
    assert_eq!(backends(settled.unwrap()), ["own", "office"]);
}

#[test]
fn what_a_group_loses_ends_the_sessions_of_those_whom_the_directory_put_into_it() {
    let (_directory, accounts, uid) = world();
    let stranger = with_account(&accounts, "bob");
    let admin = accounts.administer("test");
    accounts.mounts_at_login(stranger, &groups(&[])).unwrap();
    accounts.mounts_at_login(uid, &groups(&["lab"])).unwrap();
    // A later login of hers is without; the session before it may still run.
    accounts.mounts_at_login(uid, &groups(&[])).unwrap();
    let ends = |change: &dyn Fn()| {
        let before = epoch_of(&accounts, uid);
        change();
        epoch_of(&accounts, uid) != before
    };
    let (lab, office) = (name("lab"), name("office"));
    let given = mount("/in/more", "lab");
    assert!(!ends(&|| admin.mount_for_group(&lab, &given).unwrap()));
    assert!(!ends(&|| admin
        .unmount_for_group(&office, &mount("/out", "").at)
        .unwrap()));
    assert!(ends(&|| admin.mount_for_group(&lab, &given).unwrap()));
    assert!(ends(&|| admin.unmount_for_group(&lab, &given.at).unwrap()));
    assert!(ends(&|| admin.remove_group(&lab).unwrap()));
    assert_eq!(epoch_of(&accounts, stranger), Some(0));
}

#[test]
fn whoever_the_directory_does_not_judge_any_more_has_none_of_its_groups() {
    let (_directory, accounts, uid) = world();
    let admin = accounts.administer("test");
    admin.set_directory(&name("alice"), None).unwrap();
    accounts.mounts_at_login(uid, &groups(&["lab"])).unwrap();
    assert_eq!(accounts.directory_groups_of(uid).unwrap(), ["lab"]);
    let before = epoch_of(&accounts, uid);
    admin.unset_directory(&name("alice")).unwrap();
    assert!(epoch_of(&accounts, uid) != before);
    assert!(accounts.directory_groups_of(uid).unwrap().is_empty());
}
