//! Keys for logs that hide paths, and the command that makes the auditor's.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use portcullis_audit::hidden::{AuditorSecret, HiddenKeyError, PathKey, Revealer};

use super::Logs;
use crate::config::PathMode;

#[derive(Debug, Args)]
pub(super) struct PathKeyArgs {
    /// The key of a log that hides paths, journal.path_key_file; this gateway's own if left out
    #[arg(long, value_name = "FILE")]
    path_key: Option<PathBuf>,
}

impl PathKeyArgs {
    /// The key, where there is one to be expected.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn key(&self, logs: &Logs) -> anyhow::Result<Option<PathKey>> {
        if let Some(path) = &self.path_key {
            return Ok(Some(PathKey::read(path)?));
        }
        let Ok(journal) = &logs.journal else {
            return Ok(None);
        };
        match PathKey::read(&journal.path_key) {
            Ok(key) => Ok(Some(key)),
            // Paths were never hidden.
            Err(HiddenKeyError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound
                    && journal.paths == PathMode::Clear =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context(
                "the log hides paths, and its key can't be used; give a copy of it with --path-key FILE",
            ),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct UnsealArgs {
    /// The auditor's secret key: show paths that were sealed to it
    #[arg(long, value_name = "FILE")]
    unseal: Option<PathBuf>,
}

impl UnsealArgs {
    pub(super) fn is_given(&self) -> bool {
        self.unseal.is_some()
    }

    /// # Errors
    /// If the key can't be read.
    pub(super) fn revealer(&self) -> anyhow::Result<Option<Revealer>> {
        let secret = self
            .unseal
            .as_deref()
            .map(AuditorSecret::read)
            .transpose()?;
        Ok(secret.map(Revealer::new))
    }
}

#[derive(Debug, Args)]
pub(super) struct AuditorKeyArgs {
    /// The secret key, a new file; its public half goes into FILE.pub
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl AuditorKeyArgs {
    pub(super) fn run(self, output: &mut dyn Write) -> anyhow::Result<()> {
        let (_, public) = AuditorSecret::generate(&self.file)?;
        let text = public.to_text();
        let mut path = self.file.clone().into_os_string();
        path.push(".pub");
        fs::write(&path, format!("{text}\n"))
            .with_context(|| format!("write {}", PathBuf::from(&path).display()))?;
        writeln!(
            output,
            "The secret key is in {}: keep it off the gateway, and keep a copy, since nothing else opens what is sealed to it. \
             The gateway's configuration gets the public one:\nauditor_key = \"{text}\"",
            self.file.display()
        )?;
        Ok(())
    }
}
