//! What the daemon tells the program.

use core::mem::{offset_of, size_of};

use super::Conditions;
use crate::{limit::Rate, verdict::Policy};

/// The one element of `CONTROL`, a cache line. Each word is read and written alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// An [`Active`](super::Active) word: what judges packets.
    pub active: u64,
    /// From this time on (CLOCK_BOOTTIME, nanoseconds) `previous` judges packets instead; 0 is never.
    pub deadline: u64,
    /// An [`Active`](super::Active) word.
    pub previous: u64,
    /// Moved on by the daemon ten times a second; each CPU may send so many events for one value. Stands still when no daemon runs.
    pub event_window: u64,
    /// One passing packet in so many becomes an event: a power of two, or 0 for none.
    pub observe: u64,
    /// The word that marks a made-up packet while one is under way, else 0.
    pub probe: u64,
    /// The key of the hashes over flows and sources. Secret: who knows it finds flows that look like another.
    pub key: [u64; 2],
}

/// Interfaces that can be monitored by name.
pub const MONITORED_INTERFACES: usize = 16;

/// How long a learned flow lasts after its last outgoing packet, in units of 2^30 nanoseconds (1.07 s).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowTimeouts {
    pub tcp: u16,
    pub udp: u16,
    pub icmp: u16,
    _reserved: u16,
}

impl FlowTimeouts {
    /// From seconds, rounded up.
    pub const fn from_seconds(tcp: u16, udp: u16, icmp: u16) -> Self {
        Self {
            tcp: units(tcp),
            udp: units(udp),
            icmp: units(icmp),
            _reserved: 0,
        }
    }
}

impl FlowTimeouts {
    /// All of it in one word.
    #[inline(always)]
    pub fn to_word(self) -> u64 {
        self.tcp as u64 | (self.udp as u64) << 16 | (self.icmp as u64) << 32
    }

    /// What [`FlowTimeouts::to_word`] made a word of.
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self {
            tcp: word as u16,
            udp: (word >> 16) as u16,
            icmp: (word >> 32) as u16,
            _reserved: 0,
        }
    }
}

const fn units(seconds: u16) -> u16 {
    ((seconds as u64 * 1_000_000_000).div_ceil(1 << 30)) as u16
}

/// The parameters of one generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Parameters {
    flags: u32,
    /// One drop in so many becomes an event, a power of two less one; on each CPU.
    pub sample_mask: u32,
    /// Events that one CPU may send for one value of [`Control::event_window`].
    pub events_per_window: u32,
    _reserved: u32,
    /// Zeros: no limit.
    pub rate: Rate,
    pub timeouts: FlowTimeouts,
    /// Indices of the interfaces that are monitored by name; 0 is none.
    pub monitored: [u32; MONITORED_INTERFACES],
}

const DROP_FRAGMENTS: u32 = 1;
const DROP_LONG_EXTENSION_CHAINS: u32 = 1 << 1;
const DROP_UNKNOWN_EXTENSION_HEADERS: u32 = 1 << 2;
const JUDGE_DEEP_TAGS: u32 = 1 << 3;
const PASS_OTHER_ETHERNET: u32 = 1 << 4;
const NAT64: u32 = 1 << 5;
const MONITOR_ALL: u32 = 1 << 16;
const MONITOR_SOME: u32 = 1 << 17;
const LEARN_REPLIES: u32 = 1 << 18;

impl Parameters {
    /// Parameters of this policy, with nothing else set.
    pub fn new(policy: Policy) -> Self {
        let mut parameters = Self::default();
        for (is_set, flag) in [
            (policy.drop_fragments, DROP_FRAGMENTS),
            (
                policy.drop_long_extension_chains,
                DROP_LONG_EXTENSION_CHAINS,
            ),
            (
                policy.drop_unknown_extension_headers,
                DROP_UNKNOWN_EXTENSION_HEADERS,
            ),
            (policy.judge_deep_tags, JUDGE_DEEP_TAGS),
            (policy.pass_other_ethernet, PASS_OTHER_ETHERNET),
            (policy.nat64, NAT64),
        ] {
            parameters.set(flag, is_set);
        }
        parameters
    }

    /// Sets whether drops are counted and not done, everywhere.
    pub fn monitor_all(&mut self, is_set: bool) {
        self.set(MONITOR_ALL, is_set);
    }

    /// Sets whether drops are counted and not done on the interfaces in `monitored`.
    pub fn monitor_some(&mut self, is_set: bool) {
        self.set(MONITOR_SOME, is_set);
    }

    /// Sets whether replies to flows of the host's own pass.
    pub fn learn_replies(&mut self, is_set: bool) {
        self.set(LEARN_REPLIES, is_set);
    }

    fn set(&mut self, flag: u32, is_set: bool) {
        if is_set {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// The policy as the verdict asks for it.
    #[inline(always)]
    pub fn policy(&self) -> Policy {
        Policy {
            drop_fragments: self.has(DROP_FRAGMENTS),
            drop_long_extension_chains: self.has(DROP_LONG_EXTENSION_CHAINS),
            drop_unknown_extension_headers: self.has(DROP_UNKNOWN_EXTENSION_HEADERS),
            judge_deep_tags: self.has(JUDGE_DEEP_TAGS),
            pass_other_ethernet: self.has(PASS_OTHER_ETHERNET),
            nat64: self.has(NAT64),
        }
    }

    /// What verdicts depend on beside the class of the source.
    pub fn conditions(&self) -> Conditions {
        [
            (self.has(MONITOR_ALL | MONITOR_SOME), Conditions::MONITORING),
            (self.has(LEARN_REPLIES), Conditions::REPLIES),
            (self.rate.is_set(), Conditions::LIMITS),
            (self.has(NAT64), Conditions::NAT64),
        ]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .fold(Conditions::NONE, |all, (_, one)| all.and(one))
    }

    /// Whether replies to flows of the host's own pass.
    #[inline(always)]
    pub fn learns_replies(&self) -> bool {
        self.has(LEARN_REPLIES)
    }

    /// Whether drops are only counted on the interface with this index.
    #[inline(always)]
    pub fn monitors(&self, interface: u32) -> bool {
        if !self.has(MONITOR_ALL | MONITOR_SOME) {
            return false;
        }
        let mut is_monitored = self.has(MONITOR_ALL);
        for index in self.monitored {
            is_monitored |= index == interface;
        }
        is_monitored
    }

    #[inline(always)]
    fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// Sizes and offsets, for the fingerprint of the layout.
pub(super) const OFFSETS: [usize; 18] = [
    size_of::<Control>(),
    offset_of!(Control, active),
    offset_of!(Control, deadline),
    offset_of!(Control, previous),
    offset_of!(Control, event_window),
    offset_of!(Control, observe),
    offset_of!(Control, probe),
    offset_of!(Control, key),
    size_of::<Parameters>(),
    offset_of!(Parameters, flags),
    offset_of!(Parameters, sample_mask),
    offset_of!(Parameters, events_per_window),
    offset_of!(Parameters, rate),
    offset_of!(Parameters, timeouts),
    offset_of!(Parameters, monitored),
    MONITORED_INTERFACES,
    size_of::<Rate>(),
    // The meaning of the flags.
    (LEARN_REPLIES | NAT64) as usize,
];

const _: () = {
    assert!(size_of::<Control>() == 64, "one cache line");
    assert!(
        size_of::<Parameters>() == 4 * 4 + 8 + 8 + 4 * MONITORED_INTERFACES,
        "padding"
    );
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, no padding (asserted above), and any bits are a value.
    unsafe impl aya::Pod for super::Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Parameters {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_back_flag_by_flag() {
        let default = Policy::default();
        for policy in [
            default,
            Policy {
                drop_fragments: true,
                ..default
            },
            Policy {
                drop_long_extension_chains: true,
                ..default
            },
            Policy {
                drop_unknown_extension_headers: true,
                ..default
            },
            Policy {
                judge_deep_tags: true,
                ..default
            },
            Policy {
                pass_other_ethernet: true,
                ..default
            },
            Policy {
                nat64: true,
                ..default
            },
        ] {
            let parameters = Parameters::new(policy);
            assert_eq!(parameters.policy(), policy);
            assert!(!parameters.monitors(1) && !parameters.learns_replies());
        }
    }

    #[test]
    fn conditions_name_what_is_set_and_nothing_else() {
        let default = Parameters::default();
        assert_eq!(default.conditions(), Conditions::NONE);
        let mut monitored = default;
        monitored.monitor_some(true);
        assert_eq!(monitored.conditions(), Conditions::MONITORING);
        let mut learning = default;
        learning.learn_replies(true);
        assert_eq!(learning.conditions(), Conditions::REPLIES);
        let mut limited = default;
        limited.rate.syns_per_second = 1;
        assert_eq!(limited.conditions(), Conditions::LIMITS);
        let nat64 = Parameters::new(Policy {
            nat64: true,
            ..Policy::default()
        });
        assert_eq!(nat64.conditions(), Conditions::NAT64);
    }

    #[test]
    fn monitoring_by_name_covers_the_named_and_no_other() {
        let mut parameters = Parameters::default();
        parameters.monitored[3] = 7;
        assert!(!parameters.monitors(7));
        parameters.monitor_some(true);
        assert!(parameters.monitors(7));
        assert!(!parameters.monitors(8));
        parameters.monitor_all(true);
        assert!(parameters.monitors(8));
    }

    #[test]
    fn timeouts_are_never_shorter_than_asked() {
        let timeouts = FlowTimeouts::from_seconds(600, 120, 1);
        for (units, seconds) in [(timeouts.tcp, 600), (timeouts.udp, 120), (timeouts.icmp, 1)] {
            let nanoseconds = u64::from(units) << 30;
            assert!(nanoseconds >= seconds * 1_000_000_000);
            assert!(nanoseconds < (seconds + 2) * 1_000_000_000);
        }
    }
}
