//! Rules that say which records somebody has to hear of soon.
//!
//! Pure: records in, alerts out. Time is that of the records, and of [`Engine::tick`] for what comes with time alone: the same
//! records give the same alerts again.

mod recent;
#[cfg(test)]
mod tests;
mod watch;

use std::{fmt, sync::Arc};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use portcullis_journal::{EventKind, read::Record};
use serde_json::Value;

use crate::operations::{integer, text};
use recent::{Recent, Seen};
pub use watch::{Recorder, Watching, watch};

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub name: String,
    pub watched: Watched,
    /// Time within which the threshold has to be reached.
    pub window: TimeDelta,
    /// At most one alert of a subject in this time.
    pub quiet: TimeDelta,
    /// Sinks that the alerts go to.
    pub to: Vec<String>,
}

/// What a rule looks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// Failed steps of logins.
    BruteForce { failures: u64, per: Per },
    /// Downloads of a user; either threshold is enough.
    MassDownload {
        bytes: Option<u64>,
        files: Option<u64>,
    },
    /// A login outside these hours.
    OffHours(Hours),
    /// Operations that policy refused.
    DenialBurst { denials: u64, per: Per },
    /// An exception of the configuration that ends within so many days.
    RelaxationExpiring { days: u64 },
    /// The log differs from what was written.
    VerifyFailed,
    /// A sink whose collector takes nothing, or that lost records, or that is behind by so much; either is enough.
    SinkBehind { seconds: u64, records: u64 },
    /// The log's disk has no room, or fails, or a manifest can't be written.
    Disk,
    /// Stored files differ from what was uploaded.
    FilesAltered,
}

impl Watched {
    /// The word in configurations and records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BruteForce { .. } => "brute_force",
            Self::MassDownload { .. } => "mass_download",
            Self::OffHours(_) => "off_hours",
            Self::DenialBurst { .. } => "denial_burst",
            Self::RelaxationExpiring { .. } => "relaxation_expiring",
            Self::VerifyFailed => "verify_failed",
            Self::SinkBehind { .. } => "sink_behind",
            Self::Disk => "disk",
            Self::FilesAltered => "files_altered",
        }
    }
}

/// Whose events are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    User,
    /// The address without its port.
    Source,
}

/// Working hours; equal if their texts are.
#[derive(Clone)]
pub struct Hours {
    /// As the configuration has them.
    pub text: String,
    /// Whether a moment is one of them.
    pub have: Arc<dyn Fn(DateTime<Utc>) -> bool + Send + Sync>,
}

impl PartialEq for Hours {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What somebody has to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub rule: String,
    pub kind: &'static str,
    /// A user, an address, a sink or the like.
    pub subject: String,
    /// Events, or bytes where `unit` says so.
    pub count: u64,
    pub unit: &'static str,
    pub window: TimeDelta,
    /// The records that it is about.
    pub first: u64,
    pub last: u64,
    /// Alerts since the one before that were not given: of this subject, or of any where there were too many.
    pub held_back: u64,
    pub to: Vec<String>,
}

/// Judges records.
#[derive(Debug)]
pub struct Engine {
    rules: Vec<(Rule, Recent)>,
    /// What was said of exceptions last, with the record that did.
    exceptions: Vec<(String, NaiveDate, u64)>,
}

/// Exceptions that are looked at.
const EXCEPTIONS: usize = 1000;
/// Longest subject in bytes: names in failed logins are the peer's.
const SUBJECT_BYTES: usize = 256;

impl Engine {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules: rules
                .into_iter()
                .map(|rule| (rule, Recent::default()))
                .collect(),
            exceptions: Vec::new(),
        }
    }

    /// How far back records matter.
    pub fn horizon(&self) -> TimeDelta {
        self.rules
            .iter()
            .map(|(rule, _)| rule.window.max(rule.quiet))
            .max()
            .unwrap_or_default()
    }

    /// Whether records of this kind can matter.
    pub fn hears(event: &[u8]) -> bool {
        [
            EventKind::AuthStep,
            EventKind::AuthResult,
            EventKind::TransferSummary,
            EventKind::OperationDenied,
            EventKind::AppStart,
            EventKind::ConfigChange,
            EventKind::LogVerify,
            EventKind::LogWitness,
            EventKind::LogSink,
            EventKind::LogDisk,
            EventKind::LogAlert,
            EventKind::RestFinding,
            EventKind::ManifestWritten,
        ]
        .iter()
        .any(|kind| kind.name().as_bytes() == event)
    }

    /// Takes the next record.
    pub fn hear(&mut self, record: &Record) -> Vec<Alert> {
        let Ok(at) = DateTime::parse_from_rfc3339(&record.time) else {
            return Vec::new();
        };
        let at = at.to_utc();
        let mut alerts = self.judge(record, at);
        alerts.extend(self.tick(at));
        alerts
    }

    /// Takes a record that was heard before. What comes with time alone has been said if there is a record of it, and only
    /// then.
    pub fn remember(&mut self, record: &Record) {
        if let Ok(at) = DateTime::parse_from_rfc3339(&record.time) {
            self.judge(record, at.to_utc());
        }
    }

    fn judge(&mut self, record: &Record, at: DateTime<Utc>) -> Vec<Alert> {
        self.remember_exceptions(record);
        let mut alerts = Vec::new();
        for (rule, recent) in &mut self.rules {
            if let Some((subject, seen)) = judged(rule, record, at) {
                alerts.extend(recent.add(rule, &subject, seen));
            } else if let Some(subject) = told(rule, record) {
                recent.told(subject, at);
            }
        }
        alerts
    }

    /// What has come with time alone.
    pub fn tick(&mut self, now: DateTime<Utc>) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for (rule, recent) in &mut self.rules {
            let Watched::RelaxationExpiring { days } = rule.watched else {
                continue;
            };
            for (of, ends, seq) in &self.exceptions {
                let left = ends.signed_duration_since(now.date_naive()).num_days();
                if left > i64::try_from(days).unwrap_or(i64::MAX) || !recent.is_due(rule, of, now) {
                    continue;
                }
                alerts.extend(recent.add(rule, of, Seen::once(now, *seq)));
            }
        }
        alerts
    }

    /// A configuration always names all exceptions that it has.
    fn remember_exceptions(&mut self, record: &Record) {
        let is = |kind: EventKind| record.event == kind.name();
        let is_in_force = is(EventKind::AppStart)
            || (is(EventKind::ConfigChange) && record.outcome.as_deref() == Some("success"));
        let listed = record.body.get("exceptions").and_then(Value::as_array);
        let (true, Some(listed)) = (is_in_force, listed) else {
            return;
        };
        self.exceptions = listed
            .iter()
            .take(EXCEPTIONS)
            .filter_map(|exception| {
                let ends = text(exception, "expires")?.parse().ok()?;
                Some((named(exception), ends, record.seq))
            })
            .collect();
    }
}

/// What an exception is for, such as `sink siem: plaintext`.
fn named(exception: &Value) -> String {
    let what = text(exception, "what").unwrap_or("exception");
    let of = ["backend", "sink", "certificate_authority"]
        .iter()
        .find_map(|key| Some(format!("{key} {}: {what}", text(exception, key)?)));
    of.unwrap_or_else(|| what.to_owned())
}

/// The subject of a record that counts for a rule, and how much it counts.
fn judged(rule: &Rule, record: &Record, at: DateTime<Utc>) -> Option<(String, Seen)> {
    let is = |kind: EventKind| record.event == kind.name();
    let outcome = record.outcome.as_deref();
    let once = Seen::once(at, record.seq);
    match &rule.watched {
        Watched::BruteForce { per, .. } => {
            (is(EventKind::AuthStep) && outcome == Some("failure")).then_some(())?;
            Some((subject(record, *per)?, once))
        }
        Watched::MassDownload { .. } => {
            (is(EventKind::TransferSummary) && text(&record.body, "direction") != Some("upload"))
                .then_some(())?;
            let bytes = integer(record.body.get("bytes")).unwrap_or(0);
            Some((subject(record, Per::User)?, Seen { bytes, ..once }))
        }
        Watched::OffHours(hours) => {
            (is(EventKind::AuthResult) && outcome == Some("success") && !(hours.have)(at))
                .then_some(())?;
            Some((subject(record, Per::User)?, once))
        }
        Watched::DenialBurst { per, .. } => {
            is(EventKind::OperationDenied).then_some(())?;
            Some((subject(record, *per)?, once))
        }
        Watched::RelaxationExpiring { .. } => None,
        Watched::VerifyFailed if is(EventKind::LogWitness) => {
            // The log was cut, rewritten or edited; one that does not answer is no such thing.
            let reason = record.reason.as_deref();
            matches!(reason, Some("shorter" | "inconsistent" | "altered")).then_some(())?;
            Some((text(&record.body, "witness")?.to_owned(), once))
        }
        Watched::VerifyFailed => {
            (is(EventKind::LogVerify) && outcome == Some("failure")).then_some(())?;
            let segment = text(&record.body, "segment").unwrap_or(&record.node);
            Some((segment.to_owned(), once))
        }
        Watched::SinkBehind { seconds, records } => {
            (is(EventKind::LogSink) && outcome == Some("failure")).then_some(())?;
            let reaches = |key: &str, most: u64| {
                integer(record.body.get(key)).is_some_and(|lag: u64| lag >= most)
            };
            (record.reason.as_deref() != Some("behind")
                || reaches("lag_seconds", *seconds)
                || reaches("lag_records", *records))
            .then_some(())?;
            Some((text(&record.body, "sink")?.to_owned(), once))
        }
        Watched::Disk => {
            (is(EventKind::LogDisk) || is(EventKind::ManifestWritten)).then_some(())?;
            (outcome == Some("failure")).then_some(())?;
            let reason = record.reason.as_deref().unwrap_or_default();
            let subject = if is(EventKind::ManifestWritten) {
                format!("manifest {reason}")
            } else {
                reason.to_owned()
            };
            Some((subject, once))
        }
        Watched::FilesAltered => {
            is(EventKind::RestFinding).then_some(())?;
            Some((text(&record.body, "backend")?.to_owned(), once))
        }
    }
}

/// The subject of an alert on record that came with time alone.
fn told<'a>(rule: &Rule, record: &'a Record) -> Option<&'a str> {
    let is_of_rule = matches!(rule.watched, Watched::RelaxationExpiring { .. })
        && record.event == EventKind::LogAlert.name()
        && text(&record.body, "rule") == Some(&rule.name);
    is_of_rule.then(|| text(&record.body, "subject")).flatten()
}

fn subject(record: &Record, per: Per) -> Option<String> {
    match per {
        Per::Source => Some(record.source?.ip.to_string()),
        Per::User => {
            let name = match &record.user {
                Some(user) => user.name.as_str(),
                None => text(&record.body, "user")?,
            };
            let end = name.floor_char_boundary(SUBJECT_BYTES);
            Some(name.get(..end)?.to_owned())
        }
    }
}
