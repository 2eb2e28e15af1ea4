//! The maps, but for the tables.

use agent_ebpf::{
    class::SCOPE_SETS,
    flow::{self, FLOW_BUCKETS, Flow, PORT_ELEMENTS, PORTS_OF_ELEMENT},
    layout::{
        Active, COUNTER_PLACES, Control, Cpu, EVENT_BYTES, MMAPABLE, PacketEvent, Parameters,
        SLOTS, oddity_counter,
    },
    limit::{self, BUCKETS as LIMIT_BUCKETS},
    packet::{Oddities, Oddity},
    scope::ScopeSet,
};
use aya_ebpf::{
    btf_maps::{Array, RingBuf},
    helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns},
    macros::btf_map,
};

const FLAGS: usize = MMAPABLE as usize;

#[btf_map]
static CONTROL: Array<Control, 1, FLAGS> = Array::new();
#[btf_map]
static PARAMETERS: Array<Parameters, { SLOTS as usize }, FLAGS> = Array::new();
#[btf_map]
static SCOPES: Array<ScopeSet, { (SLOTS * SCOPE_SETS) as usize }, FLAGS> = Array::new();
// The loader sets the number of CPUs.
#[btf_map]
static CPUS: Array<Cpu, 1, FLAGS> = Array::new();
#[btf_map]
static FLOWS: Array<flow::Bucket, { FLOW_BUCKETS as usize }, FLAGS> = Array::new();
#[btf_map]
static PORTS: Array<flow::Ports, { PORT_ELEMENTS as usize }, FLAGS> = Array::new();
#[btf_map]
static BUCKETS: Array<limit::Bucket, { LIMIT_BUCKETS as usize }, FLAGS> = Array::new();
#[btf_map]
static EVENTS: RingBuf<PacketEvent, { EVENT_BYTES as usize }> = RingBuf::new();

/// The flag `BPF_RB_NO_WAKEUP`: the daemon reads at its own pace, and a flood must not wake it for each event.
const NO_WAKEUP: u64 = 1;

#[inline(always)]
pub(super) fn control() -> Option<*const Control> {
    CONTROL.get_ptr(0)
}

/// Reads a word that the daemon may be writing.
#[inline(always)]
pub(super) fn read(word: *const u64) -> u64 {
    // SAFETY: the caller points into a map's value, and an aligned load of a word is whole.
    unsafe { word.read_volatile() }
}

/// The word that judges this packet. Read once for each, so that a packet never sees two generations.
#[inline(always)]
pub(super) fn active(control: *const Control) -> Active {
    // SAFETY: the caller got the pointer from the map.
    let [active, deadline, previous] = unsafe {
        [
            &raw const (*control).active,
            &raw const (*control).deadline,
            &raw const (*control).previous,
        ]
    };
    let word = read(active);
    let deadline = read(deadline);
    // SAFETY: a helper without arguments.
    if deadline != 0 && unsafe { bpf_ktime_get_boot_ns() } > deadline {
        return Active(read(previous));
    }
    Active(word)
}

/// As [`active`], if there is nothing else that the daemon asks to be looked at for each packet: no revert that is due some day, no passes
/// to be observed, no made-up packet under way.
#[inline(always)]
pub(super) fn active_alone(control: *const Control) -> Option<Active> {
    // SAFETY: the caller got the pointer from the map.
    let [active, deadline, observe, probe] = unsafe {
        [
            &raw const (*control).active,
            &raw const (*control).deadline,
            &raw const (*control).observe,
            &raw const (*control).probe,
        ]
    };
    let active = read(active);
    if read(deadline) | read(observe) | read(probe) != 0 {
        return None;
    }
    Some(Active(active))
}

#[inline(always)]
pub(super) fn parameters(active: Active) -> Option<&'static Parameters> {
    PARAMETERS.get(active.parameters())
}

#[inline(always)]
pub(super) fn scope_set(parameters: u32, scope: u32) -> Option<&'static ScopeSet> {
    SCOPES.get(parameters * SCOPE_SETS + scope)
}

/// This CPU's counters. The element is its own, and neither program is interrupted by the other on the same CPU.
#[inline(always)]
pub(super) fn cpu() -> Option<*mut Cpu> {
    // SAFETY: a helper without arguments.
    CPUS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

#[inline(always)]
pub(super) fn count(cpu: &mut Cpu, index: u32) {
    // SAFETY: the value is on the stack. The compiler knows its bounds, and would leave out the mask that shows them to the verifier.
    let index = unsafe { (&raw const index).read_volatile() };
    if let Some(counter) = cpu.counters.get_mut(index as usize & (COUNTER_PLACES - 1)) {
        *counter += 1;
    }
}

#[inline(always)]
pub(super) fn count_oddities(cpu: &mut Cpu, oddities: Oddities) {
    for oddity in Oddity::ALL {
        if oddities.has(oddity) {
            count(cpu, oddity_counter(oddity));
        }
    }
}

#[inline(always)]
pub(super) fn flow_bucket(index: u32) -> Option<*mut flow::Bucket> {
    FLOWS.get_ptr_mut(index)
}

/// The byte of a flow's local port: 0 as long as this host opened no flow from it.
#[inline(always)]
pub(super) fn port_byte(flow: &Flow) -> Option<*mut u8> {
    let (element, place) = flow.port_place();
    let ports = PORTS.get_ptr_mut(element)?;
    // SAFETY: the mask, which the compiler may not leave out, keeps the place within the element.
    let place = unsafe { (&raw const place).read_volatile() } & (PORTS_OF_ELEMENT - 1);
    Some(ports.cast::<u8>().wrapping_add(place))
}

#[inline(always)]
pub(super) fn limit_bucket(index: u32) -> Option<*mut limit::Bucket> {
    BUCKETS.get_ptr_mut(index & (LIMIT_BUCKETS - 1))
}

/// Puts an event into the ring buffer; when that is full, the event is lost and the packet is still counted.
#[inline(always)]
pub(super) fn send(write: impl FnOnce(&mut core::mem::MaybeUninit<PacketEvent>)) {
    if let Some(mut entry) = EVENTS.reserve(0) {
        write(&mut entry);
        entry.submit(NO_WAKEUP);
    }
}
