//! The keys of stored files are rotated by a running gateway, and by one that is killed while it does so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{finish_within, wait_for};
use portcullis_tests::proxy::Backend;
use serde_json::Value;

use crate::at_rest::Gateway;
use crate::sessions::{body, text};
use crate::stored_files::{findings, verify};

const PATIENCE: Duration = Duration::from_secs(60);
const FILES: usize = 200;

/// Uploads a folder of files, and says what is in each.
pub(crate) fn upload(gateway: &mut Gateway, files: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = gateway.local("many");
    let mut written = BTreeMap::new();
    for number in 0..files {
        let name = format!("{}/{number}", number % 7);
        let content = files::random_bytes(100 + 7 * number)?;
        fs::create_dir_all(folder.join(&name).parent().context("a folder")?)?;
        fs::write(folder.join(&name), &content)?;
        written.insert(name, content);
    }
    gateway.succeed("put -r many")?;
    Ok(written)
}

/// Downloads them again by OpenSSH's client.
pub(crate) fn all_read_as_uploaded(
    gateway: &mut Gateway,
    written: &BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    let back = gateway.local("back");
    let _ = fs::remove_dir_all(&back);
    gateway.succeed("get -r many back")?;
    for (name, content) in written {
        ensure!(fs::read(back.join(name))? == *content, "{name} differs");
    }
    Ok(())
}

/// Makes another key-encryption key, and gives the configuration with it; the other one is retired.
pub(crate) fn new_key(gateway: &Gateway) -> Result<impl Fn(&str) -> String + use<>> {
    let folder = gateway.proxy.folder();
    let (old, new) = (folder.join("at-rest.kek"), folder.join("second.kek"));
    let rescue = locate::binary("portcullis-rescue")?;
    let made = finish_within(Command::new(rescue).arg("new-key").arg(&new), PATIENCE)?;
    ensure!(made.status.success());
    let before = format!("key_file = \"{}\"\n", old.display());
    let after = format!(
        "key_file = \"{}\"\nretired_key_files = [\"{}\"]\n",
        new.display(),
        old.display()
    );
    Ok(move |text: &str| text.replace(&before, &after))
}

pub(crate) fn command(config: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(locate::binary("portcullis-proxy")?);
    command.args(["encryption", "rotate", "--json", "--config"]);
    command.arg(config).args(arguments).stdin(Stdio::null());
    Ok(command)
}

pub(crate) fn rotate(config: &Path) -> Result<(Value, Option<i32>)> {
    let output = finish_within(&mut command(config, &[])?, PATIENCE)?;
    Ok((answer(&output)?, output.status.code()))
}

fn answer(output: &Output) -> Result<Value> {
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).context(shown)
}

pub(crate) fn number(answer: &Value, field: &str) -> u64 {
    answer
        .get(field)
        .and_then(Value::as_u64)
        .unwrap_or(u64::MAX)
}

/// Which key the file is wrapped to, by its id in the head.
fn key_of(file: &Path) -> Result<[u8; 16]> {
    let mut id = [0; 16];
    fs::File::open(file)?.read_exact_at(&mut id, 64)?;
    Ok(id)
}

fn keys(
    gateway: &Gateway,
    written: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<[u8; 16], usize>> {
    let mut keys = BTreeMap::new();
    for name in written.keys() {
        *keys
            .entry(key_of(&gateway.stored("many").join(name))?)
            .or_default() += 1;
    }
    Ok(keys)
}

#[test]
fn files_of_mixed_ages_are_read_and_after_a_rotation_the_old_key_is_not_needed() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let mut written = upload(&mut gateway, 30)?;
    let old = key_of(&gateway.stored("many/0/0"))?;
    let about = fs::metadata(gateway.stored("many/1/1"))?;
    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    fs::write(gateway.local("young"), "wrapped to the new key")?;
    gateway.succeed("put young many/young")?;
    written.insert("young".to_owned(), b"wrapped to the new key".to_vec());
    all_read_as_uploaded(&mut gateway, &written)?;
    ensure!(keys(&gateway, &written)?.len() == 2, "of mixed ages");

    let (done, code) = rotate(&gateway.proxy.config)?;
    ensure!(code == Some(0), "{done}");
    ensure!(
        number(&done, "rewrapped") == 30 && number(&done, "current") == 1,
        "{done}"
    );
    ensure!(keys(&gateway, &written)?.keys().all(|key| *key != old));
    let now = fs::metadata(gateway.stored("many/1/1"))?;
    ensure!((now.ino(), now.mtime_nsec()) == (about.ino(), about.mtime_nsec()));
    let recorded = gateway.proxy.records()?;
    let count = |field: &str, value: &str| {
        let matches = recorded
            .iter()
            .filter(|record| text(record, field) == value || body(record, field) == value);
        matches.count()
    };
    ensure!(count("decision", "rotation") >= 31, "each is on record");
    ensure!(count("event", "rest.rotation") == 1);
    // It changes no content: the log has nothing against it.
    let (found, code) = findings(&verify(&gateway.proxy.config, &["--json"])?)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?}");
    // The sessions of the old key have ended by then.
    let unneeded = wait_for("the word that the old key is not needed", || {
        let (done, _) = rotate(&gateway.proxy.config).ok()?;
        let keys = done.get("unneeded_keys")?.as_array()?.clone();
        (number(&done, "current") == 31 && !keys.is_empty()).then_some(keys)
    })?;
    let hex: String = old.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(unneeded == [Value::from(hex)], "{unneeded:?}");

    gateway.proxy.process.kill()?;
    fs::remove_file(gateway.proxy.folder().join("at-rest.kek"))?;
    let config = fs::read_to_string(&gateway.proxy.config)?;
    let config: String = config
        .lines()
        .filter(|line| !line.starts_with("retired_key_files"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&gateway.proxy.config, config)?;
    gateway.proxy.start_again(Place::Loopback)?;
    all_read_as_uploaded(&mut gateway, &written)?;

    let rescued = gateway.local("rescued");
    let mut rescue = Command::new(locate::binary("portcullis-rescue")?);
    rescue
        .arg("--from")
        .arg(gateway.storage.path())
        .arg("--to")
        .arg(&rescued);
    for share in ["share-1", "share-2"] {
        rescue
            .arg("--share")
            .arg(gateway.proxy.folder().join("escrow").join(share));
    }
    let output = finish_within(&mut rescue, PATIENCE)?;
    ensure!(output.status.success(), "{output:?}");
    for (name, content) in &written {
        ensure!(
            fs::read(rescued.join("many").join(name))? == *content,
            "{name}"
        );
    }
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_gateway_that_is_killed_in_a_rotation_gives_every_file_and_ends_it_later() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let written = upload(&mut gateway, FILES)?;
    let old = key_of(&gateway.stored("many/0/0"))?;
    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    let left = |gateway: &Gateway| -> Result<usize> {
        Ok(keys(gateway, &written)?.get(&old).copied().unwrap_or(0))
    };
    let mut before = FILES;
    for share in [1, 35, 70] {
        let mut asked = Asked(command(&gateway.proxy.config, &["--rate", "150KB/s"])?.spawn()?);
        wait_for("some of the files", || {
            let left = left(&gateway).ok()?;
            (left < before && left <= FILES - FILES * share / 100).then_some(())
        })?;
        gateway.proxy.process.kill()?;
        asked.0.kill()?;
        let now = left(&gateway)?;
        ensure!(
            now < before && now > 0,
            "killed in the middle: {now} of {before}"
        );
        gateway.proxy.start_again(Place::Loopback)?;
        // The start ends the one that was under way.
        before = left(&gateway)?;
        ensure!(before == now || before + 1 == now, "{before} of {now}");
        all_read_as_uploaded(&mut gateway, &written)?;
    }
    let (done, code) = rotate(&gateway.proxy.config)?;
    ensure!(code == Some(0), "{done}");
    ensure!(number(&done, "rewrapped") == before as u64, "{done}");
    ensure!(
        number(&done, "current") == (FILES - before) as u64,
        "{done}"
    );
    all_read_as_uploaded(&mut gateway, &written)?;
    gateway.proxy.journal_is_sound()
}

/// Killed when dropped.
pub(crate) struct Asked(pub(crate) Child);

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_that_is_not_authentic_is_named_and_left_as_it_is_and_the_others_are_done() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let written = upload(&mut gateway, 10)?;
    let edit = new_key(&gateway)?;
    gateway.proxy.reload(&edit)?;
    let altered = gateway.stored("many/3/3");
    let file = fs::OpenOptions::new().write(true).open(&altered)?;
    file.write_all_at(&[0xff; 8], 100)?;
    fs::write(gateway.stored("foreign"), "not encrypted")?;
    let stored = fs::read(&altered)?;
    let (done, code) = rotate(&gateway.proxy.config)?;
    ensure!(code == Some(1), "{done}");
    ensure!(
        number(&done, "rewrapped") == written.len() as u64 - 1,
        "{done}"
    );
    let failures = done
        .get("failures")
        .and_then(Value::as_array)
        .context("failures")?;
    let mut named: Vec<_> = failures.iter().map(|one| text(one, "path")).collect();
    named.sort_unstable();
    ensure!(named == ["/disk/foreign", "/disk/many/3/3"], "{done}");
    ensure!(
        done.get("unneeded_keys")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty),
        "{done}"
    );
    ensure!(fs::read(&altered)? == stored, "it was touched");
    Ok(())
}
