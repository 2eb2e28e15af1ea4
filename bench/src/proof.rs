//! The full count of the differential: host, loaded program and oracle over random lists and random frames.

use std::thread;

use anyhow::{Result, anyhow};
use portcullis_agent::datapath::mode::TableChoice;
use portcullis_tests::{
    differential::{self, Plan, Tally},
    report::{Measure, Report},
};

use crate::loaded::Loaded;

/// Each thread has a program, lists and frames of its own.
const THREADS: u32 = 2;
const SEED: u64 = 0x5eed_0000;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    for (name, table, lists, frames) in [
        ("compiled", TableChoice::Compiled, 1_000, 100_000),
        ("tries", TableChoice::Lpm, 1_000, 1_000),
    ] {
        let tally = in_threads(table, lists, frames)?;
        let id = |what: &str| format!("proof/{name}/{what}");
        for (what, count) in [
            ("lists", tally.lists),
            ("edits", tally.edits),
            ("frames", tally.frames),
            ("comparisons", tally.comparisons),
        ] {
            report
                .results
                .push(Measure::plain(id(what), count as f64, "count"));
        }
        let mismatches = tally.mismatches as f64;
        report.results.push(Measure::at_most(
            id("mismatches"),
            mismatches,
            "count",
            0.0,
            0.0,
        ));
        for description in &tally.described {
            report.condition("mismatch", description.as_str());
        }
    }
    Ok(())
}

fn in_threads(table: TableChoice, lists: u32, frames: u32) -> Result<Tally> {
    let running: Vec<_> = (0..THREADS)
        .map(|index| {
            thread::spawn(move || {
                let plan = Plan {
                    seed: SEED + u64::from(index),
                    lists: lists / THREADS,
                    frames,
                    rules: 60,
                };
                differential::run(plan, &mut Loaded::both_ways(table)?)
            })
        })
        .collect();
    let mut all = Tally::default();
    for thread in running {
        all.add(
            thread
                .join()
                .map_err(|_| anyhow!("a thread of the proof panicked"))??,
        );
    }
    Ok(all)
}
