//! `account add-key` and `account key`: public keys, where they may be used from, and until when.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use ipnet::IpNet;

use crate::{
    accounts::{
        AccountName, Administration, KeyTerms,
        admission::{SourceError, SourceNetwork},
        keys::{SOURCES_MAX, parse_expiry},
    },
    auth::public_key::{self, KeyRules},
};

/// Longest key file that is read, in bytes.
const KEY_FILE_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct AddKeyArgs {
    name: AccountName,
    /// A `.pub` file, or `-` for standard input
    #[arg(long, value_name = "FILE", required_unless_present = "key")]
    key_file: Option<PathBuf>,
    /// The key itself: `TYPE BASE64 [COMMENT]`
    #[arg(long, value_name = "LINE", conflicts_with = "key_file")]
    key: Option<String>,
    /// Networks or addresses that it may be used from; from anywhere if left out
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',')]
    source: Vec<SourceNetwork>,
    /// Last day, UTC, as YYYY-MM-DD, or the moment as YYYY-MM-DDTHH:MM:SSZ
    #[arg(long, value_name = "DATE", value_parser = parse_expiry)]
    expires: Option<DateTime<Utc>>,
}

impl AddKeyArgs {
    pub(super) fn run(
        self,
        administration: &Administration<'_>,
        rules: KeyRules,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let line = match (self.key, self.key_file) {
            (Some(line), _) => line,
            (None, Some(file)) => read_key(&file, input)?,
            (None, None) => bail!("give --key-file or --key"),
        };
        let terms = KeyTerms {
            sources: checked(self.source.into_iter().map(|network| network.0).collect())?,
            expires: self.expires,
        };
        let key = public_key::parse_under(&line, rules)?;
        let fingerprint = administration.add_key_on(&self.name, &key, &terms)?;
        writeln!(output, "{fingerprint}")?;
        Ok(())
    }
}

/// What to change; what is not named stays.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["source", "expires"]))]
pub(super) struct KeyArgs {
    name: AccountName,
    /// As `account list --json` shows it: SHA256:...
    fingerprint: String,
    /// Networks or addresses that it may be used from, in place of those before, or `none` for any
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = source)]
    source: Vec<Source>,
    /// Last day, UTC, as YYYY-MM-DD, or the moment as YYYY-MM-DDTHH:MM:SSZ, or `none`
    #[arg(long, value_name = "DATE", value_parser = expiry)]
    expires: Option<Expiry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    None,
    Network(IpNet),
}

#[derive(Debug, Clone, Copy)]
enum Expiry {
    None,
    At(DateTime<Utc>),
}

impl KeyArgs {
    pub(super) fn run(self, administration: &Administration<'_>) -> anyhow::Result<()> {
        let sources = match self.source.as_slice() {
            [] => None,
            [Source::None] => Some(Vec::new()),
            sources => Some(checked(
                sources
                    .iter()
                    .map(|source| match source {
                        Source::Network(network) => Ok(*network),
                        Source::None => bail!("--source none stands alone"),
                    })
                    .collect::<Result<_, _>>()?,
            )?),
        };
        administration.change_key(&self.name, &self.fingerprint, |before| KeyTerms {
            sources: sources.unwrap_or(before.sources),
            expires: match self.expires {
                None => before.expires,
                Some(Expiry::None) => None,
                Some(Expiry::At(moment)) => Some(moment),
            },
        })?;
        Ok(())
    }
}

fn source(text: &str) -> Result<Source, SourceError> {
    if text == "none" {
        Ok(Source::None)
    } else {
        let SourceNetwork(network) = text.parse()?;
        Ok(Source::Network(network))
    }
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "none" {
        Ok(Expiry::None)
    } else {
        parse_expiry(text).map(Expiry::At)
    }
}

/// In order, each once.
fn checked(mut sources: Vec<IpNet>) -> anyhow::Result<Vec<IpNet>> {
    sources.sort_unstable();
    sources.dedup();
    ensure!(
        sources.len() <= SOURCES_MAX,
        "a key can have {SOURCES_MAX} sources; name larger networks"
    );
    Ok(sources)
}

fn read_key(file: &Path, input: &mut dyn Read) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        input.take(KEY_FILE_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(KEY_FILE_MAX).read_to_string(&mut text))
    }
    .with_context(|| format!("read the public key {}", file.display()))?;
    ensure!(
        !text.contains("PRIVATE KEY"),
        "{} is a private key; give its .pub file",
        file.display()
    );
    let mut keys = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = keys
        .next()
        .with_context(|| format!("{} has no key", file.display()))?;
    ensure!(
        keys.next().is_none(),
        "{} has more than one key; add them one by one",
        file.display()
    );
    Ok(first.to_owned())
}
