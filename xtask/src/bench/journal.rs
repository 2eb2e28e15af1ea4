//! The journal by itself: what a record costs, how fast a log is checked, how long a start takes after a kill, how large
//! records are once they lie sealed, how long questions take, and what all that costs a transfer through the proxy.
//!
//! The measuring is done in `bench/journal`, built with optimisation. Appends are pinned to one core and go to a file system in
//! memory, so that they show the processor's part; the disk's own part stands beside them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use portcullis_tests::report::{Measure, Report, median};
use serde_json::Value;
use tempfile::TempDir;

use super::{Arguments, parts, sftp};
use crate::process;

const APPENDED: u64 = 1_000_000;
const DAY: u64 = 1_000_000;
/// At some 450 bytes each more than a GiB.
const UNSEALED: u64 = 2_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Records a second from 64 writers, and what one costs
    Append,
    /// What it costs to hide the path of a record
    Hide,
    /// Records a second that a check takes
    Verify,
    /// Opening a log after a kill, with one segment of a GiB
    Start,
    /// Bytes of a record in sealed segments
    Size,
    /// Searches of a sealed log, and their memory
    Search,
    /// What a start reads for the names of encrypted files, and their memory
    Names,
    /// Transfers with the journal on the disk, against the same proxy with its journal in memory
    Transfer,
}

struct Bench {
    rounds: u32,
    /// Records that are searched.
    records: u64,
    /// On the disk that is measured.
    disk: TempDir,
    /// In memory.
    memory: TempDir,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let parts = parts::chosen::<Part>(&arguments.only)?;
    process::run(process::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "portcullis-bench-journal",
    ]))?;
    let bench = Bench {
        rounds: arguments.rounds,
        records: arguments.records,
        disk: tempfile::tempdir_in(portcullis_tests::locate::target_folder())
            .context("a folder on the disk")?,
        memory: tempfile::tempdir_in("/dev/shm").context("a folder in memory")?,
    };
    let mut report = Report::default();
    report.condition(
        "records",
        "an intent and an outcome of a WRITE each, or the days of bench/journal/src/day.rs",
    );
    parts::measure(parts, arguments, report, |part: Part, report| match part {
        Part::Append => bench.append(report),
        Part::Hide => bench.hide(report),
        Part::Verify => bench.verify(report),
        Part::Start => bench.start(report),
        Part::Size => bench.size(report),
        Part::Search => bench.search(report),
        Part::Names => bench.names(report),
        Part::Transfer => bench.transfer(report),
    })
}

impl Bench {
    fn append(&self, report: &mut Report) -> Result<()> {
        report.condition(
            "append",
            format!(
                "{APPENDED} records from 64 writers; `memory` is /dev/shm and one core, `disk` the target folder's; \
                 `one` is a single writer that waits for each intent, beside an fdatasync of the same disk"
            ),
        );
        let records = APPENDED.to_string();
        let (mut rates, mut costs, mut on_disk, mut waits, mut syncs) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let memory = self.memory.path().join(format!("append{round}"));
            let said = say(
                &memory,
                &["append", &records, "--under-way", "32"],
                Pinned::Yes,
            )?;
            rates.push(number(&said, "rate")?);
            costs.push(number(&said, "cpu_us")?);
            std::fs::remove_dir_all(&memory)?;
            let disk = self.disk.path().join(format!("append{round}"));
            let said = say(
                &disk,
                &["append", &records, "--under-way", "32"],
                Pinned::No,
            )?;
            on_disk.push(number(&said, "rate")?);
            let one = self.disk.path().join(format!("one{round}"));
            let said = say(&one, &["append", "1000", "--writers", "1"], Pinned::No)?;
            waits.push(number(&said, "wait_us")?);
            syncs.push(number(
                &say(&one, &["sync", "500"], Pinned::No)?,
                "wait_us",
            )?);
            std::fs::remove_dir_all(disk)?;
        }
        report.results.extend([
            Measure::at_least(
                "journal.append.memory.rate",
                median(rates),
                "records/s",
                200_000.0,
                400_000.0,
            ),
            Measure::plain("journal.append.memory.cpu", median(costs), "us/record"),
            Measure::plain("journal.append.disk.rate", median(on_disk), "records/s"),
            Measure::plain("journal.append.disk.one", median(waits), "us"),
            Measure::plain("journal.append.disk.fdatasync", median(syncs), "us"),
        ]);
        Ok(())
    }

    fn hide(&self, report: &mut Report) -> Result<()> {
        const EVENTS: &str = "20000";
        report.condition(
            "hide",
            format!(
                "{EVENTS} events on one core: a READ, and an OPEN with a path of four components; `again` of a path whose \
                 box is remembered"
            ),
        );
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let folder = self.memory.path().join(format!("hide{round}"));
            rounds.push(say(&folder, &["hide", EVENTS], Pinned::Yes)?);
            std::fs::remove_dir_all(folder)?;
        }
        for kind in ["read", "hmac", "sealed_again", "sealed_new"] {
            let costs = rounds
                .iter()
                .map(|said| number(said, &format!("{kind}_ns")))
                .collect::<Result<Vec<_>>>()?;
            let id = format!("journal.hide.{kind}");
            report
                .results
                .push(Measure::plain(id, median(costs), "ns/record"));
        }
        Ok(())
    }

    fn names(&self, report: &mut Report) -> Result<()> {
        const FILES: &str = "300000";
        report.condition(
            "names",
            format!(
                "{FILES} uploads of encrypted files, seven records each, from memory; names of 24 bytes, a thousand in a directory"
            ),
        );
        let (mut rates, mut sizes) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let log = self.memory.path().join(format!("names{round}"));
            let said = say(&log, &["names", FILES], Pinned::No)?;
            std::fs::remove_dir_all(log)?;
            rates.push(number(&said, "records")? / number(&said, "seconds")?);
            sizes.push(number(&said, "bytes_per_file")?);
        }
        report.results.extend([
            Measure::plain("journal.names.read", median(rates), "records/s"),
            Measure::plain("journal.names.memory", median(sizes), "bytes/file"),
        ]);
        Ok(())
    }

    fn verify(&self, report: &mut Report) -> Result<()> {
        report.condition(
            "verify",
            format!("a day of {DAY} records in segments of 64 MiB, from memory"),
        );
        let records = DAY.to_string();
        for (id, plain) in [("plain", true), ("sealed", false)] {
            let log = self.memory.path().join(format!("verify-{id}"));
            let mut arguments = vec!["days", &records];
            arguments.extend(plain.then_some("--plain"));
            say(&log, &arguments, Pinned::No)?;
            let (mut rates, mut costs) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                let said = say(&log, &["verify"], Pinned::No)?;
                rates.push(number(&said, "rate")?);
                costs.push(number(&said, "cpu_us")?);
            }
            std::fs::remove_dir_all(log)?;
            report.results.push(Measure::at_least(
                format!("journal.verify.{id}.rate"),
                median(rates),
                "records/s",
                500_000.0,
                1_000_000.0,
            ));
            report.results.push(Measure::plain(
                format!("journal.verify.{id}.cpu"),
                median(costs),
                "us/record",
            ));
        }
        Ok(())
    }

    fn start(&self, report: &mut Report) -> Result<()> {
        let mut seconds = Vec::new();
        let mut bytes = 0.0;
        for round in 0..self.rounds.min(3) {
            let log = self.disk.path().join(format!("start{round}"));
            let mut command = program()?;
            command
                .arg(&log)
                .args(["days", &UNSEALED.to_string(), "--one-segment", "--killed"]);
            let status = command.status().context("write a long segment")?;
            anyhow::ensure!(!status.success(), "the writer was to be killed");
            let said = say(&log, &["open"], Pinned::No)?;
            seconds.push(number(&said, "seconds")?);
            bytes = number(&said, "bytes")?;
            std::fs::remove_dir_all(log)?;
        }
        report.condition(
            "start",
            format!(
                "one open segment of {:.2} GiB, its writer killed",
                bytes / f64::from(1 << 30)
            ),
        );
        report.results.push(Measure::at_most(
            "journal.start.seconds",
            median(seconds),
            "s",
            2.0,
            0.5,
        ));
        Ok(())
    }

    fn size(&self, report: &mut Report) -> Result<()> {
        report.condition(
            "size",
            format!(
                "{DAY} records, compressed as by default, without the last segment, which is open"
            ),
        );
        for (mix, gate, stretch) in [("data", 40.0, 30.0), ("others", 120.0, 80.0)] {
            let log = self.disk.path().join(format!("size-{mix}"));
            let said = say(&log, &["days", &DAY.to_string(), "--mix", mix], Pinned::No)?;
            let sealed = number(&said, "sealed_bytes")?;
            let records = number(&said, "sealed_records")?;
            anyhow::ensure!(records > 0.0, "no segment was sealed");
            report.results.push(Measure::at_most(
                format!("journal.size.{mix}"),
                sealed / records,
                "bytes/record",
                gate,
                stretch,
            ));
            std::fs::remove_dir_all(log)?;
        }
        Ok(())
    }

    fn search(&self, report: &mut Report) -> Result<()> {
        const USER: &str = "user007";
        /// The days begin on 2026-01-05.
        const DAY_OF_MONTH: &str = "2026-01-06";
        const PREFIX: &str = "/outbox/03";
        report.condition(
            "search",
            format!(
                "{} records, {DAY} a day, sealed but for the last segment, on the disk, read before; `user` is {USER} on \
                 {DAY_OF_MONTH}, `path` is {PREFIX} over all days; each search is a process of its own",
                self.records
            ),
        );
        let log = self.disk.path().join("search");
        let records = self.records.to_string();
        say(
            &log,
            &["days", &records, "--records-a-day", &DAY.to_string()],
            Pinned::No,
        )?;
        let of_a_day = [
            "search",
            "--user",
            USER,
            "--since",
            DAY_OF_MONTH,
            "--until",
            DAY_OF_MONTH,
        ];
        let questions: [(&str, &[&str], f64, f64); 2] = [
            ("user", &of_a_day, 2.0, 0.5),
            ("path", &["search", "--path", PREFIX], 20.0, 5.0),
        ];
        let mut peak = 0.0_f64;
        for (id, question, gate, stretch) in questions {
            let (mut seconds, mut found) = (Vec::new(), 0.0);
            for _ in 0..self.rounds {
                let said = say(&log, question, Pinned::No)?;
                seconds.push(number(&said, "seconds")?);
                found = number(&said, "found")?;
                peak = peak.max(number(&said, "peak_rss_kib")? * 1024.0 / 1e6);
            }
            anyhow::ensure!(
                found > 0.0,
                "{question:?} finds nothing; take more --records"
            );
            report.results.push(Measure::at_most(
                format!("journal.search.{id}.seconds"),
                median(seconds),
                "s",
                gate,
                stretch,
            ));
            report.results.push(Measure::plain(
                format!("journal.search.{id}.found"),
                found,
                "records",
            ));
        }
        report.results.push(Measure::at_most(
            "journal.search.memory",
            peak,
            "MB",
            200.0,
            50.0,
        ));
        std::fs::remove_dir_all(log)?;
        Ok(())
    }

    fn transfer(&self, report: &mut Report) -> Result<()> {
        sftp::journalled(self.rounds, report)?;
        let folder = self.disk.path().join("sync");
        let said = say(&folder, &["sync", "500"], Pinned::No)?;
        report.results.push(Measure::plain(
            "journal.transfer.fdatasync",
            number(&said, "wait_us")?,
            "us",
        ));
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pinned {
    Yes,
    No,
}

fn program() -> Result<Command> {
    Ok(Command::new(portcullis_tests::locate::release_binary(
        "portcullis-bench-journal",
    )?))
}

/// Runs the program, on one core if so, and returns what it says.
fn say(log: &Path, arguments: &[&str], pinned: Pinned) -> Result<Value> {
    let mut command = match pinned {
        Pinned::Yes => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", "0"]);
            command.arg(program()?.get_program());
            command
        }
        Pinned::No => program()?,
    };
    let output = command
        .arg(log)
        .args(arguments)
        .output()
        .context("run the journal's benchmark")?;
    anyhow::ensure!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("read what the benchmark says")
}

fn number(said: &Value, field: &str) -> Result<f64> {
    said.get(field)
        .and_then(Value::as_f64)
        .with_context(|| format!("{said} has no {field}"))
}
