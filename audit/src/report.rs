//! What happened in a period, counted for the one who reviews it.
//!
//! Records come one at a time; counters and lists are bounded, and say what they left out.

mod chart;
mod html;
mod relaxation;
mod tally;
mod text;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;
use portcullis_journal::{EventKind, read::Record};
use serde::Serialize;
use serde_json::Value;

use crate::{
    coverage::Coverage,
    operations::{integer, text as field},
    raw,
    time::{Period, as_recorded},
};
pub use chart::ChartError;
pub use relaxation::{Relaxation, Relaxations};
pub use tally::Tally;

/// Entries of one list.
const LISTED: usize = 200;
/// People who are counted one by one.
const PEOPLE: usize = 10_000;

/// Days of a period that are shown though nothing happened.
const DAYS_FILLED: usize = 400;

/// What is asked for.
pub struct Scope<'a> {
    pub period: Period,
    /// Whose days and hours are meant.
    pub zone: Tz,
    /// As they were written.
    pub hours: String,
    pub is_business: &'a dyn Fn(DateTime<Utc>) -> bool,
    /// Downloads of one person on one day from which on they are bulk.
    pub bulk_files: u64,
    pub bulk_bytes: u64,
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("period", &self.period)
            .field("hours", &self.hours)
            .finish_non_exhaustive()
    }
}

/// The review of a period.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// RFC 3339, UTC; the end is excluded.
    pub from: String,
    pub until: String,
    pub zone: String,
    pub business_hours: String,
    pub bulk_files: u64,
    pub bulk_bytes: u64,
    pub logs: Vec<Covered>,
    pub totals: Totals,
    /// By date, in the time zone.
    pub days: BTreeMap<String, Totals>,
    /// Logins by weekday (Monday first) and hour.
    pub week: [[u64; 24]; 7],
    pub people: BTreeMap<String, Totals>,
    /// Beyond those that are counted one by one.
    pub people_left_out: bool,
    pub failures_by_reason: Tally,
    pub failures_by_source: Tally,
    pub failures_by_name: Tally,
    pub denials_by_reason: Tally,
    pub denials_by_user: Tally,
    pub denials_by_path: Tally,
    pub refused_connections: Tally,
    pub refused_channels: Tally,
    pub failed_operations: Tally,
    pub account_changes: Tally,
    pub readings: Tally,
    pub bulk_downloads: Listing,
    pub off_hours: Listing,
    pub denials: Listing,
    pub relaxations: Relaxations,
    pub bans: Listing,
    pub list_changes: Listing,
    pub accounts: Listing,
    pub configuration: Listing,
    pub break_glass: Listing,
    pub reviews: Listing,
    pub log_events: Listing,
}

/// Counts of a day, a person, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub connections: u64,
    pub logins: u64,
    pub failures: u64,
    pub denials: u64,
    pub uploads: u64,
    pub upload_bytes: u64,
    pub downloads: u64,
    pub download_bytes: u64,
    pub off_hours: u64,
    /// Operations of which nobody knows how they ended.
    pub unknown: u64,
}

/// How far a log goes within the period.
#[derive(Debug, Clone, Serialize)]
pub struct Covered {
    pub log: String,
    /// `None` without a record in the period.
    pub coverage: Option<Coverage>,
}

/// Things that happened, one by one.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// How many more there were.
    pub left_out: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub at: String,
    /// Number of the log in the order of `logs`, and of the record.
    pub log: usize,
    pub seq: u64,
    pub who: String,
    pub what: String,
    pub outcome: String,
    pub details: String,
}

impl Listing {
    fn add(&mut self, entry: Entry) {
        if self.entries.len() < LISTED {
            self.entries.push(entry);
        } else {
            self.left_out += 1;
        }
    }
}

/// Counts a period.
#[derive(Debug)]
pub struct Counting<'a> {
    scope: Scope<'a>,
    from: String,
    until: String,
    report: Report,
    /// Downloads of a person on the day that was seen last.
    today: BTreeMap<String, Day>,
}

#[derive(Debug, Clone, Default)]
struct Day {
    date: NaiveDate,
    files: u64,
    bytes: u64,
    last: Entry,
}

impl<'a> Counting<'a> {
    pub fn new(scope: Scope<'a>, logs: &[PathBuf]) -> Self {
        let (from, until) = (
            as_recorded(scope.period.from),
            as_recorded(scope.period.until),
        );
        let report = Report {
            from: from.clone(),
            until: until.clone(),
            zone: scope.zone.name().to_owned(),
            business_hours: scope.hours.clone(),
            bulk_files: scope.bulk_files,
            bulk_bytes: scope.bulk_bytes,
            logs: logs
                .iter()
                .map(|log| Covered {
                    log: shown(log),
                    coverage: None,
                })
                .collect(),
            ..Report::default()
        };
        Self {
            scope,
            from,
            until,
            report,
            today: BTreeMap::new(),
        }
    }

    /// False only if the line changes no number.
    pub fn matters(&self, line: &[u8]) -> bool {
        let event = raw::EVENT.of(line).unwrap_or_default();
        let is = |kind: EventKind| event == kind.name().as_bytes();
        if is(EventKind::OperationIntent) {
            return false;
        }
        if is(EventKind::OperationOutcome) && raw::OUTCOME.of(line) == Some(b"success") {
            return false;
        }
        let Some(time) = raw::TIME.of(line) else {
            return true;
        };
        time < self.until.as_bytes()
            && (time >= self.from.as_bytes()
                || is(EventKind::AppStart)
                || is(EventKind::ConfigChange)
                || is(EventKind::AdminAccount))
    }

    /// Takes the next record that [`matters`](Self::matters).
    pub fn hear(&mut self, log: usize, record: &Record) {
        if record.time.as_str() >= self.until.as_str() {
            return;
        }
        let is_within = record.time.as_str() >= self.from.as_str();
        self.report.relaxations.hear(record, is_within);
        if !is_within {
            return;
        }
        let Ok(at) = DateTime::parse_from_rfc3339(&record.time) else {
            return;
        };
        self.count(log, record, at.to_utc());
    }

    /// How far the log goes, records included that change no number.
    pub fn covered(&mut self, log: usize, coverage: Coverage) {
        if let Some(covered) = self.report.logs.get_mut(log) {
            covered.coverage = Some(coverage);
        }
    }

    pub fn finish(mut self) -> Report {
        for (user, day) in std::mem::take(&mut self.today) {
            self.bulk(&user, day);
        }
        self.report.relaxations.finish();
        self.fill_days();
        self.report
    }

    /// A day on which nothing happened is a day of the period, too.
    fn fill_days(&mut self) {
        let Period { from, until } = self.scope.period;
        let local = |at: DateTime<Utc>| at.with_timezone(&self.scope.zone).date_naive();
        let last = local(until - TimeDelta::microseconds(1));
        for day in local(from).iter_days().take(DAYS_FILLED) {
            if day > last {
                break;
            }
            self.report.days.entry(day.to_string()).or_default();
        }
    }

    fn count(&mut self, log: usize, record: &Record, at: DateTime<Utc>) {
        let local = at.with_timezone(&self.scope.zone);
        let date = local.date_naive();
        let is_off_hours = !(self.scope.is_business)(at);
        let body = &record.body;
        let is = |kind: EventKind| record.event == kind.name();
        let succeeded = record.outcome.as_deref() == Some("success");
        let reason = record.reason.as_deref().unwrap_or("no_reason");
        let report = &mut self.report;

        if is(EventKind::ConnectionOpen) {
            if record.outcome.as_deref() == Some("deny") {
                let more = integer(body.get("left_out")).unwrap_or(0);
                report.refused_connections.add_many(reason, 1 + more);
            } else {
                self.add(record, date, |totals| totals.connections += 1);
            }
        } else if is(EventKind::AuthResult) && succeeded {
            let day = local.weekday().num_days_from_monday() as usize;
            if let Some(logins) = report
                .week
                .get_mut(day)
                .and_then(|day| day.get_mut(local.hour() as usize))
            {
                *logins += 1;
            }
            if is_off_hours {
                let entry = entry(log, record, "login", "");
                report.off_hours.add(entry);
            }
            self.add(record, date, |totals| {
                totals.logins += 1;
                totals.off_hours += u64::from(is_off_hours);
            });
        } else if is(EventKind::AuthStep) && record.outcome.as_deref() == Some("failure") {
            report.failures_by_reason.add(reason);
            if let Some(source) = record.source {
                report.failures_by_source.add(&source.ip.to_string());
            }
            report.failures_by_name.add(who(record));
            self.add(record, date, |totals| totals.failures += 1);
        } else if is(EventKind::OperationDenied) {
            report.denials_by_reason.add(reason);
            report.denials_by_user.add(who(record));
            if let Some(path) = field(body, "path") {
                report.denials_by_path.add(path);
            }
            let operation = field(body, "sftp_op").unwrap_or("request");
            let path = field(body, "path").unwrap_or_default();
            report.denials.add(entry(log, record, operation, path));
            self.add(record, date, |totals| totals.denials += 1);
        } else if is(EventKind::ChannelRefused) {
            let request = field(body, "request").unwrap_or("channel");
            report.refused_channels.add(request);
            self.add(record, date, |totals| totals.denials += 1);
        } else if is(EventKind::TransferSummary) {
            self.transfer(log, record, date, is_off_hours);
        } else if is(EventKind::OperationOutcome) {
            if record.outcome.as_deref() == Some("unknown") {
                self.add(record, date, |totals| totals.unknown += 1);
            } else {
                report.failed_operations.add(reason);
            }
        } else {
            self.administration(log, record);
        }
    }

    fn transfer(&mut self, log: usize, record: &Record, date: NaiveDate, is_off_hours: bool) {
        let bytes = integer(record.body.get("bytes")).unwrap_or(0);
        let is_upload = field(&record.body, "direction") == Some("upload");
        let succeeded = record.outcome.as_deref() == Some("success");
        self.add(record, date, |totals| {
            totals.off_hours += u64::from(is_off_hours);
            if is_upload && succeeded {
                totals.uploads += 1;
                totals.upload_bytes += bytes;
            } else if !is_upload {
                totals.downloads += 1;
                totals.download_bytes += bytes;
            }
        });
        if is_upload {
            return;
        }
        let user = who(record);
        let is_known = self.today.contains_key(user);
        if !is_known && self.today.len() >= PEOPLE {
            return;
        }
        let day = self.today.entry(user.to_owned()).or_default();
        if day.date != date {
            let before = std::mem::take(day);
            day.date = date;
            self.bulk(user, before);
        }
        if let Some(day) = self.today.get_mut(user) {
            day.files += 1;
            day.bytes += bytes;
            day.last = entry(log, record, "downloads", "");
        }
    }

    fn bulk(&mut self, user: &str, day: Day) {
        if day.files < self.scope.bulk_files && day.bytes < self.scope.bulk_bytes {
            return;
        }
        self.report.bulk_downloads.add(Entry {
            who: user.to_owned(),
            what: format!("{} files on {}", day.files, day.date),
            details: crate::text::size(day.bytes),
            ..day.last
        });
    }

    fn administration(&mut self, log: usize, record: &Record) {
        let body = &record.body;
        let is = |kind: EventKind| record.event == kind.name();
        let action = field(body, "action").unwrap_or(&record.event).to_owned();
        let report = &mut self.report;
        if is(EventKind::BanChange) {
            let source = field(body, "source").or_else(|| field(body, "cidr"));
            let details = details(
                body,
                &[
                    "reason",
                    "because",
                    "expires",
                    "lifted_because",
                    "explanation",
                ],
            );
            let what = format!("{action} {}", source.unwrap_or_default());
            report.bans.add(entry(log, record, &what, &details));
        } else if is(EventKind::AllowChange) {
            let details = details(
                body,
                &[
                    "added", "removed", "changed", "reason", "ticket", "revision",
                ],
            );
            report
                .list_changes
                .add(entry(log, record, &action, &details));
        } else if is(EventKind::AdminAccount) {
            report.account_changes.add(&action);
            let account = field(body, "account").or_else(|| field(body, "group"));
            let details = details(
                body,
                &["policy", "reason", "approver", "expires", "kind", "owner"],
            );
            let what = format!("{action} {}", account.unwrap_or_default());
            report.accounts.add(entry(log, record, &what, &details));
        } else if is(EventKind::AdminBreakGlass) {
            let account = field(body, "account").unwrap_or_default();
            let details = details(
                body,
                &[
                    "reason",
                    "custodians",
                    "until",
                    "reviewer",
                    "finding",
                    "refused",
                ],
            );
            report
                .break_glass
                .add(entry(log, record, &format!("{action} {account}"), &details));
        } else if is(EventKind::AdminReview) {
            let details = details(
                body,
                &["reviewer", "from", "until", "note", "report_sha256"],
            );
            report.reviews.add(entry(log, record, "review", &details));
        } else if is(EventKind::ConfigChange) {
            let details = details(
                body,
                &["changed", "cipher_policy", "faults", "config_sha256"],
            );
            report
                .configuration
                .add(entry(log, record, "configuration", &details));
        } else if is(EventKind::LogRead) {
            report.readings.add(&format!(
                "{} {}",
                who(record),
                field(body, "command").unwrap_or_default()
            ));
        } else if is(EventKind::AppStart)
            || is(EventKind::AppStop)
            || record.event.starts_with("log.")
        {
            let is_routine =
                is(EventKind::LogRotate) || is(EventKind::LogStart) || is(EventKind::LogStop);
            if !is_routine {
                let details = details(body, &["version", "bytes", "connections_cut", "error"]);
                report
                    .log_events
                    .add(entry(log, record, &record.event, &details));
            }
        }
    }

    /// Counts for all, for the day, and for who is known to be the one.
    fn add(&mut self, record: &Record, date: NaiveDate, count: impl Fn(&mut Totals)) {
        let report = &mut self.report;
        count(&mut report.totals);
        count(report.days.entry(date.to_string()).or_default());
        let Some(user) = record.user.as_ref().filter(|user| user.uid.is_some()) else {
            return;
        };
        if let Some(person) = report.people.get_mut(&user.name) {
            count(person);
        } else if report.people.len() < PEOPLE {
            count(report.people.entry(user.name.clone()).or_default());
        } else {
            report.people_left_out = true;
        }
    }
}

fn who(record: &Record) -> &str {
    record.user.as_ref().map_or("", |user| &user.name)
}

fn entry(log: usize, record: &Record, what: &str, details: &str) -> Entry {
    let reason = record.reason.as_deref().unwrap_or_default();
    let source = record.source.map(|source| format!("from {}", source.ip));
    let parts = [details, reason, source.as_deref().unwrap_or_default()];
    let details: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Entry {
        at: record.time.clone(),
        log,
        seq: record.seq,
        who: who(record).to_owned(),
        what: what.to_owned(),
        outcome: record.outcome.clone().unwrap_or_default(),
        details: details.join(", "),
    }
}

fn details(body: &Value, names: &[&str]) -> String {
    let mut out = Vec::new();
    for name in names {
        match body.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => out.push(format!("{name}: {text}")),
            Some(value) => out.push(format!("{name}: {value}")),
        }
    }
    out.join(", ")
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
