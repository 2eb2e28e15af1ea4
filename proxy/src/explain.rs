//! Which rule decides about a user at a source, stage by stage, and who set it.
//!
//! Asks what the running gateway asks, and changes nothing. What it can't know it calls unknown.

mod account;
mod edge;
pub mod lines;
mod path;

use std::{fmt, net::IpAddr};

use chrono::{DateTime, Utc};
use serde::Serialize;

use self::lines::Lines;
use crate::{
    accounts::{AccountName, Accounts, AccountsError},
    allowlist::Allowlist,
    auth::throttle::Throttle,
    config::Config,
};

pub use path::{Deed, DeedError, Verb};

/// Who is asked about.
#[derive(Debug, Clone)]
pub struct Question {
    pub user: AccountName,
    pub source: IpAddr,
    pub deed: Option<Deed>,
    pub now: DateTime<Utc>,
}

/// What the answers are made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub config: &'a Config,
    pub lines: &'a Lines<'a>,
    pub accounts: &'a Accounts,
    pub throttle: &'a Throttle,
    pub nic: Nic,
}

/// What the agent says of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nic {
    /// No agent is configured.
    NoAgent,
    /// It was asked in vain.
    Silent { problem: String },
    Judged {
        passes: bool,
        reason: String,
        by: String,
    },
}

/// What a stage makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Allowed,
    Denied,
    Unknown,
}

impl Answer {
    /// As the command's exit code says it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Allowed => 0,
            Self::Denied => 1,
            Self::Unknown => 2,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
        }
    }
}

/// What one stage decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub stage: Stage,
    pub answer: Answer,
    /// The rule that decides.
    pub rule: String,
    /// The line of the configuration, or the command, that set it.
    pub set_by: String,
}

/// Where in its way through the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Nic,
    Listener,
    Cipher,
    Factors,
    Account,
    Path,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Listener => "listener",
            Self::Cipher => "cipher",
            Self::Factors => "factors",
            Self::Account => "account",
            Self::Path => "path",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<9} {:<8} {}\n{:19}set by {}",
            self.stage.word(),
            self.answer.word(),
            self.rule,
            "",
            self.set_by
        )
    }
}

/// The answers of all stages, in the order in which a connection meets them.
///
/// # Errors
/// If the accounts can't be read.
pub fn explain(facts: &Facts<'_>, question: &Question) -> Result<Vec<Finding>, AccountsError> {
    let sources = facts.accounts.sources(question.now.date_naive())?;
    let allowlist = Allowlist::new(&sources);
    let mut findings = vec![
        edge::nic(facts),
        edge::listener(facts, &allowlist, question),
        edge::cipher(facts),
    ];
    let listed = facts.accounts.list()?;
    let account = listed
        .iter()
        .find(|account| account.name == question.user.as_str());
    findings.extend(account::findings(facts, account, question)?);
    if let (Some(deed), Some(account)) = (&question.deed, account) {
        findings.push(path::finding(facts.accounts, account, deed, question)?);
    }
    Ok(findings)
}

/// One denial decides; without one, what is not known stays open.
pub fn overall(findings: &[Finding]) -> Answer {
    let any = |answer| findings.iter().any(|finding| finding.answer == answer);
    if any(Answer::Denied) {
        Answer::Denied
    } else if any(Answer::Unknown) {
        Answer::Unknown
    } else {
        Answer::Allowed
    }
}
