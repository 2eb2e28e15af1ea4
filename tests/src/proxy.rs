//! `portcullis-proxy` as an operator runs it: a configuration file, accounts by command line, the daemon.

mod plan;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::account::{Account, Mount};
use crate::disk::SmallDisk;
use crate::files::{self, KeyKind};
use crate::place::Place;
use crate::process::{PATIENCE, Running, finish_within, succeed, wait_for};
use crate::totp::Authenticator;

pub use self::plan::{Backend, Bans, Plan, UNENCRYPTED};

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its journal's folder.
    pub journal: PathBuf,
    /// The daemon.
    pub process: Running,
    // Before the folder that it is mounted in.
    disk: Option<SmallDisk>,
    program: PathBuf,
    host_keys: Vec<PathBuf>,
    user_keys: KeyKind,
    scratch: TempDir,
}

fn start(place: Place<'_>, program: &Path, config: &Path, address: SocketAddr) -> Result<Running> {
    start_at(None, place, program, config, address)
}

fn start_at(
    today: Option<&str>,
    place: Place<'_>,
    program: &Path,
    config: &Path,
    address: SocketAddr,
) -> Result<Running> {
    let program = program.display().to_string();
    let mut command = match today {
        None => place.command(&program),
        Some(time) => {
            let day = succeed(Command::new("date").args(["-u", "+%F"]))?;
            let mut command = place.command("faketime");
            command.args([format!("{} {time}", day.trim()), program]);
            // Only the time of day: timers go on as they do.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("TZ", "UTC");
            command
        }
    };
    command.args(["run", "--config"]).arg(config);
    let mut process = Running::start(
        "portcullis-proxy",
        &mut command,
        &config.with_file_name("proxy.log"),
    )?;
    process.wait_until_listening(address.port())?;
    Ok(process)
}

impl Proxy {
    /// Kills the daemon with SIGKILL and starts it again with the same files, on the same address.
    ///
    /// # Errors
    /// When it doesn't come back.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = start(Place::Loopback, &self.program, &self.config, self.address)?;
        Ok(())
    }

    /// Starts the daemon again, after it was stopped or killed.
    ///
    /// # Errors
    /// When it doesn't come back.
    pub fn start_again(&mut self, place: Place<'_>) -> Result<()> {
        self.process = start(place, &self.program, &self.config, self.address)?;
        Ok(())
    }

    /// Rewrites the configuration, asks the daemon to read it again, and waits until it says that this is done, as it
    /// says to systemd. The record of a change is durable before the change is in force.
    ///
    /// # Errors
    /// When the file can't be written or nothing is recorded.
    pub fn reload(&self, edit: impl FnOnce(&str) -> String) -> Result<Value> {
        let changes = || -> Result<Vec<Value>> {
            let mut records = self.records()?;
            records.retain(|record| {
                record.get("event").and_then(Value::as_str) == Some("config.change")
            });
            Ok(records)
        };
        let ended = |log: &str| {
            log.matches("the configuration was read again").count()
                + log.matches("the configuration in force stays").count()
        };
        let before = (changes()?.len(), ended(&self.process.log()));
        let text = fs::read_to_string(&self.config)?;
        fs::write(&self.config, edit(&text))?;
        self.process.signal(Signal::HUP)?;
        wait_for("the record and the end of a reload", || {
            let record = changes().ok()?.into_iter().nth(before.0)?;
            (ended(&self.process.log()) > before.1).then_some(record)
        })
    }

    /// Gives the journal's own disk another size, in bytes.
    ///
    /// # Errors
    /// When the journal has no disk of its own.
    pub fn resize_journal_disk(&self, bytes: u64) -> Result<()> {
        let disk = self
            .disk
            .as_ref()
            .context("the journal has a disk of its own")?;
        disk.resize(bytes)
    }

    /// Makes an account with a password, a phone, a key and the mounts.
    ///
    /// # Errors
    /// What the command line answers.
    pub fn account(&self, name: &str, mounts: &[Mount]) -> Result<Account> {
        self.account_of_kind(name, "human", mounts)
    }

    /// As [`Self::account`], of another kind.
    ///
    /// # Errors
    /// What the command line answers.
    pub fn account_of_kind(&self, name: &str, kind: &str, mounts: &[Mount]) -> Result<Account> {
        self.command(&["account", "add", name, "--kind", kind])?;
        let password = format!("{name}-knows-Secret-41");
        self.command_with_input(
            &["account", "set-password", name, "--password-stdin"],
            &password,
        )?;
        let enrolled = self.command(&["account", "enroll-totp", name, "--json"])?;
        let enrolled: Value = serde_json::from_str(&enrolled).context("read the enrolment")?;
        let secret = enrolled
            .get("secret")
            .and_then(Value::as_str)
            .context("the enrolment names its secret")?;
        let kind = self.user_keys;
        let key = kind.make(self.folder(), &format!("{name}_{}", kind.name()))?;
        let public = key.with_extension("pub").display().to_string();
        self.command(&["account", "add-key", name, "--key-file", &public])?;
        for mount in mounts {
            self.command(&[
                "account",
                "mount",
                name,
                &mount.path,
                "--backend",
                &mount.backend,
                "--directory",
                &mount.directory,
                "--permissions",
                &mount.permissions.join(","),
            ])?;
        }
        Ok(Account {
            name: name.to_owned(),
            password,
            phone: Authenticator::new(secret)?,
            key,
        })
    }

    /// Runs `portcullis-proxy ARGUMENTS --config F`.
    ///
    /// # Errors
    /// When it fails; the message has all that it printed.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        succeed(
            Command::new(&self.program)
                .args(arguments)
                .arg("--config")
                .arg(&self.config)
                .stdin(Stdio::null()),
        )
    }

    /// Runs `portcullis-proxy ARGUMENTS --config F` at a terminal of its own, on which the answers are typed.
    ///
    /// # Errors
    /// When it fails; the message has all that was shown.
    pub fn command_at_terminal(&self, arguments: &[&str], answers: &[&str]) -> Result<String> {
        let line: Vec<String> = std::iter::once(self.program.display().to_string())
            .chain(arguments.iter().map(ToString::to_string))
            .chain(["--config".to_owned(), self.config.display().to_string()])
            .map(|word| format!("'{word}'"))
            .collect();
        let mut child = Command::new("script")
            .args(["-q", "-e", "-c", &line.join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start script")?;
        // Kept open until the end: the end of the input would be typed, too.
        let mut keyboard = child.stdin.take().context("the keyboard is a pipe")?;
        for answer in answers {
            writeln!(keyboard, "{answer}").context("type an answer")?;
        }
        keyboard.flush()?;
        let output = child.wait_with_output().context("wait for script")?;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{} failed: {shown}", line.join(" "));
        }
        Ok(shown)
    }

    fn command_with_input(&self, arguments: &[&str], input: &str) -> Result<()> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start portcullis-proxy")?;
        let mut stdin = child.stdin.take().context("the child's input is a pipe")?;
        writeln!(stdin, "{input}").context("write to portcullis-proxy")?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "portcullis-proxy {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Every record of the journal, oldest first.
    ///
    /// # Errors
    /// When a line isn't JSON.
    pub fn records(&self) -> Result<Vec<Value>> {
        records(&self.journal)
    }

    /// Runs `portcullis-verify` over a journal folder: this one, or a copy.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn verify(&self, journal: &Path) -> Result<Output> {
        let verifier = self.program.with_file_name("portcullis-verify");
        finish_within(
            Command::new(verifier)
                .arg(journal)
                .arg("--key")
                .arg(self.folder().join("journal.key.pub")),
            PATIENCE,
        )
    }

    /// Checks the journal as an auditor would.
    ///
    /// # Errors
    /// With the report, when something is found.
    pub fn journal_is_sound(&self) -> Result<()> {
        let verified = self.verify(&self.journal)?;
        ensure!(
            verified.status.success(),
            "{}",
            String::from_utf8_lossy(&verified.stdout)
        );
        Ok(())
    }

    /// The `known_hosts` file that names this proxy.
    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        self.folder().join("known_hosts")
    }

    /// The host key as `ssh-ed25519 AAAA...`, the first of several.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn host_key(&self) -> Result<String> {
        files::public_key(self.first_host_key()?)
    }

    fn first_host_key(&self) -> Result<&Path> {
        let first = self.host_keys.first().context("there is a host key")?;
        Ok(first)
    }

    /// The host key's fingerprint, `SHA256:...`.
    ///
    /// # Errors
    /// When `ssh-keygen` fails.
    pub fn host_key_fingerprint(&self) -> Result<String> {
        let printed = succeed(
            Command::new("ssh-keygen")
                .arg("-lf")
                .arg(self.first_host_key()?.with_extension("pub")),
        )?;
        printed
            .split_whitespace()
            .nth(1)
            .map(str::to_owned)
            .context("ssh-keygen prints bits, fingerprint, comment")
    }

    /// A folder that lives as long as the proxy.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn write_known_hosts(&self) -> Result<()> {
        let mut lines = String::new();
        for host_key in &self.host_keys {
            let public = host_key.with_extension("pub");
            if !public.is_file() {
                let printed = succeed(Command::new("ssh-keygen").arg("-yf").arg(host_key))?;
                fs::write(&public, printed)?;
            }
            let key = files::public_key(host_key)?;
            let (ip, port) = (self.address.ip(), self.address.port());
            let _ = writeln!(lines, "[{ip}]:{port} {key}\n{ip} {key}");
        }
        fs::write(self.known_hosts(), lines)?;
        Ok(())
    }
}

/// Every record below a journal folder, oldest first. A line that is being written is none yet.
///
/// # Errors
/// When a line isn't JSON.
pub fn records(journal: &Path) -> Result<Vec<Value>> {
    let mut segments: Vec<PathBuf> = fs::read_dir(journal)
        .with_context(|| format!("list {}", journal.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    segments.sort();
    let mut records = Vec::new();
    for segment in segments {
        let text = fs::read_to_string(&segment)?;
        let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
        for line in whole.lines() {
            records.push(
                serde_json::from_str(line)
                    .with_context(|| format!("read a record of {}", segment.display()))?,
            );
        }
    }
    Ok(records)
}
