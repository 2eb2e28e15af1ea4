//! One stream on a folder of this machine, against sshd with its external sftp-server.

use anyhow::Result;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::{at_most_ratio, over, plain, speed};
use super::lab::Lab;
use super::side::{self, Gateway};

const MEBIBYTES: u64 = 1024;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let file = lab.random_file(MEBIBYTES)?;
    let (gateway, storage) = Gateway::local(lab)?;
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let rounds = lab.turns(
        &[
            gateway.side(storage.path()),
            side::sshd(&openssh, lab.key()),
        ],
        |side| lab.transfer(side, &file),
        |[ours, peer]| {
            format!(
                "get {:.0} against {:.0} MiB/s, put {:.0} against {:.0} MiB/s",
                speed(MEBIBYTES, ours.get),
                speed(MEBIBYTES, peer.get),
                speed(MEBIBYTES, ours.put),
                speed(MEBIBYTES, peer.put)
            )
        },
    )?;
    gateway.verify()?;

    report.condition("local", format!("one file of {MEBIBYTES} MiB, random"));
    report.results.extend([
        Measure::ratio(
            "sftp.local.get.speed",
            over(&rounds, |[ours, peer]| peer.get.seconds / ours.get.seconds),
            1.25,
            1.6,
        ),
        Measure::ratio(
            "sftp.local.put.speed",
            over(&rounds, |[ours, peer]| peer.put.seconds / ours.put.seconds),
            1.8,
            2.3,
        ),
        at_most_ratio(
            "sftp.local.get.cpu",
            over(&rounds, |[ours, peer]| {
                ours.get.processor / peer.get.processor
            }),
            0.55,
            0.38,
        ),
        at_most_ratio(
            "sftp.local.put.cpu",
            over(&rounds, |[ours, peer]| {
                ours.put.processor / peer.put.processor
            }),
            0.5,
            0.36,
        ),
    ]);
    plain(report, "local", ["proxy", "openssh"], MEBIBYTES, &rounds);
    Ok(())
}
