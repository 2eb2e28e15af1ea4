//! What open files take of an encrypted backend: segments that a small READ anywhere in a large file fetches, and memory.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::proxy::Backend;
use portcullis_tests::report::{Measure, Report};

use super::client::Staying;
use super::lab::Lab;
use super::memory::{most_resident, resident};
use super::side::Gateway;

const LARGE: u64 = 10 << 30;
const READS: u32 = 300;
const LENGTH: u64 = 4096;
/// Of a whole one, as it is stored.
const SEGMENT: u64 = 65_568;
const FILES: u32 = 64;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "open files",
        format!(
            "{READS} READs of {LENGTH} bytes anywhere in a file of {} GiB, one after the other: bytes that the daemon reads from \
             files for each (`rchar` of proc(5)), in whole segments; {FILES} files of which 4 MiB were read, or 2 MiB written \
             early: resident memory that each adds",
            LARGE >> 30
        ),
    );
    segments(lab, report)?;
    memory(lab, report, "read")?;
    memory(lab, report, "write")
}

fn segments(lab: &Lab, report: &mut Report) -> Result<()> {
    let storage = files::folder("bench-storage")?;
    let backend = Backend::local(storage.path()).encrypted();
    let gateway = Gateway::start(lab, backend, "/")?;
    let side = gateway.side(storage.path());
    let local = lab.folder("sparse")?.join("large");
    File::create(&local)?.set_len(LARGE)?;
    let path = format!("{}/large", side.remote);
    lab.session(&side, "", &format!("put {} {path}", local.display()))?;
    let (length, span) = (LENGTH.to_string(), LARGE.to_string());
    let arguments = ["single-reads", "--length", &length, "--span", &span, &path];
    let mut client = Staying::start(lab, &side, &arguments)?;
    let mut counts = Vec::new();
    for _ in 0..READS {
        let before = read_by(side.process())?;
        client.go_on()?;
        client.wait_until_ready()?;
        counts.push((read_by(side.process())? - before) / SEGMENT);
    }
    let (most, all) = (counts.iter().max(), counts.iter().sum::<u64>());
    let most = *most.context("there are READs")?;
    ensure!(all >= u64::from(READS), "what is read is not counted");
    println!("  {READS} READs fetched {all} segments, one of them {most}");
    report.results.extend([
        Measure::at_most(
            "at-rest.random_read.most",
            most as f64,
            "segments",
            2.0,
            2.0,
        ),
        Measure::plain(
            "at-rest.random_read.mean",
            all as f64 / f64::from(READS),
            "segments",
        ),
    ]);
    Ok(())
}

/// Bytes that a process has read from files, and others that are not sockets.
fn read_by(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/io");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("rchar: ")?.parse().ok())
        .with_context(|| format!("{file} has a line rchar"))
}

fn memory(lab: &Lab, report: &mut Report, way: &str) -> Result<()> {
    let storage = files::folder("bench-storage")?;
    let backend = Backend::local(storage.path()).encrypted();
    let gateway = Gateway::start(lab, backend, "/")?;
    let side = gateway.side(storage.path());
    let path = format!("{}/file", side.remote);
    let count = FILES.to_string();
    let arguments = match way {
        "write" => vec!["open-files", "--count", &count, "--write", &path],
        _ => {
            let local = lab.random_file(16)?;
            lab.session(&side, "", &format!("put {} {path}", local.display()))?;
            vec!["open-files", "--count", &count, &path]
        }
    };
    let mut client = Staying::start(lab, &side, &arguments)?;
    let before = resident(side.process())?;
    client.go_on()?;
    client.wait_until_ready()?;
    let most = most_resident(side.process())?;
    let each = (most - before) / 1024.0 / f64::from(FILES);
    println!("  {way}: {each:.2} MiB for each of {FILES} open files");
    report.results.push(Measure::at_most(
        format!("at-rest.memory.{way}"),
        each,
        "MiB",
        4.0,
        3.0,
    ));
    Ok(())
}
