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
    layout::{Active, Conditions, Control, Cpu, Parameters, verdict_counter},
    packet::{HeaderWords, Headers, Oddities, Source, parse, plain},
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
    match settle::<Compiled>(context, rest_by_tables) {
        Some(action) => action,
        None => run(context, judge_by_tables),
    }
}

/// Judges a packet by the kernel's LPM tries.
#[inline(always)]
pub(crate) fn by_tries(context: &XdpContext) -> u32 {
    match settle::<Lpm>(context, rest_by_tries) {
        Some(action) => action,
        None => run(context, judge_by_tries),
    }
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

/// What [`unsettled`] takes: the packet, the active word, the class, and the source's halves; and gives: the verdict's [`INDEX`], with
/// [`IS_DROP`], or [`UNDECIDED`].
type Unsettled = extern "C" fn(*mut xdp_md, u64, u32, u64, u64) -> u32;

const INDEX: u32 = 0xff;
const IS_DROP: u32 = 1 << 8;
const UNDECIDED: u32 = 1 << 9;

/// Judges, counts, and gives the action for a plain packet about which nobody wants to know more than its verdict.
#[inline(always)]
fn settle<L: Lookup>(context: &XdpContext, unsettled: Unsettled) -> Option<u32> {
    let packet = Packet { context };
    let active = maps::active_alone(maps::control()?)?;
    let conditions = active.conditions();
    let (class, high, low) = match plain::ipv4(&packet) {
        Some(source) => (L::class_of(active, Source::V4(source)), 0, source.into()),
        None => match plain::ipv6(&packet) {
            Some([high, low]) if !conditions.has_any(Conditions::NAT64) => {
                (L::class_of(active, Source::V6(high, low)), high, low)
            }
            Some(_) | None => return None,
        },
    };
    let (index, is_drop) = match verdict::settled(class, conditions) {
        Some(verdict) => (verdict.index(), matches!(verdict, Verdict::Drop(_))),
        None if conditions.has_any(Conditions::MONITORING) => return None,
        None => {
            let verdict = unsettled(packet.pointer(), active.0, class.0.into(), high, low);
            if verdict == UNDECIDED {
                return None;
            }
            (verdict & INDEX, verdict & IS_DROP != 0)
        }
    };
    // SAFETY: as in `finish`.
    let cpu = unsafe { &mut *maps::cpu()? };
    if is_drop {
        if cpu.unsampled_drops == 0 {
            return None;
        }
        cpu.unsampled_drops -= 1;
    }
    maps::count(cpu, verdict_counter(index, false));
    Some(if is_drop { XDP_DROP } else { XDP_PASS })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rest_by_tables(
    context: *mut xdp_md,
    active: u64,
    class: u32,
    high: u64,
    low: u64,
) -> u32 {
    unsettled::<Compiled>(context, Active(active), Class(class as u8), high, low)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rest_by_tries(
    context: *mut xdp_md,
    active: u64,
    class: u32,
    high: u64,
    low: u64,
) -> u32 {
    unsettled::<Lpm>(context, Active(active), Class(class as u8), high, low)
}

/// The verdict on a plain packet whose source's class does not settle it.
#[inline(always)]
fn unsettled<L: Lookup>(
    pointer: *mut xdp_md,
    active: Active,
    class: Class,
    high: u64,
    low: u64,
) -> u32 {
    let context = XdpContext::new(pointer);
    let packet = Packet { context: &context };
    // No plain IPv6 packet is from ::/64.
    let source = if high == 0 {
        Source::V4(low as u32)
    } else {
        Source::V6(high, low)
    };
    let (Some(headers), Some(parameters)) =
        (plain::headers(&packet, source), maps::parameters(active))
    else {
        return UNDECIDED;
    };
    let rules = Generation::<L> {
        active,
        parameters,
        context: pointer,
        is_probe: false,
        lookup: PhantomData,
    };
    let verdict = verdict::by_class(&packet, &headers, &rules, source, class);
    match verdict {
        Verdict::Pass(_) => verdict.index(),
        Verdict::Drop(_) => verdict.index() | IS_DROP,
    }
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
        if cpu.unsampled_drops != 0 {
            cpu.unsampled_drops -= 1;
            return false;
        }
        cpu.unsampled_drops = parameters.sample_mask.into();
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
