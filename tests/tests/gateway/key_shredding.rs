//! The keys of a partner are destroyed: nothing of it can be read anywhere, and nobody else notices.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::Place;
use portcullis_tests::process::{Running, finish_within};
use serde_json::Value;

use crate::key_sets::{Gateway, new_set};
use crate::sessions::{body, text, wait_for_record};
use crate::stored_files::{findings, verify};

const PATIENCE: Duration = Duration::from_secs(60);

fn shred(config: &Path, set: &str, approver: &str) -> Result<Command> {
    let mut command = Command::new(locate::binary("portcullis-proxy")?);
    command.args(["encryption", "shred-keys", set, "--json"]);
    command.args(["--reason", "contract ended", "--approver", approver]);
    command.arg("--config").arg(config).stdin(Stdio::null());
    Ok(command)
}

fn shredded(config: &Path) -> Result<(Option<i32>, Value)> {
    let output = finish_within(&mut shred(config, "acme", "J. Doe")?, PATIENCE)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout).context(said)?;
    Ok((output.status.code(), answer))
}

fn list<'a>(answer: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    let list = answer.get(field).and_then(Value::as_array);
    list.with_context(|| format!("{field}: {answer}"))
}

/// Places that `verify` calls shredded with these keys.
fn named_shredded(output: &Output) -> Result<Vec<String>> {
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let mut named = Vec::new();
    for one in list(&answer, "shredded")? {
        ensure!(
            text(one, "keys") == "acme" && text(one, "user") == "J. Doe",
            "{one}"
        );
        named.push(text(one, "path").to_owned());
    }
    named.sort();
    Ok(named)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output()?;
    ensure!(copied.status.success(), "{copied:?}");
    Ok(())
}

impl Gateway {
    fn own_key(&self) -> PathBuf {
        self.keys.path().join("acme.kek")
    }

    /// The partner can list, and neither read nor write; the other one can do all.
    fn only_acme_is_refused(&mut self) -> Result<()> {
        let before = self.refusals()?;
        let (is_done, said) = self.sftp("acme", "get b back")?;
        ensure!(
            !is_done && !self.here.path().join("back").exists(),
            "{said}"
        );
        fs::write(self.here.path().join("new"), "new")?;
        let (is_done, said) = self.sftp("acme", "put new")?;
        ensure!(!is_done && !self.acme.path().join("new").exists(), "{said}");
        ensure!(
            self.refusals()? >= before + 2,
            "both are on record as shredded"
        );
        let (is_done, said) = self.sftp("acme", "ls -l b")?;
        let size = said.lines().find(|line| line.starts_with('-'));
        let size = size.and_then(|line| line.split_whitespace().nth(4));
        ensure!(is_done && size == Some("11"), "{said}");
        self.put("disk", "more", "more of the other")?;
        self.comes_back("disk", "more", "more of the other")?;
        self.comes_back("disk", "a", "of the other")
    }

    fn refusals(&self) -> Result<usize> {
        let records = self.proxy.records()?;
        let refused = records.iter().filter(|record| {
            text(record, "event") == "op.outcome" && text(record, "reason") == "shredded"
        });
        Ok(refused.count())
    }
}

#[test]
fn nothing_of_a_partner_is_read_anywhere_once_its_keys_are_destroyed_and_the_other_goes_on()
-> Result<()> {
    let mut gateway = Gateway::start()?;
    gateway.put("disk", "a", "of the other")?;
    gateway.put("acme", "b", "the partner")?;
    gateway.put("acme", "c", "more of it")?;
    gateway.sftp("acme", "mkdir sub\nrename c sub/c")?;
    let safe = files::folder("safe")?;
    let (backup, key) = (safe.path().join("backup"), safe.path().join("kek"));
    copy_tree(gateway.acme.path(), &backup)?;
    fs::copy(gateway.own_key(), &key)?;
    let config = gateway.proxy.config.clone();

    for (set, approver, word) in [
        ("acne", "J. Doe", "there are: acme"),
        ("acme", " ", "a reason and an approver are needed"),
    ] {
        let refused = finish_within(&mut shred(&config, set, approver)?, PATIENCE)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(2) && said.contains(word),
            "{said}"
        );
    }
    gateway.comes_back("acme", "b", "the partner")?;

    let (code, done) = shredded(&config)?;
    ensure!(code == Some(0), "{done}");
    ensure!(
        list(&done, "destroyed")?.len() == 1 && list(&done, "left")?.is_empty(),
        "{done}"
    );
    ensure!(!gateway.own_key().exists(), "the key is gone");
    gateway.only_acme_is_refused()?;
    let records = gateway.proxy.records()?;
    let mut tombstones = records
        .iter()
        .filter(|record| text(record, "event") == "rest.tombstone");
    let first = tombstones.next().context("a record before")?;
    ensure!(
        body(first, "set") == "acme" && body(first, "approver") == "J. Doe",
        "{first}"
    );
    ensure!(
        first.pointer("/body/files") == Some(&Value::from(2)),
        "{first}"
    );
    let last = tombstones.next().context("a record after")?;
    ensure!(text(last, "outcome") == "success", "{last}");

    let output = verify(&config, &["--json"])?;
    ensure!(named_shredded(&output)? == ["/acme/b", "/acme/sub/c"]);
    ensure!(findings(&output)? == (Vec::new(), Some(0)), "{output:?}");

    // The configuration is as it was.
    gateway.proxy.crash_and_restart()?;
    gateway.only_acme_is_refused()?;
    let checked = gateway.proxy.command(&["check"])?;
    ensure!(
        checked.contains("[encryption.acme] can't be used"),
        "{checked}"
    );
    // A copy of the key in its place changes nothing.
    fs::copy(&key, gateway.own_key())?;
    fs::set_permissions(gateway.own_key(), fs::Permissions::from_mode(0o600))?;
    gateway.proxy.crash_and_restart()?;
    gateway.only_acme_is_refused()?;
    let (code, again) = shredded(&config)?;
    ensure!(
        code == Some(0) && again.get("record") == done.get("record"),
        "{again}"
    );
    ensure!(!gateway.own_key().exists(), "the copy is gone");

    // A copy of a file opens under no name and on no backend.
    fs::copy(backup.join("sub/c"), gateway.acme.path().join("copy"))?;
    fs::copy(backup.join("b"), gateway.disk.path().join("copy"))?;
    for backend in ["acme", "disk"] {
        let (is_done, said) = gateway.sftp(backend, "get copy back")?;
        ensure!(!is_done, "{backend}: {said}");
    }
    fs::remove_file(gateway.disk.path().join("copy"))?;
    fs::remove_file(gateway.acme.path().join("copy"))?;

    // The rescue, with what should not be there any more, too.
    let (own, others) = (gateway.own_shares(), gateway.standard_shares());
    let crossed = gateway.rescue(&backup, &others, &[])?;
    ensure!(
        crossed.code == Some(1) && crossed.said.contains("key-missing"),
        "{}",
        crossed.said
    );
    let (journal, public) = (
        gateway.proxy.journal.display().to_string(),
        gateway
            .proxy
            .folder()
            .join("journal.key.pub")
            .display()
            .to_string(),
    );
    let key = key.display().to_string();
    let more = [
        "--journal",
        &journal,
        "--journal-key",
        &public,
        "--key",
        &key,
    ];
    for shares in [&own, &others] {
        let told = gateway.rescue(&backup, shares, &more)?;
        ensure!(
            told.said
                .contains("destroyed with keys acme by the word of J. Doe")
                && told.said.contains("2 shredded"),
            "{}",
            told.said
        );
        ensure!(!told.to.path().join("b").exists() && !told.to.path().join("sub/c").exists());
    }
    let others_told = gateway.rescue(gateway.disk.path(), &others, &more)?;
    ensure!(
        others_told.said.contains("(keys acme)"),
        "{}",
        others_told.said
    );
    ensure!(others_told.to.path().join("a").exists());

    // What was removed since is not missed.
    fs::remove_dir_all(gateway.acme.path().join("sub"))?;
    let output = verify(&config, &["--json"])?;
    ensure!(named_shredded(&output)? == ["/acme/b", "/acme/sub/c"]);
    ensure!(findings(&output)? == (Vec::new(), Some(0)), "{output:?}");

    // The partner comes back, with other keys.
    let section = new_set(gateway.keys.path(), "young")?;
    let young = section.replace("[encryption.young]", "");
    let record = gateway.proxy.reload(|text| {
        let (before, after) = text.split_once("[encryption.acme]\n").unwrap_or((text, ""));
        let rest: Vec<_> = after.lines().skip(2).collect();
        format!("{before}[encryption.acme]{young}{}\n", rest.join("\n"))
    })?;
    ensure!(text(&record, "outcome") == "success", "{record}");
    gateway.put("acme", "d", "young")?;
    gateway.comes_back("acme", "d", "young")?;
    let (is_done, said) = gateway.sftp("acme", "get b back")?;
    ensure!(!is_done, "{said}");
    let last = wait_for_record(&gateway.proxy, "it is named", |record| {
        text(record, "reason") == "shredded" && body(record, "error").contains("record")
    })?;
    ensure!(body(&last, "error").contains("J. Doe"), "{last}");
    gateway.proxy.journal_is_sound()
}

#[test]
fn names_go_with_the_keys_and_verify_knows_what_was_there() -> Result<()> {
    let mut gateway = Gateway::with("keys = \"acme\"\nencrypted_names = true")?;
    gateway.put("disk", "a", "of the other")?;
    gateway.put("acme", "b", "the partner")?;
    let config = gateway.proxy.config.clone();
    ensure!(shredded(&config)?.0 == Some(0));
    for _ in 0..2 {
        for batch in ["ls", "get b back", "put a"] {
            let (is_done, said) = gateway.sftp("acme", batch)?;
            ensure!(
                !is_done || batch == "ls" && !said.contains('b'),
                "{batch}: {said}"
            );
        }
        gateway.comes_back("disk", "a", "of the other")?;
        let output = verify(&config, &["--json"])?;
        ensure!(named_shredded(&output)? == ["/acme/b"], "{output:?}");
        ensure!(findings(&output)? == (Vec::new(), Some(0)), "{output:?}");
        gateway.proxy.crash_and_restart()?;
    }
    Ok(())
}

#[test]
fn keys_that_would_leave_something_readable_are_not_destroyed() -> Result<()> {
    let mut gateway = Gateway::start()?;
    gateway.put("acme", "b", "the partner")?;
    let retired = format!(
        "[encryption.acme]\nretired_key_files = [\"{}/at-rest.kek\"]\n",
        gateway.proxy.folder().display()
    );
    let own = "[backends.acme]\n";
    for (from, to, word) in [
        ("[encryption.acme]\n", &*retired, "[encryption] has key"),
        (
            own,
            "[backends.acme]\nencryption = \"migrating\"\n",
            "says encryption = \"migrating\"",
        ),
    ] {
        let record = gateway.proxy.reload(|text| text.replace(from, to))?;
        ensure!(text(&record, "outcome") == "success", "{record}");
        let refused = finish_within(
            &mut shred(&gateway.proxy.config, "acme", "J. Doe")?,
            PATIENCE,
        )?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(2) && said.contains(word),
            "{said}"
        );
        gateway.comes_back("acme", "b", "the partner")?;
        let record = gateway.proxy.reload(|text| text.replace(to, from))?;
        ensure!(text(&record, "outcome") == "success", "{record}");
    }
    ensure!(gateway.own_key().exists());
    // A key that can't be overwritten is left, and out of use all the same.
    let key = gateway.own_key();
    let moved = gateway.keys.path().join("moved.kek");
    fs::rename(&key, &moved)?;
    fs::write(&key, "a letter")?;
    let (code, done) = shredded(&gateway.proxy.config)?;
    ensure!(code == Some(1) && list(&done, "left")?.len() == 1, "{done}");
    ensure!(fs::read_to_string(&key)? == "a letter" && moved.exists());
    let (is_done, said) = gateway.sftp("acme", "get b back")?;
    ensure!(!is_done, "{said}");
    fs::rename(&moved, &key)?;
    let (code, done) = shredded(&gateway.proxy.config)?;
    ensure!(code == Some(0) && !key.exists(), "{done}");
    Ok(())
}

#[test]
fn a_gateway_that_is_killed_meanwhile_has_the_keys_in_use_or_on_record_as_destroyed() -> Result<()>
{
    let mut gateway = Gateway::start()?;
    gateway.put("disk", "a", "of the other")?;
    let config = gateway.proxy.config.clone();
    let folder = {
        let mut name = gateway.proxy.journal.clone().into_os_string();
        name.push(".verification");
        PathBuf::from(name)
    };
    let mut unfinished = 0;
    for round in 0..6 {
        gateway.put("acme", "b", "the partner")?;
        let key = gateway.own_key();
        let tombstones = |gateway: &Gateway| -> Result<usize> {
            let records = gateway.proxy.records()?;
            let all = records
                .iter()
                .filter(|record| record.pointer("/body/kek_ids").is_some());
            Ok(all.count())
        };
        let before = tombstones(&gateway)?;
        let noted = fs::read(folder.join("destroyed-keys")).unwrap_or_default();
        let mut asked = shred(&config, "acme", "J. Doe")?
            .stdout(Stdio::null())
            .spawn()?;
        let begun = Instant::now();
        // Each round another sign of how far it is.
        while begun.elapsed() < PATIENCE {
            let is_noted = fs::read(folder.join("destroyed-keys")).unwrap_or_default() != noted;
            let is_time = match round % 3 {
                0 => is_noted,
                1 => tombstones(&gateway)? > before,
                _ => !key.exists(),
            };
            if is_time {
                break;
            }
        }
        gateway.proxy.process.kill()?;
        asked.kill()?;
        asked.wait()?;
        gateway.proxy.start_again(Place::Loopback)?;
        let is_recorded = tombstones(&gateway)? > before;
        ensure!(is_recorded || key.exists(), "an act without a record");
        gateway.comes_back("disk", "a", "of the other")?;
        let (is_read, said) = gateway.sftp("acme", "get b back")?;
        ensure!(
            is_read != is_recorded,
            "on record {is_recorded}, and read {is_read}: {said}"
        );
        let _ = fs::remove_file(gateway.here.path().join("back"));
        unfinished += usize::from(key.exists());
        let (code, done) = shredded(&config)?;
        ensure!(code == Some(0) && !key.exists(), "{done}");
        let (is_read, said) = gateway.sftp("acme", "get b back")?;
        ensure!(!is_read, "{said}");

        gateway.sftp("acme", "rm b")?;
        fs::remove_dir_all(gateway.own_shares())?;
        drop(new_set(gateway.keys.path(), "acme")?);
        let record = gateway.proxy.reload(|text| format!("{text}\n"))?;
        ensure!(text(&record, "outcome") == "success", "{record}");
    }
    ensure!(unfinished > 0, "no kill came in the middle");
    gateway.proxy.journal_is_sound()
}

#[test]
fn a_key_file_that_the_daemon_may_not_write_is_destroyed_by_the_one_who_asks() -> Result<()> {
    let mut gateway = Gateway::start()?;
    gateway.put("acme", "b", "the partner")?;
    gateway.proxy.process.kill()?;
    // As the unit does: the daemon alone sees a file system that is not to be written.
    let (keys, config) = (
        gateway.keys.path().display(),
        gateway.proxy.config.display(),
    );
    let program = locate::binary("portcullis-proxy")?;
    let script = format!(
        "mount --bind {keys} {keys} && mount -o remount,ro,bind {keys} && exec {} run --config {config}",
        program.display()
    );
    let mut sandboxed = Command::new("unshare");
    sandboxed.args(["--mount", "sh", "-c", &script]);
    let log = gateway.proxy.folder().join("sandboxed.log");
    gateway.proxy.process = Running::start("portcullis-proxy", &mut sandboxed, &log)?;
    let port = gateway.proxy.address.port();
    gateway.proxy.process.wait_until_listening(port)?;
    gateway.comes_back("acme", "b", "the partner")?;

    let (code, done) = shredded(&gateway.proxy.config)?;
    ensure!(code == Some(0) && !gateway.own_key().exists(), "{done}");
    let records = gateway.proxy.records()?;
    let ends = records
        .iter()
        .filter(|record| record.pointer("/body/left").is_some());
    let ends: Vec<_> = ends.map(|record| text(record, "outcome")).collect();
    ensure!(ends == ["failure", "success"], "{ends:?}");
    let (is_done, said) = gateway.sftp("acme", "get b back")?;
    ensure!(!is_done, "{said}");
    Ok(())
}

/// Where the bytes are in what the process has in memory.
pub(crate) fn found_in_memory(process: u32, wanted: &[u8]) -> Result<Vec<String>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let memory = fs::File::open(format!("/proc/{process}/mem"))?;
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (
            words.next().context("a range")?,
            words.next().context("rights")?,
        );
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').context("two ends")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // Some are only for the kernel.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            let at = memchr::memmem::find_iter(&bytes, wanted);
            found.extend(at.map(|at| format!("{at:#x} in {line}")));
        }
    }
    Ok(found)
}

/// The key in a file.
pub(crate) fn key(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path)?;
    let digits = text.trim().rsplit(':').next().context("digits")?;
    let content = BASE64.decode(digits)?;
    Ok(content.get(..32).context("a key")?.to_vec())
}

#[test]
fn a_destroyed_key_is_not_in_the_gateways_memory_any_more_and_another_one_still_is() -> Result<()> {
    let mut gateway = Gateway::start()?;
    gateway.put("disk", "a", "of the other")?;
    gateway.put("acme", "b", "the partner")?;
    gateway.comes_back("acme", "b", "the partner")?;
    let process = gateway.proxy.process.id();
    let (own, standard) = (key(&gateway.own_key())?, key(&gateway.standard_key())?);
    let before = found_in_memory(process, &own)?;
    ensure!(!before.is_empty(), "the look finds keys");
    ensure!(shredded(&gateway.proxy.config)?.0 == Some(0));
    let after = found_in_memory(process, &own)?;
    ensure!(after.is_empty(), "before: {before:#?}, after: {after:#?}");
    ensure!(!found_in_memory(process, &standard)?.is_empty());
    gateway.only_acme_is_refused()
}
