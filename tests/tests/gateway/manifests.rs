//! What a session delivered, as a manifest that its partner and an auditor check.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, Step};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{finish_within, succeed};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use tempfile::TempDir;

use crate::sessions::{body, text};
use crate::wire::PATIENCE;

struct Gateway {
    proxy: Proxy,
    alice: Account,
    auditor: String,
    here: TempDir,
    _storage: TempDir,
}

fn gateway(mode: &str) -> Result<Gateway> {
    let (storage, here) = (files::folder("storage")?, files::folder("here")?);
    let auditor = here.path().join("auditor").display().to_string();
    let program = locate::binary("portcullis-proxy")?;
    succeed(Command::new(program).args(["audit", "auditor-key", &auditor]))?;
    let lines = match mode {
        "sealed" => format!("path_mode = \"sealed\"\nauditor_key = \"{auditor}.pub\"\n"),
        mode => format!("path_mode = \"{mode}\"\n"),
    };
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(storage.path()).encrypted())
        // The section before is the journal's.
        .sections(&lines)
        .start()?;
    let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", ".")])?;
    Ok(Gateway {
        proxy,
        alice,
        auditor,
        here,
        _storage: storage,
    })
}

/// Uploads in the usual way, under a name that is then changed, and things that are not delivered.
fn deliver(gateway: &mut Gateway) -> Result<()> {
    let here = gateway.here.path().join("delivered");
    fs::create_dir_all(here.join("2026"))?;
    let small = b"patient;result\n".to_vec();
    for (name, content) in [
        ("results.csv", small),
        ("2026/scan.dcm", files::random_bytes(3 << 20)?),
        ("taken-back.txt", b"a mistake".to_vec()),
    ] {
        fs::write(here.join(name), content)?;
    }
    let put = |local: &str, remote: &str| Step::Put {
        local: here.join(local),
        remote: format!("/inbox/{remote}"),
    };
    let rename = |from: &str, to: &str| Step::Rename {
        from: format!("/inbox/{from}"),
        to: format!("/inbox/{to}"),
    };
    let steps = [
        put("results.csv", "results.csv.part"),
        rename("results.csv.part", "results.csv"),
        Step::MakeFolder("/inbox/new".to_owned()),
        put("2026/scan.dcm", "new/scan.dcm"),
        rename("new", "2026"),
        put("taken-back.txt", "taken-back.txt"),
        Step::Remove("/inbox/taken-back.txt".to_owned()),
    ];
    let (proxy, alice) = (&gateway.proxy, &mut gateway.alice);
    Client::Openssh.session(
        Place::Loopback,
        proxy,
        alice,
        Factors::KeyThenPassword,
        &steps,
    )?;
    fs::remove_file(here.join("taken-back.txt"))?;
    Ok(())
}

/// The session that uploaded.
fn delivering(proxy: &Proxy) -> Result<String> {
    let records = proxy.records()?;
    let upload = records
        .iter()
        .find(|record| body(record, "direction") == "upload");
    Ok(text(upload.context("an upload")?, "session_id").to_owned())
}

fn check(gateway: &Gateway, manifest: &Path, more: &[&str]) -> Result<Output> {
    let key = gateway.proxy.folder().join("journal.key.pub");
    let mut command = Command::new(locate::binary("portcullis-verify")?);
    command.arg("manifest").arg(manifest).arg("--key").arg(key);
    finish_within(command.args(more), PATIENCE)
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn a_partner_checks_a_delivery_with_sha256sum_and_an_auditor_with_the_log() -> Result<()> {
    for mode in ["clear", "sealed"] {
        let mut gateway = gateway(mode)?;
        deliver(&mut gateway)?;
        let session = delivering(&gateway.proxy)?;
        // So that a checkpoint covers it; a running one signs within a minute.
        gateway.proxy.process.terminate()?;
        let manifest = gateway.proxy.folder().join("manifest");
        let name = manifest.display().to_string();
        let make = |more: &[&str]| {
            let _ = fs::remove_file(&manifest);
            let all = [&["audit", "manifest", &session, "-o", &name], more].concat();
            gateway.proxy.command(&all)
        };
        let journal = gateway.proxy.journal.display().to_string();
        let folder = gateway.here.path().join("delivered");
        let files = folder.display().to_string();
        let with_log = ["--journal", journal.as_str()];
        let with_files = ["--files", files.as_str()];
        let all = [with_log, with_files].concat();

        make(&["--mount", "/inbox"])?;
        let written = fs::read_to_string(&manifest)?;
        let sound = check(&gateway, &manifest, &all)?;
        ensure!(sound.status.success(), "{mode}: {}", said(&sound));
        ensure!(written.contains("# files 2\n"), "{mode}: {written}");
        ensure!(
            !written.contains("taken") && !written.contains("part"),
            "{mode}: {written}"
        );
        if mode == "sealed" {
            ensure!(
                !written.contains("results") && !written.contains("2026/"),
                "{written}"
            );
            ensure!(
                said(&sound).contains("of 2 nothing can be said"),
                "{}",
                said(&sound)
            );
            make(&["--mount", "/inbox", "--unseal", &gateway.auditor])?;
        }
        let sound = check(&gateway, &manifest, &all)?;
        ensure!(sound.status.success(), "{mode}: {}", said(&sound));
        ensure!(
            said(&sound).contains("files: 2 are as"),
            "{mode}: {}",
            said(&sound)
        );
        let sums = || {
            let mut command = Command::new("sha256sum");
            command.arg("--check").arg(&manifest).current_dir(&folder);
            finish_within(&mut command, PATIENCE)
        };
        ensure!(sums()?.status.success(), "{}", said(&sums()?));

        let scan = folder.join("2026/scan.dcm");
        let mut content = fs::read(&scan)?;
        *content.last_mut().context("it is not empty")? ^= 1;
        fs::write(&scan, content)?;
        let altered = check(&gateway, &manifest, &with_files)?;
        ensure!(altered.status.code() == Some(1), "{}", said(&altered));
        ensure!(
            said(&altered).contains("2026/scan.dcm: is not what"),
            "{}",
            said(&altered)
        );
        ensure!(!sums()?.status.success());

        let honest = fs::read_to_string(&manifest)?;
        fs::write(&manifest, honest.replacen("15 bytes", "16 bytes", 1))?;
        let forged = check(&gateway, &manifest, &[])?;
        ensure!(forged.status.code() == Some(1), "{}", said(&forged));
        // Whoever asked is on record, with what was asked.
        let refused = make(&["--mount", "/outbox"])
            .err()
            .context("there is no such mount")?;
        ensure!(refused.to_string().contains("no mount"), "{refused}");
    }
    Ok(())
}
