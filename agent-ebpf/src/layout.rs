//! All that crosses the boundary between the program and the daemon: map names and sizes, keys, values, events.
//!
//! Pinned maps outlive both, so [`FINGERPRINT`] is computed from what stands here and names the directory of the pins.

use core::{
    mem::{align_of, offset_of, size_of},
    net::IpAddr,
};

use crate::{
    packet::{Headers, Kind, Oddity, Source},
    verdict::{List, Policy, VERDICTS, Verdict},
};

/// The program's name in the kernel.
pub const PROGRAM: &str = "portcullis_xdp";
/// The tc program that learns flows at egress.
pub const EGRESS_PROGRAM: &str = "portcullis_tc";
/// The same, beside LPM tries.
pub const LPM_EGRESS_PROGRAM: &str = "portcullis_tclpm";

/// An exact IPv4 address, the key of `BANS4`.
pub type Address4 = [u8; 4];
/// An exact IPv6 address, the key of `BANS6`.
pub type Address6 = [u8; 16];

/// Host bans that one family can hold. The maps are preallocated: a ban never fails for want of memory.
pub const MAX_HOST_BANS: u32 = 65_536;
/// Bytes of the ring buffer of events: a power of two and a multiple of the page size.
pub const EVENT_BYTES: u32 = 256 * 1024;
/// Prefixes in the template of an inner list. Lists of any size may take its place.
pub const LIST_TEMPLATE: u32 = 1;

/// Generations that exist side by side: the one in force and the one being built.
pub const GENERATIONS: u32 = 2;
/// Slots of an outer map of lists.
pub const LIST_SLOTS: u32 = GENERATIONS * List::ALL.len() as u32;

/// The slot of `list` under `generation`.
#[inline(always)]
pub fn list_slot(generation: u64, list: List) -> u32 {
    parameters_slot(generation) * List::ALL.len() as u32 + list as u32
}

/// The slot of the parameters under `generation`.
#[inline(always)]
pub fn parameters_slot(generation: u64) -> u32 {
    (generation & 1) as u32
}

/// The words of the map `CONTROL`, each read and written alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Control {
    /// The generation in force; its lowest bit picks the slots.
    Generation,
    /// Moved on by the daemon ten times a second; each CPU may send so many events for one value. Stands still when no daemon runs.
    EventWindow,
    /// Whether `BANS4` holds anything.
    HasBans4,
    /// Whether `BANS6` holds anything.
    HasBans6,
}

/// Words of `CONTROL`.
pub const CONTROL_WORDS: u32 = 4;

/// The parameters of one generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Parameters {
    flags: u32,
    /// One bit for each list and family that holds anything, by [`Parameters::presence`].
    present: u32,
    /// One drop in so many becomes an event, a power of two less one; on each CPU.
    pub sample_mask: u32,
    /// Events that one CPU may send for one value of [`Control::EventWindow`].
    pub events_per_window: u32,
}

const MONITOR: u32 = 1;
const DROP_FRAGMENTS: u32 = 1 << 1;
const DROP_LONG_EXTENSION_CHAINS: u32 = 1 << 2;
const PASS_OTHER_ETHERNET: u32 = 1 << 3;

/// The two address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Family {
    V4,
    V6,
}

impl Parameters {
    /// Parameters of an empty policy.
    pub fn new(policy: Policy, monitor: bool, sample_mask: u32, events_per_window: u32) -> Self {
        let mut flags = 0;
        for (is_set, flag) in [
            (monitor, MONITOR),
            (policy.drop_fragments, DROP_FRAGMENTS),
            (
                policy.drop_long_extension_chains,
                DROP_LONG_EXTENSION_CHAINS,
            ),
            (policy.pass_other_ethernet, PASS_OTHER_ETHERNET),
        ] {
            if is_set {
                flags |= flag;
            }
        }
        Self {
            flags,
            present: 0,
            sample_mask,
            events_per_window,
        }
    }

    /// The policy as the verdict asks for it.
    #[inline(always)]
    pub fn policy(&self) -> Policy {
        Policy {
            drop_fragments: self.flags & DROP_FRAGMENTS != 0,
            drop_long_extension_chains: self.flags & DROP_LONG_EXTENSION_CHAINS != 0,
            pass_other_ethernet: self.flags & PASS_OTHER_ETHERNET != 0,
            ..Policy::default()
        }
    }

    /// Whether drops are counted and not done.
    #[inline(always)]
    pub fn monitors(&self) -> bool {
        self.flags & MONITOR != 0
    }

    /// Says that `list` holds prefixes of `family`.
    pub fn set_present(&mut self, list: List, family: Family) {
        self.present |= Self::presence(list, family);
    }

    /// Whether `list` holds prefixes of `family`: an empty one is not searched.
    #[inline(always)]
    pub fn is_present(&self, list: List, family: Family) -> bool {
        self.present & Self::presence(list, family) != 0
    }

    #[inline(always)]
    fn presence(list: List, family: Family) -> u32 {
        1 << (list as u32 * 2 + family as u32)
    }
}

/// Interfaces that can be monitored by name.
pub const MONITORED_INTERFACES: usize = 16;

/// The value of a host ban. The program asks only whether there is one: expiry is swept by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BanValue {
    /// Seconds since the epoch.
    pub expires: u64,
}

/// How many events a CPU has sent in the window it last saw, and its drops so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampling {
    pub drops: u64,
    pub window: u64,
    pub sent: u64,
}

/// Counters: one for each verdict, then one for each that monitor mode did not carry out, then one for each oddity.
pub const COUNTERS: u32 = 2 * VERDICTS + 2;

/// The counter of a verdict that was carried out, or only would have been.
#[inline(always)]
pub fn verdict_counter(verdict: u32, is_monitored: bool) -> u32 {
    if is_monitored {
        VERDICTS + verdict
    } else {
        verdict
    }
}

/// The counter of packets that had an oddity, whatever their verdict.
#[inline(always)]
pub fn oddity_counter(oddity: Oddity) -> Option<u32> {
    match oddity {
        Oddity::None => None,
        Oddity::Fragment => Some(2 * VERDICTS),
        Oddity::LongExtensionChain => Some(2 * VERDICTS + 1),
    }
}

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

impl PacketEvent {
    /// An event about a packet whose headers may not have been readable.
    #[inline(always)]
    pub fn new(
        generation: u64,
        interface: u32,
        verdict: u32,
        length: u32,
        headers: Option<&Headers>,
    ) -> Self {
        let mut event = Self {
            generation,
            interface,
            verdict,
            length,
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
        if let Some(headers) = headers {
            event.ethertype = headers.ethertype.to_be_bytes();
            event.protocol = headers.protocol;
            match headers.kind {
                Kind::Ip(Source::V4([a, b, c, d])) => {
                    event.family = 4;
                    event.source = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                }
                Kind::Ip(Source::V6(address)) => {
                    event.family = 6;
                    event.source = address;
                }
                Kind::Arp | Kind::LinkControl | Kind::OtherEthernet | Kind::NeighbourDiscovery => {}
            }
        }
        event
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

    /// Sets the destination port from its two bytes on the wire.
    #[inline(always)]
    pub fn set_destination_port(&mut self, port: [u8; 2]) {
        self.destination_port = port;
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

/// Map types of the kernel that the program uses, with the kernel's numbers (`enum bpf_map_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    ArrayOfMaps = 12,
    RingBuffer = 27,
}

/// What a map must be, for a pinned one to be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSpec {
    pub name: &'static str,
    pub kind: MapKind,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
}

/// Every map that is pinned.
pub const MAPS: [MapSpec; 9] = [
    map("CONTROL", MapKind::Array, 4, 8, CONTROL_WORDS),
    map(
        "PARAMETERS",
        MapKind::Array,
        4,
        size_of::<Parameters>(),
        GENERATIONS,
    ),
    map("LISTS4", MapKind::ArrayOfMaps, 4, 4, LIST_SLOTS),
    map("LISTS6", MapKind::ArrayOfMaps, 4, 4, LIST_SLOTS),
    map(
        "BANS4",
        MapKind::Hash,
        size_of::<Address4>(),
        size_of::<BanValue>(),
        MAX_HOST_BANS,
    ),
    map(
        "BANS6",
        MapKind::Hash,
        size_of::<Address6>(),
        size_of::<BanValue>(),
        MAX_HOST_BANS,
    ),
    map("COUNTERS", MapKind::PerCpuArray, 4, 8, COUNTERS),
    map(
        "SAMPLING",
        MapKind::PerCpuArray,
        4,
        size_of::<Sampling>(),
        1,
    ),
    map("EVENTS", MapKind::RingBuffer, 0, 0, EVENT_BYTES),
];

const fn map(
    name: &'static str,
    kind: MapKind,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
) -> MapSpec {
    MapSpec {
        name,
        kind,
        key_size: key_size as u32,
        value_size: value_size as u32,
        max_entries,
    }
}

/// A hash over names, sizes, offsets and counts of everything above. Another layout has another one.
pub const FINGERPRINT: u64 = fingerprint();

const fn fingerprint() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut index = 0;
    while index < MAPS.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
        let map = MAPS[index];
        hash = hash_bytes(hash, map.name.as_bytes());
        hash = hash_words(
            hash,
            &[
                map.kind as usize,
                map.key_size as usize,
                map.value_size as usize,
                map.max_entries as usize,
            ],
        );
        index += 1;
    }
    hash_words(
        hash,
        &[
            VERDICTS as usize,
            LIST_SLOTS as usize,
            offset_of!(Parameters, flags),
            offset_of!(Parameters, present),
            offset_of!(Parameters, sample_mask),
            offset_of!(Parameters, events_per_window),
            offset_of!(Sampling, drops),
            offset_of!(Sampling, window),
            offset_of!(Sampling, sent),
            size_of::<PacketEvent>(),
            offset_of!(PacketEvent, generation),
            offset_of!(PacketEvent, interface),
            offset_of!(PacketEvent, verdict),
            offset_of!(PacketEvent, length),
            offset_of!(PacketEvent, source),
            offset_of!(PacketEvent, ethertype),
            offset_of!(PacketEvent, source_port),
            offset_of!(PacketEvent, destination_port),
            offset_of!(PacketEvent, vlan),
            offset_of!(PacketEvent, family),
            offset_of!(PacketEvent, protocol),
            offset_of!(PacketEvent, monitored),
            offset_of!(PacketEvent, class),
            offset_of!(PacketEvent, tags),
            offset_of!(PacketEvent, head_length),
            offset_of!(PacketEvent, head),
        ],
    )
}

/// FNV-1a.
const fn hash_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
        let byte = bytes[index];
        hash = (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
        index += 1;
    }
    hash
}

const fn hash_words(mut hash: u64, words: &[usize]) -> u64 {
    let mut index = 0;
    while index < words.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
        let word = words[index];
        hash = hash_bytes(hash, &(word as u64).to_le_bytes());
        index += 1;
    }
    hash
}

const _: () = {
    assert!(size_of::<Parameters>() == 4 * 4, "padding");
    assert!(size_of::<Sampling>() == 3 * 8, "padding");
    assert!(
        size_of::<PacketEvent>() == 8 + 3 * 4 + 2 * 2 + 16 + 3 * 2 + 6 + 4 + HEAD_BYTES,
        "padding"
    );
    assert!(
        align_of::<PacketEvent>() == 8,
        "the ring buffer aligns to eight bytes"
    );
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, no padding (asserted above), and any bits are a value.
    unsafe impl aya::Pod for super::Parameters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BanValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Sampling {}
}
