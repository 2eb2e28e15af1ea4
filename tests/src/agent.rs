//! `portcullis-agent` as an operator runs it: a configuration file, the daemon in its network
//! namespace, and its own command line.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::{Running, succeed};

/// A running agent. When it is dropped, its program leaves the interfaces.
#[derive(Debug)]
pub struct Agent {
    /// The control socket.
    pub socket: PathBuf,
    /// Its journal's folder.
    pub journal: PathBuf,
    /// The daemon.
    pub process: Running,
    program: PathBuf,
    // Declared before the folder that it is mounted in, so that it goes first.
    _pins: BpfFileSystem,
    scratch: TempDir,
}

impl Agent {
    /// Starts it on interfaces of the place's namespace; `protected` sources can't be cut off.
    ///
    /// # Errors
    /// Without root, or when the daemon ends; the message has its log.
    pub fn start(place: Place<'_>, interfaces: &[&str], protected: &[IpAddr]) -> Result<Self> {
        Self::start_with(place, interfaces, protected, "")
    }

    /// As [`Agent::start`], with more lines for the section `[control]` and sections behind it.
    ///
    /// # Errors
    /// Without root, or when the daemon ends; the message has its log.
    pub fn start_with(
        place: Place<'_>,
        interfaces: &[&str],
        protected: &[IpAddr],
        more: &str,
    ) -> Result<Self> {
        Self::start_configured(place, interfaces, protected, "", more)
    }

    /// As [`Agent::start_with`], with lines before the first section too.
    ///
    /// # Errors
    /// Without root, or when the daemon ends; the message has its log.
    pub fn start_configured(
        place: Place<'_>,
        interfaces: &[&str],
        protected: &[IpAddr],
        first: &str,
        more: &str,
    ) -> Result<Self> {
        let program = locate::binary("portcullis-agent")?;
        Self::start_program(&program, place, interfaces, protected, first, more)
    }

    /// As [`Agent::start_configured`], of another build than the test's.
    ///
    /// # Errors
    /// Without root, or when the daemon ends; the message has its log.
    pub fn start_program(
        program: &Path,
        place: Place<'_>,
        interfaces: &[&str],
        protected: &[IpAddr],
        first: &str,
        more: &str,
    ) -> Result<Self> {
        let program = program.to_owned();
        let scratch = files::folder("agent")?;
        let folder = scratch.path();
        let pins = BpfFileSystem::mount(&folder.join("bpf"))?;
        let socket = folder.join("agent.sock");
        let journal = folder.join("journal");
        let config = folder.join("agent.toml");
        fs::write(
            &config,
            format!(
                "{first}\n\
                 interfaces = {interfaces:?}\n\
                 state_dir = \"{folder}/state\"\n\
                 pin_dir = \"{folder}/bpf/portcullis\"\n\
                 protected = {protected:?}\n\
                 [journal]\n\
                 directory = \"{journal}\"\n\
                 signing_key = \"{folder}/journal.key\"\n\
                 [metrics]\n\
                 listen = \"off\"\n\
                 [control]\n\
                 socket = \"{socket}\"\n\
                 {more}\n",
                protected = protected.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
                folder = folder.display(),
                socket = socket.display(),
                journal = journal.display(),
            ),
        )?;
        let process = launch(place, &[], &program, folder)?;
        let mut agent = Self {
            socket,
            journal,
            process,
            program,
            _pins: pins,
            scratch,
        };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts the daemon again, after it was stopped or killed.
    ///
    /// # Errors
    /// When the daemon ends; the message has its log.
    pub fn start_again(&mut self, place: Place<'_>) -> Result<()> {
        self.start_again_under(place, &[])
    }

    /// As [`Agent::start_again`], by another program with its arguments, which runs the daemon in its place: `prlimit --memlock=0`.
    ///
    /// # Errors
    /// When the daemon ends; the message has its log.
    pub fn start_again_under(&mut self, place: Place<'_>, wrapper: &[&str]) -> Result<()> {
        self.launch_only(place, wrapper)?;
        let id = u64::from(self.process.id());
        let (program, socket) = (self.program.clone(), self.socket.clone());
        // The daemon before may have left its socket behind.
        self.process.wait_until("answering", move |_| {
            Command::new(&program)
                .args(["status", "--json", "--socket"])
                .arg(&socket)
                .output()
                .ok()
                .and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok())
                .is_some_and(|status| status.get("pid").and_then(Value::as_u64) == Some(id))
        })
    }

    /// As [`Agent::start_again_under`], without waiting for anything.
    ///
    /// # Errors
    /// When the program can't be run.
    pub fn launch_only(&mut self, place: Place<'_>, wrapper: &[&str]) -> Result<()> {
        self.process = launch(place, wrapper, &self.program, self.scratch.path())?;
        Ok(())
    }

    /// Makes `program` the one that the next start runs, as an upgrade does.
    pub fn install(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The program that the next start runs.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The directory of the pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.folder().join("bpf/portcullis")
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder().join("agent.toml")
    }

    /// Runs `portcullis-agent ARGUMENTS --socket S`.
    ///
    /// # Errors
    /// When it fails; the message has all that it printed.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        succeed(
            Command::new(&self.program)
                .args(arguments)
                .arg("--socket")
                .arg(&self.socket)
                .stdin(Stdio::null()),
        )
    }

    /// What `status --json` says.
    ///
    /// # Errors
    /// When the daemon doesn't answer.
    pub fn status(&self) -> Result<Value> {
        let text = self.command(&["status", "--json"])?;
        serde_json::from_str(&text).context("read the agent's status")
    }

    /// How many packets were dropped for a reason, e.g. `not_listed` or `banned`.
    ///
    /// # Errors
    /// When the daemon doesn't answer or knows no such reason.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        self.status()?
            .pointer(&format!("/counters/dropped/{reason}"))
            .and_then(Value::as_u64)
            .with_context(|| format!("the agent counts no drops as {reason}"))
    }

    /// A folder that lives as long as the agent.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let (program, socket) = (self.program.clone(), self.socket.clone());
        self.process.wait_until("answering", move |_| {
            socket.exists()
                && Command::new(&program)
                    .args(["status", "--json", "--socket"])
                    .arg(&socket)
                    .output()
                    .is_ok_and(|output| output.status.success())
        })
    }
}

fn launch(place: Place<'_>, wrapper: &[&str], program: &Path, folder: &Path) -> Result<Running> {
    let program = program.display().to_string();
    let mut command = match wrapper {
        [] => place.command(&program),
        [first, rest @ ..] => {
            let mut command = place.command(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command
        .args(["run", "--config"])
        .arg(folder.join("agent.toml"));
    Running::start("portcullis-agent", &mut command, &folder.join("agent.log"))
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

/// A BPF file system of its own: what is pinned there is gone when it is unmounted, and the
/// machine's `/sys/fs/bpf` stays as it is.
#[derive(Debug)]
struct BpfFileSystem(PathBuf);

impl BpfFileSystem {
    fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir(folder)?;
        succeed(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder))
            .context("mount a BPF file system (this needs root)")?;
        Ok(Self(folder.to_path_buf()))
    }
}

impl Drop for BpfFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
