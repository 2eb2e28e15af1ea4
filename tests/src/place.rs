//! Where a program runs, as far as the network goes.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// Ports that the system does not give to connections or to whoever asks for any (`ip_local_port_range` begins at 32768).
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A TCP port of the loopback that nobody listens on; given to nobody else in this process.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Test programs that run at once begin at different places.
    let first = std::process::id().wrapping_mul(397);
    (0..count)
        .map(|_| first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count)
        .filter_map(|at| u16::try_from(at).ok()?.checked_add(PORTS.start))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("the machine has a free port")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_port_is_given_once_and_to_nobody_who_asks_for_any() {
        let ports: BTreeSet<u16> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
