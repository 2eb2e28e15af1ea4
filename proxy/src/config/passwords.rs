//! `[auth.password]`: which passwords may be set, and what a hash costs.

use std::path::PathBuf;

use chrono::TimeDelta;

use super::section::Section;
use crate::auth::password::{
    LANES, MEMORY_KIB, MIN_CHARACTERS, PASSES, PasswordPolicy,
    breach::{self, ListError},
    policy::{HISTORY, HISTORY_MAX},
};

const KIB_PER_MIB: u32 = 1024;
/// Up to eight hashes run at once, so the daemon may take eight times as much.
const MEMORY_MIB_MAX: u64 = 1024;
const PASSES_MAX: u64 = 20;
const LANES_MAX: u64 = 16;
/// A longer minimum than this would keep people from setting any.
const MIN_CHARACTERS_MAX: u64 = 64;
const AGE_DAYS_MAX: u64 = 3650;

/// Everything can only be made stricter than the default.
pub(super) fn password(mut section: Section<'_>) -> PasswordPolicy {
    let mut policy = PasswordPolicy::default();
    let memory_mib = u64::from(MEMORY_KIB / KIB_PER_MIB);
    let mut upward = |key, default: u64, max| {
        let number = section.number(key, default..=max, default);
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    policy.cost.memory_kib = upward("memory_mib", memory_mib, MEMORY_MIB_MAX) * KIB_PER_MIB;
    policy.cost.passes = upward("passes", PASSES.into(), PASSES_MAX);
    policy.cost.lanes = upward("lanes", LANES.into(), LANES_MAX);
    policy.min_characters =
        upward("min_characters", MIN_CHARACTERS as u64, MIN_CHARACTERS_MAX) as usize;
    policy.history = section.number("history", 0..=HISTORY_MAX as u64, HISTORY as u64) as usize;
    if section.has("max_age_days") {
        let days = section.number("max_age_days", 1..=AGE_DAYS_MAX, AGE_DAYS_MAX);
        policy.max_age = i64::try_from(days).ok().and_then(TimeDelta::try_days);
    }
    let probe = |path: &PathBuf| breach::is_in_hash_list(path, b"");
    policy.breach_list = list(&mut section, "breach_list", probe);
    let probe = |path: &PathBuf| breach::is_in_word_list(path, "");
    policy.word_list = list(&mut section, "word_list", probe);
    section.finish();
    policy
}

/// A list that can be searched.
fn list(
    section: &mut Section<'_>,
    key: &'static str,
    probe: impl FnOnce(&PathBuf) -> Result<bool, ListError>,
) -> Option<PathBuf> {
    let path = PathBuf::from(section.text(key, "the path of a list of passwords")?);
    if let Err(error) = probe(&path) {
        let source = std::error::Error::source(&error);
        let cause = source.map_or_else(String::new, |source| format!(": {source}"));
        section.fault(key, format!("{error}{cause}"));
    }
    Some(path)
}
