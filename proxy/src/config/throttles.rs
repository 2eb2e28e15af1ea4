//! `[penalties]`, `[bans]` and `[allowlist]`: what sources pay for failures, and what the agent is told of them.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{network, seconds, section::Section};
use crate::auth::throttle::{BanConfig, PenaltyConfig};

/// Failed authentications of one source before a ban is asked for ...
const BAN_FAILURES: u64 = 5;
/// ... each within this time of the one before ...
const BAN_WINDOW_SECONDS: u64 = 300;
/// ... and how long it then holds: an attacker is slowed, a person who mistyped is back within the hour.
const BAN_LIFETIME_SECONDS: u64 = 900;
/// Each further ban is twice as long, up to a day: the agent takes no longer ones by default either.
const BAN_MAX_LIFETIME_SECONDS: u64 = 24 * 3600;
/// Bans in a minute. A real flood of guesses needs few; a fault or forged traffic must not cut off everybody.
const BANS_PER_MINUTE: u64 = 60;

/// `[bans]`: ask the agent to drop a source after repeated failures.
#[derive(Debug, PartialEq)]
pub struct BansConfig {
    pub agent_socket: PathBuf,
    pub rules: BanConfig,
}

/// `[allowlist]`: offer the agent the networks of the accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowlistConfig {
    pub agent_socket: PathBuf,
    /// The agent's list is `offer:` and this.
    pub list: String,
}

pub(super) fn allowlist(mut section: Section<'_>) -> Option<AllowlistConfig> {
    let agent_socket = section.required_text("agent_socket", "the path of the agent's socket");
    let list = section
        .text("list", "the name of the agent's list")
        .unwrap_or("accounts");
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if list.len() > 32 || !list.bytes().all(is_plain) {
        section.fault(
            "list",
            format!("{list:?}: expected 1 to 32 of a-z, 0-9 and '-'"),
        );
    }
    let list = list.to_owned();
    section.finish();
    Some(AllowlistConfig {
        agent_socket: PathBuf::from(agent_socket?),
        list,
    })
}

pub(super) fn penalties(mut section: Section<'_>) -> PenaltyConfig {
    let default = PenaltyConfig::default();
    let is_enabled = section.flag("enabled", true);
    let mut number = |key, default: Duration| {
        Duration::from_secs(section.number(key, 0..=3600, default.as_secs()))
    };
    let mut penalties = PenaltyConfig {
        auth_failure: number("auth_failure_seconds", default.auth_failure),
        no_auth: number("no_auth_seconds", default.no_auth),
        grace: number("grace_seconds", default.grace),
        crash: number("crash_seconds", default.crash),
        threshold: number("threshold_seconds", default.threshold),
        max: number("max_seconds", default.max),
        exempt: default.exempt,
    };
    if let Some(exempt) = networks(&mut section, "exempt") {
        penalties.exempt = exempt;
    }
    if penalties.max <= penalties.threshold {
        section.fault(
            "max_seconds",
            "has to be more than threshold_seconds, or no penalty ever holds; to have none, write enabled = false",
        );
    }
    section.finish();
    if !is_enabled {
        penalties.max = Duration::ZERO;
    }
    penalties
}

pub(super) fn bans(mut section: Section<'_>) -> Option<BansConfig> {
    let agent_socket = section.required_text("agent_socket", "the path of the agent's socket");
    let failures = section.number("failures", 1..=1000, BAN_FAILURES);
    let window = seconds(&mut section, "window_seconds", BAN_WINDOW_SECONDS);
    let lifetime = seconds(&mut section, "lifetime_seconds", BAN_LIFETIME_SECONDS);
    let longest = BAN_MAX_LIFETIME_SECONDS.max(lifetime.as_secs());
    let max_lifetime = seconds(&mut section, "max_lifetime_seconds", longest);
    let max_per_minute = section.number("max_per_minute", 1..=10_000, BANS_PER_MINUTE);
    let exempt = networks(&mut section, "exempt").unwrap_or_default();
    if max_lifetime < lifetime {
        section.fault(
            "max_lifetime_seconds",
            format!("is less than lifetime_seconds ({})", lifetime.as_secs()),
        );
    }
    section.finish();
    Some(BansConfig {
        agent_socket: PathBuf::from(agent_socket?),
        rules: BanConfig {
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
            window,
            lifetime,
            max_lifetime,
            max_per_minute: u32::try_from(max_per_minute).unwrap_or(u32::MAX),
            exempt,
        },
    })
}

/// A list of networks, if the key is there.
pub(super) fn networks(section: &mut Section<'_>, key: &'static str) -> Option<Vec<IpNet>> {
    let texts = section.texts(key, "a list of networks, such as [\"192.0.2.0/24\"]")?;
    let mut networks = Vec::new();
    for (index, text) in texts {
        match network(text) {
            Ok(network) => networks.push(network),
            Err(problem) => section.fault(&format!("{key}[{index}]"), problem),
        }
    }
    Some(networks)
}
