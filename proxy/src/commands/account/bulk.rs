//! `account export` and `account import`.

use std::{
    fs,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};

use super::Streams;
use crate::{
    accounts::{
        Accounts, Administration,
        bulk::{self, Counts, Fault, Format, Mode},
    },
    auth::public_key::KeyRules,
};

/// Longest file that is read, in bytes.
const FILE_MAX: u64 = 256 << 20;
/// Most faults that are printed.
const FAULTS_SHOWN: usize = 100;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FormatName {
    Csv,
    Json,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Csv => Self::Csv,
            FormatName::Json => Self::Json,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// As `account export` writes it, or `-` for standard input
    file: PathBuf,
    /// By the file's ending if left out
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Make accounts that exist as the file has them, which ends their sessions; otherwise a difference is a fault
    #[arg(long)]
    update: bool,
    /// Try everything and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn export(
    accounts: &Accounts,
    format: FormatName,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    bulk::write(&accounts.export()?, format.into(), output).context("write the accounts")
}

impl ImportArgs {
    pub(super) fn run(
        self,
        administration: &Administration<'_>,
        backends: &[String],
        rules: KeyRules,
        streams: &mut Streams<'_>,
    ) -> anyhow::Result<()> {
        let format = self.format()?;
        let bytes = read_file(&self.file, streams)?;
        let entries = bulk::read(&bytes, format, rules).map_err(|faults| refusal(&faults))?;
        let total = entries.len();
        let mut progress = |done: usize| {
            // Whoever can't see it does not miss it.
            let _ = writeln!(io::stderr(), "{done} of {total} accounts");
        };
        let mode = Mode {
            update: self.update,
            dry_run: self.dry_run,
        };
        let counts = administration
            .import(&entries, mode, backends, &mut progress)?
            .map_err(|faults| refusal(&faults))?;
        let Counts {
            added,
            updated,
            unchanged,
        } = counts;
        let tense = if self.dry_run { "would be" } else { "were" };
        writeln!(
            streams.output,
            "{added} {tense} added, {updated} updated, {unchanged} are as they are in the file"
        )?;
        Ok(())
    }

    fn format(&self) -> anyhow::Result<Format> {
        if let Some(format) = self.format {
            return Ok(format.into());
        }
        match self.file.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Ok(Format::Csv),
            Some("json") => Ok(Format::Json),
            Some(_) | None => bail!(
                "{} ends neither in .csv nor in .json; say --format csv or --format json",
                self.file.display()
            ),
        }
    }
}

fn read_file(file: &Path, streams: &mut Streams<'_>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        streams.input.take(FILE_MAX + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(file).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
    };
    let length = read.with_context(|| format!("read {}", file.display()))?;
    ensure!(
        u64::try_from(length)? <= FILE_MAX,
        "{} is longer than {FILE_MAX} bytes; import it in parts",
        file.display()
    );
    Ok(bytes)
}

fn refusal(faults: &[Fault]) -> anyhow::Error {
    let shown: Vec<_> = faults
        .iter()
        .take(FAULTS_SHOWN)
        .map(ToString::to_string)
        .collect();
    let more = match faults.len().saturating_sub(FAULTS_SHOWN) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    anyhow::anyhow!(
        "nothing is changed; the file has {} fault(s):\n  {}{more}",
        faults.len(),
        shown.join("\n  ")
    )
}
