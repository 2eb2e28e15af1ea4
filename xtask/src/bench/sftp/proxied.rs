//! The SFTP backend: through the proxy, directly to the same upstream, and through the gateway that one builds from
//! OpenSSH alone, an sshd whose subsystem is `ssh upstream -s sftp`.

use anyhow::Result;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::{at_most_ratio, over, plain, speed};
use super::lab::{CIPHER, Lab};
use super::side::{self, Gateway};

const MEBIBYTES: u64 = 512;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let file = lab.random_file(MEBIBYTES)?;
    let upstream = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let gateway = Gateway::before(lab, &upstream)?;
    let relay = Openssh::relay(lab.place(), lab.key(), &upstream, CIPHER)?;
    let direct = side::sshd(&upstream, lab.key());
    let through_openssh = side::sshd(&relay, lab.key()).with_files_of(&direct);
    let rounds = lab.turns(
        &[gateway.side(&upstream.home), direct, through_openssh],
        |side| lab.transfer(side, &file),
        |[ours, direct, openssh]| {
            format!(
                "get {:.0}, direct {:.0}, OpenSSH gateway {:.0} MiB/s; put {:.0}, {:.0}, {:.0} MiB/s",
                speed(MEBIBYTES, ours.get),
                speed(MEBIBYTES, direct.get),
                speed(MEBIBYTES, openssh.get),
                speed(MEBIBYTES, ours.put),
                speed(MEBIBYTES, direct.put),
                speed(MEBIBYTES, openssh.put)
            )
        },
    )?;
    gateway.verify()?;

    report.condition(
        "proxied",
        format!("one file of {MEBIBYTES} MiB; CPU of the hop alone, not of the upstream; the same cipher on both legs"),
    );
    report.results.extend([
        Measure::ratio(
            "sftp.proxied.get.speed",
            over(&rounds, |[ours, direct, _]| {
                direct.get.seconds / ours.get.seconds
            }),
            0.75,
            0.9,
        ),
        Measure::ratio(
            "sftp.proxied.put.speed",
            over(&rounds, |[ours, direct, _]| {
                direct.put.seconds / ours.put.seconds
            }),
            0.9,
            1.1,
        ),
        Measure::ratio(
            "sftp.proxied.get.speed_to_openssh_gateway",
            over(&rounds, |[ours, _, openssh]| {
                openssh.get.seconds / ours.get.seconds
            }),
            1.4,
            1.8,
        ),
        Measure::ratio(
            "sftp.proxied.put.speed_to_openssh_gateway",
            over(&rounds, |[ours, _, openssh]| {
                openssh.put.seconds / ours.put.seconds
            }),
            1.4,
            1.8,
        ),
        at_most_ratio(
            "sftp.proxied.get.cpu_to_openssh_gateway",
            over(&rounds, |[ours, _, openssh]| {
                ours.get.processor / openssh.get.processor
            }),
            0.5,
            0.33,
        ),
        at_most_ratio(
            "sftp.proxied.put.cpu_to_openssh_gateway",
            over(&rounds, |[ours, _, openssh]| {
                ours.put.processor / openssh.put.processor
            }),
            0.5,
            0.33,
        ),
    ]);
    plain(
        report,
        "proxied",
        ["proxy", "direct", "openssh_gateway"],
        MEBIBYTES,
        &rounds,
    );
    Ok(())
}
