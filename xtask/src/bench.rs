//! `cargo xtask bench SUITE`: speed as ratios, each side by side with a peer in one run.
//!
//! A new suite is a file below this module, a variant of [`Suite`] and one line in [`run`].

mod at_rest;
mod auth;
mod journal;
mod parts;
mod sftp;
mod xdp;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    suite: Suite,
    /// Also write conditions and results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the curves of the suite to this SVG file (xdp)
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Measure only these parts of the suite (sftp: local, parallel, proxied, wan, ftp, s3, small, listing, logins,
    /// memory, mod-proxy, stalls; xdp: lookup, change, rules, flood, pass, proof; auth: oracle, once, logins, flood,
    /// memory, drop; journal: append, hide, verify, start, size, search,
    /// transfer; at-rest: transfer, verify, open)
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
    /// How often each side is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Records of the log that is searched (journal)
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    records: u64,
    /// Check the suite itself: the debug build and few samples, whose figures mean nothing (auth)
    #[arg(long)]
    reduced: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// The proxy against OpenSSH's sshd, and through it against the same servers directly
    Sftp,
    /// Logins and attacks on them: what time tells, one code for many, against sshd with PAM, under a flood of guesses
    Auth,
    /// Encryption at rest: what it costs transfers
    AtRest,
    /// The journal: what a record costs, checks, starts, sizes, searches, and what it costs a transfer
    Journal,
    /// The agent's XDP program, against parse-and-drop, LPM tries, nftables and ipset
    Xdp,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.suite {
        Suite::AtRest => at_rest::run(arguments),
        Suite::Auth => auth::run(arguments),
        Suite::Journal => journal::run(arguments),
        Suite::Sftp => sftp::run(arguments),
        // A program of its own: xtask itself must build fast on a new machine.
        Suite::Xdp => xdp::run(arguments),
    }
}
