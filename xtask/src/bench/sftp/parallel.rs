//! Eight streams at the same time on a folder of this machine, against sshd: what all of them move together.

use std::fs;

use anyhow::Result;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::{over, plain, speed};
use super::lab::{Lab, Transfers, same};
use super::side::{self, Gateway, Side};

const STREAMS: usize = 8;
const MEBIBYTES_EACH: u64 = 128;
const MEBIBYTES: u64 = STREAMS as u64 * MEBIBYTES_EACH;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (gateway, storage) = Gateway::local(lab)?;
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let rounds = lab.turns(
        &[
            gateway.side(storage.path()),
            side::sshd(&openssh, lab.key()),
        ],
        |side| transfer(lab, side),
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

    report.condition(
        "parallel",
        format!("{STREAMS} sessions of {MEBIBYTES_EACH} MiB each, begun together; the last one's end counts; CPU includes the logins"),
    );
    report.results.extend([
        Measure::ratio(
            "sftp.parallel.get.speed",
            over(&rounds, |[ours, peer]| peer.get.seconds / ours.get.seconds),
            1.0,
            1.4,
        ),
        Measure::ratio(
            "sftp.parallel.put.speed",
            over(&rounds, |[ours, peer]| peer.put.seconds / ours.put.seconds),
            1.0,
            1.4,
        ),
    ]);
    plain(report, "parallel", ["proxy", "openssh"], MEBIBYTES, &rounds);
    Ok(())
}

fn transfer(lab: &Lab, side: &Side<'_>) -> Result<Transfers> {
    let file = lab.random_file(MEBIBYTES_EACH)?;
    let here = lab.folder("copies")?;
    let commands =
        |command: &dyn Fn(usize) -> String| (0..STREAMS).map(command).collect::<Vec<_>>();

    let puts = commands(&|number| format!("put {} {}/{number}.bin", file.display(), side.remote));
    let put = lab.streams(side, &puts)?;
    let gets = commands(&|number| {
        format!(
            "get {}/{number}.bin {}/{number}.bin",
            side.remote,
            here.display()
        )
    });
    let get = lab.streams(side, &gets)?;
    for number in 0..STREAMS {
        let stored = side.stored.join(format!("{number}.bin"));
        same(&file, &here.join(format!("{number}.bin")))?;
        fs::remove_file(stored)?;
    }
    fs::remove_dir_all(here)?;
    Ok(Transfers { put, get })
}
