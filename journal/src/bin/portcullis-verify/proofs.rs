//! `prove` and `check`: proofs that stand alone.

use std::{
    error::Error,
    fs,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use portcullis_journal::{
    proof::{
        ProofError, check_excerpt, check_growth_proof, check_record_proof, is_excerpt,
        is_record_proof, prove_growth, prove_record,
    },
    tree::key::read_verifier_keys,
};
use serde_json::{Value, json};

/// What is to be proved.
pub(crate) enum What {
    /// That the record of this number is in the log.
    Record(u64),
    /// That the log has only grown since the last checkpoint in this file.
    Growth(PathBuf),
}

pub(crate) struct Prove {
    pub(crate) directory: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) what: What,
}

pub(crate) struct Check {
    pub(crate) proof: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) since: Option<PathBuf>,
    pub(crate) json: bool,
}

pub(crate) fn prove(arguments: &Prove) -> Result<ExitCode, Box<dyn Error>> {
    let keys = read_verifier_keys(&arguments.key)?;
    let proof = match &arguments.what {
        What::Record(index) => prove_record(&arguments.directory, *index, &keys),
        What::Growth(since) => prove_growth(&arguments.directory, &read(since)?, &keys),
    };
    match proof {
        Ok(proof) => io::stdout().write_all(proof.as_bytes())?,
        Err(error) => return refused(error),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(arguments: &Check) -> Result<ExitCode, Box<dyn Error>> {
    let keys = read_verifier_keys(&arguments.key)?;
    let proof = read(&arguments.proof)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if is_excerpt(&proof) {
        let proved = match check_excerpt(&proof, &keys) {
            Ok(proved) => proved,
            Err(error) => return refused(error),
        };
        if arguments.json {
            let records: Vec<Value> = proved
                .records
                .iter()
                .map(|(index, line)| json!({ "index": index, "record": record(line) }))
                .collect();
            let report = json!({ "proved": "excerpt", "size": proved.size, "records": records });
            writeln!(out, "{report}")?;
        } else {
            writeln!(
                out,
                "OK: these are {} record(s) of a log that was signed with {} records",
                proved.records.len(),
                proved.size
            )?;
            for (_, line) in &proved.records {
                out.write_all(line)?;
                writeln!(out)?;
            }
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    if is_record_proof(&proof) {
        let proved = match check_record_proof(&proof, &keys) {
            Ok(proved) => proved,
            Err(error) => return refused(error),
        };
        if arguments.json {
            let record = record(&proved.line);
            let report = json!({ "proved": "record", "index": proved.index, "size": proved.size, "record": record });
            writeln!(out, "{report}")?;
        } else {
            writeln!(
                out,
                "OK: this is record {} of a log that was signed with {} records",
                proved.index, proved.size
            )?;
            out.write_all(&proved.line)?;
            writeln!(out)?;
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let since = arguments
        .since
        .as_ref()
        .ok_or("--since is missing: growth is proved from a checkpoint that was kept")?;
    let proved = match check_growth_proof(&proof, &read(since)?, &keys) {
        Ok(proved) => proved,
        Err(error) => return refused(error),
    };
    if arguments.json {
        let report = json!({ "proved": "growth", "old": proved.old, "size": proved.size });
        writeln!(out, "{report}")?;
    } else {
        writeln!(
            out,
            "OK: the log has grown from {} to {} records, and the first {} are unchanged",
            proved.old, proved.size, proved.old
        )?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is in a log is JSON; what is not is shown as text.
fn record(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_else(|_| String::from_utf8_lossy(line).into())
}

/// A log or a proof that is not right is a finding, a file that can't be read is none.
fn refused(error: ProofError) -> Result<ExitCode, Box<dyn Error>> {
    if matches!(error, ProofError::List(_) | ProofError::Read { .. }) {
        return Err(error.into());
    }
    // Nothing is left to say it with if stderr is closed.
    let _ = writeln!(io::stderr(), "NOT PROVED: {error}");
    Ok(ExitCode::FAILURE)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))
}
