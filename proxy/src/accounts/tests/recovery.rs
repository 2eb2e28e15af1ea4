//! Recovery codes: once each, under the same throttle, and only for those who have lost something.

use super::{super::*, factors::enrolled, instant, name, with_account};
use crate::accounts::tests::factors::Enrolled;

/// Alice with recovery codes 0, 1 and 2, whose hashes are "zero", "one" and "two".
fn with_codes() -> Enrolled {
    let alice = enrolled();
    let hashes: Vec<_> = ["zero", "one", "two"]
        .into_iter()
        .zip(0..)
        .map(|(phc, number)| RecoveryHash {
            number,
            phc: phc.to_owned(),
        })
        .collect();
    let admin = alice.accounts.administer("test");
    admin.set_recovery_codes(&name("alice"), &hashes).unwrap();
    alice
}

impl Enrolled {
    fn recover(&self, number: u8, right: Option<&str>, at: i64) -> CodeVerdict {
        self.accounts
            .redeem_recovery_code(self.uid, number, right, instant(at))
            .unwrap()
    }
}

#[test]
fn a_recovery_code_is_accepted_once_and_costs_the_authenticator() {
    let alice = with_codes();
    let stored = alice.accounts.recovery_code(alice.uid, 1).unwrap();
    assert_eq!(stored.as_deref(), Some("one"));
    assert_eq!(alice.accounts.recovery_code(alice.uid, 3).unwrap(), None);
    assert_eq!(alice.redeem_right(0), CodeVerdict::Right);

    assert_eq!(alice.recover(1, Some("one"), 30), CodeVerdict::Right);
    assert_eq!(alice.recover(1, Some("one"), 30), CodeVerdict::Replayed);
    assert_eq!(alice.recover(2, Some("one"), 30), CodeVerdict::Replayed);
    assert_eq!(alice.redeem_right(60), CodeVerdict::Lost);
    let account = alice.accounts.list().unwrap().remove(0);
    assert_eq!(
        (account.totp, account.recovery_codes),
        (FactorState::Lost, 2)
    );
    assert_eq!(alice.recover(2, Some("two"), 90), CodeVerdict::Right);

    let admin = alice.accounts.administer("test");
    admin
        .enroll_totp(&name("alice"), &alice.authenticator)
        .unwrap();
    assert_eq!(alice.redeem_right(120), CodeVerdict::Right);
    assert_eq!(alice.recover(0, Some("zero"), 120), CodeVerdict::Replayed);
}

#[test]
fn the_use_of_a_recovery_code_leaves_a_note_in_the_same_transaction() {
    let alice = with_codes();
    let before = alice.accounts.pending_changes().unwrap().len();
    alice.recover(2, None, 0);
    assert_eq!(alice.accounts.pending_changes().unwrap().len(), before);
    alice.recover(2, Some("two"), 0);
    let note = alice.accounts.pending_changes().unwrap().pop().unwrap();
    assert_eq!(note.event.body["action"], "use-recovery-code");
    assert_eq!(note.event.body["account"], "alice");
    assert_eq!(note.event.body["number"], 2);
    assert_eq!(note.event.body["left"], 2);
}

#[test]
fn codes_and_recovery_codes_share_one_throttle() {
    let alice = with_codes();
    for failures in 1..=5 {
        let verdict = if failures % 2 == 0 {
            alice.redeem_wrong(0)
        } else {
            alice.recover(0, None, 0)
        };
        assert!(
            matches!(verdict, CodeVerdict::Wrong { failures: counted, .. } if counted == failures)
        );
    }
    assert_eq!(alice.recover(0, Some("zero"), 29), CodeVerdict::Delayed);
    assert_eq!(alice.redeem_right(29), CodeVerdict::Delayed);
    assert_eq!(alice.recover(0, Some("zero"), 30), CodeVerdict::Right);
    let mut now = 60;
    while alice.recover(0, None, now) != CodeVerdict::Disabled {
        now += 3600;
    }
    assert_eq!(alice.recover(1, Some("one"), now), CodeVerdict::Disabled);
}

#[test]
fn without_an_authenticator_no_recovery_code_is_accepted_or_issued() {
    let alice = with_codes();
    let bob = with_account(&alice.accounts, "bob");
    let verdict = alice
        .accounts
        .redeem_recovery_code(bob, 0, Some("zero"), instant(0));
    assert_eq!(verdict.unwrap(), CodeVerdict::NotEnrolled);
    let admin = alice.accounts.administer("test");
    let refused = admin.set_recovery_codes(&name("bob"), &[]);
    assert!(matches!(refused, Err(AccountsError::NotEnrolled { .. })));
}

#[test]
fn of_many_parallel_uses_of_one_recovery_code_exactly_one_succeeds() {
    let alice = with_codes();
    let other = Accounts::open(&alice.path).unwrap();
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let uses: Vec<_> = (0..16)
            .map(|number| {
                let accounts = if number % 2 == 0 {
                    &alice.accounts
                } else {
                    &other
                };
                let uid = alice.uid;
                scope.spawn(move || {
                    accounts
                        .redeem_recovery_code(uid, 0, Some("zero"), instant(0))
                        .unwrap()
                })
            })
            .collect();
        uses.into_iter().map(|used| used.join().unwrap()).collect()
    });
    let right = |verdict: &&CodeVerdict| **verdict == CodeVerdict::Right;
    assert_eq!(verdicts.iter().filter(right).count(), 1);
    let replayed = |verdict: &&CodeVerdict| **verdict == CodeVerdict::Replayed;
    assert_eq!(verdicts.iter().filter(replayed).count(), 15);
}

#[test]
fn a_restored_database_has_no_recovery_codes() {
    let alice = with_codes();
    let admin = alice.accounts.administer("test");
    assert_eq!(admin.after_restore(instant(0)).unwrap(), [name("alice")]);
    assert_eq!(alice.accounts.recovery_codes_left(alice.uid).unwrap(), 0);
    assert_eq!(alice.recover(0, Some("zero"), 60), CodeVerdict::Replayed);
    let notes = alice.accounts.pending_changes().unwrap();
    let note = &notes.last().unwrap().event.body;
    assert_eq!(note["action"], "after-restore");
    assert_eq!(note["void_recovery_codes"], 3);
}
