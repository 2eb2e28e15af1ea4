//! `cargo xtask bench SUITE`: speed as ratios, each side by side with a peer in one run.
//!
//! A new suite is a file below this module, a variant of [`Suite`] and one line in [`run`].

mod report;
mod sftp;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use report::Report;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    suite: Suite,
    /// Also write conditions and results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each side is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// Transfers through the proxy's local backend, against OpenSSH's sftp-server
    Sftp,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report: Report = match arguments.suite {
        Suite::Sftp => sftp::run(arguments.rounds)?,
    };
    report.print();
    match &arguments.json {
        Some(file) => report.write(file),
        None => Ok(()),
    }
}
