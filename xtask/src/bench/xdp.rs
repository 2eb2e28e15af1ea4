//! The agent's benchmark: a program of its own in `bench/`, built with optimisation and run as root.

use anyhow::Result;

use super::Arguments;
use crate::{process, setup};

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::For::Bench)?;
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "portcullis-agent",
    ]))?;
    let mut command = process::cargo();
    command.args([
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "portcullis-bench",
        "--",
        "--rounds",
        &arguments.rounds.to_string(),
    ]);
    for (flag, file) in [
        ("--json", &arguments.json),
        ("--picture", &arguments.picture),
    ] {
        if let Some(file) = file {
            // The program runs at the workspace's root.
            command.arg(flag).arg(std::path::absolute(file)?);
        }
    }
    for part in &arguments.only {
        command.args(["--only", part]);
    }
    process::run(&mut command)
}
