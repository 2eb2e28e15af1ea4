//! Runs `portcullis-bench-client`, which does what partners' clients don't.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_tests::process::{PATIENCE, succeed_within};
use serde::Deserialize;

use super::lab::Lab;
use super::side::Side;

/// Longest run of hundreds of logins.
const RUN: Duration = Duration::from_secs(10 * PATIENCE.as_secs());

/// What a login takes.
#[derive(Debug)]
pub(super) struct Login<'a> {
    pub(super) address: std::net::SocketAddr,
    pub(super) user: &'a str,
    pub(super) key: &'a Path,
    pub(super) password: Option<&'a str>,
}

/// Runs the client to its end and returns the seconds that it measured.
pub(super) fn seconds(lab: &Lab, side: &Side<'_>, arguments: &[&str]) -> Result<f64> {
    #[derive(Deserialize)]
    struct Printed {
        seconds: f64,
    }
    let printed = succeed_within(&mut command(lab, side, arguments)?, RUN)?;
    let printed: Printed = serde_json::from_str(&printed).context("read the client's answer")?;
    Ok(printed.seconds)
}

/// A client that stays until this is dropped.
pub(super) struct Staying {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Staying {
    /// Starts it and waits until it is ready; each of its steps has a deadline of its own.
    pub(super) fn start(lab: &Lab, side: &Side<'_>, arguments: &[&str]) -> Result<Self> {
        let mut child = command(lab, side, arguments)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the client")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut staying = Self {
            child,
            input: input.context("the client's input is a pipe")?,
            output: BufReader::new(output.context("the client's output is a pipe")?),
        };
        staying.wait_until_ready()?;
        Ok(staying)
    }

    /// Lets it take its next step.
    pub(super) fn go_on(&mut self) -> Result<()> {
        self.input.write_all(b"\n").context("let the client go on")
    }

    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            line.trim() == "ready",
            "the client ended before it was ready"
        );
        Ok(())
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `cargo` put the client.
pub(super) fn program() -> Result<PathBuf> {
    portcullis_tests::locate::release_binary("portcullis-bench-client")
}

fn command(lab: &Lab, side: &Side<'_>, arguments: &[&str]) -> Result<Command> {
    let login = side.login()?;
    let mut command = Command::new(lab.client());
    command
        .args(["--address", &login.address.to_string()])
        .args(["--user", login.user])
        .arg("--key")
        .arg(login.key)
        .args(arguments)
        .stdin(Stdio::null());
    if let Some(password) = login.password {
        command.env("PORTCULLIS_BENCH_PASSWORD", password);
    }
    Ok(command)
}
