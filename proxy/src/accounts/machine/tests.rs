use super::*;
use crate::{accounts::restrictions::Changes, policy::PathRules, testing::everything};

fn robot() -> AccountName {
    "robot".parse().unwrap()
}

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn get_only() -> Permissions {
    Permissions {
        list: true,
        read: true,
        ..Permissions::default()
    }
}

fn policy() -> MachinePolicy {
    MachinePolicy {
        exception: Exception {
            reason: "nightly pick-up".to_owned(),
            approver: "J. Doe".to_owned(),
            expires: (now() + TimeDelta::days(90)).date_naive(),
        },
        direction: Direction::Get,
        daily_bytes: 1000,
    }
}

/// With every control in place.
fn machine() -> Machine {
    Machine {
        uid: UserId(1),
        name: "robot".to_owned(),
        kind: AccountKind::Machine,
        owner: Some("Billing".to_owned()),
        disabled: false,
        restrictions: Restrictions {
            hours: Some("Mon-Sun 01:00-05:00".parse().unwrap()),
            sources: vec![
                "192.0.2.7/32".parse().unwrap(),
                "2001:db8::7/128".parse().unwrap(),
            ],
            ..Restrictions::default()
        },
        mounts: vec![Mount {
            directory: b"/billing/out".to_vec(),
            permissions: get_only(),
            ..everything("/out", "legacy")
        }],
        policy: Some(policy()),
        moved_today: 999,
        moved: 5000,
        last_login: None,
    }
}

#[test]
fn each_control_is_missed_when_it_alone_is_not_in_place() {
    assert_eq!(machine().missing(now()), []);
    type TakeAway = fn(&mut Machine);
    let cases: [(Control, TakeAway); 12] = [
        (Control::Kind, |machine| machine.kind = AccountKind::Human),
        (Control::Owner, |machine| machine.owner = None),
        (Control::Owner, |machine| {
            machine.owner = Some(" ".to_owned())
        }),
        (Control::Expiry, |machine| {
            let policy = machine.policy.as_mut().unwrap();
            policy.exception.expires = (now() - TimeDelta::days(1)).date_naive();
        }),
        (Control::Expiry, |machine| {
            let policy = machine.policy.as_mut().unwrap();
            policy.exception.expires = (now() + TimeDelta::days(91)).date_naive();
        }),
        (Control::Source, |machine| {
            machine.restrictions.sources.clear()
        }),
        (Control::Source, |machine| {
            machine
                .restrictions
                .sources
                .push("192.0.2.8/31".parse().unwrap());
        }),
        (Control::Operations, |machine| {
            machine.mounts[0].permissions.write = true;
        }),
        (Control::Paths, |machine| machine.mounts.clear()),
        (Control::Paths, |machine| {
            machine.mounts[0].directory = b"/./".to_vec()
        }),
        (Control::Hours, |machine| machine.restrictions.hours = None),
        (Control::Volume, |machine| machine.moved_today = 1000),
    ];
    for (control, take_away) in cases {
        let mut lacking = machine();
        take_away(&mut lacking);
        assert_eq!(lacking.missing(now()), [control]);
    }
    let mut without = machine();
    without.policy = None;
    assert_eq!(without.missing(now()), Control::ALL);
}

#[test]
fn the_last_day_counts_and_the_one_after_does_not() {
    let last: DateTime<Utc> = (now() + TimeDelta::days(90))
        .date_naive()
        .and_hms_opt(23, 59, 59)
        .unwrap()
        .and_utc();
    assert_eq!(machine().missing(last), []);
    assert_eq!(
        machine().missing(last + TimeDelta::seconds(1)),
        [Control::Expiry]
    );
}

#[test]
fn one_direction_neither_reads_what_came_in_nor_changes_what_goes_out() {
    let permitted = |change: fn(&mut Permissions)| {
        let mut permissions = Permissions::default();
        change(&mut permissions);
        (
            Direction::Put.covers(&permissions),
            Direction::Get.covers(&permissions),
        )
    };
    assert_eq!(permitted(|p| p.list = true), (true, true));
    assert_eq!(permitted(|p| p.read = true), (false, true));
    for put in [
        |p: &mut Permissions| p.write = true,
        |p: &mut Permissions| p.overwrite = true,
        |p: &mut Permissions| p.rename = true,
        |p: &mut Permissions| p.mkdir = true,
        |p: &mut Permissions| p.setattr = true,
    ] {
        assert_eq!(permitted(put), (true, false));
    }
    for neither in [
        |p: &mut Permissions| p.delete = true,
        |p: &mut Permissions| p.rmdir = true,
        |p: &mut Permissions| p.symlink = true,
    ] {
        assert_eq!(permitted(neither), (false, false));
    }
}

#[test]
fn a_directory_is_below_the_backends_own_however_it_is_written() {
    for below in ["/in", "in", "/a/b/", "./in"] {
        assert!(is_below(below.as_bytes()), "{below}");
    }
    for own in ["", "/", ".", "./", "//", "/a/..", "..", "a/../.."] {
        assert!(!is_below(own.as_bytes()), "{own}");
    }
}

#[test]
fn the_policy_is_refused_with_every_control_that_is_missing_and_set_once_none_is() {
    let directory = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
    let admin = accounts.administer("test");
    let uid = admin.add(&robot(), AccountKind::Machine, None).unwrap();
    let refused = admin.set_machine_policy(&robot(), &policy(), now());
    let error = refused.unwrap_err().to_string();
    for missing in ["owner", "single-source", "path-jail", "hours"] {
        assert!(error.contains(&format!("\n  {missing}: ")), "{error}");
    }
    assert!(!error.contains("one-direction"), "{error}");
    let Machine {
        restrictions,
        mounts,
        ..
    } = machine();
    let changes = Changes {
        owner: Some(Some("Billing".to_owned())),
        hours: Some(restrictions.hours),
        sources: Some(restrictions.sources),
        ..Changes::default()
    };
    admin.set(&robot(), &changes).unwrap();
    admin.mount(&robot(), &mounts[0]).unwrap();
    assert!(!accounts.profile("robot").unwrap().unwrap().key_alone);
    admin
        .set_machine_policy(&robot(), &policy(), now())
        .unwrap();
    assert!(accounts.profile("robot").unwrap().unwrap().key_alone);
    assert_eq!(
        accounts
            .machine(uid, now())
            .unwrap()
            .unwrap()
            .missing(now()),
        []
    );
    admin
        .set_policy(&robot(), &crate::auth::flow::FactorPolicy::TwoClass)
        .unwrap();
    assert!(!accounts.profile("robot").unwrap().unwrap().key_alone);
}

#[test]
fn bytes_add_up_within_a_day_and_begin_anew_at_midnight_utc() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.db");
    let uid = {
        let accounts = Accounts::open(&path).unwrap();
        let admin = accounts.administer("test");
        let uid = admin.add(&robot(), AccountKind::Machine, None).unwrap();
        accounts.add_volume(uid, 600, now()).unwrap();
        uid
    };
    let accounts = Accounts::open(&path).unwrap();
    accounts.add_volume(uid, 400, now()).unwrap();
    let moved = |at| {
        let machine = accounts.machine(uid, at).unwrap().unwrap();
        (machine.moved_today, machine.moved)
    };
    assert_eq!(moved(now()), (1000, 1000));
    assert_eq!(moved(now() + TimeDelta::hours(12)), (0, 1000));
    assert_eq!(accounts.machines(now()).unwrap().len(), 1);
}

#[test]
fn a_rule_by_place_is_of_the_same_direction_as_its_mount() {
    let with_rule = |rule: &str| {
        let mut ruled = machine();
        ruled.mounts[0].rules = PathRules::parse(&[rule]).unwrap();
        ruled.missing(now())
    };
    assert_eq!(with_rule("/in/**=list,read"), []);
    assert_eq!(with_rule("/in/**=none"), []);
    for wider in ["/in/**=list,write", "*.done=delete", "/in/*=append"] {
        assert_eq!(with_rule(wider), [Control::Operations], "{wider}");
    }
}

#[test]
fn the_mounts_of_its_groups_are_judged_too() {
    let directory = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
    let admin = accounts.administer("test");
    admin
        .add(&robot(), AccountKind::Machine, Some("Billing"))
        .unwrap();
    let group: AccountName = "jobs".parse().unwrap();
    admin.add_group(&group).unwrap();
    admin.add_member(&group, &robot()).unwrap();
    let uid = accounts.profile("robot").unwrap().unwrap().uid;
    let lacks_one_direction = |permissions| {
        let mount = Mount {
            directory: b"/billing/out".to_vec(),
            permissions,
            ..everything("/out", "legacy")
        };
        admin.mount_for_group(&group, &mount).unwrap();
        let mut found = accounts.machine(uid, now()).unwrap().unwrap();
        found.policy = Some(policy());
        assert_eq!(found.mounts.len(), 1);
        found.missing(now()).contains(&Control::Operations)
    };
    assert!(!lacks_one_direction(get_only()));
    assert!(lacks_one_direction(Permissions {
        delete: true,
        ..get_only()
    }));
}
