//! `scp -O` and PuTTY's `pscp -scp`: the old protocol, done as SFTP operations.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{OpensshConnection, paramiko_digest, pscp};
use portcullis_tests::evidence::{self, Deed, Program};
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::process::{PATIENCE, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

struct Gateway {
    proxy: Proxy,
    alice: Account,
    storage: TempDir,
    here: TempDir,
}

impl Gateway {
    fn start(settings: &[(&'static str, &str)]) -> Result<Self> {
        let storage = files::folder("storage")?;
        let mut plan =
            Plan::new(Place::Loopback)?.backend("archive", Backend::local(storage.path()));
        for (key, value) in settings {
            plan = plan.server(key, value);
        }
        let proxy = plan.start()?;
        let alice = proxy.account("alice", &[Mount::all("/in", "archive", "/")])?;
        Ok(Self {
            proxy,
            alice,
            storage,
            here: files::folder("partner")?,
        })
    }

    fn scp(&mut self, arguments: &[&str]) -> Result<Output> {
        let connection =
            OpensshConnection::new(&self.proxy, &mut self.alice, Factors::KeyThenPassword)?;
        connection.scp(Place::Loopback, arguments, 4 * PATIENCE)
    }

    fn copies(&mut self, arguments: &[&str]) -> Result<()> {
        let output = self.scp(arguments)?;
        ensure!(
            output.status.success(),
            "scp {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn here(&self, name: &str) -> String {
        self.here.path().join(name).display().to_string()
    }

    fn operations(&self) -> Result<Vec<String>> {
        let records = self.proxy.records()?;
        Ok(records
            .iter()
            .filter(|record| record.get("event").and_then(Value::as_str) == Some("op.intent"))
            .filter_map(|record| Some(record.get("body")?.get("sftp_op")?.as_str()?.to_owned()))
            .collect())
    }
}

fn same(one: &Path, other: &Path) -> Result<()> {
    ensure!(
        fs::read(one)? == fs::read(other)?,
        "{} differs from {}",
        one.display(),
        other.display()
    );
    Ok(())
}

#[test]
fn scp_copies_files_of_every_size_and_name_both_ways() -> Result<()> {
    let mut gateway = Gateway::start(&[])?;
    let large = files::random_bytes(100 * 1024 * 1024)?;
    for (name, content) in [
        ("empty", &b""[..]),
        ("one", b"1"),
        ("a name with  'quotes' and $dollar", b"quoted"),
        ("large.bin", &large),
    ] {
        let original = gateway.here.path().join(name);
        fs::write(&original, content)?;
        gateway.copies(&[&gateway.here(name), "HOST:/in"])?;
        same(&original, &gateway.storage.path().join(name))?;
        // As for a shell; scp itself understands backslashes, but not quotes, when it checks the name that comes.
        let escaped: String = name
            .chars()
            .flat_map(|letter| {
                let is_plain = letter.is_ascii_alphanumeric() || letter == '.';
                (!is_plain).then_some('\\').into_iter().chain([letter])
            })
            .collect();
        let back = gateway.here("back");
        gateway.copies(&[&format!("HOST:/in/{escaped}"), &back])?;
        same(&original, Path::new(&back))?;
    }
    let operations = gateway.operations()?;
    for expected in ["stat", "open", "write", "close", "fstat", "read"] {
        ensure!(
            operations.iter().any(|name| name == expected),
            "no {expected}"
        );
    }
    let verdict = gateway.proxy.verify(&gateway.proxy.journal)?;
    ensure!(verdict.status.success());
    let digest = paramiko_digest(
        Place::Loopback,
        &gateway.proxy,
        &mut gateway.alice,
        "/in/large.bin",
    )?;
    ensure!(
        digest == hex::encode(Sha256::digest(&large)),
        "check-file says {digest}"
    );
    evidence::note(Program::Scp, &[Deed::Upload, Deed::Download])
}

#[test]
fn scp_copies_trees_with_their_times_and_modes_both_ways() -> Result<()> {
    let mut gateway = Gateway::start(&[])?;
    let tree = gateway.here.path().join("tree");
    fs::create_dir_all(tree.join("deep/er"))?;
    fs::create_dir(tree.join("hollow"))?;
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    for (name, mode) in [
        ("top", 0o640),
        ("deep/middle", 0o604),
        ("deep/er/bottom", 0o755),
    ] {
        let path = tree.join(name);
        fs::write(&path, name)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        fs::File::options()
            .write(true)
            .open(&path)?
            .set_modified(modified)?;
    }
    gateway.copies(&["-r", "-p", &gateway.here("tree"), "HOST:/in/copy"])?;
    gateway.copies(&["-r", "-p", "HOST:/in/copy", &gateway.here("back")])?;
    for place in [
        gateway.storage.path().join("copy"),
        gateway.here.path().join("back"),
    ] {
        for name in ["top", "deep/middle", "deep/er/bottom"] {
            let (found, expected) = (place.join(name), tree.join(name));
            same(&found, &expected)?;
            let (found, expected) = (fs::metadata(&found)?, fs::metadata(&expected)?);
            ensure!(
                found.mode() == expected.mode(),
                "{name}: {:o}",
                found.mode()
            );
            ensure!(found.mtime() == 1_500_000_000, "{name}: {}", found.mtime());
        }
        ensure!(place.join("hollow").is_dir());
    }
    // Into a directory that is there, it goes under its own name.
    gateway.copies(&["-r", &gateway.here("tree"), "HOST:/in/copy"])?;
    same(
        &tree.join("top"),
        &gateway.storage.path().join("copy/tree/top"),
    )?;
    evidence::note(Program::Scp, &[Deed::Folders])
}

#[test]
fn what_can_not_be_copied_is_told_and_the_rest_is_copied() -> Result<()> {
    let mut gateway = Gateway::start(&[])?;
    fs::write(gateway.storage.path().join("there"), "there")?;
    let target = gateway.here("");
    let output = gateway.scp(&["HOST:/in/missing", "HOST:/in/there", &target])?;
    ensure!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(told.contains("/in/missing: No such file"), "{told}");
    same(
        &gateway.here.path().join("there"),
        &gateway.storage.path().join("there"),
    )
}

#[test]
fn pscp_copies_both_ways_with_the_old_protocol() -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let content = files::random_bytes(3 * 1024 * 1024 + 11)?;
    fs::write(gateway.here("original"), &content)?;
    for arguments in [
        [gateway.here("original"), "HOST:/in/copy".to_owned()],
        ["HOST:/in/copy".to_owned(), gateway.here("back")],
    ] {
        let arguments = arguments.each_ref().map(String::as_str);
        let output = pscp(Place::Loopback, &gateway.proxy, &gateway.alice, &arguments)?;
        ensure!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    ensure!(fs::read(gateway.storage.path().join("copy"))? == content);
    ensure!(fs::read(gateway.here("back"))? == content);
    evidence::note(Program::Pscp, &[Deed::Upload, Deed::Download])
}

#[test]
fn scp_is_refused_and_recorded_where_the_configuration_says_so_and_where_a_shell_would_be_needed()
-> Result<()> {
    for (settings, remote, is_served) in [
        (&[][..], "HOST:/in/there", true),
        (&[("scp", "\"refuse\"")], "HOST:/in/there", false),
        (&[], "HOST:/in/$(id)", false),
        (&[], "HOST:/in/*", false),
    ] {
        let mut gateway = Gateway::start(settings)?;
        fs::write(gateway.storage.path().join("there"), "there")?;
        let back = gateway.here("back");
        let output = gateway.scp(&[remote, &back])?;
        ensure!(
            output.status.success() == is_served,
            "{settings:?} {remote}"
        );
        if is_served {
            continue;
        }
        let record = wait_for("the record of the refusal", || {
            let records = gateway.proxy.records().ok()?;
            records.into_iter().find(|record| {
                record.get("event").and_then(Value::as_str) == Some("channel.refused")
            })
        })?;
        let body = record.get("body").context("a body")?;
        ensure!(body.get("request").and_then(Value::as_str) == Some("exec"));
        ensure!(body.to_string().contains("scp -f"), "{body}");
    }
    Ok(())
}
