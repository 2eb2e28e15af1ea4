//! Who gets in, measured: what a stranger can learn from time, one code in fifty hands, logins a second, a login in the
//! middle of an attack, memory of connections that never log in.
//!
//! The client is the tests' own ([`portcullis_tests::raw_ssh`]). A part is a file below this module and a variant of
//! [`Part`]. `--reduced` checks the benchmark itself: the debug build and few samples, whose figures mean nothing.

mod drop;
mod flood;
mod lab;
mod logins;
mod memory;
mod once;
mod oracle;
mod statistics;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use portcullis_tests::report::Report;

use self::lab::Lab;
use super::Arguments;
use crate::{process, setup};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unknown user, wrong password, wrong key, wrong code: the same bytes after the same time
    Oracle,
    /// Fifty logins at once with one code
    Once,
    /// Two-factor logins a second, against sshd with key and PAM
    Logins,
    /// A good login while 500 connections stand open and 200 guesses a second come in
    Flood,
    /// Memory of connections that announce a packet and never log in
    Memory,
    /// From the deciding failure to the first packet dropped on the wire (needs root)
    Drop,
}

impl Part {
    fn run(self, lab: &Lab, report: &mut Report) -> Result<()> {
        match self {
            Self::Oracle => oracle::run(lab, report),
            Self::Once => once::run(lab, report),
            Self::Logins => logins::run(lab, report),
            Self::Flood => flood::run(lab, report),
            Self::Memory => memory::run(lab, report),
            Self::Drop => drop::run(lab, report),
        }
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let parts = chosen(&arguments.only)?;
    if cfg!(debug_assertions) && !arguments.reduced {
        return optimised(arguments);
    }
    setup::ensure(setup::For::Bench)?;
    let mut build = process::cargo();
    build.args(["build", "--locked"]);
    if arguments.reduced {
        build.args(["--workspace", "--bins"]);
    } else {
        build.args([
            "--release",
            "--package",
            "portcullis-proxy",
            "--package",
            "portcullis-agent",
            "--package",
            "portcullis-journal",
        ]);
    }
    process::run(&mut build)?;

    let lab = Lab::new(arguments.rounds, arguments.reduced)?;
    let mut report = Report::default();
    lab.conditions(&mut report);
    let mut failed = Vec::new();
    for part in parts {
        println!("\n{}", part.name());
        // A part that fails must not cost the others' figures.
        if let Err(error) = part.run(&lab, &mut report) {
            println!("  failed: {error:#}");
            failed.push(part.name());
        }
    }
    report.print();
    if let Some(file) = &arguments.json {
        report.write(file)?;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("these parts failed: {}", failed.join(", "))
    }
}

/// The same by a release build of this program: it is the client, and shares the processors with what it measures.
fn optimised(arguments: &Arguments) -> Result<()> {
    let mut command = process::cargo();
    command.args(["run", "--release", "--locked", "--quiet"]);
    command.args(["--package", "xtask", "--", "bench", "auth", "--rounds"]);
    command.arg(arguments.rounds.to_string());
    if let Some(file) = &arguments.json {
        // It runs at the workspace's root.
        command.arg("--json").arg(std::path::absolute(file)?);
    }
    for part in &arguments.only {
        command.args(["--only", part]);
    }
    process::run(&mut command)
}

/// The named parts, or all.
fn chosen(names: &[String]) -> Result<Vec<Part>> {
    if names.is_empty() {
        return Ok(Part::value_variants().to_vec());
    }
    names
        .iter()
        .map(|name| {
            Part::from_str(name, false).map_err(|_| {
                let known: Vec<String> = Part::value_variants()
                    .iter()
                    .map(|part| part.name())
                    .collect();
                anyhow!(
                    "{name:?} is no part of this suite; known are {}",
                    known.join(", ")
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chosen_by_name_and_all_without_one() {
        assert_eq!(chosen(&[]).unwrap(), Part::value_variants());
        let names = ["once".to_owned(), "oracle".to_owned()];
        assert_eq!(chosen(&names).unwrap(), [Part::Once, Part::Oracle]);
        let refused = chosen(&["orakel".to_owned()]).unwrap_err().to_string();
        assert!(
            refused.contains("orakel") && refused.contains("flood"),
            "{refused}"
        );
    }
}
