//! A key alone after a login with two classes: from where, how long, and what ends it.

use super::*;
use crate::auth::attempt::sessions::withdrawal;
use crate::auth::attempt::windows::Windows;

const ELSEWHERE: &str = "192.0.2.8:40000";
const MAPPED: &str = "[::ffff:192.0.2.7]:40000";
const LENGTH: Duration = Duration::from_secs(900);

fn windowed() -> World {
    let world = world();
    let admin = world.administer();
    admin.set_mfa_window(&alice(), Some(LENGTH)).unwrap();
    world
}

async fn log_in(world: &World) -> Authenticated {
    let mut attempt = world.attempt();
    assert!(is_partial(&show_key(world, &mut attempt).await));
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await)
}

async fn key_alone(world: &World, source: &str) -> Step {
    show_key(world, &mut world.attempt_from(source)).await
}

#[tokio::test]
async fn the_key_alone_logs_in_from_the_same_address_until_the_window_closes() {
    let world = windowed();
    assert!(is_partial(&key_alone(&world, SOURCE).await));
    log_in(&world).await;
    let opened = world.log.of(EventKind::AuthResult).pop().unwrap();
    let until = "2023-11-14T22:28:20Z";
    assert_eq!(opened.body["opens_mfa_window_until"], until);
    assert!(!opened.body.contains_key("mfa_window"));

    world.pass(Duration::from_secs(899));
    for source in [SOURCE, "192.0.2.7:40001", MAPPED] {
        let user = accepted(key_alone(&world, source).await);
        assert_eq!(user.policy(), "mfa-window");
        let result = world.log.of(EventKind::AuthResult).pop().unwrap();
        assert_eq!(result.body["is_mfa"], false);
        assert_eq!(result.body["policy"], "mfa-window");
        assert_eq!(result.body["factors"], serde_json::json!(["publickey"]));
        assert_eq!(result.body["mfa_window"], "2023-11-14T22:13:20Z");
        assert_eq!(result.body["mfa_window_until"], until);
        assert_eq!(result.body["remembered"], serde_json::json!(["password"]));
        assert!(!result.body.contains_key("opens_mfa_window_until"));
    }
    assert!(is_partial(&key_alone(&world, ELSEWHERE).await));
    world.pass(Duration::from_secs(1));
    assert!(is_partial(&key_alone(&world, SOURCE).await));
}

#[tokio::test]
async fn without_the_setting_and_with_another_key_both_factors_are_asked_for() {
    let world = world();
    log_in(&world).await;
    assert!(is_partial(&key_alone(&world, SOURCE).await));

    let world = windowed();
    let other = public_key::parse(samples::ECDSA_256).unwrap();
    world.administer().add_key(&alice(), &other).unwrap();
    log_in(&world).await;
    let step = world
        .attempt()
        .public_key_verified("alice", &other.algorithm(), &other)
        .await;
    assert!(is_partial(&step));
    accepted(key_alone(&world, SOURCE).await);
}

#[tokio::test]
async fn what_is_taken_from_the_account_closes_its_windows_and_so_does_a_restart() {
    let world = windowed();
    let admin = world.administer();
    let changes: [&dyn Fn(); 4] = [
        &|| admin.forget_window(&alice()).unwrap(),
        &|| admin.set_password(&alice(), &PHC).unwrap(),
        &|| admin.set_mfa_window(&alice(), Some(LENGTH)).unwrap(),
        &|| {
            admin.disable(&alice()).unwrap();
            admin.enable(&alice()).unwrap();
        },
    ];
    for change in changes {
        log_in(&world).await;
        accepted(key_alone(&world, SOURCE).await);
        change();
        assert!(is_partial(&key_alone(&world, SOURCE).await));
    }

    log_in(&world).await;
    let reloaded = world.authenticator.reconfigured(6, FlowRules::default());
    let source = SOURCE.parse().unwrap();
    let mut attempt = reloaded.attempt(source, SessionId([8; 16]));
    accepted(show_key(&world, &mut attempt).await);
    let settings = Settings {
        clock: world.authenticator.shared.clock.clone(),
        ..Settings::default()
    };
    let restarted =
        Authenticator::new(world.accounts.clone(), world.log.clone(), settings).unwrap();
    let mut attempt = restarted.attempt(source, SessionId([9; 16]));
    assert!(is_partial(&show_key(&world, &mut attempt).await));
}

#[tokio::test]
async fn a_login_that_can_not_be_recorded_opens_no_window() {
    let world = windowed();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    world.log.broken.store(true, Ordering::SeqCst);
    let step = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_rejected(&step));
    world.log.broken.store(false, Ordering::SeqCst);
    assert!(is_partial(&key_alone(&world, SOURCE).await));
}

#[tokio::test]
async fn forgetting_the_windows_ends_the_sessions_that_came_in_through_one_and_no_other() {
    let world = windowed();
    let follow = tokio::spawn(world.authenticator.clone().follow_changes());
    let full = log_in(&world).await;
    let continued = accepted(key_alone(&world, SOURCE).await);
    let source: SocketAddr = SOURCE.parse().unwrap();
    let ended = {
        let (authenticator, user) = (world.authenticator.clone(), continued.clone());
        tokio::spawn(async move { authenticator.until_revoked(&user, source.ip()).await })
    };

    // As the command line does: by a connection of its own.
    let path = world.directory.path().join("accounts.db");
    let other = Accounts::open(&path).unwrap();
    other.administer("test").forget_window(&alice()).unwrap();
    tokio::time::timeout(DEADLINE, ended)
        .await
        .expect("ends")
        .unwrap();
    let standing = world.accounts.standing(full.uid()).unwrap();
    let now = world.authenticator.shared.clock.now();
    let withdrawn = |user| withdrawal(user, standing.as_ref(), source.ip(), now);
    assert_eq!(withdrawn(&continued), Some(Withdrawal::Changed));
    assert_eq!(withdrawn(&full), None);
    follow.abort();
}

#[test]
fn so_many_windows_are_kept_and_no_more_until_some_are_over() {
    let world = windowed();
    let window = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(log_in(&world))
        .opens()
        .unwrap()
        .clone();
    let (now, at) = (window.began(), Instant::now());
    let mut windows = Windows::default();
    let address = |number: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from(number));
    for number in 0..4096 {
        assert!(windows.open(window.clone(), address(number), (now, at)));
    }
    assert!(!windows.open(window.clone(), address(4096), (now, at)));
    assert!(windows.open(window.clone(), address(7), (now, at)));
    let (uid, key) = (window.uid(), window.fingerprint());
    assert!(windows.find(uid, key, address(4096), at).is_none());
    assert!(windows.find(uid, key, address(4095), at).is_some());
    let later = at + LENGTH;
    assert!(windows.find(uid, key, address(4095), later).is_none());
    assert!(windows.open(window.clone(), address(4096), (now, at)));
}
