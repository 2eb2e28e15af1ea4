//! How much a record matters, on the scales of syslog, OCSF and CEF.

use portcullis_journal::read::Record;

/// On the five steps that all three scales have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// Of a record, by what happened and how it ended.
    pub fn of(record: &Record) -> Self {
        let outcome = record.outcome.as_deref().unwrap_or_default();
        let event = record.event.as_str();
        let has = |field: &str| {
            record
                .body
                .get(field)
                .is_some_and(|value| !matches!(value.as_bool(), Some(false)) && !value.is_null())
        };
        if event == "admin.break_glass" {
            return Self::Critical;
        }
        if event == "log.gap"
            || event == "log.alert"
            || event == "rest.finding"
            || event.starts_with("log.") && outcome == "failure"
            || event.starts_with("auth.") && (has("alert") || has("locked"))
        {
            return Self::High;
        }
        match outcome {
            "deny" | "unknown" => Self::Medium,
            "failure" => Self::Low,
            _ if event.ends_with(".change") || event.starts_with("admin.") => Self::Low,
            _ => Self::Informational,
        }
    }

    /// The numerical code of RFC 5424: smaller is worse.
    pub fn syslog(self) -> u8 {
        match self {
            Self::Informational => 6,
            Self::Low => 5,
            Self::Medium => 4,
            Self::High => 3,
            Self::Critical => 2,
        }
    }

    /// OCSF's `severity_id` and its caption.
    pub fn ocsf(self) -> (u8, &'static str) {
        match self {
            Self::Informational => (1, "Informational"),
            Self::Low => (2, "Low"),
            Self::Medium => (3, "Medium"),
            Self::High => (4, "High"),
            Self::Critical => (5, "Critical"),
        }
    }

    /// On CEF's scale between what the event has at least and at most.
    pub(super) fn between(self, least: u8, most: u8) -> u8 {
        let span = most.saturating_sub(least);
        least
            + match self {
                Self::Informational => 0,
                Self::Low => span / 3,
                Self::Medium => span * 2 / 3,
                Self::High | Self::Critical => span,
            }
    }
}
