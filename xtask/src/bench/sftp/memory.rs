//! Memory of the daemon: for each session that only stands there, and at most while a slow side stops the other.

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};
use rustix::process::{Pid, Signal, kill_process};

use super::client::{self, Staying};
use super::lab::Lab;
use super::side::{self, Gateway, Side};

/// Sessions whose memory counts.
const SESSIONS: u32 = 200;
/// Sessions before them: what the first ones need once for all is no part of the growth.
const FIRST: u32 = 20;
const READS: u32 = 6_000;
const READ_LENGTH: u32 = 255 << 10;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "memory",
        format!(
            "idle: growth of the resident memory from {FIRST} to {} sessions, each with an SFTP channel that has answered; \
             pressure: most that was added until it stood still for 3 s",
            FIRST + SESSIONS
        ),
    );
    let (gateway, storage) = Gateway::local(lab)?;
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let local = gateway.side(storage.path());
    let peer = side::sshd(&openssh, lab.key());
    for (id, side, gate, stretch) in [
        ("sftp.memory.idle.local", &local, 120.0, 60.0),
        (
            "sftp.memory.idle.proxied",
            &Gateway::before(lab, &openssh)?.side(&openssh.home),
            200.0,
            130.0,
        ),
    ] {
        let each = idle(lab, side, || resident(side.process()))?;
        println!("  {id}: {each:.0} KiB");
        report
            .results
            .push(Measure::at_most(id, each, "KiB", gate, stretch));
    }
    let each = idle(lab, &peer, || shared_out(openssh.process.descendants()))?;
    report
        .results
        .push(Measure::plain("sftp.memory.idle.openssh", each, "KiB"));

    File::create(storage.path().join("chunk"))?.set_len(u64::from(READ_LENGTH))?;
    unread(lab, &local, report)?;
    stopped(lab, report)
}

/// KiB that one more idle session adds.
fn idle(lab: &Lab, side: &Side<'_>, memory: impl Fn() -> Result<f64>) -> Result<f64> {
    client::seconds(lab, side, &["logins", "--count", "40", "--at-once", "8"])?;
    let stay = |count: u32| {
        let count = count.to_string();
        Staying::start(lab, side, &["idle", "--count", &count, &side.remote])
    };
    let _first = stay(FIRST)?;
    let before = memory()?;
    let _sessions = stay(SESSIONS)?;
    Ok((memory()? - before) / f64::from(SESSIONS))
}

/// The client sends thousands of READs and reads nothing.
fn unread(lab: &Lab, side: &Side<'_>, report: &mut Report) -> Result<()> {
    let mut client = Staying::start(
        lab,
        side,
        &[
            "unread-reads",
            "--count",
            &READS.to_string(),
            "--length",
            &READ_LENGTH.to_string(),
            &format!("{}/chunk", side.remote),
        ],
    )?;
    let before = resident(side.process())?;
    client.go_on()?;
    client.wait_until_ready()?;
    let most = most_resident(side.process())?;
    add(report, "sftp.memory.unread_reads", most, before, 24.0, 12.0);
    Ok(())
}

/// The upstream stops in the middle of an upload, and the client goes on.
fn stopped(lab: &Lab, report: &mut Report) -> Result<()> {
    let upstream = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let gateway = Gateway::before(lab, &upstream)?;
    let side = gateway.side(&upstream.home);
    let path = format!("{}/endless.bin", side.remote);
    let mut client = Staying::start(lab, &side, &["endless-writes", &path])?;
    let before = resident(side.process())?;
    let _stopped = Stopped::stop(upstream.process.descendants())?;
    client.go_on()?;
    let most = most_resident(side.process())?;
    add(
        report,
        "sftp.memory.stopped_upstream",
        most,
        before,
        48.0,
        36.0,
    );
    Ok(())
}

fn add(report: &mut Report, id: &'static str, most: f64, before: f64, gate: f64, stretch: f64) {
    let added = (most - before) / 1024.0;
    println!("  {id}: {added:.1} MiB");
    report.results.extend([
        Measure::at_most(id, added, "MiB", gate, stretch),
        Measure::plain(format!("{id}.resident"), most / 1024.0, "MiB"),
    ]);
}

/// The most KiB that a process has until it hasn't grown for a while.
pub(super) fn most_resident(process: u32) -> Result<f64> {
    const STEADY: Duration = Duration::from_secs(3);
    const LONGEST: Duration = Duration::from_secs(15);
    const GROWTH: f64 = 256.0;
    let started = Instant::now();
    let (mut most, mut grown) = (resident(process)?, Instant::now());
    while grown.elapsed() < STEADY && started.elapsed() < LONGEST {
        thread::sleep(Duration::from_millis(20));
        let now = resident(process)?;
        if now > most + GROWTH {
            grown = Instant::now();
        }
        most = most.max(now);
    }
    Ok(most)
}

/// Resident memory of one process, in KiB (`VmRSS`).
pub(super) fn resident(process: u32) -> Result<f64> {
    kibibytes(process, "status", "VmRSS:")
}

/// Memory of several processes in KiB, shared pages divided among those that share them (`Pss`).
fn shared_out(processes: Vec<u32>) -> Result<f64> {
    processes
        .into_iter()
        .map(|process| kibibytes(process, "smaps_rollup", "Pss:"))
        .sum()
}

fn kibibytes(process: u32, file: &str, field: &str) -> Result<f64> {
    let file = format!("/proc/{process}/{file}");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("{file} has a line {field}"))
}

/// Processes that stand still until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(processes: Vec<u32>) -> Result<Self> {
        let ids = processes
            .into_iter()
            .filter_map(|id| i32::try_from(id).ok().and_then(Pid::from_raw));
        let mut stopped = Self(Vec::new());
        for id in ids {
            kill_process(id, Signal::STOP).context("stop the upstream")?;
            stopped.0.push(id);
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for id in &self.0 {
            let _ = kill_process(*id, Signal::CONT);
        }
    }
}
