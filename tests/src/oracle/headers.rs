//! Reading a frame layer by layer, each layer a slice of the one before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Policy;

/// What the headers of a frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// It has more VLAN tags than 802.1Q in 802.1ad.
    pub has_deep_tags: bool,
    pub kind: Kind,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without such frames a link dies.
    Essential(&'static str),
    OtherEthernet,
    Packet(Packet),
}

/// An IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// An IPv4 address also where IPv6 carries one.
    pub source: IpAddr,
    pub is_fragment: bool,
    /// It has more IPv6 extension headers than are read.
    pub has_long_chain: bool,
    /// Its last next header is none that is assigned to a protocol.
    pub has_unknown_extension: bool,
    /// Unknown behind a long chain.
    pub protocol: Option<u8>,
    /// The destination port; unknown in a later fragment. Zero where the protocol has none, or the packet ends before it.
    pub port: Option<u16>,
}

/// Tags that are nothing special.
const TAGS: usize = 2;
/// Tags that are read.
const MOST_TAGS: usize = 5;
/// Extension headers that are read.
const EXTENSIONS: usize = 8;

/// Reads the headers of a frame.
///
/// # Errors
/// The name of the reason for which it can't be judged.
pub fn read(frame: &[u8], policy: Policy) -> Result<Headers, &'static str> {
    const SHORT: &str = "short_ethernet";
    let (destination, rest) = take::<6>(frame, SHORT)?;
    let (_source, rest) = take::<6>(rest, SHORT)?;
    let ([high, low], mut rest) = take::<2>(rest, SHORT)?;
    let mut ethertype = u16::from_be_bytes([*high, *low]);
    let mut tags = 0;
    // IEEE 802.1Q: a customer tag has 0x8100, a service tag 0x88a8.
    while ethertype == 0x8100 || ethertype == 0x88a8 {
        if tags == MOST_TAGS {
            return Err("too_many_tags");
        }
        let ([_, _, high, low], inner) = take::<4>(rest, SHORT)?;
        ethertype = u16::from_be_bytes([*high, *low]);
        rest = inner;
        tags += 1;
    }
    let kind = match ethertype {
        0x0800 => ipv4(rest)?,
        0x86dd => ipv6(rest, policy)?,
        0x0806 => Kind::Essential("arp"),
        // IEEE 802.1D table 7-10: sixteen reserved addresses, which no bridge forwards. LLDP, slow protocols, and with a length
        // field the spanning trees.
        0x88cc | 0x8809 | 0..=1500
            if matches!(destination, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f]) =>
        {
            Kind::Essential("link_control")
        }
        _ => Kind::OtherEthernet,
    };
    Ok(Headers {
        has_deep_tags: tags > TAGS,
        kind,
    })
}

/// The first `N` bytes, and what follows.
fn take<'a, const N: usize>(
    bytes: &'a [u8],
    otherwise: &'static str,
) -> Result<(&'a [u8; N], &'a [u8]), &'static str> {
    bytes.split_first_chunk().ok_or(otherwise)
}

fn ipv4(packet: &[u8]) -> Result<Kind, &'static str> {
    const SHORT: &str = "short_ipv4";
    let first = *packet.first().ok_or(SHORT)?;
    let (version, words) = (first / 16, usize::from(first % 16));
    if version != 4 || words < 5 {
        return Err("bad_ipv4");
    }
    let (header, payload) = packet.split_at_checked(words * 4).ok_or(SHORT)?;
    let (&[_, _, _, _, _, _, flags, offset], header) = take::<8>(header, SHORT)?;
    let (&[_, protocol, _, _], header) = take::<4>(header, SHORT)?;
    let (source, _destination_and_options) = take::<4>(header, SHORT)?;
    // RFC 791: reserved, don't fragment, more fragments, thirteen bits of offset.
    let has_more = flags & 0b0010_0000 != 0;
    let is_later = flags & 0b0001_1111 != 0 || offset != 0;
    Ok(Kind::Packet(Packet {
        source: Ipv4Addr::from(*source).into(),
        is_fragment: has_more || is_later,
        has_long_chain: false,
        has_unknown_extension: false,
        protocol: Some(protocol),
        port: if is_later {
            None
        } else {
            Some(port(protocol, payload))
        },
    }))
}

fn ipv6(packet: &[u8], policy: Policy) -> Result<Kind, &'static str> {
    const SHORT: &str = "short_ipv6";
    let first = *packet.first().ok_or(SHORT)?;
    if first / 16 != 6 {
        return Err("bad_ipv6");
    }
    let (fixed, mut rest) = take::<40>(packet, SHORT)?;
    let (&[_, _, _, _, _, _, next, hop_limit], addresses) = take::<8>(fixed, SHORT)?;
    let (source, _destination) = take::<16>(addresses, SHORT)?;
    let mut packet = Packet {
        source: meant(Ipv6Addr::from(*source), policy),
        is_fragment: false,
        has_long_chain: false,
        has_unknown_extension: false,
        protocol: None,
        port: None,
    };
    let mut next = next;
    let mut headers = 0;
    loop {
        // RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
        let is_extension = [0, 43, 44, 51, 60, 135, 139, 140].contains(&next);
        if !is_extension {
            packet.protocol = Some(next);
            packet.has_unknown_extension = is_unknown(next);
            packet.port = Some(port(next, rest));
            // RFC 4861: nothing with another hop limit comes from this link. RFC 6980: nothing fragmented.
            let is_discovery = next == 58
                && hop_limit == 255
                && !packet.is_fragment
                && rest.len() >= 2
                && matches!(rest.first(), Some(133..=137));
            return Ok(if is_discovery {
                Kind::Essential("neighbour_discovery")
            } else {
                Kind::Packet(packet)
            });
        }
        if headers == EXTENSIONS {
            packet.has_long_chain = true;
            return Ok(Kind::Packet(packet));
        }
        headers += 1;
        let (&[following, length, high, low, ..], _) = take::<8>(rest, SHORT)?;
        let bytes = match next {
            44 => 8,
            // In words of four bytes, two of them not counted.
            51 => (usize::from(length) + 2) * 4,
            // In words of eight bytes, the first not counted.
            _ => (usize::from(length) + 1) * 8,
        };
        let (_, behind) = rest.split_at_checked(bytes).ok_or(SHORT)?;
        if next == 44 {
            packet.is_fragment = true;
            if u16::from_be_bytes([high, low]) >> 3 != 0 {
                packet.protocol = Some(following);
                return Ok(Kind::Packet(packet));
            }
        }
        next = following;
        rest = behind;
    }
}

/// The address that is judged: an IPv4 address where the IPv6 one only carries it (RFC 4291 section 2.5.5.2, RFC 6052 section 2.1).
fn meant(address: Ipv6Addr, policy: Policy) -> IpAddr {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] if policy.nat64 => embedded(high, low),
        _ => address.into(),
    }
}

fn embedded(high: u16, low: u16) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
}

/// Experimental, reserved or not assigned by IANA.
fn is_unknown(next: u8) -> bool {
    next >= 148
}

/// The destination port, in the third and fourth byte of TCP, UDP and SCTP alike.
fn port(protocol: u8, payload: &[u8]) -> u16 {
    match (protocol, payload) {
        (6 | 17 | 132, [_, _, high, low, ..]) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}
