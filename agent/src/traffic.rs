//! The connections that this host has now, as the guard before a change wants to know them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The far end of a live connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LivePeer {
    pub address: IpAddr,
    /// IP protocol number: 6 is TCP.
    pub protocol: u8,
    /// The port on this host.
    pub local_port: u16,
}

/// Where live connections can be had.
pub trait Traffic: Send {
    /// The peers of established connections, loopback left out. Empty if the kernel does not say.
    fn live_peers(&self) -> Vec<LivePeer>;
}
