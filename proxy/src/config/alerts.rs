//! `[[alert]]`: which records somebody has to hear of soon, and where.

use std::sync::Arc;

use chrono::TimeDelta;
use portcullis_audit::alert::{Hours, Per, Rule, Watched};

use super::{
    section::Section,
    sinks::{SinkConfig, name},
};
use crate::accounts::hours::AllowedHours;

const WINDOW_SECONDS_MAX: u64 = 7 * 24 * 3600;
const QUIET_SECONDS_MAX: u64 = 30 * 24 * 3600;
/// Thresholds above are never reached.
const THRESHOLD_MAX: u64 = 1_000_000_000;

/// Failed logins of one source: more than a person with an old key in the agent and a mistyped password.
const FAILURES: u64 = 10;
const FAILURES_WINDOW: u64 = 300;
/// Downloads of a user in an hour.
const MIB: u64 = 10 * 1024;
const FILES: u64 = 1000;
const DOWNLOADS_WINDOW: u64 = 3600;
/// Refused operations of a user: a script that looks around, rather than a typing error.
const DENIALS: u64 = 20;
const DENIALS_WINDOW: u64 = 300;
/// Time to renew an exception, or to do without it.
const EXPIRING_DAYS: u64 = 14;
const BEHIND_SECONDS: u64 = 300;
const BEHIND_RECORDS: u64 = 100_000;
const QUIET: u64 = 3600;
/// Once in a shift.
const QUIET_HOURS: u64 = 12 * 3600;
const QUIET_EXPIRING: u64 = 24 * 3600;

/// All rules. One with a fault is left out. `sinks` are the names of all sinks, also of those with a fault.
pub(super) fn alerts(sections: Vec<Section<'_>>, sinks: &[&str]) -> Vec<Rule> {
    let mut found: Vec<Rule> = Vec::new();
    for mut section in sections {
        let name = name(&mut section, "such as \"brute-force\"");
        if let Some(name) = &name
            && found.iter().any(|other| other.name == *name)
        {
            section.fault("name", format!("{name:?} names another alert too"));
        }
        found.extend(alert(section, name, sinks));
    }
    found
}

/// The sinks that take alerts and get none.
pub(super) fn unheard<'a>(
    sinks: &'a [SinkConfig],
    alerts: &'a [Rule],
) -> impl Iterator<Item = &'a str> {
    let is_named = |name: &String| alerts.iter().any(|rule| rule.to.contains(name));
    sinks
        .iter()
        .filter(move |sink| sink.takes_only_alerts() && !is_named(&sink.name))
        .map(|sink| sink.name.as_str())
}

fn alert(mut section: Section<'_>, name: Option<String>, sinks: &[&str]) -> Option<Rule> {
    const KINDS: &str = "\"brute_force\", \"mass_download\", \"off_hours\", \"denial_burst\", \"relaxation_expiring\", \
                         \"verify_failed\", \"sink_behind\", \"disk\" or \"files_altered\"";
    let kind = section.required_text("kind", KINDS);
    let to = to(&mut section, sinks);
    let (watched, window, quiet) = match kind {
        Some("brute_force") => (
            brute_force(&mut section),
            window(&mut section, FAILURES_WINDOW),
            QUIET,
        ),
        Some("mass_download") => (
            Some(mass_download(&mut section)),
            window(&mut section, DOWNLOADS_WINDOW),
            QUIET,
        ),
        Some("off_hours") => (off_hours(&mut section), 0, QUIET_HOURS),
        Some("denial_burst") => (
            denial_burst(&mut section),
            window(&mut section, DENIALS_WINDOW),
            QUIET,
        ),
        Some("relaxation_expiring") => {
            let days = section.number("days", 1..=366, EXPIRING_DAYS);
            let watched = Watched::RelaxationExpiring { days };
            (Some(watched), 0, QUIET_EXPIRING)
        }
        Some("verify_failed") => (Some(Watched::VerifyFailed), 0, QUIET),
        Some("sink_behind") => (Some(sink_behind(&mut section)), 0, QUIET),
        Some("disk") => (Some(Watched::Disk), 0, QUIET),
        Some("files_altered") => (Some(Watched::FilesAltered), 0, QUIET),
        Some(other) => {
            section.fault("kind", format!("expected {KINDS}, found {other:?}"));
            return None;
        }
        // What belongs to which kind can't be told.
        None => return None,
    };
    let quiet = section.number("quiet_seconds", 1..=QUIET_SECONDS_MAX, quiet);
    section.finish();
    Some(Rule {
        name: name?,
        watched: watched?,
        window: time(window),
        quiet: time(quiet),
        to,
    })
}

fn time(seconds: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000))
}

/// Without one, an alert is a record and nothing more.
fn to(section: &mut Section<'_>, sinks: &[&str]) -> Vec<String> {
    let named = section.texts("to", "a list of names of sinks, such as [\"pager\"]");
    let mut to: Vec<String> = Vec::new();
    for (index, name) in named.unwrap_or_default() {
        let key = format!("to[{index}]");
        if !sinks.contains(&name) {
            let known = if sinks.is_empty() {
                "there is no [[sink]]".to_owned()
            } else {
                format!("there are {}", sinks.join(", "))
            };
            section.fault(&key, format!("no [[sink]] has the name {name:?}; {known}"));
        } else if to.iter().any(|other| other == name) {
            section.fault(&key, format!("names {name:?} a second time; remove it"));
        } else {
            to.push(name.to_owned());
        }
    }
    to
}

fn window(section: &mut Section<'_>, default: u64) -> u64 {
    section.number("window_seconds", 1..=WINDOW_SECONDS_MAX, default)
}

fn threshold(section: &mut Section<'_>, key: &'static str, default: u64) -> u64 {
    section.number(key, 1..=THRESHOLD_MAX, default)
}

fn per(section: &mut Section<'_>, default: Per) -> Option<Per> {
    const CHOICE: &str = "\"source\" or \"user\"";
    let is_given = section.has("per");
    match section.text("per", CHOICE) {
        Some("source") => Some(Per::Source),
        Some("user") => Some(Per::User),
        Some(other) => {
            section.fault("per", format!("expected {CHOICE}, found {other:?}"));
            None
        }
        None => (!is_given).then_some(default),
    }
}

fn brute_force(section: &mut Section<'_>) -> Option<Watched> {
    let failures = threshold(section, "failures", FAILURES);
    let per = per(section, Per::Source)?;
    Some(Watched::BruteForce { failures, per })
}

/// One threshold that is given stands alone.
fn mass_download(section: &mut Section<'_>) -> Watched {
    let is_open = !section.has("mib") && !section.has("files");
    let (with_mib, with_files) = (
        is_open || section.has("mib"),
        is_open || section.has("files"),
    );
    let mib = threshold(section, "mib", MIB);
    let files = threshold(section, "files", FILES);
    Watched::MassDownload {
        bytes: with_mib.then_some(mib << 20),
        files: with_files.then_some(files),
    }
}

fn off_hours(section: &mut Section<'_>) -> Option<Watched> {
    const EXPECTED: &str = "the working hours, such as \"Mon-Fri 07:00-19:00 Europe/Berlin\"";
    let text = section.required_text("hours", EXPECTED)?;
    match text.parse::<AllowedHours>() {
        Ok(hours) => Some(Watched::OffHours(Hours {
            text: hours.to_string(),
            have: Arc::new(move |moment| hours.allow(moment)),
        })),
        Err(error) => {
            section.fault("hours", error.to_string());
            None
        }
    }
}

fn denial_burst(section: &mut Section<'_>) -> Option<Watched> {
    let denials = threshold(section, "denials", DENIALS);
    let per = per(section, Per::User)?;
    Some(Watched::DenialBurst { denials, per })
}

fn sink_behind(section: &mut Section<'_>) -> Watched {
    Watched::SinkBehind {
        seconds: threshold(section, "seconds", BEHIND_SECONDS),
        records: threshold(section, "records", BEHIND_RECORDS),
    }
}
