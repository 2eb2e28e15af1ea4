//! Each program takes the next source from an array that is larger than L2, writes it into the packet, and judges that.

use agent_ebpf::packet::{Kind, Source, parse};
use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    btf_maps::Array,
    helpers::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

use crate::kernel::{self, context::Packet};

/// Sources drawn for one measurement, a power of two.
const SOURCES: usize = 1 << 20;
const MMAPABLE: usize = 1 << 10;
/// Where the source address stands in a frame without tags.
const SOURCE4_AT: usize = 14 + 12;
const SOURCE6_AT: usize = 14 + 8;
const CHECKSUM4_AT: usize = 14 + 10;

/// IPv4 addresses, in the low half of each word, as they stand in a packet.
#[btf_map]
static SOURCES4: Array<u64, SOURCES, MMAPABLE> = Array::new();
/// IPv6 addresses, as they stand in a packet.
#[btf_map]
static SOURCES6: Array<[u64; 2], SOURCES, MMAPABLE> = Array::new();
/// How many sources were taken.
#[btf_map]
static POSITION: Array<u64, 1> = Array::new();
/// The interface that a flood goes out of, and the sum over the header of its packets without source and checksum.
#[btf_map]
static OUT: Array<u64, 2> = Array::new();
/// Packets that the floor of a flood dropped.
#[btf_map]
static DROPPED: Array<[u64; 8], 64, MMAPABLE> = Array::new();

#[inline(always)]
fn next() -> Option<u32> {
    let position = POSITION.get_ptr_mut(0)?;
    // SAFETY: the pointer is to this map's only element; one CPU runs the measurement.
    let taken = unsafe { *position };
    // SAFETY: as above.
    unsafe { *position = taken.wrapping_add(1) };
    Some(taken as u32 & (SOURCES as u32 - 1))
}

#[inline(always)]
fn write<T: Copy>(context: &XdpContext, at: usize, value: T) -> Option<()> {
    let place = context.data() + at;
    if place + size_of::<T>() > context.data_end() {
        return None;
    }
    // One store for each word, as if it were aligned: the processor would make a load of what single bytes were stored into wait.
    // SAFETY: the bytes lie before the end of the packet, as just checked, and the kernel takes such a store only where it is allowed.
    unsafe { (place as *mut T).write(value) };
    Some(())
}

#[inline(always)]
fn draw4(context: &XdpContext) -> Option<u32> {
    let source = *SOURCES4.get(next()?)? as u32;
    write(context, SOURCE4_AT, source)?;
    Some(source)
}

#[inline(always)]
fn draw6(context: &XdpContext) -> Option<()> {
    let [high, low] = SOURCES6.get(next()?)?;
    write(context, SOURCE6_AT, *high)?;
    write(context, SOURCE6_AT + 8, *low)
}

/// The floor: reads the headers and drops. The way out depends on what was read, so that reading is not optimised away.
#[inline(always)]
fn drop_parsed(context: &XdpContext) -> u32 {
    match parse(&Packet { context }) {
        Ok(headers) => match headers.kind {
            Kind::Ip(Source::V4(0) | Source::V6(0, 0)) => XDP_PASS,
            _ => XDP_DROP,
        },
        Err(_) => XDP_ABORTED,
    }
}

#[xdp]
fn floor4(context: XdpContext) -> u32 {
    match draw4(&context) {
        Some(_) => drop_parsed(&context),
        None => XDP_ABORTED,
    }
}

#[xdp]
fn floor6(context: XdpContext) -> u32 {
    match draw6(&context) {
        Some(()) => drop_parsed(&context),
        None => XDP_ABORTED,
    }
}

#[xdp]
fn judge4(context: XdpContext) -> u32 {
    match draw4(&context) {
        Some(_) => kernel::by_tables(&context),
        None => XDP_ABORTED,
    }
}

#[xdp]
fn judge6(context: XdpContext) -> u32 {
    match draw6(&context) {
        Some(()) => kernel::by_tables(&context),
        None => XDP_ABORTED,
    }
}

#[xdp]
fn tries4(context: XdpContext) -> u32 {
    match draw4(&context) {
        Some(_) => kernel::by_tries(&context),
        None => XDP_ABORTED,
    }
}

#[xdp]
fn tries6(context: XdpContext) -> u32 {
    match draw6(&context) {
        Some(()) => kernel::by_tries(&context),
        None => XDP_ABORTED,
    }
}

/// The floor of a flood on the wire: reads the headers, counts and drops.
#[xdp]
fn count_and_drop(context: XdpContext) -> u32 {
    // SAFETY: the helper takes no argument.
    let cpu = unsafe { aya_ebpf::helpers::bpf_get_smp_processor_id() };
    if let Some(dropped) = DROPPED.get_ptr_mut(cpu & 63) {
        // SAFETY: the element is this CPU's own, and an XDP program is not interrupted by another on the same CPU.
        unsafe { (*dropped)[0] += 1 };
    }
    drop_parsed(&context)
}

/// What a network stack without a filter sees.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// Sends the frame with another source each time, and the right checksum: without it no packet gets as far as the network stack's filters.
#[xdp]
fn flood4(context: XdpContext) -> u32 {
    match flood(&context) {
        // SAFETY: the helper takes plain numbers.
        Some(interface) => unsafe { bpf_redirect(interface, 0) as u32 },
        None => XDP_ABORTED,
    }
}

#[inline(always)]
fn flood(context: &XdpContext) -> Option<u32> {
    let source = draw4(context)?;
    // RFC 1071: sums of 16 bits in whatever order of bytes, carried round.
    let sum = *OUT.get(1)? as u32 + (source & 0xffff) + (source >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    write(context, CHECKSUM4_AT, !sum as u16)?;
    Some(*OUT.get(0)? as u32)
}
