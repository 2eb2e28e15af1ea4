//! Files that were changed behind the gateway's back, found by the log.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, Step};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::text;

struct Gateway {
    proxy: Proxy,
    alice: Account,
    storage: TempDir,
    local: TempDir,
}

fn gateway(journal: &str) -> Result<Gateway> {
    let storage = files::folder("storage")?;
    fs::create_dir(storage.path().join("partner"))?;
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(storage.path()))
        // The section before is the journal's.
        .sections(journal)
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", "partner")])?;
    Ok(Gateway {
        proxy,
        alice,
        storage,
        local: files::folder("here")?,
    })
}

impl Gateway {
    fn put(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let local = self.local.path().join("source");
        fs::write(&local, content)?;
        let remote = format!("/inbox/{name}");
        self.session(&[Step::Put { local, remote }])
    }

    fn session(&mut self, steps: &[Step]) -> Result<()> {
        let factors = Factors::KeyThenPassword;
        Client::Openssh.session(
            Place::Loopback,
            &self.proxy,
            &mut self.alice,
            factors,
            steps,
        )?;
        Ok(())
    }

    fn stored(&self, name: &str) -> std::path::PathBuf {
        self.storage.path().join("partner").join(name)
    }

    fn verify(&self, arguments: &[&str]) -> Result<Output> {
        verify(&self.proxy.config, arguments)
    }
}

pub(crate) fn verify(config: &Path, arguments: &[&str]) -> Result<Output> {
    let program = locate::binary("portcullis-proxy")?;
    let mut command = Command::new(program);
    command.arg("verify").args(arguments).arg("--config");
    command
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .context("run verify")
}

/// Paths with what was found there, sorted, and the exit code.
pub(crate) type Findings = (Vec<(String, String)>, Option<i32>);

pub(crate) fn findings(output: &Output) -> Result<Findings> {
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_slice(&output.stdout).context(shown)?;
    let listed = answer
        .get("findings")
        .and_then(Value::as_array)
        .context("findings")?;
    let mut found: Vec<_> = listed
        .iter()
        .map(|one| {
            let path = text(one, "path").to_owned();
            (path, text(one, "finding").to_owned())
        })
        .collect();
    found.sort();
    Ok((found, output.status.code()))
}

fn uploads(gateway: &mut Gateway) -> Result<()> {
    for (name, content) in [
        ("altered", &b"as it was"[..]),
        ("removed", b"something"),
        ("back", b"the first version"),
        ("sound", b"nobody touches it"),
    ] {
        gateway.put(name, content)?;
    }
    fs::copy(gateway.stored("back"), gateway.local.path().join("first"))?;
    gateway.put("back", b"the second version")?;
    gateway.put("big", &vec![b'b'; 3_000_000])?;
    gateway.session(&[Step::Rename {
        from: "/inbox/big".to_owned(),
        to: "/inbox/renamed".to_owned(),
    }])
}

fn tamper(gateway: &Gateway) -> Result<()> {
    fs::write(gateway.stored("altered"), b"as it isn't")?;
    fs::remove_file(gateway.stored("removed"))?;
    fs::write(gateway.stored("added"), b"by whom?")?;
    fs::copy(gateway.local.path().join("first"), gateway.stored("back"))?;
    let mut big = fs::read(gateway.stored("renamed"))?;
    *big.last_mut().context("it is not empty")? = b'c';
    fs::write(gateway.stored("renamed"), big)?;
    Ok(())
}

const EXPECTED: [(&str, &str); 5] = [
    ("added", "unknown"),
    ("altered", "altered"),
    ("back", "rolled_back"),
    ("removed", "missing"),
    ("renamed", "altered"),
];

#[test]
fn what_is_changed_behind_the_gateways_back_is_found_with_user_and_time_and_nothing_else()
-> Result<()> {
    let mut gateway = gateway("")?;
    uploads(&mut gateway)?;
    let (found, code) = findings(&gateway.verify(&["--json"])?)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?} {code:?}");

    tamper(&gateway)?;
    let output = gateway.verify(&["--json", "--mount", "/inbox", "--rate", "50MB/s"])?;
    let (found, code) = findings(&output)?;
    let expected: Vec<_> = EXPECTED
        .map(|(name, kind)| (format!("/disk/partner/{name}"), kind.to_owned()))
        .into();
    ensure!(found == expected && code == Some(1), "{found:?} {code:?}");

    let records = gateway.proxy.records()?;
    let recorded: Vec<_> = records
        .iter()
        .filter(|record| text(record, "event") == "rest.finding")
        .map(|record| &record["body"])
        .collect();
    ensure!(recorded.len() == EXPECTED.len(), "{recorded:?}");
    for finding in recorded {
        let is_added = text(finding, "finding") == "unknown";
        ensure!(
            (text(finding, "last_user") == "alice") != is_added
                && finding["last_time"].is_string() != is_added,
            "{finding}"
        );
    }
    let ends: Vec<_> = records
        .iter()
        .filter(|record| text(record, "event") == "rest.verify")
        .map(|record| text(record, "outcome"))
        .collect();
    ensure!(ends == ["success", "failure"], "{ends:?}");
    let shown = gateway.verify(&[])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(
        shown.contains("rolled_back /disk/partner/back  last by: alice at 20"),
        "{shown}"
    );
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_hidden_journal_finds_the_same_by_tokens() -> Result<()> {
    let mut gateway = gateway("path_mode = \"hmac\"\n")?;
    uploads(&mut gateway)?;
    let (found, code) = findings(&gateway.verify(&["--json"])?)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?} {code:?}");
    tamper(&gateway)?;
    let (found, _) = findings(&gateway.verify(&["--json"])?)?;
    let mut kinds: Vec<_> = found.iter().map(|(_, kind)| kind.as_str()).collect();
    kinds.sort_unstable();
    let expected = ["altered", "altered", "missing", "rolled_back", "unknown"];
    ensure!(kinds == expected, "{found:?}");
    for record in gateway.proxy.records()? {
        // What administrators say of mounts is in clear in any mode.
        let line = record.to_string();
        let is_clear = line.contains("partner") || line.contains("renamed");
        ensure!(
            !is_clear || text(&record, "event").starts_with("admin."),
            "{line}"
        );
    }
    Ok(())
}

#[test]
fn what_the_gateway_itself_changes_is_no_finding_and_what_cannot_be_done_is_said() -> Result<()> {
    let mut gateway = gateway("")?;
    gateway.put("one", b"1")?;
    gateway.session(&[Step::Rename {
        from: "/inbox/one".to_owned(),
        to: "/inbox/two".to_owned(),
    }])?;
    gateway.put("one", b"2")?;
    gateway.put("two", b"3")?;
    let (found, code) = findings(&gateway.verify(&["--json", "--backend", "disk"])?)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?} {code:?}");
    let other = gateway.verify(&["--backend", "tape"])?;
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    ensure!(
        other.status.code() == Some(2) && said.contains("tape is no backend of the configuration"),
        "{said}"
    );
    let config = gateway.proxy.config.clone();
    gateway.proxy.process.terminate()?;
    let stopped = verify(&config, &[])?;
    ensure!(stopped.status.code() == Some(2), "{stopped:?}");
    Ok(())
}
