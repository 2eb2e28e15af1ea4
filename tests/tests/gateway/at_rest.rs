//! A gateway whose backend keeps files encrypted, as its clients and a thief of the disk see it.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use portcullis_tests::server::seaweed::Seaweed;
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use tempfile::TempDir;

use crate::sessions::{body, text, wait_for_record};
use crate::stored_files::{findings, verify};

pub(crate) const CANARY: &[u8] = b"Jane Doe, born 1980-01-01, HIV positive";
/// Bytes that a stored file has more than the plaintext, if that fits into a segment: head, FLOE header, one segment.
const OVERHEAD: u64 = 512 + 74 + 32;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Gateway {
    pub(crate) proxy: Proxy,
    pub(crate) alice: Account,
    pub(crate) storage: TempDir,
    pub(crate) here: TempDir,
}

impl Gateway {
    pub(crate) fn start(backend: impl FnOnce(&Path) -> Backend) -> Result<Self> {
        Self::over(".", backend)
    }

    pub(crate) fn over(
        directory: &'static str,
        backend: impl FnOnce(&Path) -> Backend,
    ) -> Result<Self> {
        let storage = files::folder("storage")?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("disk", backend(storage.path()))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/inbox", "disk", directory)])?;
        Ok(Self {
            proxy,
            alice,
            storage,
            here: files::folder("here")?,
        })
    }

    /// Runs an `sftp` batch with the local folder as its own, and says what was printed, errors included.
    pub(crate) fn sftp(&mut self, batch: &str) -> Result<(bool, String)> {
        let connection =
            OpensshConnection::new(&self.proxy, &mut self.alice, Factors::KeyThenPassword)?;
        let batch = format!("lcd {}\ncd /inbox\n{batch}\n", self.here.path().display());
        let output = connection.sftp(Place::Loopback, &batch, PATIENCE)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    pub(crate) fn succeed(&mut self, batch: &str) -> Result<String> {
        let (is_done, said) = self.sftp(batch)?;
        ensure!(is_done, "{batch}: {said}");
        Ok(said)
    }

    pub(crate) fn local(&self, name: &str) -> PathBuf {
        self.here.path().join(name)
    }

    pub(crate) fn stored(&self, name: &str) -> PathBuf {
        self.storage.path().join(name)
    }
}

fn holds_canary(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = holds_canary(&path)? {
                return Ok(Some(found));
            }
        } else if fs::read(&path)?
            .windows(CANARY.len())
            .any(|window| window == CANARY)
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[test]
fn clients_see_their_files_and_a_thief_of_the_disk_does_not() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let large = [CANARY, &files::random_bytes(20 << 20)?, CANARY].concat();
    fs::write(gateway.local("small"), CANARY)?;
    fs::write(gateway.local("large"), &large)?;
    fs::write(gateway.local("empty"), "")?;
    gateway.succeed("put small\nput large\nput empty\nmkdir sub\nrename small sub/renamed")?;
    let listed = gateway.succeed(
        "ls -l\nls -l sub\nget sub/renamed back-small\nget large back-large\nget empty back-empty",
    )?;
    let size = |name: &str| -> Result<u64> {
        let line = listed
            .lines()
            .find(|line| line.ends_with(name))
            .context("it is listed")?;
        Ok(line.split_whitespace().nth(4).context("a size")?.parse()?)
    };
    ensure!(
        size("large")? == large.len() as u64 && size("empty")? == 0,
        "{listed}"
    );
    ensure!(size("renamed")? == CANARY.len() as u64, "{listed}");
    ensure!(fs::read(gateway.local("back-small"))? == CANARY);
    ensure!(fs::read(gateway.local("back-large"))? == large);
    ensure!(fs::read(gateway.local("back-empty"))?.is_empty());

    let stored = fs::metadata(gateway.stored("sub/renamed"))?.len();
    ensure!(stored == CANARY.len() as u64 + OVERHEAD, "{stored}");
    let found = holds_canary(gateway.storage.path())?.or(holds_canary(gateway.proxy.folder())?);
    ensure!(found.is_none(), "{found:?} holds plaintext");
    for record in gateway.proxy.records()? {
        if text(&record, "event") == "xfer.summary" && body(&record, "direction") == "upload" {
            ensure!(body(&record, "sha256").len() == 64, "{record}");
        }
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.proxy.process.id()))?;
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .context("a limit")?;
    ensure!(
        core.split_whitespace().filter(|word| *word == "0").count() == 2,
        "{core}"
    );
    gateway.proxy.journal_is_sound()
}

#[test]
fn what_was_changed_behind_the_gateways_back_is_never_given_out_and_named_on_record() -> Result<()>
{
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    let content = files::random_bytes(200_000)?;
    fs::write(gateway.local("file"), &content)?;
    gateway.succeed("put file sound\nput file flipped\nput file cut\nput file newer")?;
    let flip = |name: &str, at: u64, bits: u8| -> Result<()> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(gateway.stored(name))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        Ok(file.write_all_at(&[byte[0] ^ bits], at)?)
    };
    flip("flipped", 100_000, 1)?;
    flip("newer", 9, 3)?;
    let segment = 512 + 74 + 65_536 + 32;
    fs::OpenOptions::new()
        .write(true)
        .open(gateway.stored("cut"))?
        .set_len(segment)?;
    fs::write(gateway.stored("foreign"), "written by somebody else")?;
    fs::write(gateway.stored("nothing"), "")?;
    for (name, reason) in [
        ("flipped", "segment 1 was changed"),
        ("cut", "segment 0 was changed, moved or cut off"),
        ("newer", "format version 2"),
        ("foreign", "not encrypted, or not by this program"),
        ("nothing", "it is empty"),
    ] {
        let (is_done, said) = gateway.sftp(&format!("get {name} back"))?;
        ensure!(!is_done, "{name}: {said}");
        let given = fs::read(gateway.local("back")).unwrap_or_default();
        ensure!(
            content.starts_with(&given),
            "{name}: other bytes were given"
        );
        ensure!(given.len() <= 65_536, "{name}: {} bytes", given.len());
        let _ = fs::remove_file(gateway.local("back"));
        wait_for_record(&gateway.proxy, name, |record| {
            text(record, "reason") == "not_authentic" && body(record, "error").contains(reason)
        })?;
    }
    let (found, code) = findings(&verify(&gateway.proxy.config, &["--json"])?)?;
    let expected = [
        ("cut", "altered"),
        ("flipped", "altered"),
        ("foreign", "unknown"),
        ("newer", "altered"),
        ("nothing", "unknown"),
    ];
    let expected = expected.map(|(name, finding)| (format!("/disk/{name}"), finding.to_owned()));
    ensure!(found == expected && code == Some(1), "{found:?}");
    gateway.succeed("get sound back\nrm flipped\nrm foreign\nrm nothing")?;
    ensure!(fs::read(gateway.local("back"))? == content);
    Ok(())
}

#[test]
fn a_file_is_given_out_under_the_name_that_it_was_put_under_and_under_no_other() -> Result<()> {
    let mut gateway = Gateway::start(|storage| Backend::local(storage).encrypted())?;
    for name in ["mine", "yours", "older", "newer"] {
        fs::write(gateway.local(name), name)?;
    }
    gateway.succeed(
        "put mine\nput yours\nmkdir d\nput mine d/mine\nput older changed\nput newer copied\nrename d e\nrename yours theirs",
    )?;
    fs::copy(gateway.stored("changed"), gateway.local("backup"))?;
    gateway.succeed("put newer changed\nget theirs back\nget e/mine back")?;
    let swap = |gateway: &Gateway| -> Result<()> {
        let (one, other) = (gateway.stored("e/mine"), gateway.stored("theirs"));
        let aside = gateway.local("aside");
        fs::copy(&one, &aside)?;
        fs::rename(&other, &one)?;
        Ok(fs::copy(&aside, &other).map(drop)?)
    };
    swap(&gateway)?;
    let newer = fs::read(gateway.stored("changed"))?;
    fs::copy(gateway.local("backup"), gateway.stored("changed"))?;
    fs::copy(gateway.stored("mine"), gateway.stored("copied"))?;
    fs::remove_file(gateway.local("back"))?;
    for is_restarted in [false, true] {
        if is_restarted {
            gateway.proxy.crash_and_restart()?;
        }
        for name in ["e/mine", "theirs", "changed", "copied"] {
            let (is_done, said) = gateway.sftp(&format!("get {name} back"))?;
            ensure!(!is_done, "{name}: {said}");
            ensure!(!gateway.local("back").exists(), "{name} was given out");
            let (is_done, said) = gateway.sftp(&format!("reput mine {name}"))?;
            ensure!(!is_done, "{name} is changed: {said}");
        }
        wait_for_record(&gateway.proxy, "another file", |record| {
            text(record, "reason") == "not_authentic"
                && body(record, "error").contains("another file lies under this name")
        })?;
        gateway.succeed("get mine back")?;
        fs::remove_file(gateway.local("back"))?;
    }
    swap(&gateway)?;
    fs::write(gateway.stored("changed"), newer)?;
    gateway.succeed("put newer copied")?;
    for (name, content) in [
        ("e/mine", "mine"),
        ("theirs", "yours"),
        ("changed", "newer"),
        ("copied", "newer"),
    ] {
        gateway.succeed(&format!("get {name} back"))?;
        ensure!(
            fs::read_to_string(gateway.local("back"))? == content,
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn files_from_before_are_read_while_a_backend_is_migrated_and_new_ones_are_encrypted() -> Result<()>
{
    let mut gateway = Gateway::start(|storage| {
        Backend::local(storage)
            .encrypted()
            .with("encryption = \"migrating\"")
    })?;
    fs::write(gateway.stored("old"), CANARY)?;
    fs::write(gateway.local("new"), CANARY)?;
    gateway.succeed("put new\nget old back-old\nget new back-new")?;
    for name in ["back-old", "back-new"] {
        ensure!(fs::read(gateway.local(name))? == CANARY, "{name}");
    }
    ensure!(fs::metadata(gateway.stored("new"))?.len() == CANARY.len() as u64 + OVERHEAD);
    // What replaces an old file is encrypted.
    gateway.succeed("put new old\nget old back-old")?;
    ensure!(fs::read(gateway.local("back-old"))? == CANARY);
    ensure!(holds_canary(gateway.storage.path())?.is_none());
    Ok(())
}

#[test]
fn a_legacy_server_and_a_bucket_hold_no_plaintext_either() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let on = |backend: Backend| backend.with("encryption = \"on\"");
    works_over(on(Backend::vsftpd(&server)), "/")?;
    let found = holds_canary(&server.home)?;
    ensure!(found.is_none(), "{found:?} holds plaintext");

    let store = Seaweed::start(Place::Loopback)?;
    works_over(Backend::seaweed(&store)?.encrypted(), "/partners/alice")
}

/// Uploads, lists, changes and downloads.
fn works_over(backend: Backend, directory: &'static str) -> Result<()> {
    let mut gateway = Gateway::over(directory, |_| backend)?;
    let large = [CANARY, &files::random_bytes(9 << 20)?].concat();
    fs::write(gateway.local("large"), &large)?;
    fs::write(gateway.local("small"), CANARY)?;
    gateway.succeed("put large\nput small\nrename small moved")?;
    let listed = gateway.succeed("ls -l\nget large back-large\nget moved back-small")?;
    ensure!(listed.contains(&format!(" {} ", large.len())), "{listed}");
    ensure!(fs::read(gateway.local("back-large"))? == large);
    ensure!(fs::read(gateway.local("back-small"))? == CANARY);
    fs::write(gateway.local("moved"), [CANARY, b", and more"].concat())?;
    gateway.succeed("reput moved\nget moved back-small")?;
    ensure!(fs::read(gateway.local("back-small"))? == [CANARY, b", and more"].concat());
    Ok(())
}

/// A canary in names: no backend and no log of it may have them but in records.
pub(crate) const NAMED: &str = "Jane Doe HIV";

/// Whether a name below the folder has the canary.
fn names_canary(folder: &Path) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_named = entry.file_name().to_string_lossy().contains("Jane");
        if is_named || entry.file_type()?.is_dir() && names_canary(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// All that a client does with names.
fn names_work_over(gateway: &mut Gateway) -> Result<()> {
    let longest = "l".repeat(143);
    fs::write(gateway.local("file"), CANARY)?;
    let listed = gateway.succeed(&format!(
        "mkdir \"{NAMED}\"\nput file \"{NAMED}/{NAMED} 1.csv\"\nput file .hidden\nput file m\u{fc}ller\nput file x\n\
         put file {longest}\nmkdir d\nrename x \"d/{NAMED} 2\"\nrename d e\nput file gone\nrm gone\nmkdir empty\nrmdir empty\nls -1a"
    ))?;
    let lines: Vec<_> = listed.lines().map(str::trim_end).collect();
    for name in [NAMED, ".hidden", "m\u{fc}ller", "e", &longest] {
        ensure!(lines.contains(&name), "{name}: {listed}");
    }
    for name in ["gone", "empty", "d", "x", ".portcullis-names"] {
        ensure!(!lines.contains(&name), "{name}: {listed}");
    }
    let listed = gateway.succeed(&format!(
        "ls -l \"{NAMED}\"\nget \"{NAMED}/{NAMED} 1.csv\" one\nget \"e/{NAMED} 2\" two\nget {longest} three\nget m\u{fc}ller four"
    ))?;
    ensure!(listed.contains(&format!(" {} ", CANARY.len())), "{listed}");
    for name in ["one", "two", "three", "four"] {
        ensure!(fs::read(gateway.local(name))? == CANARY, "{name}");
    }
    let (is_done, said) = gateway.sftp(&format!("put file {longest}l"))?;
    ensure!(!is_done, "{said}");
    wait_for_record(&gateway.proxy, "a name that is too long", |record| {
        text(record, "reason") == "unsupported" && body(record, "error").contains("up to 143 bytes")
    })?;
    // Whoever reads the log reads names as clients gave them.
    wait_for_record(&gateway.proxy, "the upload", |record| {
        text(record, "event") == "xfer.summary" && body(record, "path").contains(NAMED)
    })?;
    Ok(())
}

pub(crate) fn named(backend: Backend) -> Backend {
    backend.with("encrypted_names = true")
}

#[test]
fn names_are_encrypted_too_and_come_back_after_a_restart_and_without_the_gateway() -> Result<()> {
    let mut gateway = Gateway::over("partners/alice", |storage| {
        named(Backend::local(storage).encrypted())
    })?;
    names_work_over(&mut gateway)?;
    ensure!(!names_canary(gateway.storage.path())?, "a name is in clear");
    let key = gateway.stored(".portcullis-names");
    ensure!(fs::metadata(&key)?.len() == 682, "{key:?}");
    let (found, code) = findings(&verify(&gateway.proxy.config, &["--json"])?)?;
    ensure!(found.is_empty() && code == Some(0), "{found:?}");

    // A name that was changed is not shown, is missed, and is no other name.
    let mut folder = gateway.storage.path().to_owned();
    for _ in 0..2 {
        let mut below = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        folder = below
            .find(|path| path.is_dir())
            .context("the mount's directory")?;
    }
    let before = gateway.succeed("ls -1a")?;
    let files = || -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(entries.filter(|path| path.is_file()).collect())
    };
    let one = files()?.into_iter().next().context("a file")?;
    let name = one.file_name().context("a name")?.to_string_lossy();
    let changed = name.replacen(
        |_: char| true,
        if name.starts_with('0') { "1" } else { "0" },
        1,
    );
    fs::rename(&one, folder.join(&changed))?;
    fs::write(folder.join("plain"), "put there by somebody else")?;
    let after = gateway.succeed("ls -1a")?;
    ensure!(
        after.lines().count() + 1 == before.lines().count(),
        "{before} {after}"
    );
    ensure!(after.lines().all(|line| before.contains(line)), "{after}");
    let (found, code) = findings(&verify(&gateway.proxy.config, &["--json"])?)?;
    let mut kinds: Vec<_> = found.iter().map(|(_, kind)| kind.as_str()).collect();
    kinds.sort_unstable();
    ensure!(
        kinds == ["missing", "unknown", "unknown"] && code == Some(1),
        "{found:?}"
    );
    for name in [changed.as_str(), "plain"] {
        wait_for_record(&gateway.proxy, name, |record| {
            text(record, "event") == "rest.finding"
                && body(record, "look") == "foreign_name"
                && body(record, "path").ends_with(&format!("/{name}"))
        })?;
    }
    fs::rename(folder.join(&changed), &one)?;
    fs::remove_file(folder.join("plain"))?;

    // Without its key the backend is not used, and with it again it is.
    let content = fs::read(&key)?;
    gateway.proxy.crash_and_restart()?;
    ensure!(gateway.succeed("ls -1a")? == before);
    fs::remove_file(&key)?;
    gateway.proxy.crash_and_restart()?;
    let (is_done, said) = gateway.sftp("ls")?;
    ensure!(!is_done && !key.exists(), "{said}");
    wait_for_record(&gateway.proxy, "the key is missed", |record| {
        body(record, "error").contains("restore it from a backup")
    })?;
    fs::write(&key, &content)?;
    ensure!(gateway.succeed("ls -1a")? == before);
    gateway.proxy.journal_is_sound()
}

#[test]
fn legacy_servers_and_a_bucket_hold_no_name_either() -> Result<()> {
    let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse)?;
    let backend = named(Backend::vsftpd(&server).with("encryption = \"on\""));
    names_work_over(&mut Gateway::over("/", |_| backend)?)?;
    ensure!(
        !names_canary(&server.home)?,
        "a name is in clear on the server"
    );

    let keys = files::folder("keys")?;
    let key = files::ssh_key(keys.path(), "gateway")?;
    let server = Openssh::start(Place::Loopback, Subsystem::Internal, &key)?;
    let backend = named(Backend::openssh(&server, &key).with("encryption = \"on\""));
    names_work_over(&mut Gateway::over("partners/alice", |_| backend)?)?;
    ensure!(
        server.home.join(".portcullis-names").exists() && !names_canary(&server.home)?,
        "a name is in clear on the server"
    );

    let store = Seaweed::start(Place::Loopback)?;
    let backend = named(Backend::seaweed(&store)?.encrypted());
    names_work_over(&mut Gateway::over("/partners/alice", |_| backend)?)
}
