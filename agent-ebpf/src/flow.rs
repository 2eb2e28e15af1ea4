//! Flows that this host opened, by which replies are told from uninvited packets.
//!
//! The egress program puts a flow in when the host opens it; the XDP program asks for it when a source is not listed. A table of
//! buckets of eight holds a keyed hash of each flow and the time of its last outgoing packet; when a bucket is full, the
//! flow that has been silent for longest goes. Nothing is kept of the state of a connection.

use crate::packet::{
    Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, ICMP, ICMPV6, TCP, UDP, halves, transport,
};

/// Buckets of the table: 1 MiB, room for 131,072 flows.
pub const FLOW_BUCKETS: u32 = 1 << 14;
/// Flows in a bucket.
pub const BUCKET_FLOWS: usize = 8;
/// A bucket, one cache line. An entry has 48 bits of hash above 16 bits of time; 0 is free.
pub type Bucket = [u64; BUCKET_FLOWS];

/// Local ports that a flow was ever opened from, one byte each, a cache line an element. Most uninvited packets are for another port, and
/// then the flows themselves, which are too many for the cache, need not be looked at.
pub type Ports = [u8; PORTS_OF_ELEMENT];
/// Ports of one [`Ports`].
pub const PORTS_OF_ELEMENT: usize = 64;
/// So many [`Ports`] hold all.
pub const PORT_ELEMENTS: u32 = (1 << 16) / PORTS_OF_ELEMENT as u32;

/// Both ends of a flow, as seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The local and the remote address; of IPv4, both in the last of the four.
    addresses: [u64; 4],
    is_v6: bool,
    pub protocol: u8,
    /// Of ICMP, the identifier of the echo request.
    local_port: [u8; 2],
    remote_port: [u8; 2],
}

/// Whether an outgoing packet opens a flow or only belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Opens,
    Belongs,
}

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// An ICMP error has so many bytes before the packet it is about.
const ICMP_HEADER: usize = 8;

/// Which of a packet's ends is this host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Incoming,
    Outgoing,
}

impl Flow {
    /// The flow that an incoming packet would be a reply of: of TCP anything but a first SYN, of UDP anything, of ICMP an echo
    /// reply, and an error about a packet of this host's.
    #[inline(always)]
    pub fn of_reply<B: Bytes + ?Sized>(packet: &B, headers: &Headers) -> Option<Self> {
        let at = usize::from(headers.transport_at);
        if at == 0 {
            return None;
        }
        let is_error =
            matches!(headers.protocol, ICMP | ICMPV6) && is_error(headers, packet.read::<2>(at)?);
        let (network, protocol, at, direction) = if is_error {
            let network = at + ICMP_HEADER;
            let (protocol, at) = embedded(packet, headers, network)?;
            (network, protocol, at, Direction::Outgoing)
        } else {
            let network = usize::from(headers.network_at);
            (network, headers.protocol, at, Direction::Incoming)
        };
        if protocol == TCP
            && direction == Direction::Incoming
            && transport::opens_connection(packet.read::<2>(at + transport::TCP_FLAGS)?)
        {
            return None;
        }
        Self::read(packet, headers.ethertype, network, protocol, at, direction)
    }

    /// The flow of an outgoing packet, and whether the packet opens it.
    #[inline(always)]
    pub fn of_outgoing<B: Bytes + ?Sized>(packet: &B, headers: &Headers) -> Option<(Self, Role)> {
        let at = usize::from(headers.transport_at);
        if at == 0 {
            return None;
        }
        let role = if headers.protocol == TCP {
            if transport::opens_connection(packet.read::<2>(at + transport::TCP_FLAGS)?) {
                Role::Opens
            } else {
                Role::Belongs
            }
        } else {
            Role::Opens
        };
        let flow = Self::read(
            packet,
            headers.ethertype,
            usize::from(headers.network_at),
            headers.protocol,
            at,
            Direction::Outgoing,
        )?;
        Some((flow, role))
    }

    #[inline(always)]
    fn read<B: Bytes + ?Sized>(
        packet: &B,
        ethertype: u16,
        network: usize,
        protocol: u8,
        at: usize,
        direction: Direction,
    ) -> Option<Self> {
        let [source_port, destination_port] = match protocol {
            TCP | UDP => {
                let [a, b, c, d] = packet.read::<4>(at)?;
                [[a, b], [c, d]]
            }
            ICMP | ICMPV6 => {
                let [kind, _] = packet.read::<2>(at)?;
                let is_wanted = match direction {
                    Direction::Incoming if protocol == ICMP => kind == ECHO_REPLY,
                    Direction::Incoming => kind == ECHO_REPLY6,
                    Direction::Outgoing if protocol == ICMP => kind == ECHO_REQUEST,
                    Direction::Outgoing => kind == ECHO_REQUEST6,
                };
                if !is_wanted {
                    return None;
                }
                [packet.read::<2>(at + 4)?; 2]
            }
            _ => return None,
        };
        let is_v6 = ethertype == ETHERTYPE_IPV6;
        let (source, destination) = if is_v6 {
            (
                halves(packet.read::<16>(network + 8)?),
                halves(packet.read::<16>(network + 24)?),
            )
        } else if ethertype == ETHERTYPE_IPV4 {
            let [a, b, c, d, e, f, g, h] = packet.read::<8>(network + 12)?;
            (
                [0, u64::from(u32::from_be_bytes([a, b, c, d]))],
                [0, u64::from(u32::from_be_bytes([e, f, g, h]))],
            )
        } else {
            return None;
        };
        let (local, remote, local_port, remote_port) = match direction {
            Direction::Outgoing => (source, destination, source_port, destination_port),
            Direction::Incoming => (destination, source, destination_port, source_port),
        };
        let [local_high, local_low] = local;
        let [remote_high, remote_low] = remote;
        Some(Self {
            addresses: if is_v6 {
                [local_high, local_low, remote_high, remote_low]
            } else {
                [0, 0, 0, local_low << 32 | remote_low]
            },
            is_v6,
            protocol,
            local_port,
            remote_port,
        })
    }

    /// The upper and lower half of the remote address; an IPv4 address in the lower.
    #[inline(always)]
    pub fn remote(&self) -> (bool, u64, u64) {
        let [_, _, high, low] = self.addresses;
        if self.is_v6 {
            (true, high, low)
        } else {
            (false, 0, low & 0xffff_ffff)
        }
    }

    /// Where the local port has its byte: the element of all [`Ports`], and the place in it.
    #[inline(always)]
    pub fn port_place(&self) -> (u32, usize) {
        let port = u16::from_be_bytes(self.local_port);
        (
            u32::from(port) / PORTS_OF_ELEMENT as u32,
            usize::from(port) % PORTS_OF_ELEMENT,
        )
    }

    /// SipHash-1-3 over all of it. Without the key nobody finds a flow whose hash is that of another.
    #[inline(always)]
    pub fn hash(&self, key: [u64; 2]) -> u64 {
        let [a, b] = self.local_port;
        let [c, d] = self.remote_port;
        let tail = u64::from_le_bytes([a, b, c, d, self.protocol, u8::from(self.is_v6), 0, 0]);
        let [w0, w1, w2, w3] = self.addresses;
        if self.is_v6 {
            siphash(key, [w0, w1, w2, w3, tail])
        } else {
            siphash(key, [w3, tail])
        }
    }
}

/// Destination unreachable, time exceeded, parameter problem, packet too big (RFC 792, RFC 4443 section 2.1).
#[inline(always)]
fn is_error(headers: &Headers, kind: [u8; 2]) -> bool {
    let [kind, _] = kind;
    if headers.protocol == ICMP {
        matches!(kind, 3 | 11 | 12)
    } else {
        matches!(kind, 1..=4)
    }
}

/// Protocol and place of the transport header of the packet that an ICMP error is about. Extension headers are not followed.
#[inline(always)]
fn embedded<B: Bytes + ?Sized>(
    packet: &B,
    headers: &Headers,
    network: usize,
) -> Option<(u8, usize)> {
    if headers.ethertype == ETHERTYPE_IPV4 {
        let header = packet.read::<IPV4_HEADER>(network)?;
        let [
            version_and_length,
            _,
            _,
            _,
            _,
            _,
            high,
            low,
            _,
            protocol,
            ..,
        ] = header;
        let length = usize::from(version_and_length & 0x0f) * 4;
        let is_later_fragment = u16::from_be_bytes([high, low]) & 0x1fff != 0;
        if version_and_length >> 4 != 4 || length < IPV4_HEADER || is_later_fragment {
            return None;
        }
        Some((protocol, network + length))
    } else {
        let [version, _, _, _, _, _, protocol, _] = packet.read::<8>(network)?;
        (version >> 4 == 6).then_some((protocol, network + IPV6_HEADER))
    }
}

/// The bucket of a hash.
#[inline(always)]
pub fn bucket_of(hash: u64) -> u32 {
    hash as u32 & (FLOW_BUCKETS - 1)
}

/// Whether the bucket has the flow, with a packet that went out at most `timeout` ago.
#[inline(always)]
pub fn is_known(bucket: &Bucket, hash: u64, now: u16, timeout: u16) -> bool {
    let mut is_known = false;
    for entry in bucket {
        is_known |= entry >> 16 == hash >> 16 && now.wrapping_sub(*entry as u16) <= timeout;
    }
    is_known
}

/// What to write into a bucket because of an outgoing packet: where, and which entry.
#[inline(always)]
pub fn update(bucket: &Bucket, hash: u64, now: u16, role: Role) -> Option<(usize, u64)> {
    let entry = hash >> 16 << 16 | u64::from(now);
    let mut oldest = 0;
    let mut place = 0;
    for (index, there) in bucket.iter().enumerate() {
        if *there == entry {
            return None;
        }
        if there >> 16 == hash >> 16 {
            return Some((index, entry));
        }
        let age = if *there == 0 {
            u32::MAX
        } else {
            u32::from(now.wrapping_sub(*there as u16))
        };
        if age > oldest {
            oldest = age;
            place = index;
        }
    }
    match role {
        Role::Opens => Some((place, entry)),
        Role::Belongs => None,
    }
}

/// SipHash with one round for each word and three at the end, over a number of words that the caller keeps apart by content: there is
/// no length in it.
#[inline(always)]
fn siphash<const N: usize>(key: [u64; 2], words: [u64; N]) -> u64 {
    let [key0, key1] = key;
    let mut state = [
        key0 ^ 0x736f_6d65_7073_6575,
        key1 ^ 0x646f_7261_6e64_6f6d,
        key0 ^ 0x6c79_6765_6e65_7261,
        key1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        let [a, b, c, d] = state;
        let [a, b, c, d] = round([a, b, c, d ^ word]);
        state = [a ^ word, b, c, d];
    }
    let [a, b, c, d] = state;
    let mut state = [a, b, c ^ 0xff, d];
    for _ in 0..3 {
        state = round(state);
    }
    let [a, b, c, d] = state;
    a ^ b ^ c ^ d
}

#[inline(always)]
fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
