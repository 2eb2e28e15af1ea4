//! Two partners whose files are encrypted with keys of their own.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{finish_within, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::text;
use crate::stored_files::{findings, verify};

const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with two backends: `disk` with the keys of `[encryption]`, `acme` with its own and encrypted names.
pub(crate) struct Gateway {
    pub(crate) proxy: Proxy,
    pub(crate) alice: Account,
    pub(crate) bob: Account,
    pub(crate) disk: TempDir,
    pub(crate) acme: TempDir,
    /// Key files of sets.
    pub(crate) keys: TempDir,
    pub(crate) here: TempDir,
}

impl Gateway {
    pub(crate) fn start() -> Result<Self> {
        Self::with("keys = \"acme\"")
    }

    /// `lines` are those of the second backend.
    pub(crate) fn with(lines: &str) -> Result<Self> {
        let (disk, acme) = (files::folder("disk")?, files::folder("acme")?);
        let keys = files::folder("keys")?;
        let section = new_set(keys.path(), "acme")?;
        let own = Backend::local(acme.path()).encrypted();
        let proxy = Plan::new(Place::Loopback)?
            .sections(&section)
            .backend("disk", Backend::local(disk.path()).encrypted())
            .backend("acme", own.with(lines))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
        let bob = proxy.account("bob", &[Mount::all("/inbox", "acme", ".")])?;
        let here = files::folder("here")?;
        Ok(Self {
            proxy,
            alice,
            bob,
            disk,
            acme,
            keys,
            here,
        })
    }

    /// Runs an `sftp` batch as the one whose files are on that backend.
    pub(crate) fn sftp(&mut self, backend: &str, batch: &str) -> Result<(bool, String)> {
        let account = match backend {
            "disk" => &mut self.alice,
            _ => &mut self.bob,
        };
        let connection = OpensshConnection::new(&self.proxy, account, Factors::KeyThenPassword)?;
        let batch = format!("lcd {}\ncd /inbox\n{batch}\n", self.here.path().display());
        let output = connection.sftp(Place::Loopback, &batch, PATIENCE)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.success(), said))
    }

    pub(crate) fn put(&mut self, backend: &str, name: &str, content: &str) -> Result<()> {
        fs::write(self.here.path().join(name), content)?;
        let (is_done, said) = self.sftp(backend, &format!("put {name}"))?;
        ensure!(is_done, "{backend}: {said}");
        Ok(())
    }

    pub(crate) fn comes_back(&mut self, backend: &str, name: &str, content: &str) -> Result<()> {
        let (is_done, said) = self.sftp(backend, &format!("get {name} back"))?;
        ensure!(is_done, "{backend}: {said}");
        let back = self.here.path().join("back");
        ensure!(fs::read_to_string(&back)? == content, "{name} is another");
        Ok(fs::remove_file(back)?)
    }

    /// The key-encryption key of `[encryption]`.
    pub(crate) fn standard_key(&self) -> PathBuf {
        self.proxy.folder().join("at-rest.kek")
    }

    /// What a rescue of a folder with two shares says, a line for each file.
    pub(crate) fn rescue(&self, from: &Path, shares: &Path, more: &[&str]) -> Result<Rescued> {
        let to = files::folder("rescued")?;
        let mut rescue = Command::new(locate::binary("portcullis-rescue")?);
        rescue.arg("--from").arg(from).arg("--to").arg(to.path());
        for share in ["share-1", "share-3"] {
            rescue.arg("--share").arg(shares.join(share));
        }
        let output = finish_within(rescue.args(more).stdin(Stdio::null()), PATIENCE)?;
        let said = [output.stdout, output.stderr].concat();
        Ok(Rescued {
            to,
            code: output.status.code(),
            said: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    /// The shares of `[encryption]`.
    pub(crate) fn standard_shares(&self) -> PathBuf {
        self.proxy.folder().join("escrow")
    }

    pub(crate) fn own_shares(&self) -> PathBuf {
        self.keys.path().join("acme")
    }
}

pub(crate) struct Rescued {
    pub(crate) to: TempDir,
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

/// Makes keys, and gives the section that names them.
pub(crate) fn new_set(folder: &Path, name: &str) -> Result<String> {
    let (key, escrow) = (folder.join(name).with_extension("kek"), folder.join(name));
    for (verb, at) in [("new-key", &key), ("new-escrow", &escrow)] {
        let mut rescue = Command::new(locate::binary("portcullis-rescue")?);
        let made = finish_within(rescue.arg(verb).arg(at), PATIENCE)?;
        ensure!(made.status.success(), "{made:?}");
    }
    Ok(format!(
        "\n[encryption.{name}]\nkey_file = \"{}\"\nescrow_recipient_file = \"{}/recipient\"\n",
        key.display(),
        escrow.display()
    ))
}

/// Which key the file is wrapped to, by its id in the head.
fn key_of(file: &Path) -> Result<String> {
    let mut id = [0; 16];
    fs::File::open(file)?.read_exact_at(&mut id, 64)?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn rotate(config: &Path, arguments: &[&str]) -> Result<(Value, Option<i32>)> {
    let mut command = Command::new(locate::binary("portcullis-proxy")?);
    command.args(["encryption", "rotate", "--json", "--config"]);
    command.arg(config).args(arguments).stdin(Stdio::null());
    let output = finish_within(&mut command, PATIENCE)?;
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout).context(shown)?;
    Ok((answer, output.status.code()))
}

/// The retired keys that a set has no use for, once that is known.
fn unneeded(config: &Path, set: &str, arguments: &[&str]) -> Result<Vec<Value>> {
    let keys = wait_for("a word on the retired keys", || {
        let (done, _) = rotate(config, arguments).ok()?;
        let judged = done.get("sets")?.get(set)?;
        let keys = judged.get("unneeded_keys")?.as_array()?.clone();
        (!keys.is_empty()).then_some(keys)
    })?;
    Ok(keys)
}

#[test]
fn each_partner_reads_his_own_and_neither_key_nor_shares_of_one_open_files_of_the_other()
-> Result<()> {
    let mut gateway = Gateway::with("keys = \"acme\"\nencrypted_names = true")?;
    gateway.put("disk", "a", "of the standard set")?;
    gateway.put("acme", "b", "of a set of its own")?;
    gateway.proxy.crash_and_restart()?;
    gateway.comes_back("disk", "a", "of the standard set")?;
    gateway.comes_back("acme", "b", "of a set of its own")?;
    let output = verify(&gateway.proxy.config, &["--json"])?;
    ensure!(findings(&output)? == (Vec::new(), Some(0)), "{output:?}");

    let (own, standard) = (gateway.own_shares(), gateway.standard_shares());
    let (disk, acme) = (gateway.disk.path(), gateway.acme.path());
    for (from, shares, name) in [(disk, &standard, "a"), (acme, &own, "b")] {
        let rescued = gateway.rescue(from, shares, &[])?;
        ensure!(rescued.code == Some(0), "{}", rescued.said);
        ensure!(rescued.to.path().join(name).exists(), "{}", rescued.said);
    }
    let crossed = gateway.rescue(disk, &own, &[])?;
    ensure!(
        crossed.code == Some(1)
            && crossed.said.contains("key-missing")
            && crossed.said.contains("another set of keys"),
        "{}",
        crossed.said
    );
    let crossed = gateway.rescue(acme, &standard, &[])?;
    ensure!(
        crossed.code == Some(2)
            && crossed.said.contains("encrypted names")
            && crossed.said.contains("another set of keys"),
        "{}",
        crossed.said
    );
    ensure!(fs::read_dir(crossed.to.path())?.next().is_none());
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_set_is_added_rotated_and_not_taken_from_a_backend_that_names_it() -> Result<()> {
    let mut gateway = Gateway::start()?;
    gateway.put("disk", "a", "a")?;
    gateway.put("acme", "b", "b")?;
    let (standard, before) = (
        key_of(&gateway.disk.path().join("a"))?,
        key_of(&gateway.acme.path().join("b"))?,
    );

    let section = new_set(gateway.keys.path(), "later")?;
    let record = gateway.proxy.reload(|text| format!("{text}{section}"))?;
    ensure!(text(&record, "outcome") == "success", "{record}");

    for (from, to) in [
        ("[encryption.acme]", "[encryption.other]"),
        ("keys = \"acme\"", "keys = \"none\""),
    ] {
        let good = fs::read_to_string(&gateway.proxy.config)?;
        let record = gateway.proxy.reload(|text| text.replace(from, to))?;
        ensure!(
            text(&record, "outcome") == "failure"
                && record.to_string().contains("there is no [encryption."),
            "{record}"
        );
        gateway.comes_back("acme", "b", "b")?;
        fs::write(&gateway.proxy.config, good)?;
    }

    let (old, new) = (
        gateway.keys.path().join("acme.kek"),
        gateway.keys.path().join("later.kek"),
    );
    let spare = gateway.keys.path().join("spare.kek");
    fs::rename(&new, &spare)?;
    let record = gateway.proxy.reload(|text| {
        let text = text.replace(&section, "");
        let line = format!("key_file = \"{}\"\n", old.display());
        let retired = format!(
            "key_file = \"{}\"\nretired_key_files = [\"{}\"]\n",
            spare.display(),
            old.display()
        );
        text.replace(&line, &retired)
    })?;
    ensure!(text(&record, "outcome") == "success", "{record}");
    let keys = unneeded(&gateway.proxy.config, "acme", &["--backend", "acme"])?;
    ensure!(keys == [Value::from(before.as_str())], "{keys:?}");
    ensure!(key_of(&gateway.acme.path().join("b"))? != before);
    ensure!(key_of(&gateway.disk.path().join("a"))? == standard);
    gateway.comes_back("disk", "a", "a")?;
    gateway.comes_back("acme", "b", "b")?;
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_partner_goes_over_to_keys_of_its_own_and_the_others_open_nothing_of_it_then() -> Result<()> {
    let mut gateway = Gateway::with("")?;
    gateway.put("disk", "a", "a")?;
    gateway.put("acme", "b", "b")?;
    let standard = key_of(&gateway.disk.path().join("a"))?;
    ensure!(key_of(&gateway.acme.path().join("b"))? == standard);
    let retired = format!(
        "[encryption.acme]\nretired_key_files = [\"{}\"]\n",
        gateway.standard_key().display()
    );
    let record = gateway.proxy.reload(|text| {
        let text = text.replace("[encryption.acme]\n", &retired);
        text.replace("[backends.acme]\n", "[backends.acme]\nkeys = \"acme\"\n")
    })?;
    ensure!(text(&record, "outcome") == "success", "{record}");
    let checked = gateway.proxy.command(&["check"])?;
    ensure!(
        checked.contains("of [encryption] is retired in [encryption.acme] too"),
        "{checked}"
    );
    gateway.comes_back("acme", "b", "b")?;
    let keys = unneeded(&gateway.proxy.config, "acme", &[])?;
    ensure!(keys == [Value::from(standard.as_str())], "{keys:?}");
    let record = gateway
        .proxy
        .reload(|text| text.replace(&retired, "[encryption.acme]\n"))?;
    ensure!(text(&record, "outcome") == "success", "{record}");
    gateway.comes_back("disk", "a", "a")?;
    gateway.comes_back("acme", "b", "b")?;
    ensure!(key_of(&gateway.disk.path().join("a"))? == standard);
    let (own, others) = (gateway.own_shares(), gateway.standard_shares());
    let rescued = gateway.rescue(gateway.acme.path(), &own, &[])?;
    ensure!(rescued.code == Some(0), "{}", rescued.said);
    let crossed = gateway.rescue(gateway.acme.path(), &others, &[])?;
    ensure!(
        crossed.code == Some(1) && crossed.said.contains("key-missing"),
        "{}",
        crossed.said
    );
    Ok(())
}
