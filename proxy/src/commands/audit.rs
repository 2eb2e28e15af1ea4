//! `portcullis-proxy audit`: questions to the journal of this gateway and to other logs of the same form.
//!
//! Whoever reads a log is on record: the command leaves a note in the accounts database, and the daemon puts it into the
//! journal.

mod begin_anew;
mod export;
mod file;
mod hidden;
mod hold;
mod manifest;
mod manifests;
mod report;
mod review;
mod search;
mod session;

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use portcullis_journal::{record::untrusted, tree::key::SigningKey};
use serde_json::{Map, Value};

use self::{
    begin_anew::BeginAnewArgs, export::ExportArgs, file::FileArgs, hidden::AuditorKeyArgs,
    hold::HoldArgs, manifest::ManifestArgs, manifests::ManifestsArgs, report::ReportArgs,
    review::ReviewArgs, search::SearchArgs, session::SessionArgs,
};
use super::{account::actor, break_glass::RECORD_DEADLINE};
use crate::{
    accounts::Accounts,
    config::{AccountsConfig, AuditCommandsConfig, ConfigError, JournalConfig, ManifestsConfig},
};

/// Ask the log who did what, and sign for what was seen
#[derive(Debug, Args)]
pub struct AuditCommand {
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Args)]
struct ReadingArgs {
    /// Directory of a log; may be given several times. The gateway's own if left out
    #[arg(long, value_name = "DIR", global = true)]
    log: Vec<PathBuf>,
    /// Read on where the reading can't be put on record, and say why
    #[arg(long, value_name = "REASON", global = true)]
    unrecorded: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Show the records of a person, a path, a source, a session, a kind or a time
    Search(Box<SearchArgs>),
    /// Tell the story of one session
    Session(SessionArgs),
    /// Show who touched a file, also under names that it had, and whether what went out is what came in
    File(FileArgs),
    /// Write records with a proof of each into one file, for who has the log's public key and not the log
    Export(Box<ExportArgs>),
    /// Write a signed list of the files that a session delivered
    Manifest(ManifestArgs),
    /// List the manifests that the daemon wrote by itself, and which of them are missing or changed
    Manifests(ManifestsArgs),
    /// Count what happened in a period, for the one who reviews it
    Report(Box<ReportArgs>),
    /// Sign for what was seen of a period
    Review(Box<ReviewArgs>),
    /// Keep records beyond their time for a legal case, and let them go again
    Hold(HoldArgs),
    /// In an emergency, put a journal that can't be gone on with aside as evidence, and begin another
    BeginAnew(BeginAnewArgs),
    /// Make the key that is to sign the journal next; the daemon takes it over at its next reload or start
    ChangeKey,
    /// Make the key pair of an auditor, to whom a journal with path_mode = "sealed" seals paths
    AuditorKey(AuditorKeyArgs),
}

impl AuditCommand {
    /// # Errors
    /// If the log can't be read, or nobody would know that it was.
    pub fn run(self, config: AuditCommandsConfig) -> anyhow::Result<()> {
        let Self { reading, question } = self;
        let mut output = BufWriter::new(io::stdout().lock());
        let answered = question.answer(Logs::of(reading, config), &mut output);
        let answered = answered.and_then(|()| output.flush().map_err(anyhow::Error::from));
        match answered {
            // Whoever reads the answer has enough of it.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            answered => answered,
        }
    }
}

impl Question {
    fn answer(self, logs: anyhow::Result<Logs>, output: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            Self::Search(arguments) => arguments.run(&logs?, output),
            Self::Session(arguments) => arguments.run(&logs?, output),
            Self::File(arguments) => arguments.run(&logs?, output),
            Self::Export(arguments) => arguments.run(&logs?, output),
            Self::Manifest(arguments) => arguments.run(&logs?, output),
            Self::Manifests(arguments) => arguments.run(&logs?, output),
            Self::Report(arguments) => arguments.run(&logs?, output),
            Self::Review(arguments) => arguments.run(&logs?, output),
            Self::Hold(arguments) => arguments.run(&logs?, output),
            Self::BeginAnew(arguments) => arguments.run(&logs?, output),
            Self::ChangeKey => change_key(&logs?, output),
            // An auditor's machine has no log.
            Self::AuditorKey(arguments) => arguments.run(output),
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The logs that are asked, and where it is noted that they are.
struct Logs {
    directories: Vec<PathBuf>,
    outbox: anyhow::Result<Accounts>,
    journal: Result<JournalConfig, ConfigError>,
    manifests: Result<ManifestsConfig, ConfigError>,
    unrecorded: Option<String>,
    /// How long the daemon gets to put an attestation on record.
    patience: Duration,
}

impl Logs {
    fn of(reading: ReadingArgs, config: AuditCommandsConfig) -> anyhow::Result<Self> {
        let directories = match &config.journal {
            Ok(journal) if reading.log.is_empty() => vec![journal.directory.clone()],
            Err(error) if reading.log.is_empty() => anyhow::bail!("{error}"),
            Ok(_) | Err(_) => reading.log,
        };
        Ok(Self {
            journal: config.journal,
            manifests: config.manifests,
            directories,
            outbox: outbox(config.accounts),
            unrecorded: reading.unrecorded,
            patience: RECORD_DEADLINE,
        })
    }

    /// The gateway's own journal.
    fn journal(&self) -> anyhow::Result<&JournalConfig> {
        self.journal
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Puts on record that the logs are about to be read, by which command and for what.
    ///
    /// # Errors
    /// If it can't, and nobody said that it need not.
    fn note_reading(&self, command: &str, filters: Map<String, Value>) -> anyhow::Result<()> {
        let mut details = Map::new();
        details.insert("command".to_owned(), command.into());
        details.insert("filters".to_owned(), filters.into());
        let logs = self
            .directories
            .iter()
            .map(|directory| untrusted(directory.as_os_str().as_encoded_bytes()));
        details.insert("logs".to_owned(), logs.collect());
        if let Some(reason) = &self.unrecorded {
            details.insert("reason".to_owned(), untrusted(reason.as_bytes()));
        }
        let noted = match &self.outbox {
            Ok(accounts) => accounts
                .administer(actor())
                .note_reading(details)
                .map(drop)
                .map_err(anyhow::Error::from),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        let Err(error) = noted else {
            return Ok(());
        };
        if self
            .unrecorded
            .as_ref()
            .is_some_and(|reason| !reason.trim().is_empty())
        {
            complain(&format!("this reading is not on record: {error:#}"));
            return Ok(());
        }
        Err(error).context(
            "this reading can't be put on record; give --unrecorded REASON to read all the same",
        )
    }
}

fn change_key(logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
    let public = SigningKey::prepare_next(&logs.journal()?.signing_key)?;
    writeln!(
        output,
        "The next key is ready; reload the daemon, and it takes over. Its public half, for those who check proofs without the \
         log:\n{public}"
    )?;
    Ok(())
}

fn outbox(config: Result<AccountsConfig, ConfigError>) -> anyhow::Result<Accounts> {
    let database = config?.database;
    // One that is made only now belongs to no daemon.
    std::fs::metadata(&database)
        .with_context(|| format!("open the accounts database {}", database.display()))?;
    Ok(Accounts::open(&database)?)
}

/// A filter as the record of the reading has it.
fn put(filters: &mut Map<String, Value>, name: &str, value: Option<impl AsRef<str>>) {
    if let Some(value) = value {
        filters.insert(name.to_owned(), untrusted(value.as_ref().as_bytes()));
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a warning beside the answer, which has standard output"
)]
fn complain(text: &str) {
    eprintln!("portcullis-proxy: {text}");
}

#[cfg(test)]
mod tests;
