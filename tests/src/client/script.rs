//! Runs a client that is a library: a script that does what the library's documentation shows, with its orders as JSON on
//! standard input.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Step;
use crate::account::{Account, Factors};
use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::{PATIENCE, finish_within};
use crate::proxy::Proxy;

/// A script and what runs it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Script {
    Python(&'static str),
    Node(&'static str),
}

impl Script {
    fn command(self, place: Place<'_>) -> Result<Command> {
        Ok(match self {
            Self::Python(script) => {
                let interpreter = locate::python_tool("python")?;
                let mut command = place.command(&interpreter.display().to_string());
                command.args(["-c", script]);
                command
            }
            Self::Node(script) => {
                let mut command = place.command("node");
                command
                    .args(["-e", script])
                    .env("NODE_PATH", locate::node_packages()?);
                command
            }
        })
    }
}

pub(super) fn session(
    script: Script,
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    steps: &[Step],
) -> Result<String> {
    let orders = steps.iter().map(order).collect();
    run(script, place, proxy, account, factors, orders)
}

/// As [`session`], with steps as the script understands them.
pub(super) fn run(
    script: Script,
    place: Place<'_>,
    proxy: &Proxy,
    account: &mut Account,
    factors: Factors,
    steps: Vec<Value>,
) -> Result<String> {
    let scratch = files::folder("orders")?;
    let words = account.words(factors)?;
    let orders = json!({
        "host": proxy.address.ip().to_string(),
        "port": proxy.address.port(),
        "host_key": proxy.host_key()?,
        "user": account.name,
        "password": words.password,
        "key": factors.have_key().then(|| account.key.display().to_string()),
        "certificate": account.certificate(),
        "code": words.code,
        "key_comes_last": factors == Factors::PasswordThenKey,
        "steps": steps,
    });
    let input = scratch.path().join("orders.json");
    fs::write(&input, orders.to_string())?;
    let mut command = script.command(place)?;
    command.stdin(Stdio::from(File::open(&input)?));
    let output = finish_within(&mut command, 4 * PATIENCE)?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!("{script:?} ended with {}\n{printed}", output.status);
    }
    Ok(printed)
}

fn order(step: &Step) -> Value {
    match step {
        Step::Put { local, remote } => json!(["put", local, remote]),
        Step::Resume { local, remote } => json!(["resume", local, remote]),
        Step::Get { remote, local } => json!(["get", remote, local]),
        Step::List(folder) => json!(["list", folder]),
        Step::Rename { from, to } => json!(["rename", from, to]),
        Step::Remove(file) => json!(["remove", file]),
        Step::MakeFolder(folder) => json!(["mkdir", folder]),
        Step::RemoveFolder(folder) => json!(["rmdir", folder]),
    }
}
