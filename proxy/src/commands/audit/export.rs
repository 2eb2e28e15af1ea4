//! `audit export`: records in one file that proves them.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use portcullis_audit::{filter::Filter, hidden::says_a_path, search::Results, text::quoted};
use portcullis_journal::{
    proof::{provable, write_excerpt},
    tree::key::{public_key_path, read_verifier_keys},
};
use sha2::{Digest as _, Sha256};

use super::{
    Logs, complain, put,
    search::{FilterArgs, complain_of_hidden},
};

/// Of an excerpt: its records may tell more than others should read.
const MODE: u32 = 0o600;
/// Records that one excerpt can have; each needs a kilobyte of memory and of the file at most.
const MOST: usize = 1_000_000;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// The excerpt, a new file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Export nothing if one of the records has a path in clear
    #[arg(long)]
    redact_paths: bool,
    /// Public keys of the log; those beside this gateway's signing key if left out
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl ExportArgs {
    pub(super) fn run(self, logs: &Logs, output: &mut dyn Write) -> anyhow::Result<()> {
        let [directory] = logs.directories.as_slice() else {
            bail!("an excerpt is of one log: give one --log");
        };
        let (criteria, mut filters) = self.filter.criteria(logs)?;
        put(&mut filters, "output", self.output.to_str());
        if self.redact_paths {
            filters.insert("redact_paths".to_owned(), true.into());
        }
        let key = match &self.key {
            Some(key) => key.clone(),
            None => public_key_path(
                &logs
                    .journal()
                    .context("give the log's public key with --key FILE")?
                    .signing_key,
            ),
        };
        let keys = read_verifier_keys(&key)?;
        logs.note_reading("export", filters)?;

        let signed = provable(directory, &keys)?;
        let filter = Filter::from(criteria);
        let revealer = self.filter.unseal().revealer()?;
        let mut chosen = BTreeSet::new();
        let mut younger = 0_u64;
        for found in Results::of(&logs.directories, &filter, revealer.as_ref())? {
            let found = found?;
            if found.record.seq >= signed {
                younger += 1;
                continue;
            }
            if self.redact_paths {
                let record = serde_json::from_slice(&found.line)?;
                if let Some(field) = says_a_path(&record) {
                    bail!(
                        "record {} has a path in clear ({field}), and nothing can be cut out of a record: leave it out with the \
                         filters, or set path_mode = \"hmac\" or \"sealed\" in [journal] for what is recorded from then on",
                        record.seq
                    );
                }
            }
            chosen.insert(found.record.seq);
            ensure!(
                chosen.len() <= MOST,
                "there are more than {MOST} records; ask for less, such as a day, and make several excerpts"
            );
        }
        complain_of_hidden(&filter);
        if younger > 0 {
            complain(&format!(
                "{younger} record(s) were left out, since no checkpoint covers them yet; a running daemon signs within a minute"
            ));
        }
        ensure!(
            !chosen.is_empty(),
            "no record that a checkpoint covers matches; there is nothing to export"
        );
        let digest = write_new(&self.output, |out| {
            Ok(write_excerpt(directory, &chosen, &keys, out)?)
        })?;
        writeln!(
            output,
            "{} record(s) written: {}, SHA-256 {digest}",
            chosen.len(),
            quoted(self.output.as_os_str().as_encoded_bytes())
        )?;
        Ok(())
    }
}

/// Writes a whole file or none; gives its SHA-256.
pub(super) fn write_new(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut partial = file.to_owned().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let created = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&partial)
        .with_context(|| format!("write {}", partial.display()))?;
    let mut out = Hashed {
        out: BufWriter::new(created),
        hash: Sha256::new(),
    };
    let written = write(&mut out).and_then(|()| {
        let file = out.out.into_inner().map_err(|error| error.into_error())?;
        Ok(file.sync_all()?)
    });
    // Not over another excerpt.
    let placed = written.and_then(|()| {
        fs::hard_link(&partial, file).with_context(|| {
            format!(
                "write {}; name a file that is not there yet",
                file.display()
            )
        })
    });
    fs::remove_file(&partial).with_context(|| format!("remove {}", partial.display()))?;
    placed?;
    Ok(hex::encode(out.hash.finalize()))
}

struct Hashed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.out.write(bytes)?;
        self.hash.update(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
