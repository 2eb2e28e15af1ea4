mod options;
mod oracle;
mod orders;
mod single;
mod windows;

use std::time::Duration;

use chrono::{NaiveDate, TimeZone as _};
use portcullis_journal::AccountKind;

use super::*;
use crate::exception::Exception;

const ALICE: &str = "alice";
const BOB: &str = "bob";

fn noon(day: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, day, 12, 0, 0).unwrap()
}

fn pair_until(day: u32) -> FactorPolicy {
    FactorPolicy::PossessionPair(Exception {
        reason: "no keyboard at the scanner".to_owned(),
        approver: "J. Doe".to_owned(),
        expires: NaiveDate::from_ymd_opt(2026, 3, day).unwrap(),
    })
}

fn profile(uid: i64, name: &str, policy: FactorPolicy) -> Profile {
    Profile {
        uid: UserId(uid),
        name: name.to_owned(),
        kind: AccountKind::Human,
        policy,
        epoch: 0,
        has_code: true,
        has_key: true,
        key_alone: false,
        login: LoginOptions::default(),
    }
}

fn alice() -> Profile {
    profile(1, ALICE, FactorPolicy::TwoClass)
}

fn key(fingerprint: &str) -> Evidence {
    Evidence::Key {
        shown: Some(ShownKey::for_test(fingerprint, Factor::PublicKey)),
    }
}

fn foreign_key() -> Evidence {
    Evidence::Key { shown: None }
}

fn answer(verdict: Verdict) -> Evidence {
    Evidence::Answer(verdict, Factor::Password)
}

fn code(verdict: Verdict) -> Evidence {
    Evidence::Answer(verdict, Factor::Totp)
}

/// Sends the evidence in turn and gives the last decision.
fn run(
    flow: &mut Flow,
    account: &Profile,
    evidence: impl IntoIterator<Item = Evidence>,
) -> Decision {
    let mut last = None;
    for evidence in evidence {
        last = Some(flow.step(&account.name, Some(account), evidence, noon(1)));
    }
    last.expect("at least one step")
}

fn factors(decision: Decision) -> Vec<Factor> {
    let Decision::Accepted(user) = decision else {
        panic!("not accepted: {decision:?}")
    };
    user.factors().to_vec()
}

fn both(password: Verdict, code: Verdict) -> Both {
    Both {
        password,
        code,
        factor: Factor::Totp,
    }
}

fn is_partial(decision: &Decision) -> bool {
    matches!(decision, Decision::Partial { .. })
}

fn is_rejected(decision: &Decision) -> bool {
    matches!(decision, Decision::Rejected { .. })
}

#[test]
fn a_key_alone_is_enough_under_the_policy_machine_only() {
    let machine = Profile {
        key_alone: true,
        ..alice()
    };
    let now = noon(1);
    let login = Flow::default().step(ALICE, Some(&machine), key("K"), now);
    let Decision::Accepted(user) = login else {
        panic!("not accepted: {login:?}")
    };
    assert_eq!((user.policy(), user.is_mfa()), ("machine", false));
    let login = Flow::default().step(ALICE, Some(&machine), foreign_key(), now);
    assert!(matches!(login, Decision::Rejected { .. }));
    let login = Flow::default().step(ALICE, Some(&alice()), key("K"), now);
    assert!(matches!(login, Decision::Partial { .. }));
}

#[test]
fn password_and_code_in_one_exchange_are_enough() {
    let decision = run(
        &mut Flow::default(),
        &alice(),
        [
            Evidence::Begin,
            answer(Verdict::Right),
            code(Verdict::Right),
        ],
    );
    assert_eq!(factors(decision), [Factor::Password, Factor::Totp]);
}

#[test]
fn a_right_code_after_a_wrong_password_is_rejected_only_at_the_end_and_never_looked_at() {
    let mut flow = Flow::default();
    let asked = run(
        &mut flow,
        &alice(),
        [Evidence::Begin, answer(Verdict::Wrong)],
    );
    assert!(matches!(asked, Decision::Ask(Question::Code)));
    assert_eq!(flow.pending(ALICE), Some(Check::Decoy));
    let end = run(&mut flow, &alice(), [code(Verdict::Right)]);
    assert!(is_rejected(&end));
}

#[test]
fn an_answer_counts_only_for_the_question_that_is_open() {
    for (before, wrong) in [
        (vec![Evidence::Begin], code(Verdict::Right)),
        (
            vec![Evidence::Begin, answer(Verdict::Right)],
            answer(Verdict::Right),
        ),
        (
            vec![Evidence::Begin, answer(Verdict::Right)],
            Evidence::Answer(Verdict::Right, Factor::PublicKey),
        ),
    ] {
        let mut flow = Flow::default();
        run(&mut flow, &alice(), before);
        assert!(is_rejected(&run(&mut flow, &alice(), [wrong])));
    }
}

#[test]
fn every_kind_of_key_and_of_code_is_a_possession_and_is_named_as_what_it_is() {
    let password_then = |second: Factor| {
        let mut flow = Flow::default();
        run(
            &mut flow,
            &alice(),
            [Evidence::Begin, answer(Verdict::Right)],
        );
        factors(run(
            &mut flow,
            &alice(),
            [Evidence::Answer(Verdict::Right, second)],
        ))
    };
    for second in [Factor::Totp, Factor::RecoveryCode, Factor::Radius] {
        assert_eq!(password_then(second), [Factor::Password, second]);
    }
    let kinds = [Factor::PublicKey, Factor::SecurityKey, Factor::Certificate];
    for first in kinds {
        for second in kinds {
            let shown = |factor| Evidence::Key {
                shown: Some(ShownKey::for_test("K", factor)),
            };
            let mut flow = Flow::default();
            let keys = run(&mut flow, &alice(), [shown(first), shown(second)]);
            assert!(is_partial(&keys), "two keys are one class");
        }
    }
}

#[test]
fn a_password_whose_code_was_wrong_is_not_kept() {
    let mut flow = Flow::default();
    let both = [
        Evidence::Begin,
        answer(Verdict::Right),
        code(Verdict::Wrong),
    ];
    assert!(is_rejected(&run(&mut flow, &alice(), both)));
    assert!(is_partial(&run(&mut flow, &alice(), [key("K")])));
}

#[test]
fn key_then_password_by_keyboard_interactive_or_password_method_is_enough() {
    for last in [
        vec![Evidence::Begin, answer(Verdict::Right)],
        vec![Evidence::Password(Verdict::Right)],
    ] {
        let mut flow = Flow::default();
        let partial = run(&mut flow, &alice(), [key("K")]);
        assert!(is_partial(&partial));
        let decision = run(&mut flow, &alice(), last);
        assert_eq!(factors(decision), [Factor::PublicKey, Factor::Password]);
    }
}

#[test]
fn the_password_method_alone_is_acknowledged_only_where_a_key_can_follow() {
    let mut flow = Flow::default();
    let first = run(&mut flow, &alice(), [Evidence::Password(Verdict::Right)]);
    assert!(is_partial(&first));
    let again = run(&mut flow, &alice(), [Evidence::Password(Verdict::Right)]);
    assert!(is_partial(&again), "one class twice is one class");
    let decision = run(&mut flow, &alice(), [key("K")]);
    assert_eq!(factors(decision), [Factor::Password, Factor::PublicKey]);

    let no_key = Profile {
        has_key: false,
        ..alice()
    };
    let mut flow = Flow::default();
    let first = run(&mut flow, &no_key, [Evidence::Password(Verdict::Right)]);
    assert!(is_rejected(&first));
}

#[test]
fn password_then_key_is_enough_without_a_code_to_show() {
    let no_totp = Profile {
        has_code: false,
        ..alice()
    };
    let mut flow = Flow::default();
    let partial = run(
        &mut flow,
        &no_totp,
        [Evidence::Begin, answer(Verdict::Right)],
    );
    assert!(is_partial(&partial));
    let decision = run(&mut flow, &no_totp, [key("K")]);
    assert_eq!(factors(decision), [Factor::Password, Factor::PublicKey]);
}

#[test]
fn an_empty_code_keeps_the_password_for_a_key_only_if_the_account_has_one() {
    let exchange = || {
        [
            Evidence::Begin,
            answer(Verdict::Right),
            code(Verdict::Empty),
        ]
    };
    let mut flow = Flow::default();
    assert!(is_partial(&run(&mut flow, &alice(), exchange())));
    let decision = run(&mut flow, &alice(), [key("K")]);
    assert_eq!(factors(decision), [Factor::Password, Factor::PublicKey]);

    let no_key = Profile {
        has_key: false,
        ..alice()
    };
    let mut flow = Flow::default();
    assert!(is_rejected(&run(&mut flow, &no_key, exchange())));
}

#[test]
fn key_and_code_are_enough_only_under_a_possession_pair_that_has_not_run_out() {
    let pair = profile(1, ALICE, pair_until(10));
    let login = |day| {
        let mut flow = Flow::default();
        flow.step(ALICE, Some(&pair), key("K"), noon(day));
        let asked = flow.step(ALICE, Some(&pair), Evidence::Begin, noon(day));
        let Decision::Ask(question) = asked else {
            panic!("{asked:?}")
        };
        let right = match question {
            Question::Password => answer(Verdict::Right),
            Question::Code | Question::Both => code(Verdict::Right),
        };
        let end = flow.step(ALICE, Some(&pair), right, noon(day));
        (question, end)
    };
    let (question, end) = login(10);
    assert_eq!(question, Question::Code);
    let Decision::Accepted(user) = end else {
        panic!("{end:?}")
    };
    assert!(!user.is_mfa());
    assert_eq!(user.policy(), "possession-pair");

    let (question, end) = login(11);
    assert_eq!(question, Question::Password);
    let Decision::Accepted(user) = end else {
        panic!("{end:?}")
    };
    assert!(user.is_mfa());
    assert_eq!(user.policy(), "two-class");
}

#[test]
fn a_possession_pair_that_runs_out_between_key_and_code_is_not_enough() {
    let pair = profile(1, ALICE, pair_until(10));
    let mut flow = Flow::default();
    flow.step(ALICE, Some(&pair), key("K"), noon(10));
    flow.step(ALICE, Some(&pair), Evidence::Begin, noon(10));
    let end = flow.step(ALICE, Some(&pair), code(Verdict::Right), noon(11));
    assert!(is_partial(&end));
}

#[test]
fn a_change_of_user_forgets_what_the_first_one_showed() {
    let bob = profile(2, BOB, FactorPolicy::TwoClass);
    let mut flow = Flow::default();
    assert!(is_partial(&run(&mut flow, &alice(), [key("K")])));
    let switched = run(&mut flow, &bob, [Evidence::Password(Verdict::Right)]);
    assert!(is_partial(&switched));
    let back = run(&mut flow, &alice(), [Evidence::Password(Verdict::Right)]);
    assert!(is_partial(&back));
}

#[test]
fn an_answer_to_a_question_that_another_user_was_asked_counts_for_nobody() {
    let bob = profile(2, BOB, FactorPolicy::TwoClass);
    let mut flow = Flow::default();
    run(&mut flow, &alice(), [Evidence::Begin]);
    assert_eq!(flow.pending(BOB), None);
    assert!(is_rejected(&run(&mut flow, &bob, [answer(Verdict::Right)])));
}

#[test]
fn what_was_shown_before_the_account_lost_something_counts_no_longer() {
    let mut flow = Flow::default();
    run(&mut flow, &alice(), [key("K")]);
    let changed = Profile {
        epoch: 1,
        ..alice()
    };
    let end = run(&mut flow, &changed, [Evidence::Password(Verdict::Right)]);
    assert!(is_partial(&end));
}

#[test]
fn an_unknown_user_is_asked_and_answered_as_one_with_wrong_factors() {
    let sequence = || {
        [
            Evidence::None,
            foreign_key(),
            Evidence::Password(Verdict::Wrong),
            Evidence::Begin,
            answer(Verdict::Wrong),
            code(Verdict::Wrong),
            Evidence::Begin,
            answer(Verdict::Empty),
            code(Verdict::Empty),
        ]
    };
    for known in [
        alice(),
        Profile {
            has_code: false,
            has_key: false,
            ..alice()
        },
        profile(1, ALICE, pair_until(10)),
    ] {
        let (mut with, mut without) = (Flow::default(), Flow::default());
        for evidence in sequence() {
            let with = with.step(ALICE, Some(&known), evidence.clone(), noon(1));
            let without = without.step(ALICE, None, evidence, noon(1));
            assert_eq!(format!("{with:?}"), format!("{without:?}"));
        }
    }
}

#[test]
fn none_never_succeeds_whatever_was_shown() {
    let mut flow = Flow::default();
    assert!(is_rejected(&run(&mut flow, &alice(), [Evidence::None])));
    assert!(is_rejected(&run(
        &mut flow,
        &alice(),
        [key("K"), Evidence::None]
    )));
}
