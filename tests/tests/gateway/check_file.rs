//! What clients hear who ask for the digest of an encrypted file, and whether it is that file's.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};
use portcullis_tests::client::{paramiko_digest, paramiko_set_size};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::Backend;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::at_rest::Gateway;
use crate::sessions::{body, text, wait_for_record};

const SIZE: u64 = 3_000_000;

fn number(record: &Value, field: &str) -> Option<u64> {
    record.get("body")?.get(field)?.as_u64()
}

fn digest(gateway: &mut Gateway, name: &str) -> Result<String> {
    let remote = format!("/inbox/{name}");
    paramiko_digest(Place::Loopback, &gateway.proxy, &mut gateway.alice, &remote)
}

fn set_size(gateway: &mut Gateway, name: &str, size: u64) -> Result<()> {
    let remote = format!("/inbox/{name}");
    let alice = &mut gateway.alice;
    paramiko_set_size(Place::Loopback, &gateway.proxy, alice, &remote, size)
}

/// The last outcome that tells where digests came from: `source`, and the bytes that were read for them.
fn told(gateway: &Gateway, source: &str) -> Result<Value> {
    let records = gateway.proxy.records()?;
    let last = records
        .iter()
        .rfind(|record| !body(record, "source").is_empty());
    let last = last.context("a digest was told")?;
    ensure!(body(last, "source") == source, "{last}");
    Ok(last.clone())
}

/// Bytes that the last session read through the gateway.
fn read(gateway: &Gateway) -> Result<u64> {
    let records = gateway.proxy.records()?;
    let last = records
        .iter()
        .rfind(|record| body(record, "direction") == "download");
    number(last.context("a file was open")?, "bytes").context("bytes")
}

#[test]
fn the_sha256_of_an_upload_is_told_from_its_record_and_is_that_of_its_manifest() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let content = files::random_bytes(usize::try_from(SIZE)?)?;
    let expected = hex::encode(Sha256::digest(&content));
    fs::write(gateway.local("file"), &content)?;
    gateway.succeed("put file\nrename file renamed\nput file other")?;
    let summaries = gateway.proxy.records()?;
    let summary = summaries
        .iter()
        .find(|record| body(record, "direction") == "upload")
        .context("an upload")?;
    ensure!(number(summary, "size") == Some(SIZE), "{summary}");

    ensure!(digest(&mut gateway, "renamed")? == expected);
    let outcome = told(&gateway, "journal")?;
    ensure!(number(&outcome, "bytes") == Some(0), "{outcome}");
    let record = summary.get("seq").and_then(Value::as_u64);
    ensure!(number(&outcome, "record") == record, "{outcome}");
    ensure!(read(&gateway)? == 0);

    // Its body is changed on the disk: the answer is what was received, and a READ finds it.
    let flip = |at: u64| -> Result<()> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(gateway.stored("renamed"))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        Ok(file.write_all_at(&[byte[0] ^ 1], at)?)
    };
    flip(2_000_000)?;
    gateway.proxy.crash_and_restart()?;
    ensure!(digest(&mut gateway, "renamed")? == expected);
    told(&gateway, "journal")?;
    let (is_done, said) = gateway.sftp("get renamed back")?;
    ensure!(!is_done, "{said}");

    gateway
        .proxy
        .reload(|config| format!("{config}check_file = \"read\"\n"))?;
    ensure!(digest(&mut gateway, "renamed").is_err());
    ensure!(digest(&mut gateway, "other")? == expected);
    let outcome = told(&gateway, "read")?;
    ensure!(number(&outcome, "bytes") == Some(SIZE), "{outcome}");
    ensure!(read(&gateway)? == SIZE);

    // So that a checkpoint covers it.
    gateway.proxy.process.terminate()?;
    let session = text(summary, "session_id");
    let manifest = gateway.proxy.command(&["audit", "manifest", session])?;
    ensure!(
        manifest.contains(&format!("{expected}  inbox/renamed")),
        "{manifest}"
    );
    Ok(())
}

#[test]
fn a_file_that_is_not_the_one_on_record_has_no_digest_and_one_without_a_record_is_read()
-> Result<()> {
    let mut gateway = Gateway::start(|storage| {
        Backend::local(storage)
            .encrypted()
            .with("encryption = \"migrating\"")
    })?;
    for name in ["one", "two"] {
        fs::write(gateway.local(name), name.repeat(30_000))?;
    }
    gateway.succeed("put one\nput two\nput one damaged")?;
    fs::copy(gateway.stored("one"), gateway.stored("unknown"))?;
    fs::write(gateway.stored("plain"), "two")?;
    let aside = gateway.local("aside");
    fs::rename(gateway.stored("one"), &aside)?;
    fs::copy(gateway.stored("two"), gateway.stored("one"))?;
    fs::copy(&aside, gateway.stored("two"))?;
    let damaged = fs::OpenOptions::new()
        .write(true)
        .open(gateway.stored("damaged"))?;
    damaged.write_all_at(b"x", 20)?;
    for (name, reason) in [
        ("one", "another file lies under this name"),
        ("two", "another file lies under this name"),
        ("damaged", "can't be opened"),
    ] {
        ensure!(digest(&mut gateway, name).is_err(), "{name}");
        wait_for_record(&gateway.proxy, name, |record| {
            text(record, "reason") == "not_authentic" && body(record, "error").contains(reason)
        })?;
    }
    for (name, content) in [
        ("unknown", "one".repeat(30_000)),
        ("plain", "two".to_owned()),
    ] {
        ensure!(
            digest(&mut gateway, name)? == hex::encode(Sha256::digest(&content)),
            "{name}"
        );
        let outcome = told(&gateway, "read")?;
        ensure!(
            number(&outcome, "bytes") == Some(content.len() as u64),
            "{outcome}"
        );
    }
    Ok(())
}

#[test]
fn a_file_whose_size_was_set_is_the_new_one_and_its_older_version_is_refused() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    fs::write(gateway.local("file"), "0123456789")?;
    fs::write(gateway.local("other"), "abcdefghij")?;
    gateway.succeed("put file\nput other")?;
    fs::copy(gateway.stored("file"), gateway.local("older"))?;
    set_size(&mut gateway, "file", 4)?;
    let cut = wait_for_record(&gateway.proxy, "the cut", |record| {
        number(record, "size") == Some(4)
    })?;
    ensure!(
        body(&cut, "sha256") == hex::encode(Sha256::digest(b"0123")),
        "{cut}"
    );
    // It has that size already: the file stays.
    set_size(&mut gateway, "file", 4)?;
    fs::copy(gateway.stored("file"), gateway.local("newer"))?;
    for is_restarted in [false, true] {
        if is_restarted {
            gateway.proxy.crash_and_restart()?;
        }
        gateway.succeed("get file back")?;
        ensure!(fs::read(gateway.local("back"))? == b"0123");
        fs::remove_file(gateway.local("back"))?;
        ensure!(digest(&mut gateway, "file")? == hex::encode(Sha256::digest(b"0123")));
        told(&gateway, "journal")?;

        fs::copy(gateway.local("older"), gateway.stored("file"))?;
        let (is_done, said) = gateway.sftp("get file back")?;
        ensure!(!is_done && !gateway.local("back").exists(), "{said}");
        // Nor is another file's content taken over by a change of it.
        ensure!(set_size(&mut gateway, "file", 2).is_err());
        let (is_done, said) = gateway.sftp("get file back")?;
        ensure!(!is_done && !gateway.local("back").exists(), "{said}");
        fs::copy(gateway.local("newer"), gateway.stored("file"))?;
    }
    gateway.succeed("get file back")?;
    ensure!(fs::read(gateway.local("back"))? == b"0123");
    Ok(())
}
