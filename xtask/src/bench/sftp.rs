//! The proxy's benchmark: release build, journal on, each figure beside its peer's from the same run.
//!
//! A row group is a file below this module and a variant of [`Group`]. Sides take turns and the order turns with the
//! round; a ratio is the median of the rounds' ratios. Transfers are timed inside a session that is logged in; processor
//! time is user and system time of the serving processes, less that of a session that transfers nothing.

mod client;
mod figures;
mod ftp;
mod lab;
mod listing;
mod local;
mod logins;
mod memory;
mod mod_proxy;
mod parallel;
mod processor;
mod proxied;
mod s3;
mod side;
mod small;
mod stalls;
mod wan;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use portcullis_tests::report::Report;

use self::lab::Lab;
use super::Arguments;
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

    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let groups = chosen(&arguments.only)?;
    setup::ensure(setup::For::Bench)?;
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "portcullis-proxy",
        "--package",
        "portcullis-journal",
        "--package",
        "portcullis-bench-client",
    ]))?;

    let lab = Lab::new(arguments.rounds)?;
    let mut report = Report::default();
    lab.conditions(&mut report);
    let mut failed = Vec::new();
    for group in groups {
        println!("\n{}", group.name());
        // A group that fails must not cost the others' figures.
        if let Err(error) = group.run(&lab, &mut report) {
            println!("  failed: {error:#}");
            failed.push(group.name());
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

/// The named groups, or all.
fn chosen(names: &[String]) -> Result<Vec<Group>> {
    if names.is_empty() {
        return Ok(Group::value_variants().to_vec());
    }
    names
        .iter()
        .map(|name| {
            Group::from_str(name, false).map_err(|_| {
                let known: Vec<String> = Group::value_variants()
                    .iter()
                    .map(|group| group.name())
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
        let names =
            |list: &[&str]| -> Vec<String> { list.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(chosen(&[]).unwrap(), Group::value_variants());
        assert_eq!(
            chosen(&names(&["small", "local"])).unwrap(),
            [Group::Small, Group::Local]
        );
        let refused = chosen(&names(&["local", "lokal"])).unwrap_err().to_string();
        assert!(
            refused.contains("lokal") && refused.contains("parallel"),
            "{refused}"
        );
    }
}
