//! Checks a log on any machine, with nothing but the log and a public key.

#![forbid(unsafe_code)]

mod manifest;
mod proofs;

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use portcullis_journal::{
    tiles::{TilesError, publish},
    tree::{
        checkpoint::CHECKPOINTS, cosignature::read_witness_keys, key::read_verifier_keys,
        keyring::successors,
    },
    verify::{Report, Witnesses, directory::verify_cosigned},
};

const USAGE: &str = "\
Checks a Portcullis log for records that were edited, deleted, inserted, swapped, repeated or cut off.
Only reads, and needs nothing but the log and the public key. The daemon may be running.

Usage: portcullis-verify DIR --key FILE [--checkpoint FILE] [--witness FILE [--quorum NUMBER]] [--json]
       portcullis-verify prove DIR --key FILE (--record NUMBER | --since FILE)
       portcullis-verify check PROOF --key FILE [--since FILE] [--json]
       portcullis-verify manifest FILE --key FILE [--journal DIR] [--files DIR] [--json]
       portcullis-verify keys DIR --key FILE
       portcullis-verify tiles DIR FOLDER --key FILE [--entries]

  DIR                directory of the log (*.jsonl, *.jsonl.zst and checkpoints)
  prove              print a proof that one record is in the log, or that the log has only grown since a checkpoint
  check              check such a proof or an excerpt of a log (portcullis-proxy audit export) without the log, and print its records
  manifest           check a manifest of delivered files (portcullis-proxy audit manifest)
  keys               print the keys that the log's key handed over to, one a line, for proofs of later records
  tiles              write the log's tree as static files (C2SP tlog-tiles) into FOLDER, or what they lack there
  --entries          the records too
  --key FILE         public keys of the log, one a line (<signing key>.pub); that of the first day is enough
  --checkpoint FILE  a checkpoint that was kept elsewhere; finds a log that was cut or replaced as a whole
  --witness FILE     public keys of witnesses, one a line: finds the newest place of the log that they cosigned
  --quorum NUMBER    so many of them have to agree on it; all, unless this is given
  --record NUMBER    the record to prove, by its `seq`
  --since FILE       the checkpoint to prove growth from; to check that, the one that was kept
  --journal DIR      a log: find out whether it is sound, and says what the manifest says
  --files DIR        the delivered files: find out whether they are as they were delivered
  --json             write the report as one JSON object
  --help, --version

Exit code: 0 the log is sound or the proof right, 1 there are findings or there is no proof, 2 wrong usage or a file that
can't be read.
";

enum Call {
    Verify(Arguments),
    Prove(proofs::Prove),
    Check(proofs::Check),
    Manifest(manifest::Arguments),
    Keys {
        directory: PathBuf,
        key: PathBuf,
    },
    Tiles {
        directory: PathBuf,
        folder: PathBuf,
        key: PathBuf,
        entries: bool,
    },
    Print(String),
}

struct Arguments {
    directory: PathBuf,
    key: PathBuf,
    checkpoint: Option<PathBuf>,
    witness: Option<PathBuf>,
    quorum: Option<usize>,
    json: bool,
}

fn main() -> ExitCode {
    let done = match parse(std::env::args_os()) {
        Ok(Call::Print(text)) => io::stdout()
            .write_all(text.as_bytes())
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Ok(Call::Verify(arguments)) => run(&arguments),
        Ok(Call::Prove(arguments)) => proofs::prove(&arguments),
        Ok(Call::Check(arguments)) => proofs::check(&arguments),
        Ok(Call::Manifest(arguments)) => manifest::run(&arguments),
        Ok(Call::Keys { directory, key }) => keys(&directory, &key),
        Ok(Call::Tiles {
            directory,
            folder,
            key,
            entries,
        }) => write_tiles(&directory, &folder, &key, entries),
        Err(error) => Err(format!("{error}; see portcullis-verify --help").into()),
    };
    done.unwrap_or_else(|error| {
        let mut text = format!("portcullis-verify: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        // Nothing is left to say it with if stderr is closed.
        let _ = writeln!(io::stderr(), "{text}");
        ExitCode::from(2)
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let keys = read_verifier_keys(&arguments.key)?;
    let witnesses = witnesses(arguments)?;
    let checkpoint = arguments.checkpoint.as_deref();
    let report = verify_cosigned(&arguments.directory, keys, checkpoint, witnesses)?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let mut json = serde_json::to_value(&report)?;
        if let Some(object) = json.as_object_mut() {
            object.insert("sound".to_owned(), report.is_sound().into());
            object.insert("chained_only".to_owned(), report.chained_only().into());
        }
        writeln!(out, "{json}")?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn witnesses(arguments: &Arguments) -> Result<Option<Witnesses>, Box<dyn Error>> {
    let Some(path) = &arguments.witness else {
        return Ok(None);
    };
    let keys = read_witness_keys(path)?;
    let quorum = arguments.quorum.unwrap_or(keys.len());
    if !(1..=keys.len()).contains(&quorum) {
        let known = keys.len();
        return Err(format!(
            "--quorum {quorum}: {} names {known} witness(es)",
            path.display()
        )
        .into());
    }
    Ok(Some(Witnesses { keys, quorum }))
}

fn keys(directory: &Path, key: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let keys = read_verifier_keys(key)?;
    let path = directory.join(CHECKPOINTS);
    let text = fs::read(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let mut out = io::stdout().lock();
    for successor in successors(&text, keys) {
        writeln!(out, "{successor}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_tiles(
    directory: &Path,
    folder: &Path,
    key: &Path,
    entries: bool,
) -> Result<ExitCode, Box<dyn Error>> {
    let published = match publish(directory, folder, read_verifier_keys(key)?, entries) {
        Ok(published) => published,
        Err(error @ (TilesError::Altered { .. } | TilesError::OtherLog { .. })) => {
            // Nothing is left to say it with if stderr is closed.
            let _ = writeln!(io::stderr(), "NOT SOUND: {error}");
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    writeln!(
        io::stdout(),
        "OK: {} holds the tiles of {} records; {} files are new",
        folder.display(),
        published.size,
        published.files
    )?;
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let verdict = if report.is_sound() { "OK" } else { "NOT SOUND" };
    writeln!(
        out,
        "{verdict}: {} records in {} segments",
        report.records, report.segments
    )?;
    for finding in &report.findings {
        writeln!(out, "  finding: {finding}")?;
    }
    if report.further_findings > 0 {
        writeln!(out, "  finding: and {} more", report.further_findings)?;
    }
    if let (Some(first), Some(last)) = (&report.first_time, &report.last_time) {
        writeln!(out, "  time: {first} to {last}")?;
    }
    writeln!(
        out,
        "  signed: {} records, by the last checkpoint that fits; trusted: {}",
        report.signed,
        report.keys.join(", ")
    )?;
    if let Some(place) = &report.cosigned {
        writeln!(
            out,
            "  cosigned: {} records, on {}, by {}; what came later can still be cut off together with all that this host keeps",
            place.records,
            place.time,
            place.witnesses.join(", ")
        )?;
    }
    if report.is_sound() {
        match report.chained_only() {
            0 => writeln!(out, "  every record is covered by a checkpoint")?,
            count => writeln!(
                out,
                "  the last {count} records are covered by the hash chain only: an edit among them shows, unless it \
                 is in the very last one, and a cut at the end does not"
            )?,
        }
    }
    for notice in &report.notices {
        writeln!(out, "  note: {notice}")?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Verify,
    Prove,
    Check,
    Manifest,
    Keys,
    Tiles,
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Call, lexopt::Error> {
    use lexopt::prelude::*;
    let mut verb = Verb::Verify;
    let (mut path, mut key, mut checkpoint, mut json) = (None::<PathBuf>, None, None, false);
    let (mut record, mut since) = (None::<u64>, None);
    let (mut witness, mut quorum) = (None::<PathBuf>, None);
    let (mut folder, mut entries) = (None::<PathBuf>, false);
    let (mut journal, mut files) = (None::<PathBuf>, None::<PathBuf>);
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut is_first = true;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("key") => key = Some(parser.value()?.into()),
            Long("checkpoint") if verb == Verb::Verify => checkpoint = Some(parser.value()?.into()),
            Long("witness") if verb == Verb::Verify => witness = Some(parser.value()?.into()),
            Long("quorum") if verb == Verb::Verify => quorum = Some(parser.value()?.parse()?),
            Long("entries") if verb == Verb::Tiles => entries = true,
            Long("record") if verb == Verb::Prove => record = Some(parser.value()?.parse()?),
            Long("since") if matches!(verb, Verb::Prove | Verb::Check) => {
                since = Some(parser.value()?.into())
            }
            Long("journal") if verb == Verb::Manifest => journal = Some(parser.value()?.into()),
            Long("files") if verb == Verb::Manifest => files = Some(parser.value()?.into()),
            Long("json") if matches!(verb, Verb::Verify | Verb::Check | Verb::Manifest) => {
                json = true
            }
            Long("help") | Short('h') => return Ok(Call::Print(USAGE.to_owned())),
            Long("version") => {
                return Ok(Call::Print(format!(
                    "portcullis-verify {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Value(word) if is_first && word == "prove" => verb = Verb::Prove,
            Value(word) if is_first && word == "check" => verb = Verb::Check,
            Value(word) if is_first && word == "manifest" => verb = Verb::Manifest,
            Value(word) if is_first && word == "keys" => verb = Verb::Keys,
            Value(word) if is_first && word == "tiles" => verb = Verb::Tiles,
            Value(word) if path.is_none() => path = Some(word.into()),
            Value(word) if verb == Verb::Tiles && folder.is_none() => folder = Some(word.into()),
            Short(_) | Long(_) | Value(_) => return Err(argument.unexpected()),
        }
        is_first = false;
    }
    if quorum.is_some() && witness.is_none() {
        return Err("--quorum needs --witness, which names the witnesses' keys".into());
    }
    let path = path.ok_or(match verb {
        Verb::Verify | Verb::Prove | Verb::Keys | Verb::Tiles => {
            "the directory of the log is missing"
        }
        Verb::Check => "the file of the proof is missing",
        Verb::Manifest => "the file of the manifest is missing",
    })?;
    let key = key.ok_or("--key is missing: without a public key nothing is proved")?;
    Ok(match verb {
        Verb::Verify => Call::Verify(Arguments {
            directory: path,
            key,
            checkpoint,
            witness,
            quorum,
            json,
        }),
        Verb::Prove => Call::Prove(proofs::Prove {
            directory: path,
            key,
            what: match (record, since) {
                (Some(record), None) => proofs::What::Record(record),
                (None, Some(since)) => proofs::What::Growth(since),
                (Some(_), Some(_)) | (None, None) => {
                    return Err("prove wants one of --record NUMBER and --since FILE".into());
                }
            },
        }),
        Verb::Tiles => Call::Tiles {
            directory: path,
            folder: folder.ok_or("the folder for the tiles is missing")?,
            key,
            entries,
        },
        Verb::Manifest => Call::Manifest(manifest::Arguments {
            file: path,
            key,
            journal,
            files,
            json,
        }),
        Verb::Keys => Call::Keys {
            directory: path,
            key,
        },
        Verb::Check => Call::Check(proofs::Check {
            proof: path,
            key,
            since,
            json,
        }),
    })
}
