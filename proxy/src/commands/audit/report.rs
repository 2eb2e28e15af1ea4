//! `audit report`: what happened in a period, for the one who reviews it.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use chrono::Utc;
use chrono_tz::Tz;
use clap::Args;
use portcullis_audit::{
    coverage::coverage,
    merge::Merge,
    report::{Counting, Report, Scope},
    text::{harmless_json, quoted},
    time::{Asked, Period, as_recorded},
};
use portcullis_journal::read::Part;
use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::{Logs, put};
use crate::accounts::{hours::AllowedHours, mounts::parse_size};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// 2026-11, 2026-11-01..2026-11-30 (both days included, UTC), or 7d for the last seven days
    #[arg(long, value_name = "PERIOD")]
    period: Asked,
    /// Write the report with its pictures to FILE, one page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the report to FILE for programs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Business hours: logins outside of them are named
    #[arg(long, value_name = "HOURS", default_value = "Mon-Fri 07:00-19:00")]
    hours: String,
    /// Whose hours and days are meant, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    zone: Tz,
    /// Downloads of one person on one day from which on they are bulk, in files
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    bulk_files: u64,
    /// The same in bytes, such as 500M
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    bulk_bytes: u64,
}

impl ReportArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let period = self.period.at(Utc::now());
        let hours: AllowedHours = format!("{} {}", self.hours, self.zone.name())
            .parse()
            .with_context(|| format!("--hours {:?}", self.hours))?;
        let mut filters = Map::new();
        put(&mut filters, "since", Some(as_recorded(period.from)));
        put(&mut filters, "until", Some(as_recorded(period.until)));
        logs.note_reading("report", filters)?;

        let report = self.count(logs, period, &hours)?;
        write!(output, "{}", report.summary())?;
        if let Some(file) = &self.html {
            write(file, &report.html()?, output)?;
        }
        if let Some(file) = &self.json {
            let json = serde_json::to_string_pretty(&report)?;
            write(file, &format!("{}\n", harmless_json(&json)), output)?;
        }
        Ok(())
    }

    fn count(&self, logs: &Logs, period: Period, hours: &AllowedHours) -> anyhow::Result<Report> {
        let scope = Scope {
            period,
            zone: self.zone,
            hours: self.hours.clone(),
            is_business: &|at| hours.allow(at),
            bulk_files: self.bulk_files,
            bulk_bytes: self.bulk_bytes,
        };
        let mut counting = Counting::new(scope, &logs.directories);
        let part = Part {
            until: Some(as_recorded(period.until)),
            ..Part::default()
        };
        let mut merge = Merge::of(&logs.directories, &part)?;
        while let Some((log, record)) = merge.next(&|line| counting.matters(line))? {
            counting.hear(log, &record);
        }
        for (number, directory) in logs.directories.iter().enumerate() {
            if let Some(covered) = coverage(directory, period)? {
                counting.covered(number, covered);
            }
        }
        Ok(counting.finish())
    }
}

/// Paths may tell more than others should read.
const MODE: u32 = 0o600;

fn write(file: &Path, text: &str, output: &mut dyn Write) -> anyhow::Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(file)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    written.with_context(|| format!("write {}", file.display()))?;
    writeln!(
        output,
        "\nwritten: {}, SHA-256 {}",
        quoted(file.as_os_str().as_encoded_bytes()),
        hex::encode(Sha256::digest(text.as_bytes()))
    )?;
    Ok(())
}

fn zone(text: &str) -> Result<Tz, String> {
    text.parse()
        .map_err(|_| "expected a time zone such as UTC or Europe/Berlin".to_owned())
}
