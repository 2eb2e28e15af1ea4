//! TCP connections of this network namespace (sock_diag(7)).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::Serialize;

use crate::netlink::{Netlink, word32};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;
/// `struct inet_diag_msg` up to its end.
const MESSAGE: usize = 72;
/// Connections that are looked at; a machine with more has the rest left out of previews.
const MAX_FLOWS: usize = 500_000;

/// A connection. IPv4 addresses are never IPv6-mapped here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Flow {
    /// The IP protocol: 6, TCP.
    pub protocol: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A connection, and the number of its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) flow: Flow,
    /// 0 if no process has it any more.
    pub(super) inode: u32,
}

/// The established TCP connections with other machines, at most half a million.
///
/// # Errors
/// If the kernel can't be asked.
pub fn live_flows() -> io::Result<Vec<Flow>> {
    Ok(connections(None, TCP_ESTABLISHED)?
        .into_iter()
        .map(|connection| connection.flow)
        .filter(|flow| !flow.remote.ip().is_loopback())
        .collect())
}

/// Established connections to a local port.
pub(super) fn established(port: u16) -> io::Result<Vec<Connection>> {
    connections(Some(port), TCP_ESTABLISHED)
}

/// Sockets that listen at a local port.
pub(super) fn listening(port: u16) -> io::Result<Vec<Connection>> {
    connections(Some(port), TCP_LISTEN)
}

fn connections(port: Option<u16>, state: u32) -> io::Result<Vec<Connection>> {
    let mut netlink = Netlink::sockets()?;
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let found = netlink.dump(
            SOCK_DIAG_BY_FAMILY,
            &request(family, port, state),
            Vec::new,
            |found, message| {
                // Older kernels don't look at the port in the request.
                let connection = parse(message.body).filter(|connection| {
                    port.is_none_or(|port| connection.flow.local.port() == port)
                });
                found.extend(connection);
                found.len() < MAX_FLOWS
            },
        );
        match found {
            Ok(found) => all.extend(found),
            // A kernel without IPv6.
            Err(_) if family == AF_INET6 && !all.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, port: Option<u16>, state: u32) -> Vec<u8> {
    let mut body = vec![family, TCP, 0, 0];
    body.extend_from_slice(&(1_u32 << state).to_ne_bytes());
    body.extend_from_slice(&port.unwrap_or_default().to_be_bytes());
    body.resize(56, 0);
    body
}

fn parse(body: &[u8]) -> Option<Connection> {
    let body = body.get(..MESSAGE)?;
    let family = *body.first()?;
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| -> Option<IpAddr> {
        if family == AF_INET {
            let octets: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        } else {
            let octets: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
    };
    Some(Connection {
        flow: Flow {
            protocol: TCP,
            local: SocketAddr::new(address(8)?, port(4)?),
            remote: SocketAddr::new(address(24)?, port(6)?),
        },
        inode: word32(body, 68)?,
    })
}
