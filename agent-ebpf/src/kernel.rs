//! The kernel's side: what happens to a packet, and what only a program may touch.

mod context;
mod egress;
mod maps;
mod report;
mod rules;
mod table;

use core::marker::PhantomData;

use agent_ebpf::{
    layout::{Control, Cpu, verdict_counter},
    packet::Oddities,
    verdict::{Decision, Verdict, decide},
};
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::{TcContext, XdpContext},
};

use self::{
    context::Packet,
    rules::Generation,
    table::{Compiled, Lookup, Lpm},
};

/// Judges a packet by the compiled tables.
#[inline(always)]
pub(crate) fn by_tables(context: &XdpContext) -> u32 {
    run::<Compiled>(context)
}

/// Judges a packet by the kernel's LPM tries.
#[inline(always)]
pub(crate) fn by_tries(context: &XdpContext) -> u32 {
    run::<Lpm>(context)
}

/// Learns from a packet that goes out, beside compiled tables.
#[inline(always)]
pub(crate) fn learn_beside_tables(context: &TcContext) {
    egress::note(context, egress::learn_compiled);
}

/// Learns from a packet that goes out, beside LPM tries.
#[inline(always)]
pub(crate) fn learn_beside_tries(context: &TcContext) {
    egress::note(context, egress::learn_lpm);
}

#[inline(always)]
fn run<L: Lookup>(context: &XdpContext) -> u32 {
    // Array lookups at indices that exist don't fail. Without rules nothing is known to be allowed.
    let Some(control) = maps::control() else {
        return XDP_DROP;
    };
    let active = maps::active(control);
    let Some(parameters) = maps::parameters(active) else {
        return XDP_DROP;
    };
    let packet = Packet { context };
    let is_probe = report::is_probe(context, control);
    let rules = Generation::<L> {
        active,
        parameters,
        context: packet.pointer(),
        is_probe,
        lookup: PhantomData,
    };
    let decision = decide(&packet, &rules);
    let is_drop = matches!(decision.verdict, Verdict::Drop(_));
    let is_monitored = is_drop && parameters.monitors(packet.interface());
    let action = if is_drop && !is_monitored {
        XDP_DROP
    } else {
        XDP_PASS
    };
    if is_probe {
        report::answer(context, &decision, is_monitored, active.number());
        return action;
    }
    if let Some(cpu) = maps::cpu() {
        // SAFETY: the element is this CPU's own, and an XDP program is not interrupted by another on the same CPU.
        let cpu = unsafe { &mut *cpu };
        count(cpu, &decision, is_monitored);
        if is_reported(cpu, control, &rules, is_drop) {
            report::send(&packet, &decision, is_monitored, active.number());
        }
    }
    action
}

#[inline(always)]
fn count(cpu: &mut Cpu, decision: &Decision, is_monitored: bool) {
    maps::count(cpu, verdict_counter(decision.verdict.index(), is_monitored));
    if decision.headers.oddities != Oddities::NONE {
        maps::count_oddities(cpu, decision.headers.oddities);
    }
}

/// Whether the packet is in the sample, and the CPU's share of the window is not used up.
#[inline(always)]
fn is_reported<L>(
    cpu: &mut Cpu,
    control: *const Control,
    rules: &Generation<L>,
    is_drop: bool,
) -> bool {
    // SAFETY: the pointer is from the map.
    let [observe, window] = unsafe {
        [
            &raw const (*control).observe,
            &raw const (*control).event_window,
        ]
    };
    if is_drop {
        let drop = cpu.drops;
        cpu.drops = drop.wrapping_add(1);
        if drop & u64::from(rules.parameters.sample_mask) != 0 {
            return false;
        }
    } else {
        let observe = maps::read(observe);
        if observe == 0 {
            return false;
        }
        let pass = cpu.passes;
        cpu.passes = pass.wrapping_add(1);
        if pass & (observe - 1) != 0 {
            return false;
        }
    }
    let window = maps::read(window);
    if cpu.window != window {
        cpu.window = window;
        cpu.sent = 0;
    }
    if cpu.sent >= u64::from(rules.parameters.events_per_window) {
        return false;
    }
    cpu.sent += 1;
    true
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
