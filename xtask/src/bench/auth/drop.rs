//! From the failure that decides to the first packet that is dropped before the kernel sees it.
//!
//! Both daemons run in a network namespace; each round has a source of its own, which sends packets all the time. The
//! beginning is the time of the failure's record. The end is when the last packet arrived, once the agent has counted some
//! that it dropped: the next one, a pace later, is the first that did not arrive.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::agent::Agent;
use portcullis_tests::files;
use portcullis_tests::netns::{End, Namespace, veth_pair};
use portcullis_tests::place::Place;
use portcullis_tests::process::PATIENCE;
use portcullis_tests::proxy::{Backend, Bans, Plan, Proxy};
use portcullis_tests::raw_ssh::{Message, Transport, is_failure};
use portcullis_tests::report::{Measure, Report, median};
use serde_json::Value;

use super::lab::Lab;

/// Of the addresses for benchmarks (RFC 2544 appendix C.2.2).
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Sources, one a round, each from a network of its own: a network pays for all its hosts.
const SOURCES: u8 = 30;
const FAILURES: u32 = 3;
/// Where the source sends its packets to.
const PORT: u16 = 9_000;
/// Between two packets of the source.
const PACE: Duration = Duration::from_micros(200);
const DAY: f64 = 86_400.0;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let count = lab.scale(SOURCES, 3);
    let sources: Vec<Ipv4Addr> = (1..=count)
        .map(|network| Ipv4Addr::new(198, 18, network, 2))
        .collect();
    let host = Namespace::new("host")?;
    let gateway = Namespace::new("gateway")?;
    let addresses: Vec<(IpAddr, u8)> = sources.iter().map(|ip| ((*ip).into(), 15)).collect();
    veth_pair(
        End {
            namespace: &host,
            interface: "eth0",
            addresses: &addresses,
        },
        End {
            namespace: &gateway,
            interface: "wan0",
            addresses: &[(GATEWAY.into(), 15)],
        },
    )?;
    let place = Place::Namespace(&gateway, GATEWAY.into());
    let protected = ["203.0.113.1".parse()?];
    let agent = Agent::start_program(&lab.agent()?, place, &["wan0"], &protected, "", "")?;
    agent.command(&["allow", "add", "198.18.0.0/15"])?;
    let storage = files::folder("storage")?;
    let proxy = Plan::of(place, lab.program().to_owned())?
        .backend("archive", Backend::local(storage.path()))
        .bans(Bans {
            agent_socket: agent.socket.clone(),
            failures: FAILURES,
            lifetime_seconds: 600,
        })
        .start()?;

    let arrivals = gateway.inside(|| UdpSocket::bind((GATEWAY, PORT)))??;
    arrivals.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut delays = Vec::new();
    for source in sources {
        let delay = until_dropped(&host, &proxy, &agent.socket, &arrivals, source)?;
        delays.push(delay);
    }
    println!(
        "  {:.1} ms in the middle of {count}, {:.1} ms at most",
        median(delays.iter().copied()),
        delays.iter().copied().fold(0.0, f64::max)
    );
    report.condition(
        "drop",
        format!("{count} sources with a packet each 0.2 ms; from the record of failure {FAILURES} to the first that does not arrive, and is counted as dropped"),
    );
    report.results.extend([
        Measure::at_most(
            "auth.drop",
            median(delays.iter().copied()),
            "ms",
            20.0,
            10.0,
        ),
        Measure::plain(
            "auth.drop.longest",
            delays.into_iter().fold(0.0, f64::max),
            "ms",
        ),
        Measure::plain("auth.drop.agent", median(agent_delays(&proxy)?), "ms"),
    ]);
    Ok(())
}

/// Milliseconds from the record of the last failure to the first packet that is dropped.
fn until_dropped(
    host: &Namespace,
    proxy: &Proxy,
    agent: &Path,
    arrivals: &UdpSocket,
    source: Ipv4Addr,
) -> Result<f64> {
    let before = dropped(agent)?;
    let address = SocketAddrV4::new(GATEWAY, proxy.address.port());
    let (transport, packets) = host.inside(|| -> Result<_> {
        let packets = UdpSocket::bind((source, 0))?;
        packets.connect((GATEWAY, PORT))?;
        Ok((Transport::connect_from(source, address)?, packets))
    })??;
    let mut transport = transport.made_ready()?;
    let guess = Message::password("nobody.at.all", "Not-this-one-2026");
    for _ in 1..FAILURES {
        let answer = transport.ask(&guess)?;
        ensure!(is_failure(&answer), "{answer:?}");
    }
    let is_over = AtomicBool::new(false);
    let last_arrival = thread::scope(|scope| {
        let arrivals = scope.spawn(|| last_arrival(arrivals, source, &is_over));
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // Lost where the queue is full.
                let _ = packets.send(&[0]);
                thread::sleep(PACE);
            }
        });
        let found = transport
            .send(&guess)
            .and_then(|()| until_counted(agent, before));
        is_over.store(true, Ordering::Relaxed);
        found?;
        match arrivals.join() {
            Ok(last) => last,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let decided_at = last_failure(proxy, source)?;
    let dropped_at = last_arrival + PACE.as_secs_f64();
    Ok((dropped_at - decided_at).rem_euclid(DAY) * 1_000.0)
}

/// Milliseconds that the agent took for each ban, as the proxy put them on record.
fn agent_delays(proxy: &Proxy) -> Result<Vec<f64>> {
    let records = proxy.records()?;
    let delays = records
        .iter()
        .filter_map(|record| record.pointer("/body/agent_us")?.as_f64())
        .map(|microseconds| microseconds / 1_000.0);
    Ok(delays.collect())
}

/// When the last packet of the source came, in seconds of the day.
fn last_arrival(arrivals: &UdpSocket, source: Ipv4Addr, is_over: &AtomicBool) -> Result<f64> {
    let mut last = None;
    loop {
        match arrivals.recv_from(&mut [0]) {
            Ok((_, from)) if from.ip() == source => {
                last = Some(SystemTime::now().duration_since(UNIX_EPOCH)?);
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if is_over.load(Ordering::Relaxed) {
                    let last = last.context("no packet arrives before the ban")?;
                    return Ok(last.as_secs_f64().rem_euclid(DAY));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until the agent has dropped more packets of banned sources.
fn until_counted(agent: &Path, before: u64) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        // Seldom, so that the agent is not busy with the question.
        thread::sleep(Duration::from_millis(100));
        if dropped(agent)? > before {
            return Ok(());
        }
    }
    bail!("the source is not dropped after {PATIENCE:?}");
}

/// When the last failure of the source went on record, in seconds of the day.
fn last_failure(proxy: &Proxy, source: Ipv4Addr) -> Result<f64> {
    let source = source.to_string();
    let records = proxy.records()?;
    let last = records
        .iter()
        .rev()
        .find(|record| {
            record.get("event").and_then(Value::as_str) == Some("auth.step")
                && record.pointer("/src/ip").and_then(Value::as_str) == Some(source.as_str())
        })
        .context("the failure is on record")?;
    let time = last
        .get("ts")
        .and_then(Value::as_str)
        .context("a record has its time")?;
    second_of_day(time).with_context(|| format!("{time:?} is a time"))
}

/// Of a time such as `2026-11-22T16:01:08.397527Z`.
fn second_of_day(time: &str) -> Option<f64> {
    let (_, clock) = time.trim_end_matches('Z').split_once('T')?;
    let mut parts = clock.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3_600.0 + next()? * 60.0 + next()?)
}

/// The agent's counter of packets of banned sources, asked over its socket: a process each time would take longer than
/// what is measured.
fn dropped(agent: &Path) -> Result<u64> {
    let mut stream = UnixStream::connect(agent)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .context("the agent answers over HTTP")?;
    let status: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    status
        .pointer("/counters/dropped/banned")
        .and_then(Value::as_u64)
        .context("the agent counts what it drops")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_time_is_read() {
        let second = second_of_day("2026-11-22T16:01:08.397527Z").unwrap();
        assert!((second - 57_668.397_527).abs() < 1e-6);
        assert_eq!(second_of_day("16:01"), None);
    }
}
