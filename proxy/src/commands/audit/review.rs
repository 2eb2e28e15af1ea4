//! `audit review sign`: a reviewer attests to what he saw of a period.

use std::{fs, io, io::Write, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use clap::{Args, Subcommand};
use portcullis_audit::{
    coverage::coverage,
    text::word,
    time::{Asked, as_recorded},
};
use portcullis_journal::record::untrusted;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{super::break_glass::becomes_durable, Logs};
use crate::commands::account::actor;

#[derive(Debug, Args)]
pub(super) struct ReviewArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put on record that somebody reviewed a period that is over, up to which record, and what was found
    Sign(SignArgs),
}

#[derive(Debug, Args)]
struct SignArgs {
    /// 2026-11, 2026-11-01..2026-11-30 (both days included, UTC), or 7d for the last seven days
    #[arg(long, value_name = "PERIOD")]
    period: Asked,
    /// Who reviewed it
    #[arg(long, value_name = "PERSON")]
    reviewer: String,
    /// What was found
    #[arg(long)]
    note: String,
    /// The report that was read; its SHA-256 goes on record
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Don't wait until the daemon has it in its journal
    #[arg(long)]
    no_wait: bool,
}

impl ReviewArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        match self.action {
            Action::Sign(arguments) => arguments.run(logs, output),
        }
    }
}

impl SignArgs {
    fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        ensure!(
            !self.reviewer.trim().is_empty() && !self.note.trim().is_empty(),
            "--reviewer and --note must say something"
        );
        let now = Utc::now();
        let period = self.period.at(now);
        ensure!(
            period.until <= now,
            "the period ends {}, which is not over; sign for one that is",
            as_recorded(period.until)
        );
        let accounts = match &logs.outbox {
            Ok(accounts) => accounts,
            Err(error) => bail!("nothing is signed, since it can't be put on record: {error:#}"),
        };
        let mut details = Map::new();
        let mut put = |name: &str, value: Value| details.insert(name.to_owned(), value);
        put("from", as_recorded(period.from).into());
        put("until", as_recorded(period.until).into());
        put("reviewer", untrusted(self.reviewer.as_bytes()));
        put("note", untrusted(self.note.as_bytes()));
        if let Some(file) = &self.report {
            put("report", untrusted(file.as_os_str().as_encoded_bytes()));
            put("report_sha256", digest(file)?.into());
        }
        let mut covered = Vec::new();
        for directory in &logs.directories {
            if let Some(found) = coverage(directory, period)? {
                covered.push(json!({
                    "log": untrusted(directory.as_os_str().as_encoded_bytes()),
                    "node": found.node,
                    "first_seq": found.first_seq,
                    "last_seq": found.last_seq,
                    "last_time": found.last_time,
                    "last_sha256": found.last_sha256,
                }));
            }
        }
        ensure!(
            !covered.is_empty(),
            "the log has no record from {} to {}: there is nothing to sign for",
            as_recorded(period.from),
            as_recorded(period.until)
        );
        put("covered", covered.into());

        let administration = accounts.administer(actor());
        let note = administration.attest(details)?;
        if self.no_wait {
            writeln!(
                output,
                "the review by {} waits for the daemon to put it on record",
                word(&self.reviewer)
            )?;
            return Ok(());
        }
        let patience = logs.patience;
        if !becomes_durable(accounts, note, patience)?
            && administration.withdraw_attestation(note)?
        {
            bail!(
                "the daemon did not put the review on record within {} s, so nothing is signed; see whether it runs and \
                 whether its journal can be written, or give --no-wait",
                patience.as_secs()
            );
        }
        writeln!(
            output,
            "the review by {} is on record",
            word(&self.reviewer)
        )?;
        Ok(())
    }
}

fn digest(file: &std::path::Path) -> anyhow::Result<String> {
    let mut digest = Sha256::new();
    let read =
        fs::File::open(file).and_then(|mut file| io::copy(&mut file, &mut Writer(&mut digest)));
    read.with_context(|| format!("read {}", file.display()))?;
    Ok(hex::encode(digest.finalize()))
}

struct Writer<'a>(&'a mut Sha256);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
