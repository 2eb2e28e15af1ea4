//! The made-up frame of a question: what a packet of this source, protocol and port looks like on the wire.
//!
//! Lengths and checksums are right, so that a capture of it reads well; nothing of it is ever sent.

use std::net::IpAddr;

/// The most VLAN tags of a question: more than any verdict looks at.
pub const MAX_TAGS: usize = 8;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;
/// IPv6 without anything behind the header (RFC 8200 section 4.7).
const NO_NEXT_HEADER: u8 = 59;
const FRAGMENT_HEADER: u8 = 44;
/// Locally administered, so it is nobody's and no reserved group.
const TO: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const FROM: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// 802.1ad and 802.1Q.
const OUTER_TAG: u16 = 0x88a8;
const TAG: u16 = 0x8100;
const HOP_LIMIT: u8 = 64;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// A packet that a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    /// Of the same family as the source.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Ports are of no account where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
    /// VLAN identifiers, the outermost first.
    pub vlans: Vec<u16>,
    /// A TCP packet that opens a connection: SYN without ACK.
    pub syn: bool,
    /// A fragment behind the first, which has no ports.
    pub later_fragment: bool,
}

impl Packet {
    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        frame.extend(TO);
        frame.extend(FROM);
        for (index, vlan) in self.vlans.iter().take(MAX_TAGS).enumerate() {
            let is_innermost = index + 1 == self.vlans.len();
            let tag = if is_innermost { TAG } else { OUTER_TAG };
            frame.extend(tag.to_be_bytes());
            frame.extend((vlan & 0x0fff).to_be_bytes());
        }
        let (ethertype, packet) = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (0x0800_u16, self.v4(from.octets(), to.octets())),
            (from, to) => (0x86dd, self.v6(octets6(from), octets6(to))),
        };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn v4(&self, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let pseudo = [&from[..], &to].concat();
        let payload = self.payload(&pseudo);
        let length = length16(20 + payload.len());
        // Offset in units of eight bytes (RFC 791): where a first fragment of 1480 bytes ends.
        let offset: u16 = if self.later_fragment { 185 } else { 0 };
        let mut header = vec![0x45, 0];
        header.extend(length.to_be_bytes());
        header.extend([0, 1]);
        header.extend(offset.to_be_bytes());
        header.extend([HOP_LIMIT, self.protocol]);
        let rest = [&from[..], &to].concat();
        let sum = checksum(&[&header, &rest]);
        header.extend(sum.to_be_bytes());
        header.extend(rest);
        header.extend(payload);
        header
    }

    fn v6(&self, from: [u8; 16], to: [u8; 16]) -> Vec<u8> {
        let pseudo = [&from[..], &to].concat();
        let mut payload = self.payload(&pseudo);
        let mut next = self.protocol;
        if self.later_fragment {
            // RFC 8200 section 4.5: offset in the upper 13 bits, in units of eight bytes.
            let offset: u16 = 181 << 3;
            let mut header = vec![self.protocol, 0];
            header.extend(offset.to_be_bytes());
            header.extend([0, 0, 0, 1]);
            header.append(&mut payload);
            payload = header;
            next = FRAGMENT_HEADER;
        }
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length16(payload.len()).to_be_bytes());
        packet.extend([next, HOP_LIMIT]);
        packet.extend(from);
        packet.extend(to);
        packet.extend(payload);
        packet
    }

    fn payload(&self, addresses: &[u8]) -> Vec<u8> {
        if self.later_fragment {
            return vec![0; 8];
        }
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        match self.protocol {
            TCP => {
                let (acknowledged, flags) = if self.syn {
                    (0_u32, TCP_SYN)
                } else {
                    (1, TCP_ACK)
                };
                bytes.extend(1_u32.to_be_bytes());
                bytes.extend(acknowledged.to_be_bytes());
                bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                self.put_checksum(&mut bytes, 16, Some(addresses));
            }
            UDP => {
                bytes.extend([0, 8, 0, 0]);
                self.put_checksum(&mut bytes, 6, Some(addresses));
            }
            // Echo requests (RFC 792, RFC 4443 section 4.1).
            ICMP => {
                bytes = vec![8, 0, 0, 0, 0, 1, 0, 1];
                self.put_checksum(&mut bytes, 2, None);
            }
            ICMPV6 => {
                bytes = vec![128, 0, 0, 0, 0, 1, 0, 1];
                self.put_checksum(&mut bytes, 2, Some(addresses));
            }
            // The common header; its CRC stays empty.
            SCTP => bytes.extend([0; 8]),
            // Read as an extension header, this is one of twelve bytes at the most, with nothing behind it.
            51 => bytes = vec![NO_NEXT_HEADER, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
            _ => bytes = vec![NO_NEXT_HEADER, 0, 0, 0, 0, 0, 0, 0],
        }
        bytes
    }

    /// Fills a checksum in that goes over the pseudo header too, if there are addresses.
    fn put_checksum(&self, bytes: &mut [u8], at: usize, addresses: Option<&[u8]>) {
        let length = length16(bytes.len()).to_be_bytes();
        let pseudo = [&[0, self.protocol], &length[..]].concat();
        let sum = match addresses {
            Some(addresses) => checksum(&[addresses, &pseudo, bytes]),
            None => checksum(&[bytes]),
        };
        if let Some(place) = bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Far below the limit: nothing here is longer than some hundred bytes.
fn length16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The Internet checksum (RFC 1071) over parts of an even length each.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let word = match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                [high] => u16::from_be_bytes([*high, 0]),
                _ => 0,
            };
            sum += u32::from(word);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use agent_ebpf::packet::{Kind, Oddities, Oddity, Source, parse};

    use super::*;

    fn packet(source: &str, protocol: u8) -> Packet {
        let source: IpAddr = source.parse().unwrap();
        Packet {
            source,
            destination: if source.is_ipv4() {
                "192.0.2.1".parse().unwrap()
            } else {
                "2001:db8::1".parse().unwrap()
            },
            protocol,
            source_port: 40_000,
            destination_port: 22,
            vlans: Vec::new(),
            syn: false,
            later_fragment: false,
        }
    }

    #[test]
    fn the_program_s_parser_reads_back_what_was_asked() {
        for source in ["198.51.100.7", "2001:db8::7"] {
            let own_icmp = if source.contains(':') { ICMPV6 } else { ICMP };
            for protocol in [TCP, UDP, own_icmp, SCTP, 47, 89, 132] {
                for vlans in [vec![], vec![7], vec![4094, 7]] {
                    let asked = Packet {
                        vlans,
                        ..packet(source, protocol)
                    };
                    let frame = asked.frame();
                    let headers = parse(&frame[..]).unwrap();
                    let expected = Source::from(asked.source);
                    assert_eq!(headers.kind, Kind::Ip(expected), "{asked:?}");
                    assert_eq!(headers.protocol, protocol, "{asked:?}");
                    assert_eq!(headers.oddities, Oddities::NONE, "{asked:?}");
                    if [TCP, UDP, SCTP].contains(&protocol) {
                        let at = usize::from(headers.transport_at);
                        assert_eq!(frame[at..at + 4], [0x9c, 0x40, 0, 22], "{asked:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_and_checksums_are_right() {
        let plain = packet("198.51.100.7", TCP);
        let frame = plain.frame();
        let (header, segment) = frame[14..].split_at(20);
        assert_eq!(header[2..4], [0, 40]);
        assert_eq!(checksum(&[header]), 0, "of a header with its own checksum");
        assert_eq!(
            checksum(&[&header[12..20], &[0, TCP, 0, 20], segment]),
            0,
            "of a segment with its own"
        );
        let frame = packet("2001:db8::7", UDP).frame();
        let (header, datagram) = frame[14..].split_at(40);
        assert_eq!(header[4..6], [0, 8]);
        assert_eq!(checksum(&[&header[8..], &[0, UDP, 0, 8], datagram]), 0);
        let frame = packet("198.51.100.7", ICMP).frame();
        assert_eq!(checksum(&[&frame[34..]]), 0);
    }

    #[test]
    fn syn_is_alone_and_otherwise_there_is_ack() {
        let flags = |syn| {
            Packet {
                syn,
                ..packet("198.51.100.7", TCP)
            }
            .frame()[14 + 20 + 13]
        };
        assert_eq!(flags(true), TCP_SYN);
        assert_eq!(flags(false), TCP_ACK);
    }

    #[test]
    fn a_later_fragment_is_one_in_both_families() {
        for source in ["198.51.100.7", "2001:db8::7"] {
            let frame = Packet {
                later_fragment: true,
                ..packet(source, UDP)
            }
            .frame();
            let headers = parse(&frame[..]).unwrap();
            assert!(headers.oddities.has(Oddity::Fragment), "{source}");
            assert_eq!(headers.protocol, UDP, "{source}");
            assert_eq!(headers.transport_at, 0, "{source}");
        }
    }

    #[test]
    fn outer_tags_are_service_tags_and_the_innermost_is_a_customer_tag() {
        let frame = Packet {
            vlans: vec![100, 7],
            ..packet("198.51.100.7", TCP)
        }
        .frame();
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 7, 8, 0]);
    }

    #[test]
    fn an_extension_header_s_number_makes_no_malformed_packet() {
        for protocol in [0, 43, 51, 60, 135, 139, 140] {
            let frame = packet("2001:db8::7", protocol).frame();
            assert!(parse(&frame[..]).is_ok(), "{protocol}");
        }
    }
}
