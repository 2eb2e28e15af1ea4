//! `[auth]`: what clients are told while they log in, whom the gateway believes, and servers elsewhere that judge factors.

mod ldap;
mod radius;

use std::path::{Path, PathBuf};

use chrono::NaiveDate;

use super::{
    files, passwords,
    section::Section,
    trust::{self, RevokedKeysFile},
};
use crate::auth::{
    Secret,
    certificate::Authority,
    flow::{FlowRules, Prompts, VerdictMode},
    ldap::LdapSettings,
    password::PasswordPolicy,
    radius::RadiusSettings,
};

const VERDICTS: &str = "\"stepwise\" or \"single\"";
const PROMPTS: &str = "\"two-rounds\" or \"one-round\"";
/// Checks that run at a time.
const AT_ONCE: u64 = 32;
/// How long a server is left alone that gave no answer: two logins a minute at most wait for a dead one.
const REST_SECONDS: u64 = 30;

/// `[auth]`
#[derive(Debug, Default, PartialEq)]
pub struct AuthConfig {
    pub flow: FlowRules,
    pub password: PasswordPolicy,
    pub certificate_authorities: Vec<Authority>,
    pub revoked_keys: Option<RevokedKeysFile>,
    /// `[auth.radius]`: one-time codes.
    pub radius: Option<RadiusSettings>,
    /// `[auth.ldap]`: passwords and groups.
    pub ldap: Option<LdapSettings>,
}

/// A part that is faulty is left out, and has left its faults.
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
    let radius = section.section("radius").and_then(radius::radius);
    let ldap = section.section("ldap").and_then(ldap::ldap);
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
        radius,
        ldap,
    }
}

fn at_once(section: &mut Section<'_>) -> usize {
    usize::try_from(section.number("at_once", 1..=1024, AT_ONCE)).unwrap_or(1)
}

fn rest(section: &mut Section<'_>) -> std::time::Duration {
    std::time::Duration::from_secs(section.number("rest_seconds", 1..=3600, REST_SECONDS))
}

/// The first line of a file, or of what systemd hands over (`LoadCredential=`).
fn secret(
    section: &mut Section<'_>,
    file_key: &'static str,
    credential_key: &'static str,
) -> Option<Secret> {
    let file = section.text(
        file_key,
        "the path of a file whose first line is the secret",
    );
    let credential = section.text(credential_key, "the name of a systemd credential");
    let (key, path) = match (file, credential) {
        (Some(file), None) => (file_key, PathBuf::from(file)),
        (None, Some(name)) => (
            credential_key,
            credential_path(section, credential_key, name)?,
        ),
        (Some(_), Some(_)) | (None, None) => {
            section.fault(
                file_key,
                format!("give one of {file_key} and {credential_key}"),
            );
            return None;
        }
    };
    files::password(&path)
        .map_err(|problem| section.fault(key, problem))
        .ok()
        .map(|secret| Secret::from(secret.expose()))
}

fn credential_path(section: &Section<'_>, key: &str, name: &str) -> Option<PathBuf> {
    if name.contains('/') || name.starts_with('.') {
        section.fault(key, format!("{name:?} is not the name of a credential"));
        return None;
    }
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        section.fault(
            key,
            "systemd hands no credentials over; LoadCredential= of the unit does",
        );
        return None;
    };
    Some(Path::new(&directory).join(name))
}

#[cfg(test)]
mod tests;
