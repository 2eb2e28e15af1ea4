//! Encryption at rest, against the same gateway without it.

use anyhow::Result;
use clap::ValueEnum;
use portcullis_tests::report::Report;

use super::{Arguments, parts, sftp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Transfers of a GiB, and the processor's part of them
    Transfer,
    /// Speed of `verify` on one processor, against reading the same files
    Verify,
    /// Segments that a small READ fetches in a file of 10 GiB, and memory of open files
    Open,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let parts = parts::chosen::<Part>(&arguments.only)?;
    parts::measure(
        parts,
        arguments,
        Report::default(),
        |part: Part, report| match part {
            Part::Transfer => sftp::encrypted(arguments.rounds, report),
            Part::Verify => sftp::verified(arguments.rounds, report),
            Part::Open => sftp::opened(arguments.rounds, report),
        },
    )
}
