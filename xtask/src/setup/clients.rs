//! Debian packages that demo, tests and benchmarks drive as they are.

use anyhow::Result;

use super::{Requirement, apt};

const CLIENTS: &[&str] = &[
    // Namespaces and veth pairs.
    "iproute2",
    "iputils-ping",
    // `unshare` and `nsenter`: servers under test see their own accounts.
    "util-linux",
    "mount",
    "openssl",
    "openssh-client",
    "lftp",
    "rclone",
    "putty-tools",
    "sshfs",
    "fuse3",
    // In a mounted folder a repository is cloned and built.
    "git",
    "make",
    "curl",
    // psftp asks two questions only on a terminal.
    "expect",
    // A daemon whose day ends.
    "faketime",
    // The mail server that alerts go to.
    "python3-aiosmtpd",
];

/// Filters that the agent is measured against, and what measures them.
const FILTERS: &[&str] = &["nftables", "ipset", "iptables", "iperf3", "ethtool"];

pub(super) struct Packages {
    name: &'static str,
    why: &'static str,
    packages: &'static [&'static str],
}

pub(super) fn clients() -> Packages {
    Packages {
        name: "SFTP clients and network tools",
        why: "demo and tests use the clients that partners use, in their own network namespaces",
        packages: CLIENTS,
    }
}

pub(super) fn filters() -> Packages {
    Packages {
        name: "packet filters of the system",
        why: "the agent is measured side by side with them",
        packages: FILTERS,
    }
}

impl Requirement for Packages {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn missing(&self) -> Vec<String> {
        apt::missing(self.packages)
    }

    fn install(&self) -> Result<()> {
        apt::install(self.packages)
    }

    fn commands(&self) -> Vec<String> {
        vec![apt::install_command(self.packages)]
    }
}
