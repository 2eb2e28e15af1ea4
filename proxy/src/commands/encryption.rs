//! `encryption`: the daemon works on files that lie encrypted, and this says what came of it.

use std::process::ExitCode;

use portcullis_audit::text::word;
use serde_json::Value;

use super::{
    asking::{ask, complain},
    print,
};
use crate::{
    cli::{EncryptionArgs, EncryptionCommand, ShredArgs, ShredKeysArgs, WalkArgs},
    config::Config,
    encryption::{Answer, DestroyedKeys, Left, REQUEST, Request, Task, Walk},
};

const NOT_DONE: u8 = 2;

pub(super) fn encryption(arguments: &EncryptionArgs) -> anyhow::Result<ExitCode> {
    let request = request(&arguments.command);
    let answer = match answer(arguments, &request) {
        Ok(answer) => answer,
        Err(error) => {
            complain(&format!("portcullis-proxy: {error:#}\n"));
            return Ok(ExitCode::from(NOT_DONE));
        }
    };
    Ok(match &arguments.command {
        EncryptionCommand::Rotate(walk) => report(&answer, Walk::Rotate, walk.json),
        EncryptionCommand::Migrate(walk) => report(&answer, Walk::Migrate, walk.json),
        EncryptionCommand::Shred(shred) => {
            let body = answer.shredded.unwrap_or_default();
            if shred.json {
                print(&body.to_string());
            } else {
                let text = |field: &str| body.get(field).and_then(Value::as_str);
                print(&format!(
                    "{} is destroyed (object {}). Copies in backups can still be decrypted: docs/at-rest.md, \"Destroying files\"",
                    word(text("path").unwrap_or_default()),
                    text("object").unwrap_or_default()
                ));
                if let Some(remains) = text("copies_may_remain") {
                    print(&format!(
                        "copies may remain: {remains}. Nothing can be overwritten there; what it keeps of the file can be decrypted"
                    ));
                }
            }
            ExitCode::SUCCESS
        }
        EncryptionCommand::ShredKeys(shred) => {
            return destroyed(arguments, &request, answer, shred.json);
        }
    })
}

/// The daemon's unit may not let it write where keys are: whoever asks may be more able.
fn destroyed(
    arguments: &EncryptionArgs,
    request: &Request,
    mut answer: Answer,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let left = answer.keys.iter().flat_map(|keys| &keys.left);
    if left.filter(|left| left.key.destroy().is_ok()).count() > 0 {
        // It is on record that they are gone once the daemon has seen it.
        answer = self::answer(arguments, request)?;
    }
    let Some(keys) = answer.keys else {
        anyhow::bail!("the daemon gave no answer about keys");
    };
    let is_whole = keys.left.is_empty();
    if json {
        print(&serde_json::to_string(&keys).unwrap_or_default());
    } else {
        let DestroyedKeys {
            set,
            record,
            escrow,
            ..
        } = &keys;
        print(&format!(
            "keys {set} are out of use: record {record}. What lies on their backends can be listed and removed, and not be read"
        ));
        for key in &keys.destroyed {
            print(&format!("destroyed  {}  (key {})", key.place, key.id));
        }
        for Left { key, because } in &keys.left {
            print(&format!(
                "LEFT       {}  (key {}): {because}",
                key.place, key.id
            ));
        }
        print(&format!(
            "by hand: destroy two of the three shares of escrow key {escrow}, better all; two that are left open every copy of a file"
        ));
        print(&format!(
            "by hand: destroy the copies of the key files, such as in backups of this machine; then remove [encryption.{set}] and its backends, or give them new keys"
        ));
        if !is_whole {
            print("once what is LEFT is gone, ask again: it is on record then");
        }
    }
    Ok(ExitCode::from(u8::from(!is_whole)))
}

fn request(command: &EncryptionCommand) -> Request {
    let alone = |task| Request {
        task,
        backend: None,
        rate: None,
    };
    let walk = |task, walk: &WalkArgs| Request {
        task: Task::Walk(task),
        backend: walk.backend.clone(),
        rate: walk.rate,
    };
    match command {
        EncryptionCommand::Rotate(arguments) => walk(Walk::Rotate, arguments),
        EncryptionCommand::Migrate(arguments) => walk(Walk::Migrate, arguments),
        EncryptionCommand::Shred(ShredArgs {
            path,
            backend,
            reason,
            approver,
            ..
        }) => alone(Task::Shred {
            backend: backend.clone(),
            path: path.clone(),
            reason: reason.clone(),
            approver: approver.clone(),
        }),
        EncryptionCommand::ShredKeys(ShredKeysArgs {
            set,
            reason,
            approver,
            ..
        }) => alone(Task::ShredKeys {
            set: set.clone(),
            reason: reason.clone(),
            approver: approver.clone(),
        }),
    }
}

fn answer(arguments: &EncryptionArgs, request: &Request) -> anyhow::Result<Answer> {
    let config = Config::load_audit(&arguments.config).journal?;
    let answer: Answer = ask(&config.verification(), REQUEST, request, |now: &Answer| {
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

fn report(answer: &Answer, task: Walk, json: bool) -> ExitCode {
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
            Walk::Rotate => format!(
                "{} rewrapped, {} were current, {} are not encrypted",
                answer.rewrapped, answer.current, answer.plain
            ),
            Walk::Migrate => format!(
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
        let sets = answer.sets.iter();
        let sets = sets.map(|(name, set)| (format!("[encryption.{name}]"), set));
        for (section, set) in [("[encryption]".to_owned(), &answer.retired)]
            .into_iter()
            .chain(sets)
        {
            for key in &set.unneeded_keys {
                print(&format!(
                    "no file needs key {key} any more: remove it from retired_key_files of {section} once uploads that were interrupted before are over (partial_retention_hours)"
                ));
            }
            if let Some(because) = &set.keys_unknown {
                print(&format!(
                    "whether a retired key of {section} is still needed is not known: {because}"
                ));
            }
        }
    }
    ExitCode::from(u8::from(answer.failed > 0))
}
