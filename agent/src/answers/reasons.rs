//! What each reason means, and what to do about it: one table, for `why`, `watch` and the manual.

use agent_ebpf::verdict::{Drop, Pass, Verdict};

/// A reason in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// One sentence.
    pub meaning: &'static str,
    /// What changes it, if it is not wanted. Empty where nothing does or should.
    pub remedy: &'static str,
}

const MALFORMED: &str =
    "look at the sender or a capture (`watch --pcap FILE`): no list can let such a packet in";

/// The reason of a verdict in words.
pub fn explain(verdict: Verdict) -> Explanation {
    let (meaning, remedy) = match verdict {
        Verdict::Pass(reason) => passed(reason),
        Verdict::Drop(reason) => dropped(reason),
    };
    Explanation { meaning, remedy }
}

fn passed(reason: Pass) -> (&'static str, &'static str) {
    match reason {
        Pass::Arp => (
            "ARP passes from anyone: without it the host loses its neighbours.",
            "",
        ),
        Pass::NeighbourDiscovery => (
            "IPv6 neighbour discovery from the same link passes from anyone.",
            "",
        ),
        Pass::LinkControl => ("LLDP, LACP and spanning tree pass from anyone.", ""),
        Pass::OtherEthernet => (
            "Frames that are not IP pass by configuration.",
            "set uncertain.other_ethernet = \"drop\" to drop them",
        ),
        Pass::Protected => (
            "The source is protected: no list, ban or feed cuts it off.",
            "take it out of `protected` in the configuration",
        ),
        Pass::Allowed => (
            "An entry of the allowlist covers the source, the protocol and the port.",
            "portcullis-agent allow remove, or ban",
        ),
        Pass::Reply => (
            "The packet answers a flow that this host opened.",
            "set learn_replies = false to judge it by its source alone, or ban the source",
        ),
    }
}

fn dropped(reason: Drop) -> (&'static str, &'static str) {
    match reason {
        Drop::ShortEthernet => (
            "The frame is shorter than an Ethernet header and its tags.",
            MALFORMED,
        ),
        Drop::TooManyTags => (
            "The frame has more VLAN tags than the policy takes, or than are read.",
            "set uncertain.deep_tags = \"by-source\", or take tags off on the switch",
        ),
        Drop::ShortIpv4 => (
            "The frame ends within the IPv4 header, or before the length that it gives.",
            MALFORMED,
        ),
        Drop::BadIpv4 => (
            "The IPv4 header contradicts itself: wrong version or header length.",
            MALFORMED,
        ),
        Drop::ShortIpv6 => (
            "The frame ends within the IPv6 headers, or before the length that they give.",
            MALFORMED,
        ),
        Drop::BadIpv6 => ("The IPv6 header has a wrong version.", MALFORMED),
        Drop::OtherEthernet => (
            "The frame is not IP, and has no source that a list could hold.",
            "set uncertain.other_ethernet = \"pass\" if a protocol needs it",
        ),
        Drop::Fragment => (
            "The packet is a fragment, and the policy drops fragments.",
            "set uncertain.fragments = \"by-source\", or lower the sender's MTU",
        ),
        Drop::LongExtensionChain => (
            "The packet has more than eight IPv6 extension headers, and the policy drops such packets.",
            "set uncertain.extension_headers = \"by-source\"",
        ),
        Drop::UnknownExtensionHeader => (
            "The packet has an unknown IPv6 extension header, and the policy drops such packets.",
            "set uncertain.unknown_extension_headers = \"by-source\"",
        ),
        Drop::Banned => (
            "The source, or a network that it lies in, is banned.",
            "portcullis-agent unban, or wait for the ban's end",
        ),
        Drop::Denied => (
            "An entry takes the source out of a wider prefix that is allowed.",
            "take the denial out of its list",
        ),
        Drop::OutOfScope => (
            "The source is allowed, but not with this protocol and port.",
            "portcullis-agent allow add, with a scope",
        ),
        Drop::NotListed => (
            "No entry of the allowlist covers the source.",
            "portcullis-agent allow add",
        ),
        Drop::RateLimited => (
            "The source is allowed and sends more packets a second than it may.",
            "wait a second, or raise rate_limit.packets_per_second",
        ),
        Drop::SynRateLimited => (
            "The source is allowed and opens more TCP connections a second than it may.",
            "wait a second, or raise rate_limit.syns_per_second",
        ),
    }
}

/// Every verdict, in the order of the counters.
pub fn verdicts() -> impl Iterator<Item = Verdict> {
    Pass::ALL
        .into_iter()
        .map(Verdict::Pass)
        .chain(Drop::ALL.into_iter().map(Verdict::Drop))
}

/// The names of all reasons for which packets are dropped.
pub fn drop_names() -> impl Iterator<Item = &'static str> {
    Drop::ALL.into_iter().map(Drop::name)
}

/// The explanation of a reason by its name.
pub fn by_name(name: &str) -> Option<Explanation> {
    verdicts()
        .find(|verdict| verdict.name() == name)
        .map(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_one_sentence_and_every_drop_has_a_remedy() {
        for verdict in verdicts() {
            let Explanation { meaning, remedy } = explain(verdict);
            assert!(meaning.ends_with('.') && meaning.len() < 120, "{verdict:?}");
            assert_eq!(meaning.matches(". ").count(), 0, "{verdict:?}");
            if matches!(verdict, Verdict::Drop(_)) {
                assert!(!remedy.is_empty(), "{verdict:?}");
            }
            assert_eq!(by_name(verdict.name()), Some(explain(verdict)));
        }
        assert_eq!(by_name("no such reason"), None);
    }

    #[test]
    fn every_reason_is_in_the_manual() {
        let manual = include_str!("../../../docs/agent.md");
        for verdict in verdicts() {
            let name = verdict.name();
            assert!(manual.contains(&format!("`{name}`")), "{name}");
        }
    }
}
