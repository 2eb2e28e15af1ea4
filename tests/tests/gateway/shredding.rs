//! A file is destroyed on record: nobody reads it any more, and everybody says why.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::locate;
use portcullis_tests::process::finish_within;
use portcullis_tests::proxy::Backend;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::at_rest::Gateway;
use crate::sessions::{body, text};
use crate::stored_files::{findings, verify};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &[u8] = b"the consent to keep this was withdrawn";

pub(crate) fn shred(config: &Path, path: &str, approver: &str) -> Result<Output> {
    let mut command = Command::new(locate::binary("portcullis-proxy")?);
    command.args(["encryption", "shred", "--backend", "disk", path]);
    command.args(["--reason", "consent withdrawn", "--approver", approver]);
    command.arg("--config").arg(config).stdin(Stdio::null());
    finish_within(&mut command, PATIENCE)
}

#[test]
fn a_destroyed_file_is_read_by_nobody_and_named_by_the_journal_verify_and_the_rescue() -> Result<()>
{
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    fs::write(gateway.local("secret"), SECRET)?;
    fs::write(gateway.local("other"), "another file")?;
    gateway.succeed("put secret\nput other")?;
    let backup = gateway.local("backup");
    fs::copy(gateway.stored("secret"), &backup)?;
    fs::hard_link(
        gateway.stored("secret"),
        gateway.storage.path().join("link"),
    )?;

    let config = gateway.proxy.config.clone();
    for (path, approver) in [("nothing", "J. Doe"), ("secret", " ")] {
        let refused = shred(&config, path, approver)?;
        ensure!(refused.status.code() == Some(2), "{path}: {refused:?}");
    }
    ensure!(gateway.stored("secret").exists());
    let done = shred(&config, "secret", "J. Doe")?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(!gateway.stored("secret").exists());
    let left = fs::read(gateway.storage.path().join("link"))?;
    ensure!(left.iter().skip(64).take(448).all(|byte| *byte == 0));
    fs::remove_file(gateway.storage.path().join("link"))?;
    let (is_done, said) = gateway.sftp("get secret back")?;
    ensure!(!is_done, "{said}");
    let records = gateway.proxy.records()?;
    let tombstone = records
        .iter()
        .find(|record| text(record, "event") == "rest.tombstone")
        .context("a tombstone")?;
    ensure!(
        body(tombstone, "sha256") == hex::encode(Sha256::digest(SECRET)),
        "{tombstone}"
    );
    ensure!(body(tombstone, "uploaded_by") == "alice", "{tombstone}");
    ensure!(body(tombstone, "approver") == "J. Doe", "{tombstone}");
    ensure!(body(tombstone, "object").len() == 32, "{tombstone}");

    let output = verify(&config, &["--json"])?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let shredded = answer
        .get("shredded")
        .and_then(Value::as_array)
        .context("shredded")?;
    ensure!(
        shredded
            .iter()
            .map(|one| text(one, "path"))
            .eq(["/disk/secret"]),
        "{answer}"
    );
    ensure!(findings(&output)? == (Vec::new(), Some(0)), "{answer}");

    // Somebody brings it back from a backup.
    fs::copy(&backup, gateway.stored("secret"))?;
    let (is_done, said) = gateway.sftp("get secret back")?;
    ensure!(!is_done, "it is not given out either: {said}");
    let (found, code) = findings(&verify(&config, &["--json"])?)?;
    let expected = ("/disk/secret".to_owned(), "rolled_back".to_owned());
    ensure!(found == [expected] && code == Some(1), "{found:?}");

    gateway.proxy.process.kill()?;
    let (folder, rescued) = (gateway.proxy.folder(), gateway.local("rescued"));
    let mut rescue = Command::new(locate::binary("portcullis-rescue")?);
    rescue
        .arg("--from")
        .arg(gateway.storage.path())
        .arg("--to")
        .arg(&rescued);
    rescue.arg("--journal").arg(&gateway.proxy.journal);
    rescue
        .arg("--journal-key")
        .arg(folder.join("journal.key.pub"));
    for share in ["share-1", "share-2"] {
        rescue.arg("--share").arg(folder.join("escrow").join(share));
    }
    let output = finish_within(&mut rescue, PATIENCE)?;
    let report = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{report}");
    ensure!(
        report.contains("destroyed by the word of J. Doe"),
        "{report}"
    );
    ensure!(
        !rescued.join("secret").exists() && rescued.join("other").exists(),
        "{report}"
    );
    Ok(())
}
