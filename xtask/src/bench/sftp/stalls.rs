//! What has stalled SFTP servers: each must complete. What it took is noted; that it ends is the bar.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::client;
use super::lab::Lab;
use super::side::{Gateway, Side};

const MEBIBYTES: u64 = 128;
const READ_LENGTH: u32 = 255 << 10;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "stalls",
        format!("each ends, or the part fails: {MEBIBYTES} MiB with sftp's own buffers, with new keys every 5 MiB, READs of 255 KiB sent at once"),
    );
    let (local, storage) = Gateway::local(lab)?;
    each(lab, "local", || local.side(storage.path()), report)?;
    let upstream = Openssh::start_with(
        lab.place(),
        Subsystem::External,
        lab.key(),
        "RekeyLimit 5M\n",
    )?;
    let proxied = Gateway::before(lab, &upstream)?;
    each(lab, "proxied", || proxied.side(&upstream.home), report)
}

fn each<'a>(
    lab: &Lab,
    backend: &str,
    side: impl Fn() -> Side<'a>,
    report: &mut Report,
) -> Result<()> {
    let file = lab.random_file(MEBIBYTES)?;
    let mut note = |what: String, seconds: f64| {
        println!("  {backend}, {what}: {seconds:.2} s");
        report.results.push(Measure::plain(
            format!("sftp.stalls.{backend}.{what}"),
            seconds,
            "s",
        ));
    };
    for (what, side) in [
        ("own_buffers", side()),
        ("rekey_5_mib", side().option("RekeyLimit=5M")),
    ] {
        let both = lab.transfer(&side, &file)?;
        note(format!("{what}.get"), both.get.seconds);
        note(format!("{what}.put"), both.put.seconds);
    }
    let side = side();
    zeros(&side.stored.join("chunk"))?;
    for reads in [300, 1_500, 6_000] {
        let seconds = client::seconds(
            lab,
            &side,
            &[
                "reads",
                "--count",
                &reads.to_string(),
                "--length",
                &READ_LENGTH.to_string(),
                &format!("{}/chunk", side.remote),
            ],
        )?;
        note(format!("{reads}_reads"), seconds);
    }
    Ok(())
}

/// A file that one READ takes whole.
fn zeros(file: &Path) -> Result<()> {
    File::create(file)?.set_len(u64::from(READ_LENGTH))?;
    Ok(())
}
