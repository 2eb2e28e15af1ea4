//! Programs that a test starts: waited for with a deadline, killed when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a test waits for anything before it calls it failed. Generous: CI machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// Returns when the condition gives a value.
///
/// # Errors
/// When it gives none within [`PATIENCE`]; the message repeats `what`.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it can't start, or isn't done within `patience`; it is killed then.
pub fn finish_within(command: &mut Command, patience: Duration) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let scratch = tempfile::tempdir().context("make a folder for output")?;
    let (stdout, stderr) = (scratch.path().join("stdout"), scratch.path().join("stderr"));
    let mut child = command
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!(
                "{program} wasn't done after {} s\n{}{}",
                patience.as_secs(),
                read(&stdout),
                read(&stderr)
            );
        }
        thread::sleep(POLL);
    };
    Ok(Output {
        status,
        stdout: fs::read(&stdout)?,
        stderr: fs::read(&stderr)?,
    })
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Errors
/// When it fails or isn't done within [`PATIENCE`]; the message has all that it printed.
pub fn succeed(command: &mut Command) -> Result<String> {
    succeed_within(command, PATIENCE)
}

/// As [`succeed`], for what takes longer than a test should.
///
/// # Errors
/// When it fails or isn't done within `patience`.
pub fn succeed_within(command: &mut Command, patience: Duration) -> Result<String> {
    let output = finish_within(command, patience)?;
    if !output.status.success() {
        bail!(
            "{:?} ended with {}\n{}{}",
            command,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("read the output as UTF-8")
}

/// A running program, killed when dropped. Its output goes to a file.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    patience: Duration,
}

impl Running {
    /// Starts the command with its output in `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
            patience: PATIENCE,
        })
    }

    /// Lets it take longer than [`PATIENCE`] for what is waited for.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that the program printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until the program's network namespace has a TCP listener on the port.
    ///
    /// It reads the kernel's table and connects nowhere: a server under test sees only the
    /// connections of the test.
    ///
    /// # Errors
    /// When the program ends first or takes too long; the message has its log.
    pub fn wait_until_listening(&mut self, port: u16) -> Result<()> {
        self.wait_until(&format!("listening on port {port}"), |program| {
            ["tcp", "tcp6"].iter().any(|table| {
                let table = read(Path::new(&format!("/proc/{}/net/{table}", program.id())));
                table.lines().any(|line| listens_on(line, port))
            })
        })
    }

    /// Waits until the program has printed the text.
    ///
    /// # Errors
    /// When the program ends first or takes too long; the message has its log.
    pub fn wait_until_printed(&mut self, text: &str) -> Result<()> {
        self.wait_until(&format!("printing {text:?}"), |program| {
            program.log().contains(text)
        })
    }

    /// Waits until the condition holds.
    ///
    /// # Errors
    /// When the program ends first or takes too long; the message has its log.
    pub fn wait_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        while !condition(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status} before {what}\n{}",
                    self.name,
                    self.log()
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} wasn't {what} after {} s\n{}",
                    self.name,
                    self.patience.as_secs(),
                    self.log()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the program to stop, as a service manager does, and waits for its end.
    ///
    /// # Errors
    /// When it doesn't end within [`PATIENCE`].
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_for_end()
    }

    /// Ends the program at once, as the kernel does when memory runs out.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The processes that it started, and those that they started.
    #[must_use]
    pub fn descendants(&self) -> Vec<u32> {
        descendants(self.id())
    }

    /// Ends the program and every process that it started, as a machine that loses power does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_with_children(&mut self) -> Result<()> {
        let children = self.descendants();
        for &id in &children {
            if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
                // One that ended by itself meanwhile is as good.
                let _ = kill_process(id, Signal::KILL);
            }
        }
        self.kill()?;
        // A signal is sent, not carried out: until then the port is taken, and looks like that of the next server.
        wait_for("killed children to end", || {
            children.iter().all(|&id| has_ended(id)).then_some(())
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id is positive")?;
        kill_process(id, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Waits until the program ends by itself.
    ///
    /// # Errors
    /// When it doesn't within [`PATIENCE`].
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} didn't end\n{}", self.name, self.log());
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended has no children, and its number may be another's.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.kill_with_children();
        }
    }
}

/// The processes below `id`, from the kernel's lists of children (`CONFIG_PROC_CHILDREN`).
fn descendants(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    children
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .flat_map(|child| std::iter::once(child).chain(descendants(child)))
        .collect()
}

/// Whether a process has given up all that it had; its parent may not have asked for its status yet.
fn has_ended(id: u32) -> bool {
    let status = read(Path::new(&format!("/proc/{id}/stat")));
    // Behind the name, which is in parentheses and may be anything.
    let state = status
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_none_or(|state| matches!(state, 'Z' | 'X'))
}

/// Whether a line of `/proc/net/tcp` is a listener on the port: `sl local_address rem_address st`,
/// addresses in hexadecimal, state 0A.
fn listens_on(line: &str, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let local = words.next().and_then(|address| address.rsplit_once(':'));
    let state = words.nth(1);
    local.is_some_and(|(_, hexadecimal)| u16::from_str_radix(hexadecimal, 16) == Ok(port))
        && state == Some("0A")
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_program_is_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let running = Running::start(
            "sleep",
            Command::new("sleep").arg("600"),
            &scratch.path().join("log"),
        )
        .unwrap();
        let entry = PathBuf::from(format!("/proc/{}", running.id()));
        assert!(entry.exists());
        drop(running);
        assert!(!entry.exists());
    }

    #[test]
    fn what_killed_children_held_is_free() {
        let scratch = tempfile::tempdir().unwrap();
        let script = "import os, socket, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
memory = bytearray(200 << 20)
open('port', 'w').write(str(s.getsockname()[1]))
time.sleep(600)";
        for _ in 0..5 {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", "python3 -c \"$1\" & wait", "sh", script])
                .current_dir(scratch.path());
            let mut running =
                Running::start("server", &mut shell, &scratch.path().join("log")).unwrap();
            let port = wait_for("the port", || {
                read(&scratch.path().join("port")).parse::<u16>().ok()
            });
            running.kill_with_children().unwrap();
            let listener = std::net::TcpListener::bind(("127.0.0.1", port.unwrap()));
            assert!(listener.is_ok(), "{listener:?}");
            fs::remove_file(scratch.path().join("port")).unwrap();
        }
    }

    #[test]
    fn what_a_wrapper_started_ends_when_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & wait"]);
        let running = Running::start("wrapper", &mut shell, &scratch.path().join("log")).unwrap();
        let child = wait_for("the child", || running.descendants().first().copied()).unwrap();
        drop(running);
        assert!(has_ended(child));
    }

    #[test]
    fn waiting_for_a_program_that_ended_says_what_it_printed() {
        let scratch = tempfile::tempdir().unwrap();
        let mut running = Running::start(
            "server",
            Command::new("sh").args(["-c", "echo address in use; exit 1"]),
            &scratch.path().join("log"),
        )
        .unwrap();
        let error = running.wait_until_listening(1).unwrap_err().to_string();
        assert!(error.contains("address in use"), "{error}");
    }

    #[test]
    fn listeners_are_told_from_connections() {
        let listener = "   0: 0100007F:08AE 00000000:0000 0A 00000000:00000000 00:00000000";
        let connection = "   1: 0100007F:08AE 0100007F:9C40 01 00000000:00000000 00:00000000";
        assert!(listens_on(listener, 2222));
        assert!(!listens_on(listener, 2223));
        assert!(!listens_on(connection, 2222));
    }
}
