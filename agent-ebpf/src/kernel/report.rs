//! What is said about single packets: events, and answers about made-up ones.

use agent_ebpf::{
    class::Class,
    layout::{Control, EventParts, HEAD_BYTES, ProbeNote},
    packet::{Bytes as _, HeaderWords, Headers, Kind, SCTP, Source, TCP, UDP},
    verdict::Verdict,
};
use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_probe_read_kernel, programs::XdpContext};

use super::{context::Packet, maps};

/// Whether the packet is made up. Packets from a wire have no metadata, or not with the word that the daemon drew.
#[inline(always)]
pub(super) fn is_probe(context: &XdpContext, control: *const Control) -> bool {
    let Some(note) = note(context) else {
        return false;
    };
    // SAFETY: both pointers were checked, one by the kernel and one above.
    let (nonce, wanted) = unsafe { ((*note).nonce, maps::read(&raw const (*control).probe)) };
    nonce == wanted && wanted != 0
}

/// The note in front of a made-up packet.
#[inline(always)]
fn note(context: &XdpContext) -> Option<*mut ProbeNote> {
    let start = context.metadata();
    if start + size_of::<ProbeNote>() > context.data() {
        return None;
    }
    Some(start as *mut ProbeNote)
}

/// Writes the answer where the daemon finds it behind the run.
#[inline(always)]
pub(super) fn answer(
    context: &XdpContext,
    verdict: Verdict,
    class: Class,
    is_monitored: bool,
    generation: u64,
) {
    let result =
        u64::from(verdict.index()) | u64::from(class.0) << 8 | u64::from(is_monitored) << 16;
    if let Some(note) = note(context) {
        // SAFETY: the pointer was checked against the end of the metadata.
        unsafe {
            (*note).result = result;
            (*note).generation = generation;
        }
    }
}

/// Sends an event about a packet. `summary` is the generation's number above 16 bits: whether it is monitored, seven of verdict, eight
/// of class.
#[inline(always)]
pub(super) fn send(
    context: *mut xdp_md,
    words: HeaderWords,
    verdict: Verdict,
    class: Class,
    is_monitored: bool,
    generation: u64,
) {
    let [high, low, rest] = words;
    let summary = generation << 16
        | u64::from(is_monitored) << 15
        | u64::from(verdict.index()) << 8
        | u64::from(class.0);
    send_event(context, rest, high, low, summary);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_event(
    context: *mut xdp_md,
    rest: u64,
    high: u64,
    low: u64,
    summary: u64,
) -> u32 {
    let context = XdpContext::new(context);
    let packet = Packet { context: &context };
    let headers = Headers::from_words([high, low, rest]);
    let [source_port, destination_port] = ports(&packet, &headers);
    let tags = headers.tags;
    let family = match headers.kind {
        Kind::Ip(Source::V4(_)) => 4,
        Kind::Ip(Source::V6(..)) => 6,
        Kind::Arp | Kind::LinkControl | Kind::OtherEthernet | Kind::NeighbourDiscovery => 0,
    };
    let length = packet.length();
    let head_length = if length > HEAD_BYTES as u32 {
        HEAD_BYTES as u32
    } else {
        length
    };
    let parts = EventParts {
        generation: summary >> 16,
        interface: packet.interface(),
        verdict: (summary >> 8) as u32 & 0x7f,
        length,
        head_length: head_length as u16,
        ethertype: headers.ethertype,
        source: (high, low),
        source_port,
        destination_port,
        vlan: if tags == 0 {
            [0; 2]
        } else {
            packet.read::<2>(14).unwrap_or([0; 2])
        },
        family,
        protocol: headers.protocol,
        monitored: summary >> 15 & 1 != 0,
        class: summary as u8,
        tags,
    };
    maps::send(|entry| {
        let event = entry.as_mut_ptr();
        // SAFETY: the entry is as long as an event, and one whose bytes are all zero is an event.
        let event = unsafe {
            event.write_bytes(0, 1);
            &mut *event
        };
        event.set(parts);
        let head = event.head_mut().as_mut_ptr();
        // SAFETY: the helper copies at most as many bytes as the field has, and stops at memory it can't read.
        unsafe { bpf_probe_read_kernel(head.cast(), head_length, context.data() as *const _) };
    });
    0
}

#[inline(always)]
fn ports(packet: &Packet<'_>, headers: &Headers) -> [[u8; 2]; 2] {
    if headers.transport_at == 0 || !matches!(headers.protocol, TCP | UDP | SCTP) {
        return [[0; 2]; 2];
    }
    match packet.read::<4>(headers.transport_at.into()) {
        Some([a, b, c, d]) => [[a, b], [c, d]],
        None => [[0; 2]; 2],
    }
}
