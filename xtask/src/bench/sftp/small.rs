//! Many small files: on a folder of this machine against sshd, and through the SFTP backend against its upstream.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use portcullis_tests::files;
use portcullis_tests::report::{Measure, Report, median};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::figures::{Pick, over};
use super::lab::{Lab, Transfers};
use super::side::{self, Gateway, Side};
use crate::process;

const FILES: usize = 2_000;
const LENGTH: usize = 4 << 10;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let sent = lab.folder("small")?;
    for number in 0..FILES {
        fs::write(
            sent.join(format!("{number:04}.bin")),
            files::random_bytes(LENGTH)?,
        )?;
    }
    report.condition(
        "small",
        format!("{FILES} files of {LENGTH} bytes, one command `mput *` and one `mget *`"),
    );

    println!("  local");
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    {
        let (gateway, storage) = Gateway::local(lab)?;
        let sides = [
            gateway.side(storage.path()),
            side::sshd(&openssh, lab.key()),
        ];
        let rounds = compare(lab, &sides, &sent)?;
        gateway.verify()?;
        add(report, "local", ["proxy", "openssh"], [0.8, 1.3], &rounds);
    }

    println!("  proxied");
    let gateway = Gateway::before(lab, &openssh)?;
    let sides = [gateway.side(&openssh.home), side::sshd(&openssh, lab.key())];
    let rounds = compare(lab, &sides, &sent)?;
    gateway.verify()?;
    add(report, "proxied", ["proxy", "direct"], [0.5, 0.8], &rounds);
    Ok(())
}

fn compare(lab: &Lab, sides: &[Side<'_>; 2], sent: &Path) -> Result<Vec<[Transfers; 2]>> {
    lab.turns(
        sides,
        |side| transfer(lab, side, sent),
        |[ours, peer]| {
            format!(
                "mput {:.2} against {:.2} s, mget {:.2} against {:.2} s",
                ours.put.seconds, peer.put.seconds, ours.get.seconds, peer.get.seconds
            )
        },
    )
}

fn transfer(lab: &Lab, side: &Side<'_>, sent: &Path) -> Result<Transfers> {
    let there = format!("{}/small", side.remote);
    let stored = side.stored.join("small");
    let here = lab.folder("received")?;

    let put = format!("mput {}/* {there}/", sent.display());
    let (put, _) = lab.session(side, &format!("mkdir {there}"), &put)?;
    same_files(sent, &stored)?;
    let get = format!("mget {there}/* {}/", here.display());
    let (get, _) = lab.session(side, "", &get)?;
    same_files(sent, &here)?;

    fs::remove_dir_all(stored)?;
    fs::remove_dir_all(here)?;
    Ok(Transfers { put, get })
}

fn same_files(one: &Path, other: &Path) -> Result<()> {
    process::run_quietly(Command::new("diff").args(["-rq"]).arg(one).arg(other))
        .map(drop)
        .context("the transfer changed a file")
}

fn add(
    report: &mut Report,
    backend: &str,
    names: [&str; 2],
    [gate, stretch]: [f64; 2],
    rounds: &[[Transfers; 2]],
) {
    let commands: [(&str, Pick); 2] = [("mput", |both| both.put), ("mget", |both| both.get)];
    for (command, pick) in commands {
        let seconds = |both: &Transfers| pick(both).seconds;
        report.results.push(Measure::ratio(
            format!("sftp.small.{backend}.{command}.speed"),
            over(rounds, |[ours, peer]| seconds(peer) / seconds(ours)),
            gate,
            stretch,
        ));
        for (position, name) in names.iter().enumerate() {
            let costs = rounds.iter().filter_map(|round| round.get(position));
            report.results.push(Measure::plain(
                format!("sftp.small.{backend}.{command}.{name}"),
                median(costs.map(seconds)),
                "s",
            ));
        }
    }
}
