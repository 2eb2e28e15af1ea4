//! `cargo xtask clients`: what partners' clients can do, tried with the real programs, against what the documentation says.

use std::fs;

use anyhow::{Context, Result, bail};
use portcullis_tests::evidence;

use crate::{process, setup};

/// The gateway's tests that drive partners' clients: parts of their names.
const TESTS: &[&str] = &[
    "clients::",
    "matrix::",
    "resumes_on_a_local_disk",
    "scp::",
    "whole_folders::",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Put the table into the documentation instead of comparing the two
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::For::Everything)?;
    // The daemon under test.
    process::run(process::cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    evidence::forget()?;
    process::run(
        process::cargo()
            .args(["test", "--workspace", "--locked", "--test", "gateway", "--"])
            .args(TESTS),
    )?;
    if !arguments.write {
        return compare();
    }
    let (page, made) = pages()?;
    if page == made {
        println!("{} is as it was", evidence::PAGE);
    } else {
        fs::write(process::workspace().join(evidence::PAGE), made)
            .with_context(|| format!("write {}", evidence::PAGE))?;
        println!("{} has a new table", evidence::PAGE);
    }
    Ok(())
}

/// Fails if the documentation says anything else than what the tests of this run saw.
pub(crate) fn compare() -> Result<()> {
    let (page, made) = pages()?;
    if evidence::say_the_same(&page, &made) {
        return Ok(());
    }
    for line in made.lines().filter(|line| !page.contains(line)) {
        println!("the tests saw: {line}");
    }
    bail!(
        "the table in {} is not what the tests saw; `cargo xtask clients --write` renews it",
        evidence::PAGE
    );
}

/// The page as it is, and as it should be.
fn pages() -> Result<(String, String)> {
    let path = process::workspace().join(evidence::PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let made = evidence::page_with_table(&page)?;
    Ok((page, made))
}
