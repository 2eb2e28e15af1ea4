//! Memory of connections that announce the largest packet and never log in, and the limit on all of them together.

use std::time::Duration;

use anyhow::{Result, ensure};
use portcullis_tests::process::wait_for;
use portcullis_tests::raw_ssh::{Heard, Transport};
use portcullis_tests::report::{Measure, Report};

use super::lab::{Lab, resident};

const CONNECTIONS: u32 = 1_000;
/// Connections before the growth is measured: the allocator's first chunks.
const FIRST: u32 = 50;
/// The largest length that is accepted, in bytes, and how much of the packet is sent.
const ANNOUNCED: u32 = 256 << 10;
const SENT: usize = 8 << 10;
/// Tries beyond the limit.
const BEYOND: u32 = 50;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let count = lab.scale(CONNECTIONS, 60);
    let first = lab.scale(FIRST, 10);
    let gateway = lab.gateway(count)?;
    let process = gateway.proxy.process.id();
    let open = |many: u32| -> Result<Vec<Transport>> {
        (0..many)
            .map(|_| {
                let mut transport = Transport::connect(gateway.proxy.address)?;
                let announced = [&ANNOUNCED.to_be_bytes()[..], &vec![0; SENT]].concat();
                // One that is turned away at once hears nothing and can't say much.
                if transport.identify().is_ok() {
                    let _ = transport.send_bytes(&announced);
                }
                Ok(transport)
            })
            .collect()
    };
    // What was sent last has arrived when the memory grows no more.
    let settled = || -> Result<f64> {
        let mut last = resident(process)?;
        wait_for("the memory to settle", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = resident(process).ok()?;
            let is_settled = (now - last).abs() < 64.0;
            last = now;
            is_settled.then_some(now)
        })
    };

    let mut connections = open(first)?;
    let before = settled()?;
    connections.extend(open(count - first)?);
    let after = settled()?;
    let each = (after - before) / f64::from(count - first);

    // One more than there is room for is turned away, or another one gives way to it.
    connections.extend(open(BEYOND)?);
    let beyond = settled()?;
    let mut still_open = 0_u32;
    for connection in &mut connections {
        still_open += u32::from(is_open(connection)?);
    }
    drop(connections);
    // Once they have gone there is room again.
    wait_for("a connection after the attack", || {
        Transport::ready(gateway.proxy.address).ok()
    })?;
    ensure!(
        !gateway.proxy.process.log().contains("panicked"),
        "the proxy panicked"
    );

    println!(
        "  {each:.0} KiB for each of {count} connections; {still_open} of {} are open at the limit, {:.0} KiB more",
        count + BEYOND,
        beyond - after
    );
    report.condition(
        "memory",
        format!("growth from {first} to {count} connections that announced {ANNOUNCED} bytes and sent {SENT}"),
    );
    report.results.extend([
        Measure::at_most("auth.memory.unauthenticated", each, "KiB", 350.0, 100.0),
        Measure::at_most(
            "auth.memory.beyond_the_limit",
            f64::from(still_open.saturating_sub(count)),
            "connections",
            0.0,
            0.0,
        ),
        Measure::plain("auth.memory.resident", beyond / 1024.0, "MiB"),
    ]);
    Ok(())
}

/// False if the server has closed the connection; what it said before is thrown away.
fn is_open(transport: &mut Transport) -> Result<bool> {
    transport.set_patience(Duration::from_millis(5))?;
    loop {
        match transport.hear() {
            Ok(Heard::Message(_)) => {}
            Ok(Heard::Closed) => return Ok(false),
            Err(_) => return Ok(true),
        }
    }
}
