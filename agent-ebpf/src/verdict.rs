//! The verdict: one precedence, each outcome with its reason.
//!
//! `malformed -> essential -> refused by a policy for odd packets -> protected -> ban -> allow -> default drop`.

use crate::packet::{Bytes, Headers, Kind, Malformed, Oddity, Source, parse};

/// Why a packet passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Pass {
    Arp,
    NeighbourDiscovery,
    LinkControl,
    /// Not IP, and the policy lets such frames pass.
    OtherEthernet,
    Protected,
    Allowed,
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Drop {
    ShortEthernet,
    TooManyTags,
    ShortIpv4,
    BadIpv4,
    ShortIpv6,
    BadIpv6,
    /// Not IP, and the policy drops such frames.
    OtherEthernet,
    /// A fragment, and the policy drops fragments.
    Fragment,
    /// Too many extension headers, and the policy drops such packets.
    LongExtensionChain,
    /// The address is banned.
    Banned,
    /// A network that the address lies in is banned.
    BannedNetwork,
    /// No list has the source.
    NotListed,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass(Pass),
    Drop(Drop),
}

/// Verdicts there are; a verdict's counter index is below.
pub const VERDICTS: u32 = Pass::ALL.len() as u32 + Drop::ALL.len() as u32;

impl Verdict {
    /// The index of the verdict's counter.
    #[inline(always)]
    pub fn index(self) -> u32 {
        match self {
            Self::Pass(reason) => reason as u32,
            Self::Drop(reason) => Pass::ALL.len() as u32 + reason as u32,
        }
    }

    /// The verdict that counts at `index`.
    pub fn from_index(index: u32) -> Option<Self> {
        let index = usize::try_from(index).ok()?;
        match Pass::ALL.get(index) {
            Some(reason) => Some(Self::Pass(*reason)),
            None => Drop::ALL
                .get(index - Pass::ALL.len())
                .copied()
                .map(Self::Drop),
        }
    }

    /// The reason's name, as in metrics, events and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass(reason) => reason.name(),
            Self::Drop(reason) => reason.name(),
        }
    }
}

impl Pass {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 6] = [
        Self::Arp,
        Self::NeighbourDiscovery,
        Self::LinkControl,
        Self::OtherEthernet,
        Self::Protected,
        Self::Allowed,
    ];

    /// The reason's name; no other reason, pass or drop, has the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::NeighbourDiscovery => "neighbour_discovery",
            Self::LinkControl => "link_control",
            Self::OtherEthernet => "other_ethernet_passed",
            Self::Protected => "protected",
            Self::Allowed => "allowed",
        }
    }
}

impl Drop {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 12] = [
        Self::ShortEthernet,
        Self::TooManyTags,
        Self::ShortIpv4,
        Self::BadIpv4,
        Self::ShortIpv6,
        Self::BadIpv6,
        Self::OtherEthernet,
        Self::Fragment,
        Self::LongExtensionChain,
        Self::Banned,
        Self::BannedNetwork,
        Self::NotListed,
    ];

    /// The reason's name; no other reason, pass or drop, has the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShortEthernet => "short_ethernet",
            Self::TooManyTags => "too_many_tags",
            Self::ShortIpv4 => "short_ipv4",
            Self::BadIpv4 => "bad_ipv4",
            Self::ShortIpv6 => "short_ipv6",
            Self::BadIpv6 => "bad_ipv6",
            Self::OtherEthernet => "other_ethernet",
            Self::Fragment => "fragment",
            Self::LongExtensionChain => "long_extension_chain",
            Self::Banned => "banned",
            Self::BannedNetwork => "banned_network",
            Self::NotListed => "not_listed",
        }
    }
}

/// The lists of prefixes that a verdict asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum List {
    /// Sources that neither a ban nor a missing entry can cut.
    Protected,
    /// Banned networks.
    Banned,
    Allowed,
}

impl List {
    pub const ALL: [Self; 3] = [Self::Protected, Self::Banned, Self::Allowed];
}

/// What an operator set for packets that the lists alone don't decide. The default judges by source, and drops what has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    pub drop_fragments: bool,
    /// IPv6 packets with more than [`MAX_EXTENSION_HEADERS`](crate::packet::MAX_EXTENSION_HEADERS).
    pub drop_long_extension_chains: bool,
    /// IPv6 packets with a next header that is experimental or not assigned.
    pub drop_unknown_extension_headers: bool,
    /// Frames with more than two VLAN tags are judged by source as others are, and not dropped.
    pub judge_deep_tags: bool,
    pub pass_other_ethernet: bool,
    /// An IPv6 source in 64:ff9b::/96 (RFC 6052) is judged as the IPv4 address in it.
    pub nat64: bool,
}

/// The rules in force. Everything that one value answers belongs to one generation.
pub trait Rules {
    fn policy(&self) -> Policy;
    /// Whether `list` has a prefix that `source` lies in.
    fn lists(&self, list: List, source: Source) -> bool;
    /// Whether this very address is banned.
    fn bans(&self, source: Source) -> bool;
}

/// A verdict, and the headers it rests on, unless they could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub headers: Option<Headers>,
}

/// Decides what happens to `packet` under `rules`.
#[inline(always)]
pub fn decide<B: Bytes + ?Sized, R: Rules>(packet: &B, rules: &R) -> Decision {
    match parse(packet) {
        Ok(headers) => Decision {
            verdict: judge(&headers, rules),
            headers: Some(headers),
        },
        Err(malformed) => Decision {
            verdict: Verdict::Drop(refusal(malformed)),
            headers: None,
        },
    }
}

#[inline(always)]
fn refusal(malformed: Malformed) -> Drop {
    match malformed {
        Malformed::ShortEthernet => Drop::ShortEthernet,
        Malformed::TooManyTags => Drop::TooManyTags,
        Malformed::ShortIpv4 => Drop::ShortIpv4,
        Malformed::BadIpv4 => Drop::BadIpv4,
        Malformed::ShortIpv6 => Drop::ShortIpv6,
        Malformed::BadIpv6 => Drop::BadIpv6,
    }
}

#[inline(always)]
fn judge<R: Rules>(headers: &Headers, rules: &R) -> Verdict {
    let source = match headers.kind {
        Kind::Arp => return Verdict::Pass(Pass::Arp),
        Kind::NeighbourDiscovery => return Verdict::Pass(Pass::NeighbourDiscovery),
        Kind::LinkControl => return Verdict::Pass(Pass::LinkControl),
        Kind::OtherEthernet if rules.policy().pass_other_ethernet => {
            return Verdict::Pass(Pass::OtherEthernet);
        }
        Kind::OtherEthernet => return Verdict::Drop(Drop::OtherEthernet),
        Kind::Ip(source) => source,
    };
    match headers.oddity {
        Oddity::Fragment if rules.policy().drop_fragments => return Verdict::Drop(Drop::Fragment),
        Oddity::LongExtensionChain if rules.policy().drop_long_extension_chains => {
            return Verdict::Drop(Drop::LongExtensionChain);
        }
        Oddity::None | Oddity::Fragment | Oddity::LongExtensionChain => {}
    }
    if rules.lists(List::Protected, source) {
        Verdict::Pass(Pass::Protected)
    } else if rules.bans(source) {
        Verdict::Drop(Drop::Banned)
    } else if rules.lists(List::Banned, source) {
        Verdict::Drop(Drop::BannedNetwork)
    } else if rules.lists(List::Allowed, source) {
        Verdict::Pass(Pass::Allowed)
    } else {
        Verdict::Drop(Drop::NotListed)
    }
}

#[cfg(test)]
mod tests;
