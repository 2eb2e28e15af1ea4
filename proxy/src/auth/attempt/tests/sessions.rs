//! What becomes of sessions and of notes for the journal when accounts change.

use super::{admission::source, *};

#[tokio::test]
async fn a_session_ends_when_its_account_loses_something_and_not_when_it_gains() {
    let world = world();
    let housekeeping = tokio::spawn(world.authenticator.clone().follow_changes());
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    let user = accepted(attempt.password("alice", Secret::from(PASSWORD)).await);

    let path = world.directory.path().join("accounts.db");
    let other_process = Accounts::open(&path).unwrap();
    let admin = other_process.administer("uid:0");
    let rsa = public_key::parse(samples::RSA_3072).unwrap();
    admin.add_key(&alice(), &rsa).unwrap();
    let gained = {
        let authenticator = world.authenticator.clone();
        let user = user.clone();
        tokio::spawn(async move { authenticator.until_revoked(&user, source()).await })
    };
    let recorded = |action: &str| {
        let changes = world.log.of(EventKind::AdminAccount);
        changes.iter().any(|event| event.body["action"] == action)
    };
    wait_for("add-key on record", || recorded("add-key")).await;
    assert!(!gained.is_finished());

    admin.disable(&alice()).unwrap();
    tokio::time::timeout(DEADLINE, gained)
        .await
        .expect("the session ends")
        .unwrap();
    wait_for("disable on record", || recorded("disable")).await;
    let waiting = || world.accounts.pending_changes().unwrap();
    wait_for("notes deleted", || waiting().is_empty()).await;
    housekeeping.abort();
}

#[tokio::test]
async fn changes_wait_while_the_journal_is_broken_and_none_is_lost() {
    let world = world();
    world.log.broken.store(true, Ordering::SeqCst);
    let relay = || crate::accounts::audit::relay(&world.accounts, &world.log);
    assert!(relay().await.is_err());
    world.administer().disable(&alice()).unwrap();
    world.log.broken.store(false, Ordering::SeqCst);
    let waiting = world.accounts.pending_changes().unwrap().len();
    assert_eq!(relay().await.unwrap(), waiting);
    assert_eq!(relay().await.unwrap(), 0);
    let last = world.log.of(EventKind::AdminAccount).pop().unwrap();
    assert_eq!(last.body["action"], "disable");
}

#[tokio::test]
async fn a_session_of_an_account_that_changed_between_login_and_watch_ends_at_once() {
    let world = world();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    let user = accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
    assert_eq!(user.uid(), world.profile().uid);
    world.administer().disable(&alice()).unwrap();
    let ended = world.authenticator.until_revoked(&user, source());
    tokio::time::timeout(DEADLINE, ended).await.unwrap();
}

#[tokio::test]
async fn the_mounts_are_those_of_the_user() {
    let world = world();
    let nobody = Authenticated::for_test(UserId(99).0, "nobody");
    let grants = world.authenticator.grants(&nobody).await.unwrap();
    assert!(grants.mounts.is_empty());
}
