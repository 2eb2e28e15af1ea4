//! Changing the list: replacing it, single edits, what it takes of memory; and `nft` and `ipset` loading the same.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use hyper::Method;
use ipnet::IpNet;
use portcullis_agent::{
    control::client::Client,
    datapath::{Datapath, Edit},
    rule::{Action, Rule},
};
use portcullis_tests::{
    files,
    netns::Namespace,
    report::{Measure, Report, median},
};

use crate::{
    lab::{self, BpfFs},
    peers::{self, Peer},
    program::{Programs, SOURCES},
    rules::{self, Side},
    traffic::{Kind, Members, Random},
};

const MILLION: usize = 1_000_000;
/// How long single edits are made one after the other.
const EDITING: Duration = Duration::from_secs(1);
const PACKETS: u32 = 1 << 20;

pub(crate) fn run(rounds: u32, report: &mut Report) -> Result<()> {
    let bpf = BpfFs::mount()?;
    let mut datapath = rules::open(&bpf, Side::Compiled)?;
    let v4 = rules::prefixes(false, MILLION);
    let v6 = rules::prefixes(true, MILLION);
    memory(&mut datapath, report, &v4, &v6)?;
    let ours = replaces(&mut datapath, rounds, report, &v4, &v6)?;
    peers_load(report, &v4, ours)?;
    datapath.switch(rules::allow(&v4), &rules::plain())?;
    single_edits(&mut datapath, &bpf, rounds, report, &v4)?;
    drop(datapath);
    through_the_api(rounds, report, &v4)
}

fn memory(
    datapath: &mut impl Datapath,
    report: &mut Report,
    v4: &[IpNet],
    v6: &[IpNet],
) -> Result<()> {
    let thousand4 = rules::prefixes(false, 1_000);
    let thousand6 = rules::prefixes(true, 1_000);
    // An empty table of each family is as large as the other's.
    datapath.switch(rules::allow(&[]), &rules::plain())?;
    let other = datapath.describe().memory_bytes / 2;
    for (what, list, gate, stretch) in [
        ("table of 1k IPv4 prefixes", thousand4.as_slice(), 1.0, 1.0),
        ("table of 1k IPv6 prefixes", &thousand6, 1.0, 1.0),
        ("table of 1M IPv4 prefixes", v4, 20.0, 15.0),
        ("table of 1M IPv6 prefixes", v6, 32.0, 16.0),
    ] {
        datapath.switch(rules::allow(list), &rules::plain())?;
        let bytes = datapath.describe().memory_bytes - other;
        report.results.push(Measure::at_most(
            what,
            bytes as f64 / f64::from(1 << 20),
            "MiB",
            gate,
            stretch,
        ));
    }
    Ok(())
}

/// Replaces whole lists; gives the median of IPv4 in milliseconds.
fn replaces(
    datapath: &mut impl Datapath,
    rounds: u32,
    report: &mut Report,
    v4: &[IpNet],
    v6: &[IpNet],
) -> Result<f64> {
    let mut ours = 0.0;
    for (what, list, gate, stretch) in [
        (
            "replace 1M IPv4, list in memory -> enforced",
            v4,
            100.0,
            50.0,
        ),
        (
            "replace 1M IPv6, list in memory -> enforced",
            v6,
            350.0,
            150.0,
        ),
    ] {
        let mut times = Vec::new();
        for round in 0..rounds {
            // Another list each time, so that nothing of the last one can be kept.
            let list: Vec<IpNet> = list
                .iter()
                .skip(usize::try_from(round).unwrap_or(0) % 2)
                .copied()
                .collect();
            let rules = rules::allow(&list);
            // The list before is indexed for single edits on a thread of its own. An edit waits for that.
            let host = Rule {
                prefix: "203.0.113.77/32".parse()?,
                action: Action::Ban,
            };
            datapath.edit(&[Edit::Add(host.clone())])?;
            datapath.edit(&[Edit::Remove(host)])?;
            let begin = Instant::now();
            datapath.switch(rules, &rules::plain())?;
            times.push(begin.elapsed().as_secs_f64() * 1_000.0);
        }
        let middle = median(times.iter().copied());
        if list
            .first()
            .is_some_and(|prefix| matches!(prefix, IpNet::V4(_)))
        {
            ours = middle;
        }
        report.results.push(Measure::plain(
            format!("{what}, least"),
            times.iter().copied().fold(f64::MAX, f64::min),
            "ms",
        ));
        report
            .results
            .push(Measure::at_most(what, middle, "ms", gate, stretch));
    }
    Ok(ours)
}

fn peers_load(report: &mut Report, list: &[IpNet], ours: f64) -> Result<()> {
    let namespace = Namespace::new("bench-load")?;
    let seconds = peers::seconds_to_load(Peer::NftRaw, &namespace, list)?;
    report.results.push(Measure::at_least(
        format!("nft -f of the same 1M IPv4 ({seconds:.1} s) over our replace"),
        seconds * 1_000.0 / ours,
        "x",
        60.0,
        120.0,
    ));
    let begin = Instant::now();
    peers::succeed(namespace.command("nft").args([
        "add",
        "element",
        "inet",
        "bench",
        "listed",
        "{ 203.0.113.77 }",
    ]))?;
    report.results.push(Measure::plain(
        "nft add element at 1M",
        begin.elapsed().as_secs_f64() * 1_000.0,
        "ms",
    ));
    let seconds = peers::seconds_to_load(Peer::Ipset, &namespace, list)?;
    report.results.push(Measure::plain(
        format!("ipset restore of the same 1M IPv4 ({seconds:.1} s) over our replace"),
        seconds * 1_000.0 / ours,
        "x",
    ));
    Ok(())
}

/// Adds and removes hosts one at a time, alone and beside lookups.
fn single_edits(
    datapath: &mut (impl Datapath + ?Sized),
    bpf: &BpfFs,
    rounds: u32,
    report: &mut Report,
    list: &[IpNet],
) -> Result<()> {
    let members = Members::new(list);
    let hosts: Vec<Rule> = members
        .sources(Kind::Miss, 100_000, &mut Random::new(23))
        .iter()
        .map(|[word, _]| {
            let [a, b, c, d, ..] = word.to_ne_bytes();
            Rule {
                prefix: IpNet::from(std::net::IpAddr::from([a, b, c, d])),
                action: Action::Allow(None),
            }
        })
        .collect();
    let mut edits = hosts
        .iter()
        .flat_map(|rule| [Edit::Add(rule.clone()), Edit::Remove(rule.clone())])
        .cycle();
    let mut edit_for = |duration: Duration| -> Result<f64> {
        let begin = Instant::now();
        let mut count = 0_u64;
        while begin.elapsed() < duration {
            // The clock is read once in so many: it would be a good part of the cost.
            for _ in 0..64 {
                if let Some(edit) = edits.next() {
                    datapath.edit(std::slice::from_ref(&edit))?;
                    count += 1;
                }
            }
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    };
    let rates = (0..rounds)
        .map(|_| edit_for(EDITING))
        .collect::<Result<Vec<_>>>()?;
    report.results.push(Measure::at_least(
        "sustained single edits at 1M IPv4",
        median(rates) / 1e6,
        "M/s",
        1.0,
        10.0,
    ));

    let sources = members.sources(Kind::Hit, SOURCES, &mut Random::new(29));
    let mut programs = Programs::load(&bpf.pins(Side::Compiled.name()))?;
    programs.set_sources(&sources, false)?;
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let alone = beside(&mut programs)?;
        let stop = AtomicBool::new(false);
        let loaded = thread::scope(|scope| -> Result<f64> {
            let looking = scope.spawn(|| {
                let result = beside(&mut programs);
                stop.store(true, Ordering::Relaxed);
                result
            });
            let _pinned = lab::stay_on_sending_core()?;
            while !stop.load(Ordering::Relaxed) {
                edit_for(Duration::from_millis(1))?;
            }
            looking
                .join()
                .map_err(|_| anyhow!("the measurement panicked"))?
        })?;
        ratios.push(loaded / alone);
    }
    report.results.push(Measure::at_most(
        "lookups during edits at full speed, 1M IPv4",
        median(ratios),
        "x",
        2.2,
        1.1,
    ));
    Ok(())
}

/// Lookups on the receiving core, in nanoseconds.
fn beside(programs: &mut Programs) -> Result<f64> {
    thread::scope(|scope| {
        scope
            .spawn(|| -> Result<f64> {
                let _pinned = lab::stay_on_receiving_core()?;
                let times = (0..3)
                    .map(|_| programs.time("judge4", false, PACKETS))
                    .collect::<Result<Vec<_>>>()?;
                Ok(median(times))
            })
            .join()
            .map_err(|_| anyhow!("the measurement panicked"))?
    })
}

/// One edit through the daemon's API at a million entries: on record, kept, in force, answered.
fn through_the_api(rounds: u32, report: &mut Report, list: &[IpNet]) -> Result<()> {
    let wire = lab::Wire::new()?;
    let folder = files::folder("bench-list")?;
    let file = folder.path().join("list.txt");
    rules::write_list(&file, list)?;
    let place = portcullis_tests::place::Place::Namespace(&wire.receiver, lab::RECEIVER.parse()?);
    let agent = portcullis_tests::agent::Agent::start_program(
        &rules::agent()?,
        place,
        &[lab::IN],
        &["198.51.100.1".parse()?],
        "",
        "",
    )?;
    let begin = Instant::now();
    agent
        .command(&["allow", "replace", &file.display().to_string(), "--force"])
        .context("load the list through the command line")?;
    report.results.push(Measure::plain(
        "replace 1M IPv4 by the command line, file -> answered",
        begin.elapsed().as_secs_f64() * 1_000.0,
        "ms",
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(&agent.socket);
    let mut times = Vec::new();
    for index in 0..rounds.max(5) * 8 {
        let host = format!("203.0.113.{}", 1 + index % 250);
        let body = serde_json::json!({ "entries": [{ "prefix": host }] });
        let begin = Instant::now();
        let _: serde_json::Value =
            runtime.block_on(client.send(Method::POST, "/v1/allow", &body))?;
        times.push(begin.elapsed().as_secs_f64() * 1_000.0);
    }
    report.results.push(Measure::plain(
        "one edit through the API at 1M IPv4, least",
        times.iter().copied().fold(f64::MAX, f64::min),
        "ms",
    ));
    report.results.push(Measure::at_most(
        "one edit through the API at 1M IPv4",
        median(times),
        "ms",
        5.0,
        1.0,
    ));
    Ok(())
}
