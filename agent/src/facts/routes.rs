//! Default gateways (rtnetlink(7)), of all routing tables and of both families.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Fact, Origin, Settings};
use crate::netlink::{Netlink, attribute, attributes, text, word16, word32};

const RTM_GETROUTE: u16 = 26;
const RTM_GETLINK: u16 = 18;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `struct rtmsg`.
const ROUTE_MESSAGE: usize = 12;
/// `struct ifinfomsg`.
const LINK_MESSAGE: usize = 16;
/// `struct rtnexthop`.
const NEXT_HOP: usize = 8;
const RTN_UNICAST: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const IFLA_IFNAME: u16 = 3;

/// A next hop of a default route.
#[derive(Debug, PartialEq, Eq)]
struct Hop {
    address: IpAddr,
    interface: u32,
}

pub(super) fn gateways(_: &Settings) -> Result<Vec<Fact>, String> {
    read().map_err(|error| format!("the kernel does not tell its routes: {error}"))
}

fn read() -> io::Result<Vec<Fact>> {
    let mut netlink = Netlink::route()?;
    let mut hops = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut body = vec![family];
        body.resize(ROUTE_MESSAGE, 0);
        let found = netlink.dump(RTM_GETROUTE, &body, Vec::new, |found, message| {
            found.extend(default_hops(message.body));
            true
        });
        match found {
            Ok(found) => hops.extend(found),
            Err(_) if family == AF_INET6 => {}
            Err(error) => return Err(error),
        }
    }
    hops.into_iter()
        .map(|Hop { address, interface }| {
            Ok(Fact {
                address,
                origin: Origin::Gateway {
                    interface: name(&mut netlink, interface),
                },
            })
        })
        .collect()
}

/// The next hops of a route, if it is a default route.
fn default_hops(body: &[u8]) -> Vec<Hop> {
    let (Some(0), Some(&RTN_UNICAST)) = (body.get(1), body.get(7)) else {
        return Vec::new();
    };
    let Some(route) = body.get(ROUTE_MESSAGE..) else {
        return Vec::new();
    };
    let interface = attribute(route, RTA_OIF)
        .and_then(|value| word32(value, 0))
        .unwrap_or_default();
    let mut hops: Vec<Hop> = gateway(route)
        .map(|address| Hop { address, interface })
        .into_iter()
        .collect();
    let mut multipath = attribute(route, RTA_MULTIPATH).unwrap_or_default();
    while let Some(length) = word16(multipath, 0).map(usize::from) {
        let Some(hop) = multipath.get(NEXT_HOP..length) else {
            break;
        };
        let interface = word32(multipath, 4).unwrap_or_default();
        hops.extend(gateway(hop).map(|address| Hop { address, interface }));
        multipath = multipath
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    hops
}

fn gateway(route: &[u8]) -> Option<IpAddr> {
    attributes(route).find_map(|(kind, value)| match kind {
        RTA_GATEWAY => address(value),
        // A gateway of the other family, behind two octets that name the family.
        RTA_VIA => address(value.get(2..)?),
        _ => None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn name(netlink: &mut Netlink, index: u32) -> String {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.resize(LINK_MESSAGE, 0);
    netlink
        .ask(RTM_GETLINK, &body)
        .ok()
        .and_then(|answer| Some(text(attribute(answer.get(LINK_MESSAGE..)?, IFLA_IFNAME)?)))
        .unwrap_or_else(|| format!("interface {index}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::put;

    fn route(destination_length: u8, kind: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![
            AF_INET,
            destination_length,
            0,
            0,
            254,
            0,
            0,
            kind,
            0,
            0,
            0,
            0,
        ];
        for (kind, value) in attributes {
            put(&mut body, *kind, value);
        }
        body
    }

    fn hop(text: &str, interface: u32) -> Hop {
        Hop {
            address: text.parse().unwrap(),
            interface,
        }
    }

    #[test]
    fn the_gateway_of_a_default_route_counts_and_that_of_another_does_not() {
        let attributes: [(u16, &[u8]); 2] = [
            (RTA_GATEWAY, &[192, 0, 2, 1]),
            (RTA_OIF, &7_u32.to_ne_bytes()),
        ];
        assert_eq!(
            default_hops(&route(0, RTN_UNICAST, &attributes)),
            [hop("192.0.2.1", 7)]
        );
        assert_eq!(default_hops(&route(1, RTN_UNICAST, &attributes)), []);
        let blackhole = 6;
        assert_eq!(default_hops(&route(0, blackhole, &attributes)), []);
    }

    #[test]
    fn every_hop_of_a_multipath_route_counts_and_a_gateway_of_the_other_family_too() {
        let mut hops = Vec::new();
        for (last, interface) in [(1_u8, 3_u32), (2, 4)] {
            let mut attributes = Vec::new();
            put(&mut attributes, RTA_GATEWAY, &[192, 0, 2, last]);
            let length = u16::try_from(NEXT_HOP + attributes.len()).unwrap();
            hops.extend_from_slice(&length.to_ne_bytes());
            hops.extend_from_slice(&[0, 0]);
            hops.extend_from_slice(&interface.to_ne_bytes());
            hops.extend_from_slice(&attributes);
        }
        assert_eq!(
            default_hops(&route(0, RTN_UNICAST, &[(RTA_MULTIPATH, &hops)])),
            [hop("192.0.2.1", 3), hop("192.0.2.2", 4)]
        );
        let mut via = vec![AF_INET6, 0];
        via.extend_from_slice(&"fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(
            default_hops(&route(0, RTN_UNICAST, &[(RTA_VIA, &via)])),
            [hop("fe80::1", 0)]
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = default_hops(&body);
        }
    }
}
