//! Both prompts in one round, and the code behind the password.

use super::*;

fn one_round() -> Profile {
    Profile {
        login: LoginOptions {
            prompts: Some(Prompts::OneRound),
            ..LoginOptions::default()
        },
        ..alice()
    }
}

fn appending() -> Profile {
    Profile {
        login: LoginOptions {
            appended_code: true,
            ..LoginOptions::default()
        },
        ..alice()
    }
}

#[test]
fn both_prompts_of_one_round_get_one_verdict() {
    for password in [Verdict::Right, Verdict::Wrong, Verdict::Empty] {
        for code in [Verdict::Right, Verdict::Wrong] {
            let mut flow = Flow::default();
            let asked = run(&mut flow, &one_round(), [Evidence::Begin]);
            assert!(matches!(asked, Decision::Ask(Question::Both)));
            let second = false;
            assert_eq!(flow.pending(ALICE), Some(Check::Both { second }));
            let answers = Evidence::AnswerBoth(both(password, code));
            let end = run(&mut flow, &one_round(), [answers]);
            if (password, code) == (Verdict::Right, Verdict::Right) {
                assert_eq!(factors(end), [Factor::Password, Factor::Totp]);
            } else {
                assert!(is_rejected(&end), "{password:?} {code:?}");
                assert!(is_partial(&run(&mut flow, &one_round(), [key("K")])));
            }
        }
    }
}

#[test]
fn an_empty_code_of_one_round_leaves_the_password_to_a_key() {
    let mut flow = Flow::default();
    let answers = Evidence::AnswerBoth(both(Verdict::Right, Verdict::Empty));
    let partial = run(&mut flow, &one_round(), [Evidence::Begin, answers]);
    assert!(is_partial(&partial));
    let end = run(&mut flow, &one_round(), [key("K")]);
    assert_eq!(factors(end), [Factor::Password, Factor::PublicKey]);
}

#[test]
fn after_a_key_one_round_asks_for_the_password_alone() {
    let mut flow = Flow::default();
    let asked = run(&mut flow, &one_round(), [key("K"), Evidence::Begin]);
    assert!(matches!(asked, Decision::Ask(Question::Password)));
}

#[test]
fn two_answers_count_for_no_question_but_that_for_both() {
    let answers = || Evidence::AnswerBoth(both(Verdict::Right, Verdict::Right));
    let nothing_asked = run(&mut Flow::default(), &one_round(), [answers()]);
    assert!(is_rejected(&nothing_asked));
    let mut flow = Flow::default();
    run(
        &mut flow,
        &alice(),
        [Evidence::Begin, answer(Verdict::Right)],
    );
    assert!(is_rejected(&run(&mut flow, &alice(), [answers()])));
}

#[test]
fn the_rules_say_how_names_without_an_account_and_accounts_without_a_setting_are_asked() {
    let rules = FlowRules {
        prompts: Prompts::OneRound,
        ..FlowRules::default()
    };
    for account in [None, Some(alice())] {
        let mut flow = Flow::new(rules);
        let asked = flow.step(ALICE, account.as_ref(), Evidence::Begin, noon(1));
        assert!(matches!(asked, Decision::Ask(Question::Both)));
        let answers = Evidence::AnswerBoth(both(Verdict::Wrong, Verdict::Wrong));
        let end = flow.step(ALICE, account.as_ref(), answers, noon(1));
        assert!(is_rejected(&end));
    }
}

#[test]
fn a_code_behind_the_password_is_enough_where_the_account_has_it_on_and_nowhere_else() {
    let right = both(Verdict::Right, Verdict::Right);
    let by_method = [Evidence::PasswordWithCode(right)];
    let end = run(&mut Flow::default(), &appending(), by_method.clone());
    assert_eq!(factors(end), [Factor::Password, Factor::Totp]);
    let by_prompt = [Evidence::Begin, Evidence::AnswerBoth(right)];
    let end = run(&mut Flow::default(), &appending(), by_prompt.clone());
    assert_eq!(factors(end), [Factor::Password, Factor::Totp]);

    assert!(is_rejected(&run(&mut Flow::default(), &alice(), by_method)));
    let asked = run(&mut Flow::default(), &alice(), by_prompt);
    assert!(matches!(asked, Decision::Ask(Question::Code)));
}

#[test]
fn a_wrong_half_behind_or_before_is_told_as_a_wrong_password() {
    for wrong in [
        both(Verdict::Wrong, Verdict::Wrong),
        both(Verdict::Right, Verdict::Wrong),
    ] {
        let mut flow = Flow::default();
        let end = run(&mut flow, &appending(), [Evidence::PasswordWithCode(wrong)]);
        assert!(is_rejected(&end));
        let next = run(&mut flow, &appending(), [key("K")]);
        assert!(is_partial(&next), "no half is kept");

        let mut flow = Flow::default();
        let exchange = [Evidence::Begin, Evidence::AnswerBoth(wrong)];
        let asked = run(&mut flow, &appending(), exchange);
        assert!(matches!(asked, Decision::Ask(Question::Code)));
        assert_eq!(flow.pending(ALICE), Some(Check::Decoy));
    }
}
