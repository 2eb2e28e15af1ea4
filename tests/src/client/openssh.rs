//! OpenSSH's `sftp`: prompts are answered by an askpass program.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::Step;
use crate::account::{Account, Factors};
use crate::files;
use crate::place::Place;
use crate::process::{PATIENCE, finish_within, wait_for};
use crate::proxy::Proxy;
use crate::server::{PASSWORD, USER};

/// How OpenSSH's programs reach and authenticate to one server.
#[derive(Debug)]
pub struct Connection {
    options: Vec<String>,
    host: String,
    askpass: PathBuf,
    scratch: TempDir,
}

impl Connection {
    /// A login with both factors; it takes one code from the phone.
    ///
    /// # Errors
    /// When the phone has no code or the file system refuses.
    pub fn new(proxy: &Proxy, account: &mut Account, factors: Factors) -> Result<Self> {
        let words = account.words(factors)?;
        Self::with_answers(proxy, account, factors, &words.password, &words.code)
    }

    /// A login with the given answers, right or wrong.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn with_answers(
        proxy: &Proxy,
        account: &Account,
        factors: Factors,
        password: &str,
        code: &str,
    ) -> Result<Self> {
        let key = factors.have_key().then_some(account.key.as_path());
        let scratch = files::folder("openssh")?;
        let askpass = scratch.path().join("askpass");
        // The password prompt is "Password: ", the code's is "One-time password: ".
        files::script(
            &askpass,
            &format!(
                "#!/bin/sh\ncase \"$1\" in\n*One-time*) echo '{code}' ;;\n*) echo '{password}' ;;\nesac\n"
            ),
        )?;
        let connection = Self {
            options: options(proxy.address, &account.name, &proxy.known_hosts(), key),
            host: proxy.address.ip().to_string(),
            askpass,
            scratch,
        };
        Ok(if factors == Factors::PasswordThenKey {
            connection.option("PreferredAuthentications=keyboard-interactive,publickey")
        } else {
            connection
        })
    }

    /// A login at a peer server with the peer's account and key alone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn to_peer(address: SocketAddr, host_key: &str, key: &Path) -> Result<Self> {
        Self::peer(address, host_key, Some(key), "exit 1")
    }

    /// A login at a peer server with the peer's account and its password, by the method `password`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn to_peer_by_password(address: SocketAddr, host_key: &str) -> Result<Self> {
        let answer = format!("echo '{PASSWORD}'");
        Ok(Self::peer(address, host_key, None, &answer)?
            .option("PreferredAuthentications=password"))
    }

    fn peer(address: SocketAddr, host_key: &str, key: Option<&Path>, answer: &str) -> Result<Self> {
        let scratch = files::folder("openssh")?;
        let known_hosts = scratch.path().join("known_hosts");
        fs::write(
            &known_hosts,
            format!("[{}]:{} {host_key}\n", address.ip(), address.port()),
        )?;
        let askpass = scratch.path().join("askpass");
        files::script(&askpass, &format!("#!/bin/sh\n{answer}\n"))?;
        Ok(Self {
            options: options(address, USER, &known_hosts, key),
            host: address.ip().to_string(),
            askpass,
            scratch,
        })
    }

    /// Adds `-o OPTION`, before all others: OpenSSH keeps the first value that it reads.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options
            .splice(0..0, ["-o".to_owned(), option.to_owned()]);
        self
    }

    /// `sftp` with the batch of commands. The answer may be a failure: the caller judges.
    ///
    /// # Errors
    /// When it can't start or isn't done within `patience`.
    pub fn sftp(&self, place: Place<'_>, batch: &str, patience: Duration) -> Result<Output> {
        let file = self.scratch.path().join("batch");
        fs::write(&file, batch)?;
        // -b sets BatchMode=yes unless the option stands before it.
        let mut command = place.command("sftp");
        command
            .args(["-o", "BatchMode=no", "-b"])
            .arg(&file)
            .args(&self.options)
            .arg(&self.host);
        finish_within(self.answering(&mut command), patience)
    }

    /// `scp -O`, the old protocol; `HOST:` in an argument stands for this login's host.
    ///
    /// # Errors
    /// When it can't start or isn't done within `patience`.
    pub fn scp(&self, place: Place<'_>, arguments: &[&str], patience: Duration) -> Result<Output> {
        let host = format!("{}:", self.host);
        let mut command = place.command("scp");
        command.arg("-O").args(&self.options).args(
            arguments
                .iter()
                .map(|argument| argument.replacen("HOST:", &host, 1)),
        );
        finish_within(self.answering(&mut command), patience)
    }

    /// `ssh` with a remote command or none.
    ///
    /// # Errors
    /// When it can't start or isn't done within [`PATIENCE`].
    pub fn ssh(&self, place: Place<'_>, arguments: &[&str]) -> Result<Output> {
        let mut command = place.command("ssh");
        command.args(&self.options).arg(&self.host).args(arguments);
        finish_within(self.answering(&mut command), PATIENCE)
    }

    /// The `sftp` subsystem without a client behind it: it stays open until its input is closed, sends what is written
    /// to its input, and takes no more from the server than is read from its output.
    ///
    /// # Errors
    /// When it can't start.
    pub fn start_subsystem(&self, place: Place<'_>) -> Result<Child> {
        let mut command = place.command("ssh");
        command.args(&self.options).args(["-s", &self.host, "sftp"]);
        self.answering(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ssh")
    }

    /// `ssh` with a terminal at the other end, as a person has it.
    ///
    /// # Errors
    /// When it can't start.
    pub fn start_terminal(&self, place: Place<'_>) -> Result<Terminal> {
        let mut command = place.command("ssh");
        command.arg("-tt").args(&self.options).arg(&self.host);
        let mut child = self
            .answering(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start ssh")?;
        let mut output = child.stdout.take().context("the output is a pipe")?;
        let shown = Arc::new(Mutex::new(Vec::new()));
        let screen = Arc::clone(&shown);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let read = piece.get(..length).unwrap_or_default();
                if let Ok(mut screen) = screen.lock() {
                    screen.extend_from_slice(read);
                }
            }
        });
        Ok(Terminal { child, shown })
    }

    pub(super) fn options(&self) -> &[String] {
        &self.options
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn answering<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("SSH_ASKPASS", &self.askpass)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
    }
}

/// A person's terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// What was shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown
            .lock()
            .map(|shown| String::from_utf8_lossy(&shown).into_owned())
            .unwrap_or_default()
    }

    /// Waits until the text is shown, and returns all that was shown.
    ///
    /// # Errors
    /// When it isn't within [`PATIENCE`].
    pub fn wait_for(&self, text: &str) -> Result<String> {
        wait_for(text, || {
            let shown = self.shown();
            shown.contains(text).then_some(shown)
        })
        .with_context(|| format!("shown: {}", self.shown()))
    }

    /// Types a line and the return key.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("the input is a pipe")?;
        write!(input, "{line}\r").context("type a line")?;
        Ok(input.flush()?)
    }

    /// Closes the window.
    ///
    /// # Errors
    /// When the program can't be ended.
    pub fn close(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the program's own end.
    ///
    /// # Errors
    /// When it doesn't end within [`PATIENCE`].
    pub fn finish(mut self) -> Result<ExitStatus> {
        wait_for("the end of ssh", || self.child.try_wait().ok()?)
    }
}

/// Whether an SSH server answers at the address within `patience`: its key exchange is enough.
///
/// # Errors
/// When `ssh-keyscan` can't start.
pub fn scan(place: Place<'_>, address: SocketAddr, patience: Duration) -> Result<bool> {
    let seconds = patience.as_secs().max(1).to_string();
    let mut command = place.command("ssh-keyscan");
    command
        .args(["-t", "ed25519", "-T", &seconds, "-p"])
        .arg(address.port().to_string())
        .arg(address.ip().to_string());
    let output = finish_within(&mut command, patience + Duration::from_secs(10))?;
    Ok(!output.stdout.is_empty())
}

pub(super) fn session(
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    steps: &[Step],
) -> Result<String> {
    let connection = Connection::new(proxy, account, factors)?;
    let output = connection.sftp(place, &batch(steps), 4 * PATIENCE)?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!("sftp ended with {}\n{printed}", output.status);
    }
    Ok(printed)
}

/// The steps as commands of OpenSSH's and PuTTY's sftp programs.
pub(super) fn batch(steps: &[Step]) -> String {
    steps
        .iter()
        .map(|step| match step {
            Step::Put { local, remote } => format!("put {} {remote}\n", local.display()),
            Step::Resume { local, remote } => format!("reput {} {remote}\n", local.display()),
            Step::Get { remote, local } => format!("get {remote} {}\n", local.display()),
            Step::List(folder) => format!("ls -l {folder}\n"),
            Step::Rename { from, to } => format!("rename {from} {to}\n"),
            Step::Remove(file) => format!("rm {file}\n"),
            Step::MakeFolder(folder) => format!("mkdir {folder}\n"),
            Step::RemoveFolder(folder) => format!("rmdir {folder}\n"),
        })
        .collect()
}

/// Options that leave out the user's own configuration, agent and keys.
pub(super) fn options(
    address: SocketAddr,
    user: &str,
    known_hosts: &Path,
    key: Option<&Path>,
) -> Vec<String> {
    let mut options = vec!["-F".to_owned(), "/dev/null".to_owned()];
    let mut add = |option: String| options.extend(["-o".to_owned(), option]);
    add(format!("Port={}", address.port()));
    add(format!("User={user}"));
    add(format!("UserKnownHostsFile={}", known_hosts.display()));
    add("GlobalKnownHostsFile=/dev/null".to_owned());
    add("StrictHostKeyChecking=yes".to_owned());
    add("IdentityAgent=none".to_owned());
    add("NumberOfPasswordPrompts=1".to_owned());
    add("ConnectTimeout=20".to_owned());
    match key {
        Some(key) => {
            add("IdentitiesOnly=yes".to_owned());
            add(format!("IdentityFile={}", key.display()));
            add("PreferredAuthentications=publickey,keyboard-interactive".to_owned());
        }
        None => {
            add("PubkeyAuthentication=no".to_owned());
            add("PreferredAuthentications=keyboard-interactive".to_owned());
        }
    }
    options
}
