//! `audit begin-anew`: the emergency way on when the journal can't be gone on with. What was there stays as evidence, and the
//! first thing in the new journal is who did this, why, and where the old one ended.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use clap::Args;
use portcullis_journal::{
    Event, EventKind, Journal, OpenError, Verdict,
    record::untrusted,
    tree::{
        checkpoint::{CHECKPOINTS, notes},
        key::public_key_path,
    },
};

use super::Logs;
use crate::{commands::account::actor, config::JournalConfig};

#[derive(Debug, Args)]
pub(super) struct BeginAnewArgs {
    /// What the emergency is
    #[arg(long)]
    reason: String,
    /// Who decided it
    #[arg(long, value_name = "PERSON")]
    by: String,
}

impl BeginAnewArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        ensure!(
            !self.reason.trim().is_empty() && !self.by.trim().is_empty(),
            "--reason and --by must say something"
        );
        let config = logs.journal()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let fault = match Journal::open(config.options()) {
            Ok((journal, _)) => {
                runtime.block_on(journal.close())?;
                bail!("the journal can be gone on with: start the daemon; nothing was changed");
            }
            Err(OpenError::Locked { .. }) => {
                bail!(
                    "the daemon has the journal open; stop it first, and nothing is served meanwhile"
                )
            }
            Err(OpenError::Recover { source, .. }) => source.to_string(),
            // A disk or a key that is not right is to be put right.
            Err(error) => return Err(error.into()),
        };
        let (records, checkpoint) = last_checkpoint(&config.directory);
        let suffix = Utc::now().format(".broken-%Y%m%dT%H%M%SZ").to_string();
        let evidence = put_aside(config, &suffix)?;

        let mut event = Event::new(EventKind::LogBeginAnew);
        event.outcome = Some(Verdict::Success);
        event.reason = Some("not_usable".to_owned());
        for (field, value) in [
            ("actor", untrusted(actor().as_bytes())),
            ("by", untrusted(self.by.as_bytes())),
            ("why", untrusted(self.reason.as_bytes())),
            ("fault", untrusted(fault.as_bytes())),
            (
                "evidence",
                untrusted(evidence.as_os_str().as_encoded_bytes()),
            ),
            ("signed_records", records.into()),
            ("last_checkpoint", untrusted(checkpoint.as_bytes())),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        let (journal, _) = Journal::open(config.options())
            .context("the old journal is put aside, but no new one can be begun")?;
        runtime.block_on(async {
            journal.append(event).await?;
            journal.close().await
        })?;
        writeln!(
            output,
            "The old journal is kept as {evidence}, with its key beside the other one ({suffix}). Copy both, let \
             portcullis-verify check the copy, and change nothing there.\nThe new journal is signed with another key; give \
             its public half to the auditors:\n{public}\nNow start the daemon.",
            evidence = evidence.display(),
            public = fs::read_to_string(public_key_path(&config.signing_key))?.trim(),
        )?;
        Ok(())
    }
}

/// The last signed head of a log, whatever it is worth, and how many records it says it covers.
fn last_checkpoint(directory: &Path) -> (Option<u64>, String) {
    let text = fs::read(directory.join(CHECKPOINTS)).unwrap_or_default();
    let last = notes(&text)
        .0
        .last()
        .map(|note| String::from_utf8_lossy(note).into_owned())
        .unwrap_or_default();
    let records = last.lines().nth(1).and_then(|size| size.parse().ok());
    (records, last)
}

/// Gives the old journal other names, and all that belongs to its numbers; returns that of its directory.
fn put_aside(config: &JournalConfig, suffix: &str) -> anyhow::Result<PathBuf> {
    let evidence = with_suffix(&config.directory, suffix);
    // The sinks' cursors count in the old journal. The holds stay: they are about time.
    for path in [
        &config.signing_key,
        &public_key_path(&config.signing_key),
        &config.sinks,
        &config.directory,
    ] {
        let aside = with_suffix(path, suffix);
        match fs::rename(path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("rename {} to {}", path.display(), aside.display()));
            }
        }
    }
    Ok(evidence)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
