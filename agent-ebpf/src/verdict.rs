//! The verdict: one precedence, each outcome with its reason.
//!
//! `malformed or too many tags -> essential -> refused by a policy for odd packets -> class of the source -> reply -> default drop`.
//! The class is one of: protected, banned, denied, allowed, allowed within a scope, not listed.

use crate::{
    class::Class,
    layout::Conditions,
    limit::Excess,
    packet::{Bytes, Headers, Kind, Malformed, Oddities, Oddity, Source, parse, transport},
};

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
    /// An answer in a flow that this host opened.
    Reply,
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Drop {
    ShortEthernet,
    /// More VLAN tags than are read, or than the policy takes.
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
    /// An unknown extension header, and the policy drops such packets.
    UnknownExtensionHeader,
    /// The source, or a network that it lies in, is banned.
    Banned,
    /// A list takes the source out of a wider allowed prefix.
    Denied,
    /// The source is allowed, and not with this protocol and port.
    OutOfScope,
    /// No list has the source.
    NotListed,
    /// The source sends more packets than it may.
    RateLimited,
    /// The source opens more TCP connections than it may.
    SynRateLimited,
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
    pub const ALL: [Self; 7] = [
        Self::Arp,
        Self::NeighbourDiscovery,
        Self::LinkControl,
        Self::OtherEthernet,
        Self::Protected,
        Self::Allowed,
        Self::Reply,
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
            Self::Reply => "reply",
        }
    }
}

impl Drop {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 16] = [
        Self::ShortEthernet,
        Self::TooManyTags,
        Self::ShortIpv4,
        Self::BadIpv4,
        Self::ShortIpv6,
        Self::BadIpv6,
        Self::OtherEthernet,
        Self::Fragment,
        Self::LongExtensionChain,
        Self::UnknownExtensionHeader,
        Self::Banned,
        Self::Denied,
        Self::OutOfScope,
        Self::NotListed,
        Self::RateLimited,
        Self::SynRateLimited,
    ];

    /// The reason with this number, of those that [`refusal`] gives.
    #[inline(always)]
    pub fn malformed(number: u32) -> Option<Self> {
        [
            Self::ShortEthernet,
            Self::TooManyTags,
            Self::ShortIpv4,
            Self::BadIpv4,
            Self::ShortIpv6,
            Self::BadIpv6,
        ]
        .into_iter()
        .find(|reason| *reason as u32 == number)
    }

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
            Self::UnknownExtensionHeader => "unknown_extension_header",
            Self::Banned => "banned",
            Self::Denied => "denied",
            Self::OutOfScope => "out_of_scope",
            Self::NotListed => "not_listed",
            Self::RateLimited => "rate_limited",
            Self::SynRateLimited => "syn_rate_limited",
        }
    }
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

    /// The class of an address.
    fn class_of(&self, source: Source) -> Class;

    /// Whether the scope set with this index permits the protocol and the port, as in
    /// [`ScopeSet::permits`](crate::scope::ScopeSet::permits).
    fn permits(&self, scope: u32, protocol: u8, port: Option<u16>) -> bool;

    /// Whether the packet is a reply in a flow that this host opened.
    fn is_reply<B: Bytes + ?Sized>(&self, packet: &B, headers: &Headers) -> bool;

    /// Whether sources have a rate limit at all.
    fn limits(&self) -> bool;

    /// Takes the packet into account, and says whether it breaks a limit of its source. Asked only where there are limits.
    fn excess(&self, source: Source, is_connection_attempt: bool) -> Option<Excess>;
}

/// A verdict, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// Of the source; [`Class::NOT_LISTED`] also where it was not asked for.
    pub class: Class,
    /// [`Headers::UNREADABLE`] where they could not be read.
    pub headers: Headers,
}

/// Decides what happens to `packet` under `rules`.
#[inline(always)]
pub fn decide<B: Bytes + ?Sized, R: Rules>(packet: &B, rules: &R) -> Decision {
    match parse(packet) {
        Ok(headers) => {
            let (verdict, class) = judge(packet, &headers, rules);
            Decision {
                verdict,
                class,
                headers,
            }
        }
        Err(malformed) => Decision {
            verdict: Verdict::Drop(refusal(malformed)),
            class: Class::NOT_LISTED,
            headers: Headers::UNREADABLE,
        },
    }
}

/// Why a packet is dropped that can't be judged.
#[inline(always)]
pub fn refusal(malformed: Malformed) -> Drop {
    match malformed {
        Malformed::ShortEthernet => Drop::ShortEthernet,
        Malformed::TooManyTags => Drop::TooManyTags,
        Malformed::ShortIpv4 => Drop::ShortIpv4,
        Malformed::BadIpv4 => Drop::BadIpv4,
        Malformed::ShortIpv6 => Drop::ShortIpv6,
        Malformed::BadIpv6 => Drop::BadIpv6,
    }
}

/// Decides what happens to a packet with these headers, and gives the class of its source with it.
#[inline(always)]
pub fn judge<B: Bytes + ?Sized, R: Rules>(
    packet: &B,
    headers: &Headers,
    rules: &R,
) -> (Verdict, Class) {
    let unlisted = |verdict| (verdict, Class::NOT_LISTED);
    let policy = rules.policy();
    if headers.oddities.has(Oddity::DeepTags) && !policy.judge_deep_tags {
        return unlisted(Verdict::Drop(Drop::TooManyTags));
    }
    let source = match headers.kind {
        Kind::Arp => return unlisted(Verdict::Pass(Pass::Arp)),
        Kind::NeighbourDiscovery => return unlisted(Verdict::Pass(Pass::NeighbourDiscovery)),
        Kind::LinkControl => return unlisted(Verdict::Pass(Pass::LinkControl)),
        Kind::OtherEthernet if policy.pass_other_ethernet => {
            return unlisted(Verdict::Pass(Pass::OtherEthernet));
        }
        Kind::OtherEthernet => return unlisted(Verdict::Drop(Drop::OtherEthernet)),
        Kind::Ip(source) => source,
    };
    if headers.oddities != Oddities::NONE
        && let Some(reason) = refused_oddity(headers.oddities, policy)
    {
        return unlisted(Verdict::Drop(reason));
    }
    let source = if policy.nat64 {
        source.without_nat64()
    } else {
        source
    };
    let class = rules.class_of(source);
    (by_class(packet, headers, rules, source, class), class)
}

/// The verdict on a [plain](crate::packet::plain) packet, if nothing but the class of its source has a say in it.
#[inline(always)]
pub fn settled(class: Class, conditions: Conditions) -> Option<Verdict> {
    let unless = |unsettling, verdict| {
        if conditions.has_any(unsettling) {
            None
        } else {
            Some(verdict)
        }
    };
    match class {
        Class::NOT_LISTED => unless(
            Conditions::MONITORING.and(Conditions::REPLIES),
            Verdict::Drop(Drop::NotListed),
        ),
        Class::ALLOWED => unless(Conditions::LIMITS, Verdict::Pass(Pass::Allowed)),
        Class::PROTECTED => Some(Verdict::Pass(Pass::Protected)),
        Class::BANNED => unless(Conditions::MONITORING, Verdict::Drop(Drop::Banned)),
        Class::DENIED => unless(Conditions::MONITORING, Verdict::Drop(Drop::Denied)),
        _ => None,
    }
}

#[inline(always)]
fn refused_oddity(oddities: Oddities, policy: Policy) -> Option<Drop> {
    if oddities.has(Oddity::Fragment) && policy.drop_fragments {
        Some(Drop::Fragment)
    } else if oddities.has(Oddity::LongExtensionChain) && policy.drop_long_extension_chains {
        Some(Drop::LongExtensionChain)
    } else if oddities.has(Oddity::UnknownExtensionHeader) && policy.drop_unknown_extension_headers
    {
        Some(Drop::UnknownExtensionHeader)
    } else {
        None
    }
}

/// Decides what happens to a packet whose source has this class, and that neither its link nor a policy settles before.
#[inline(always)]
pub fn by_class<B: Bytes + ?Sized, R: Rules>(
    packet: &B,
    headers: &Headers,
    rules: &R,
    source: Source,
    class: Class,
) -> Verdict {
    let uninvited = match class {
        Class::PROTECTED => return Verdict::Pass(Pass::Protected),
        Class::BANNED => return Verdict::Drop(Drop::Banned),
        Class::DENIED => return Verdict::Drop(Drop::Denied),
        Class::NOT_LISTED => Drop::NotListed,
        Class::ALLOWED => return within_limits(packet, headers, rules, source),
        scoped => {
            let port = transport::scope_port(packet, headers);
            match scoped.scope() {
                // What stands behind a long chain is not known, and then no protocol is permitted.
                Some(scope)
                    if !headers.oddities.has(Oddity::LongExtensionChain)
                        && rules.permits(scope, headers.protocol, port) =>
                {
                    return within_limits(packet, headers, rules, source);
                }
                Some(_) | None => Drop::OutOfScope,
            }
        }
    };
    if rules.is_reply(packet, headers) {
        Verdict::Pass(Pass::Reply)
    } else {
        Verdict::Drop(uninvited)
    }
}

#[inline(always)]
fn within_limits<B: Bytes + ?Sized, R: Rules>(
    packet: &B,
    headers: &Headers,
    rules: &R,
    source: Source,
) -> Verdict {
    if !rules.limits() {
        return Verdict::Pass(Pass::Allowed);
    }
    let is_connection_attempt = transport::is_connection_attempt(packet, headers);
    match rules.excess(source, is_connection_attempt) {
        None => Verdict::Pass(Pass::Allowed),
        Some(Excess::Packets) => Verdict::Drop(Drop::RateLimited),
        Some(Excess::Syns) => Verdict::Drop(Drop::SynRateLimited),
    }
}

#[cfg(test)]
mod tests;
