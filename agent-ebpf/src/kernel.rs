//! The kernel's side: the entry point, and what only a program may touch.

mod context;
mod maps;

use agent_ebpf::{
    layout::{PacketEvent, oddity_counter, verdict_counter},
    verdict::{Decision, Verdict, decide},
};
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};

use self::{context::Packet, maps::Generation};

#[xdp]
fn portcullis_xdp(context: XdpContext) -> u32 {
    let packet = Packet::new(&context);
    let Some(generation) = Generation::in_force(&context) else {
        // Array lookups at constant indices don't fail. Without rules nothing is known to be allowed.
        return XDP_DROP;
    };
    let decision = decide(&packet, &generation);
    let is_monitored = generation.monitors() && matches!(decision.verdict, Verdict::Drop(_));
    count(&decision, is_monitored);
    match decision.verdict {
        Verdict::Pass(_) => XDP_PASS,
        Verdict::Drop(_) => {
            report(&packet, &generation, &decision, is_monitored);
            if is_monitored { XDP_PASS } else { XDP_DROP }
        }
    }
}

#[inline(always)]
fn count(decision: &Decision, is_monitored: bool) {
    maps::count(verdict_counter(decision.verdict.index(), is_monitored));
    if let Some(headers) = &decision.headers
        && let Some(counter) = oddity_counter(headers.oddity)
    {
        maps::count(counter);
    }
}

/// Sends an event about a drop, if this one is in the sample and the CPU's share of the window is not used up.
#[inline(always)]
fn report(
    packet: &Packet<'_>,
    generation: &Generation<'_>,
    decision: &Decision,
    is_monitored: bool,
) {
    if !generation.samples() {
        return;
    }
    let headers = decision.headers.as_ref();
    let mut event = PacketEvent::new(
        generation.number(),
        packet.interface(),
        decision.verdict.index(),
        packet.length(),
        headers,
    );
    event.monitored = u8::from(is_monitored);
    if let Some(headers) = headers {
        event.set_destination_port(packet.destination_port(headers));
    }
    maps::send(event);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
