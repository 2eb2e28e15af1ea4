//! What the journal costs: the same proxy with its journal on the disk, each batch synchronised, and on a file system in
//! memory.

use std::fs;

use anyhow::Result;
use portcullis_tests::account::Mount;
use portcullis_tests::files;
use portcullis_tests::proxy::{Backend, Plan};
use portcullis_tests::report::{Measure, Report, median};
use tempfile::TempDir;

use super::figures::{Pick, over, speed};
use super::lab::{Cost, Lab, Transfers, same};
use super::side::{Gateway, Side};

const MEBIBYTES: u64 = 1024;
const SESSIONS: usize = 64;
const FILES: usize = 16;
const LENGTH: usize = 4 << 10;
const STATS: usize = 1000;
/// For the journal in memory: some GiB more than all rounds write.
const MEMORY: u64 = 8 << 30;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "transfer",
        format!(
            "`disk` has the journal on the disk, `memory` in a tmpfs; one file of {MEBIBYTES} MiB; {SESSIONS} sessions begun \
             together with {FILES} files of {LENGTH} bytes each, the last one's end counts; {STATS} times `ls FILE` in one session"
        ),
    );
    let (on_disk, disk_storage) = start(lab, None)?;
    let (in_memory, memory_storage) = start(lab, Some(MEMORY))?;
    let sides = [
        on_disk.side(disk_storage.path()),
        in_memory.side(memory_storage.path()),
    ];

    let file = lab.random_file(MEBIBYTES)?;
    let rounds = lab.turns(
        &sides,
        |side| lab.transfer(side, &file),
        |[disk, memory]| {
            format!(
                "get {:.0} against {:.0} MiB/s, put {:.0} against {:.0} MiB/s",
                speed(MEBIBYTES, disk.get),
                speed(MEBIBYTES, memory.get),
                speed(MEBIBYTES, disk.put),
                speed(MEBIBYTES, memory.put)
            )
        },
    )?;
    add(report, "large", [0.95, 0.99], &rounds);

    let rounds = lab.turns(
        &sides,
        |side| small(lab, side),
        |[disk, memory]| {
            format!(
                "put {:.2} against {:.2} s, get {:.2} against {:.2} s",
                disk.put.seconds, memory.put.seconds, disk.get.seconds, memory.get.seconds
            )
        },
    )?;
    add(report, "small", [0.8, 0.95], &rounds);

    let rounds = lab.turns(
        &sides,
        |side| stats(lab, side),
        |[disk, memory]| format!("{disk:.0} against {memory:.0} us"),
    )?;
    for (position, name) in ["disk", "memory"].iter().enumerate() {
        let waits = rounds.iter().filter_map(|round| round.get(position));
        report.results.push(Measure::plain(
            format!("journal.transfer.stat.{name}"),
            median(waits.copied()),
            "us",
        ));
    }
    on_disk.verify()?;
    in_memory.verify()
}

fn start(lab: &Lab, journal_in_memory: Option<u64>) -> Result<(Gateway, TempDir)> {
    let storage = files::folder("bench-storage")?;
    let mut plan = Plan::of(lab.place(), lab.program().to_path_buf())?
        .server("max_unauthenticated_per_source", "128")
        .backend("files", Backend::local(storage.path()));
    if let Some(bytes) = journal_in_memory {
        plan = plan.journal_disk(bytes);
    }
    let proxy = plan.start()?;
    let account = proxy.account("bench", &[Mount::all("/files", "files", "/")])?;
    Ok((Gateway { proxy, account }, storage))
}

/// Each session uploads its files to a folder of its own and downloads them again.
fn small(lab: &Lab, side: &Side<'_>) -> Result<Transfers> {
    let (sent, received) = (lab.folder("small-sent")?, lab.folder("small-received")?);
    for number in 0..FILES {
        fs::write(
            sent.join(format!("{number:02}.bin")),
            files::random_bytes(LENGTH)?,
        )?;
    }
    for session in 0..SESSIONS {
        fs::create_dir(side.stored.join(session.to_string()))?;
        fs::create_dir(received.join(session.to_string()))?;
    }
    let commands =
        |command: &dyn Fn(usize) -> String| -> Vec<String> { (0..SESSIONS).map(command).collect() };
    let put = lab.streams(
        side,
        &commands(&|session| format!("mput {}/* {}/{session}/", sent.display(), side.remote)),
    )?;
    let get = lab.streams(
        side,
        &commands(&|session| {
            format!(
                "mget {}/{session}/* {}/{session}/",
                side.remote,
                received.display()
            )
        }),
    )?;
    for session in 0..SESSIONS {
        for number in 0..FILES {
            let name = format!("{number:02}.bin");
            same(
                &sent.join(&name),
                &received.join(session.to_string()).join(&name),
            )?;
        }
        fs::remove_dir_all(side.stored.join(session.to_string()))?;
    }
    Ok(Transfers { put, get })
}

/// Microseconds of one look at a file.
fn stats(lab: &Lab, side: &Side<'_>) -> Result<f64> {
    let stored = side.stored.join("one");
    fs::write(&stored, "x")?;
    let looks = vec![format!("ls {}/one", side.remote); STATS].join("\n");
    let (cost, _): (Cost, String) = lab.session(side, "", &looks)?;
    fs::remove_file(stored)?;
    Ok(cost.seconds * 1e6 / STATS as f64)
}

fn add(report: &mut Report, row: &str, [gate, stretch]: [f64; 2], rounds: &[[Transfers; 2]]) {
    let ways: [(&str, Pick); 2] = [("put", |both| both.put), ("get", |both| both.get)];
    for (way, pick) in ways {
        report.results.push(Measure::ratio(
            format!("journal.transfer.{row}.{way}"),
            over(rounds, |[disk, memory]| {
                pick(memory).seconds / pick(disk).seconds
            }),
            gate,
            stretch,
        ));
    }
}
