//! `verify`: the daemon compares stored files with the log, and this says what it found.

use std::process::ExitCode;

use chrono::Utc;
use portcullis_audit::{text::word, time::as_recorded};
use serde_json::Value;

use super::{asking, print};
use crate::{
    cli::VerifyArgs,
    config::Config,
    verification::{Answer, REQUEST, Request},
};

const NOT_DONE: u8 = 2;

pub(super) fn verify(arguments: &VerifyArgs) -> anyhow::Result<ExitCode> {
    match ask(arguments) {
        Ok(answer) => Ok(report(&answer, arguments.json)),
        Err(error) => {
            asking::complain(&format!("portcullis-proxy: {error:#}\n"));
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
    let answer: Answer = asking::ask(&config.verification(), REQUEST, &request, |now: &Answer| {
        format!(
            "{} files, {} MiB, {} findings, {} s",
            now.files,
            now.bytes >> 20,
            now.further,
            now.seconds
        )
    })?;
    if let Some(error) = &answer.error {
        anyhow::bail!("{error}");
    }
    Ok(answer)
}

fn report(answer: &Answer, json: bool) -> ExitCode {
    let is_sound = answer.findings.is_empty();
    if json {
        print(&serde_json::to_string(answer).unwrap_or_default());
    } else {
        for finding in &answer.findings {
            print(&line(finding));
        }
        for shredded in &answer.shredded {
            let text = |field: &str| shredded.get(field).and_then(Value::as_str);
            let keys = text("keys").map(|keys| format!(" with keys {}", word(keys)));
            print(&format!(
                "{:<11} {}  by {} at {}{}",
                "shredded",
                word(text("path").unwrap_or_default()),
                word(text("user").unwrap_or("-")),
                text("time").unwrap_or_default(),
                keys.unwrap_or_default()
            ));
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
