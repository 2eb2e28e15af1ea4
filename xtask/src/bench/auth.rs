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

use anyhow::Result;
use clap::ValueEnum;
use portcullis_tests::report::Report;

use self::lab::Lab;
use super::{Arguments, parts};
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
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let parts = parts::chosen::<Part>(&arguments.only)?;
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
    parts::measure(parts, arguments, report, |part: Part, report| {
        part.run(&lab, report)
    })
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
