//! Reading headers up to what a verdict needs: who sent a packet, and whether the link can't live without it.
//!
//! Payload is never looked at. Every read may fail, and where it does the packet is [`Malformed`].

/// A packet's bytes, from the first of the Ethernet header on.
pub trait Bytes {
    /// `N` bytes at offset `at`, if the packet has them all.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Whether the packet has all bytes before offset `end`.
    fn reaches(&self, end: usize) -> bool;
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn reaches(&self, end: usize) -> bool {
        end <= self.len()
    }
}

/// The address a packet claims to come from. An IPv4-mapped IPv6 address is its IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Source {
    /// The source that an IPv6 address stands for.
    #[inline(always)]
    pub fn from_v6(address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, v4 @ ..] = address;
        let zeros =
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]) | u64::from(u16::from_ne_bytes([i, j]));
        if zeros == 0 && k == 0xff && l == 0xff {
            Self::V4(v4)
        } else {
            Self::V6(address)
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

/// What makes an IP packet uncertain beyond its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    None,
    /// A fragment, the first or a later one.
    Fragment,
    /// More than [`MAX_EXTENSION_HEADERS`] IPv6 extension headers: what follows was not looked at.
    LongExtensionChain,
}

/// What the headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub kind: Kind,
    pub oddity: Oddity,
    /// The ethertype behind the tags; for a frame with a length field (802.3), that length.
    pub ethertype: u16,
    /// The IP protocol behind the extension headers that were read; 0 when it is not known.
    pub protocol: u8,
    /// Where the transport header begins; 0 when there is none to be read, as in a later fragment.
    pub transport_at: u16,
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

/// VLAN tags that are read: 802.1Q inside 802.1ad.
pub const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are read. RFC 8200 section 4.1 knows of seven in a sane packet.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const ETHERNET_HEADER: usize = 14;
const TAG: usize = 4;
const IPV6_HEADER: usize = 40;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_SLOW: u16 = 0x8809;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const ETHERTYPE_LLDP: u16 = 0x88cc;
/// An ethertype field up to this value is the length of an 802.3 frame.
const MAX_LENGTH_FIELD: u16 = 1500;
/// The bridge group address of spanning tree; the reserved block is its first 16 addresses (802.1D table 7-10).
const BRIDGE_GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

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
    let mut ethertype = u16::from_be_bytes(ethertype);
    let mut at = ETHERNET_HEADER;
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        let Some(inner) = packet.read::<2>(at + 2) else {
            return Err(Malformed::ShortEthernet);
        };
        ethertype = u16::from_be_bytes(inner);
        at += TAG;
    }
    if is_tag(ethertype) {
        return Err(Malformed::TooManyTags);
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, at),
        ETHERTYPE_IPV6 => ipv6(packet, at),
        _ => Ok(Headers {
            kind: not_ip(destination, ethertype),
            oddity: Oddity::None,
            ethertype,
            protocol: 0,
            transport_at: 0,
        }),
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
fn ipv4<B: Bytes + ?Sized>(packet: &B, at: usize) -> Result<Headers, Malformed> {
    let Some([version_and_length]) = packet.read::<1>(at) else {
        return Err(Malformed::ShortIpv4);
    };
    let length = usize::from(version_and_length & 0x0f) * 4;
    if version_and_length >> 4 != 4 || length < 20 {
        return Err(Malformed::BadIpv4);
    }
    let Some(fragment) = packet.read::<2>(at + 6) else {
        return Err(Malformed::ShortIpv4);
    };
    let Some([protocol]) = packet.read::<1>(at + 9) else {
        return Err(Malformed::ShortIpv4);
    };
    let Some(source) = packet.read::<4>(at + 12) else {
        return Err(Malformed::ShortIpv4);
    };
    if !packet.reaches(at + length) {
        return Err(Malformed::ShortIpv4);
    }

    // RFC 791: three flag bits, of which the last says that more fragments follow, then the offset.
    let fragment = u16::from_be_bytes(fragment);
    let is_later = fragment & 0x1fff != 0;
    Ok(Headers {
        kind: Kind::Ip(Source::V4(source)),
        oddity: if fragment & 0x3fff == 0 {
            Oddity::None
        } else {
            Oddity::Fragment
        },
        ethertype: ETHERTYPE_IPV4,
        protocol,
        transport_at: if is_later { 0 } else { (at + length) as u16 },
    })
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(packet: &B, at: usize) -> Result<Headers, Malformed> {
    let Some([version]) = packet.read::<1>(at) else {
        return Err(Malformed::ShortIpv6);
    };
    if version >> 4 != 6 {
        return Err(Malformed::BadIpv6);
    }
    let Some([next, hop_limit]) = packet.read::<2>(at + 6) else {
        return Err(Malformed::ShortIpv6);
    };
    let Some(source) = packet.read::<16>(at + 8) else {
        return Err(Malformed::ShortIpv6);
    };
    // The destination is not used, but a header that ends before it is cut.
    if !packet.reaches(at + IPV6_HEADER) {
        return Err(Malformed::ShortIpv6);
    }

    let mut headers = Headers {
        kind: Kind::Ip(Source::from_v6(source)),
        oddity: Oddity::LongExtensionChain,
        ethertype: ETHERTYPE_IPV6,
        protocol: 0,
        transport_at: 0,
    };
    let mut protocol = next;
    let mut at = at + IPV6_HEADER;
    let mut is_fragment = 0;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        if !is_extension(protocol) {
            headers.oddity = if is_fragment == 0 {
                Oddity::None
            } else {
                Oddity::Fragment
            };
            headers.protocol = protocol;
            headers.transport_at = at as u16;
            if protocol == ICMPV6
                && hop_limit == 255
                && is_fragment == 0
                && matches!(packet.read::<2>(at), Some([133..=137, _]))
            {
                headers.kind = Kind::NeighbourDiscovery;
            }
            return Ok(headers);
        }
        // Every extension header has at least eight bytes.
        let Some([next, length, offset_high, offset_low, ..]) = packet.read::<8>(at) else {
            return Err(Malformed::ShortIpv6);
        };
        // Arithmetic in place of branches: the kernel's verifier follows every way through every round of this loop.
        let is_authentication = equal(protocol, AUTHENTICATION);
        let is_fragment_header = equal(protocol, FRAGMENT);
        // In units of eight bytes beyond the first; RFC 4302 counts in words of four, less two. A fragment header has no length.
        let units = usize::from(length) * (1 - is_fragment_header) + 1 + is_authentication;
        let length = units << (3 - is_authentication);
        if !packet.reaches(at + length) {
            return Err(Malformed::ShortIpv6);
        }
        at += length;
        protocol = next;
        is_fragment |= is_fragment_header;
        // RFC 8200 section 4.5: 13 bits of offset; only the first fragment has the headers that follow.
        let offset = usize::from(u16::from_be_bytes([offset_high, offset_low]) & 0xfff8);
        if offset * is_fragment_header != 0 {
            headers.oddity = Oddity::Fragment;
            headers.protocol = protocol;
            return Ok(headers);
        }
    }
    Ok(headers)
}

/// Whether what follows is an extension header whose length can be told.
#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// 1 if they are equal, else 0, without a branch.
#[inline(always)]
fn equal(a: u8, b: u8) -> usize {
    (usize::from(a ^ b).wrapping_sub(1) >> 63) & 1
}
