//! `cargo xtask test`: every test of the workspace, and one summary of them all.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use portcullis_tests::evidence;

use crate::{clients, process, setup};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::For::Everything)?;
    // The daemons under test are ordinary binaries: built with the tests, so that both share
    // every compiled dependency.
    process::run(process::cargo().args(["build", "--workspace", "--all-targets", "--locked"]))?;

    evidence::forget()?;
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if let Some(filter) = &arguments.filter {
        command.args(["--", filter]);
    }
    // A failed test says what went wrong in words; the stack behind an error value adds nothing.
    command.env("RUST_LIB_BACKTRACE", "0");
    // Most tests wait for servers and clients more than they compute.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    command.env("RUST_TEST_THREADS", (2 * processors).to_string());
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let output = child.stdout.take().context("read from cargo test")?;
    let mut summary = Summary::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("read from cargo test")?;
        println!("{line}");
        summary.add(&line);
    }
    let status = child.wait().context("wait for cargo test")?;
    // A test program that crashes reports no result of its own.
    if !status.success() && summary.failed == 0 {
        summary.failed = 1;
    }
    if !summary.failures.is_empty() {
        println!("\nfailed:");
        for name in &summary.failures {
            println!("  {name}");
        }
    }
    println!("\n{}", summary.line());
    if summary.failed > 0 {
        bail!("{} tests failed", summary.failed);
    }
    if summary.passed == 0 {
        bail!("no test was run");
    }
    match arguments.filter {
        Some(_) => Ok(()),
        None => clients::compare(),
    }
}

/// The sum of what libtest printed for each test program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
}

impl Summary {
    fn add(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let Self {
            passed,
            failed,
            ignored,
            ..
        } = self;
        match ignored {
            0 => format!("{passed} passed, {failed} failed"),
            skipped => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_adds_up_every_test_program() {
        let mut summary = Summary::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.01s",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            summary.add(line);
        }
        assert_eq!(summary.line(), "7 passed, 1 failed");
        assert_eq!(summary.failures, ["a::c"]);
    }

    #[test]
    fn output_of_a_test_that_looks_like_a_result_is_not_counted_twice() {
        let mut summary = Summary::default();
        summary.add("  test result: ok. 5 passed; 0 failed");
        summary.add("my test result: ok. 5 passed; 0 failed");
        assert_eq!(summary.line(), "0 passed, 0 failed");
    }

    #[test]
    fn ignored_tests_are_shown_as_skipped() {
        let mut summary = Summary::default();
        summary.add("test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!(summary.line(), "1 passed, 0 failed, 2 skipped");
    }
}
