//! `manifest`: what was delivered, by its signature, the log and the files.

use std::{
    error::Error,
    fs,
    io::{self, BufWriter, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use portcullis_journal::{
    manifest::{LONGEST, Manifest, ManifestError, Stored, compare, compare_file},
    record::{HIDDEN, untrusted},
    tree::{checkpoint::CHECKPOINTS, key::read_verifier_keys, keyring::successors},
    verify::directory::verify,
};
use serde_json::{Value, json};
use signed_note::StandardVerifier;

/// How often it is said how far the reading is.
const TOLD: Duration = Duration::from_millis(500);

pub(crate) struct Arguments {
    pub(crate) file: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) journal: Option<PathBuf>,
    pub(crate) files: Option<PathBuf>,
    pub(crate) json: bool,
}

/// What was found.
#[derive(Default)]
struct Report {
    findings: Vec<String>,
    /// Names, and how they compare.
    stored: Vec<(String, Stored)>,
    /// Records of the log, if it was looked at.
    records: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut keys = read_verifier_keys(&arguments.key)?;
    let length = fs::metadata(&arguments.file).map_or(0, |about| about.len());
    if length > LONGEST {
        return Err(format!("{} is too long for a manifest", arguments.file.display()).into());
    }
    let note = fs::read(&arguments.file)
        .map_err(|error| format!("read {}: {error}", arguments.file.display()))?;
    if let Some(journal) = &arguments.journal {
        keys.extend(followers(journal, &keys)?);
    }
    let manifest = match Manifest::check(&note, &keys) {
        Ok(manifest) => manifest,
        Err(error) => return refused(error, arguments.json),
    };
    let mut report = Report::default();
    if let Some(journal) = &arguments.journal {
        let sound = verify(journal, keys, None)?;
        report.records = Some(sound.records);
        let of_log = sound
            .findings
            .iter()
            .map(|finding| format!("the log: {finding}"));
        report.findings.extend(of_log);
        report.findings.extend(compare(&manifest, journal)?);
    }
    if let Some(files) = &arguments.files {
        stored(&manifest, files, &mut report)?;
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        writeln!(out, "{}", as_json(&manifest, &report))?;
    } else {
        print(&manifest, &report, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::from(u8::from(!report.findings.is_empty())))
}

/// The keys that the log's keys handed over to.
fn followers(
    journal: &Path,
    keys: &[StandardVerifier],
) -> Result<Vec<StandardVerifier>, Box<dyn Error>> {
    let path = journal.join(CHECKPOINTS);
    let text = fs::read(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let named = successors(&text, keys.to_vec());
    Ok(named
        .iter()
        .filter_map(|key| StandardVerifier::new(key).ok())
        .collect())
}

fn stored(manifest: &Manifest, files: &Path, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if !files.is_dir() {
        return Err(format!("{} is not a directory", files.display()).into());
    }
    let shows = io::stderr().is_terminal();
    let (mut bytes, mut told) = (0_u64, Instant::now());
    for (at, entry) in manifest.entries.iter().enumerate() {
        let mut progress = |taken| {
            bytes += taken;
            if shows && told.elapsed() >= TOLD {
                told = Instant::now();
                complain(&format!(
                    "\r{at} of {} files, {} MiB ",
                    manifest.entries.len(),
                    bytes >> 20
                ));
            }
        };
        let compared = compare_file(manifest, entry, files, &mut progress)?;
        let name = shown(manifest.name(entry));
        let what = match compared {
            Stored::Same | Stored::Unknown => None,
            Stored::Differs => Some("is not what was delivered"),
            Stored::Missing => Some("is missing"),
            Stored::Refused => Some("leads out of the directory or over a link, and was not read"),
        };
        if let Some(what) = what {
            report.findings.push(format!("{name}: {what}"));
        }
        report.stored.push((name, compared));
    }
    if shows && bytes > 0 {
        complain("\r");
    }
    Ok(())
}

fn print(manifest: &Manifest, report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let verdict = if report.findings.is_empty() {
        "OK"
    } else {
        "NOT SOUND"
    };
    writeln!(
        out,
        "{verdict}: {} file(s) of {} were delivered by {} from {} to {}, in session {}, as {} has signed",
        manifest.entries.len(),
        shown(&manifest.scope),
        shown(manifest.user.as_bytes()),
        manifest.begun,
        manifest.ended,
        manifest.session,
        manifest.origin,
    )?;
    for finding in &report.findings {
        writeln!(out, "  finding: {finding}")?;
    }
    let without = manifest
        .entries
        .iter()
        .filter(|entry| entry.sha256.is_err());
    let without = without.count();
    if without > 0 {
        writeln!(
            out,
            "  note: {without} file(s) have no SHA-256, the manifest says why"
        )?;
    }
    if let (Some(records), true) = (report.records, report.findings.is_empty()) {
        writeln!(
            out,
            "  journal: says the same, and is sound with {records} records"
        )?;
    }
    if !report.stored.is_empty() {
        let count = |wanted: &Stored| report.stored.iter().filter(|(_, is)| is == wanted).count();
        writeln!(
            out,
            "  files: {} are as they were delivered; of {} nothing can be said",
            count(&Stored::Same),
            count(&Stored::Unknown),
        )?;
    }
    Ok(())
}

fn as_json(manifest: &Manifest, report: &Report) -> Value {
    let files = manifest.entries.iter().map(|entry| {
        let mut file = json!({
            "name": named(manifest.name(entry)),
            "size": entry.size,
            "time": entry.time,
            "records": entry.records,
        });
        let (field, value) = match &entry.sha256 {
            Ok(sha256) => ("sha256", hex::encode(sha256)),
            Err(because) => ("sha256_reason", because.clone()),
        };
        if let Some(file) = file.as_object_mut() {
            file.insert(field.to_owned(), value.into());
        }
        file
    });
    let files: Vec<Value> = files.collect();
    json!({
        "sound": report.findings.is_empty(),
        "findings": report.findings,
        "log": manifest.origin,
        "records": manifest.head.size,
        "session": manifest.session,
        "user": untrusted(manifest.user.as_bytes()),
        "begun": manifest.begun,
        "ended": manifest.ended,
        "scope": named(&manifest.scope),
        "below": named(&manifest.below),
        "files": files,
        "same_files": report.stored.iter().filter(|(_, is)| *is == Stored::Same).count(),
    })
}

/// A manifest that is not right is a finding, a file that can't be read is none.
fn refused(error: ManifestError, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    if !error.is_finding() {
        return Err(error.into());
    }
    if json {
        let report = json!({ "sound": false, "findings": [error.to_string()] });
        writeln!(io::stdout(), "{report}")?;
    }
    complain(&format!("NOT SOUND: {error}\n"));
    Ok(ExitCode::FAILURE)
}

/// A path or name as records write it; a token stays one.
fn named(name: &[u8]) -> Value {
    match std::str::from_utf8(name) {
        Ok(token) if token.starts_with(HIDDEN) => token.into(),
        Ok(_) | Err(_) => untrusted(name),
    }
}

/// Text of a peer as a terminal may have it.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).escape_debug().to_string()
}

fn complain(text: &str) {
    // Nothing is left to say it with if stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
