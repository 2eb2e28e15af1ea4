//! What narrows an account, in the database and in the notes for the journal.

use super::*;
use crate::accounts::{admission::Restrictions, restrictions::Changes};

fn noted(accounts: &Accounts) -> serde_json::Value {
    let last = accounts.pending_changes().unwrap().pop().unwrap();
    last.event.body.into()
}

#[test]
fn what_is_set_stays_until_it_is_set_again_and_each_change_is_noted() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    with_account(&accounts, "alice");
    let admin = accounts.administer("test");
    let all = Changes {
        owner: Some(Some("Radiology".to_owned())),
        expires: Some("2030-02-28".parse().ok()),
        idle_days: Some(NonZeroU32::new(30)),
        hours: Some("Mon-Fri 07:00-19:00 Europe/Berlin".parse().ok()),
        sources: Some(vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]),
    };
    admin.set(&name("alice"), &all).unwrap();
    drop(accounts);

    let accounts = Accounts::open(&path).unwrap();
    let account = accounts.account(&name("alice")).unwrap();
    assert_eq!(account.owner.as_deref(), Some("Radiology"));
    let expected = Restrictions {
        expires: all.expires.unwrap(),
        idle_days: all.idle_days.unwrap(),
        hours: all.hours.clone().unwrap(),
        sources: all.sources.clone().unwrap(),
    };
    assert_eq!(account.restrictions, expected);
    let standing = accounts.standing(account.uid).unwrap().unwrap();
    assert_eq!(standing.restrictions, expected);
    assert_eq!(
        noted(&accounts)["hours"],
        "Mon-Fri 07:00-19:00 Europe/Berlin"
    );
    assert_eq!(
        noted(&accounts)["sources"],
        json!(["192.0.2.0/24", "2001:db8::/32"])
    );

    let admin = accounts.administer("test");
    let fewer = Changes {
        expires: Some(None),
        sources: Some(vec!["192.0.2.0/24".parse().unwrap()]),
        ..Changes::default()
    };
    admin.set(&name("alice"), &fewer).unwrap();
    let account = accounts.account(&name("alice")).unwrap();
    assert_eq!(
        account.restrictions,
        Restrictions {
            expires: None,
            sources: vec!["192.0.2.0/24".parse().unwrap()],
            ..expected
        }
    );
    let note = noted(&accounts);
    assert_eq!(note["expires"], serde_json::Value::Null);
    assert!(note.get("hours").is_none(), "{note}");
    assert!(matches!(
        admin.set(&name("nobody"), &fewer),
        Err(AccountsError::NoSuchAccount { .. })
    ));
}

#[test]
fn hours_that_are_taken_away_end_sessions_and_others_do_not() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    let set = |hours: &str| {
        let changes = Changes {
            hours: Some(hours.parse().ok()),
            ..Changes::default()
        };
        let before = epoch_of(&accounts, uid);
        accounts
            .administer("test")
            .set(&name("alice"), &changes)
            .unwrap();
        epoch_of(&accounts, uid) != before
    };
    assert!(!set("Mon-Sun 00:00-24:00"));
    let today = Utc::now().format("%a").to_string();
    let other_day = if today == "Mon" { "Thu" } else { "Mon" };
    // At midnight the other day may have come: neither is near the other.
    assert!(set(&format!("{other_day} 12:00-12:01")));
}

#[test]
fn a_damaged_restriction_keeps_the_account_out() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    let uid = with_account(&accounts, "alice");
    for damage in [
        "UPDATE account SET hours = 'whenever'",
        "UPDATE account SET hours = NULL, expires = 'soon'",
        "UPDATE account SET expires = NULL; INSERT INTO account_source VALUES (1, 'here')",
    ] {
        accounts.connection().execute_batch(damage).unwrap();
        assert!(
            matches!(accounts.standing(uid), Err(AccountsError::Damaged { .. })),
            "{damage}"
        );
    }
}

#[test]
fn all_kinds_are_kept_as_they_are_named() {
    let (_directory, path) = database();
    let accounts = Accounts::open(&path).unwrap();
    for (text, kind) in [
        ("h", AccountKind::Human),
        ("m", AccountKind::Machine),
        ("b", AccountKind::BreakGlass),
        ("a", AccountKind::Admin),
    ] {
        accounts
            .administer("test")
            .add(&name(text), kind, None)
            .unwrap();
        assert_eq!(accounts.account(&name(text)).unwrap().kind, kind);
    }
}
