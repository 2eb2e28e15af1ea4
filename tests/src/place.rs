//! Where a program runs, as far as the network goes.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use crate::netns::Namespace;

/// This machine's loopback, or a network namespace of the test.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The machine itself: only loopback addresses are used here.
    Loopback,
    /// A namespace, and the address that servers bind there.
    Namespace(&'a Namespace, IpAddr),
}

impl Place<'_> {
    /// A command that runs there.
    #[must_use]
    pub fn command(self, program: &str) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Namespace(namespace, _) => namespace.command(program),
        }
    }

    /// The address that a server binds there.
    #[must_use]
    pub fn address(self) -> IpAddr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
            Self::Namespace(_, address) => address,
        }
    }

    /// `port` in a namespace, which nobody else uses; a free one on the shared loopback.
    #[must_use]
    pub fn port(self, port: u16) -> u16 {
        match self {
            Self::Loopback => free_port(),
            Self::Namespace(..) => port,
        }
    }
}

/// A TCP port of the loopback that nobody listens on.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("the machine has a free port")
        .port()
}
