//! The connections that this host has now, as the guard before a change wants to know them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::facts;

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

/// The connections of this host's network namespace.
#[derive(Debug, Clone, Copy)]
pub struct Connections;

impl Traffic for Connections {
    fn live_peers(&self) -> Vec<LivePeer> {
        match facts::live_flows() {
            Ok(flows) => flows
                .into_iter()
                .map(|flow| LivePeer {
                    address: flow.remote.ip(),
                    protocol: flow.protocol,
                    local_port: flow.local.port(),
                })
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "can't see the live connections; the change is judged without them");
                Vec::new()
            }
        }
    }
}
