//! The report as a summary for a terminal.

use std::fmt::Write as _;

use super::{Listing, Relaxation, Report, Tally};
use crate::text::{seconds, sentence, size, word};

/// Entries of a list that the summary shows.
const SHOWN: usize = 10;

impl Report {
    /// The summary. Nothing in it can deceive a terminal.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let totals = &self.totals;
        let _ = writeln!(
            out,
            "Activity from {} to {} (days and hours: {}, business hours {})",
            seconds(&self.from),
            seconds(&self.until),
            self.zone,
            sentence(&self.business_hours)
        );
        for log in &self.logs {
            let covered = match &log.coverage {
                Some(covered) => format!(
                    "records {} to {} of {}",
                    covered.first_seq,
                    covered.last_seq,
                    word(&covered.node)
                ),
                None => "no records".to_owned(),
            };
            let _ = writeln!(out, "  log {}: {covered}", word(&log.log));
        }
        for (what, count) in [
            ("connections", totals.connections),
            ("logins", totals.logins),
            ("failed login steps", totals.failures),
            ("denials", totals.denials),
            ("unknown ends", totals.unknown),
        ] {
            let _ = writeln!(out, "{what:<22}{count}");
        }
        for (what, count, bytes) in [
            ("uploads", totals.uploads, totals.upload_bytes),
            ("downloads", totals.downloads, totals.download_bytes),
        ] {
            let _ = writeln!(out, "{what:<22}{count} ({})", size(bytes));
        }
        for (title, tally) in self.tallies() {
            top(&mut out, title, tally);
        }
        self.relaxed(&mut out);
        for (title, listing) in self.listings() {
            list(&mut out, title, listing);
        }
        out
    }

    pub(super) fn tallies(&self) -> [(&'static str, &Tally); 11] {
        [
            ("Failed login steps by reason", &self.failures_by_reason),
            ("Failed login steps by source", &self.failures_by_source),
            ("Failed login steps by claimed name", &self.failures_by_name),
            ("Denials by reason", &self.denials_by_reason),
            ("Denials by user", &self.denials_by_user),
            ("Denials by path", &self.denials_by_path),
            ("Connections turned away", &self.refused_connections),
            ("Channel requests refused", &self.refused_channels),
            ("Failed operations", &self.failed_operations),
            ("Account changes", &self.account_changes),
            ("Readings of the log", &self.readings),
        ]
    }

    pub(super) fn listings(&self) -> [(&'static str, &Listing); 10] {
        [
            ("Bulk downloads", &self.bulk_downloads),
            ("Logins outside business hours", &self.off_hours),
            ("Denials", &self.denials),
            ("Bans", &self.bans),
            ("Changes of lists", &self.list_changes),
            ("Changes of accounts", &self.accounts),
            ("Changes of the configuration", &self.configuration),
            ("Break-glass", &self.break_glass),
            ("Reviews", &self.reviews),
            ("The gateway and its log", &self.log_events),
        ]
    }

    fn relaxed(&self, out: &mut String) {
        let all: Vec<&Relaxation> = self.relaxations.all().collect();
        let _ = writeln!(out, "\nRelaxations: {}", all.len());
        for relaxation in all {
            let _ = write!(
                out,
                "  {}: {}; owner {}, until {}, because {}",
                sentence(&relaxation.of),
                sentence(&relaxation.what),
                sentence(&relaxation.owner),
                sentence(&relaxation.expires),
                sentence(&relaxation.reason)
            );
            if let Some(ended) = &relaxation.ended {
                let _ = write!(out, "; taken back {}", seconds(ended));
            }
            out.push('\n');
        }
        if self.relaxations.left_out() > 0 {
            let _ = writeln!(out, "  and {} more", self.relaxations.left_out());
        }
    }
}

fn top(out: &mut String, title: &str, tally: &Tally) {
    if tally.total() == 0 {
        return;
    }
    let about = if tally.is_estimated() {
        ", at most"
    } else {
        ""
    };
    let _ = writeln!(out, "\n{title}: {}", tally.total());
    for (name, count) in tally.top().into_iter().take(SHOWN) {
        let _ = writeln!(out, "  {count:>8}{about}  {}", word(name));
    }
}

fn list(out: &mut String, title: &str, listing: &Listing) {
    if listing.entries.is_empty() {
        return;
    }
    let all = listing.entries.len() as u64 + listing.left_out;
    let _ = writeln!(out, "\n{title}: {all}");
    for entry in listing.entries.iter().take(SHOWN) {
        let _ = writeln!(
            out,
            "  {} {} {} {}: {}",
            seconds(&entry.at),
            word(&entry.who),
            sentence(&entry.what),
            word(&entry.outcome),
            sentence(&entry.details)
        );
    }
    if all > SHOWN as u64 {
        let _ = writeln!(out, "  and {} more", all - SHOWN as u64);
    }
}
