//! A gateway whose journal hides the paths of its clients, as its auditors see it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::{Client, OpensshConnection, Step};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{finish_within, succeed};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use tempfile::TempDir;

use crate::sessions::{text, wait_for_record};
use crate::wire::PATIENCE;

/// Part of every name that the client uses.
const NEEDLE: &str = "DoeJane19800101";

struct Gateway {
    proxy: Proxy,
    alice: Account,
    auditor: String,
    _storage: TempDir,
    _keys: TempDir,
}

fn gateway(mode: &str) -> Result<Gateway> {
    let (storage, keys) = (files::folder("storage")?, files::folder("auditor")?);
    let auditor = keys.path().join("auditor").display().to_string();
    let program = locate::binary("portcullis-proxy")?;
    succeed(Command::new(program).args(["audit", "auditor-key", &auditor]))?;
    let lines = match mode {
        "sealed" => format!("path_mode = \"sealed\"\nauditor_key = \"{auditor}.pub\"\n"),
        mode => format!("path_mode = \"{mode}\"\n"),
    };
    let proxy = Plan::new(Place::Loopback)?
        .backend("disk", Backend::local(storage.path()))
        // The section before is the journal's.
        .sections(&lines)
        .start()?;
    let mount = Mount {
        permissions: vec!["list", "read", "write", "overwrite", "rename"],
        ..Mount::all("/inbox", "disk", ".")
    };
    let alice = proxy.account("alice", &[mount])?;
    Ok(Gateway {
        proxy,
        alice,
        auditor,
        _storage: storage,
        _keys: keys,
    })
}

/// A transfer each way, a rename, a refusal and a command, with real clients.
fn use_it(gateway: &mut Gateway) -> Result<()> {
    let folder = files::folder("here")?;
    let local = folder.path().join("scan.dcm");
    fs::write(&local, vec![b'x'; 10_000])?;
    let name = |end: &str| format!("/inbox/{NEEDLE}{end}");
    let steps = [
        Step::Put {
            local,
            remote: name("-a.dcm"),
        },
        Step::Rename {
            from: name("-a.dcm"),
            to: name("-b.dcm"),
        },
        Step::Get {
            remote: name("-b.dcm"),
            local: folder.path().join("back"),
        },
    ];
    let factors = Factors::KeyThenPassword;
    let (proxy, alice) = (&gateway.proxy, &mut gateway.alice);
    Client::Openssh.session(Place::Loopback, proxy, alice, factors, &steps)?;
    let connection = OpensshConnection::new(proxy, alice, factors)?;
    connection.ssh(Place::Loopback, &["cat", &name("-b.dcm")])?;
    wait_for_record(proxy, "the refused command", |record| {
        text(record, "event") == "channel.refused"
    })?;
    Ok(())
}

fn whole_folder(folder: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        all.extend(fs::read(entry?.path())?);
    }
    Ok(all)
}

fn has_needle(bytes: &[u8]) -> bool {
    let needle = NEEDLE.as_bytes();
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn names_reach_a_clear_journal_and_none_that_hides_them_nor_its_excerpts() -> Result<()> {
    for mode in ["clear", "hmac", "sealed"] {
        let mut gateway = gateway(mode)?;
        use_it(&mut gateway)?;
        let proxy = &gateway.proxy;
        let is_clear = mode == "clear";
        ensure!(
            has_needle(&whole_folder(&proxy.journal)?) == is_clear,
            "{mode}"
        );
        let log = proxy.process.log();
        let said = log.lines().find(|line| has_needle(line.as_bytes()));
        ensure!(
            said.is_some() == is_clear,
            "{mode}: the daemon's own messages: {said:?}"
        );
        proxy.journal_is_sound()?;

        let path = format!("/inbox/{NEEDLE}-a.dcm");
        let found = proxy.command(&["audit", "search", "--path", &path, "--op", "write"])?;
        ensure!(
            !found.is_empty() && has_needle(found.as_bytes()) == is_clear,
            "{mode}: {found}"
        );
        let story = proxy.command(&["audit", "file", &path])?;
        ensure!(
            story.contains("upload") && story.contains("rename"),
            "{mode}: {story}"
        );
        if mode == "sealed" {
            let user = [
                "audit",
                "search",
                "--user",
                "alice",
                "--unseal",
                &gateway.auditor,
            ];
            let opened = proxy.command(&user)?;
            ensure!(
                opened.contains(&path) && opened.contains("cat /inbox"),
                "{opened}"
            );
        }

        let excerpt = proxy.folder().join("excerpt");
        let name = excerpt.display().to_string();
        // What is signed by now; the rest comes within a minute.
        gateway.proxy.process.terminate()?;
        let export = [
            "audit",
            "export",
            "--user",
            "alice",
            "--event",
            "op,xfer",
            "-o",
            &name,
            "--redact-paths",
        ];
        let exported = gateway.proxy.command(&export);
        if is_clear {
            let refused = exported
                .err()
                .context("a clear path was exported as redacted")?;
            ensure!(refused.to_string().contains("path_mode"), "{refused}");
            ensure!(!excerpt.exists());
            continue;
        }
        exported?;
        ensure!(!has_needle(&fs::read(&excerpt)?));
        let check = || {
            let verifier = locate::binary("portcullis-verify")?;
            let key = gateway.proxy.folder().join("journal.key.pub");
            let mut command = Command::new(verifier);
            finish_within(
                command.arg("check").arg(&excerpt).arg("--key").arg(key),
                PATIENCE,
            )
        };
        let honest = check()?;
        let said = String::from_utf8_lossy(&honest.stdout).into_owned();
        ensure!(
            honest.status.success() && said.contains("xfer.summary"),
            "{said}"
        );
        let content = fs::read_to_string(&excerpt)?;
        fs::write(&excerpt, content.replacen("\"hmac:/", "\"hmac:/A", 1))?;
        ensure!(check()?.status.code() == Some(1));
    }
    Ok(())
}

#[test]
fn tokens_stay_the_same_over_restarts_and_the_mode_changes_by_one_only() -> Result<()> {
    let mut gateway = gateway("hmac")?;
    use_it(&mut gateway)?;
    let path = format!("/inbox/{NEEDLE}-b.dcm");
    let search = [
        "audit",
        "search",
        "--path",
        &path,
        "--op",
        "open",
        "--outcome",
        "allow",
    ];
    let before = gateway.proxy.command(&search)?.lines().count();
    ensure!(before > 0);
    gateway.proxy.crash_and_restart()?;
    use_it(&mut gateway)?;
    ensure!(gateway.proxy.command(&search)?.lines().count() == 2 * before);

    let to_clear = |text: &str| text.replace("path_mode = \"hmac\"", "path_mode = \"clear\"");
    let refused = gateway.proxy.reload(to_clear)?;
    ensure!(text(&refused, "reason") == "needs_restart", "{refused}");
    ensure!(
        refused["body"]["faults"]
            .to_string()
            .contains("journal.path_mode"),
        "{refused}"
    );
    gateway.proxy.crash_and_restart()?;
    use_it(&mut gateway)?;
    ensure!(has_needle(&whole_folder(&gateway.proxy.journal)?));
    // One search over both.
    ensure!(gateway.proxy.command(&search)?.lines().count() == 3 * before);
    Ok(())
}
