//! The real SFTP clients and system tools that demo and tests drive.

use anyhow::Result;

use super::{Requirement, apt};

const PACKAGES: &[&str] = &[
    // Namespaces and veth pairs.
    "iproute2",
    // `unshare` and `nsenter`: servers under test see their own accounts.
    "util-linux",
    "mount",
    "openssl",
    "openssh-client",
    "lftp",
    "rclone",
    "putty-tools",
    // psftp asks two questions only on a terminal.
    "expect",
];

pub(super) struct Packages;

pub(super) fn packages() -> Packages {
    Packages
}

impl Requirement for Packages {
    fn name(&self) -> String {
        "SFTP clients and network tools".to_owned()
    }

    fn why(&self) -> &'static str {
        "demo and tests use the clients that partners use, in their own network namespaces"
    }

    fn missing(&self) -> Vec<String> {
        apt::missing(PACKAGES)
    }

    fn install(&self) -> Result<()> {
        apt::install(PACKAGES)
    }

    fn commands(&self) -> Vec<String> {
        vec![apt::install_command(PACKAGES)]
    }
}
