//! What the program says about single packets.

use core::{
    mem::{align_of, offset_of, size_of},
    net::IpAddr,
};

use crate::verdict::Verdict;

/// Bytes from the beginning of a frame that go into an event.
pub const HEAD_BYTES: usize = 96;

/// A packet that was dropped, or passed while passes are observed, as it is put into the ring buffer. Without a time: the daemon
/// stamps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PacketEvent {
    pub generation: u64,
    pub interface: u32,
    /// Index of the verdict.
    pub verdict: u32,
    /// Bytes of the packet as received.
    pub length: u32,
    head_length: u16,
    ethertype: [u8; 2],
    /// In network order; all zero when it could not be read.
    pub source: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    vlan: [u8; 2],
    /// 4, 6, or 0 when there is no source.
    pub family: u8,
    pub protocol: u8,
    /// 1 when the drop was counted and not done.
    pub monitored: u8,
    /// Of the source, by the tables.
    pub class: u8,
    /// VLAN tags in front of the ethertype.
    pub tags: u8,
    _reserved: u8,
    _reserved_tail: [u8; 4],
    head: [u8; HEAD_BYTES],
}

/// What an event is made from. Fields that a packet does not have are 0.
#[derive(Debug, Clone, Copy)]
pub struct EventParts {
    pub generation: u64,
    pub interface: u32,
    pub verdict: u32,
    pub length: u32,
    pub head_length: u16,
    pub ethertype: u16,
    /// The upper and the lower half of an IPv6 address; an IPv4 address in the lower.
    pub source: (u64, u64),
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    pub vlan: [u8; 2],
    pub family: u8,
    pub protocol: u8,
    pub monitored: bool,
    pub class: u8,
    pub tags: u8,
}

impl PacketEvent {
    /// An event that says nothing.
    pub const EMPTY: Self = Self {
        generation: 0,
        interface: 0,
        verdict: 0,
        length: 0,
        head_length: 0,
        ethertype: [0; 2],
        source: [0; 16],
        source_port: [0; 2],
        destination_port: [0; 2],
        vlan: [0; 2],
        family: 0,
        protocol: 0,
        monitored: 0,
        class: 0,
        tags: 0,
        _reserved: 0,
        _reserved_tail: [0; 4],
        head: [0; HEAD_BYTES],
    };

    /// Sets all but the head. In place: a copy on the stack would take a third of what a program has.
    #[inline(always)]
    pub fn set(&mut self, parts: EventParts) {
        let (high, low) = parts.source;
        let [first, last] = if parts.family == 4 {
            [low << 32, 0]
        } else {
            [high, low]
        };
        // Half by half: a pattern over sixteen bytes would be sixteen registers, and most of them on the stack.
        if let Some(half) = self.source.first_chunk_mut::<8>() {
            *half = first.to_be_bytes();
        }
        if let Some(half) = self.source.last_chunk_mut::<8>() {
            *half = last.to_be_bytes();
        }
        self.generation = parts.generation;
        self.interface = parts.interface;
        self.verdict = parts.verdict;
        self.length = parts.length;
        self.head_length = parts.head_length;
        self.ethertype = parts.ethertype.to_be_bytes();
        self.source_port = parts.source_port;
        self.destination_port = parts.destination_port;
        self.vlan = parts.vlan;
        self.family = parts.family;
        self.protocol = parts.protocol;
        self.monitored = u8::from(parts.monitored);
        self.class = parts.class;
        self.tags = parts.tags;
    }

    /// Where the first bytes of the frame go.
    #[inline(always)]
    pub fn head_mut(&mut self) -> &mut [u8; HEAD_BYTES] {
        &mut self.head
    }

    /// The event that the program wrote as these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        Some(Self {
            generation: u64::from_ne_bytes(field(bytes, offset_of!(Self, generation))?),
            interface: u32::from_ne_bytes(field(bytes, offset_of!(Self, interface))?),
            verdict: u32::from_ne_bytes(field(bytes, offset_of!(Self, verdict))?),
            length: u32::from_ne_bytes(field(bytes, offset_of!(Self, length))?),
            head_length: u16::from_ne_bytes(field(bytes, offset_of!(Self, head_length))?),
            ethertype: field(bytes, offset_of!(Self, ethertype))?,
            source: field(bytes, offset_of!(Self, source))?,
            source_port: field(bytes, offset_of!(Self, source_port))?,
            destination_port: field(bytes, offset_of!(Self, destination_port))?,
            vlan: field(bytes, offset_of!(Self, vlan))?,
            family: u8::from_ne_bytes(field(bytes, offset_of!(Self, family))?),
            protocol: u8::from_ne_bytes(field(bytes, offset_of!(Self, protocol))?),
            monitored: u8::from_ne_bytes(field(bytes, offset_of!(Self, monitored))?),
            class: u8::from_ne_bytes(field(bytes, offset_of!(Self, class))?),
            tags: u8::from_ne_bytes(field(bytes, offset_of!(Self, tags))?),
            _reserved: 0,
            _reserved_tail: [0; 4],
            head: field(bytes, offset_of!(Self, head))?,
        })
    }

    /// What became of the packet.
    pub fn verdict(&self) -> Option<Verdict> {
        Verdict::from_index(self.verdict)
    }

    /// The source address, if there is one. An IPv4-mapped one is given as IPv4.
    pub fn source_address(&self) -> Option<IpAddr> {
        let [a, b, c, d, ..] = self.source;
        match self.family {
            4 => Some(IpAddr::from([a, b, c, d])),
            6 => Some(IpAddr::from(self.source)),
            _ => None,
        }
    }

    /// The ethertype behind the tags.
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes(self.ethertype)
    }

    /// The port the packet came from, for TCP, UDP and SCTP; 0 when it is not known.
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.source_port)
    }

    /// The port the packet was for, for TCP, UDP and SCTP; 0 when it is not known.
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.destination_port)
    }

    /// The identifier in the outermost VLAN tag that was in the frame. A tag that the interface took off is not seen.
    pub fn vlan(&self) -> Option<u16> {
        (self.tags != 0).then_some(u16::from_be_bytes(self.vlan) & 0x0fff)
    }

    /// The first bytes of the frame, from the Ethernet header on; at most [`HEAD_BYTES`].
    pub fn head(&self) -> &[u8] {
        self.head
            .get(..usize::from(self.head_length))
            .unwrap_or(&self.head)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Size and offsets, for the fingerprint of the layout.
pub(super) const OFFSETS: [usize; 18] = [
    size_of::<PacketEvent>(),
    offset_of!(PacketEvent, generation),
    offset_of!(PacketEvent, interface),
    offset_of!(PacketEvent, verdict),
    offset_of!(PacketEvent, length),
    offset_of!(PacketEvent, head_length),
    offset_of!(PacketEvent, ethertype),
    offset_of!(PacketEvent, source),
    offset_of!(PacketEvent, source_port),
    offset_of!(PacketEvent, destination_port),
    offset_of!(PacketEvent, vlan),
    offset_of!(PacketEvent, family),
    offset_of!(PacketEvent, protocol),
    offset_of!(PacketEvent, monitored),
    offset_of!(PacketEvent, class),
    offset_of!(PacketEvent, tags),
    offset_of!(PacketEvent, head),
    HEAD_BYTES,
];

const _: () = {
    assert!(
        size_of::<PacketEvent>() == 8 + 3 * 4 + 2 * 2 + 16 + 3 * 2 + 6 + 4 + HEAD_BYTES,
        "padding"
    );
    assert!(
        align_of::<PacketEvent>() == 8,
        "the ring buffer aligns to eight bytes"
    );
};

#[cfg(test)]
mod tests {
    use super::*;

    fn event(parts: EventParts) -> PacketEvent {
        let mut event = PacketEvent::EMPTY;
        event.set(parts);
        event
    }

    fn parts(family: u8, source: (u64, u64)) -> EventParts {
        EventParts {
            generation: 1,
            interface: 2,
            verdict: 3,
            length: 60,
            head_length: 14,
            ethertype: 0x0800,
            source,
            source_port: [0, 53],
            destination_port: [0x12, 0x34],
            vlan: [0xe0, 7],
            family,
            protocol: 17,
            monitored: true,
            class: 0,
            tags: 1,
        }
    }

    #[test]
    fn a_source_is_written_by_its_family() {
        let v4 = event(parts(4, (0, 0xc000_020a)));
        assert_eq!(v4.source_address(), Some(IpAddr::from([192, 0, 2, 10])));
        let v6 = event(parts(6, (0x2001_0db8_0000_0000, 7)));
        assert_eq!(v6.source_address(), "2001:db8::7".parse().ok());
        assert_eq!(event(parts(0, (0, 0))).source_address(), None);
    }

    #[test]
    fn the_priority_of_a_tag_is_not_its_identifier() {
        let mut event = event(parts(4, (0, 0)));
        assert_eq!(event.vlan(), Some(7));
        event.tags = 0;
        assert_eq!(event.vlan(), None);
    }
}
