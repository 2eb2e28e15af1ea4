//! Learning of flows at egress.

use agent_ebpf::{
    class::Class,
    flow::{self, Flow},
    layout::Active,
    packet::{Headers, Kind, Source, TCP, parse},
};
use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};

use super::{
    context::Outgoing,
    maps,
    rules::{flow_hash, flow_time},
    table::{Compiled, Lookup, Lpm},
};

/// Puts the flow of an outgoing packet into the table, if the host opens it, or notes that it is in use.
#[inline(always)]
pub(crate) fn note(context: &TcContext, learn: extern "C" fn(*mut __sk_buff, u64, u64) -> u32) {
    let Some(control) = maps::control() else {
        return;
    };
    let active = maps::active(control);
    let Some(parameters) = maps::parameters(active) else {
        return;
    };
    if !parameters.learns_replies() {
        return;
    }
    let packet = Outgoing { context };
    if let Ok(
        headers @ Headers {
            kind: Kind::Ip(_), ..
        },
    ) = parse(&packet)
        && headers.transport_at != 0
    {
        let [_, _, rest] = headers.to_words();
        learn(context.as_ptr().cast(), rest, active.0);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn learn_compiled(context: *mut __sk_buff, rest: u64, active: u64) -> u32 {
    learn::<Compiled>(context, rest, active)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn learn_lpm(context: *mut __sk_buff, rest: u64, active: u64) -> u32 {
    learn::<Lpm>(context, rest, active)
}

#[inline(always)]
fn learn<L: Lookup>(context: *mut __sk_buff, rest: u64, active: u64) -> u32 {
    let context = TcContext::new(context);
    let packet = Outgoing { context: &context };
    let Some((flow, role)) = Flow::of_outgoing(&packet, &Headers::from_words([0, 0, rest])) else {
        return 0;
    };
    let Some(hash) = flow_hash(&flow) else {
        return 0;
    };
    let Some(bucket) = maps::flow_bucket(flow::bucket_of(hash)) else {
        return 0;
    };
    // SAFETY: the pointer is into the map; two CPUs may overwrite each other's entry, and then the next packet puts it in again.
    let bucket = unsafe { &mut *bucket };
    let Some((place, entry)) = flow::update(bucket, hash, flow_time(), role) else {
        return 0;
    };
    let Some(there) = bucket.get_mut(place & (flow::BUCKET_FLOWS - 1)) else {
        return 0;
    };
    let is_new = *there >> 16 != entry >> 16;
    // What the host sends to a listed source may be an answer, and must not keep that source in when it is taken off the list.
    if is_new && flow.protocol != TCP && is_listed::<L>(&flow, Active(active)) {
        return 0;
    }
    if is_new && let Some(port) = maps::port_byte(&flow) {
        // SAFETY: the pointer is into the map; a byte is written whole, and never with anything else.
        unsafe { port.write_volatile(1) };
    }
    let is_eviction = is_new && *there != 0;
    *there = entry;
    if is_new && let Some(cpu) = maps::cpu() {
        // SAFETY: the element is this CPU's own.
        let cpu = unsafe { &mut *cpu };
        cpu.flows_learned += 1;
        cpu.flows_evicted += u64::from(is_eviction);
    }
    0
}

#[inline(always)]
fn is_listed<L: Lookup>(flow: &Flow, active: Active) -> bool {
    let (is_v6, high, low) = flow.remote();
    let source = if is_v6 {
        Source::from_v6(high, low)
    } else {
        Source::V4(low as u32)
    };
    matches!(
        L::class_of(active, source),
        Class::ALLOWED | Class::PROTECTED
    )
}
