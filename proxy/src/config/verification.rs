//! `[verification]`: when stored files are compared with the journal.

use std::{num::NonZeroU64, time::Duration};

use super::section::Section;
use crate::accounts::mounts::parse_rate;

const MOST_DAYS: u64 = 366;
const DAYS: u64 = 7;
/// Bytes a second: a quarter of what an ordinary disk gives.
const RATE: &str = "50M";

/// `[verification]`
#[derive(Debug, Clone, PartialEq)]
pub struct VerificationConfig {
    /// `None` never, but when it is asked for.
    pub every: Option<Duration>,
    /// Bytes a second.
    pub rate: Option<NonZeroU64>,
    /// Those that are looked at unless another one is asked for; `None` is every `local` one and every bucket.
    pub backends: Option<Vec<String>>,
}

impl Default for VerificationConfig {
    /// Only when it is asked for.
    fn default() -> Self {
        Self {
            every: None,
            rate: parse_rate(RATE).ok(),
            backends: None,
        }
    }
}

pub(super) fn verification(mut section: Section<'_>) -> VerificationConfig {
    let days = section.number("every_days", 0..=MOST_DAYS, DAYS);
    let rate = section.text("rate", "bytes a second, such as \"50M\"");
    let rate = parse_rate(rate.unwrap_or(RATE))
        .inspect_err(|error| section.fault("rate", error.to_string()))
        .ok();
    let backends = section.texts("backends", "names of [backends] sections");
    let backends = backends.map(|names| {
        let names = names.into_iter().map(|(_, name)| name.to_owned());
        names.collect()
    });
    section.finish();
    VerificationConfig {
        every: Some(Duration::from_secs(days * 24 * 3600)).filter(|every| !every.is_zero()),
        rate,
        backends,
    }
}

/// Names that no backend has, as key and problem.
pub(super) fn unknown_backends<'a>(
    config: &VerificationConfig,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Vec<(String, String)> {
    let named = config.backends.iter().flatten().enumerate();
    named
        .filter(|(_, name)| !known.clone().any(|known| known == *name))
        .map(|(index, name)| {
            let key = format!("verification.backends[{index}]");
            (key, format!("there is no [backends.{name}]"))
        })
        .collect()
}
