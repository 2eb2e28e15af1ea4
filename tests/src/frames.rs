//! Frames built header by header, as the generators and the packet matrix send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// A station's address, which is no group.
const STATION: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// The shortest frame that the kernel takes for a test run (`ETH_HLEN`).
pub const SHORTEST: usize = 14;

/// An Ethernet frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub destination: [u8; 6],
    /// The tags' identifiers, the outermost first.
    pub tags: Vec<u16>,
    pub body: Body,
}

/// What a frame carries.
#[derive(Debug, Clone)]
pub enum Body {
    V4(V4),
    V6(V6),
    Other { ethertype: u16, bytes: Vec<u8> },
}

/// An IPv4 packet.
#[derive(Debug, Clone)]
pub struct V4 {
    pub source: Ipv4Addr,
    /// At most ten words of four bytes.
    pub option_words: u8,
    pub fragment: Fragment,
    pub protocol: u8,
    pub payload: Vec<u8>,
}

/// An IPv6 packet.
#[derive(Debug, Clone)]
pub struct V6 {
    pub source: Ipv6Addr,
    pub hop_limit: u8,
    pub extensions: Vec<Extension>,
    /// The last next header.
    pub protocol: u8,
    pub payload: Vec<u8>,
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    Middle,
    Last,
}

impl Fragment {
    pub const ALL: [Self; 4] = [Self::Whole, Self::First, Self::Middle, Self::Last];

    /// Offset in units of eight bytes, and whether more follow.
    fn parts(self) -> (u16, bool) {
        match self {
            Self::Whole => (0, false),
            Self::First => (0, true),
            Self::Middle => (185, true),
            Self::Last => (370, false),
        }
    }
}

/// An IPv6 extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Of the common form, with so many times eight bytes behind the first.
    Common { number: u8, units: u8 },
    /// RFC 4302, with so many words of four bytes behind the first eight bytes.
    Authentication { words: u8 },
    /// RFC 8200 section 4.5. A `Whole` one is an atomic fragment.
    Fragment(Fragment),
}

impl Extension {
    /// The numbers of the headers of the common form.
    pub const COMMON: [u8; 6] = [0, 43, 60, 135, 139, 140];

    fn number(self) -> u8 {
        match self {
            Self::Common { number, .. } => number,
            Self::Authentication { .. } => 51,
            Self::Fragment(_) => 44,
        }
    }

    fn write(self, next: u8, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let length = match self {
            Self::Common { units, .. } => {
                bytes.extend_from_slice(&[next, units]);
                8 + usize::from(units) * 8
            }
            Self::Authentication { words } => {
                bytes.extend_from_slice(&[next, words]);
                8 + usize::from(words) * 4
            }
            Self::Fragment(part) => {
                let (offset, has_more) = part.parts();
                bytes.extend_from_slice(&[next, 0]);
                bytes.extend_from_slice(&(offset << 3 | u16::from(has_more)).to_be_bytes());
                8
            }
        };
        bytes.resize(start + length, 0);
    }
}

impl Frame {
    /// An untagged frame to a station.
    pub fn new(body: Body) -> Self {
        Self {
            destination: STATION,
            tags: Vec::new(),
            body,
        }
    }

    /// A TCP packet with nothing special about it.
    pub fn tcp(source: IpAddr, port: u16) -> Self {
        let payload = transport(port);
        Self::new(match source {
            IpAddr::V4(source) => Body::V4(V4 {
                source,
                option_words: 0,
                fragment: Fragment::Whole,
                protocol: TCP,
                payload,
            }),
            IpAddr::V6(source) => Body::V6(V6 {
                source,
                hop_limit: 64,
                extensions: Vec::new(),
                protocol: TCP,
                payload,
            }),
        })
    }

    /// As it is on the wire, without a checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.destination.to_vec();
        bytes.extend_from_slice(&[0x02, 0, 0, 0, 0, 2]);
        for identifier in &self.tags {
            bytes.extend_from_slice(&identifier.to_be_bytes());
            bytes.extend_from_slice(&[0, 7]);
        }
        match &self.body {
            Body::V4(packet) => {
                bytes.extend_from_slice(&[0x08, 0x00]);
                packet.write(&mut bytes);
            }
            Body::V6(packet) => {
                bytes.extend_from_slice(&[0x86, 0xdd]);
                packet.write(&mut bytes);
            }
            Body::Other {
                ethertype,
                bytes: other,
            } => {
                bytes.extend_from_slice(&ethertype.to_be_bytes());
                bytes.extend_from_slice(other);
            }
        }
        bytes
    }
}

impl V4 {
    fn write(&self, bytes: &mut Vec<u8>) {
        let header = 20 + usize::from(self.option_words) * 4;
        let length = u16::try_from(header + self.payload.len()).unwrap_or(u16::MAX);
        let (offset, has_more) = self.fragment.parts();
        bytes.extend_from_slice(&[0x45 + self.option_words, 0]);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(&(u16::from(has_more) << 13 | offset).to_be_bytes());
        bytes.extend_from_slice(&[64, self.protocol, 0, 0]);
        bytes.extend_from_slice(&self.source.octets());
        bytes.extend_from_slice(&[192, 0, 2, 1]);
        // No-operation options (RFC 791).
        bytes.resize(bytes.len() + header - 20, 1);
        bytes.extend_from_slice(&self.payload);
    }
}

impl V6 {
    fn write(&self, bytes: &mut Vec<u8>) {
        let mut following = self
            .extensions
            .iter()
            .map(|extension| extension.number())
            .chain([self.protocol]);
        let first = following.next().unwrap_or(self.protocol);
        let mut rest = Vec::new();
        for (extension, next) in self.extensions.iter().zip(following) {
            extension.write(next, &mut rest);
        }
        rest.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&[0x60, 0, 0, 0]);
        bytes.extend_from_slice(&u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&[first, self.hop_limit]);
        bytes.extend_from_slice(&self.source.octets());
        bytes.extend_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
        bytes.extend_from_slice(&rest);
    }
}

/// Twenty bytes of a TCP header that opens a connection to this port; the first eight are a UDP header too.
pub fn transport(port: u16) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40];
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.resize(12, 0);
    bytes.extend_from_slice(&[0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}
