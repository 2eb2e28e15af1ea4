//! The networks of the accounts are the allowlist: who is taken off is dropped on the wire, and his session ends.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_tests::account::{Factors, Mount};
use portcullis_tests::agent::Agent;
use portcullis_tests::client::OpensshConnection;
use portcullis_tests::files;
use portcullis_tests::netns::{End, Namespace, veth_pair};
use portcullis_tests::place::Place;
use portcullis_tests::process::wait_for;
use portcullis_tests::proxy::{Backend, Plan, Proxy};
use serde_json::Value;
use tempfile::TempDir;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PARTNER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 67);
/// What a removed source may go on for.
const BAR: Duration = Duration::from_secs(5);

/// A gateway whose agent knows nobody but through the accounts.
struct Site {
    proxy: Proxy,
    agent: Agent,
    host: Namespace,
    gateway: Namespace,
    _storage: TempDir,
}

impl Site {
    fn new() -> Result<Self> {
        let host = Namespace::new("host")?;
        let gateway = Namespace::new("gateway")?;
        veth_pair(
            End {
                namespace: &host,
                interface: "eth0",
                addresses: &[(PARTNER.into(), 24), (OTHER.into(), 24)],
            },
            End {
                namespace: &gateway,
                interface: "wan0",
                addresses: &[(GATEWAY.into(), 24)],
            },
        )?;
        let storage = files::folder("storage")?;
        let place = Place::Namespace(&gateway, GATEWAY.into());
        let agent = Agent::start_with(
            place,
            &["wan0"],
            &["203.0.113.1".parse()?],
            "offer_groups = [0]\n[control.offers]\nscope = \"tcp/22\"\n",
        )?;
        let proxy = Plan::new(place)?
            .backend("archive", Backend::local(storage.path()))
            .sections(&format!(
                "[allowlist]\nagent_socket = \"{}\"\n",
                agent.socket.display()
            ))
            .start()?;
        Ok(Self {
            proxy,
            agent,
            host,
            gateway,
            _storage: storage,
        })
    }

    /// Whether the gateway speaks to a connection from `source`.
    fn reaches(&self, source: Ipv4Addr) -> Result<bool> {
        let target = SocketAddr::new(GATEWAY.into(), 22);
        self.host.inside(|| -> Result<bool> {
            let Some(mut stream) = connect_from(source.into(), target)? else {
                return Ok(false);
            };
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut banner = [0; 4];
            Ok(stream.read_exact(&mut banner).is_ok())
        })?
    }

    fn wait_until_reached(&self, source: Ipv4Addr) -> Result<()> {
        wait_for(&format!("{source} to be let in"), || {
            self.reaches(source).ok()?.then_some(())
        })
    }
}

/// `None` if nobody answers.
fn connect_from(source: IpAddr, target: SocketAddr) -> Result<Option<TcpStream>> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    let stream = TcpStream::from(socket);
    // A SYN that is not answered is sent again after a second.
    rustix::net::sockopt::set_socket_timeout(
        &stream,
        rustix::net::sockopt::Timeout::Send,
        Some(Duration::from_millis(1500)),
    )?;
    Ok(connect(&stream, &target).is_ok().then_some(stream))
}

#[test]
fn a_source_of_an_account_reaches_the_gateway_until_it_is_taken_from_it() -> Result<()> {
    let site = Site::new()?;
    let mut alice = site
        .proxy
        .account("alice", &[Mount::all("/archive", "archive", "/")])?;
    ensure!(!site.reaches(PARTNER)?, "nobody is listed");
    let set = |sources: &str| {
        site.proxy
            .command(&["account", "set", "alice", "--source", sources])
    };
    set("192.0.2.66/32,198.51.100.0/24")?;
    site.wait_until_reached(PARTNER)?;
    ensure!(!site.reaches(OTHER)?, "the neighbour is let in too");
    let listed: Value = serde_json::from_str(&site.agent.command(&["allow", "export"])?)?;
    ensure!(
        listed.to_string().contains("offer:accounts") && listed.to_string().contains("alice"),
        "{listed}"
    );

    let connection = OpensshConnection::new(&site.proxy, &mut alice, Factors::KeyThenPassword)?
        .option(&format!("BindAddress={PARTNER}"));
    let mut session = connection.start_subsystem(Place::Namespace(&site.host, PARTNER.into()))?;
    wait_for("the login", || {
        let records = site.proxy.records().ok()?;
        let is_login = |record: &&Value| {
            record.get("event").and_then(Value::as_str) == Some("auth.result")
                && record.get("outcome").and_then(Value::as_str) == Some("success")
        };
        records.iter().find(is_login).map(|_| ())
    })?;
    let begun = Instant::now();
    set("198.51.100.0/24")?;
    wait_for("the live session to be cut", || {
        let records = site.proxy.records().ok()?;
        let is_cut = |record: &&Value| {
            record.get("event").and_then(Value::as_str) == Some("conn.close")
                && record.get("user").is_some_and(|user| !user.is_null())
        };
        records.iter().find(is_cut).map(|_| ())
    })?;
    let cut = begun.elapsed();
    wait_for("the source to be dropped on the wire", || {
        (!site.reaches(PARTNER).ok()?).then_some(())
    })?;
    let dropped = begun.elapsed();
    println!(
        "source taken from the account: session cut after {cut:?}, packets dropped after at most {dropped:?}"
    );
    ensure!(
        cut < BAR && dropped < 2 * BAR,
        "cut after {cut:?}, dropped after {dropped:?}"
    );
    session.kill()?;
    session.wait()?;
    ensure!(
        site.agent.dropped("not_listed")? > 0,
        "the drops aren't counted"
    );
    Ok(())
}

#[test]
fn an_agent_and_a_gateway_that_were_away_agree_again() -> Result<()> {
    let mut site = Site::new()?;
    site.proxy.account("alice", &[])?;
    let set = |site: &Site, source: &str| {
        let set = ["account", "set", "alice", "--source", source];
        site.proxy.command(&set)
    };
    set(&site, "192.0.2.66/32")?;
    site.wait_until_reached(PARTNER)?;

    // The agent is away while the accounts change: the kernel goes on with what it has.
    site.agent.process.kill()?;
    set(&site, "192.0.2.67/32")?;
    ensure!(
        site.reaches(PARTNER)?,
        "the last good list ended with the agent"
    );
    let place = Place::Namespace(&site.gateway, GATEWAY.into());
    site.agent.start_again(place)?;
    site.wait_until_reached(OTHER)?;
    ensure!(!site.reaches(PARTNER)?, "the old source is still let in");

    // The gateway is away: its list stays, and what changed meanwhile is taken when it is back.
    site.proxy.process.kill()?;
    set(&site, "192.0.2.66/32")?;
    let listed = site.agent.command(&["allow", "export"])?;
    ensure!(listed.contains("192.0.2.67"), "{listed}");
    site.proxy.start_again(place)?;
    site.wait_until_reached(PARTNER)
        .context("after the gateway's restart")?;
    Ok(())
}
