//! All that crosses the boundary between the program and the daemon: map names and sizes, keys, values, events.
//!
//! Pinned maps outlive both, so [`FINGERPRINT`] is computed from what stands here and names the directory of the pins.

mod active;
mod control;
mod event;

pub use self::{
    active::{Active, Conditions, Place, SLOTS},
    control::{Control, FlowTimeouts, MONITORED_INTERFACES, Parameters},
    event::{EventParts, HEAD_BYTES, PacketEvent},
};

use core::mem::{offset_of, size_of};

use crate::{
    class::SCOPE_SETS,
    flow::{self, FLOW_BUCKETS, PORT_ELEMENTS},
    limit::{self, BUCKETS},
    packet::Oddity,
    scope::ScopeSet,
    table::{v4, v6},
    verdict::VERDICTS,
};

/// The XDP program that reads the compiled tables, by its name in the kernel.
pub const PROGRAM: &str = "portcullis_xdp";
/// The XDP program that asks the kernel's LPM tries instead.
pub const LPM_PROGRAM: &str = "portcullis_lpm";
/// The tc program that learns flows at egress.
pub const EGRESS_PROGRAM: &str = "portcullis_tc";
/// The same, beside [`LPM_PROGRAM`].
pub const LPM_EGRESS_PROGRAM: &str = "portcullis_tclpm";

/// Bytes of the ring buffer of events: a power of two and a multiple of the page size.
pub const EVENT_BYTES: u32 = 256 * 1024;
/// Entries in the template of an LPM trie. Tries of any size may take its place.
pub const LPM_TEMPLATE: u32 = 1;

/// `BPF_F_MMAPABLE`: the daemon reads and writes the map's memory.
pub const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_INNER_MAP`: the maps in an outer map may have other sizes than its template. Their lookups are not inlined.
pub const ANY_SIZE: u32 = 1 << 12;

/// Flags of the array of an IPv4 table of this size. The kernel makes a map like the template whenever the program is loaded, so that of a
/// large table is small.
pub const fn flags4(size: usize) -> u32 {
    if size < 3 {
        MMAPABLE
    } else {
        MMAPABLE | ANY_SIZE
    }
}

/// As [`flags4`], of an IPv6 table.
pub const fn flags6(size: usize) -> u32 {
    if size < 3 {
        MMAPABLE
    } else {
        MMAPABLE | ANY_SIZE
    }
}

/// Counters: one for each verdict, then one for each that monitor mode did not carry out, then one for each oddity.
pub const COUNTERS: u32 = 2 * VERDICTS + Oddity::ALL.len() as u32;

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
pub fn oddity_counter(oddity: Oddity) -> u32 {
    2 * VERDICTS + oddity as u32
}

/// What one CPU counts; an element of `CPUS`, whose index is the CPU's number. Whole cache lines, so that no two CPUs share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Cpu {
    /// [`COUNTERS`] of them are used.
    pub counters: [u64; COUNTER_PLACES],
    /// Drops that go by before the next that becomes an event.
    pub unsampled_drops: u64,
    /// Passes while they are observed: every so many-th becomes an event.
    pub passes: u64,
    /// The event window last seen, and the events sent in it.
    pub window: u64,
    pub sent: u64,
    /// Flows that egress put into the table, and those that it overwrote although they might still have been in use.
    pub flows_learned: u64,
    pub flows_evicted: u64,
    _reserved: [u64; CPU_PADDING],
}

/// Places for counters: a power of two, so that an index is checked by a mask.
pub const COUNTER_PLACES: usize = 64;
const CPU_PADDING: usize = 2;

/// Words of [`Cpu`].
pub const CPU_WORDS: usize = size_of::<Cpu>() / 8;

/// A made-up packet, in the metadata in front of it: the program takes `nonce` for a sign and writes the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeNote {
    /// [`Control::probe`].
    pub nonce: u64,
    /// Index of the verdict, class in the second byte, whether it is monitored in the third.
    pub result: u64,
    pub generation: u64,
}

/// Map types of the kernel that the program uses, with the kernel's numbers (`enum bpf_map_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    Array = 2,
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
    /// [`PER_CPU`] stands for as many as there can be CPUs.
    pub max_entries: u32,
    pub flags: u32,
}

/// As many entries as there can be CPUs.
pub const PER_CPU: u32 = 0;

/// The outer maps of the IPv4 tables, by size.
pub const TABLES4: [&str; v4::CELLS.len()] =
    ["TABLE4_0", "TABLE4_1", "TABLE4_2", "TABLE4_3", "TABLE4_4"];
/// The outer maps of the IPv6 tables, by size.
pub const TABLES6: [&str; v6::CELLS.len()] = ["TABLE6_0", "TABLE6_1", "TABLE6_2", "TABLE6_3"];
/// The outer map of the IPv4 tries.
pub const LPM4: &str = "LPM4";
/// The outer map of the IPv6 tries.
pub const LPM6: &str = "LPM6";

/// Every map that is pinned. Their content is made anew by each daemon, but for counters, flows, buckets and events.
pub const MAPS: [MapSpec; 19] = [
    array("CONTROL", size_of::<Control>(), 1),
    array("PARAMETERS", size_of::<Parameters>(), SLOTS),
    array("SCOPES", size_of::<ScopeSet>(), SLOTS * SCOPE_SETS),
    array("CPUS", size_of::<Cpu>(), PER_CPU),
    array("FLOWS", size_of::<flow::Bucket>(), FLOW_BUCKETS),
    array("PORTS", size_of::<flow::Ports>(), PORT_ELEMENTS),
    array("BUCKETS", size_of::<limit::Bucket>(), BUCKETS),
    MapSpec {
        name: "EVENTS",
        kind: MapKind::RingBuffer,
        key_size: 0,
        value_size: 0,
        max_entries: EVENT_BYTES,
        flags: 0,
    },
    outer(TABLES4[0]),
    outer(TABLES4[1]),
    outer(TABLES4[2]),
    outer(TABLES4[3]),
    outer(TABLES4[4]),
    outer(TABLES6[0]),
    outer(TABLES6[1]),
    outer(TABLES6[2]),
    outer(TABLES6[3]),
    outer(LPM4),
    outer(LPM6),
];

const fn array(name: &'static str, value_size: usize, max_entries: u32) -> MapSpec {
    MapSpec {
        name,
        kind: MapKind::Array,
        key_size: 4,
        value_size: value_size as u32,
        max_entries,
        flags: MMAPABLE,
    }
}

const fn outer(name: &'static str) -> MapSpec {
    MapSpec {
        name,
        kind: MapKind::ArrayOfMaps,
        key_size: 4,
        value_size: 4,
        max_entries: SLOTS,
        flags: 0,
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
                map.flags as usize,
            ],
        );
        index += 1;
    }
    hash = hash_words(hash, &control::OFFSETS);
    hash = hash_words(hash, &event::OFFSETS);
    hash_words(
        hash,
        &[
            VERDICTS as usize,
            COUNTERS as usize,
            SCOPE_SETS as usize,
            v4::CELLS[0] as usize,
            v6::CELLS[0] as usize,
            offset_of!(Cpu, unsampled_drops),
            offset_of!(Cpu, passes),
            offset_of!(Cpu, window),
            offset_of!(Cpu, sent),
            offset_of!(Cpu, flows_learned),
            size_of::<ProbeNote>(),
            REVISION,
        ],
    )
}

/// Counted up when the content of a map changes its meaning and not its size.
const REVISION: usize = 2;

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
    assert!(COUNTERS as usize <= COUNTER_PLACES, "too many reasons");
    assert!(size_of::<Cpu>().is_multiple_of(64), "whole cache lines");
    assert!(
        size_of::<ProbeNote>() <= 32,
        "the kernel's limit of metadata"
    );
};
