//! What decides at the login: the factors that are there, and the account's restrictions.

use portcullis_journal::AccountKind;

use super::{Answer, Facts, Finding, Question, Stage};
use crate::{
    accounts::{
        Account, AccountsError, FactorState,
        admission::{Refusal, admission},
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
        factors(facts, account, question),
        restrictions(facts, account, question)?,
    ])
}

fn factors(facts: &Facts<'_>, account: &Account, question: &Question) -> Finding {
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
    let (answer, rule) = match (is_name_penalised, account.kind, is_met) {
        (true, _, _) => (
            Answer::Denied,
            "name_penalty: this name pays for earlier failures from this source".to_owned(),
        ),
        (false, AccountKind::Human | AccountKind::Admin, true) => (
            Answer::Allowed,
            format!("policy {policy} needs {needed}; there are: {enrolled}"),
        ),
        (false, AccountKind::Human | AccountKind::Admin, false) => (
            Answer::Denied,
            format!("policy {policy} needs {needed}; there are only: {enrolled}"),
        ),
        (false, AccountKind::Machine | AccountKind::BreakGlass, _) => (
            Answer::Unknown,
            format!(
                "what this type of account needs is decided at the login; there are: {enrolled}"
            ),
        ),
    };
    Finding {
        stage: Stage::Factors,
        answer,
        rule,
        set_by: format!("account set-password, enroll-totp, add-key {user}"),
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
        Some(Ok(())) => (
            Answer::Allowed,
            "enabled; source, hours, last day and idle days admit it".to_owned(),
            format!("account set {user}"),
        ),
        Some(Err(refusal)) => (
            Answer::Denied,
            refusal.code().to_owned(),
            match refusal {
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
