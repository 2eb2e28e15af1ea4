//! What encryption at rest costs: the same proxy with files encrypted on its disk, and as clients write them.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use portcullis_tests::files;
use portcullis_tests::proxy::Backend;
use portcullis_tests::report::{Measure, Report};
use tempfile::TempDir;

use super::figures::{Pick, over, speed};
use super::lab::{Lab, Transfers, same};
use super::side::{Gateway, Side};

const MEBIBYTES: u64 = 1024;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "transfer",
        format!("one file of {MEBIBYTES} MiB, OpenSSH's sftp, `encrypted` against `plain`, journal on the disk on both sides"),
    );
    let (encrypted, encrypted_storage) = start(lab, Backend::encrypted)?;
    let (plain, plain_storage) = start(lab, |backend| backend)?;
    let sides = [
        encrypted.side(encrypted_storage.path()),
        plain.side(plain_storage.path()),
    ];
    let file = lab.random_file(MEBIBYTES)?;
    let rounds = lab.turns(
        &sides,
        |side| transfer(lab, side, &file),
        |[encrypted, plain]| {
            format!(
                "get {:.0} against {:.0} MiB/s, put {:.0} against {:.0} MiB/s",
                speed(MEBIBYTES, encrypted.get),
                speed(MEBIBYTES, plain.get),
                speed(MEBIBYTES, encrypted.put),
                speed(MEBIBYTES, plain.put)
            )
        },
    )?;
    let ways: [(&str, Pick); 2] = [("put", |both| both.put), ("get", |both| both.get)];
    for (way, pick) in ways {
        report.results.push(Measure::ratio(
            format!("at-rest.transfer.{way}"),
            over(&rounds, |[encrypted, plain]| {
                pick(plain).seconds / pick(encrypted).seconds
            }),
            0.85,
            0.95,
        ));
        report.results.push(Measure::at_most(
            format!("at-rest.processor.{way}"),
            over(&rounds, |[encrypted, plain]| {
                pick(encrypted).processor - pick(plain).processor
            }),
            "s/GiB",
            0.35,
            0.25,
        ));
    }
    encrypted.verify()?;
    plain.verify()
}

fn start(lab: &Lab, kept: impl FnOnce(Backend) -> Backend) -> Result<(Gateway, TempDir)> {
    let storage = files::folder("bench-storage")?;
    let gateway = Gateway::start(lab, kept(Backend::local(storage.path())), "/")?;
    Ok((gateway, storage))
}

fn transfer(lab: &Lab, side: &Side<'_>, file: &Path) -> Result<Transfers> {
    let remote = format!("{}/copy.bin", side.remote);
    let copy = lab.folder("received")?.join("copy.bin");
    let idle = lab.session(side, "", "pwd")?.0.processor;
    let put = format!("put {} {remote}", file.display());
    let put = lab.session(side, "", &put)?.0.beyond(idle);
    let get = format!("get {remote} {}", copy.display());
    let get = lab.session(side, "", &get)?.0.beyond(idle);
    same(file, &copy)?;
    let stored = side.stored.join("copy.bin");
    ensure!(fs::metadata(&stored)?.len() >= fs::metadata(file)?.len());
    fs::remove_file(&copy)?;
    fs::remove_file(&stored)?;
    Ok(Transfers { put, get })
}
