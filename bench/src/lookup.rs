//! One verdict: the compiled table and LPM tries over the floor, by test-run, over list sizes, families and kinds of packets.

use anyhow::{Context as _, Result};
use portcullis_agent::datapath::Datapath as _;
use portcullis_tests::report::{Measure, Report, median};

use crate::{
    lab::{self, BpfFs},
    picture::Curves,
    program::{Programs, SOURCES},
    rules::{self, Side},
    traffic::{Kind, Members, Random},
};

/// Sizes of the curve; those with bars are 1,000, 100,000 and 1,000,000.
pub(crate) const SIZES: [usize; 5] = [1, 1_000, 10_000, 100_000, 1_000_000];
/// Packets of one run of the floor and of the table.
const PACKETS: u32 = 1 << 20;
/// Packets of one run of the tries, which take up to fifty times as long.
const PACKETS_OF_TRIES: u32 = 1 << 17;

/// Gate and stretch, over the floor, for hits and misses.
fn bars(is_v6: bool, size: usize, kind: Kind) -> Option<(f64, f64)> {
    match (is_v6, size, kind) {
        (false, 1_000, Kind::Hit) => Some((1.6, 1.4)),
        (false, 1_000, Kind::Miss) => Some((1.25, 1.1)),
        (false, 100_000, Kind::Hit) => Some((2.6, 2.1)),
        (false, 100_000, Kind::Miss) => Some((1.4, 1.2)),
        (false, 1_000_000, Kind::Hit) => Some((5.5, 2.5)),
        (false, 1_000_000, Kind::Miss) => Some((2.0, 1.4)),
        (true, 1_000, Kind::Hit) => Some((2.5, 1.9)),
        (true, 100_000, Kind::Hit) => Some((3.2, 2.5)),
        (true, 1_000_000, Kind::Hit) => Some((9.0, 4.0)),
        (true, _, Kind::Miss) => Some((1.3, 1.1)),
        _ => None,
    }
}

/// Gate and stretch of the tries' added time over the table's, for hits.
fn bars_against_tries(is_v6: bool, size: usize, kind: Kind) -> Option<(f64, f64)> {
    match (is_v6, size, kind) {
        (false, 100_000, Kind::Hit) => Some((10.0, 15.0)),
        (false, 1_000_000, Kind::Hit) => Some((12.0, 30.0)),
        (true, 100_000, Kind::Hit) => Some((8.0, 12.0)),
        (true, 1_000_000, Kind::Hit) => Some((6.0, 10.0)),
        _ => None,
    }
}

pub(crate) fn run(rounds: u32, report: &mut Report, curves: &mut Curves) -> Result<()> {
    let _pinned = lab::stay_on_receiving_core()?;
    let bpf = BpfFs::mount()?;
    let mut table = rules::open(&bpf, Side::Compiled)?;
    let mut tries = rules::open(&bpf, Side::Tries)?;
    let mut over_table = Programs::load(&bpf.pins(Side::Compiled.name()))?;
    let mut over_tries = Programs::load(&bpf.pins(Side::Tries.name()))?;
    for is_v6 in [false, true] {
        let family = if is_v6 { 6 } else { 4 };
        for size in SIZES {
            let list = rules::prefixes(is_v6, size);
            let settings = rules::plain();
            table
                .switch(rules::allow(&list), &settings)
                .context("compile the list")?;
            tries
                .switch(rules::allow(&list), &settings)
                .context("fill the tries")?;
            let members = Members::new(&list);
            for kind in Kind::ALL {
                let sources = members.sources(kind, SOURCES, &mut Random::new(7));
                if sources.is_empty() {
                    continue;
                }
                over_table.set_sources(&sources, is_v6)?;
                over_tries.set_sources(&sources, is_v6)?;
                let mut samples = Vec::new();
                for _ in 0..rounds {
                    let before = over_table.time(&format!("floor{family}"), is_v6, PACKETS)?;
                    let ours = over_table.time(&format!("judge{family}"), is_v6, PACKETS)?;
                    let peer =
                        over_tries.time(&format!("tries{family}"), is_v6, PACKETS_OF_TRIES)?;
                    let after = over_table.time(&format!("floor{family}"), is_v6, PACKETS)?;
                    samples.push([f64::midpoint(before, after), ours, peer]);
                }
                note(report, curves, is_v6, size, kind, &samples);
            }
        }
    }
    Ok(())
}

fn note(
    report: &mut Report,
    curves: &mut Curves,
    is_v6: bool,
    size: usize,
    kind: Kind,
    samples: &[[f64; 3]],
) {
    let what = format!(
        "{} {} {}",
        if is_v6 { "IPv6" } else { "IPv4" },
        short(size),
        kind.name()
    );
    let smallest =
        |column: fn(&[f64; 3]) -> f64| samples.iter().map(column).fold(f64::MAX, f64::min);
    let (floor, ours, peer) = (
        smallest(|[floor, _, _]| *floor),
        smallest(|[_, ours, _]| *ours),
        smallest(|[_, _, peer]| *peer),
    );
    curves.lookup(is_v6, kind, "floor", size, floor);
    curves.lookup(is_v6, kind, "compiled table", size, ours);
    curves.lookup(is_v6, kind, "LPM tries", size, peer);

    let over_floor = median(samples.iter().map(|[floor, ours, _]| ours / floor));
    let id = format!("{what}: over floor ({floor:.0} -> {ours:.0} ns)");
    report.results.push(match bars(is_v6, size, kind) {
        Some((gate, stretch)) => Measure::at_most(id, over_floor, "x", gate, stretch),
        None => Measure::plain(id, over_floor, "x"),
    });
    // What a lookup adds: the floor is mostly the test-run's own loop. A table that adds nothing would divide by zero.
    let against = median(
        samples
            .iter()
            .map(|[floor, ours, peer]| (peer - floor) / (ours - floor).max(0.5)),
    );
    let id = format!("{what}: LPM tries add, times ours ({peer:.0} ns)");
    report
        .results
        .push(match bars_against_tries(is_v6, size, kind) {
            Some((gate, stretch)) => Measure::at_least(id, against, "x", gate, stretch),
            None => Measure::plain(id, against, "x"),
        });
}

/// 1,000,000 as 1M.
pub(crate) fn short(size: usize) -> String {
    match size {
        1_000_000.. => format!("{}M", size / 1_000_000),
        1_000.. => format!("{}k", size / 1_000),
        _ => size.to_string(),
    }
}
