//! `[auth]`: what clients are told while they log in, and whom the gateway believes.

use chrono::NaiveDate;

use super::{
    passwords,
    section::Section,
    trust::{self, RevokedKeysFile},
};
use crate::auth::{
    certificate::Authority,
    flow::{FlowRules, Prompts, VerdictMode},
    password::PasswordPolicy,
};

const VERDICTS: &str = "\"stepwise\" or \"single\"";
const PROMPTS: &str = "\"two-rounds\" or \"one-round\"";

/// `[auth]`
#[derive(Debug, Default, PartialEq)]
pub struct AuthConfig {
    pub flow: FlowRules,
    pub password: PasswordPolicy,
    pub certificate_authorities: Vec<Authority>,
    pub revoked_keys: Option<RevokedKeysFile>,
}

pub(super) fn auth(mut section: Section<'_>, today: NaiveDate) -> AuthConfig {
    let verdict = match section.text("verdict", VERDICTS) {
        None | Some("stepwise") => VerdictMode::Stepwise,
        Some("single") => VerdictMode::Single,
        Some(other) => {
            section.fault("verdict", format!("expected {VERDICTS}, found {other:?}"));
            VerdictMode::Single
        }
    };
    let prompts = match section.text("prompts", PROMPTS) {
        None | Some("two-rounds") => Prompts::TwoRounds,
        Some("one-round") => Prompts::OneRound,
        Some(other) => {
            section.fault("prompts", format!("expected {PROMPTS}, found {other:?}"));
            Prompts::TwoRounds
        }
    };
    let list_password = section.flag("list_password", false);
    let password = section.section("password").map(passwords::password);
    let certificate_authorities = trust::certificate_authorities(&mut section, today);
    let revoked_keys = trust::revoked_keys(&mut section);
    section.finish();
    AuthConfig {
        password: password.unwrap_or_default(),
        flow: FlowRules {
            verdict,
            prompts,
            list_password,
        },
        certificate_authorities,
        revoked_keys,
    }
}
