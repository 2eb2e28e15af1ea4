//! `audit manifests`: those that the daemon wrote, and whether they are there as they were written.

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use chrono::{TimeDelta, Utc};
use clap::Args;
use portcullis_audit::{
    filter::{Criteria, Filter},
    search::Results,
    text::{harmless_json, seconds, word},
    time::{Moment, as_recorded},
};
use portcullis_journal::{EventKind, read::Record};
use serde_json::{Map, Value, json};

use super::{Logs, put};
use crate::manifests::{Folder, Kept};

#[derive(Debug, Args)]
pub(super) struct ManifestsArgs {
    /// Only those of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Written from this time on: 2026-11-22T23:00:00Z, 2026-11-22, or 90m, 12h, 7d ago
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before this time; a day counts as a whole
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Where they are; manifests.directory of the configuration if left out
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// One that is on record.
#[derive(Debug)]
struct Written {
    time: String,
    session: String,
    user: String,
    file: String,
    sha256: String,
    files: Option<u64>,
}

impl Written {
    fn of(record: &Record) -> Option<Self> {
        let text = |field: &str| Some(record.body.get(field)?.as_str()?.to_owned());
        Some(Self {
            time: record.time.clone(),
            session: text("session")?,
            user: text("user")?,
            file: text("file")?,
            sha256: text("sha256")?,
            files: record.body.get("files").and_then(Value::as_u64),
        })
    }

    fn print(&self, state: &str, as_json: bool, output: &mut dyn Write) -> anyhow::Result<()> {
        if as_json {
            let json = json!({
                "state": state,
                "time": self.time,
                "session": self.session,
                "user": self.user,
                "files": self.files,
                "file": self.file,
                "sha256": self.sha256,
            });
            writeln!(output, "{}", harmless_json(&json.to_string()))?;
            return Ok(());
        }
        writeln!(
            output,
            "{state:<8} {} {} {} file(s) {}",
            seconds(&self.time),
            word(&self.user),
            self.files.unwrap_or_default(),
            word(&self.file)
        )?;
        Ok(())
    }
}

impl ManifestsArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let now = Utc::now();
        let criteria = Criteria {
            events: vec![EventKind::ManifestWritten.name().to_owned()],
            outcomes: vec!["success".to_owned()],
            since: self.since.as_ref().map(|since| since.begin(now)),
            until: self.until.as_ref().map(|until| until.end(now)),
            ..Criteria::default()
        };
        if let (Some(since), Some(until)) = (criteria.since, criteria.until) {
            ensure!(since < until, "--since is not before --until");
        }
        let mut filters = Map::new();
        put(&mut filters, "user", self.user.as_ref());
        put(&mut filters, "since", criteria.since.map(as_recorded));
        put(&mut filters, "until", criteria.until.map(as_recorded));
        logs.note_reading("manifests", filters)?;
        let (folder, keep) = self.folder(logs)?;
        // One that is written again, after a crash, counts as it was written last.
        let mut written = BTreeMap::new();
        let filter = Filter::from(criteria);
        for (number, found) in Results::of(&logs.directories, &filter, None)?.enumerate() {
            let Some(found) = Written::of(&found?.record) else {
                continue;
            };
            if self.user.as_ref().is_none_or(|user| *user == found.user) {
                written.insert(found.file.clone(), (number, found));
            }
        }
        let mut written: Vec<_> = written.into_values().collect();
        written.sort_by_key(|(number, _)| *number);
        let too_old = keep.map(|keep| (now - keep).date_naive().to_string());
        let mut lacking = 0_usize;
        for (_, manifest) in &written {
            let state = folder
                .state(&manifest.file, &manifest.sha256)
                .with_context(|| format!("read the manifest {}", word(&manifest.file)))?;
            let is_removed = state == Kept::Missing
                && too_old.as_ref().is_some_and(|first| {
                    manifest
                        .file
                        .get(..10)
                        .is_some_and(|day| day < first.as_str())
                });
            let state = match state {
                Kept::Missing if is_removed => "removed",
                Kept::Same => Kept::Same.name(),
                Kept::Missing | Kept::Changed => {
                    lacking += 1;
                    state.name()
                }
            };
            manifest.print(state, self.json, output)?;
        }
        if lacking > 0 {
            output.flush()?;
            bail!(
                "{lacking} of {} manifest(s) are missing or changed; `audit manifest SESSION` writes one again from the journal",
                written.len()
            );
        }
        Ok(())
    }

    /// And how long they are kept.
    fn folder(&self, logs: &Logs) -> anyhow::Result<(Folder, Option<TimeDelta>)> {
        match (&self.directory, &logs.manifests) {
            (Some(directory), Ok(config)) if *directory == config.directory => {
                Ok((Folder::at(directory), config.keep))
            }
            (Some(directory), Ok(_) | Err(_)) => {
                ensure!(
                    directory.is_dir(),
                    "{} is not a directory",
                    directory.display()
                );
                Ok((Folder::at(directory), None))
            }
            (None, Ok(config)) => Ok((Folder::at(&config.directory), config.keep)),
            (None, Err(error)) => bail!("{error}; or name the directory with --directory"),
        }
    }
}
