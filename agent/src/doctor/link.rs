//! Interfaces and how they sit upon each other (rtnetlink(7)).

use std::io;

use crate::{
    interface::{Attached, AttachedMode},
    netlink::{Netlink, attribute, put, text, word16, word32},
};

const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`.
const LINK_MESSAGE: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_RUNNING: u32 = 0x40;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    /// Of a virtual interface, such as `vlan`; `None` for hardware.
    pub(super) kind: Option<String>,
    /// The bond, bridge or VRF that it belongs to.
    pub(super) master: Option<u32>,
    /// The interface that it sits upon, or its veth peer.
    pub(super) lower: Option<u32>,
    pub(super) is_up: bool,
    pub(super) has_carrier: bool,
    pub(super) is_loopback: bool,
    /// Whether its frames begin with an Ethernet header.
    pub(super) is_ethernet: bool,
    pub(super) rx_queues: u32,
    pub(super) attached: Option<Attached>,
    /// The hardware, from Linux 5.14 on.
    pub(super) parent: Option<Device>,
}

/// A device on a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) bus: String,
    pub(super) name: String,
}

/// The interfaces of this network namespace.
pub(super) fn all() -> io::Result<Vec<Link>> {
    let mut body = vec![0; LINK_MESSAGE];
    put(
        &mut body,
        IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );
    Netlink::route()?.dump(RTM_GETLINK, &body, Vec::new, |links, message| {
        links.extend(parse(message.body));
        true
    })
}

fn parse(body: &[u8]) -> Option<Link> {
    let attributes = body.get(LINK_MESSAGE..)?;
    let number = |kind| attribute(attributes, kind).and_then(|value| word32(value, 0));
    let hardware = word16(body, 2)?;
    let flags = word32(body, 8)?;
    let kind = attribute(attributes, IFLA_LINKINFO)
        .and_then(|information| attribute(information, IFLA_INFO_KIND))
        .map(text);
    Some(Link {
        index: word32(body, 4)?,
        name: text(attribute(attributes, IFLA_IFNAME)?),
        mtu: number(IFLA_MTU)?,
        kind,
        master: number(IFLA_MASTER),
        lower: number(IFLA_LINK),
        is_up: flags & IFF_UP != 0,
        has_carrier: flags & IFF_RUNNING != 0,
        is_loopback: flags & IFF_LOOPBACK != 0 || hardware == ARPHRD_LOOPBACK,
        is_ethernet: hardware == ARPHRD_ETHER,
        rx_queues: number(IFLA_NUM_RX_QUEUES).unwrap_or(1),
        attached: attribute(attributes, IFLA_XDP).and_then(xdp),
        parent: attribute(attributes, IFLA_PARENT_DEV_BUS_NAME)
            .zip(attribute(attributes, IFLA_PARENT_DEV_NAME))
            .map(|(bus, name)| Device {
                bus: text(bus),
                name: text(name),
            }),
    })
}

fn xdp(attributes: &[u8]) -> Option<Attached> {
    // XDP_ATTACHED_DRV, _SKB, _HW and _MULTI; 0 is none.
    let mode = match attribute(attributes, IFLA_XDP_ATTACHED)?.first()? {
        0 => return None,
        2 => AttachedMode::Generic,
        3 => AttachedMode::Offloaded,
        _ => AttachedMode::Native,
    };
    let program = attribute(attributes, IFLA_XDP_PROG_ID)
        .and_then(|value| word32(value, 0))
        .unwrap_or_default();
    Some(Attached { program, mode })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_is_known_for_what_it_is() {
        let links = all().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.is_loopback && !lo.is_ethernet && lo.mtu > 0, "{lo:?}");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }
    }
}
