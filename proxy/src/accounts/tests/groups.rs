//! Groups: what their members see, and what happens to their sessions.

use super::*;
use crate::policy::Permission;

fn group(accounts: &Accounts, text: &str, at: &str, backend: &str) {
    let admin = accounts.administer("test");
    admin.add_group(&name(text)).unwrap();
    admin
        .mount_for_group(&name(text), &mount(at, backend))
        .unwrap();
}

#[test]
fn an_account_sees_its_own_mounts_and_those_of_its_groups_and_its_own_win() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    group(&accounts, "lab", "/in", "of-lab");
    group(&accounts, "office", "/out", "of-office");
    for joined in ["lab", "office"] {
        admin.add_member(&name(joined), &name("alice")).unwrap();
    }
    admin
        .mount(&name("alice"), &mount("/in", "of-alice"))
        .unwrap();
    let seen: Vec<_> = accounts
        .mounts(uid)
        .unwrap()
        .into_iter()
        .map(|mount| (mount.backend, mount.group))
        .collect();
    assert_eq!(
        seen,
        [
            ("of-alice".to_owned(), None),
            ("of-office".to_owned(), Some("office".to_owned()))
        ]
    );
    admin.unmount(&name("alice"), &mount("/in", "").at).unwrap();
    assert_eq!(accounts.mounts(uid).unwrap()[0].backend, "of-lab");
    assert_eq!(accounts.groups_of(uid).unwrap(), ["lab", "office"]);
}

#[test]
fn two_groups_with_a_mount_at_one_place_are_refused_by_name_whichever_comes_last() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    group(&accounts, "lab", "/in", "of-lab");
    group(&accounts, "office", "/in", "of-office");
    admin.add_member(&name("lab"), &name("alice")).unwrap();
    let refused = admin.add_member(&name("office"), &name("alice"));
    let message = refused.unwrap_err().to_string();
    for word in ["lab", "office", "/in"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(accounts.groups_of(uid).unwrap(), ["lab"]);

    // Its own mount at the place settles it, until it is gone: then there is no login.
    admin.mount(&name("alice"), &mount("/in", "own")).unwrap();
    admin.add_member(&name("office"), &name("alice")).unwrap();
    assert_eq!(accounts.mounts(uid).unwrap().len(), 1);
    assert!(matches!(
        admin.unmount(&name("alice"), &mount("/in", "").at),
        Err(AccountsError::GroupsConflict { .. })
    ));
    assert!(matches!(
        admin.mount_for_group(&name("office"), &mount("/out", "x")),
        Ok(())
    ));
    admin
        .mount_for_group(&name("lab"), &mount("/out", "x"))
        .unwrap_err();
}

#[test]
fn sessions_end_when_a_group_takes_something_away_and_not_when_it_gives() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let stranger = with_account(&accounts, "bob");
    let admin = accounts.administer("test");
    admin.add_group(&name("lab")).unwrap();
    let ends = |change: &dyn Fn()| {
        let before = epoch_of(&accounts, uid);
        change();
        epoch_of(&accounts, uid) != before
    };
    let lab = name("lab");
    assert!(!ends(&|| admin.add_member(&lab, &name("alice")).unwrap()));
    assert!(!ends(&|| admin.add_member(&lab, &name("alice")).unwrap()));
    let given = mount("/in", "b");
    assert!(!ends(&|| admin.mount_for_group(&lab, &given).unwrap()));
    assert!(ends(&|| admin.mount_for_group(&lab, &given).unwrap()));
    assert!(ends(&|| admin.unmount_for_group(&lab, &given.at).unwrap()));
    assert!(ends(&|| admin.remove_member(&lab, &name("alice")).unwrap()));
    admin.add_member(&lab, &name("alice")).unwrap();
    assert!(ends(&|| admin.remove_group(&lab).unwrap()));
    assert_eq!(epoch_of(&accounts, stranger), Some(0));
}

#[test]
fn a_change_of_a_group_is_noted_with_its_name_and_no_account() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    accounts
        .administer("uid:7")
        .add_group(&name("lab"))
        .unwrap();
    let note = accounts.pending_changes().unwrap().pop().unwrap().event;
    assert_eq!(note.body["action"], "group-add");
    assert_eq!(note.body["group"], "lab");
    assert!(!note.body.contains_key("account"));
}

#[test]
fn rules_of_a_mount_are_kept_in_their_order_and_damaged_ones_keep_the_account_out() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let ruled = Mount {
        rules: PathRules::parse(&["*.tmp=delete", "/in/**=list,read", "/=b=none"]).unwrap(),
        ..mount("/", "b")
    };
    accounts
        .administer("test")
        .mount(&name("alice"), &ruled)
        .unwrap();
    assert_eq!(accounts.mounts(uid).unwrap(), std::slice::from_ref(&ruled));
    let target = VirtualPath::clean(b"/in/a.tmp")
        .unwrap()
        .below(&ruled.at)
        .unwrap();
    assert_eq!(ruled.ruling(&target, Permission::Delete), (true, Some(0)));
    for damage in ["'no list'", "'[\"/in\"]'"] {
        let sql = format!("UPDATE mount SET rules = {damage}");
        accounts.connection().execute_batch(&sql).unwrap();
        assert!(matches!(
            accounts.mounts(uid),
            Err(AccountsError::Damaged { .. })
        ));
    }
}
