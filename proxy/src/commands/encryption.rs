//! `encryption`: the daemon works on files that lie encrypted, and this says what came of it.

use std::process::ExitCode;

use portcullis_audit::text::word;

use super::{
    asking::{ask, complain},
    print,
};
use crate::{
    cli::{EncryptionArgs, EncryptionCommand, WalkArgs},
    config::Config,
    encryption::{Answer, REQUEST, Request, Task},
};

const NOT_DONE: u8 = 2;

pub(super) fn encryption(arguments: &EncryptionArgs) -> anyhow::Result<ExitCode> {
    let (task, walk) = match &arguments.command {
        EncryptionCommand::Rotate(walk) => (Task::Rotate, walk),
        EncryptionCommand::Migrate(walk) => (Task::Migrate, walk),
    };
    match answer(arguments, task.clone(), walk) {
        Ok(answer) => Ok(report(&answer, &task, walk.json)),
        Err(error) => {
            complain(&format!("portcullis-proxy: {error:#}\n"));
            Ok(ExitCode::from(NOT_DONE))
        }
    }
}

fn answer(arguments: &EncryptionArgs, task: Task, walk: &WalkArgs) -> anyhow::Result<Answer> {
    let config = Config::load_audit(&arguments.config).journal?;
    let request = Request {
        task,
        backend: walk.backend.clone(),
        rate: walk.rate,
    };
    let answer: Answer = ask(&config.verification(), REQUEST, &request, |now: &Answer| {
        format!(
            "{} files, {} done, {} failed, {} MiB, {} s",
            now.files,
            now.rewrapped + now.encrypted,
            now.failed,
            now.bytes >> 20,
            now.seconds
        )
    })?;
    if let Some(error) = &answer.error {
        anyhow::bail!("{error}");
    }
    Ok(answer)
}

fn report(answer: &Answer, task: &Task, json: bool) -> ExitCode {
    if json {
        print(&serde_json::to_string(answer).unwrap_or_default());
    } else {
        for failure in &answer.failures {
            print(&format!(
                "failed  {}  {}",
                word(&failure.path),
                failure.reason
            ));
        }
        let further = answer.failed - answer.failures.len() as u64;
        if further > 0 {
            print(&format!("and {further} more, on record"));
        }
        let done = match task {
            Task::Rotate => format!(
                "{} rewrapped, {} were current, {} are not encrypted",
                answer.rewrapped, answer.current, answer.plain
            ),
            Task::Migrate => format!(
                "{} encrypted, {} were already, {} bytes",
                answer.encrypted, answer.current, answer.bytes
            ),
        };
        print(&format!(
            "{} files in {} s: {done}, {} failed",
            answer.files, answer.seconds, answer.failed
        ));
        for name in &answer.migrated {
            print(&format!(
                "0 plain files are left on {name}: set encryption = \"on\""
            ));
        }
        if let Some(because) = &answer.migrated_unknown {
            print(&format!(
                "whether plain files are left is not known: {because}"
            ));
        }
        for key in &answer.unneeded_keys {
            print(&format!(
                "no file needs key {key} any more: remove it from retired_key_files once uploads that were interrupted before are over (partial_retention_hours)"
            ));
        }
        if let Some(because) = &answer.keys_unknown {
            print(&format!(
                "whether a retired key is still needed is not known: {because}"
            ));
        }
    }
    ExitCode::from(u8::from(answer.failed > 0))
}
