//! A key alone, for some time after it came with a second class.

use super::*;

fn with_window(minutes: u64) -> Profile {
    Profile {
        login: LoginOptions {
            window: Some(Duration::from_secs(60 * minutes)),
            ..LoginOptions::default()
        },
        ..alice()
    }
}

fn accepted(decision: Decision) -> Authenticated {
    let Decision::Accepted(user) = decision else {
        panic!("not accepted: {decision:?}")
    };
    user
}

/// Key and password, at noon of the first day.
fn login(account: &Profile) -> Authenticated {
    let mut flow = Flow::default();
    let both = [key("K"), Evidence::Password(Verdict::Right)];
    accepted(run(&mut flow, account, both))
}

fn try_window(account: &Profile, fingerprint: &str, window: &Window, minutes: i64) -> Decision {
    let shown = ShownKey::for_test(fingerprint, Factor::PublicKey);
    let window = window.clone();
    let now = noon(1) + chrono::Duration::minutes(minutes);
    let evidence = Evidence::KeyInWindow { shown, window };
    Flow::default().step(&account.name, Some(account), evidence, now)
}

#[test]
fn the_same_key_is_enough_until_the_window_closes_and_is_named_as_what_it_is() {
    let account = with_window(15);
    let first = login(&account);
    assert_eq!(first.policy(), "two-class");
    assert!(first.window().is_none());
    let window = first.opens().expect("opens a window").clone();
    assert_eq!(window.remembered(), [Factor::Password]);

    let second = accepted(try_window(&account, "K", &window, 14));
    assert_eq!(second.policy(), "mfa-window");
    assert_eq!(second.factors(), [Factor::PublicKey]);
    assert!(!second.is_mfa());
    assert_eq!(second.window(), Some(&window));
    assert!(second.opens().is_none(), "a window is not prolonged");

    assert!(is_partial(&try_window(&account, "K", &window, 15)));
    assert!(
        is_partial(&try_window(&account, "K", &window, -1)),
        "a clock set back"
    );
}

#[test]
fn another_key_account_epoch_era_or_setting_closes_it() {
    let account = with_window(15);
    let window = login(&account).opens().unwrap().clone();
    assert!(is_partial(&try_window(&account, "L", &window, 1)));
    let mut other = account.clone();
    other.uid = UserId(2);
    let mut epoch = account.clone();
    epoch.epoch += 1;
    let mut era = account.clone();
    era.login.window_era += 1;
    let mut off = account.clone();
    off.login.window = None;
    for changed in [other, epoch, era, off] {
        assert!(
            is_partial(&try_window(&changed, "K", &window, 1)),
            "{changed:?}"
        );
    }
    accepted(try_window(&account, "K", &window, 1));
}

#[test]
fn only_a_key_with_a_second_class_opens_one_and_only_where_it_is_on() {
    assert!(login(&alice()).opens().is_none());
    for length in [14, 481] {
        assert!(login(&with_window(length)).opens().is_none(), "{length}");
    }
    assert!(login(&with_window(480)).opens().is_some());

    let account = with_window(15);
    let codes = [
        Evidence::Begin,
        answer(Verdict::Right),
        code(Verdict::Right),
    ];
    let without_key = accepted(run(&mut Flow::default(), &account, codes));
    assert!(without_key.opens().is_none());

    let pair = Profile {
        policy: pair_until(10),
        ..with_window(15)
    };
    let possessions = [key("K"), Evidence::Begin, code(Verdict::Right)];
    let one_class = accepted(run(&mut Flow::default(), &pair, possessions));
    assert_eq!(one_class.policy(), "possession-pair");
    assert!(one_class.opens().is_none());
}
