//! `portcullis-proxy` as an operator runs it: a configuration file, accounts by command line, the daemon.

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
use crate::files::{self, KeyKind};
use crate::locate;
use crate::place::Place;
use crate::process::{PATIENCE, Running, finish_within, succeed, wait_for};
use crate::server::azurite::{ACCOUNT, Azurite, CONTAINER};
use crate::server::openssh::Openssh;
use crate::server::proftpd::Proftpd;
use crate::server::seaweed::{BUCKET, Seaweed};
use crate::server::vsftpd::Vsftpd;
use crate::server::{PASSWORD, USER};
use crate::totp::Authenticator;

/// Where a mount's files are, in the words of the configuration.
#[derive(Debug, Clone)]
pub struct Backend(String);

impl Backend {
    /// A folder of this machine.
    #[must_use]
    pub fn local(directory: &Path) -> Self {
        Self(format!(
            "kind = \"local\"\ndirectory = \"{}\"\n",
            directory.display()
        ))
    }

    /// vsftpd, with the protection that it was started with.
    #[must_use]
    pub fn vsftpd(server: &Vsftpd) -> Self {
        Self::ftp(
            server.address,
            server
                .certificate
                .as_ref()
                .map(|made| made.certificate.as_path()),
        )
    }

    /// ProFTPD over FTP, with the protection that it was started with.
    #[must_use]
    pub fn proftpd(server: &Proftpd) -> Self {
        Self::ftp(
            server.address,
            server
                .certificate
                .as_ref()
                .map(|made| made.certificate.as_path()),
        )
    }

    /// An SFTP server with its host key pinned.
    #[must_use]
    pub fn sftp(address: SocketAddr, host_key: &str, user_key: &Path) -> Self {
        Self(format!(
            "kind = \"sftp\"\naddress = \"{address}\"\nuser = \"{USER}\"\n\
             host_key = \"{host_key}\"\nkey_file = \"{}\"\ntimeout_seconds = 20\n",
            user_key.display()
        ))
    }

    /// OpenSSH's sshd.
    #[must_use]
    pub fn openssh(server: &Openssh, user_key: &Path) -> Self {
        Self::sftp(server.address, &server.host_key, user_key)
    }

    /// A bucket of SeaweedFS.
    ///
    /// # Errors
    /// When the files with its access key can't be written.
    pub fn seaweed(server: &Seaweed) -> Result<Self> {
        let (id, secret) = server.key_files()?;
        Ok(Self(format!(
            "kind = \"s3\"\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\naccess_key_file = \"{}\"\n\
             secret_key_file = \"{}\"\ntimeout_seconds = 20\n",
            server.endpoint(),
            id.display(),
            secret.display()
        )))
    }

    /// A container of Azurite.
    ///
    /// # Errors
    /// When the file with its key can't be written.
    pub fn azurite(server: &Azurite) -> Result<Self> {
        Ok(Self(format!(
            "kind = \"azure\"\naccount = \"{ACCOUNT}\"\ncontainer = \"{CONTAINER}\"\nendpoint = \"{}\"\n\
             key_file = \"{}\"\ntimeout_seconds = 20\n",
            server.endpoint(),
            server.key_file()?.display()
        )))
    }

    /// With another line of the configuration file.
    #[must_use]
    pub fn with(self, line: &str) -> Self {
        Self(format!("{}{line}\n", self.0))
    }

    /// A backend in the words of the configuration file.
    #[must_use]
    pub fn custom(toml: &str) -> Self {
        Self(toml.to_owned())
    }

    fn ftp(address: SocketAddr, trusted: Option<&Path>) -> Self {
        let mut text = format!(
            "kind = \"ftp\"\naddress = \"{address}\"\nuser = \"{USER}\"\n\
             password_file = \"PASSWORD_FILE\"\ntimeout_seconds = 20\n"
        );
        match trusted {
            Some(anchor) => {
                let _ = writeln!(
                    text,
                    "tls = \"explicit\"\nca_file = \"{}\"\nserver_name = \"localhost\"",
                    anchor.display()
                );
            }
            None => text.push_str(
                "tls = \"none\"\nplaintext_exception = { reason = \"the test's legacy server has no TLS\", \
                 approver = \"test\", expires = \"2099-12-31\" }\n",
            ),
        }
        Self(text)
    }
}

/// When the proxy asks the agent for a ban.
#[derive(Debug, Clone)]
pub struct Bans {
    /// The agent's control socket.
    pub agent_socket: PathBuf,
    /// Failed authentications from one source until it is banned.
    pub failures: u32,
    /// How long a ban lasts.
    pub lifetime_seconds: u32,
}

/// A proxy before it starts.
#[derive(Debug)]
pub struct Plan<'a> {
    place: Place<'a>,
    program: PathBuf,
    host_keys: Vec<KeyKind>,
    user_keys: KeyKind,
    today: Option<&'static str>,
    server: Vec<(&'static str, String)>,
    backends: Vec<(String, Backend)>,
    bans: Option<Bans>,
    metrics: Option<SocketAddr>,
    sections: String,
    journal_disk: Option<u64>,
    scratch: TempDir,
}

impl<'a> Plan<'a> {
    /// A proxy of this build that listens at the place.
    ///
    /// # Errors
    /// When it wasn't built.
    pub fn new(place: Place<'a>) -> Result<Self> {
        Self::of(place, locate::binary("portcullis-proxy")?)
    }

    /// The given binary.
    ///
    /// # Errors
    /// When the file system refuses a folder.
    pub fn of(place: Place<'a>, program: PathBuf) -> Result<Self> {
        Ok(Self {
            place,
            program,
            host_keys: vec![KeyKind::Ed25519],
            user_keys: KeyKind::Ed25519,
            today: None,
            server: Vec::new(),
            backends: Vec::new(),
            bans: None,
            metrics: None,
            sections: String::new(),
            journal_disk: None,
            scratch: files::folder("proxy")?,
        })
    }

    /// Adds a backend.
    #[must_use]
    pub fn backend(mut self, name: &str, backend: Backend) -> Self {
        self.backends.push((name.to_owned(), backend));
        self
    }

    /// Proves itself with these keys. [`Proxy::host_key`] is the first.
    #[must_use]
    pub fn host_keys(mut self, kinds: &[KeyKind]) -> Self {
        self.host_keys = kinds.to_vec();
        self
    }

    /// Gives accounts keys of this kind.
    #[must_use]
    pub fn user_keys(mut self, kind: KeyKind) -> Self {
        self.user_keys = kind;
        self
    }

    /// Starts at this time of the present day, UTC, as `23:59:40`, by the daemon's own clock.
    #[must_use]
    pub fn at(mut self, time: &'static str) -> Self {
        self.today = Some(time);
        self
    }

    /// Sets a key of `[server]`; the value is TOML.
    #[must_use]
    pub fn server(mut self, key: &'static str, value: &str) -> Self {
        self.server.push((key, value.to_owned()));
        self
    }

    /// Asks an agent for bans.
    #[must_use]
    pub fn bans(mut self, bans: Bans) -> Self {
        self.bans = Some(bans);
        self
    }

    /// Adds sections to the configuration, as they are.
    #[must_use]
    pub fn sections(mut self, toml: &str) -> Self {
        self.sections.push_str(toml);
        self
    }

    /// Serves metrics.
    #[must_use]
    pub fn metrics(mut self, address: SocketAddr) -> Self {
        self.metrics = Some(address);
        self
    }

    /// Keeps the journal on a disk of its own, of so many bytes.
    #[must_use]
    pub fn journal_disk(mut self, bytes: u64) -> Self {
        self.journal_disk = Some(bytes);
        self
    }

    /// Writes keys and configuration, starts the daemon and waits until it listens.
    ///
    /// # Errors
    /// When a key can't be made or the daemon ends; the message has its log.
    pub fn start(self) -> Result<Proxy> {
        let folder = self.scratch.path().to_path_buf();
        let address = SocketAddr::new(self.place.address(), self.place.port(22));
        let mut host_keys = Vec::new();
        for kind in &self.host_keys {
            let name = format!("host_{}", kind.name());
            let path = folder.join(&name);
            match kind {
                KeyKind::Ed25519 => {
                    succeed(
                        Command::new(&self.program)
                            .args(["host-key", "generate"])
                            .arg(&path),
                    )?;
                }
                KeyKind::Ecdsa(_) | KeyKind::Rsa(_) => drop(kind.make(&folder, &name)?),
            }
            host_keys.push(path);
        }
        let journal_key = folder.join("journal.key");
        let password_file = folder.join("backend.password");
        files::secret(&password_file, PASSWORD)?;

        let mut text = format!("[server]\nlisten = [\"{address}\"]\nhost_keys = {host_keys:?}\n");
        for (key, value) in &self.server {
            let _ = writeln!(text, "{key} = {value}");
        }
        let _ = write!(
            text,
            "\n[accounts]\ndatabase = \"{folder}/accounts.db\"\n\
             \n[journal]\ndirectory = \"{folder}/journal\"\nsigning_key = \"{key}\"\n",
            folder = folder.display(),
            key = journal_key.display(),
        );
        if self.journal_disk.is_none() {
            // How full this machine's disk is says nothing about the proxy.
            text.push_str("warn_percent = 100\nrefuse_sessions_percent = 100\n");
        }
        if let Some(bans) = &self.bans {
            let _ = write!(
                text,
                "\n[bans]\nagent_socket = \"{}\"\nfailures = {}\nwindow_seconds = 300\nlifetime_seconds = {}\n",
                bans.agent_socket.display(),
                bans.failures,
                bans.lifetime_seconds
            );
        }
        if let Some(address) = self.metrics {
            let _ = write!(text, "\n[metrics]\nlisten = \"{address}\"\n");
        }
        let _ = write!(text, "\n{}", self.sections);
        for (name, Backend(toml)) in &self.backends {
            let toml = toml.replace("PASSWORD_FILE", &password_file.display().to_string());
            let _ = write!(text, "\n[backends.{name}]\n{toml}");
        }
        let config = folder.join("proxy.toml");
        fs::write(&config, text)?;

        let disk = self
            .journal_disk
            .map(|bytes| SmallDisk::mount(&folder.join("journal"), bytes))
            .transpose()?;
        let process = start_at(self.today, self.place, &self.program, &config, address)?;
        let proxy = Proxy {
            address,
            config,
            journal: folder.join("journal"),
            process,
            disk,
            program: self.program,
            host_keys,
            user_keys: self.user_keys,
            scratch: self.scratch,
        };
        proxy.write_known_hosts()?;
        Ok(proxy)
    }
}

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

/// A file system in memory that is soon full; unmounted when dropped.
#[derive(Debug)]
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        succeed(
            Command::new("mount")
                .args([
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={bytes},mode=0700"),
                    "tmpfs",
                ])
                .arg(at),
        )?;
        Ok(Self(at.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
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
        succeed(
            Command::new("mount")
                .args(["-o", &format!("remount,size={bytes}")])
                .arg(&disk.0),
        )?;
        Ok(())
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
