//! Each delivery has a manifest that nobody asked for.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{
    OpensshConnection, SshfsMount, lftp_script, paramiko_put_and_set_size,
};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::{Place, free_port};
use portcullis_tests::process::{finish_within, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::sessions::{body, text, wait_for_record};
use crate::wire::PATIENCE;

struct Gateway {
    proxy: Proxy,
    alice: Account,
    metrics: SocketAddr,
    manifests: PathBuf,
    here: TempDir,
    _storage: TempDir,
}

/// With two mounts of one backend, and one that nothing can be written to.
fn gateway(mode: &str) -> Result<Gateway> {
    let (storage, here) = (files::folder("storage")?, files::folder("here")?);
    for folder in ["in", "out"] {
        fs::create_dir(storage.path().join(folder))?;
    }
    let auditor = here.path().join("auditor").display().to_string();
    let program = locate::binary("portcullis-proxy")?;
    succeed(Command::new(program).args(["audit", "auditor-key", &auditor]))?;
    let sealed = format!("path_mode = \"sealed\"\nauditor_key = \"{auditor}.pub\"\n");
    let lines = if mode == "sealed" { &sealed } else { "" };
    let metrics = SocketAddr::new(Place::Loopback.address(), free_port());
    let manifests = here.path().join("kept/manifests");
    let plan = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(storage.path()).encrypted())
        // The section before is the journal's.
        .sections(&format!(
            "{lines}[metrics]\nlisten = \"{metrics}\"\n[manifests]\ndirectory = \"{}\"\n",
            manifests.display()
        ));
    let proxy = plan.start()?;
    let alice = proxy.account(
        "alice",
        &[
            Mount::all("/inbox", "disk", "in"),
            Mount::all("/outbox", "disk", "out"),
            Mount {
                permissions: vec!["list", "read"],
                ..Mount::all("/archive", "disk", "in")
            },
        ],
    )?;
    Ok(Gateway {
        proxy,
        alice,
        metrics,
        manifests,
        here,
        _storage: storage,
    })
}

impl Gateway {
    fn local(&self, name: &str, content: &str) -> Result<()> {
        Ok(fs::write(self.here.path().join(name), content)?)
    }

    /// Whether all of it succeeded.
    fn sftp(&mut self, batch: &str) -> Result<bool> {
        let alice = &mut self.alice;
        let connection = OpensshConnection::new(&self.proxy, alice, Factors::KeyThenPassword)?;
        let batch = format!("lcd {}\n{batch}\n", self.here.path().display());
        let output = connection.sftp(Place::Loopback, &batch, PATIENCE)?;
        Ok(output.status.success())
    }

    fn written(&self) -> Result<Vec<Value>> {
        let mut records = self.proxy.records()?;
        records.retain(|record| {
            text(record, "event") == "manifest.written" && text(record, "outcome") == "success"
        });
        Ok(records)
    }

    /// The record of a manifest, once there are so many.
    fn wait_for_written(&self, count: usize) -> Result<Value> {
        wait_for(&format!("{count} manifest(s)"), || {
            let written = self.written().ok()?;
            (written.len() >= count).then(|| written.last().cloned())?
        })
    }

    fn file(&self, record: &Value) -> PathBuf {
        self.manifests.join(body(record, "file"))
    }

    /// Says the same as whoever asks for it, and is accepted by who checks it.
    fn is_right(&self, record: &Value) -> Result<String> {
        let file = self.file(record);
        let written = fs::read_to_string(&file)?;
        let asked = self
            .proxy
            .command(&["audit", "manifest", body(record, "session")])?;
        ensure!(written == asked, "{written}\nis not\n{asked}");
        ensure!(hex::encode(Sha256::digest(&written)) == body(record, "sha256"));
        let checked = self.verify(&file)?;
        ensure!(checked.status.success(), "{}", said(&checked));
        Ok(written)
    }

    fn verify(&self, manifest: &Path) -> Result<Output> {
        let mut command = Command::new(locate::binary("portcullis-verify")?);
        command.arg("manifest").arg(manifest);
        command.arg("--journal").arg(&self.proxy.journal);
        command
            .arg("--key")
            .arg(self.proxy.folder().join("journal.key.pub"));
        finish_within(&mut command, PATIENCE)
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.metrics)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let line = page.lines().find_map(|line| {
            line.strip_prefix("portcullis_proxy_manifests_")?
                .strip_prefix(name)
        });
        Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
    }
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Names of all files below a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(names(&path)?);
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[test]
fn a_session_that_delivers_has_a_manifest_and_one_that_does_not_has_none() -> Result<()> {
    for mode in ["clear", "sealed"] {
        let mut gateway = gateway(mode)?;
        for name in ["results.csv", "report.pdf", "scan.dcm"] {
            gateway.local(name, &format!("{name} of {mode}"))?;
        }
        // Nothing is delivered: it may not write there, and it takes back what it wrote.
        ensure!(!gateway.sftp("put results.csv /archive/results.csv")?);
        ensure!(gateway.sftp("put results.csv /inbox/mistake\nrm /inbox/mistake")?);
        ensure!(gateway.sftp(
            "put results.csv /inbox/results.part\nrename /inbox/results.part /inbox/results.csv\n\
             put report.pdf /outbox/report.pdf\nget /inbox/results.csv back"
        )?);
        let first = gateway.wait_for_written(1)?;
        ensure!(gateway.sftp("get /inbox/results.csv back")?);
        let scan = gateway.here.path().join("scan.dcm");
        lftp_script(
            Place::Loopback,
            &gateway.proxy,
            &gateway.alice,
            &format!("put {} -o /inbox/scan.dcm\n", scan.display()),
        )?;
        let second = gateway.wait_for_written(2)?;
        ensure!(gateway.written()?.len() == 2);

        let delivered = gateway.is_right(&first)?;
        ensure!(delivered.contains("# files 2\n"), "{delivered}");
        let scanned = gateway.is_right(&second)?;
        ensure!(scanned.contains("# files 1\n"), "{scanned}");
        let file = body(&first, "file");
        let name = format!("/alice-{}.manifest", body(&first, "session"));
        ensure!(file.ends_with(&name), "{file}");
        if mode == "sealed" {
            for name in ["results", "report", "scan", "inbox", "outbox"] {
                ensure!(!delivered.contains(name), "{delivered}");
                ensure!(!names(&gateway.manifests)?.concat().contains(name));
            }
        } else {
            let stored = gateway.here.path().join("stored");
            fs::create_dir_all(stored.join("inbox"))?;
            fs::create_dir_all(stored.join("outbox"))?;
            let copy = |from: &str, to: &str| {
                fs::copy(gateway.here.path().join(from), stored.join(to)).map(drop)
            };
            copy("results.csv", "inbox/results.csv")?;
            copy("report.pdf", "outbox/report.pdf")?;
            let sums = || {
                let mut command = Command::new("sha256sum");
                command.arg("--check").arg(gateway.file(&first));
                finish_within(command.current_dir(&stored), PATIENCE)
            };
            ensure!(sums()?.status.success(), "{}", said(&sums()?));
            copy("scan.dcm", "outbox/report.pdf")?;
            ensure!(!sums()?.status.success());
        }
        ensure!(gateway.metric("written_total")? == 2.0);
        ensure!(gateway.metric("failed_total")? == 0.0);
        gateway.proxy.journal_is_sound()?;
    }
    Ok(())
}

#[test]
fn the_end_of_the_gateway_leaves_no_delivery_without_a_manifest() -> Result<()> {
    let mut gateway = gateway("clear")?;
    gateway.local("file", "content")?;
    // It is killed in the midst of a session, and the next start ends that.
    let process = gateway.proxy.process.id();
    gateway.sftp(&format!("put file /inbox/one\n!kill -9 {process}\nls"))?;
    ensure!(gateway.written()?.is_empty());
    gateway.proxy.crash_and_restart()?;
    let record = gateway.wait_for_written(1)?;
    let manifest = gateway.is_right(&record)?;
    ensure!(manifest.contains("inbox/one"), "{manifest}");
    let started = gateway.proxy.records()?;
    let started = started
        .iter()
        .rfind(|record| text(record, "event") == "app.start")
        .context("it started")?;
    let ended = format!(" {}\n# scope", text(started, "ts"));
    ensure!(manifest.contains(&ended), "{manifest}");

    // It is drained, and does not end before the manifest is there.
    let process = gateway.proxy.process.id();
    gateway.sftp(&format!(
        "put file /inbox/two\n!kill -TERM {process}\n!sleep 1"
    ))?;
    gateway.proxy.process.wait_for_end()?;
    let written = gateway.written()?;
    let [_, record] = written.as_slice() else {
        anyhow::bail!("{written:?}");
    };
    let manifest = gateway.is_right(record)?;
    ensure!(manifest.contains("inbox/two"), "{manifest}");

    // Nothing is written twice, and what is new is.
    gateway.proxy.start_again(Place::Loopback)?;
    ensure!(gateway.sftp("put file /inbox/three")?);
    gateway.wait_for_written(3)?;
    ensure!(gateway.written()?.len() == 3);
    Ok(())
}

#[test]
fn a_manifest_that_is_missing_or_changed_is_named() -> Result<()> {
    let mut gateway = gateway("clear")?;
    gateway.local("file", "content")?;
    let mut files = Vec::new();
    for count in 1..=3 {
        ensure!(gateway.sftp(&format!("put file /inbox/{count}"))?);
        files.push(gateway.file(&gateway.wait_for_written(count)?));
    }
    let [removed, changed, kept] = files.as_slice() else {
        anyhow::bail!("{files:?}");
    };
    let sound = gateway.proxy.command(&["audit", "manifests"])?;
    ensure!(
        sound.lines().count() == 3 && sound.lines().all(|line| line.starts_with("ok ")),
        "{sound}"
    );
    fs::remove_file(removed)?;
    let text = fs::read_to_string(changed)?;
    fs::write(changed, text.replace("7 bytes", "8 bytes"))?;
    let forged = gateway.verify(changed)?;
    ensure!(forged.status.code() == Some(1), "{}", said(&forged));
    let list = |more: &[&str]| {
        let mut command = Command::new(locate::binary("portcullis-proxy")?);
        command.args(["audit", "manifests"]).args(more);
        command.arg("--config").arg(&gateway.proxy.config);
        finish_within(&mut command, PATIENCE)
    };
    let found = list(&[])?;
    ensure!(found.status.code() == Some(1), "{}", said(&found));
    ensure!(
        said(&found).contains("2 of 3 manifest(s)"),
        "{}",
        said(&found)
    );
    let states = String::from_utf8(list(&["--json"])?.stdout)?;
    for (line, (state, file)) in
        states
            .lines()
            .zip([("missing", removed), ("changed", changed), ("ok", kept)])
    {
        let told: Value = serde_json::from_str(line)?;
        ensure!(self::text(&told, "state") == state, "{told}");
        ensure!(file.ends_with(self::text(&told, "file")), "{told}");
        ensure!(self::text(&told, "user") == "alice", "{told}");
    }
    ensure!(list(&["--user", "bob"])?.status.success());
    // The journal still has what it said.
    gateway.proxy.journal_is_sound()
}

#[test]
fn what_can_not_be_written_is_tried_again_and_holds_up_nobody() -> Result<()> {
    let mut gateway = gateway("clear")?;
    gateway.local("file", "content")?;
    let aside = gateway.here.path().join("aside");
    fs::rename(&gateway.manifests, &aside)?;
    fs::write(&gateway.manifests, "no folder")?;
    ensure!(gateway.sftp("put file /inbox/one")?);
    let failed = wait_for_record(&gateway.proxy, "a failure", |record| {
        text(record, "event") == "manifest.written" && text(record, "outcome") == "failure"
    })?;
    ensure!(text(&failed, "reason") == "not_written", "{failed}");
    ensure!(gateway.metric("failed_total")? >= 1.0);
    ensure!(gateway.sftp("put file /inbox/two\nget /inbox/one back")?);
    ensure!(gateway.written()?.is_empty());

    fs::remove_file(&gateway.manifests)?;
    fs::rename(&aside, &gateway.manifests)?;
    gateway.wait_for_written(2)?;
    for record in gateway.written()? {
        gateway.is_right(&record)?;
    }
    ensure!(gateway.metric("written_total")? == 2.0);
    // Once for all that went on.
    let failures = gateway.proxy.records()?;
    let failures = failures.iter().filter(|record| {
        text(record, "event") == "manifest.written" && text(record, "outcome") == "failure"
    });
    ensure!(failures.count() == 1);
    Ok(())
}

#[test]
fn a_file_that_was_cut_after_its_upload_has_the_digest_that_is_on_record() -> Result<()> {
    let mut gateway = gateway("clear")?;
    gateway.local("file", "content and more")?;
    let file = gateway.here.path().join("file");
    let (proxy, alice) = (&gateway.proxy, &mut gateway.alice);
    let names = (file.as_path(), "/inbox/cut");
    paramiko_put_and_set_size(Place::Loopback, proxy, alice, names, 7)?;
    let by_name = gateway.is_right(&gateway.wait_for_written(1)?)?;
    let alice = &mut gateway.alice;
    let connection = OpensshConnection::new(&gateway.proxy, alice, Factors::KeyThenPassword)?;
    let mount = SshfsMount::new(connection, "/inbox")?;
    fs::write(mount.path().join("cut"), "content and more")?;
    let mut cut = Command::new("truncate");
    succeed(cut.args(["--size", "7"]).arg(mount.path().join("cut")))?;
    mount.unmount()?;
    let by_handle = gateway.is_right(&gateway.wait_for_written(2)?)?;
    let digest = hex::encode(Sha256::digest("content"));
    for manifest in [by_name, by_handle] {
        ensure!(
            manifest.contains(&format!("{digest}  inbox/cut\n")),
            "{manifest}"
        );
        ensure!(manifest.contains("# 7 bytes, "), "{manifest}");
    }
    Ok(())
}
