//! Four hosts and what runs on them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use portcullis_tests::account::{Account, Mount};
use portcullis_tests::agent::Agent;
use portcullis_tests::files;
use portcullis_tests::netns::{End, Namespace, veth_pair};
use portcullis_tests::place::Place;
use portcullis_tests::proxy::{Backend, Bans, Plan, Proxy};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use serde_json::Value;
use tempfile::TempDir;

/// Documentation addresses (RFC 5737).
pub(super) const PARTNER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Another machine in the partner's network, which guesses codes.
pub(super) const GUESSER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const PARTNER_NETWORK: &str = "192.0.2.0/24";
const GATEWAY_TO_PARTNER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GATEWAY_TO_STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const GATEWAY_TO_LEGACY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const LEGACY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// How many wrong codes a source may send.
pub(super) const FAILURES: u32 = 3;

/// Everything that runs. Fields are dropped from the top: daemons before their hosts.
pub(super) struct Stage {
    pub(super) proxy: Proxy,
    pub(super) agent: Agent,
    pub(super) legacy_server: Vsftpd,
    pub(super) alice: Account,
    /// The partner's own files.
    pub(super) desk: TempDir,
    partner: Namespace,
    stranger: Namespace,
    gateway: Namespace,
    _legacy: Namespace,
}

impl Stage {
    /// Makes the hosts, joins them and starts the servers.
    pub(super) fn build() -> Result<Self> {
        let partner = Namespace::new("demo-partner")?;
        let stranger = Namespace::new("demo-stranger")?;
        let gateway = Namespace::new("demo-gateway")?;
        let legacy = Namespace::new("demo-legacy")?;
        join(&partner, PARTNER, &gateway, "partner0", GATEWAY_TO_PARTNER)?;
        join(
            &stranger,
            STRANGER,
            &gateway,
            "internet0",
            GATEWAY_TO_STRANGER,
        )?;
        join(&legacy, LEGACY, &gateway, "legacy0", GATEWAY_TO_LEGACY)?;
        partner.add_address("eth0", GUESSER.into(), 24)?;
        stranger.ip(&[
            "route",
            "add",
            "default",
            "via",
            &GATEWAY_TO_STRANGER.to_string(),
        ])?;
        println!("partner  {PARTNER} --.");
        println!(
            "                        >-- gateway {GATEWAY_TO_PARTNER} | {GATEWAY_TO_LEGACY} --- legacy {LEGACY}"
        );
        println!("stranger {STRANGER} --'");

        let legacy_server = Vsftpd::start(Place::Namespace(&legacy, LEGACY.into()), Tls::None)?;
        println!("legacy:  vsftpd listens on {}", legacy_server.address);

        let at_gateway = Place::Namespace(&gateway, GATEWAY_TO_PARTNER.into());
        let protected: [IpAddr; 1] = [LEGACY.into()];
        let agent = Agent::start(at_gateway, &["partner0", "internet0"], &protected)?;
        agent.command(&["allow", "add", PARTNER_NETWORK])?;
        println!("gateway: portcullis-agent drops at XDP what is not from {PARTNER_NETWORK}");
        let status = agent.status()?;
        let interfaces = status.get("interfaces").and_then(Value::as_array);
        for interface in interfaces.into_iter().flatten() {
            println!("         {interface}");
        }

        let proxy = Plan::new(at_gateway)?
            .backend("legacy", Backend::vsftpd(&legacy_server))
            .bans(Bans {
                agent_socket: agent.socket.clone(),
                failures: FAILURES,
                lifetime_seconds: 600,
            })
            .start()?;
        println!("gateway: portcullis-proxy listens on {}", proxy.address);
        let alice = proxy.account("alice", &[Mount::all("/inbox", "legacy", "/")])?;
        println!("gateway: account alice has a password and a phone; /inbox is the legacy server");
        Ok(Self {
            proxy,
            agent,
            legacy_server,
            alice,
            desk: files::folder("desk")?,
            partner,
            stranger,
            gateway,
            _legacy: legacy,
        })
    }

    pub(super) fn at_partner(&self) -> Place<'_> {
        Place::Namespace(&self.partner, PARTNER.into())
    }

    pub(super) fn at_gateway(&self) -> Place<'_> {
        Place::Namespace(&self.gateway, GATEWAY_TO_PARTNER.into())
    }

    pub(super) fn at_stranger(&self) -> Place<'_> {
        Place::Namespace(&self.stranger, STRANGER.into())
    }

    /// The last lines of both daemons' logs, for a step that failed.
    pub(super) fn print_logs(&self) {
        for (name, log) in [
            ("portcullis-agent", self.agent.process.log()),
            ("portcullis-proxy", self.proxy.process.log()),
        ] {
            println!("-- the last lines of {name}");
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(15)) {
                println!("   {line}");
            }
        }
    }
}

fn join(
    host: &Namespace,
    address: Ipv4Addr,
    gateway: &Namespace,
    interface: &str,
    gateway_address: Ipv4Addr,
) -> Result<()> {
    veth_pair(
        End {
            namespace: host,
            interface: "eth0",
            addresses: &[(address.into(), 24)],
        },
        End {
            namespace: gateway,
            interface,
            addresses: &[(gateway_address.into(), 24)],
        },
    )
}
