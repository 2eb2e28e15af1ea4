use super::*;
use crate::auth::{
    recovery::RecoveryCode,
    totp::{Authenticator, Digits, STEP_SECONDS},
};

fn alice() -> Shell {
    let shell = Shell::new();
    shell.run(&["add", "alice"]).unwrap();
    shell
}

fn set_password(shell: &Shell, password: &str) -> anyhow::Result<String> {
    let line = ["set-password", "alice", "--password-stdin"];
    shell.run_with(&line, password.as_bytes())
}

#[test]
fn the_last_four_passwords_can_not_be_set_again_and_the_fifth_can() {
    let shell = alice();
    for number in 1..=5 {
        set_password(&shell, &format!("password no. {number}")).unwrap();
    }
    for number in 2..=5 {
        let refused = set_password(&shell, &format!("password no. {number}"));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("last 4"), "{message}");
    }
    set_password(&shell, "password no. 1").unwrap();
    let nobody = shell.run_with(&["set-password", "bob", "--password-stdin"], b"x");
    assert!(nobody.unwrap_err().to_string().contains("no account bob"));
}

#[test]
fn an_authenticator_has_the_algorithm_and_length_that_were_asked_for() {
    let shell = alice();
    let enroll = |arguments: &[&str]| {
        let line = [&["enroll-totp", "alice", "--json"], arguments].concat();
        shell.run(&line)
    };
    let plain = enroll(&[]).unwrap();
    assert!(plain.contains("algorithm=SHA1&digits=6"), "{plain}");
    let strong = enroll(&["--algorithm", "sha512", "--digits", "8"]).unwrap();
    assert!(strong.contains("algorithm=SHA512&digits=8"), "{strong}");
    for wrong in [
        ["--algorithm", "md5"],
        ["--algorithm", "SHA1"],
        ["--digits", "7"],
        ["--digits", "5"],
    ] {
        assert!(enroll(&wrong).is_err(), "{wrong:?}");
    }
    let hint = shell
        .run(&["enroll-totp", "alice", "--digits", "8"])
        .unwrap();
    assert!(hint.contains("resync-totp alice"), "{hint}");
}

#[test]
fn two_codes_in_a_row_set_the_clock_right_and_are_spent() {
    let shell = alice();
    let authenticator = Authenticator::generate(Algorithm::Sha256, Digits::Eight).unwrap();
    let name = "alice".parse().unwrap();
    let administration = shell.accounts.administer("test");
    administration.enroll_totp(&name, &authenticator).unwrap();
    let resync = |seconds: i64| {
        let now = Utc::now().timestamp();
        let shown = |at: i64| authenticator.code_at(at as u64);
        let codes = format!("{}\n{}\n", shown(now + seconds - 30), shown(now + seconds));
        shell.run_with(&["resync-totp", "alice", "--codes-stdin"], codes.as_bytes())
    };
    let behind = resync(-5 * STEP_SECONDS as i64).unwrap();
    assert!(behind.contains("s behind the gateway's"), "{behind}");
    let ahead = resync(5 * STEP_SECONDS as i64).unwrap();
    assert!(ahead.contains("s ahead of the gateway's"), "{ahead}");
    let again = resync(5 * STEP_SECONDS as i64).unwrap_err().to_string();
    assert!(again.contains("two codes in a row"), "{again}");
    for wrong in ["", "123456\n", "12345678\nabcdefgh\n"] {
        let line = ["resync-totp", "alice", "--codes-stdin"];
        assert!(
            shell.run_with(&line, wrong.as_bytes()).is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn recovery_codes_need_an_authenticator_and_are_shown_once() {
    let shell = alice();
    let issue = || shell.run(&["issue-recovery-codes", "alice", "--json"]);
    let refused = issue().unwrap_err().to_string();
    assert!(refused.contains("enroll-totp alice"), "{refused}");
    shell.run(&["enroll-totp", "alice", "--json"]).unwrap();
    set_password(&shell, "correct horse battery").unwrap();
    let codes: Vec<String> = serde_json::from_str(&issue().unwrap()).unwrap();
    assert_eq!(codes.len(), 10);
    for (number, code) in codes.iter().enumerate() {
        let parsed = RecoveryCode::parse(code.as_bytes()).unwrap();
        assert_eq!(usize::from(parsed.number()), number);
    }
    let account = shell.only_account();
    assert_eq!(account["recovery_codes"], 10);
    assert_eq!(
        account["login_with"],
        json!(["password+code", "password+recovery-code"])
    );
    let shown = shell.run(&["issue-recovery-codes", "alice"]).unwrap();
    assert!(codes.iter().all(|code| !shown.contains(code)), "a new set");
    let after = shell.run(&["after-restore"]).unwrap();
    assert!(after.contains("recovery codes again to: alice"), "{after}");
    assert_eq!(shell.only_account()["recovery_codes"], 0);
}
