//! Long directories on a folder of this machine, against sshd.
//!
//! The command is `ls -1f`: the client sends READDIR until the end and prints the names in their order, without sorting
//! them and without attributes. Both servers still look at every entry, since a reply of READDIR carries its attributes.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::over;
use super::lab::{Cost, Lab};
use super::side::{self, Gateway, Side};

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (gateway, storage) = Gateway::local(lab)?;
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    report.condition(
        "listing",
        "`ls -1f`: READDIR to the end, no sorting; empty files",
    );
    for names in [10_000, 100_000] {
        println!("  {names} names");
        fill(storage.path(), names)?;
        fill(&openssh.home, names)?;
        let rounds = lab.turns(
            &[
                gateway.side(storage.path()),
                side::sshd(&openssh, lab.key()),
            ],
            |side| list(lab, side, names),
            |[ours, peer]| format!("{:.2} against {:.2} s", ours.seconds, peer.seconds),
        )?;
        report.results.extend([
            Measure::ratio(
                format!("sftp.listing.{names}.speed"),
                over(&rounds, |[ours, peer]| peer.seconds / ours.seconds),
                1.5,
                3.0,
            ),
            Measure::plain(
                format!("sftp.listing.{names}.proxy"),
                over(&rounds, |[ours, _]| ours.seconds),
                "s",
            ),
            Measure::plain(
                format!("sftp.listing.{names}.openssh"),
                over(&rounds, |[_, peer]| peer.seconds),
                "s",
            ),
            Measure::plain(
                format!("sftp.listing.{names}.proxy.cpu"),
                over(&rounds, |[ours, _]| ours.processor),
                "s",
            ),
            Measure::plain(
                format!("sftp.listing.{names}.openssh.cpu"),
                over(&rounds, |[_, peer]| peer.processor),
                "s",
            ),
        ]);
    }
    gateway.verify()
}

/// Makes the folder `names-N` with so many empty files in it.
fn fill(folder: &Path, names: usize) -> Result<()> {
    let folder = folder.join(format!("names-{names}"));
    fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    for number in 0..names {
        File::create(folder.join(format!("patient-{number:06}.hl7")))?;
    }
    Ok(())
}

fn list(lab: &Lab, side: &Side<'_>, names: usize) -> Result<Cost> {
    let (cost, printed) =
        lab.session(side, "", &format!("ls -1f {}/names-{names}", side.remote))?;
    let listed = printed
        .lines()
        .filter(|line| line.ends_with(".hl7"))
        .count();
    ensure!(listed == names, "{listed} of {names} names were listed");
    Ok(cost)
}
