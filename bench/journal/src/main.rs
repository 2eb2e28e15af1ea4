//! The journal by itself, for `cargo xtask bench journal`: appends, verification and starts, and days of records as a gateway
//! writes them.
//!
//! A program of its own, so that xtask is built without optimisation. What it has to say is one line of JSON.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a command line tool: its output is its result"
)]

mod day;
mod hide;
mod names;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use portcullis_audit::{
    filter::{Criteria, Filter},
    pattern::PathPattern,
    search::Results,
    time,
};
use portcullis_journal::{
    Event, EventKind, Intent, Journal, Moment, OperationId, Options, SessionId, Urgency, Verdict,
    tree::key::{public_key_path, read_verifier_keys},
    verify::directory::verify,
};
use serde_json::{Value, json};

use crate::day::{Day, Mix};

#[derive(Parser)]
struct Arguments {
    /// Directory of the log
    directory: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Appends WRITEs from a group of writers: an intent that is waited for, and an outcome that is not
    Append {
        records: u64,
        #[arg(long, default_value_t = 64)]
        writers: u64,
        /// Records that each writer has under way
        #[arg(long, default_value_t = 1)]
        under_way: u64,
    },
    /// Checks the log as portcullis-verify does
    Verify,
    /// Asks the log as `portcullis-proxy audit search` does
    Search {
        #[arg(long)]
        user: Option<String>,
        #[arg(long)]
        path: Option<PathPattern>,
        /// The first day, as 2026-11-22
        #[arg(long)]
        since: Option<time::Moment>,
        /// The last day
        #[arg(long)]
        until: Option<time::Moment>,
    },
    /// Opens the log and closes it
    Open,
    /// Writes so many records of a gateway's days
    Days {
        records: u64,
        #[arg(long, default_value_t = 6)]
        seed: u64,
        #[arg(long, value_enum, default_value_t = Mix::Day)]
        mix: Mix,
        /// Records in 24 hours
        #[arg(long, default_value_t = 1_000_000)]
        records_a_day: u64,
        /// Leaves closed segments as they were written
        #[arg(long)]
        plain: bool,
        /// One segment, however long it gets
        #[arg(long)]
        one_segment: bool,
        /// Ends as a process does that is killed
        #[arg(long)]
        killed: bool,
    },
    /// Hides the paths of so many events, without a log
    Hide { events: u64 },
    /// Reads a log of so many uploads of encrypted files as a start does, for their names
    Names { files: u64 },
    /// Synchronises small appends to a file: what the disk itself takes
    Sync { count: u32 },
}

fn main() -> Result<()> {
    let Arguments { directory, command } = Arguments::parse();
    let said = match command {
        Command::Append {
            records,
            writers,
            under_way,
        } => append(&directory, records, writers, under_way)?,
        Command::Verify => verified(&directory)?,
        Command::Search {
            user,
            path,
            since,
            until,
        } => {
            let now = chrono::Utc::now();
            searched(
                directory,
                Criteria {
                    user,
                    path,
                    since: since.map(|since| since.begin(now)),
                    until: until.map(|until| until.end(now)),
                    ..Criteria::default()
                },
            )?
        }
        Command::Open => opened(&directory)?,
        Command::Days {
            records,
            seed,
            mix,
            records_a_day,
            plain,
            one_segment,
            killed,
        } => {
            let mut options = Options::default_in(&directory);
            if plain {
                options.compression_level = None;
            }
            if one_segment {
                options.segment_bytes = u64::MAX;
            }
            let pace = Duration::from_secs(24 * 60 * 60).as_micros() as u64 / records_a_day.max(1);
            days(options, Day::new(seed, mix), records, pace, killed)?
        }
        Command::Hide { events } => hide::hidden(&directory, events)?,
        Command::Names { files } => names::named(&directory, files)?,
        Command::Sync { count } => synced(&directory, count)?,
    };
    println!("{said}");
    Ok(())
}

/// A WRITE as the gateway announces it.
struct Write(u64);

impl Intent for Write {
    fn event(&self) -> Event {
        let mut event = Event::new(EventKind::OperationIntent);
        event.session = Some(SessionId([0x5a; 16]));
        event.operation = Some(OperationId(self.0));
        event.source = Some(([192, 0, 2, 7], 50_022).into());
        event.outcome = Some(Verdict::Allow);
        for (field, value) in [
            ("sftp_op", Value::from("write")),
            ("handle_id", 1.into()),
            ("offset", (self.0 * 32_768).into()),
            ("len", 32_768.into()),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        event
    }
}

impl Write {
    fn outcome(&self) -> Event {
        let mut event = Event {
            kind: EventKind::OperationOutcome,
            outcome: Some(Verdict::Success),
            ..self.event()
        };
        event.body.clear();
        for (field, value) in [
            ("bytes", Value::from(32_768)),
            ("latency_us", 250.into()),
            ("status", "ok".into()),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        event
    }
}

fn append(directory: &Path, records: u64, writers: u64, under_way: u64) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (journal, _) = Journal::open(Options::default_in(directory))?;
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut waits = runtime.block_on(async {
        let mut group = tokio::task::JoinSet::new();
        for writer in 0..writers {
            // Each of them is two records.
            let own = records / writers / 2;
            let first = writer * own;
            group.spawn(write_all(journal.clone(), first..first + own, under_way));
        }
        let mut waits = Vec::new();
        while let Some(done) = group.join_next().await {
            waits.extend(done.context("a writer")??);
        }
        anyhow::Ok(waits)
    })?;
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    runtime.block_on(journal.close())?;
    waits.sort();
    let written = 2.0 * waits.len() as f64;
    let middle = waits.get(waits.len() / 2).copied().unwrap_or_default();
    Ok(json!({
        "records": written,
        "rate": written / took.as_secs_f64(),
        "cpu_us": cpu.as_secs_f64() * 1e6 / written,
        "wait_us": middle.as_secs_f64() * 1e6,
    }))
}

/// Keeps so many intents waiting; returns how long each waited.
async fn write_all(
    journal: Journal,
    numbers: std::ops::Range<u64>,
    under_way: u64,
) -> Result<Vec<Duration>> {
    let mut waiting = std::collections::VecDeque::new();
    let mut waits = Vec::new();
    for number in numbers {
        waiting.push_back((
            Instant::now(),
            journal.record_intent(Write(number), Urgency::Now),
        ));
        if waiting.len() as u64 >= under_way
            && let Some((since, pending)) = waiting.pop_front()
        {
            let recorded = pending.await?;
            waits.push(since.elapsed());
            drop(journal.append_soon(recorded.intent().outcome()));
        }
    }
    for (since, pending) in waiting {
        let recorded = pending.await?;
        waits.push(since.elapsed());
        drop(journal.append_soon(recorded.intent().outcome()));
    }
    Ok(waits)
}

fn searched(directory: PathBuf, criteria: Criteria) -> Result<Value> {
    let filter = Filter::from(criteria);
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut found = 0_u64;
    for record in Results::of(&[directory], &filter, None)? {
        record?;
        found += 1;
    }
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(json!({
        "found": found,
        "seconds": took.as_secs_f64(),
        "cpu_seconds": cpu.as_secs_f64(),
        "peak_rss_kib": peak,
    }))
}

fn verified(directory: &Path) -> Result<Value> {
    let keys = read_verifier_keys(&public_key_path(
        &Options::default_in(directory).signing_key,
    ))?;
    let (began, cpu) = (Instant::now(), cpu_time());
    let report = verify(directory, keys, None)?;
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    ensure!(report.is_sound(), "the log is not sound: {report:?}");
    Ok(json!({
        "records": report.records,
        "rate": report.records as f64 / took.as_secs_f64(),
        "cpu_us": cpu.as_secs_f64() * 1e6 / report.records as f64,
    }))
}

fn opened(directory: &Path) -> Result<Value> {
    let began = Instant::now();
    let options = Options {
        segment_bytes: u64::MAX,
        ..Options::default_in(directory)
    };
    let (journal, recovery) = Journal::open(options)?;
    let took = began.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(journal.close())?;
    Ok(json!({
        "seconds": took.as_secs_f64(),
        "records": recovery.records,
        "unknown": recovery.unknown.len(),
        "bytes": bytes_of(directory, "")?,
    }))
}

/// Writes the records, each `pace` microseconds after the one before, from some Monday on.
fn days(options: Options, day: Day, records: u64, pace: u64, killed: bool) -> Result<Value> {
    const MONDAY: i64 = 1_767_571_200_000_000;
    /// Records that wait for the disk at most.
    const UNDER_WAY: usize = 20_000;
    let directory = options.directory.clone();
    let seals = options.compression_level.is_some();
    let elapsed = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&elapsed);
    let (journal, _) = Journal::open_at(options, move || {
        let micros = clock.load(Ordering::Relaxed);
        Moment {
            unix_micros: MONDAY + micros,
            mono_ns: micros.unsigned_abs() * 1000,
        }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let began = Instant::now();
    runtime.block_on(async {
        let mut waiting = std::collections::VecDeque::with_capacity(UNDER_WAY);
        for event in day.take(usize::try_from(records)?) {
            elapsed.fetch_add(i64::try_from(pace)?, Ordering::Relaxed);
            waiting.push_back(journal.append_soon(event));
            if waiting.len() >= UNDER_WAY
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.await?;
            }
        }
        for pending in waiting {
            pending.await?;
        }
        anyhow::Ok(())
    })?;
    if killed {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    if seals {
        wait_until_sealed(&directory)?;
    }
    runtime.block_on(journal.close())?;
    Ok(json!({
        "records": records,
        "seconds": seconds,
        "bytes": bytes_of(&directory, "")?,
        "sealed_bytes": bytes_of(&directory, ".jsonl.zst")?,
        "sealed_records": first_unsealed(&directory)?,
    }))
}

/// Waits until all segments but the one that grows are sealed.
fn wait_until_sealed(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(600);
    while open_segments(directory)?.len() > 1 {
        ensure!(Instant::now() < deadline, "closed segments are not sealed");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The first records of the segments that are not sealed.
fn open_segments(directory: &Path) -> Result<Vec<u64>> {
    let mut first = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        first.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    Ok(first)
}

fn first_unsealed(directory: &Path) -> Result<u64> {
    Ok(open_segments(directory)?.into_iter().min().unwrap_or(0))
}

fn synced(directory: &Path, count: u32) -> Result<Value> {
    use std::os::unix::fs::FileExt as _;
    fs::create_dir_all(directory)?;
    let file = fs::File::create(directory.join("sync"))?;
    let mut waits = Vec::new();
    for at in 0..count {
        file.write_all_at(&[b'.'; 350], u64::from(at) * 350)?;
        let began = Instant::now();
        file.sync_data()?;
        waits.push(began.elapsed());
    }
    waits.sort();
    let middle = waits.get(waits.len() / 2).copied().unwrap_or_default();
    Ok(json!({ "wait_us": middle.as_secs_f64() * 1e6 }))
}

/// Bytes of the files whose names end so.
fn bytes_of(directory: &Path, end: &str) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(end) && name != "reserve" {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
