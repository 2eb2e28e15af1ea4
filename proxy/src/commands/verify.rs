//! `verify`: the daemon compares stored files with the log, and this says what it found.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::Utc;
use portcullis_audit::{text::word, time::as_recorded};
use serde_json::Value;

use super::print;
use crate::{
    cli::VerifyArgs,
    config::Config,
    verification::{Answer, REQUEST, Request},
};

/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// A daemon takes a request at once, unless it is busy with another one.
const PATIENCE: Duration = Duration::from_secs(10);
const NOT_DONE: u8 = 2;

pub(super) fn verify(arguments: &VerifyArgs) -> anyhow::Result<ExitCode> {
    match ask(arguments) {
        Ok(answer) => Ok(report(&answer, arguments.json)),
        Err(error) => {
            complain(&format!("portcullis-proxy: {error:#}\n"));
            Ok(ExitCode::from(NOT_DONE))
        }
    }
}

fn ask(arguments: &VerifyArgs) -> anyhow::Result<Answer> {
    let config = Config::load_audit(&arguments.config).journal?;
    let now = Utc::now();
    let request = Request {
        mount: arguments
            .mount
            .as_ref()
            .map(|mount| String::from_utf8_lossy(mount.as_bytes()).into_owned()),
        backend: arguments.backend.clone(),
        since: arguments.since.map(|since| as_recorded(since.begin(now))),
        rate: arguments.rate,
    };
    let folder = config.verification();
    let mut id = [0; 8];
    getrandom::fill(&mut id).context("draw a number for the request")?;
    let file = folder.join(hex::encode(id)).with_extension(REQUEST);
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec(&request)?)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| {
            format!(
                "ask the daemon in {}; it makes the folder at its start, and its user and root may write there",
                folder.display()
            )
        })?;
    let answer = wait(&Files::of(&file));
    if answer.is_err() {
        let _ = fs::remove_file(&file);
    }
    let answer = answer?;
    if let Some(error) = &answer.error {
        anyhow::bail!("{error}");
    }
    Ok(answer)
}

struct Files {
    request: PathBuf,
    progress: PathBuf,
    result: PathBuf,
}

impl Files {
    fn of(request: &Path) -> Self {
        Self {
            request: request.to_owned(),
            progress: request.with_extension("progress"),
            result: request.with_extension("result"),
        }
    }
}

fn wait(files: &Files) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    let shows = io::stderr().is_terminal();
    loop {
        match fs::read(&files.result) {
            Ok(text) => {
                let _ = fs::remove_file(&files.result);
                return serde_json::from_slice(&text).context("read the daemon's answer");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("read the daemon's answer"),
        }
        if files.request.exists() && begun.elapsed() > PATIENCE {
            anyhow::bail!(
                "the daemon has not taken the request: it is not running, or another look is under way"
            );
        }
        if shows
            && let Ok(text) = fs::read(&files.progress)
            && let Ok(now) = serde_json::from_slice::<Answer>(&text)
        {
            complain(&format!(
                "\r{} files, {} MiB, {} findings, {} s ",
                now.files,
                now.bytes >> 20,
                now.further,
                now.seconds
            ));
        }
        thread::sleep(LOOK);
    }
}

fn report(answer: &Answer, json: bool) -> ExitCode {
    let is_sound = answer.findings.is_empty();
    if json {
        print(&serde_json::to_string(answer).unwrap_or_default());
    } else {
        for finding in &answer.findings {
            print(&line(finding));
        }
        if answer.further > 0 {
            print(&format!("and {} more, on record", answer.further));
        }
        print(&format!(
            "{} files, {} bytes read in {} s: {} findings, {} files of which nothing can be said",
            answer.files,
            answer.bytes,
            answer.seconds,
            answer.findings.len() as u64 + answer.further,
            answer.unverified
        ));
    }
    ExitCode::from(u8::from(!is_sound))
}

/// `altered  /archive/in/a.csv  last good: alice at 2026-...`
fn line(finding: &Value) -> String {
    let text = |field: &str| finding.get(field).and_then(Value::as_str);
    let mut line = format!(
        "{:<11} {}",
        text("finding").unwrap_or_default(),
        word(text("path").unwrap_or_default())
    );
    let mut tell = |what: &str, user: Option<&str>, time: Option<&str>| {
        if let Some(time) = time {
            line.push_str(&format!(
                "  {what}: {} at {time}",
                word(user.unwrap_or("-"))
            ));
        }
    };
    tell("last by", text("last_user"), text("last_time"));
    tell("as it was by", text("earlier_user"), text("earlier_time"));
    line
}

/// Beside the results.
fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
