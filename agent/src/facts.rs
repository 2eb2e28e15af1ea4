//! What the running machine says of addresses that must never be cut off: peers of SSH sessions, gateways, DNS and NTP servers.
//!
//! An address is protected only if somebody with rights on this host made it matter: an open connection alone does not, since
//! anybody can open one (see [`sessions`]). A gateway learned from the link counts, router advertisements included: who can
//! forge those can as well send from the true gateway's address.

pub mod flows;
pub mod routes;
pub mod servers;
pub mod sessions;

use std::{collections::BTreeSet, fmt, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::Serialize;

pub use self::flows::{Flow, live_flows};

/// Addresses of one kind that are protected at most.
const MAX_OF_A_KIND: usize = 256;

/// Which facts count, and where they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// TCP ports of the SSH server; none turns these facts off.
    pub ssh_ports: BTreeSet<u16>,
    pub gateways: bool,
    pub dns: bool,
    pub ntp: bool,
    /// How often they are read without a change that asks for them.
    pub interval: Duration,
    /// Where the file system begins, for tests.
    pub root: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ssh_ports: BTreeSet::from([22]),
            gateways: true,
            dns: true,
            ntp: true,
            interval: Duration::from_secs(30),
            root: PathBuf::from("/"),
        }
    }
}

/// An address, and why it is protected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    pub address: IpAddr,
    pub origin: Origin,
}

impl Fact {
    /// The address as a prefix.
    pub fn prefix(&self) -> IpNet {
        self.address.into()
    }
}

/// Where a fact comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Ssh { port: u16 },
    Gateway { interface: String },
    Dns { file: String },
    Ntp { file: String },
}

impl Origin {
    fn kind(&self) -> Kind {
        match self {
            Self::Ssh { .. } => Kind::Ssh,
            Self::Gateway { .. } => Kind::Gateway,
            Self::Dns { .. } => Kind::Dns,
            Self::Ntp { .. } => Kind::Ntp,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh { port } => write!(f, "peer of a live SSH session (port {port})"),
            Self::Gateway { interface } => write!(f, "default gateway on {interface}"),
            Self::Dns { file } => write!(f, "DNS server ({file})"),
            Self::Ntp { file } => write!(f, "NTP server ({file})"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ssh,
    Gateway,
    Dns,
    Ntp,
}

/// The facts as they were last read. What can't be read keeps what was read before.
#[derive(Debug)]
pub struct Facts {
    settings: Settings,
    facts: BTreeSet<Fact>,
    problems: Vec<String>,
}

impl Facts {
    /// Begins with no facts.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            facts: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// Reads the facts; gives whether they differ from those read before.
    pub fn refresh(&mut self) -> bool {
        self.read(None)
    }

    /// Reads the facts, sessions only of peers within `network`: those of others stay as they were read before.
    pub fn refresh_about(&mut self, network: &IpNet) -> bool {
        self.read(Some(network))
    }

    fn read(&mut self, about: Option<&IpNet>) -> bool {
        let settings = &self.settings;
        let mut found = BTreeSet::new();
        let mut problems = Vec::new();
        let kinds = [
            (
                Kind::Ssh,
                !settings.ssh_ports.is_empty(),
                sessions::peers as fn(&Settings, Option<&IpNet>) -> Result<Vec<Fact>, String>,
            ),
            (Kind::Gateway, settings.gateways, |settings, _| {
                routes::gateways(settings)
            }),
            (Kind::Dns, settings.dns, |settings, _| {
                servers::dns(settings)
            }),
            (Kind::Ntp, settings.ntp, |settings, _| {
                servers::ntp(settings)
            }),
        ];
        for (kind, is_on, read) in kinds {
            if !is_on {
                continue;
            }
            let elsewhere = self.facts.iter().filter(|fact| {
                kind == Kind::Ssh
                    && fact.origin.kind() == kind
                    && about.is_some_and(|network| !network.contains(&fact.address))
            });
            match read(settings, about) {
                Ok(facts) => {
                    let facts: BTreeSet<Fact> = facts
                        .into_iter()
                        .filter_map(usable)
                        .chain(elsewhere.cloned())
                        .collect();
                    if facts.len() > MAX_OF_A_KIND {
                        problems.push(format!(
                            "{} addresses ({}); {MAX_OF_A_KIND} of them are protected",
                            facts.len(),
                            facts
                                .first()
                                .map_or(String::new(), |fact| fact.origin.to_string())
                        ));
                    }
                    found.extend(facts.into_iter().take(MAX_OF_A_KIND));
                }
                Err(problem) => {
                    problems.push(problem);
                    found.extend(
                        self.facts
                            .iter()
                            .filter(|fact| fact.origin.kind() == kind)
                            .cloned(),
                    );
                }
            }
        }
        if problems != self.problems {
            for problem in &problems {
                tracing::warn!(%problem, "facts for the protected addresses");
            }
        }
        self.problems = problems;
        let is_new = found != self.facts;
        self.facts = found;
        is_new
    }

    /// What was read, by address.
    pub fn all(&self) -> impl Iterator<Item = &Fact> {
        self.facts.iter()
    }

    /// What could not be read, in words.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// A fact about an address that a packet can come from over the network.
fn usable(fact: Fact) -> Option<Fact> {
    let address = fact.address.to_canonical();
    let is_usable = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
    is_usable.then_some(Fact { address, ..fact })
}

/// A small file of this machine; `None` if there is none.
fn read(settings: &Settings, path: &str) -> Result<Option<String>, String> {
    use std::io::Read as _;

    const MAX_BYTES: u64 = 256 * 1024;
    let path = settings.root.join(path.trim_start_matches('/'));
    let problem = |error: std::io::Error| format!("{} can't be read: {error}", path.display());
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(problem)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests;
