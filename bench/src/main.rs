//! The agent's benchmark, called by `cargo xtask bench xdp`: every figure beside its peer's, from one run.
//!
//! Definitions: *hit* is a random address of a random entry, *miss* a random address of the unicast space (IPv6: of 2000::/3) that no
//! entry covers, *near* one that no entry covers in a /24 (IPv6: a /32) that has entries. Addresses are drawn before, into an array that is
//! larger than L2. The *floor* is a program that does the same and reads the headers, with a constant verdict.

mod change;
mod flood;
mod lab;
// The kernel tests' own: what is proved there in seconds is proved here at length.
#[path = "../../tests/tests/kernel/loaded.rs"]
#[allow(dead_code, reason = "the kernel tests use more of it")]
mod loaded;
mod lookup;
mod pass;
mod peers;
mod picture;
mod program;
mod proof;
mod rules;
mod traffic;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use portcullis_tests::report::Report;

#[derive(Parser)]
struct Arguments {
    /// How often each side is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Also write conditions and results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the curves to this SVG file
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Measure only these parts
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One verdict, by test-run: floor, compiled table, LPM tries
    Lookup,
    /// Replacing lists, single edits, memory; `nft -f` of the same list
    Change,
    /// Everything switched on against an allow-only list
    Rules,
    /// A spoofed flood through a veth pair: CPU per dropped packet, with nftables and ipset
    Flood,
    /// TCP of an allowed source through a veth pair
    Pass,
    /// Verdicts of the host, of the loaded program and of an oracle apart from both: 1,000 lists with 100,000 frames each. Takes
    /// minutes, so only when named
    Proof,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut report = Report::default();
    conditions(&mut report, arguments.rounds)?;
    let mut curves = picture::Curves::default();
    if wants(Part::Lookup) {
        lookup::run(arguments.rounds, &mut report, &mut curves)?;
    }
    if wants(Part::Change) {
        change::run(arguments.rounds, &mut report)?;
    }
    if wants(Part::Rules) {
        rules::run(arguments.rounds, &mut report)?;
    }
    if wants(Part::Flood) {
        flood::run(arguments.rounds, &mut report, &mut curves)?;
    }
    if wants(Part::Pass) {
        pass::run(arguments.rounds, &mut report)?;
    }
    if arguments.only.contains(&Part::Proof) {
        proof::run(&mut report)?;
    }
    report.print();
    if let Some(file) = &arguments.json {
        report.write(file)?;
    }
    if let Some(file) = &arguments.picture {
        curves.write(file)?;
    }
    Ok(())
}

fn conditions(report: &mut Report, rounds: u32) -> Result<()> {
    let read = |file: &str| {
        std::fs::read_to_string(file)
            .map(|text| text.trim().to_owned())
            .with_context(|| format!("read {file}"))
    };
    report.condition("kernel", read("/proc/sys/kernel/osrelease")?);
    let processor = read("/proc/cpuinfo")?
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|name| name.trim_start_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_default();
    report.condition(
        "processor",
        format!(
            "{processor}, {} cores",
            std::thread::available_parallelism()?
        ),
    );
    report.condition(
        "memory",
        format!(
            "{:.0} ns for a dependent load at random in 16 MiB",
            lab::dependent_load()
        ),
    );
    report.condition("load at start", read("/proc/loadavg")?);
    report.condition(
        "rounds",
        format!("{rounds} paired, floor and sides in turns; median of the ratios, minimum in ns"),
    );
    report.condition(
        "lists",
        "IPv4: 50 % /32 in runs, 15 % /25-/31, 25 % /24, 10 % /16-/23; IPv6: 30 % /128, 25 % /64, 25 % /48, 10 % /56, 8 % /33-/47, rest mixed; fixed seed",
    );
    Ok(())
}
