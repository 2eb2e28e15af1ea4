mod admission;
mod answers;
mod bans;
mod break_glass;
mod enrolment;
mod factors;
mod keys;
mod machine;
mod options;
mod remote;
mod sessions;
mod store;
mod windows;

use std::sync::{
    LazyLock, Mutex,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use chrono::{DateTime, TimeZone as _, Utc};
use futures_util::future::BoxFuture;
use portcullis_journal::{AccountKind, EventKind, Verdict};
use ssh_key::HashAlg;
use tempfile::TempDir;

use super::*;
use crate::{
    accounts::{AccountName, Accounts},
    auth::{
        flow::{FactorPolicy, FlowRules, UserId},
        password::Hasher,
        public_key::{self, samples},
        throttle::{ThrottleConfig, Throttles},
        totp,
    },
    cipher_policy::CipherPolicy,
    exception::Exception,
};

const PASSWORD: &str = "correct horse battery";
const SOURCE: &str = "192.0.2.7:40000";
const DEADLINE: Duration = Duration::from_secs(60);

static PHC: LazyLock<String> = LazyLock::new(|| {
    let hasher = Hasher::new().unwrap();
    hasher.hash(&Secret::from(PASSWORD)).unwrap()
});

/// A journal in memory that fails when told to.
#[derive(Debug, Clone, Default)]
struct Log {
    events: Arc<Mutex<Vec<Event>>>,
    broken: Arc<AtomicBool>,
}

impl AuditLog for Log {
    fn append(&self, event: Event) -> BoxFuture<'static, Result<(), AppendError>> {
        let result = if self.broken.load(Ordering::SeqCst) {
            Err(AppendError::Closed)
        } else {
            self.events.lock().unwrap().push(event);
            Ok(())
        };
        Box::pin(async move { result })
    }
}

impl Log {
    fn all(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn of(&self, kind: EventKind) -> Vec<Event> {
        let mut events = self.all();
        events.retain(|event| event.kind == kind);
        events
    }

    fn reasons(&self) -> Vec<String> {
        self.of(EventKind::AuthStep)
            .into_iter()
            .map(|event| event.reason.unwrap_or_else(|| "right".to_owned()))
            .collect()
    }
}

struct World {
    directory: TempDir,
    accounts: Accounts,
    authenticator: Authenticator,
    log: Log,
    seconds: Arc<AtomicI64>,
    phone: totp::Authenticator,
    key: PublicKey,
}

/// Alice has all three factors and is known to an authenticator without delays.
fn world() -> World {
    world_with(|_| {})
}

fn world_with(change: impl FnOnce(&mut Settings)) -> World {
    let directory = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
    let admin = accounts.administer("test");
    let alice: AccountName = "alice".parse().unwrap();
    admin.add(&alice, AccountKind::Human, None).unwrap();
    admin.set_password(&alice, &PHC).unwrap();
    let phone = totp::Authenticator::generate(totp::Algorithm::Sha1, totp::Digits::Six).unwrap();
    admin.enroll_totp(&alice, &phone).unwrap();
    let key = public_key::parse(samples::ED25519).unwrap();
    admin.add_key(&alice, &key).unwrap();

    let seconds = Arc::new(AtomicI64::new(1_700_000_000));
    let clock = {
        let seconds = Arc::clone(&seconds);
        Clock::new(move || {
            Utc.timestamp_opt(seconds.load(Ordering::SeqCst), 0)
                .unwrap()
        })
    };
    let mut settings = Settings {
        failure_floor: Duration::ZERO,
        failure_jitter: Duration::ZERO,
        clock,
        // Failures of one test are many, and from one source.
        throttles: Throttles::new(ThrottleConfig::without_penalties(), None, Utc::now()),
        ..Settings::default()
    };
    change(&mut settings);
    let log = Log::default();
    let authenticator = Authenticator::new(accounts.clone(), log.clone(), settings).unwrap();
    World {
        directory,
        accounts,
        authenticator,
        log,
        seconds,
        phone,
        key,
    }
}

impl World {
    fn attempt(&self) -> Attempt {
        self.attempt_from(SOURCE)
    }

    fn attempt_from(&self, source: &str) -> Attempt {
        let source = source.parse().unwrap();
        self.authenticator.attempt(source, SessionId([7; 16]))
    }

    fn code(&self) -> String {
        let now = self.seconds.load(Ordering::SeqCst);
        self.phone.code_at(now as u64)
    }

    fn wrong_code(&self) -> String {
        let right: u32 = self.code().parse().unwrap();
        // Three steps are accepted; none of them is likely this one, and the test would say so.
        format!("{:06}", (right + 500_001) % 1_000_000)
    }

    fn pass(&self, time: Duration) {
        let seconds = time.as_secs() as i64;
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn profile(&self) -> crate::auth::flow::Profile {
        self.accounts.profile("alice").unwrap().unwrap()
    }

    fn administer(&self) -> crate::accounts::Administration<'_> {
        self.accounts.administer("test")
    }
}

fn alice() -> AccountName {
    "alice".parse().unwrap()
}

/// One whole exchange of keyboard-interactive.
async fn exchange(attempt: &mut Attempt, user: &str, password: &str, code: &str) -> Step {
    let mut step = attempt.keyboard_interactive(user, None).await;
    for answer in [password, code] {
        if !matches!(step, Step::Ask { .. }) {
            break;
        }
        step = attempt
            .keyboard_interactive(user, Some(vec![Secret::from(answer)]))
            .await;
    }
    step
}

async fn show_key(world: &World, attempt: &mut Attempt) -> Step {
    attempt
        .public_key_verified("alice", &Algorithm::Ed25519, &world.key)
        .await
}

fn accepted(step: Step) -> Authenticated {
    let Step::Accepted(user) = step else {
        panic!("not accepted: {step:?}")
    };
    user
}

fn is_rejected(step: &Step) -> bool {
    matches!(step, Step::Rejected { .. })
}

fn is_partial(step: &Step) -> bool {
    matches!(step, Step::Partial { .. })
}

#[tokio::test]
async fn password_and_code_log_in_and_the_records_say_how_but_not_with_what() {
    let world = world();
    let code = world.code();
    let step = exchange(&mut world.attempt(), "alice", PASSWORD, &code).await;
    let user = accepted(step);
    assert_eq!(user.factors(), [Factor::Password, Factor::Totp]);
    assert!(user.is_mfa());

    let steps = world.log.of(EventKind::AuthStep);
    assert_eq!(world.log.reasons(), ["right", "right"]);
    assert_eq!(steps[0].body["factor"], "password");
    assert_eq!(steps[1].body["factor"], "totp");
    assert_eq!(steps[1].body["method"], "keyboard-interactive");
    let results = world.log.of(EventKind::AuthResult);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].outcome, Some(Verdict::Success));
    assert_eq!(results[0].body["is_mfa"], true);
    assert_eq!(results[0].body["policy"], "two-class");
    assert_eq!(
        results[0].body["factors"],
        serde_json::json!(["password", "totp"])
    );
    assert_eq!(results[0].user.as_ref().unwrap().uid, Some(user.uid().0));
    let printed = format!("{:?}", world.log.all());
    assert!(!printed.contains(PASSWORD) && !printed.contains(&code));
}

#[tokio::test]
async fn key_and_password_log_in_by_either_method_and_in_either_order() {
    let world = world();
    let mut attempt = world.attempt();
    let Step::Partial { methods } = show_key(&world, &mut attempt).await else {
        panic!("a key is one factor")
    };
    assert_eq!(methods, [Method::KeyboardInteractive, Method::Password]);
    let user = accepted(exchange(&mut attempt, "alice", PASSWORD, "unasked").await);
    assert_eq!(user.factors(), [Factor::PublicKey, Factor::Password]);
    let fingerprint = world.key.fingerprint(HashAlg::Sha256).to_string();
    assert_eq!(user.key_fingerprint(), Some(fingerprint.as_str()));
    let result = &world.log.of(EventKind::AuthResult)[0];
    assert_eq!(result.body["key_fp"], fingerprint.as_str());

    let mut attempt = world.attempt();
    assert!(is_partial(&show_key(&world, &mut attempt).await));
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await);

    let mut attempt = world.attempt();
    let first = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_partial(&first));
    accepted(show_key(&world, &mut attempt).await);
}

#[tokio::test]
async fn key_and_code_log_in_only_under_the_named_exception_and_the_record_says_so() {
    let world = world();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    let step = exchange(&mut attempt, "alice", &world.code(), &world.code()).await;
    assert!(is_rejected(&step), "the code is no password: {step:?}");

    let pair = FactorPolicy::PossessionPair(Exception {
        reason: "scanner".to_owned(),
        approver: "J. Doe".to_owned(),
        expires: chrono::NaiveDate::from_ymd_opt(2023, 12, 31).unwrap(),
    });
    world.administer().set_policy(&alice(), &pair).unwrap();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    let user = accepted(exchange(&mut attempt, "alice", &world.code(), "unasked").await);
    assert!(!user.is_mfa());
    let result = world.log.of(EventKind::AuthResult).pop().unwrap();
    assert_eq!(result.body["is_mfa"], false);
    assert_eq!(result.body["policy"], "possession-pair");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_parallel_logins_with_one_code_over_two_handles_exactly_one_succeeds() {
    let world = world();
    let path = world.directory.path().join("accounts.db");
    let other = Authenticator::new(
        Accounts::open(&path).unwrap(),
        world.log.clone(),
        Settings {
            failure_floor: Duration::ZERO,
            failure_jitter: Duration::ZERO,
            clock: world.authenticator.shared.clock.clone(),
            ..Settings::default()
        },
    )
    .unwrap();
    let code = world.code();
    let logins: Vec<_> = (0..20)
        .map(|number| {
            let authenticator = if number % 2 == 0 {
                &world.authenticator
            } else {
                &other
            };
            let source = SOURCE.parse().unwrap();
            let mut attempt = authenticator.attempt(source, SessionId([number; 16]));
            let code = code.clone();
            tokio::spawn(async move { exchange(&mut attempt, "alice", PASSWORD, &code).await })
        })
        .collect();
    let mut successes = 0;
    for login in logins {
        let step = login.await.unwrap();
        let success = matches!(step, Step::Accepted(_));
        assert!(success || is_rejected(&step), "{step:?}");
        successes += usize::from(success);
    }
    assert_eq!(successes, 1);
    let replayed = |reason: &String| reason == "code_replayed";
    assert_eq!(
        world.log.reasons().iter().filter(|r| replayed(r)).count(),
        19
    );
    world.pass(Duration::from_secs(30));
    let next = exchange(&mut world.attempt(), "alice", PASSWORD, &world.code()).await;
    accepted(next);
}

#[tokio::test]
async fn a_right_code_during_the_delay_is_answered_as_a_wrong_one() {
    let world = world_with(|settings| settings.max_failures = 100);
    let mut attempt = world.attempt();
    let mut wrong = None;
    for _ in 0..5 {
        wrong = Some(exchange(&mut attempt, "alice", PASSWORD, &world.wrong_code()).await);
    }
    let right = exchange(&mut attempt, "alice", PASSWORD, &world.code()).await;
    assert_eq!(format!("{right:?}"), format!("{:?}", wrong.unwrap()));
    assert_eq!(world.log.reasons().last().unwrap(), "code_delayed");
    world.pass(Duration::from_secs(30));
    accepted(exchange(&mut attempt, "alice", PASSWORD, &world.code()).await);
}

#[tokio::test]
async fn codes_after_a_wrong_password_neither_count_against_the_account_nor_are_spent() {
    let world = world();
    let code = world.code();
    for _ in 0..25 {
        let attempt = &mut world.attempt();
        let step = exchange(attempt, "alice", "wrong horse battery", &code).await;
        assert!(is_rejected(&step));
    }
    accepted(exchange(&mut world.attempt(), "alice", PASSWORD, &code).await);
}

#[tokio::test]
async fn guesses_at_the_password_after_a_key_count_against_the_account() {
    let world = world_with(|settings| settings.max_failures = 100);
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    for _ in 0..5 {
        let step = attempt.password("alice", Secret::from("a guess")).await;
        assert!(is_rejected(&step));
    }
    let right = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_rejected(&right));
    assert_eq!(world.log.reasons().last().unwrap(), "password_delayed");
    world.pass(Duration::from_secs(30));
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
}

#[tokio::test]
async fn while_the_journal_can_not_be_written_nobody_gets_in_and_nothing_is_remembered() {
    let world = world();
    let mut attempt = world.attempt();
    world.log.broken.store(true, Ordering::SeqCst);
    assert!(is_rejected(&show_key(&world, &mut attempt).await));
    world.log.broken.store(false, Ordering::SeqCst);
    let step = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_partial(&step), "the key was forgotten: {step:?}");
    world.log.broken.store(true, Ordering::SeqCst);
    assert!(is_rejected(&show_key(&world, &mut attempt).await));
    world.log.broken.store(false, Ordering::SeqCst);
    assert!(is_partial(&show_key(&world, &mut attempt).await));
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
}

#[tokio::test]
async fn a_disabled_account_is_out_also_between_two_factors() {
    let world = world();
    let mut attempt = world.attempt();
    assert!(is_partial(&show_key(&world, &mut attempt).await));
    world.administer().disable(&alice()).unwrap();
    let step = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_rejected(&step));
    world.administer().enable(&alice()).unwrap();
    let step = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_partial(&step), "the key was forgotten: {step:?}");
}

#[tokio::test]
async fn the_last_failure_that_is_allowed_ends_the_connection_and_is_on_record_once() {
    let world = world_with(|settings| settings.max_failures = 3);
    let mut attempt = world.attempt();
    for _ in 0..2 {
        let step = exchange(&mut attempt, "alice", "wrong horse battery", "000000").await;
        assert!(is_rejected(&step));
    }
    let step = exchange(&mut attempt, "alice", "wrong horse battery", "000000").await;
    assert!(matches!(step, Step::Disconnect));
    let step = exchange(&mut attempt, "alice", PASSWORD, &world.code()).await;
    assert!(matches!(step, Step::Disconnect));
    drop(attempt);
    let results = world.log.of(EventKind::AuthResult);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].outcome, Some(Verdict::Failure));
    assert_eq!(results[0].reason.as_deref(), Some("too_many_failures"));
    assert_eq!(results[0].body["fail_count"], 3);
}

#[tokio::test]
async fn a_connection_that_leaves_is_on_record_if_it_tried_anything() {
    let world = world();
    let mut attempt = world.attempt();
    attempt.none("alice").await;
    drop(attempt);
    assert!(world.log.all().is_empty());
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    drop(attempt);
    let results = world.log.of(EventKind::AuthResult);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].reason.as_deref(), Some("ended"));
}

#[tokio::test]
async fn success_is_sent_once() {
    let world = world();
    let mut attempt = world.attempt();
    show_key(&world, &mut attempt).await;
    accepted(attempt.password("alice", Secret::from(PASSWORD)).await);
    for _ in 0..2 {
        let step = attempt.password("alice", Secret::from(PASSWORD)).await;
        assert!(matches!(step, Step::Disconnect));
    }
    drop(attempt);
    assert_eq!(world.log.of(EventKind::AuthResult).len(), 1);
}

#[tokio::test]
async fn requests_that_are_no_failures_are_bounded_too() {
    let world = world();
    let mut attempt = world.attempt();
    for _ in 0..REQUESTS_MAX {
        let step = attempt.keyboard_interactive("alice", None).await;
        assert!(matches!(step, Step::Ask { .. }));
    }
    let step = attempt.keyboard_interactive("alice", None).await;
    assert!(matches!(step, Step::Disconnect));
    let offer = attempt
        .public_key_offered("alice", &Algorithm::Ed25519, &world.key)
        .await;
    assert!(matches!(offer, Some(Step::Disconnect)));
}

#[tokio::test]
async fn an_offer_shows_nothing_and_a_weak_key_or_signature_is_refused_at_once() {
    let world = world();
    let mut attempt = world.attempt();
    let offer = attempt
        .public_key_offered("alice", &Algorithm::Ed25519, &world.key)
        .await;
    assert!(offer.is_none());
    let step = attempt.password("alice", Secret::from(PASSWORD)).await;
    assert!(is_partial(&step), "an offered key is no factor: {step:?}");

    let rsa = public_key::parse(samples::RSA_3072).unwrap();
    let weak = PublicKey::from_openssh(samples::RSA_2048).unwrap();
    let sha2 = Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    };
    let sha1 = Algorithm::Rsa { hash: None };
    let mut attempt = world.attempt();
    assert!(
        attempt
            .public_key_offered("alice", &sha2, &rsa)
            .await
            .is_none()
    );
    let refused = attempt.public_key_offered("alice", &sha1, &rsa).await;
    assert!(is_rejected(&refused.unwrap()));
    let refused = attempt.public_key_offered("alice", &sha2, &weak).await;
    assert!(is_rejected(&refused.unwrap()));
    let reasons = world.log.reasons();
    assert_eq!(reasons[1..], ["weak_signature", "rsa_size"]);

    world.administer().add_key(&alice(), &rsa).unwrap();
    let step = attempt.public_key_verified("alice", &sha1, &rsa).await;
    assert!(is_rejected(&step));
    let step = attempt.public_key_verified("alice", &sha2, &rsa).await;
    assert!(is_partial(&step));
}

#[tokio::test]
async fn a_key_outside_the_cipher_policy_is_no_factor_although_it_is_the_accounts() {
    let mut world = world();
    let ecdsa = public_key::parse(samples::ECDSA_256).unwrap();
    world.administer().add_key(&alice(), &ecdsa).unwrap();
    let fips = CipherPolicy::preset("fips-140-3").unwrap().key_rules();
    world.authenticator = world.authenticator.clone().with_key_rules(fips);
    let mut attempt = world.attempt();
    let offered = attempt
        .public_key_offered("alice", &Algorithm::Ed25519, &world.key)
        .await;
    assert!(is_rejected(&offered.unwrap()));
    let step = attempt
        .public_key_verified("alice", &Algorithm::Ed25519, &world.key)
        .await;
    assert!(is_rejected(&step));
    assert_eq!(
        world.log.reasons(),
        ["key_not_in_policy", "key_not_in_policy"]
    );
    let step = attempt
        .public_key_verified("alice", &ecdsa.algorithm(), &ecdsa)
        .await;
    assert!(is_partial(&step));
}

#[tokio::test]
async fn one_prompt_wants_one_response() {
    let world = world();
    for responses in [vec![], vec![Secret::from(PASSWORD), Secret::from("000000")]] {
        let mut attempt = world.attempt();
        attempt.keyboard_interactive("alice", None).await;
        let step = attempt.keyboard_interactive("alice", Some(responses)).await;
        assert!(is_rejected(&step));
    }
    let mut attempt = world.attempt();
    let unasked = Some(vec![Secret::from(PASSWORD)]);
    let step = attempt.keyboard_interactive("alice", unasked).await;
    assert!(is_rejected(&step));
    assert_eq!(
        world.log.reasons(),
        ["response_count", "response_count", "nothing_asked"]
    );
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::task::yield_now().await;
    }
}
