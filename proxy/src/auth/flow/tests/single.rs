//! One answer to all that was shown: no partial success.

use super::*;

fn single() -> Flow {
    Flow::new(FlowRules {
        verdict: VerdictMode::Single,
        ..FlowRules::default()
    })
}

fn exchange(password: Verdict, last: Verdict) -> [Evidence; 3] {
    [Evidence::Begin, answer(password), code(last)]
}

fn no_code() -> Profile {
    Profile {
        has_code: false,
        ..alice()
    }
}

#[test]
fn a_right_key_and_a_foreign_one_are_answered_alike_and_the_right_one_is_remembered() {
    let (mut right, mut wrong) = (single(), single());
    let first = run(&mut right, &no_code(), [key("K")]);
    let second = run(&mut wrong, &no_code(), [foreign_key()]);
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    assert!(is_rejected(&first));

    let password = exchange(Verdict::Right, Verdict::Empty);
    let end = run(&mut right, &no_code(), password.clone());
    assert_eq!(factors(end), [Factor::PublicKey, Factor::Password]);
    assert!(is_rejected(&run(&mut wrong, &no_code(), password)));
}

#[test]
fn whatever_was_shown_both_questions_are_asked() {
    for before in [
        vec![],
        vec![key("K")],
        vec![Evidence::Password(Verdict::Right)],
    ] {
        let mut flow = single();
        run(&mut flow, &alice(), [vec![Evidence::None], before].concat());
        let asked = run(&mut flow, &alice(), [Evidence::Begin]);
        assert!(matches!(asked, Decision::Ask(Question::Password)));
        for password in [Verdict::Right, Verdict::Wrong] {
            run(&mut flow, &alice(), [Evidence::Begin]);
            let asked = run(&mut flow, &alice(), [answer(password)]);
            assert!(matches!(asked, Decision::Ask(Question::Code)));
        }
    }
}

#[test]
fn all_that_is_answered_has_to_be_right_also_beside_a_key() {
    for (password, last, is_in) in [
        (Verdict::Right, Verdict::Right, true),
        (Verdict::Right, Verdict::Empty, true),
        (Verdict::Right, Verdict::Wrong, false),
        (Verdict::Wrong, Verdict::Right, false),
        (Verdict::Empty, Verdict::Right, false),
        (Verdict::Empty, Verdict::Empty, false),
    ] {
        let mut flow = single();
        run(&mut flow, &alice(), [key("K")]);
        let end = run(&mut flow, &alice(), exchange(password, last));
        let accepted = matches!(end, Decision::Accepted(_));
        assert_eq!(accepted, is_in, "{password:?} {last:?}");
        assert!(accepted || is_rejected(&end));
    }
}

#[test]
fn a_password_is_not_kept_for_a_key_that_comes_later() {
    let mut flow = single();
    let first = [Evidence::Password(Verdict::Right), key("K")];
    assert!(is_rejected(&run(&mut flow, &alice(), first)));
    let end = run(&mut flow, &alice(), [Evidence::Password(Verdict::Right)]);
    assert_eq!(factors(end), [Factor::PublicKey, Factor::Password]);
}

#[test]
fn a_possession_pair_answers_the_code_alone_beside_its_key() {
    let pair = profile(1, ALICE, pair_until(10));
    let mut flow = single();
    run(&mut flow, &pair, [key("K"), Evidence::Begin]);
    run(&mut flow, &pair, [answer(Verdict::Empty)]);
    assert_eq!(flow.pending(ALICE), Some(Check::Code));
    let Decision::Accepted(user) = run(&mut flow, &pair, [code(Verdict::Right)]) else {
        panic!("a key and a code")
    };
    assert_eq!(user.policy(), "possession-pair");

    let late = |day| {
        let mut flow = single();
        for evidence in [
            vec![key("K")],
            exchange(Verdict::Empty, Verdict::Right).to_vec(),
        ]
        .concat()
        {
            if let Decision::Accepted(_) = flow.step(ALICE, Some(&pair), evidence, noon(day)) {
                return true;
            }
        }
        false
    };
    assert!(late(10) && !late(11));
}

#[test]
fn the_list_of_methods_never_changes() {
    let mut flow = single();
    let listed = flow.methods();
    for evidence in [key("K"), Evidence::Password(Verdict::Wrong), Evidence::None] {
        let Decision::Rejected { methods } = run(&mut flow, &alice(), [evidence]) else {
            panic!("a single verdict")
        };
        assert_eq!(methods, listed);
    }
}
