//! What decides at the login: the factors that are there, and the account's restrictions.

use portcullis_journal::AccountKind;

use super::{Answer, Facts, Finding, Question, Stage};
use crate::{
    accounts::{
        Account, AccountsError, FactorState,
        admission::{Refusal, admission},
        break_glass::Seal,
        machine::{Control, Machine},
    },
    auth::flow::FactorPolicy,
};

/// Of an account that there is not, one finding.
pub(super) fn findings(
    facts: &Facts<'_>,
    account: Option<&Account>,
    question: &Question,
) -> Result<Vec<Finding>, AccountsError> {
    let user = &question.user;
    let Some(account) = account else {
        return Ok(vec![Finding {
            stage: Stage::Account,
            answer: Answer::Denied,
            rule: format!("there is no account {user}"),
            set_by: format!("account add {user}"),
        }]);
    };
    Ok(vec![
        factors(facts, account, question)?,
        restrictions(facts, account, question)?,
    ])
}

fn factors(
    facts: &Facts<'_>,
    account: &Account,
    question: &Question,
) -> Result<Finding, AccountsError> {
    let user = &account.name;
    let keys = account.keys.len();
    let enrolled = format!(
        "password {}, one-time codes {}, {keys} key(s)",
        state(account.password),
        state(account.totp)
    );
    let usable = |factor| matches!(factor, FactorState::Usable { .. });
    let (policy, needed, is_met) = match &account.policy {
        FactorPolicy::TwoClass => (
            "two-class".to_owned(),
            "a password, and codes or a key",
            usable(account.password) && (usable(account.totp) || keys > 0),
        ),
        FactorPolicy::PossessionPair(exception) => (
            format!("possession-pair until {}", exception.expires),
            "a key and codes",
            usable(account.totp) && keys > 0 && question.now.date_naive() <= exception.expires,
        ),
    };
    let is_name_penalised = facts
        .throttle
        .name_is_penalised(question.source, user, question.now);
    let machine = facts.accounts.machine(account.uid, question.now)?;
    let machine = machine.filter(|machine| machine.policy.is_some());
    let enrol = format!("account set-password, enroll-totp, add-key {user}");
    let (answer, rule, set_by) = match (is_name_penalised, machine, is_met) {
        (true, _, _) => (
            Answer::Denied,
            "name_penalty: this name pays for earlier failures from this source".to_owned(),
            enrol,
        ),
        (false, Some(machine), _) => by_key_alone(&machine, keys, question),
        (false, None, true) => (
            Answer::Allowed,
            format!("policy {policy} needs {needed}; there are: {enrolled}"),
            enrol,
        ),
        (false, None, false) => (
            Answer::Denied,
            format!("policy {policy} needs {needed}; there are only: {enrolled}"),
            enrol,
        ),
    };
    Ok(Finding {
        stage: Stage::Factors,
        answer,
        rule,
        set_by,
    })
}

/// Under the policy `machine`: answer, rule, and who set it.
fn by_key_alone(machine: &Machine, keys: usize, question: &Question) -> (Answer, String, String) {
    let user = &machine.name;
    let policy = format!("account policy {user} machine");
    match (machine.missing(question.now).first(), keys) {
        (Some(control), _) => (
            Answer::Denied,
            format!(
                "policy machine, {}: control {} is not in place; {}",
                control.code(),
                control.name(),
                control.remedy()
            ),
            policy,
        ),
        (None, 0) => (
            Answer::Denied,
            "policy machine needs a key; there is none".to_owned(),
            format!("account add-key {user}"),
        ),
        (None, _) => (
            Answer::Allowed,
            format!(
                "policy machine needs a key; there are {keys}, and all {} controls are in place",
                Control::ALL.len()
            ),
            policy,
        ),
    }
}

fn state(factor: FactorState) -> String {
    match factor {
        FactorState::Absent => "absent".to_owned(),
        FactorState::Usable { failures: 0 } => "usable".to_owned(),
        FactorState::Usable { failures } => format!("usable after {failures} failures in a row"),
        FactorState::Locked => "locked".to_owned(),
        FactorState::Lost => "marked lost, since a recovery code was used".to_owned(),
    }
}

fn seal(facts: &Facts<'_>, account: &Account, question: &Question) -> Result<Seal, AccountsError> {
    let listed = facts.accounts.break_glass(question.now)?;
    let found = listed.iter().find(|(name, ..)| *name == account.name);
    Ok(found.map_or(Seal::Sealed, |(_, seal, _)| *seal))
}

fn restrictions(
    facts: &Facts<'_>,
    account: &Account,
    question: &Question,
) -> Result<Finding, AccountsError> {
    let user = &account.name;
    let standing = facts.accounts.standing(account.uid)?;
    let defaults = &facts.config.accounts.defaults;
    let decided = standing
        .as_ref()
        .map(|standing| admission(standing, defaults, question.source, question.now));
    let (answer, rule, set_by) = match decided {
        None => (
            Answer::Denied,
            "the account is disabled".to_owned(),
            format!("account disable {user}"),
        ),
        Some(Ok(())) => {
            let rule = "enabled; source, hours, last day and idle days admit it";
            match standing.and_then(|standing| standing.open) {
                Some((_, until)) if account.kind == AccountKind::BreakGlass => (
                    Answer::Allowed,
                    format!("open until {}; {rule}", until.to_rfc3339()),
                    format!("break-glass open {user}"),
                ),
                Some(_) | None => (
                    Answer::Allowed,
                    rule.to_owned(),
                    format!("account set {user}"),
                ),
            }
        }
        Some(Err(Refusal::Sealed)) => {
            let seal = seal(facts, account, question)?;
            let (meaning, set_by) = match seal {
                Seal::Sealed => ("two custodians open it", "open"),
                Seal::Opening | Seal::Open => ("the opening is not in the journal yet", "open"),
                Seal::Unreviewed => ("its last opening waits for a review", "review"),
            };
            (
                Answer::Denied,
                format!("{}: {}, {meaning}", Refusal::Sealed.code(), seal.name()),
                format!("break-glass {set_by} {user}"),
            )
        }
        Some(Err(refusal)) => (
            Answer::Denied,
            refusal.code().to_owned(),
            match refusal {
                Refusal::Sealed => format!("break-glass open {user}"),
                Refusal::Machine(_) => format!("account policy {user} machine"),
                Refusal::Source => format!("account set {user} --source"),
                Refusal::Expired => format!("account set {user} --expires"),
                Refusal::Hours => format!("account set {user} --hours"),
                Refusal::Idle => format!(
                    "account set {user} --idle-days, or {}",
                    facts.lines.of("accounts.idle_days")
                ),
            },
        ),
    };
    Ok(Finding {
        stage: Stage::Account,
        answer,
        rule,
        set_by,
    })
}
