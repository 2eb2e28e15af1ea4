//! Every kind of frame at every length, under a list that has the source and under one that has not.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use portcullis_agent::datapath::mode::TableChoice;
use portcullis_tests::{
    differential::Subject as _,
    frames::{Body, Extension, Fragment, Frame, ICMPV6, SHORTEST, TCP, UDP, V4, V6, transport},
    oracle::{self, Action, Policy, Rule, Span},
};

use crate::loaded::Loaded;

const SOURCE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20);
const HTTPS: u16 = 443;
const SSH: u16 = 22;

/// A list's name, and what it makes of the sources.
fn lists() -> [(&'static str, Vec<Rule>); 5] {
    let https = Span {
        protocol: TCP,
        first: HTTPS,
        last: HTTPS,
    };
    [
        ("allow", both(&Action::Allow(None))),
        ("nothing", Vec::new()),
        ("ban", both(&Action::Ban)),
        ("deny", both(&Action::Deny)),
        ("scope", both(&Action::Allow(Some(vec![https])))),
    ]
}

fn both(action: &Action) -> Vec<Rule> {
    [IpAddr::from(SOURCE4), IpAddr::from(SOURCE6)]
        .map(|source| Rule {
            prefix: source.into(),
            action: action.clone(),
        })
        .into()
}

fn policies() -> [Policy; 4] {
    let none = Policy::default();
    let all = Policy::all().last().unwrap();
    [
        none,
        all,
        Policy {
            judge_deep_tags: true,
            nat64: true,
            pass_other_ethernet: true,
            ..none
        },
        Policy {
            judge_deep_tags: false,
            nat64: false,
            pass_other_ethernet: false,
            ..all
        },
    ]
}

#[test]
fn every_kind_of_frame_cut_at_every_byte_is_judged_as_expected_under_allow_and_under_deny() {
    let mut pairs = Vec::new();
    for (index, list) in lists().into_iter().enumerate() {
        // The first two are allow and deny; what the others add does not depend on the policy.
        let count = if index < 2 { 4 } else { 1 };
        pairs.extend(policies().map(|policy| (list.clone(), policy))[..count].to_vec());
    }
    let judged = matrix(TableChoice::Compiled, &pairs);
    assert!(judged > 500_000, "{judged}");
}

#[test]
fn the_program_with_the_kernels_own_tries_judges_every_kind_of_frame_the_same() {
    let [allow, nothing, ..] = lists();
    let [default, inverted, ..] = policies();
    let judged = matrix(TableChoice::Lpm, &[(allow, default), (nothing, inverted)]);
    assert!(judged > 100_000, "{judged}");
}

/// Judges all frames, cut at every byte, under each pair; gives how many the loaded program was fed with.
fn matrix(table: TableChoice, pairs: &[((&str, Vec<Rule>), Policy)]) -> u64 {
    let mut loaded = Loaded::both_ways(table).unwrap();
    let frames = frames();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut on_the_host, mut in_the_kernel) = (0_u64, 0_u64);
    for ((name, rules), policy) in pairs {
        loaded.replace(rules, *policy).unwrap();
        for whole in &frames {
            for length in 0..=whole.len() {
                let frame = &whole[..length];
                let expected = oracle::judge(frame, rules, *policy).reason;
                let judged = loaded.judge(frame).unwrap();
                assert!(
                    judged.iter().all(|reason| *reason == expected),
                    "expected {expected}, was {judged:?}, under {name} and {policy:?}: {frame:02x?}"
                );
                on_the_host += 1;
                in_the_kernel += u64::from(length >= SHORTEST);
                *reasons.entry(expected).or_default() += 1;
            }
        }
    }
    println!(
        "{} frames, cut at every byte, under {} pairs of a list and a policy, {table:?}: {on_the_host} verdicts on the host, {in_the_kernel} by the loaded program, 0 mismatches: {reasons:?}",
        frames.len(),
        pairs.len()
    );
    in_the_kernel
}

/// One frame of each kind, with 0 to 5 tags.
fn frames() -> Vec<Vec<u8>> {
    let mut bodies: Vec<([u8; 6], Body)> = Vec::new();
    let station = [2, 0, 0, 0, 0, 1];
    for option_words in [0, 1, 10] {
        for fragment in Fragment::ALL {
            for (protocol, port) in [(TCP, HTTPS), (TCP, SSH), (UDP, HTTPS), (1, 0)] {
                bodies.push((
                    station,
                    Body::V4(V4 {
                        source: SOURCE4,
                        option_words,
                        fragment,
                        protocol,
                        payload: transport(port),
                    }),
                ));
            }
        }
    }
    let v6 = |source: Ipv6Addr, extensions: Vec<Extension>, protocol, payload, hop_limit| {
        (
            station,
            Body::V6(V6 {
                source,
                hop_limit,
                extensions,
                protocol,
                payload,
            }),
        )
    };
    for extensions in chains() {
        bodies.push(v6(SOURCE6, extensions, TCP, transport(HTTPS), 64));
    }
    for extension in single() {
        for (protocol, payload) in [
            (TCP, transport(SSH)),
            (ICMPV6, vec![135, 0, 0, 0]),
            (253, Vec::new()),
        ] {
            bodies.push(v6(SOURCE6, vec![extension], protocol, payload, 255));
        }
    }
    for protocol in [0, 6, 17, 50, 59, 132, 143, 147, 148, 252, 253, 254, 255] {
        bodies.push(v6(SOURCE6, Vec::new(), protocol, transport(HTTPS), 64));
    }
    for kind in [1, 128, 129, 132, 133, 134, 135, 136, 137, 138] {
        for hop_limit in [254, 255] {
            bodies.push(v6(
                SOURCE6,
                Vec::new(),
                ICMPV6,
                vec![kind, 0, 0, 0],
                hop_limit,
            ));
        }
    }
    let [high, low] = [0xc000, 0x0214];
    for source in [
        SOURCE4.to_ipv6_mapped(),
        SOURCE4.to_ipv6_compatible(),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
    ] {
        bodies.push(v6(source, Vec::new(), TCP, transport(HTTPS), 64));
    }
    let group = |last| [0x01, 0x80, 0xc2, 0, 0, last];
    for destination in [
        station,
        group(0x00),
        group(0x02),
        group(0x0e),
        group(0x0f),
        group(0x10),
    ] {
        for ethertype in [
            0x0806, 0x88cc, 0x8809, 0, 38, 1500, 1501, 0x9100, 0x8863, 0x88e5, 0xffff,
        ] {
            bodies.push((
                destination,
                Body::Other {
                    ethertype,
                    bytes: vec![0; 4],
                },
            ));
        }
    }
    let mut frames = Vec::new();
    for tags in 0..=5_usize {
        for (destination, body) in &bodies {
            let mut frame = Frame::new(body.clone());
            frame.destination = *destination;
            frame.tags = [0x88a8, 0x8100, 0x8100, 0x88a8, 0x8100][..tags].to_vec();
            frames.push(frame.bytes());
        }
    }
    // One more than are read.
    let mut deepest = Frame::tcp(SOURCE4.into(), HTTPS);
    deepest.tags = vec![0x8100; 6];
    frames.push(deepest.bytes());
    frames
}

/// One extension header of each kind.
fn single() -> Vec<Extension> {
    let mut all: Vec<Extension> = Extension::COMMON
        .into_iter()
        .map(|number| Extension::Common { number, units: 0 })
        .collect();
    all.push(Extension::Authentication { words: 1 });
    all.extend(Fragment::ALL.map(Extension::Fragment));
    all
}

/// Chains of every kind and length: each header alone and behind each other, longer ones, and more than are read.
fn chains() -> Vec<Vec<Extension>> {
    let single = single();
    let mut chains: Vec<Vec<Extension>> = single.iter().map(|one| vec![*one]).collect();
    for first in &single {
        for second in &single {
            chains.push(vec![*first, *second]);
        }
    }
    for units in [1, 2, 5] {
        chains.push(vec![Extension::Common { number: 60, units }]);
        chains.push(vec![Extension::Authentication { words: units }]);
    }
    let options = Extension::Common {
        number: 60,
        units: 0,
    };
    for length in 3..=10 {
        chains.push(vec![options; length]);
        // A fragment first, last, and behind the last that is read.
        for (at, part) in [
            (0, Fragment::First),
            (length - 1, Fragment::First),
            (length - 1, Fragment::Last),
        ] {
            let mut chain = vec![options; length];
            chain[at] = Extension::Fragment(part);
            chains.push(chain);
        }
    }
    chains
}

/// What the oracle says is right, held against cases that were thought out by hand.
#[test]
fn what_matters_most_is_judged_as_written_here() {
    let tagged = |tags: &[u16], frame: Frame| Frame {
        tags: tags.to_vec(),
        ..frame
    };
    let other = |destination, ethertype| Frame {
        destination,
        ..Frame::new(Body::Other {
            ethertype,
            bytes: vec![0; 46],
        })
    };
    let v4 = |fragment, option_words, port| {
        Frame::new(Body::V4(V4 {
            source: SOURCE4,
            option_words,
            fragment,
            protocol: TCP,
            payload: transport(port),
        }))
    };
    let v6 = |extensions: &[Extension], protocol, payload: &[u8], hop_limit| {
        Frame::new(Body::V6(V6 {
            source: SOURCE6,
            hop_limit,
            extensions: extensions.to_vec(),
            protocol,
            payload: payload.to_vec(),
        }))
    };
    let options = Extension::Common {
        number: 60,
        units: 0,
    };
    let station = [2, 0, 0, 0, 0, 1];
    let solicitation: &[u8] = &[135, 0, 0, 0];
    // The frame; then its reason under a list that has the source, under one that allows it TCP port 443, under one that has nothing,
    // and under one that has the source where every policy is the other way.
    let cases: Vec<(&str, Frame, [&str; 4])> = vec![
        (
            "TCP",
            v4(Fragment::Whole, 0, HTTPS),
            ["allowed", "allowed", "not_listed", "allowed"],
        ),
        (
            "TCP to another port",
            v4(Fragment::Whole, 0, SSH),
            ["allowed", "out_of_scope", "not_listed", "allowed"],
        ),
        (
            "options",
            v4(Fragment::Whole, 10, HTTPS),
            ["allowed", "allowed", "not_listed", "allowed"],
        ),
        (
            "options do not hide a port",
            v4(Fragment::Whole, 10, SSH),
            ["allowed", "out_of_scope", "not_listed", "allowed"],
        ),
        (
            "first fragment",
            v4(Fragment::First, 0, HTTPS),
            ["allowed", "allowed", "not_listed", "fragment"],
        ),
        (
            "first fragment to another port",
            v4(Fragment::First, 0, SSH),
            ["allowed", "out_of_scope", "not_listed", "fragment"],
        ),
        (
            "later fragment",
            v4(Fragment::Last, 0, SSH),
            ["allowed", "allowed", "not_listed", "fragment"],
        ),
        (
            "one tag",
            tagged(&[0x8100], v4(Fragment::Whole, 0, HTTPS)),
            ["allowed", "allowed", "not_listed", "allowed"],
        ),
        (
            "two tags",
            tagged(&[0x88a8, 0x8100], v4(Fragment::Whole, 0, HTTPS)),
            ["allowed", "allowed", "not_listed", "allowed"],
        ),
        (
            "three tags",
            tagged(&[0x8100; 3], v4(Fragment::Whole, 0, HTTPS)),
            ["too_many_tags", "too_many_tags", "too_many_tags", "allowed"],
        ),
        (
            "five tags",
            tagged(&[0x8100; 5], v4(Fragment::Whole, 0, HTTPS)),
            ["too_many_tags", "too_many_tags", "too_many_tags", "allowed"],
        ),
        (
            "six tags",
            tagged(&[0x8100; 6], v4(Fragment::Whole, 0, HTTPS)),
            ["too_many_tags"; 4],
        ),
        (
            "TCP over IPv6",
            v6(&[], TCP, &transport(HTTPS), 64),
            ["allowed", "allowed", "not_listed", "allowed"],
        ),
        (
            "an extension header does not hide a port",
            v6(&[options], TCP, &transport(SSH), 64),
            ["allowed", "out_of_scope", "not_listed", "allowed"],
        ),
        (
            "eight extension headers",
            v6(&[options; 8], TCP, &transport(HTTPS), 64),
            ["allowed", "allowed", "not_listed", "allowed"],
        ),
        (
            "nine extension headers",
            v6(&[options; 9], TCP, &transport(HTTPS), 64),
            [
                "allowed",
                "out_of_scope",
                "not_listed",
                "long_extension_chain",
            ],
        ),
        (
            "IPv6 fragment",
            v6(&[Extension::Fragment(Fragment::Last)], TCP, &[0; 8], 64),
            ["allowed", "allowed", "not_listed", "fragment"],
        ),
        (
            "experimental next header",
            v6(&[], 253, &[0; 8], 64),
            [
                "allowed",
                "out_of_scope",
                "not_listed",
                "unknown_extension_header",
            ],
        ),
        (
            "neighbour solicitation",
            v6(&[], ICMPV6, solicitation, 255),
            ["neighbour_discovery"; 4],
        ),
        (
            "one that was routed",
            v6(&[], ICMPV6, solicitation, 254),
            ["allowed", "out_of_scope", "not_listed", "allowed"],
        ),
        (
            "one that was fragmented",
            v6(
                &[Extension::Fragment(Fragment::Whole)],
                ICMPV6,
                solicitation,
                255,
            ),
            ["allowed", "out_of_scope", "not_listed", "fragment"],
        ),
        (
            "echo request",
            v6(&[], ICMPV6, &[128, 0, 0, 0], 255),
            ["allowed", "out_of_scope", "not_listed", "allowed"],
        ),
        ("ARP", other(station, 0x0806), ["arp"; 4]),
        (
            "LLDP",
            other([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc),
            ["link_control"; 4],
        ),
        (
            "LLDP to a station",
            other(station, 0x88cc),
            [
                "other_ethernet",
                "other_ethernet",
                "other_ethernet",
                "other_ethernet_passed",
            ],
        ),
        (
            "LACP",
            other([0x01, 0x80, 0xc2, 0, 0, 0x02], 0x8809),
            ["link_control"; 4],
        ),
        (
            "spanning tree",
            other([0x01, 0x80, 0xc2, 0, 0, 0], 38),
            ["link_control"; 4],
        ),
        (
            "PPPoE",
            other(station, 0x8863),
            [
                "other_ethernet",
                "other_ethernet",
                "other_ethernet",
                "other_ethernet_passed",
            ],
        ),
    ];
    let [allow, nothing, _, _, scope] = lists().map(|(_, rules)| rules);
    let [default, inverted, ..] = policies();
    let mut loaded = Loaded::both_ways(TableChoice::Compiled).unwrap();
    for (index, (rules, policy)) in [
        (&allow, default),
        (&scope, default),
        (&nothing, default),
        (&allow, inverted),
    ]
    .into_iter()
    .enumerate()
    {
        loaded.replace(rules, policy).unwrap();
        for (name, frame, expected) in &cases {
            let judged = loaded.judge(&frame.bytes()).unwrap();
            assert_eq!(judged, [expected[index]; 3], "{name}, column {index}");
        }
    }
}
