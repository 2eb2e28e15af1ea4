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
}

impl Default for VerificationConfig {
    /// Only when it is asked for.
    fn default() -> Self {
        Self {
            every: None,
            rate: parse_rate(RATE).ok(),
        }
    }
}

pub(super) fn verification(mut section: Section<'_>) -> VerificationConfig {
    let days = section.number("every_days", 0..=MOST_DAYS, DAYS);
    let rate = section.text("rate", "bytes a second, such as \"50M\"");
    let rate = parse_rate(rate.unwrap_or(RATE))
        .inspect_err(|error| section.fault("rate", error.to_string()))
        .ok();
    section.finish();
    VerificationConfig {
        every: Some(Duration::from_secs(days * 24 * 3600)).filter(|every| !every.is_zero()),
        rate,
    }
}
