//! The proxy's benchmark: release build, journal on, each figure beside its peer's from the same run.
//!
//! A row group is a file below this module and a variant of [`Group`]. Sides take turns and the order turns with the
//! round; a ratio is the median of the rounds' ratios. Transfers are timed inside a session that is logged in; processor
//! time is user and system time of the serving processes, less that of a session that transfers nothing.

mod client;
mod encrypted;
mod figures;
mod ftp;
mod journalled;
mod lab;
mod listing;
mod local;
mod logins;
mod memory;
mod mod_proxy;
mod opened;
mod parallel;
mod processor;
mod proxied;
mod s3;
mod side;
mod small;
mod stalls;
mod verified;
mod wan;

use anyhow::Result;
use clap::ValueEnum;
use portcullis_tests::report::Report;

use self::lab::Lab;
use super::{Arguments, parts};
use crate::{process, setup};

/// A part that runs by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// One stream, local backend, against sshd
    Local,
    /// Eight streams, local backend, against sshd
    Parallel,
    /// SFTP backend, against the upstream directly and against an OpenSSH gateway before it
    Proxied,
    /// An upload at 40 ms round trip, local backend, against sshd
    Wan,
    /// FTP and FTPS backend, against lftp that goes there directly
    Ftp,
    /// S3 backend, against rclone that goes there directly
    S3,
    /// Many small files, both backends
    Small,
    /// Long directories, local backend, against sshd
    Listing,
    /// New connections a second, beside sshd
    Logins,
    /// Resident memory: idle sessions, a client that reads nothing, an upstream that stops
    Memory,
    /// SFTP backend, against ProFTPD's mod_proxy before the same upstream
    ModProxy,
    /// What must complete: the client's own buffers, pipelined READs, new keys every 5 MiB
    Stalls,
}

impl Group {
    fn run(self, lab: &Lab, report: &mut Report) -> Result<()> {
        match self {
            Self::Local => local::run(lab, report),
            Self::Parallel => parallel::run(lab, report),
            Self::Proxied => proxied::run(lab, report),
            Self::Wan => wan::run(lab, report),
            Self::Ftp => ftp::run(lab, report),
            Self::S3 => s3::run(lab, report),
            Self::Small => small::run(lab, report),
            Self::Listing => listing::run(lab, report),
            Self::Logins => logins::run(lab, report),
            Self::Memory => memory::run(lab, report),
            Self::ModProxy => mod_proxy::run(lab, report),
            Self::Stalls => stalls::run(lab, report),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let groups = parts::chosen::<Group>(&arguments.only)?;
    setup::ensure(setup::For::Bench)?;
    build()?;
    let lab = Lab::new(arguments.rounds)?;
    let mut report = Report::default();
    lab.conditions(&mut report);
    parts::measure(groups, arguments, report, |group: Group, report| {
        group.run(&lab, report)
    })
}

/// What the journal costs transfers; a part of another suite, with this one's clients.
pub(super) fn journalled(rounds: u32, report: &mut Report) -> Result<()> {
    build()?;
    let lab = Lab::new(rounds)?;
    lab.conditions(report);
    journalled::run(&lab, report)
}

/// What encryption at rest costs transfers; a part of another suite, likewise.
pub(super) fn encrypted(rounds: u32, report: &mut Report) -> Result<()> {
    build()?;
    let lab = Lab::new(rounds)?;
    lab.conditions(report);
    encrypted::run(&lab, report)
}

/// How fast stored files are compared with the journal, likewise.
pub(super) fn verified(rounds: u32, report: &mut Report) -> Result<()> {
    build()?;
    let lab = Lab::new(rounds)?;
    lab.conditions(report);
    verified::run(&lab, report)
}

/// What open files take of an encrypted backend, likewise.
pub(super) fn opened(rounds: u32, report: &mut Report) -> Result<()> {
    build()?;
    let lab = Lab::new(rounds)?;
    lab.conditions(report);
    opened::run(&lab, report)
}

fn build() -> Result<()> {
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "portcullis-proxy",
        "--package",
        "portcullis-journal",
        "--package",
        "portcullis-rescue",
        "--package",
        "portcullis-bench-client",
    ]))
}
