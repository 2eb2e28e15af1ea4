//! The SFTP backend against another gateway: ProFTPD with mod_proxy before the same upstream.

use anyhow::Result;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::mod_proxy::ModProxy;
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::{over, plain, speed};
use super::lab::{CIPHER, Lab};
use super::side::{self, Gateway};

const MEBIBYTES: u64 = 256;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let file = lab.random_file(MEBIBYTES)?;
    let upstream = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let gateway = Gateway::before(lab, &upstream)?;
    let peer = ModProxy::start(lab.place(), &upstream, CIPHER)?;
    let rounds = lab.turns(
        &[
            gateway.side(&upstream.home),
            side::mod_proxy(&peer, &upstream),
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

    report.condition(
        "mod-proxy",
        format!("one file of {MEBIBYTES} MiB; ProFTPD 1.3.8 with mod_proxy of Debian, the same cipher on both legs, login by password; CPU of the hop alone"),
    );
    report.results.extend([
        Measure::ratio(
            "sftp.mod_proxy.get.speed",
            over(&rounds, |[ours, peer]| peer.get.seconds / ours.get.seconds),
            1.2,
            2.0,
        ),
        Measure::ratio(
            "sftp.mod_proxy.put.speed",
            over(&rounds, |[ours, peer]| peer.put.seconds / ours.put.seconds),
            1.2,
            2.0,
        ),
    ]);
    plain(
        report,
        "mod_proxy",
        ["proxy", "mod_proxy"],
        MEBIBYTES,
        &rounds,
    );
    Ok(())
}
