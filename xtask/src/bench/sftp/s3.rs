//! The S3 backend: OpenSSH's sftp through the proxy against rclone that goes to the same SeaweedFS directly.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use portcullis_tests::process::{PATIENCE, succeed_within};
use portcullis_tests::proxy::{Backend, UNENCRYPTED};
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::PASSWORD;
use portcullis_tests::server::seaweed::{ACCESS_KEY, BUCKET, Seaweed};

use super::figures::{over, plain, speed};
use super::lab::{Cost, Lab, Transfers, same};
use super::side::{Gateway, Side};

/// Above 250 MiB rclone downloads with several streams.
const MEBIBYTES: u64 = 256;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let file = lab.random_file(MEBIBYTES)?;
    let server = Seaweed::start(lab.place())?;
    let (id, secret) = server.key_files()?;
    let backend = Backend::custom(&format!(
        "kind = \"s3\"\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\naccess_key_file = \"{}\"\nsecret_key_file = \"{}\"\n{UNENCRYPTED}",
        server.endpoint(),
        id.display(),
        secret.display()
    ));
    let gateway = Gateway::start(lab, backend, "/")?;
    let rounds = lab.turns(
        // What is stored there is no file of this machine.
        &[
            Way::Proxy(gateway.side(Path::new(""))),
            Way::Rclone(&server),
        ],
        |way| match way {
            Way::Proxy(side) => transfer(lab, side, &file),
            Way::Rclone(server) => transfer_with_rclone(lab, server, &file),
        },
        |[ours, rclone]| {
            format!(
                "get {:.0} against {:.0} MiB/s, put {:.0} against {:.0} MiB/s",
                speed(MEBIBYTES, ours.get),
                speed(MEBIBYTES, rclone.get),
                speed(MEBIBYTES, ours.put),
                speed(MEBIBYTES, rclone.put)
            )
        },
    )?;
    gateway.verify()?;

    report.condition(
        "s3",
        format!("one file of {MEBIBYTES} MiB; SeaweedFS over plain HTTP; rclone copyto from start to end with its own defaults: parts of 5 MiB, 4 at once, downloads in 4 streams"),
    );
    report.results.extend([
        Measure::ratio(
            "sftp.s3.get.speed",
            over(&rounds, |[ours, rclone]| {
                rclone.get.seconds / ours.get.seconds
            }),
            0.75,
            1.2,
        ),
        Measure::ratio(
            "sftp.s3.put.speed",
            over(&rounds, |[ours, rclone]| {
                rclone.put.seconds / ours.put.seconds
            }),
            0.75,
            1.2,
        ),
    ]);
    plain(report, "s3", ["proxy", "rclone"], MEBIBYTES, &rounds);
    Ok(())
}

enum Way<'a> {
    Proxy(Side<'a>),
    Rclone(&'a Seaweed),
}

fn transfer(lab: &Lab, side: &Side<'_>, file: &Path) -> Result<Transfers> {
    let remote = format!("{}/copy.bin", side.remote);
    let copy = lab.folder("s3")?.join("copy.bin");
    let (idle, _) = lab.session(side, "", "pwd")?;
    let put = format!("put {} {remote}", file.display());
    let (put, _) = lab.session(side, "", &put)?;
    let get = format!("get {remote} {}", copy.display());
    let (get, _) = lab.session(side, "", &get)?;
    same(file, &copy)?;
    lab.session(side, "", &format!("rm {remote}"))?;
    fs::remove_file(copy)?;
    Ok(Transfers {
        put: put.beyond(idle.processor),
        get: get.beyond(idle.processor),
    })
}

fn transfer_with_rclone(lab: &Lab, server: &Seaweed, file: &Path) -> Result<Transfers> {
    let remote = format!("store:{BUCKET}/copy.bin");
    let copy = lab.folder("rclone")?.join("copy.bin");
    let (local, here) = (file.display().to_string(), copy.display().to_string());
    let put = rclone(server, &["copyto", &local, &remote])?;
    let get = rclone(server, &["copyto", &remote, &here])?;
    same(file, &copy)?;
    rclone(server, &["deletefile", &remote])?;
    fs::remove_file(copy)?;
    Ok(Transfers { put, get })
}

fn rclone(server: &Seaweed, arguments: &[&str]) -> Result<Cost> {
    let started = Instant::now();
    succeed_within(
        Command::new("rclone")
            .args(["--config", "/dev/null"])
            .args(arguments)
            // Where it is set, this rclone doesn't start at all.
            .env_remove("AWS_CA_BUNDLE")
            .env("RCLONE_CONFIG_STORE_TYPE", "s3")
            .env("RCLONE_CONFIG_STORE_PROVIDER", "Other")
            .env("RCLONE_CONFIG_STORE_ENDPOINT", server.endpoint())
            .env("RCLONE_CONFIG_STORE_ACCESS_KEY_ID", ACCESS_KEY)
            .env("RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY", PASSWORD),
        10 * PATIENCE,
    )?;
    Ok(Cost {
        seconds: started.elapsed().as_secs_f64(),
        // The store's own time is no part of the comparison.
        processor: f64::NAN,
    })
}
