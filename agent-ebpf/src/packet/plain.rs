//! Plain packets: those about which the headers say nothing but who sent them. Almost all are, and reading so few bytes of them costs a
//! fraction of [`parse`](super::parse), which says the same of them.

use super::{
    Bytes, ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPV4_HEADER, IPV6_HEADER,
    Kind, Oddities, Source, TCP, UDP,
};

const IPV4_END: usize = ETHERNET_HEADER + IPV4_HEADER;
const IPV6_END: usize = ETHERNET_HEADER + IPV6_HEADER;

/// The source of untagged IPv4 without options that is no fragment.
#[inline(always)]
pub fn ipv4<B: Bytes + ?Sized>(packet: &B) -> Option<u32> {
    if !packet.reaches(IPV4_END) || packet.known(12) != ETHERTYPE_IPV4.to_be_bytes() {
        return None;
    }
    let [version_and_length, _] = packet.known(14);
    let [flags_and_offset, offset] = packet.known(20);
    if version_and_length != 0x45 || flags_and_offset & 0x3f != 0 || offset != 0 {
        return None;
    }
    Some(u32::from_be_bytes(packet.known(26)))
}

/// The halves of the source of untagged TCP or UDP over IPv6 without extension headers, but for sources in ::/64, some of which are IPv4
/// addresses.
#[inline(always)]
pub fn ipv6<B: Bytes + ?Sized>(packet: &B) -> Option<[u64; 2]> {
    if !packet.reaches(IPV6_END) || packet.known(12) != ETHERTYPE_IPV6.to_be_bytes() {
        return None;
    }
    let [version, _] = packet.known(14);
    let [next, _] = packet.known(20);
    if version >> 4 != 6 || !matches!(next, TCP | UDP) {
        return None;
    }
    let high = u64::from_be_bytes(packet.known(22));
    if high == 0 {
        return None;
    }
    Some([high, u64::from_be_bytes(packet.known(30))])
}

/// The headers of a plain packet from this source, as [`parse`](super::parse) gives them; `None` if it has none.
#[inline(always)]
pub fn headers<B: Bytes + ?Sized>(packet: &B, source: Source) -> Option<Headers> {
    let (ethertype, end, at_protocol) = match source {
        Source::V4(_) => (ETHERTYPE_IPV4, IPV4_END, 22),
        Source::V6(..) => (ETHERTYPE_IPV6, IPV6_END, 19),
    };
    if !packet.reaches(end) {
        return None;
    }
    let [_, protocol] = packet.known(at_protocol);
    Some(Headers {
        kind: Kind::Ip(source),
        oddities: Oddities::NONE,
        tags: 0,
        ethertype,
        protocol,
        network_at: ETHERNET_HEADER as u16,
        transport_at: end as u16,
    })
}
