//! The kernel's side: what happens to a packet, and what only a program may touch.

pub(crate) mod context;
mod egress;
mod maps;
mod report;
mod rules;
mod table;

use core::marker::PhantomData;

use agent_ebpf::{
    class::Class,
    layout::{Active, Control, Cpu, Parameters, verdict_counter},
    packet::{HeaderWords, Headers, Oddities, parse},
    verdict::{self, Drop, Verdict, refusal},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
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
    run(context, judge_by_tables)
}

/// Judges a packet by the kernel's LPM tries.
#[inline(always)]
pub(crate) fn by_tries(context: &XdpContext) -> u32 {
    run(context, judge_by_tries)
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

/// What follows the parser is in functions of their own that take few words: else the compiler would keep all that a packet can be in a dozen
/// places on the stack, and fill them anew before each check.
#[inline(always)]
fn run(context: &XdpContext, judge: extern "C" fn(*mut xdp_md, u64, u64, u64) -> u32) -> u32 {
    let packet = Packet { context };
    match parse(&packet) {
        Ok(headers) => {
            let [high, low, rest] = headers.to_words();
            judge(packet.pointer(), high, low, rest)
        }
        Err(malformed) => refuse(packet.pointer(), refusal(malformed) as u32),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_by_tables(context: *mut xdp_md, high: u64, low: u64, rest: u64) -> u32 {
    judge::<Compiled>(context, [high, low, rest])
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_by_tries(context: *mut xdp_md, high: u64, low: u64, rest: u64) -> u32 {
    judge::<Lpm>(context, [high, low, rest])
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refuse(context: *mut xdp_md, reason: u32) -> u32 {
    let context = XdpContext::new(context);
    let Some((control, active, parameters)) = in_force() else {
        return XDP_DROP;
    };
    let reason = match Drop::malformed(reason) {
        Some(reason) => reason,
        None => return XDP_DROP,
    };
    let [high, low, rest] = Headers::UNREADABLE.to_words();
    finish(
        &context,
        control,
        active,
        parameters,
        [high, low, rest],
        Oddities::NONE,
        (Verdict::Drop(reason), Class::NOT_LISTED),
        report::is_probe(&context, control),
    )
}

#[inline(always)]
fn in_force() -> Option<(*const Control, Active, &'static Parameters)> {
    // Array lookups at indices that exist don't fail. Without rules nothing is known to be allowed.
    let control = maps::control()?;
    let active = maps::active(control);
    Some((control, active, maps::parameters(active)?))
}

#[inline(always)]
fn judge<L: Lookup>(pointer: *mut xdp_md, words: HeaderWords) -> u32 {
    let context = XdpContext::new(pointer);
    let packet = Packet { context: &context };
    let Some((control, active, parameters)) = in_force() else {
        return XDP_DROP;
    };
    let is_probe = report::is_probe(&context, control);
    let rules = Generation::<L> {
        active,
        parameters,
        context: pointer,
        is_probe,
        lookup: PhantomData,
    };
    let headers = Headers::from_words(words);
    let judged = verdict::judge(&packet, &headers, &rules);
    finish(
        &context,
        control,
        active,
        parameters,
        words,
        headers.oddities,
        judged,
        is_probe,
    )
}

/// Counts and reports, and gives the action.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined into two functions")]
fn finish(
    context: &XdpContext,
    control: *const Control,
    active: Active,
    parameters: &Parameters,
    words: HeaderWords,
    oddities: Oddities,
    (verdict, class): (Verdict, Class),
    is_probe: bool,
) -> u32 {
    let is_drop = matches!(verdict, Verdict::Drop(_));
    let is_monitored = is_drop && parameters.monitors(context.ingress_ifindex() as u32);
    let action = if is_drop && !is_monitored {
        XDP_DROP
    } else {
        XDP_PASS
    };
    if is_probe {
        report::answer(context, verdict, class, is_monitored, active.number());
        return action;
    }
    if let Some(cpu) = maps::cpu() {
        // SAFETY: the element is this CPU's own, and an XDP program is not interrupted by another on the same CPU.
        let cpu = unsafe { &mut *cpu };
        maps::count(cpu, verdict_counter(verdict.index(), is_monitored));
        if oddities != Oddities::NONE {
            maps::count_oddities(cpu, oddities);
        }
        if is_reported(cpu, control, parameters, is_drop) {
            let number = active.number();
            report::send(
                context.as_ptr().cast(),
                words,
                verdict,
                class,
                is_monitored,
                number,
            );
        }
    }
    action
}

/// Whether the packet is in the sample, and the CPU's share of the window is not used up.
#[inline(always)]
fn is_reported(
    cpu: &mut Cpu,
    control: *const Control,
    parameters: &Parameters,
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
        if drop & u64::from(parameters.sample_mask) != 0 {
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
    if cpu.sent >= u64::from(parameters.events_per_window) {
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
