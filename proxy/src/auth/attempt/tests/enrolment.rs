use super::*;
use crate::{
    accounts::enrolment::{TIME_LIMIT, VALID},
    auth::{
        attempt::enrolment::{Enrolment, Next},
        enrolment::{Enrolling, Shown, Token},
    },
};

impl World {
    fn now(&self) -> DateTime<Utc> {
        self.authenticator.shared.clock.now()
    }

    fn token_for(&self, name: &str) -> Token {
        let token = Token::generate().unwrap();
        let name = name.parse().unwrap();
        self.administer()
            .issue_token(&name, &token.hash(), self.now() + VALID)
            .unwrap();
        token
    }

    /// Password, then this instead of a code.
    async fn show(&self, password: &str, token: &Token) -> Step {
        exchange(&mut self.attempt(), "alice", password, &token.text()).await
    }

    fn begin(&self, user: Enrolling) -> Enrolment {
        let source = SOURCE.parse().unwrap();
        self.authenticator
            .begin_enrolment(user, source, SessionId([7; 16]))
            .unwrap()
    }

    /// The code that the new device shows.
    fn code_of(&self, enrolment: &Enrolment) -> String {
        let uri = enrolment.uri();
        let secret = uri
            .split_once("secret=")
            .and_then(|(_, rest)| rest.split_once('&'))
            .map(|(secret, _)| totp_rs::Secret::try_from_base32(secret).unwrap())
            .unwrap();
        let device = totp::Authenticator {
            secret: Secret::from(secret.as_bytes().to_vec()),
            ..totp::Authenticator::decoy()
        };
        device.code_at(self.now().timestamp() as u64)
    }

    async fn show_code(&self, enrolment: &mut Enrolment) -> Next {
        let code = self.code_of(enrolment);
        enrolment.code(code.as_bytes()).await
    }

    fn old_device_works(&self) -> bool {
        let code = totp::Code::parse(self.code().as_bytes());
        let uid = self.profile().uid;
        let verdict = self.accounts.redeem_code(uid, code, self.now()).unwrap();
        verdict == crate::accounts::CodeVerdict::Right
    }
}

fn enrolling(step: Step) -> Enrolling {
    let Step::Enrol(user) = step else {
        panic!("may not enrol: {step:?}")
    };
    user
}

const STEP: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_password_and_a_token_enrol_a_device_whose_next_code_then_logs_in() {
    let world = world();
    let token = world.token_for("alice");
    let mut enrolment = world.begin(enrolling(world.show(PASSWORD, &token).await));
    assert_eq!(
        world.show_code(&mut enrolment).await,
        Next::Ask(Shown::First)
    );
    assert_eq!(
        world.show_code(&mut enrolment).await,
        Next::Ask(Shown::Repeated)
    );
    assert!(world.old_device_works(), "nothing is in force yet");
    world.pass(STEP);
    assert_eq!(world.show_code(&mut enrolment).await, Next::Done);
    let replayed = world.code_of(&enrolment);
    let mut attempt = world.attempt();
    assert!(is_rejected(
        &exchange(&mut attempt, "alice", PASSWORD, &replayed).await
    ));
    world.pass(STEP);
    let code = world.code_of(&enrolment);
    accepted(exchange(&mut world.attempt(), "alice", PASSWORD, &code).await);
    assert!(!world.old_device_works());
}

#[tokio::test]
async fn a_key_and_a_token_may_enrol_and_the_token_alone_may_not() {
    let world = world();
    let token = world.token_for("alice");
    let mut alone = world.attempt();
    alone.keyboard_interactive("alice", None).await;
    let answer = || Some(vec![Secret::from(&**token.text())]);
    let step = alone.keyboard_interactive("alice", answer()).await;
    assert!(matches!(step, Step::Ask { .. }), "as after any password");
    let step = alone.keyboard_interactive("alice", answer()).await;
    assert!(is_rejected(&step));

    let mut attempt = world.attempt();
    assert!(is_partial(&show_key(&world, &mut attempt).await));
    attempt.keyboard_interactive("alice", None).await;
    let user = enrolling(attempt.keyboard_interactive("alice", answer()).await);
    assert_eq!(user.factors(), [Factor::PublicKey]);
    assert!(user.key_fingerprint().is_some());
}

#[tokio::test]
async fn wrong_late_foreign_and_used_tokens_are_rejected_and_a_wrong_password_spends_none() {
    let world = world();
    let token = world.token_for("alice");
    assert!(is_rejected(&world.show("incorrect horse", &token).await));
    assert!(is_rejected(
        &world.show(PASSWORD, &Token::generate().unwrap()).await
    ));
    let bob: AccountName = "bob".parse().unwrap();
    world
        .administer()
        .add(&bob, AccountKind::Human, None)
        .unwrap();
    world.administer().set_password(&bob, &PHC).unwrap();
    let foreign = world.token_for("bob");
    assert!(is_rejected(&world.show(PASSWORD, &foreign).await));
    enrolling(world.show(PASSWORD, &token).await);
    assert!(is_rejected(&world.show(PASSWORD, &token).await));
    let late = world.token_for("alice");
    world.pass(VALID.to_std().unwrap());
    assert!(is_rejected(&world.show(PASSWORD, &late).await));
    let reasons = world.log.reasons();
    let expected = [
        "after_bad_password",
        "bad_token",
        "bad_token",
        "right",
        "token_spent",
        "token_expired",
    ];
    let told: Vec<_> = reasons
        .iter()
        .filter(|reason| *reason != "bad_password")
        .collect();
    // Each exchange has a step for its password, too.
    let tokens: Vec<_> = told
        .iter()
        .filter(|reason| ***reason != "right")
        .map(|reason| reason.as_str())
        .collect();
    let failures: Vec<_> = expected
        .into_iter()
        .filter(|reason| *reason != "right")
        .collect();
    assert_eq!(tokens, failures);
}

#[tokio::test]
async fn every_step_is_on_record_and_none_shows_token_code_or_secret() {
    let world = world();
    let token = world.token_for("alice");
    let mut enrolment = world.begin(enrolling(world.show(PASSWORD, &token).await));
    let secrets = [
        token.text().to_string(),
        enrolment.base32().to_string(),
        world.code_of(&enrolment),
    ];
    world.show_code(&mut enrolment).await;
    enrolment.code(b"no code").await;
    world.pass(STEP);
    world.show_code(&mut enrolment).await;
    let steps = world.log.of(EventKind::AuthStep);
    let enrolment_steps: Vec<_> = steps
        .iter()
        .filter(|event| event.body["method"] == "enrolment")
        .map(|event| (event.outcome, event.reason.as_deref()))
        .collect();
    assert_eq!(
        enrolment_steps,
        [
            (Some(Verdict::Success), None),
            (Some(Verdict::Failure), Some("bad_code")),
            (Some(Verdict::Success), None),
        ]
    );
    let results = world.log.of(EventKind::AuthResult);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].reason.as_deref(), Some("enrolment"));
    assert_eq!(results[0].body["is_mfa"], false);
    assert_eq!(
        results[0].body["factors"],
        serde_json::json!(["password", "enrolment-token"])
    );
    let changes = world.accounts.pending_changes().unwrap();
    assert_eq!(changes.last().unwrap().event.body["action"], "enroll-totp");
    let all = format!("{:?}{changes:?}", world.log.all());
    for secret in secrets {
        assert!(!all.contains(&secret), "{secret}");
    }
}

#[tokio::test]
async fn what_can_not_be_recorded_does_not_enrol() {
    let world = world();
    let token = world.token_for("alice");
    world.log.broken.store(true, Ordering::SeqCst);
    assert!(is_rejected(&world.show(PASSWORD, &token).await));
    world.log.broken.store(false, Ordering::SeqCst);

    let token = world.token_for("alice");
    let mut enrolment = world.begin(enrolling(world.show(PASSWORD, &token).await));
    world.show_code(&mut enrolment).await;
    world.pass(STEP);
    world.log.broken.store(true, Ordering::SeqCst);
    assert_eq!(
        world.show_code(&mut enrolment).await,
        Next::Failed("unrecorded")
    );
    world.log.broken.store(false, Ordering::SeqCst);
    assert_eq!(world.show_code(&mut enrolment).await, Next::Failed("ended"));
    assert!(world.old_device_works());
}

#[tokio::test]
async fn an_enrolment_that_is_late_or_overtaken_changes_nothing() {
    let world = world();
    let token = world.token_for("alice");
    let mut late = world.begin(enrolling(world.show(PASSWORD, &token).await));
    world.show_code(&mut late).await;
    world.pass(TIME_LIMIT.to_std().unwrap());
    let early = world.show_code(&mut late).await;
    assert_eq!(early, Next::Ask(Shown::OutOfTurn));
    world.pass(STEP);
    assert_eq!(world.show_code(&mut late).await, Next::Failed("overtaken"));

    let token = world.token_for("alice");
    let mut overtaken = world.begin(enrolling(world.show(PASSWORD, &token).await));
    world.token_for("alice");
    world.show_code(&mut overtaken).await;
    world.pass(STEP);
    assert_eq!(
        world.show_code(&mut overtaken).await,
        Next::Failed("overtaken")
    );
    assert!(world.old_device_works());
}

#[tokio::test]
async fn an_abandoned_enrolment_is_on_record_and_its_token_gone() {
    let world = world();
    let token = world.token_for("alice");
    let enrolment = world.begin(enrolling(world.show(PASSWORD, &token).await));
    drop(enrolment);
    assert_eq!(world.log.reasons().last().unwrap(), "abandoned");
    let gone = async {
        while world
            .accounts
            .redeem_token(world.profile().uid, &token.hash(), world.now())
            .unwrap()
            != crate::accounts::enrolment::TokenVerdict::NotIssued
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}
