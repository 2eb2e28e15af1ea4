//! Addresses of both families as numbers.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::index::{Bucket, Buckets, Dense};
use crate::table;

/// An address as a number.
pub(super) trait Address: Copy + Ord + Debug + 'static {
    /// How the index keeps its buckets.
    type Buckets: Buckets<Self> + Debug;

    const ZERO: Self;
    /// Bits of an address.
    const BITS: u8;
    /// Prefixes at least this long are indexed in buckets, by their first bits.
    const BUCKET: u8;
    /// A table refuses to change a shorter prefix in place.
    const SHORTEST_EDIT: u8;

    /// Without the bits behind the prefix.
    fn truncate(self, length: u8) -> Self;
    /// The last address of the prefix.
    fn last(self, length: u8) -> Self;
    /// Leading bits that two addresses have in common.
    fn common(self, other: Self) -> u8;
    fn net(self, length: u8) -> IpNet;
}

impl Address for u32 {
    type Buckets = Dense;

    const ZERO: Self = 0;
    const BITS: u8 = 32;
    const BUCKET: u8 = 16;
    const SHORTEST_EDIT: u8 = table::v4::SHORTEST_EDIT;

    fn truncate(self, length: u8) -> Self {
        self & !Self::MAX.checked_shr(length.into()).unwrap_or(0)
    }

    fn last(self, length: u8) -> Self {
        self | Self::MAX.checked_shr(length.into()).unwrap_or(0)
    }

    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn net(self, length: u8) -> IpNet {
        let address = Ipv4Addr::from_bits(self);
        Ipv4Net::new(address, length).map_or(IpNet::from(IpAddr::V4(address)), IpNet::V4)
    }
}

impl Address for u128 {
    type Buckets = BTreeMap<Self, Bucket<Self>>;

    const ZERO: Self = 0;
    const BITS: u8 = 128;
    const BUCKET: u8 = 48;
    const SHORTEST_EDIT: u8 = table::v6::SHORTEST_EDIT;

    fn truncate(self, length: u8) -> Self {
        self & !Self::MAX.checked_shr(length.into()).unwrap_or(0)
    }

    fn last(self, length: u8) -> Self {
        self | Self::MAX.checked_shr(length.into()).unwrap_or(0)
    }

    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn net(self, length: u8) -> IpNet {
        let address = Ipv6Addr::from_bits(self);
        Ipv6Net::new(address, length).map_or(IpNet::from(IpAddr::V6(address)), IpNet::V6)
    }
}

/// A prefix without bits set behind its length. One that covers another comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix<A> {
    pub(super) address: A,
    pub(super) length: u8,
}

impl<A: Address> Prefix<A> {
    pub(super) fn new(address: A, length: u8) -> Self {
        Self {
            address: address.truncate(length),
            length,
        }
    }

    pub(super) fn host(address: A) -> Self {
        Self::new(address, A::BITS)
    }

    pub(super) fn last(self) -> A {
        self.address.last(self.length)
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.address.common(other.address) >= self.length
    }

    /// Leading bits that two prefixes have in common.
    pub(super) fn common(self, other: Self) -> u8 {
        self.address
            .common(other.address)
            .min(self.length)
            .min(other.length)
    }

    pub(super) fn net(self) -> IpNet {
        self.address.net(self.length)
    }
}

impl From<Ipv4Net> for Prefix<u32> {
    fn from(net: Ipv4Net) -> Self {
        Self::new(net.addr().to_bits(), net.prefix_len())
    }
}

impl From<Ipv6Net> for Prefix<u128> {
    fn from(net: Ipv6Net) -> Self {
        Self::new(net.addr().to_bits(), net.prefix_len())
    }
}

/// An address of either family.
pub(super) enum Family {
    V4(u32),
    V6(u128),
}

/// The family that the packets of an address belong to: an IPv4-mapped one is IPv4.
pub(super) fn family(address: IpAddr) -> Family {
    match address.to_canonical() {
        IpAddr::V4(address) => Family::V4(address.to_bits()),
        IpAddr::V6(address) => Family::V6(address.to_bits()),
    }
}
