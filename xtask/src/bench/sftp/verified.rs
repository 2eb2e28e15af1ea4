//! How fast stored files are compared with the journal: `verify` with the daemon on one processor, against reading the same stored
//! files there, both from the disk.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use portcullis_tests::files;
use portcullis_tests::process::{finish_within, succeed};
use portcullis_tests::proxy::Backend;
use portcullis_tests::report::{Measure, Report};
use rustix::fs::{Advice, fadvise, major, minor};
use serde_json::Value;

use super::figures::{over, speed};
use super::lab::{Cost, Lab, SESSION};
use super::processor;
use super::side::Gateway;

const FILES: u64 = 2;
const MEBIBYTES: u64 = 1024;
/// The processor that both have.
const PROCESSOR: &str = "0";

/// Bytes a second.
const SLOW: u64 = 250 << 20;
const SLOW_ID: &str = ".250";
const GROUP: &str = "/sys/fs/cgroup/blkio/portcullis-bench";
const ALL: &str = "/sys/fs/cgroup/blkio/cgroup.procs";

type Kept = fn(Backend) -> Backend;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "verify",
        format!(
            "{FILES} files of {MEBIBYTES} MiB, not in the page cache; all threads of the daemon, and `cat` of the same stored \
             files, on processor {PROCESSOR} with the lowest priority; from the first record of the look to its last; \
             `.250`: both held to 250 MiB/s by the block layer"
        ),
    );
    let kinds: [(&str, Kept); 2] = [
        ("encrypted", Backend::encrypted),
        ("plain", |backend| backend),
    ];
    let file = lab.random_file(MEBIBYTES)?;
    for (kind, kept) in kinds {
        let storage = files::folder("bench-storage")?;
        let gateway = Gateway::start(lab, kept(Backend::local(storage.path())), "/")?;
        let mut stored = Vec::new();
        for number in 0..FILES {
            let name = format!("file-{number}");
            let side = gateway.side(storage.path());
            let put = format!("put {} {}/{name}", file.display(), side.remote);
            lab.session(&side, "", &put)?;
            stored.push(storage.path().join(name));
        }
        pin(gateway.proxy.process.id())?;
        measure(lab, &gateway, &stored, kind, "", report)?;
        match Slow::make(storage.path(), gateway.proxy.process.id()) {
            Ok(slow) => {
                measure(lab, &gateway, &stored, kind, SLOW_ID, report)?;
                drop(slow);
            }
            Err(error) => println!("  not measured on a slower disk: {error:#}"),
        }
        gateway.verify()?;
    }
    Ok(())
}

fn measure(
    lab: &Lab,
    gateway: &Gateway,
    stored: &[PathBuf],
    kind: &str,
    disk: &str,
    report: &mut Report,
) -> Result<()> {
    let both = [Way::Read, Way::Verify];
    let rounds = lab.turns(
        &both,
        |way| {
            forget(stored)?;
            match way {
                Way::Read => read(stored, !disk.is_empty()),
                Way::Verify => verify(lab, gateway),
            }
        },
        |[read, verify]| {
            format!(
                "{kind}{disk}: read {:.0} MiB/s, verify {:.0} MiB/s with {:.2} s/GiB of processor",
                speed(FILES * MEBIBYTES, *read),
                speed(FILES * MEBIBYTES, *verify),
                verify.processor * 1024.0 / (FILES * MEBIBYTES) as f64
            )
        },
    )?;
    let of = |pick: fn(&[Cost; 2]) -> f64| over(&rounds, pick);
    report.results.extend([
        Measure::ratio(
            format!("at-rest.verify.{kind}{disk}"),
            of(|[read, verify]| read.seconds / verify.seconds),
            0.8,
            0.95,
        ),
        Measure::plain(
            format!("at-rest.verify.{kind}{disk}.speed"),
            of(|[_, verify]| speed(FILES * MEBIBYTES, *verify)),
            "MiB/s",
        ),
        Measure::plain(
            format!("at-rest.verify.{kind}{disk}.read"),
            of(|[read, _]| speed(FILES * MEBIBYTES, *read)),
            "MiB/s",
        ),
        Measure::plain(
            format!("at-rest.verify.{kind}{disk}.processor"),
            of(|[_, verify]| verify.processor * 1024.0 / (FILES * MEBIBYTES) as f64),
            "s/GiB",
        ),
    ]);
    Ok(())
}

/// The disk as slow as an ordinary one, for the processes in its control group (cgroup v1, `blkio`).
struct Slow;

impl Slow {
    fn make(folder: &Path, daemon: u32) -> Result<Self> {
        fs::create_dir(GROUP).with_context(|| format!("make {GROUP}"))?;
        let slow = Self;
        let device = fs::metadata(folder)?.dev();
        let rule = format!("{}:{} {SLOW}", major(device), minor(device));
        fs::write(format!("{GROUP}/blkio.throttle.read_bps_device"), rule)?;
        fs::write(format!("{GROUP}/cgroup.procs"), daemon.to_string())?;
        Ok(slow)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let inside = fs::read_to_string(format!("{GROUP}/cgroup.procs")).unwrap_or_default();
        for process in inside.lines() {
            let _ = fs::write(ALL, process);
        }
        let _ = fs::remove_dir(GROUP);
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Read,
    Verify,
}

/// All threads that are there, and those that they begin.
fn pin(process: u32) -> Result<()> {
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", PROCESSOR]);
    succeed(taskset.arg(process.to_string())).map(drop)
}

/// Out of the page cache.
fn forget(stored: &[PathBuf]) -> Result<()> {
    for path in stored {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed).context("give up the page cache")?;
    }
    Ok(())
}

fn read(stored: &[PathBuf], is_slow: bool) -> Result<Cost> {
    let mut cat = Command::new("taskset");
    // The look has the lowest priority too.
    cat.args(["--cpu-list", PROCESSOR, "nice", "-n", "19"]);
    if is_slow {
        let join = format!("echo 0 > {GROUP}/cgroup.procs && exec cat \"$@\"");
        cat.args(["sh", "-c", &join, "cat"]);
    } else {
        cat.arg("cat");
    }
    cat.args(stored);
    let begun = Instant::now();
    let status = cat.stdout(Stdio::null()).status().context("run cat")?;
    ensure!(status.success(), "cat ended with {status}");
    Ok(Cost {
        seconds: begun.elapsed().as_secs_f64(),
        processor: 0.0,
    })
}

fn verify(lab: &Lab, gateway: &Gateway) -> Result<Cost> {
    let proxy = &gateway.proxy;
    let before = processor::of_process(proxy.process.id())?;
    let mut command = Command::new(lab.program());
    command.args([
        "verify",
        "--backend",
        "files",
        "--rate",
        "1024G",
        "--json",
        "--config",
    ]);
    let output = finish_within(command.arg(&proxy.config), SESSION)?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(
        output.status.success() && answer.get("bytes") == Some(&((FILES * MEBIBYTES) << 20).into()),
        "{answer}"
    );
    Ok(Cost {
        processor: processor::of_process(proxy.process.id())? - before,
        seconds: taken(&proxy.journal)?,
    })
}

/// Seconds from the first record of the last look to its end.
fn taken(journal: &Path) -> Result<f64> {
    let records = portcullis_tests::proxy::records(journal)?;
    let field = |record: &Value, name: &str| {
        let text = record.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let end = records
        .iter()
        .rfind(|record| field(record, "event") == "rest.verify")
        .context("a look")?;
    let session = field(end, "session_id");
    let begin = records
        .iter()
        .find(|record| field(record, "session_id") == session)
        .context("its first record")?;
    let at = |record: &Value| {
        let value = record.get("mono_ns");
        // A large one is written as text.
        let text = value.and_then(Value::as_str);
        let nanoseconds = text.and_then(|text| text.parse().ok());
        let nanoseconds = nanoseconds.or_else(|| value.and_then(Value::as_u64));
        nanoseconds.context("a time")
    };
    Ok((at(end)? - at(begin)?) as f64 / 1e9)
}
