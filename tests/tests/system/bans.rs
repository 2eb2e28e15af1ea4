//! Failed logins at the proxy become bans at the agent, on the wire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::account::{Account, Factors};
use portcullis_tests::agent::Agent;
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::netns::{End, Namespace, veth_pair};
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Bans, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUESSER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 67);
const FAILURES: u32 = 3;

/// A gateway with both daemons, and one host with two addresses, both allowed.
struct Site {
    proxy: Proxy,
    agent: Agent,
    alice: Account,
    host: Namespace,
    _gateway: Namespace,
    _storage: TempDir,
}

impl Site {
    fn new(protected: &[IpAddr]) -> Result<Self> {
        let host = Namespace::new("host")?;
        let gateway = Namespace::new("gateway")?;
        veth_pair(
            End {
                namespace: &host,
                interface: "eth0",
                addresses: &[(GUESSER.into(), 24), (NEIGHBOUR.into(), 24)],
            },
            End {
                namespace: &gateway,
                interface: "wan0",
                addresses: &[(GATEWAY.into(), 24)],
            },
        )?;
        let storage = files::folder("storage")?;
        let place = Place::Namespace(&gateway, GATEWAY.into());
        let agent = Agent::start(place, &["wan0"], protected)?;
        agent.command(&["allow", "add", "192.0.2.0/24"])?;
        let proxy = Plan::new(place)?
            .backend("archive", Backend::local(storage.path()))
            .bans(Bans {
                agent_socket: agent.socket.clone(),
                failures: FAILURES,
                lifetime_seconds: 600,
            })
            .start()?;
        let alice = proxy.account("alice", &[])?;
        Ok(Self {
            proxy,
            agent,
            alice,
            host,
            _gateway: gateway,
            _storage: storage,
        })
    }

    /// A login with the right password and a wrong code.
    fn guess(&self, source: Ipv4Addr) -> Result<Answer> {
        let output = OpensshConnection::with_answers(
            &self.proxy,
            &self.alice,
            Factors::PasswordThenCode,
            &self.alice.password,
            &self.alice.phone.wrong_code(),
        )?
        .option(&format!("BindAddress={source}"))
        .option("ConnectTimeout=2")
        .ssh(Place::Namespace(&self.host, source.into()), &["-s", "sftp"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            bail!("a wrong code was accepted");
        } else if said.contains("timed out") {
            Ok(Answer::Silence)
        } else if said.contains("Permission denied") || said.contains("Too many") {
            Ok(Answer::Refusal)
        } else {
            bail!("ssh says {said}");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The proxy spoke, and refused.
    Refusal,
    /// No packet came back.
    Silence,
}

#[test]
fn a_source_that_fails_too_often_is_dropped_on_the_wire_and_its_neighbour_is_not() -> Result<()> {
    let site = Site::new(&["203.0.113.1".parse()?])?;
    for _ in 0..FAILURES {
        ensure!(
            site.guess(GUESSER)? == Answer::Refusal,
            "the source was dropped too early"
        );
    }
    wait_for("the agent to drop the source", || {
        (site.guess(GUESSER).ok()? == Answer::Silence).then_some(())
    })?;
    ensure!(
        site.agent.dropped("banned")? > 0,
        "the drops aren't counted as a ban"
    );
    ensure!(
        site.guess(NEIGHBOUR)? == Answer::Refusal,
        "a source that failed once is dropped"
    );
    Ok(())
}

#[test]
fn fewer_failures_than_the_limit_ban_nobody() -> Result<()> {
    let site = Site::new(&["203.0.113.1".parse()?])?;
    for _ in 1..FAILURES {
        site.guess(GUESSER)?;
    }
    // The proxy asks for bans in the order of failures: when the neighbour's ban holds, one for
    // the guesser would have been asked for before.
    for _ in 0..FAILURES {
        site.guess(NEIGHBOUR)?;
    }
    wait_for("the agent to drop the neighbour", || {
        (site.guess(NEIGHBOUR).ok()? == Answer::Silence).then_some(())
    })?;
    ensure!(
        site.guess(GUESSER)? == Answer::Refusal,
        "the source is banned below the limit"
    );
    Ok(())
}

#[test]
fn a_protected_source_is_never_banned() -> Result<()> {
    let site = Site::new(&[GUESSER.into()])?;
    for _ in 0..FAILURES {
        site.guess(GUESSER)?;
    }
    for _ in 0..FAILURES {
        site.guess(NEIGHBOUR)?;
    }
    wait_for("the agent to drop the unprotected neighbour", || {
        (site.guess(NEIGHBOUR).ok()? == Answer::Silence).then_some(())
    })?;
    ensure!(
        site.guess(GUESSER)? == Answer::Refusal,
        "the protected source is dropped"
    );
    let bans = site.agent.command(&["bans"])?;
    ensure!(
        !bans.contains(&GUESSER.to_string()),
        "the agent lists a ban: {bans}"
    );
    Ok(())
}

#[test]
fn a_ban_outlives_the_agent_that_set_it() -> Result<()> {
    let mut site = Site::new(&["203.0.113.1".parse()?])?;
    for _ in 0..FAILURES {
        site.guess(GUESSER)?;
    }
    wait_for("the agent to drop the source", || {
        (site.guess(GUESSER).ok()? == Answer::Silence).then_some(())
    })?;
    site.agent.process.kill()?;
    ensure!(
        site.guess(GUESSER)? == Answer::Silence,
        "the ban ended with the agent"
    );
    ensure!(
        site.guess(NEIGHBOUR)? == Answer::Refusal,
        "an allowed source was cut off with the agent's death"
    );
    Ok(())
}

/// Longest median from the decision to the first packet that is dropped, on a machine that is busy with other tests;
/// unloaded it is some milliseconds.
const BAR: Duration = Duration::from_millis(200);
const ROUNDS: u8 = 5;

#[test]
fn the_first_packet_is_dropped_soon_after_the_deciding_failure() -> Result<()> {
    let site = Site::new(&["203.0.113.1".parse()?])?;
    let mut waits = Vec::new();
    for round in 0..ROUNDS {
        let source = Ipv4Addr::new(192, 0, 2, 100 + round);
        site.host.add_address("eth0", source.into(), 24)?;
        for _ in 1..FAILURES {
            site.guess(source)?;
        }
        let dropped = thread::scope(|scope| {
            let watch = scope.spawn(|| site.host.inside(|| first_silence(source)));
            site.guess(source)?;
            watch.join().unwrap_or_else(|panic| resume_unwind(panic))?
        })?;
        let record = site.ban_of(source)?;
        let decided = time(&record, "decided")?;
        let wait = dropped.duration_since(decided).unwrap_or_default();
        println!(
            "decided {decided:?}, agent done after {} us, first packet dropped after {wait:?}",
            record.pointer("/body/agent_us").unwrap_or(&Value::Null)
        );
        waits.push(wait);
    }
    waits.sort();
    let median = waits.get(waits.len() / 2).context("a median")?;
    println!("median {median:?} from the decision to the first dropped packet");
    ensure!(*median <= BAR, "median {median:?}: {waits:?}");
    Ok(())
}

impl Site {
    fn ban_of(&self, source: Ipv4Addr) -> Result<Value> {
        wait_for("the record of the ban", || {
            self.proxy.records().ok()?.into_iter().find(|record| {
                record.get("event").and_then(Value::as_str) == Some("ban.change")
                    && record.pointer("/body/cidr").and_then(Value::as_str)
                        == Some(&format!("{source}/32"))
            })
        })
    }
}

/// When the first connection attempt got no answer. One to a closed port is refused at once as long as packets pass.
fn first_silence(source: Ipv4Addr) -> Result<SystemTime> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let closed = SocketAddr::new(GATEWAY.into(), 9);
    let deadline = SystemTime::now() + Duration::from_secs(120);
    while SystemTime::now() < deadline {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::new(source.into(), 0))?;
        set_socket_timeout(&socket, Timeout::Send, Some(Duration::from_millis(900)))?;
        let begun = SystemTime::now();
        match connect(&socket, &closed) {
            // A probe each millisecond.
            Err(rustix::io::Errno::CONNREFUSED) => thread::sleep(Duration::from_millis(1)),
            // The kernel sends the first SYN again after a second.
            Err(_) => return Ok(begun),
            Ok(()) => bail!("something listens on the closed port"),
        }
    }
    bail!("the source was never dropped")
}

fn time(record: &Value, field: &str) -> Result<SystemTime> {
    let text = record
        .pointer(&format!("/body/{field}"))
        .and_then(Value::as_str)
        .with_context(|| format!("{field} in {record}"))?;
    let time: chrono::DateTime<chrono::Utc> = text.parse()?;
    Ok(time.into())
}
