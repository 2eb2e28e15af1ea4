mod odd;
mod settled;

use std::{net::IpAddr, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    frames::{Frame, Ipv6},
    layout::{oddity_counter, verdict_counter},
    packet::{Chain, MAX_EXTENSION_HEADERS},
};

const ALLOWED4: [u8; 4] = [203, 0, 113, 7];
const STRANGER4: [u8; 4] = [203, 0, 114, 7];
const ADMIN4: [u8; 4] = [192, 0, 2, 10];
const BANNED4: [u8; 4] = [203, 0, 113, 66];
const BANNED_NETWORK4: [u8; 4] = [203, 0, 113, 130];
const ALLOWED6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const STRANGER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

const DENIED4: [u8; 4] = [203, 0, 113, 200];
const SCOPED4: [u8; 4] = [198, 18, 0, 1];

/// 203.0.113.0/24 and 2001:db8:1::/48 are allowed, but for 203.0.113.66 and 203.0.113.128/26, which are banned, and 203.0.113.200,
/// which is denied; 192.0.2.10 is protected; 198.18.0.1 may use TCP port 22.
#[derive(Default)]
struct Example {
    policy: Policy,
    replies: bool,
    limit: Option<Excess>,
}

impl Rules for Example {
    fn policy(&self) -> Policy {
        self.policy
    }

    fn class_of(&self, source: Source) -> Class {
        match source.address() {
            IpAddr::V4(address) => match address.octets() {
                ADMIN4 => Class::PROTECTED,
                BANNED4 | [203, 0, 113, 128..=191] => Class::BANNED,
                DENIED4 => Class::DENIED,
                [203, 0, 113, _] => Class::ALLOWED,
                SCOPED4 => Class::FIRST_SCOPED,
                _ => Class::NOT_LISTED,
            },
            IpAddr::V6(address) if address.octets().starts_with(&ALLOWED6[..6]) => Class::ALLOWED,
            IpAddr::V6(_) => Class::NOT_LISTED,
        }
    }

    fn permits(&self, scope: u32, protocol: u8, port: Option<u16>) -> bool {
        scope == 0 && protocol == 6 && port.is_none_or(|port| port == 22)
    }

    fn is_reply<B: Bytes + ?Sized>(&self, _packet: &B, _headers: &Headers) -> bool {
        self.replies
    }

    fn limits(&self) -> bool {
        self.limit.is_some()
    }

    fn excess(&self, _source: Source, _is_connection_attempt: bool) -> Option<Excess> {
        self.limit
    }
}

fn verdict(frame: &[u8]) -> Verdict {
    decide(frame, &Example::default()).verdict
}

fn mapped(address: [u8; 4]) -> [u8; 16] {
    let mut mapped = [0; 16];
    mapped[10..12].fill(0xff);
    mapped[12..].copy_from_slice(&address);
    mapped
}

const PASS_ALLOWED: Verdict = Verdict::Pass(Pass::Allowed);
const DROP_STRANGER: Verdict = Verdict::Drop(Drop::NotListed);
const BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];

#[test]
fn verdicts() {
    let nd = |hop_limit, kind| Frame::ipv6(STRANGER6).hop_limit(hop_limit).icmp(kind);
    for (what, frame, wanted) in [
        ("allowed", Frame::ipv4(ALLOWED4).frame(), PASS_ALLOWED),
        (
            "a neighbour of the allowed network",
            Frame::ipv4(STRANGER4).frame(),
            DROP_STRANGER,
        ),
        (
            "protected",
            Frame::ipv4(ADMIN4).frame(),
            Verdict::Pass(Pass::Protected),
        ),
        (
            "banned although allowed",
            Frame::ipv4(BANNED4).frame(),
            Verdict::Drop(Drop::Banned),
        ),
        (
            "a banned network although allowed",
            Frame::ipv4(BANNED_NETWORK4).frame(),
            Verdict::Drop(Drop::Banned),
        ),
        (
            "denied although allowed",
            Frame::ipv4(DENIED4).frame(),
            Verdict::Drop(Drop::Denied),
        ),
        ("allowed, v6", Frame::ipv6(ALLOWED6).frame(), PASS_ALLOWED),
        (
            "stranger, v6",
            Frame::ipv6(STRANGER6).frame(),
            DROP_STRANGER,
        ),
        (
            "a mapped address is its IPv4 address",
            Frame::ipv6(mapped(ALLOWED4)).frame(),
            PASS_ALLOWED,
        ),
        (
            "... banned too",
            Frame::ipv6(mapped(BANNED4)).frame(),
            Verdict::Drop(Drop::Banned),
        ),
        (
            "... and a stranger's",
            Frame::ipv6(mapped(STRANGER4)).frame(),
            DROP_STRANGER,
        ),
        (
            "one tag",
            Frame::ipv4(ALLOWED4).frame().tagged(0x8100),
            PASS_ALLOWED,
        ),
        (
            "one tag, stranger",
            Frame::ipv4(STRANGER4).frame().tagged(0x8100),
            DROP_STRANGER,
        ),
        (
            "two tags",
            Frame::ipv4(ALLOWED4).frame().tagged(0x8100).tagged(0x88a8),
            PASS_ALLOWED,
        ),
        (
            "two tags, stranger",
            Frame::ipv6(STRANGER6).frame().tagged(0x8100).tagged(0x88a8),
            DROP_STRANGER,
        ),
        (
            "three tags",
            Frame::ipv4(ALLOWED4)
                .frame()
                .tagged(0x8100)
                .tagged(0x8100)
                .tagged(0x88a8),
            Verdict::Drop(Drop::TooManyTags),
        ),
        (
            "three tags around ARP",
            Frame::ethernet(0x0806, &[0; 40])
                .tagged(0x8100)
                .tagged(0x8100)
                .tagged(0x88a8),
            Verdict::Drop(Drop::TooManyTags),
        ),
        (
            "options",
            Frame::ipv4(ALLOWED4).options(10).frame(),
            PASS_ALLOWED,
        ),
        (
            "options, stranger",
            Frame::ipv4(STRANGER4).options(10).frame(),
            DROP_STRANGER,
        ),
        (
            "first fragment",
            Frame::ipv4(ALLOWED4).fragment(0x2000).frame(),
            PASS_ALLOWED,
        ),
        (
            "later fragment",
            Frame::ipv4(ALLOWED4).fragment(0x0001).frame(),
            PASS_ALLOWED,
        ),
        (
            "later fragment, stranger",
            Frame::ipv4(STRANGER4).fragment(0x1fff).frame(),
            DROP_STRANGER,
        ),
        (
            "v6 fragment",
            Frame::ipv6(ALLOWED6).fragment(0x0008).frame(),
            PASS_ALLOWED,
        ),
        (
            "v6 fragment, stranger",
            Frame::ipv6(STRANGER6).fragment(0x0001).frame(),
            DROP_STRANGER,
        ),
        (
            "arp",
            Frame::ethernet(0x0806, &[0; 28]),
            Verdict::Pass(Pass::Arp),
        ),
        (
            "arp in a tag",
            Frame::ethernet(0x0806, &[0; 28]).tagged(0x8100),
            Verdict::Pass(Pass::Arp),
        ),
        (
            "rarp is not arp",
            Frame::ethernet(0x8035, &[0; 28]),
            Verdict::Drop(Drop::OtherEthernet),
        ),
        (
            "router solicitation",
            nd(255, 133).frame(),
            Verdict::Pass(Pass::NeighbourDiscovery),
        ),
        (
            "neighbour solicitation",
            nd(255, 135).frame(),
            Verdict::Pass(Pass::NeighbourDiscovery),
        ),
        (
            "redirect",
            nd(255, 137).frame(),
            Verdict::Pass(Pass::NeighbourDiscovery),
        ),
        (
            "neighbour discovery from beyond a router",
            nd(254, 135).frame(),
            DROP_STRANGER,
        ),
        ("the type below", nd(255, 132).frame(), DROP_STRANGER),
        ("the type above", nd(255, 138).frame(), DROP_STRANGER),
        (
            "neighbour discovery behind an option",
            nd(255, 135).extension(0, 0).frame(),
            Verdict::Pass(Pass::NeighbourDiscovery),
        ),
        (
            "neighbour discovery in a fragment",
            nd(255, 135).fragment(0).frame(),
            DROP_STRANGER,
        ),
        (
            "lldp",
            Frame::ethernet(0x88cc, &[0; 40]).to([0x01, 0x80, 0xc2, 0, 0, 0x0e]),
            Verdict::Pass(Pass::LinkControl),
        ),
        (
            "lldp to somebody",
            Frame::ethernet(0x88cc, &[0; 40]),
            Verdict::Drop(Drop::OtherEthernet),
        ),
        (
            "lacp",
            Frame::ethernet(0x8809, &[1; 40]).to([0x01, 0x80, 0xc2, 0, 0, 0x02]),
            Verdict::Pass(Pass::LinkControl),
        ),
        (
            "spanning tree",
            Frame::ethernet(38, &[0x42; 38]).to(BRIDGE),
            Verdict::Pass(Pass::LinkControl),
        ),
        (
            "the group behind the reserved ones",
            Frame::ethernet(38, &[0x42; 38]).to([0x01, 0x80, 0xc2, 0, 0, 0x10]),
            Verdict::Drop(Drop::OtherEthernet),
        ),
        (
            "ip to a bridge group is still judged",
            Frame::ipv4(STRANGER4).frame().to(BRIDGE),
            DROP_STRANGER,
        ),
        (
            "something else",
            Frame::ethernet(0x1234, &[0; 40]),
            Verdict::Drop(Drop::OtherEthernet),
        ),
        (
            "IPv4 of version 5",
            Frame::ethernet(0x0800, &[0x55; 40]),
            Verdict::Drop(Drop::BadIpv4),
        ),
        (
            "IPv4 with a header of 16 bytes",
            Frame::ethernet(0x0800, &[0x44; 40]),
            Verdict::Drop(Drop::BadIpv4),
        ),
        (
            "IPv6 of version 4",
            Frame::ethernet(0x86dd, &[0x45; 60]),
            Verdict::Drop(Drop::BadIpv6),
        ),
    ] {
        assert_eq!(verdict(&frame.bytes()), wanted, "{what}");
    }
}

#[test]
fn a_packet_cut_at_any_byte_of_its_headers_is_dropped_as_short() {
    for (frame, headers, reasons) in [
        (
            Frame::ipv4(ALLOWED4).frame().bytes(),
            34,
            [Drop::ShortEthernet, Drop::ShortIpv4],
        ),
        (
            Frame::ipv4(ALLOWED4).options(10).frame().bytes(),
            74,
            [Drop::ShortEthernet, Drop::ShortIpv4],
        ),
        (
            Frame::ipv4(ALLOWED4)
                .frame()
                .tagged(0x8100)
                .tagged(0x88a8)
                .bytes(),
            42,
            [Drop::ShortEthernet, Drop::ShortIpv4],
        ),
        (
            Frame::ipv6(ALLOWED6).frame().bytes(),
            54,
            [Drop::ShortEthernet, Drop::ShortIpv6],
        ),
        (
            Frame::ipv6(ALLOWED6)
                .extension(0, 1)
                .authentication(2)
                .fragment(1)
                .frame()
                .bytes(),
            94,
            [Drop::ShortEthernet, Drop::ShortIpv6],
        ),
    ] {
        for length in 0..headers {
            let verdict = verdict(&frame[..length]);
            assert!(
                reasons.map(Verdict::Drop).contains(&verdict),
                "{length} of {headers}: {verdict:?}"
            );
        }
        assert_eq!(
            verdict(&frame[..headers]),
            PASS_ALLOWED,
            "all {headers} bytes of headers"
        );
    }
}

#[test]
fn every_verdict_has_a_counter_and_a_name_of_its_own() {
    let verdicts: Vec<Verdict> = Pass::ALL
        .into_iter()
        .map(Verdict::Pass)
        .chain(Drop::ALL.into_iter().map(Verdict::Drop))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    let mut counters: Vec<u32> = Oddity::ALL.into_iter().map(oddity_counter).collect();
    for verdict in verdicts {
        assert_eq!(Verdict::from_index(verdict.index()), Some(verdict));
        names.push(verdict.name());
        counters.extend([
            verdict_counter(verdict.index(), false),
            verdict_counter(verdict.index(), true),
        ]);
    }
    assert_eq!(Verdict::from_index(VERDICTS), None);
    counters.sort_unstable();
    assert_eq!(counters, (0..crate::layout::COUNTERS).collect::<Vec<_>>());
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

fn to_port(source: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    let mut frame = Frame::ipv4(source).protocol(protocol).frame().bytes();
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame
}

#[test]
fn a_scope_permits_its_port_and_not_the_next_one_or_another_protocol() {
    assert_eq!(verdict(&to_port(SCOPED4, 6, 22)), PASS_ALLOWED);
    for frame in [to_port(SCOPED4, 6, 23), to_port(SCOPED4, 17, 22)] {
        assert_eq!(verdict(&frame), Verdict::Drop(Drop::OutOfScope));
    }
    // A later fragment has no port, and goes by its protocol.
    let later = |protocol| {
        let frame = Frame::ipv4(SCOPED4).protocol(protocol).fragment(1).frame();
        verdict(&frame.bytes())
    };
    assert_eq!(later(6), PASS_ALLOWED);
    assert_eq!(later(17), Verdict::Drop(Drop::OutOfScope));
    // A header that ends before its ports is not taken for any port.
    let cut = to_port(SCOPED4, 6, 22);
    assert_eq!(verdict(&cut[..36]), Verdict::Drop(Drop::OutOfScope));
}

#[test]
fn a_reply_passes_where_there_is_no_rule_and_not_where_there_is_one_against_it() {
    let rules = Example {
        replies: true,
        ..Example::default()
    };
    let verdict = |frame: &[u8]| decide(frame, &rules).verdict;
    for frame in [
        to_port(STRANGER4, 6, 40_000),
        to_port(SCOPED4, 17, 40_000),
        Frame::ipv6(STRANGER6).frame().bytes(),
    ] {
        assert_eq!(verdict(&frame), Verdict::Pass(Pass::Reply));
    }
    for (source, reason) in [(BANNED4, Drop::Banned), (DENIED4, Drop::Denied)] {
        assert_eq!(verdict(&to_port(source, 6, 40_000)), Verdict::Drop(reason));
    }
    assert_eq!(verdict(&to_port(ALLOWED4, 6, 40_000)), PASS_ALLOWED);
}

#[test]
fn limits_hold_for_the_allowed_and_never_for_the_protected() {
    for (excess, reason) in [
        (Excess::Packets, Drop::RateLimited),
        (Excess::Syns, Drop::SynRateLimited),
    ] {
        let rules = Example {
            limit: Some(excess),
            ..Example::default()
        };
        let verdict = |frame: &[u8]| decide(frame, &rules).verdict;
        for frame in [to_port(ALLOWED4, 6, 1), to_port(SCOPED4, 6, 22)] {
            assert_eq!(verdict(&frame), Verdict::Drop(reason));
        }
        assert_eq!(
            verdict(&to_port(ADMIN4, 6, 1)),
            Verdict::Pass(Pass::Protected)
        );
        assert_eq!(verdict(&to_port(STRANGER4, 6, 1)), DROP_STRANGER);
    }
}

#[test]
fn a_nat64_source_is_its_ipv4_address_only_if_asked() {
    let embedded = |address: [u8; 4]| {
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[0, 0x64, 0xff, 0x9b]);
        source[12..].copy_from_slice(&address);
        Frame::ipv6(source).frame().bytes()
    };
    let rules = Example {
        policy: Policy {
            nat64: true,
            ..Policy::default()
        },
        ..Example::default()
    };
    assert_eq!(
        decide(embedded(ALLOWED4).as_slice(), &rules).verdict,
        PASS_ALLOWED
    );
    assert_eq!(
        decide(embedded(STRANGER4).as_slice(), &rules).verdict,
        DROP_STRANGER
    );
    assert_eq!(verdict(&embedded(ALLOWED4)), DROP_STRANGER);
}

proptest! {
    #[test]
    fn headers_are_the_same_after_their_way_through_words(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(headers) = parse(bytes.as_slice()) {
            prop_assert_eq!(Headers::from_words(headers.to_words()), headers);
        }
    }

    #[test]
    fn frames_have_headers_that_words_can_hold(
        source in any::<[u8; 16]>(), tags in 0_usize..=5, options in 0_u8..=10, field in any::<u16>(), mapped in any::<bool>(),
    ) {
        let [a, b, c, d, ..] = source;
        let frame = if mapped {
            Frame::ipv4([a, b, c, d]).options(options).fragment(field).frame()
        } else {
            Frame::ipv6(source).extension(60, options).frame()
        };
        let frame = (0..tags).fold(frame, |frame, _| frame.tagged(0x88a8)).bytes();
        let headers = parse(frame.as_slice()).unwrap();
        prop_assert_eq!(Headers::from_words(headers.to_words()), headers);
    }

    #[test]
    fn a_chain_is_the_same_after_its_way_through_a_word(
        is_short in any::<bool>(), oddities in 0_u8..32, protocol in any::<u8>(), transport_at in 0_u16..0x4000,
    ) {
        let chain = Chain { is_short, oddities: Oddities(oddities), protocol, transport_at };
        prop_assert_eq!(Chain::from_word(chain.to_word()), chain);
    }

    #[test]
    fn no_bytes_make_it_panic_and_only_a_listed_source_is_allowed(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let decision = decide(bytes.as_slice(), &Example::default());
        if decision.verdict == PASS_ALLOWED {
            let Kind::Ip(source) = decision.headers.kind else { panic!("no source") };
            prop_assert_eq!(Example::default().class_of(source), Class::ALLOWED);
        }
    }

    #[test]
    fn a_stranger_is_never_passed_on_the_word_of_anything_but_its_source(
        last in any::<[u8; 2]>(), options in 0_u8..=10, field in any::<u16>(), tags in 0_usize..=2,
    ) {
        let frame = Frame::ipv4([198, 51, last[0], last[1]]).options(options).fragment(field).frame();
        let frame = (0..tags).fold(frame, |frame, _| frame.tagged(0x8100));
        prop_assert_eq!(verdict(&frame.bytes()), DROP_STRANGER);
    }
}
