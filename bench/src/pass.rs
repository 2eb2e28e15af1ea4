//! TCP of an allowed source through a veth pair: the agent against a program that only passes.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use aya::programs::XdpMode;
use portcullis_agent::datapath::Datapath as _;
use portcullis_tests::{
    files,
    netns::Namespace,
    process::{Running, succeed},
    report::{Measure, Report, median},
};

use crate::{
    lab::{BpfFs, IN, RECEIVER, Wire},
    program::Programs,
    rules::{self, Side},
};

const SECONDS: u32 = 2;

pub(crate) fn run(rounds: u32, report: &mut Report) -> Result<()> {
    let bpf = BpfFs::mount()?;
    let agent = Wire::new()?;
    let mut list = rules::prefixes(false, 100_000);
    list.push("192.0.2.0/24".parse()?);
    let _datapath = agent.receiver.inside(|| -> Result<_> {
        let mut datapath = rules::open_on(&bpf, Side::Compiled, &[IN])?;
        datapath.switch(rules::allow(&list), &rules::plain())?;
        let state = datapath.tend();
        rules::must_be_native(&state)?;
        Ok(datapath)
    })??;

    let plain = Wire::new()?;
    drop(rules::open_at(&bpf, "plain", Side::Compiled, &[])?);
    let mut programs = Programs::load(&bpf.pins("plain"))?;
    plain.receiver.inside(|| -> Result<()> {
        programs.program("pass")?.attach(IN, XdpMode::Driver)?;
        Ok(())
    })??;

    let folder = files::folder("bench-iperf")?;
    let mut servers = Vec::new();
    for (name, wire) in [("agent", &agent), ("pass", &plain)] {
        servers.push(server(&wire.receiver, &folder.path().join(name))?);
    }
    let mut ratios = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..rounds {
        let peer = gigabits(&plain)?;
        let with_agent = gigabits(&agent)?;
        ours.push(with_agent);
        ratios.push(with_agent / peer);
    }
    report.results.push(Measure::plain(
        "TCP through veth, allowed source",
        median(ours),
        "Gbit/s",
    ));
    report.results.push(Measure::at_least(
        "TCP through veth against XDP_PASS",
        median(ratios),
        "x",
        0.95,
        0.99,
    ));
    Ok(())
}

fn server(namespace: &Namespace, log: &std::path::Path) -> Result<Running> {
    let mut command: Command = namespace.command("iperf3");
    command.args(["--server", "--bind", RECEIVER, "--forceflush"]);
    let mut server = Running::start("iperf3", &mut command, log)?;
    server.wait_until("listening", |server| {
        fs::read_to_string(log)
            .unwrap_or_else(|_| server.log())
            .contains("listening")
    })?;
    Ok(server)
}

fn gigabits(wire: &Wire) -> Result<f64> {
    // The server frees its place a moment after the last client.
    std::thread::sleep(Duration::from_millis(200));
    let printed = succeed(wire.sender.command("iperf3").args([
        "--client",
        RECEIVER,
        "--json",
        "--time",
        &SECONDS.to_string(),
    ]))?;
    let result: serde_json::Value = serde_json::from_str(&printed)?;
    result
        .pointer("/end/sum_received/bits_per_second")
        .and_then(serde_json::Value::as_f64)
        .map(|bits| bits / 1e9)
        .context("iperf3 reports what was received")
}
