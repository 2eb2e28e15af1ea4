//! Files that lie on a backend from before are encrypted by a running gateway, and by one that is killed while it does so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{finish_within, wait_for};
use portcullis_tests::proxy::Backend;
use serde_json::Value;

use crate::at_rest::Gateway;
use crate::rotation::{Asked, number};
use crate::sessions::{body, text};
use crate::stored_files::{findings, verify};

const PATIENCE: Duration = Duration::from_secs(60);
const MIGRATING: &str = "encryption = \"migrating\"";
const HEAD: &[u8] = b"\x89PCREST\n";
const FILES: usize = 120;

fn gateway() -> Result<Gateway> {
    Gateway::start(|storage| Backend::local(storage).encrypted().with(MIGRATING))
}

/// Puts files there past the gateway, as they lie there from before, and says what is in each.
fn from_before(gateway: &Gateway, files: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut written = BTreeMap::new();
    for number in 0..files {
        let name = format!("{}/{number}", number % 5);
        let content = files::random_bytes(100 + 1000 * number)?;
        let file = gateway.stored("old").join(&name);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(&file, &content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        fs::File::open(&file)?.set_modified(long_ago)?;
        written.insert(name, content);
    }
    Ok(written)
}

pub(crate) fn migrate(config: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(locate::binary("portcullis-proxy")?);
    command.args(["encryption", "migrate", "--json", "--config"]);
    command.arg(config).args(arguments).stdin(Stdio::null());
    Ok(command)
}

pub(crate) fn done(config: &Path) -> Result<(Value, Option<i32>)> {
    let output = finish_within(&mut migrate(config, &[])?, PATIENCE)?;
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout).context(shown)?;
    Ok((answer, output.status.code()))
}

pub(crate) fn names(answer: &Value, field: &str) -> Vec<String> {
    let listed = answer.get(field).and_then(Value::as_array);
    let listed = listed.into_iter().flatten();
    listed
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect()
}

/// Files that are encrypted.
fn encrypted(gateway: &Gateway, written: &BTreeMap<String, Vec<u8>>) -> Result<usize> {
    let mut count = 0;
    for name in written.keys() {
        count += usize::from(fs::read(gateway.stored("old").join(name))?.starts_with(HEAD));
    }
    Ok(count)
}

fn all_read(gateway: &mut Gateway, written: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let back = gateway.local("back");
    let _ = fs::remove_dir_all(&back);
    gateway.succeed("get -pr old back")?;
    for (name, content) in written {
        ensure!(fs::read(back.join(name))? == *content, "{name} differs");
        let modified = fs::metadata(back.join(name))?.mtime();
        ensure!(modified == 1_500_000_000, "{name}: {modified}");
    }
    Ok(())
}

fn in_the_background(gateway: &Gateway) -> Result<Child> {
    let mut command = migrate(&gateway.proxy.config, &["--rate", "2MB/s"])?;
    Ok(command.stdout(Stdio::null()).spawn()?)
}

#[test]
fn a_directory_of_both_kinds_is_migrated_under_the_eyes_of_its_clients_and_over_a_kill()
-> Result<()> {
    let mut gateway = gateway()?;
    let written = from_before(&gateway, FILES)?;
    fs::write(gateway.local("young"), "from after the change")?;
    gateway.succeed("put young")?;
    let mut before = 0;
    for share in [5, 50] {
        let mut asked = Asked(in_the_background(&gateway)?);
        wait_for("some of the files", || {
            let now = encrypted(&gateway, &written).ok()?;
            (now > before && now >= FILES * share / 100).then_some(())
        })?;
        gateway.proxy.process.kill()?;
        asked.0.kill()?;
        let now = encrypted(&gateway, &written)?;
        ensure!(now > before && now < FILES, "killed in the middle: {now}");
        before = now;
        gateway.proxy.start_again(Place::Loopback)?;
        all_read(&mut gateway, &written)?;
    }
    // Clients read, and upload at a name that was not encrypted yet, or was.
    let mut asked = Asked(in_the_background(&gateway)?);
    let mut written = written;
    all_read(&mut gateway, &written)?;
    for name in ["4/4", "4/119"] {
        written.remove(name).context("it is there")?;
        gateway.succeed(&format!("put young old/{name}"))?;
    }
    let code = wait_for("the end", || asked.0.try_wait().ok()?)?.code();
    ensure!(code == Some(0), "{code:?}");
    let (answer, code) = done(&gateway.proxy.config)?;
    ensure!(
        code == Some(0) && number(&answer, "encrypted") == 0,
        "{answer}"
    );
    ensure!(number(&answer, "current") == FILES as u64 + 1, "{answer}");
    ensure!(names(&answer, "migrated") == ["disk"], "{answer}");
    let about = fs::metadata(gateway.stored("old/3/3"))?;
    ensure!(about.mode() & 0o777 == 0o640);

    gateway
        .proxy
        .reload(|text| text.replace(MIGRATING, "encryption = \"on\""))?;
    gateway.succeed("get old/4/4 overwritten")?;
    ensure!(fs::read(gateway.local("overwritten"))? == b"from after the change");
    gateway.succeed("rm old/4/4\nrm old/4/119")?;
    all_read(&mut gateway, &written)?;
    // The log knows which file each of them is now.
    let (one, other) = (gateway.stored("old/1/1"), gateway.stored("old/2/2"));
    let aside = fs::read(&one)?;
    fs::copy(&other, &one)?;
    let (is_done, said) = gateway.sftp("get old/1/1 swapped")?;
    ensure!(!is_done && !gateway.local("swapped").exists(), "{said}");
    fs::write(&one, aside)?;
    gateway.succeed("get old/1/1 swapped")?;
    let ended = gateway.proxy.records()?;
    let ended = ended
        .iter()
        .filter(|record| text(record, "event") == "rest.migration");
    ensure!(ended.count() == 2);
    let (refused, code) = {
        let output = finish_within(&mut migrate(&gateway.proxy.config, &[])?, PATIENCE)?;
        (
            String::from_utf8_lossy(&output.stderr).into_owned(),
            output.status.code(),
        )
    };
    ensure!(
        code == Some(2) && refused.contains("migrating"),
        "{refused}"
    );
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_plain_file_that_is_not_what_the_journal_says_is_reported_and_stays_plain() -> Result<()> {
    let off = "encryption = \"off\"\nunencrypted_exception = { reason = \"lab\", approver = \"J. Doe\", expires = \"2099-12-31\" }";
    let mut gateway = gateway()?;
    gateway.proxy.reload(|text| text.replace(MIGRATING, off))?;
    for name in ["sound", "altered", "removed"] {
        fs::write(gateway.local(name), format!("the content of {name}"))?;
        gateway.succeed(&format!("put {name}"))?;
    }
    gateway.succeed("rm removed")?;
    gateway.proxy.reload(|text| text.replace(off, MIGRATING))?;
    fs::write(gateway.stored("altered"), "somebody else's content")?;
    fs::write(gateway.stored("removed"), "the content of removed")?;
    fs::write(gateway.stored("unknown"), "from before there was a gateway")?;
    let (answer, code) = done(&gateway.proxy.config)?;
    ensure!(
        code == Some(1) && number(&answer, "encrypted") == 2,
        "{answer}"
    );
    let failures = answer
        .get("failures")
        .and_then(Value::as_array)
        .context("failures")?;
    let mut named: Vec<_> = failures.iter().map(|one| text(one, "path")).collect();
    named.sort_unstable();
    ensure!(named == ["/disk/altered", "/disk/removed"], "{answer}");
    ensure!(names(&answer, "migrated").is_empty(), "{answer}");
    ensure!(fs::read(gateway.stored("altered"))? == b"somebody else's content");
    ensure!(fs::read(gateway.stored("removed"))? == b"the content of removed");
    for name in ["sound", "unknown"] {
        ensure!(fs::read(gateway.stored(name))?.starts_with(HEAD), "{name}");
    }
    let records = gateway.proxy.records()?;
    let found = records
        .iter()
        .filter(|record| text(record, "event") == "rest.finding");
    let mut found: Vec<_> = found
        .map(|record| {
            (
                body(record, "path").to_owned(),
                body(record, "finding").to_owned(),
            )
        })
        .collect();
    found.sort();
    let expected = [
        ("/disk/altered", "altered"),
        ("/disk/removed", "rolled_back"),
    ];
    ensure!(
        found == expected.map(|(path, kind)| (path.to_owned(), kind.to_owned())),
        "{found:?}"
    );
    let (found, _) = findings(&verify(&gateway.proxy.config, &["--json"])?)?;
    ensure!(
        found.iter().all(|(path, _)| path != "/disk/sound"),
        "{found:?}"
    );
    Ok(())
}
