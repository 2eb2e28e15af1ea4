//! What a driver offers and what of it is on: the netlink families `ethtool` (Linux 5.6) and `netdev` (Linux 6.3).

use std::{collections::BTreeMap, io};

use crate::netlink::{
    Netlink, attribute, attributes, put, put_nested, text, word16, word32, word64,
};

/// The controller of the families, which has a number.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
const ETHTOOL_A_CHANNELS_RX_MAX: u16 = 2;
const ETHTOOL_A_CHANNELS_COMBINED_MAX: u16 = 5;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Offloads by their names in `ethtool -k`: whether it is on, and whether that can be changed.
pub(super) type Features = BTreeMap<String, Feature>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Feature {
    pub(super) is_on: bool,
    pub(super) can_change: bool,
}

/// Receive queues, by themselves and combined with transmit queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Channels {
    pub(super) rx: u32,
    pub(super) rx_max: u32,
    pub(super) combined: u32,
    pub(super) combined_max: u32,
}

pub(super) fn features(index: u32) -> io::Result<Features> {
    let answer = ethtool(ETHTOOL_MSG_FEATURES_GET, index)?;
    let mut features = Features::new();
    for name in names(&answer, ETHTOOL_A_FEATURES_HW) {
        features.entry(name).or_default().can_change = true;
    }
    for name in names(&answer, ETHTOOL_A_FEATURES_ACTIVE) {
        features.entry(name).or_default().is_on = true;
    }
    Ok(features)
}

pub(super) fn channels(index: u32) -> io::Result<Channels> {
    let answer = ethtool(ETHTOOL_MSG_CHANNELS_GET, index)?;
    let number = |kind| {
        attribute(&answer, kind)
            .and_then(|value| word32(value, 0))
            .unwrap_or_default()
    };
    Ok(Channels {
        rx: number(ETHTOOL_A_CHANNELS_RX_COUNT),
        rx_max: number(ETHTOOL_A_CHANNELS_RX_MAX),
        combined: number(ETHTOOL_A_CHANNELS_COMBINED_COUNT),
        combined_max: number(ETHTOOL_A_CHANNELS_COMBINED_MAX),
    })
}

/// What the driver can do for XDP; `None` from a kernel that doesn't tell.
pub(super) fn xdp_features(index: u32) -> io::Result<Option<u64>> {
    let mut body = Vec::new();
    put(&mut body, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answer = generic("netdev", NETDEV_CMD_DEV_GET, 1, &body)?;
    Ok(attribute(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|value| word64(value, 0)))
}

fn ethtool(command: u8, index: u32) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    put(
        &mut header,
        ETHTOOL_A_HEADER_DEV_INDEX,
        &index.to_ne_bytes(),
    );
    let mut body = Vec::new();
    put_nested(&mut body, ETHTOOL_A_HEADER, &header);
    generic("ethtool", command, 1, &body)
}

/// Asks a family; gives the attributes of its answer.
fn generic(family: &str, command: u8, version: u8, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut netlink = Netlink::generic()?;
    let mut name = Vec::new();
    put(
        &mut name,
        CTRL_ATTR_FAMILY_NAME,
        &[family.as_bytes(), &[0]].concat(),
    );
    let answer = netlink.ask(GENL_ID_CTRL, &message(CTRL_CMD_GETFAMILY, 1, &name))?;
    let id = answer
        .get(GENERIC_HEADER..)
        .and_then(|attributes| attribute(attributes, CTRL_ATTR_FAMILY_ID))
        .and_then(|value| word16(value, 0))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let answer = netlink.ask(id, &message(command, version, body))?;
    Ok(answer.get(GENERIC_HEADER..).unwrap_or_default().to_vec())
}

fn message(command: u8, version: u8, attributes: &[u8]) -> Vec<u8> {
    [[command, version, 0, 0].as_slice(), attributes].concat()
}

/// The names of the bits that are set. A set without a mask lists just those.
fn names(answer: &[u8], kind: u16) -> Vec<String> {
    let set = attribute(answer, kind).unwrap_or_default();
    let lists_all = attribute(set, ETHTOOL_A_BITSET_NOMASK).is_none();
    attributes(attribute(set, ETHTOOL_A_BITSET_BITS).unwrap_or_default())
        .filter(|(_, bit)| !lists_all || attribute(bit, ETHTOOL_A_BITSET_BIT_VALUE).is_some())
        .filter_map(|(_, bit)| attribute(bit, ETHTOOL_A_BITSET_BIT_NAME))
        .map(text)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_of_loopback_are_told_by_name() {
        let features = features(1).unwrap();
        assert_eq!(
            features.get("loopback"),
            Some(&Feature {
                is_on: true,
                can_change: false
            }),
            "{features:?}"
        );
        assert!(features.get("rx-lro").is_none_or(|lro| !lro.is_on));
    }
}
