//! The journal and a second node that cosigns it: two processes, on loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Account, Factors, Mount};
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::locate;
use portcullis_tests::place::{Place, free_port};
use portcullis_tests::process::{PATIENCE, Running, finish_within, succeed, wait_for};
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

use crate::sessions::text;

/// A node that cosigns.
struct Witness {
    program: PathBuf,
    config: PathBuf,
    address: SocketAddr,
    process: Option<Running>,
    home: TempDir,
}

impl Witness {
    /// One that knows the log of a gateway.
    fn of(proxy: &Proxy) -> Result<Self> {
        let home = files::folder("witness")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let here = home.path().display();
        let config = home.path().join("witness.toml");
        let text = format!(
            "listen = \"{address}\"\nname = \"w.example/1\"\nsigning_key = \"{here}/witness.key\"\n\
             directory = \"{here}/logs\"\n[[log]]\nkey_file = \"{}\"\n",
            log_key(proxy).display()
        );
        fs::write(&config, text)?;
        let mut witness = Self {
            program: locate::binary("portcullis-proxy")?,
            config,
            address,
            process: None,
            home,
        };
        witness.start()?;
        Ok(witness)
    }

    fn start(&mut self) -> Result<()> {
        let mut command = self.command("serve");
        let log = self.home.path().join("witness.log");
        let mut process = Running::start("witness", &mut command, &log)?;
        process.wait_until_listening(self.address.port())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it at once.
    fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the witness runs")?;
        process.kill()
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["witness", verb, "--config"])
            .arg(&self.config);
        command
    }

    fn key_file(&self) -> PathBuf {
        self.home.path().join("witness.key.pub")
    }

    /// A section for the gateway.
    fn section(&self) -> Result<String> {
        let key = succeed(&mut self.command("key"))?;
        Ok(format!(
            "\n[[witness]]\nurl = \"http://{}\"\nkey = \"{}\"\ninterval_seconds = 1\n",
            self.address,
            key.trim()
        ))
    }

    fn status(&self) -> Result<(Option<i32>, Value)> {
        let output = finish_within(self.command("status").arg("--json"), PATIENCE)?;
        let status = serde_json::from_slice(&output.stdout)?;
        Ok((output.status.code(), status))
    }

    /// Records that it has cosigned.
    fn records(&self) -> Result<u64> {
        let (_, status) = self.status()?;
        let records = status.pointer("/logs/0/records");
        records.and_then(Value::as_u64).context("a number")
    }

    /// What it gives out about the log.
    fn checkpoint(&self) -> Result<String> {
        let (_, status) = self.status()?;
        let hash = status.pointer("/logs/0/origin_hash");
        let hash = hash.and_then(Value::as_str).context("a hash")?;
        let url = format!("http://{}/{hash}/checkpoint", self.address);
        succeed(Command::new("curl").args(["--silent", "--fail", &url]))
    }
}

fn log_key(proxy: &Proxy) -> PathBuf {
    proxy.folder().join("journal.key.pub")
}

struct World {
    proxy: Proxy,
    alice: Account,
    witness: Witness,
    here: TempDir,
    _storage: TempDir,
}

impl World {
    /// A gateway with a witness.
    fn new() -> Result<Self> {
        let storage = files::folder("storage")?;
        let proxy = Plan::new(Place::Loopback)?
            .backend("archive", Backend::local(storage.path()))
            .start()?;
        let alice = proxy.account("alice", &[Mount::all("/archive", "archive", "/")])?;
        let witness = Witness::of(&proxy)?;
        let section = witness.section()?;
        proxy.reload(|text| format!("{text}{section}"))?;
        let world = Self {
            proxy,
            alice,
            witness,
            here: files::folder("partner")?,
            _storage: storage,
        };
        // On a busy machine the witness might else be asked for the first time by a gateway that is ending.
        wait_for("the witness", || {
            world
                .told()
                .is_ok_and(|told| told == ["cosigned"])
                .then_some(())
        })?;
        Ok(world)
    }

    /// Puts some files; so many records and more.
    fn session(&mut self, files: usize) -> Result<()> {
        let file = self.here.path().join("file");
        fs::write(&file, b"content")?;
        let connection =
            OpensshConnection::new(&self.proxy, &mut self.alice, Factors::KeyThenPassword)?;
        let put = format!("put \"{}\" /archive/file\n", file.display());
        let output = connection.sftp(Place::Loopback, &put.repeat(files), PATIENCE)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.proxy.process.terminate().map(drop)
    }

    fn start(&mut self) -> Result<()> {
        self.proxy.start_again(Place::Loopback)
    }

    /// Records on disk.
    fn written(&self) -> Result<u64> {
        Ok(self.proxy.records()?.len() as u64)
    }

    fn verify(&self, more: &[&Path]) -> Result<Output> {
        let mut command = Command::new(locate::binary("portcullis-verify")?);
        command
            .arg(&self.proxy.journal)
            .arg("--key")
            .arg(log_key(&self.proxy));
        command
            .arg("--witness")
            .arg(self.witness.key_file())
            .args(more);
        finish_within(&mut command, PATIENCE)
    }

    /// What was told of the witness, oldest first.
    fn told(&self) -> Result<Vec<String>> {
        let records = self.proxy.records()?;
        let of_witness = records
            .iter()
            .filter(|record| text(record, "event") == "log.witness");
        Ok(of_witness
            .map(|record| text(record, "reason").to_owned())
            .collect())
    }
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn what_sessions_did_is_cosigned_also_after_the_witness_was_away() -> Result<()> {
    let mut world = World::new()?;
    world.session(1)?;
    world.stop()?;
    let written = world.written()?;
    ensure!(world.witness.records()? == written, "{written} records");
    let sound = world.verify(&[])?;
    let place = format!("cosigned: {written} records");
    ensure!(
        sound.status.success() && said(&sound).contains(&place),
        "{}",
        said(&sound)
    );

    world.witness.kill()?;
    world.start()?;
    world.session(1)?;
    // A witness that is away holds nobody up.
    world.stop()?;
    ensure!(world.written()? > written);
    let behind = world.verify(&[])?;
    ensure!(
        behind.status.success() && said(&behind).contains(&place),
        "{}",
        said(&behind)
    );
    world.witness.start()?;
    ensure!(world.witness.records()? == written, "it remembers");
    let missed = world.written()?;
    world.start()?;
    wait_for("what was missed", || {
        let is_told = world.told().ok()? == ["cosigned"; 2];
        (is_told && world.witness.records().ok()? >= missed).then_some(())
    })?;
    world.stop()?;
    ensure!(world.witness.records()? == world.written()?);
    ensure!(world.told()? == ["cosigned"; 2], "{:?}", world.told()?);

    // What the witness gives out is the newest head, and a program of its own finds both signatures right.
    let note = world.here.path().join("note");
    fs::write(&note, world.witness.checkpoint()?)?;
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../journal/tests/independent/cosignature.py");
    for notes in [&note, &world.proxy.journal.join("cosigned")] {
        let found = succeed(
            Command::new("python3")
                .arg("-B")
                .arg(&script)
                .arg(notes)
                .arg(log_key(&world.proxy))
                .arg(world.witness.key_file()),
        )?;
        let newest = format!("up to {}", world.written()?);
        ensure!(found.contains(&newest), "{found}");
    }
    let (code, _) = world.witness.status()?;
    ensure!(code == Some(0), "{code:?}");
    Ok(())
}

#[test]
fn a_log_that_is_put_back_to_an_earlier_copy_is_refused_found_and_named() -> Result<()> {
    let mut world = World::new()?;
    world.session(1)?;
    world.stop()?;
    let earlier = world.here.path().join("earlier");
    copy(&world.proxy.journal, &earlier)?;
    world.start()?;
    world.session(3)?;
    world.stop()?;
    let cosigned = world.witness.records()?;
    ensure!(cosigned == world.written()?);
    let note = world.here.path().join("note");
    fs::write(&note, world.witness.checkpoint()?)?;
    let with_note = [Path::new("--checkpoint"), &note];
    let whole = world.verify(&with_note)?;
    ensure!(whole.status.success(), "{}", said(&whole));

    // Everything that the host keeps is put back. The log is sound by itself, but not to who asks the witness.
    fs::remove_dir_all(&world.proxy.journal)?;
    copy(&earlier, &world.proxy.journal)?;
    let left = world.written()?;
    let alone = world.verify(&[])?;
    ensure!(alone.status.success(), "{}", said(&alone));
    let cut = world.verify(&with_note)?;
    let records = format!("records {left} to {} cut off", cosigned - 1);
    ensure!(cut.status.code() == Some(1), "{}", said(&cut));
    ensure!(said(&cut).contains(&records), "{}", said(&cut));

    // The gateway itself says so as soon as it runs.
    world.start()?;
    wait_for("the alarm on record", || {
        let told = world.told().ok()?;
        (told.last()? == "shorter").then_some(())
    })?;
    ensure!(
        world
            .proxy
            .process
            .log()
            .contains("is not the one that was cosigned")
    );
    ensure!(
        world.witness.records()? == cosigned,
        "nothing shorter was cosigned"
    );
    // And when it has grown beyond, the witness keeps what proves that there were two logs.
    while world.written()? <= cosigned {
        world.session(5)?;
    }
    ensure!(world.witness.status()?.0 == Some(0));
    world.stop()?;
    let (code, status) = world.witness.status()?;
    ensure!(code == Some(1), "{status}");
    ensure!(
        status.pointer("/logs/0/contradictions") == Some(&1.into()),
        "{status}"
    );
    ensure!(world.witness.records()? == cosigned);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
