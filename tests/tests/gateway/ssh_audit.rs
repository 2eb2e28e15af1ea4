//! The default algorithms before an independent judge.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, finish_within};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;

struct Note {
    kind: String,
    algorithm: String,
    level: String,
    text: String,
}

/// What ssh-audit says of each algorithm that the server offers.
fn audit(proxy: &Proxy) -> Result<Vec<Note>> {
    let output = finish_within(
        Command::new(locate::python_tool("ssh-audit")?)
            .args(["--json", "--skip-rate-test", "--port"])
            .arg(proxy.address.port().to_string())
            .arg(proxy.address.ip().to_string()),
        2 * PATIENCE,
    )?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "read ssh-audit's report: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let mut notes = Vec::new();
    for kind in ["kex", "key", "enc", "mac"] {
        let algorithms = report
            .get(kind)
            .and_then(Value::as_array)
            .with_context(|| format!("the report lists {kind}"))?;
        for algorithm in algorithms {
            let name = algorithm
                .get("algorithm")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let levels = algorithm.get("notes").and_then(Value::as_object);
            for (level, texts) in levels.into_iter().flatten() {
                for text in texts.as_array().into_iter().flatten() {
                    notes.push(Note {
                        kind: kind.to_owned(),
                        algorithm: name.to_owned(),
                        level: level.clone(),
                        text: text.as_str().unwrap_or_default().to_owned(),
                    });
                }
            }
        }
    }
    ensure!(!notes.is_empty(), "ssh-audit found nothing to say");
    Ok(notes)
}

#[test]
fn ssh_audit_fails_nothing_and_warns_only_of_key_exchanges_that_are_not_post_quantum() -> Result<()>
{
    let storage = files::folder("storage")?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("archive", Backend::local(storage.path()))
        .start()?;
    for note in audit(&proxy)? {
        let line = format!(
            "{} {}: {}: {}",
            note.kind, note.algorithm, note.level, note.text
        );
        ensure!(note.level != "fail", "{line}");
        ensure!(
            note.level != "warn" || (note.kind == "kex" && note.text.contains("post-quantum")),
            "{line}"
        );
    }
    Ok(())
}
