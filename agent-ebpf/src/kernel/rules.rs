//! The generation in force, as the rules that a verdict asks.

use core::marker::PhantomData;

use agent_ebpf::{
    class::Class,
    flow::{self, Flow},
    layout::{Active, Control, FlowTimeouts, Parameters},
    limit::{Excess, Rate},
    packet::{Bytes, Headers, ICMP, ICMPV6, Source, TCP},
    verdict::{Policy, Rules},
};
use aya_ebpf::{
    bindings::xdp_md, helpers::generated::bpf_ktime_get_coarse_ns, programs::XdpContext,
};

use super::{context::Packet, maps, table::Lookup};

/// Rules, with the packet that is asked about: where the verdict gives a packet, it is this one.
pub(super) struct Generation<L> {
    pub(super) active: Active,
    pub(super) parameters: &'static Parameters,
    pub(super) context: *mut xdp_md,
    /// A made-up packet takes nothing from a source's bucket.
    pub(super) is_probe: bool,
    pub(super) lookup: PhantomData<L>,
}

impl<L: Lookup> Rules for Generation<L> {
    #[inline(always)]
    fn policy(&self) -> Policy {
        self.parameters.policy()
    }

    #[inline(always)]
    fn class_of(&self, source: Source) -> Class {
        L::class_of(self.active, source)
    }

    #[inline(always)]
    fn permits(&self, scope: u32, protocol: u8, port: Option<u16>) -> bool {
        let port = match port {
            Some(port) => port.into(),
            None => NO_PORT,
        };
        permits(self.active.parameters(), scope, protocol.into(), port) != 0
    }

    #[inline(always)]
    fn is_reply<B: Bytes + ?Sized>(&self, _packet: &B, headers: &Headers) -> bool {
        self.parameters.learns_replies() && headers.transport_at != 0 && {
            let [_, _, rest] = headers.to_words();
            is_reply(self.context, rest, self.parameters.timeouts.to_word()) != 0
        }
    }

    #[inline(always)]
    fn limits(&self) -> bool {
        self.parameters.rate.is_set() && !self.is_probe
    }

    #[inline(always)]
    fn excess(&self, source: Source, is_connection_attempt: bool) -> Option<Excess> {
        let [high, low] = match source {
            Source::V4(address) => [0, address.into()],
            Source::V6(high, low) => [high, low],
        };
        let Rate {
            packets_per_second,
            syns_per_second,
        } = self.parameters.rate;
        match excess(
            high,
            low,
            packets_per_second,
            syns_per_second,
            is_connection_attempt.into(),
        ) {
            0 => None,
            1 => Some(Excess::Packets),
            _ => Some(Excess::Syns),
        }
    }
}

const NO_PORT: u32 = 1 << 16;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn permits(parameters: u32, scope: u32, protocol: u32, port: u32) -> u32 {
    let port = if port < NO_PORT {
        Some(port as u16)
    } else {
        None
    };
    match maps::scope_set(parameters, scope) {
        Some(set) => set.permits(protocol as u8, port).into(),
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_reply(context: *mut xdp_md, rest: u64, timeouts: u64) -> u32 {
    let context = XdpContext::new(context);
    let packet = Packet { context: &context };
    match Flow::of_reply(&packet, &Headers::from_words([0, 0, rest])) {
        Some(flow) => is_known(&flow, FlowTimeouts::from_word(timeouts)).into(),
        None => 0,
    }
}

#[inline(always)]
fn is_known(flow: &Flow, timeouts: FlowTimeouts) -> bool {
    let Some(port) = maps::port_byte(flow) else {
        return false;
    };
    // SAFETY: the pointer is into the map; a byte is read whole.
    if unsafe { port.read_volatile() } == 0 {
        return false;
    }
    let Some(hash) = flow_hash(flow) else {
        return false;
    };
    let Some(bucket) = maps::flow_bucket(flow::bucket_of(hash)) else {
        return false;
    };
    let timeout = match flow.protocol {
        TCP => timeouts.tcp,
        ICMP | ICMPV6 => timeouts.icmp,
        _ => timeouts.udp,
    };
    // SAFETY: the pointer is into the map; words that another CPU writes meanwhile are read whole.
    let bucket = unsafe { &*bucket };
    flow::is_known(bucket, hash, flow_time(), timeout)
}

#[inline(always)]
pub(super) fn flow_hash(flow: &Flow) -> Option<u64> {
    let control: *const Control = maps::control()?;
    // SAFETY: the pointer is into the map, and the key is written before any program is attached.
    let key = unsafe { (*control).key };
    Some(flow.hash(key))
}

/// The clock of flows, in units of 2^30 nanoseconds; wraps after 19 hours.
#[inline(always)]
pub(super) fn flow_time() -> u16 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u16
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn excess(
    high: u64,
    low: u64,
    packets_per_second: u32,
    syns_per_second: u32,
    is_connection_attempt: u32,
) -> u32 {
    let Some(control) = maps::control() else {
        return 0;
    };
    // SAFETY: as in `flow_hash`.
    let [key0, key1] = unsafe { (*control).key };
    let hash = mix(mix(high ^ key0) ^ low ^ key1);
    let Some(bucket) = maps::limit_bucket(hash as u32) else {
        return 0;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000;
    let rate = Rate {
        packets_per_second,
        syns_per_second,
    };
    // SAFETY: the pointer is into the map. Two CPUs may take from a bucket at once, and then one of the packets is not charged.
    let bucket = unsafe { &mut *bucket };
    match bucket.take(
        (hash >> 32) as u32,
        now as u32,
        rate,
        is_connection_attempt != 0,
    ) {
        None => 0,
        Some(Excess::Packets) => 1,
        Some(Excess::Syns) => 2,
    }
}

/// The finaliser of MurmurHash3 (`fmix64`).
#[inline(always)]
fn mix(key: u64) -> u64 {
    let key = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ (key >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ (key >> 33)
}
