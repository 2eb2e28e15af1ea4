//! `audit hold`: records of a time stay, however old they get, until somebody says that they may go.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use clap::{Args, Subcommand};
use portcullis_audit::{
    text::word,
    time::{Moment, as_recorded},
};
use portcullis_journal::{
    record::untrusted,
    retention::{HOLD_SUFFIX, Hold, holds},
};
use serde_json::{Map, Value, json};

use super::{super::break_glass::becomes_durable, Logs};
use crate::{accounts::Accounts, commands::account::actor};

/// Longest name of a hold, in bytes; its file's name has to fit.
const LONGEST_NAME: usize = 100;

#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Keep the records of a time, or all of them, from now on
    Add(AddArgs),
    /// Let a hold go; its records are deleted when they are too old
    Release(ReleaseArgs),
    /// Show the holds
    List {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Letters, digits, '.', '-' and '_'
    #[arg(value_parser = name)]
    name: String,
    /// From this time on: 2026-11-22T23:00:00Z, 2026-11-22, or 90m, 12h, 7d ago. From the beginning if left out
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before this time; a day counts as a whole. To the end, also of what is still to come, if left out
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    #[arg(long)]
    reason: String,
    /// Who asked for it
    #[arg(long, value_name = "PERSON")]
    by: String,
}

#[derive(Debug, Args)]
struct ReleaseArgs {
    #[arg(value_parser = name)]
    name: String,
    #[arg(long)]
    reason: String,
    /// Who allowed it
    #[arg(long, value_name = "PERSON")]
    by: String,
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.is_empty()
        || text.len() > LONGEST_NAME
        || text.starts_with('.')
        || !text.chars().all(is_plain)
    {
        return Err(format!(
            "expected up to {LONGEST_NAME} letters, digits, '.', '-' and '_', not beginning with '.'"
        ));
    }
    Ok(text.to_owned())
}

impl HoldArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let folder = logs.journal()?.holds();
        match self.action {
            Action::Add(arguments) => arguments.run(&folder, outbox(logs)?, output),
            Action::Release(arguments) => arguments.run(&folder, outbox(logs)?, logs, output),
            Action::List { json } => list(&folder, json, output),
        }
    }
}

fn outbox(logs: &Logs) -> anyhow::Result<&Accounts> {
    match &logs.outbox {
        Ok(accounts) => Ok(accounts),
        Err(error) => bail!("nothing is changed, since it can't be put on record: {error:#}"),
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{HOLD_SUFFIX}"))
}

fn details(
    action: &str,
    name: &str,
    hold: &Hold,
    (by, reason): (&str, &str),
) -> Map<String, Value> {
    let fields = [
        ("hold", name.into()),
        ("change", action.into()),
        ("since", hold.since.map(as_recorded).into()),
        ("until", hold.until.map(as_recorded).into()),
        ("by", untrusted(by.as_bytes())),
        ("reason", untrusted(reason.as_bytes())),
    ];
    fields
        .into_iter()
        .map(|(field, value)| (field.to_owned(), value))
        .collect()
}

impl AddArgs {
    fn run(self, folder: &Path, accounts: &Accounts, output: &mut dyn Write) -> anyhow::Result<()> {
        let now = Utc::now();
        ensure!(
            !self.reason.trim().is_empty() && !self.by.trim().is_empty(),
            "--reason and --by must say something"
        );
        let hold = Hold {
            since: self.since.map(|since| since.begin(now)),
            until: self.until.map(|until| until.end(now)),
            reason: self.reason,
            by: self.by,
        };
        if let (Some(since), Some(until)) = (hold.since, hold.until) {
            ensure!(since < until, "--since is not before --until");
        }
        let path = path(folder, &self.name);
        // It protects before it is on record: too much is kept rather than too little.
        write(folder, &path, &hold).with_context(|| {
            format!(
                "write the hold {}; a name can be used once at a time",
                path.display()
            )
        })?;
        let noted = accounts.administer(actor()).note_hold(details(
            "added",
            &self.name,
            &hold,
            (&hold.by, &hold.reason),
        ));
        if let Err(error) = noted {
            fs::remove_file(&path)
                .with_context(|| format!("take {} back, which is not on record", path.display()))?;
            return Err(error.into());
        }
        writeln!(output, "the hold {} keeps {}", self.name, described(&hold))?;
        Ok(())
    }
}

fn write(folder: &Path, path: &Path, hold: &Hold) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // Until it is whole it holds everything, which does no harm.
    let written = file
        .write_all(&serde_json::to_vec(hold)?)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::File::open(folder)?.sync_all());
    if written.is_err() {
        // It would hold everything for ever.
        let _ = fs::remove_file(path);
    }
    written
}

impl ReleaseArgs {
    fn run(
        self,
        folder: &Path,
        accounts: &Accounts,
        logs: &Logs,
        output: &mut dyn Write,
    ) -> anyhow::Result<()> {
        ensure!(
            !self.reason.trim().is_empty() && !self.by.trim().is_empty(),
            "--reason and --by must say something"
        );
        let all = holds(folder)?;
        let Some((_, hold)) = all.into_iter().find(|(name, _)| *name == self.name) else {
            bail!(
                "there is no hold {}; `audit hold list` shows them",
                self.name
            );
        };
        let administration = accounts.administer(actor());
        let details = details("released", &self.name, &hold, (&self.by, &self.reason));
        let note = administration.note_hold(details)?;
        // What it keeps may be gone within the hour: first the record, then the release.
        if !becomes_durable(accounts, note, logs.patience)? && administration.withdraw_hold(note)? {
            bail!(
                "the daemon did not put the release on record within {} s, so the hold stays; see whether it runs and \
                 whether its journal can be written",
                logs.patience.as_secs()
            );
        }
        let path = path(folder, &self.name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        writeln!(output, "the hold {} is released", self.name)?;
        Ok(())
    }
}

fn list(folder: &Path, as_json: bool, output: &mut dyn Write) -> anyhow::Result<()> {
    let all = holds(folder).context("nothing is deleted as long as this can't be read")?;
    if as_json {
        let all: Vec<_> = all
            .into_iter()
            .map(|(name, hold)| json!({ "name": name, "hold": hold }))
            .collect();
        writeln!(output, "{}", Value::from(all))?;
        return Ok(());
    }
    if all.is_empty() {
        writeln!(output, "there are no holds")?;
    }
    for (name, hold) in all {
        writeln!(
            output,
            "{name}: {}; by {}: {}",
            described(&hold),
            word(&hold.by),
            word(&hold.reason)
        )?;
    }
    Ok(())
}

fn described(hold: &Hold) -> String {
    match (hold.since, hold.until) {
        (None, None) => "all records".to_owned(),
        (Some(since), None) => format!("records from {} on", as_recorded(since)),
        (None, Some(until)) => format!("records until {}", as_recorded(until)),
        (Some(since), Some(until)) => format!(
            "records from {} until {}",
            as_recorded(since),
            as_recorded(until)
        ),
    }
}
