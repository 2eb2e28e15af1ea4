//! The packet filters that the agent is measured against, in the receiver's namespace.

use std::{fmt::Write as _, fs, process::Command, time::Duration};

use anyhow::Result;
use ipnet::IpNet;
use portcullis_tests::{files, netns::Namespace, process::succeed_within};

use crate::lab::IN;

/// A filter of the system that drops what a set does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// nftables in the netdev family, hook ingress.
    NftIngress,
    /// nftables in the inet family, hook prerouting, priority raw.
    NftRaw,
    /// iptables, table raw, with an ipset of type hash:net.
    Ipset,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::NftIngress, Self::NftRaw, Self::Ipset];

    /// Makes `namespace` drop every IPv4 packet whose source is not in `list`.
    pub(crate) fn enforce(self, namespace: &Namespace, list: &[IpNet]) -> Result<()> {
        let folder = files::folder("bench-peer")?;
        let file = folder.path().join("rules");
        fs::write(&file, self.rules(list))?;
        match self {
            Self::NftIngress | Self::NftRaw => {
                succeed(namespace.command("nft").arg("-f").arg(&file))?;
            }
            Self::Ipset => {
                succeed(
                    namespace
                        .command("ipset")
                        .arg("restore")
                        .arg("-file")
                        .arg(&file),
                )?;
                succeed(namespace.command("iptables").args([
                    "-t",
                    "raw",
                    "-A",
                    "PREROUTING",
                    "-i",
                    IN,
                    "-m",
                    "set",
                    "!",
                    "--match-set",
                    "listed",
                    "src",
                    "-j",
                    "DROP",
                ]))?;
            }
        }
        Ok(())
    }

    /// What the peer's own tool reads.
    pub(crate) fn rules(self, list: &[IpNet]) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = match self {
            Self::NftIngress => nft(
                &mut text,
                "netdev",
                &format!("filter hook ingress device {IN} priority 0"),
                list,
            ),
            Self::NftRaw => nft(
                &mut text,
                "inet",
                "filter hook prerouting priority raw",
                list,
            ),
            Self::Ipset => ipset(&mut text, list),
        };
        text
    }
}

fn nft(text: &mut String, family: &str, chain: &str, list: &[IpNet]) -> std::fmt::Result {
    writeln!(
        text,
        "table {family} bench {{\n set listed {{ type ipv4_addr; flags interval; auto-merge; elements = {{"
    )?;
    for prefix in list {
        writeln!(text, "{prefix},")?;
    }
    writeln!(
        text,
        "}}\n }}\n chain judge {{ type {chain}; policy accept;"
    )?;
    writeln!(
        text,
        "  ip saddr @listed accept\n  meta protocol ip drop\n }}\n}}"
    )
}

fn ipset(text: &mut String, list: &[IpNet]) -> std::fmt::Result {
    let room = list.len().max(1).next_power_of_two();
    writeln!(
        text,
        "create listed hash:net family inet hashsize {room} maxelem {}",
        room * 2
    )?;
    for prefix in list {
        writeln!(text, "add listed {prefix} -exist")?;
    }
    Ok(())
}

/// Runs a peer's own tool, which takes minutes for a large set.
pub(crate) fn succeed(command: &mut Command) -> Result<String> {
    succeed_within(command, Duration::from_secs(600))
}

/// Takes the peer's rules away again.
pub(crate) fn clear(namespace: &Namespace) -> Result<()> {
    succeed(namespace.command("nft").args(["flush", "ruleset"]))?;
    // Gone already when the set was never made.
    let _ = namespace.command("ipset").arg("destroy").output();
    Ok(())
}

/// How long the kernel's own tool takes to load the list, in seconds.
pub(crate) fn seconds_to_load(peer: Peer, namespace: &Namespace, list: &[IpNet]) -> Result<f64> {
    let folder = files::folder("bench-peer")?;
    let file = folder.path().join("rules");
    fs::write(&file, peer.rules(list))?;
    let mut command: Command = match peer {
        Peer::NftIngress | Peer::NftRaw => {
            let mut nft = namespace.command("nft");
            nft.arg("-f").arg(&file);
            nft
        }
        Peer::Ipset => {
            let mut ipset = namespace.command("ipset");
            ipset.arg("restore").arg("-file").arg(&file);
            ipset
        }
    };
    let begin = std::time::Instant::now();
    succeed(&mut command)?;
    Ok(begin.elapsed().as_secs_f64())
}
