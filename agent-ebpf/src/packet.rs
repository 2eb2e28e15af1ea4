//! Reading headers up to what a verdict needs: who sent a packet, and whether the link can't live without it.
//!
//! Payload is never looked at. Every read may fail, and where it does the packet is [`Malformed`].

mod chain;
mod oddity;
pub mod plain;
pub mod transport;

use core::net::IpAddr;

use self::chain::is_extension;
pub use self::{
    chain::{Chain, MAX_EXTENSION_HEADERS, extensions},
    oddity::{Oddities, Oddity},
};

/// A packet's bytes, from the first of the Ethernet header on.
pub trait Bytes {
    /// `N` bytes at offset `at`, if the packet has them all.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Whether the packet has all bytes before offset `end`.
    fn reaches(&self, end: usize) -> bool;

    /// `N` bytes at offset `at` of a packet that [`Bytes::reaches`] behind them. Nothing is checked again: where it does not reach, zeros are
    /// read, and the kernel's verifier refuses the program.
    fn known<const N: usize>(&self, at: usize) -> [u8; N];

    /// Follows IPv6 extension headers from offset `at`, where one of type `next` begins. The kernel's side does it in a function of
    /// its own, which the verifier looks at once.
    #[inline(always)]
    fn extensions(&self, at: usize, next: u8) -> Chain {
        extensions(self, at, next)
    }
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn reaches(&self, end: usize) -> bool {
        end <= self.len()
    }

    fn known<const N: usize>(&self, at: usize) -> [u8; N] {
        self.read(at).unwrap_or([0; N])
    }
}

/// The address a packet claims to come from, in numbers. An IPv4-mapped IPv6 address is its IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    V4(u32),
    /// Its upper and its lower half.
    V6(u64, u64),
}

impl Source {
    /// The source that an IPv6 address stands for.
    #[inline(always)]
    pub fn from_v6(high: u64, low: u64) -> Self {
        if high == 0 && low >> 32 == 0xffff {
            Self::V4(low as u32)
        } else {
            Self::V6(high, low)
        }
    }

    /// The IPv4 address that an address in 64:ff9b::/96 has in it (RFC 6052 section 2.1), else the address as it is.
    #[inline(always)]
    pub fn without_nat64(self) -> Self {
        match self {
            Self::V6(0x0064_ff9b_0000_0000, low) if low >> 32 == 0 => Self::V4(low as u32),
            Self::V4(_) | Self::V6(..) => self,
        }
    }

    /// The address.
    pub fn address(self) -> IpAddr {
        match self {
            Self::V4(address) => IpAddr::from(address.to_be_bytes()),
            Self::V6(high, low) => IpAddr::from(address(high, low)),
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(u32::from_be_bytes(address.octets())),
            IpAddr::V6(address) => {
                let [high, low] = halves(address.octets());
                Self::from_v6(high, low)
            }
        }
    }
}

/// What kind of packet it is, as far as a verdict asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ARP (ethertype 0x0806).
    Arp,
    /// LLDP, a slow protocol such as LACP, or a spanning tree frame, to one of the 802.1D reserved group addresses.
    LinkControl,
    /// Any other frame that is not IP.
    OtherEthernet,
    /// Neighbour discovery that can't have crossed a router: ICMPv6 133-137 with hop limit 255 (RFC 4861), not a fragment (RFC 6980).
    NeighbourDiscovery,
    /// IP from this source.
    Ip(Source),
}

/// What the headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub kind: Kind,
    pub oddities: Oddities,
    /// VLAN tags in front of the ethertype.
    pub tags: u8,
    /// The ethertype behind the tags; for a frame with a length field (802.3), that length.
    pub ethertype: u16,
    /// The IP protocol behind the extension headers that were read; 0 when it is not known.
    pub protocol: u8,
    /// Where the IP header begins, or what stands in its place.
    pub network_at: u16,
    /// Where the transport header begins; 0 when there is none to be read, as in a later fragment.
    pub transport_at: u16,
}

impl Headers {
    /// In place of headers that can't be read. All of it is set, since the kernel's verifier refuses to look at what was never written.
    pub const UNREADABLE: Self = Self {
        kind: Kind::OtherEthernet,
        oddities: Oddities::NONE,
        tags: 0,
        ethertype: 0,
        protocol: 0,
        network_at: 0,
        transport_at: 0,
    };
}

/// Headers in three words, for a function that takes no more: the source's upper half, its lower half or IPv4 address, and the rest.
pub type HeaderWords = [u64; 3];

const KIND_IPV4: u64 = 4;
const KIND_IPV6: u64 = 5;

impl Headers {
    /// All of it in words. Only of headers whose transport header begins below 16 KiB, as those that the kernel's side reads.
    #[inline(always)]
    pub fn to_words(&self) -> HeaderWords {
        let (kind, high, low) = match self.kind {
            Kind::Arp => (0, 0, 0),
            Kind::LinkControl => (1, 0, 0),
            Kind::OtherEthernet => (2, 0, 0),
            Kind::NeighbourDiscovery => (3, 0, 0),
            Kind::Ip(Source::V4(address)) => (KIND_IPV4, 0, address as u64),
            Kind::Ip(Source::V6(high, low)) => (KIND_IPV6, high, low),
        };
        let rest = kind
            | (self.tags as u64 & 7) << 3
            | (self.network_at as u64 & 0x3f) << 6
            | (self.transport_at as u64 & 0x3fff) << 12
            | (self.oddities.0 as u64) << 26
            | (self.protocol as u64) << 34
            | (self.ethertype as u64) << 42;
        [high, low, rest]
    }

    /// What [`Headers::to_words`] made words of.
    #[inline(always)]
    pub fn from_words([high, low, rest]: HeaderWords) -> Self {
        Self {
            kind: match rest & 7 {
                0 => Kind::Arp,
                1 => Kind::LinkControl,
                3 => Kind::NeighbourDiscovery,
                KIND_IPV4 => Kind::Ip(Source::V4(low as u32)),
                KIND_IPV6 => Kind::Ip(Source::V6(high, low)),
                _ => Kind::OtherEthernet,
            },
            oddities: Oddities((rest >> 26) as u8),
            tags: (rest >> 3) as u8 & 7,
            ethertype: (rest >> 42) as u16,
            protocol: (rest >> 34) as u8,
            network_at: (rest >> 6) as u16 & 0x3f,
            transport_at: (rest >> 12) as u16 & 0x3fff,
        }
    }
}

/// The upper and the lower half of an IPv6 address, as numbers.
#[inline(always)]
pub fn halves(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// The IPv6 address with these halves.
#[inline(always)]
pub fn address(high: u64, low: u64) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = high.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = low.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Why a packet can't be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It ends within the Ethernet header or a VLAN tag.
    ShortEthernet,
    /// It has more than [`MAX_TAGS`] VLAN tags.
    TooManyTags,
    /// It ends within the IPv4 header, options included.
    ShortIpv4,
    /// Its IPv4 header has another version or a length below 20 bytes.
    BadIpv4,
    /// It ends within the IPv6 header or an extension header.
    ShortIpv6,
    /// Its IPv6 header has another version.
    BadIpv6,
}

/// VLAN tags that are nothing special: 802.1Q inside 802.1ad.
pub const SHALLOW_TAGS: usize = 2;
/// VLAN tags that are read.
pub const MAX_TAGS: usize = 5;

const ETHERNET_HEADER: usize = 14;
const TAG: usize = 4;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_SLOW: u16 = 0x8809;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const ETHERTYPE_LLDP: u16 = 0x88cc;
/// An ethertype field up to this value is the length of an 802.3 frame.
const MAX_LENGTH_FIELD: u16 = 1500;
/// The bridge group address of spanning tree; the reserved block is its first 16 addresses (802.1D table 7-10).
const BRIDGE_GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// Reads the headers of `packet`.
///
/// # Errors
/// If it ends too early, or says of itself what can't be.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(packet: &B) -> Result<Headers, Malformed> {
    let Some(destination) = packet.read::<6>(0) else {
        return Err(Malformed::ShortEthernet);
    };
    let Some(ethertype) = packet.read::<2>(12) else {
        return Err(Malformed::ShortEthernet);
    };
    let ethertype = u16::from_be_bytes(ethertype);
    if ethertype == ETHERTYPE_IPV4 {
        return ipv4(packet, ETHERNET_HEADER, 0);
    }
    let mut ethertype = ethertype;
    let mut at = ETHERNET_HEADER;
    let mut tags = 0;
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        let Some(inner) = packet.read::<2>(at + 2) else {
            return Err(Malformed::ShortEthernet);
        };
        ethertype = u16::from_be_bytes(inner);
        at += TAG;
        tags += 1;
    }
    if is_tag(ethertype) {
        return Err(Malformed::TooManyTags);
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, at, tags),
        ETHERTYPE_IPV6 => ipv6(packet, at, tags),
        _ => {
            let kind = not_ip(destination, ethertype);
            let oddities = if kind == Kind::OtherEthernet {
                depth(tags).and(Oddities::of(Oddity::OtherEthernet))
            } else {
                depth(tags)
            };
            Ok(Headers {
                kind,
                oddities,
                tags,
                ethertype,
                protocol: 0,
                network_at: at as u16,
                transport_at: 0,
            })
        }
    }
}

#[inline(always)]
fn depth(tags: u8) -> Oddities {
    if tags as usize > SHALLOW_TAGS {
        Oddities::of(Oddity::DeepTags)
    } else {
        Oddities::NONE
    }
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN)
}

#[inline(always)]
fn not_ip(destination: [u8; 6], ethertype: u16) -> Kind {
    let [group @ .., last] = destination;
    let is_reserved = group == BRIDGE_GROUP && last < 0x10;
    match ethertype {
        ETHERTYPE_ARP => Kind::Arp,
        ETHERTYPE_LLDP | ETHERTYPE_SLOW | 0..=MAX_LENGTH_FIELD if is_reserved => Kind::LinkControl,
        _ => Kind::OtherEthernet,
    }
}

#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(packet: &B, at: usize, tags: u8) -> Result<Headers, Malformed> {
    if !packet.reaches(at + IPV4_HEADER) {
        return Err(short_ipv4(packet, at));
    }
    let (Some([version_and_length, _]), Some(fragment), Some([_, protocol]), Some(source)) = (
        packet.read::<2>(at),
        packet.read::<2>(at + 6),
        packet.read::<2>(at + 8),
        packet.read::<4>(at + 12),
    ) else {
        return Err(Malformed::ShortIpv4);
    };
    let length = usize::from(version_and_length & 0x0f) * 4;
    if version_and_length >> 4 != 4 || length < IPV4_HEADER {
        return Err(Malformed::BadIpv4);
    }
    if length > IPV4_HEADER && !packet.reaches(at + length) {
        return Err(Malformed::ShortIpv4);
    }

    // RFC 791: three flag bits, of which the last says that more fragments follow, then the offset.
    let fragment = u16::from_be_bytes(fragment);
    let is_later = fragment & 0x1fff != 0;
    Ok(Headers {
        kind: Kind::Ip(Source::V4(u32::from_be_bytes(source))),
        oddities: if fragment & 0x3fff == 0 {
            depth(tags)
        } else {
            depth(tags).and(Oddities::of(Oddity::Fragment))
        },
        tags,
        ethertype: ETHERTYPE_IPV4,
        protocol,
        network_at: at as u16,
        transport_at: if is_later { 0 } else { (at + length) as u16 },
    })
}

/// Why an IPv4 header that is not all there is refused: what its first byte says is looked at first, if there is one.
#[inline(always)]
fn short_ipv4<B: Bytes + ?Sized>(packet: &B, at: usize) -> Malformed {
    match packet.read::<1>(at) {
        Some([0x45..=0x4f]) | None => Malformed::ShortIpv4,
        Some(_) => Malformed::BadIpv4,
    }
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(packet: &B, at: usize, tags: u8) -> Result<Headers, Malformed> {
    let Some([version]) = packet.read::<1>(at) else {
        return Err(Malformed::ShortIpv6);
    };
    if version >> 4 != 6 {
        return Err(Malformed::BadIpv6);
    }
    let network_at = at;
    let Some([next, hop_limit]) = packet.read::<2>(at + 6) else {
        return Err(Malformed::ShortIpv6);
    };
    let (Some(high), Some(low)) = (packet.read::<8>(at + 8), packet.read::<8>(at + 16)) else {
        return Err(Malformed::ShortIpv6);
    };
    // The destination is not used, but a header that ends before it is cut.
    let at = at + IPV6_HEADER;
    if !packet.reaches(at) {
        return Err(Malformed::ShortIpv6);
    }

    let chain = if is_extension(next) {
        packet.extensions(at, next)
    } else {
        Chain::end(next, at, 0)
    };
    if chain.is_short {
        return Err(Malformed::ShortIpv6);
    }
    let is_discovery = chain.protocol == ICMPV6
        && hop_limit == 255
        && chain.oddities == Oddities::NONE
        && matches!(
            packet.read::<2>(usize::from(chain.transport_at)),
            Some([133..=137, _])
        );
    Ok(Headers {
        kind: if is_discovery {
            Kind::NeighbourDiscovery
        } else {
            Kind::Ip(Source::from_v6(
                u64::from_be_bytes(high),
                u64::from_be_bytes(low),
            ))
        },
        oddities: depth(tags).and(chain.oddities),
        tags,
        ethertype: ETHERTYPE_IPV6,
        protocol: chain.protocol,
        network_at: network_at as u16,
        transport_at: chain.transport_at,
    })
}
