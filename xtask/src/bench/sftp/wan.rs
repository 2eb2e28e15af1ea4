//! An upload over a long road: 40 ms there and back, by a relay of this program.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use portcullis_tests::delay::Delay;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::{over, speed};
use super::lab::{Cost, Lab, same};
use super::side::{self, Gateway, Side};

const MEBIBYTES: u64 = 256;
const ROUND_TRIP: Duration = Duration::from_millis(40);

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (gateway, storage) = Gateway::local(lab)?;
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let ours = gateway.side(storage.path());
    let peer = side::sshd(&openssh, lab.key());
    let to_ours = Delay::start(ours.address(), ROUND_TRIP / 2)?;
    let to_peer = Delay::start(peer.address(), ROUND_TRIP / 2)?;
    let rounds = lab.turns(
        &[
            ours.by_way_of(to_ours.address),
            peer.by_way_of(to_peer.address),
        ],
        |side| put(lab, side),
        |[ours, peer]| {
            format!(
                "put {:.0} against {:.0} MiB/s",
                speed(MEBIBYTES, *ours),
                speed(MEBIBYTES, *peer)
            )
        },
    )?;
    gateway.verify()?;

    report.condition(
        "wan",
        format!(
            "one file of {MEBIBYTES} MiB; {} ms there and back in a TCP relay, which holds up to 32 MiB each way and loses nothing",
            ROUND_TRIP.as_millis()
        ),
    );
    report.results.extend([
        Measure::ratio(
            "sftp.wan.put.speed",
            over(&rounds, |[ours, peer]| peer.seconds / ours.seconds),
            2.0,
            6.0,
        ),
        Measure::plain(
            "sftp.wan.put.proxy",
            over(&rounds, |[ours, _]| speed(MEBIBYTES, *ours)),
            "MiB/s",
        ),
        Measure::plain(
            "sftp.wan.put.openssh",
            over(&rounds, |[_, peer]| speed(MEBIBYTES, *peer)),
            "MiB/s",
        ),
    ]);
    Ok(())
}

fn put(lab: &Lab, side: &Side<'_>) -> Result<Cost> {
    let file = lab.random_file(MEBIBYTES)?;
    let put = format!("put {} {}/copy.bin", file.display(), side.remote);
    let (cost, _) = lab.session(side, "", &put)?;
    let stored = side.stored.join("copy.bin");
    same(&file, &stored)?;
    fs::remove_file(stored)?;
    Ok(cost)
}
