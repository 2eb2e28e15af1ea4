use std::sync::LazyLock;

use clap::{CommandFactory as _, Parser};
use portcullis_journal::AccountKind;
use tempfile::TempDir;

use super::*;
use crate::{
    accounts::break_glass::OPEN_MAX,
    auth::totp::{Authenticator, STEP_SECONDS},
};

const PASSWORD: &str = "correct horse battery";

static PHC: LazyLock<String> = LazyLock::new(|| {
    let hasher = Hasher::new().unwrap();
    hasher.hash(&Secret::from(PASSWORD)).unwrap()
});

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    break_glass: BreakGlassCommand,
}

/// Two admins, a person, and a sealed account; what is asked is answered in turn.
struct Shell {
    _directory: TempDir,
    accounts: Accounts,
    device: Authenticator,
    max_age: Option<TimeDelta>,
}

impl Shell {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
        let (admin, device) = (accounts.administer("test"), Authenticator::decoy());
        for (name, kind) in [
            ("ann", AccountKind::Admin),
            ("ben", AccountKind::Admin),
            ("carl", AccountKind::Human),
        ] {
            let name: AccountName = name.parse().unwrap();
            admin.add(&name, kind, None).unwrap();
            admin.set_password(&name, &PHC).unwrap();
            admin.enroll_totp(&name, &device).unwrap();
        }
        let rescue: AccountName = "rescue".parse().unwrap();
        admin.add(&rescue, AccountKind::BreakGlass, None).unwrap();
        let shell = Self {
            _directory: directory,
            accounts,
            device,
            max_age: None,
        };
        shell.record();
        shell
    }

    fn code(&self) -> String {
        let now = u64::try_from(Utc::now().timestamp()).unwrap();
        // The step ahead is good for a minute: the test has time.
        self.device.code_at(now + STEP_SECONDS)
    }

    /// What the daemon does once the notes are in the journal; returns their actions.
    fn record(&self) -> Vec<String> {
        let changes = self.accounts.pending_changes().unwrap();
        if let Some(last) = changes.last() {
            self.accounts.forget_changes(last.id).unwrap();
        }
        changes
            .iter()
            .map(|change| change.event.body["action"].as_str().unwrap().to_owned())
            .collect()
    }

    fn run(
        &self,
        arguments: &[&str],
        answers: &[&str],
        patience: Duration,
    ) -> anyhow::Result<String> {
        let line = CommandLine::try_parse_from([&["break-glass"], arguments].concat())?;
        let mut answers = answers.iter();
        let mut ask = |prompt: &str| {
            let answer = answers
                .next()
                .with_context(|| format!("asked for {prompt}"))?;
            Ok(Secret::from(*answer))
        };
        let mut output = Vec::new();
        line.break_glass.action.run(
            &self.accounts,
            (OPEN_MAX, self.max_age),
            &mut ask,
            patience,
            &mut output,
        )?;
        Ok(String::from_utf8(output)?)
    }

    /// Opens while a daemon records, if `daemon`.
    fn open(
        &self,
        custodians: [&str; 2],
        answers: &[&str],
        daemon: bool,
    ) -> anyhow::Result<String> {
        let [one, other] = custodians;
        let arguments = [
            "open",
            "rescue",
            "--reason",
            "fire",
            "--until",
            "2h",
            "--custodian",
            one,
            "--custodian",
            other,
        ];
        let patience = if daemon {
            RECORD_DEADLINE * 4
        } else {
            Duration::ZERO
        };
        thread::scope(|scope| {
            let opening = scope.spawn(|| self.run(&arguments, answers, patience));
            while daemon && !opening.is_finished() {
                self.record();
                thread::yield_now();
            }
            opening.join().unwrap()
        })
    }

    fn state(&self) -> String {
        let listed = self
            .run(&["status", "--json"], &[], Duration::ZERO)
            .unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed[0]["state"].as_str().unwrap().to_owned()
    }
}

#[test]
fn the_commands_are_well_formed() {
    CommandLine::command().debug_assert();
}

#[test]
fn an_end_is_a_time_or_a_span() {
    assert_eq!(end("4h"), Ok(End::In(TimeDelta::hours(4))));
    assert_eq!(end("90m"), Ok(End::In(TimeDelta::minutes(90))));
    let time = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    assert_eq!(end("2023-11-14T22:13:20Z"), Ok(End::At(time)));
    assert_eq!(end("2023-11-15T00:13:20+02:00"), Ok(End::At(time)));
    for wrong in [
        "",
        "h",
        "4",
        "-4h",
        "2023-11-14",
        "2023-11-14T22:13:20",
        "tomorrow",
    ] {
        assert!(end(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn two_admins_with_both_factors_open_the_account_once_it_is_on_record() {
    let shell = Shell::new();
    assert_eq!(shell.state(), "sealed");
    let code = shell.code();
    let answers = [PASSWORD, &code, PASSWORD, &code];
    let said = shell.open(["ann", "ben"], &answers, true).unwrap();
    assert!(said.contains("rescue is open until"), "{said}");
    assert_eq!(shell.state(), "open");
    shell
        .run(&["close", "rescue"], &[], Duration::ZERO)
        .unwrap();
    assert_eq!(shell.state(), "unreviewed");
    let review = ["review", "rescue", "--reviewer", "dora", "--note", "fine"];
    shell.run(&review, &[], Duration::ZERO).unwrap();
    assert_eq!(shell.state(), "sealed");
    let shown = shell.run(&["status"], &[], Duration::ZERO).unwrap();
    assert!(shown.contains("by ann and ben: fire"), "{shown}");
    assert!(shown.contains("reviewed by dora: fine"), "{shown}");
}

#[test]
fn without_a_journal_the_account_stays_sealed_and_the_attempt_will_be_on_record() {
    let shell = Shell::new();
    let code = shell.code();
    let answers = [PASSWORD, &code, PASSWORD, &code];
    let error = shell.open(["ann", "ben"], &answers, false).unwrap_err();
    assert!(error.to_string().contains("stays sealed"), "{error}");
    assert_eq!(shell.state(), "sealed");
    assert_eq!(shell.record(), ["break-glass-open", "break-glass-withdraw"]);
    assert_eq!(shell.state(), "sealed");
}

#[test]
fn a_custodian_lacks_no_factor_is_an_admin_and_there_are_two_of_them() {
    let shell = Shell::new();
    let code = shell.code();
    let right = [PASSWORD, &code, PASSWORD, &code];
    let wrong_password = [PASSWORD, &code, "incorrect horse battery", &code];
    let wrong_code = [PASSWORD, "000000"];
    for (custodians, answers, recorded) in [
        (["ann", "ann"], right, None),
        (["ann", "rescue"], right, None),
        (["carl", "ann"], right, Some("break-glass-refuse")),
        (["ann", "ben"], wrong_password, Some("break-glass-refuse")),
        // The code that ann just showed is spent.
        (["ann", "ben"], right, Some("break-glass-refuse")),
    ] {
        let refused = shell.open(custodians, &answers, false);
        assert!(refused.is_err(), "{custodians:?}");
        assert_eq!(
            shell.record().first().map(String::as_str),
            recorded,
            "{custodians:?}"
        );
        assert_eq!(shell.state(), "sealed");
    }
    let fresh = Shell::new();
    assert!(fresh.open(["ann", "ben"], &wrong_code, false).is_err());
    let failures = |shell: &Shell, name: &str| {
        let listed = shell.accounts.list().unwrap();
        listed
            .into_iter()
            .find(|account| account.name == name)
            .unwrap()
            .totp
    };
    assert_eq!(
        failures(&fresh, "ann"),
        crate::accounts::FactorState::Usable { failures: 1 },
        "counted as at a login"
    );
}

#[test]
fn a_custodian_whose_password_is_too_old_opens_nothing() {
    let mut shell = Shell::new();
    let code = shell.code();
    let answers = [PASSWORD, &code, PASSWORD, &code];
    shell.max_age = Some(TimeDelta::zero());
    let error = shell.open(["ann", "ben"], &answers, false).unwrap_err();
    assert!(error.to_string().contains("too old"), "{error}");
    assert_eq!(shell.record(), ["break-glass-refuse"]);
    shell.max_age = Some(TimeDelta::days(1));
    shell.open(["ann", "ben"], &answers, true).unwrap();
    assert_eq!(shell.state(), "open");
}
