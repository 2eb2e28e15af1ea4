//! Packets about which something is uncertain.

use super::*;

#[test]
fn extension_headers_are_followed_to_the_end_or_judged_by_source() {
    let chain = |source, length: usize| {
        let packet = (0..length).fold(Frame::ipv6(source).hop_limit(255).icmp(135), |packet, _| {
            packet.extension(60, 1)
        });
        decide(packet.frame().bytes().as_slice(), &Example::default())
    };
    let longest = chain(STRANGER6, MAX_EXTENSION_HEADERS);
    assert_eq!(longest.verdict, Verdict::Pass(Pass::NeighbourDiscovery));
    let too_long = chain(STRANGER6, MAX_EXTENSION_HEADERS + 1);
    assert_eq!(too_long.verdict, DROP_STRANGER);
    assert_eq!(
        too_long.headers.oddities,
        Oddities::of(Oddity::LongExtensionChain)
    );
    assert_eq!(
        chain(ALLOWED6, MAX_EXTENSION_HEADERS + 1).verdict,
        PASS_ALLOWED
    );
}

#[test]
fn every_kind_of_extension_header_has_its_length() {
    let packet = |with: fn(Ipv6) -> Ipv6| {
        let frame = with(Frame::ipv6(ALLOWED6).hop_limit(255).icmp(135)).frame();
        decide(frame.bytes().as_slice(), &Example::default()).headers
    };
    for headers in [
        packet(|packet| packet.extension(0, 2)),
        packet(|packet| packet.extension(43, 3)),
        packet(|packet| packet.extension(60, 0).extension(43, 1)),
        packet(|packet| packet.authentication(4)),
        packet(|packet| packet.authentication(1).extension(135, 0)),
        packet(|packet| packet.extension(139, 0).extension(140, 0)),
    ] {
        assert_eq!(headers.kind, Kind::NeighbourDiscovery);
        assert_eq!(headers.protocol, 58);
    }
}

#[test]
fn policies_for_odd_packets_refuse_what_they_name_and_nothing_else() {
    let fragment = Frame::ipv4(ALLOWED4).fragment(0x2000).frame().bytes();
    let chain = (0..=MAX_EXTENSION_HEADERS)
        .fold(Frame::ipv6(ALLOWED6), |packet, _| packet.extension(60, 0))
        .frame()
        .bytes();
    let other = Frame::ethernet(0x1234, &[0; 40]).bytes();
    let plain = Frame::ipv4(ALLOWED4).frame().bytes();
    let default = Policy::default();
    let [drop, pass] = [Verdict::Drop, |_| PASS_ALLOWED];
    for (policy, wanted) in [
        (
            default,
            [
                pass(Drop::Fragment),
                pass(Drop::Fragment),
                drop(Drop::OtherEthernet),
            ],
        ),
        (
            Policy {
                drop_fragments: true,
                ..default
            },
            [
                drop(Drop::Fragment),
                pass(Drop::Fragment),
                drop(Drop::OtherEthernet),
            ],
        ),
        (
            Policy {
                drop_long_extension_chains: true,
                ..default
            },
            [
                pass(Drop::Fragment),
                drop(Drop::LongExtensionChain),
                drop(Drop::OtherEthernet),
            ],
        ),
        (
            Policy {
                pass_other_ethernet: true,
                ..default
            },
            [
                pass(Drop::Fragment),
                pass(Drop::Fragment),
                Verdict::Pass(Pass::OtherEthernet),
            ],
        ),
    ] {
        let rules = Example {
            policy,
            ..Example::default()
        };
        let verdicts =
            [&fragment, &chain, &other].map(|frame| decide(frame.as_slice(), &rules).verdict);
        assert_eq!(verdicts, wanted, "{policy:?}");
        assert_eq!(decide(plain.as_slice(), &rules).verdict, PASS_ALLOWED);
    }
}

#[test]
fn deep_tags_and_unknown_headers_have_a_policy_each() {
    let tagged = |count: usize| {
        (0..count)
            .fold(Frame::ipv4(ALLOWED4).frame(), |frame, _| {
                frame.tagged(0x8100)
            })
            .bytes()
    };
    let unknown = |next: u8| Frame::ipv6(ALLOWED6).next(next).frame().bytes();
    let judge = Example {
        policy: Policy {
            judge_deep_tags: true,
            drop_unknown_extension_headers: true,
            ..Policy::default()
        },
        ..Example::default()
    };
    for (count, by_default, judged) in [
        (2, PASS_ALLOWED, PASS_ALLOWED),
        (3, Verdict::Drop(Drop::TooManyTags), PASS_ALLOWED),
        (5, Verdict::Drop(Drop::TooManyTags), PASS_ALLOWED),
        (
            6,
            Verdict::Drop(Drop::TooManyTags),
            Verdict::Drop(Drop::TooManyTags),
        ),
    ] {
        let frame = tagged(count);
        assert_eq!(verdict(&frame), by_default, "{count}");
        assert_eq!(decide(frame.as_slice(), &judge).verdict, judged, "{count}");
    }
    for (next, judged) in [
        (147, PASS_ALLOWED),
        (148, Verdict::Drop(Drop::UnknownExtensionHeader)),
        (253, Verdict::Drop(Drop::UnknownExtensionHeader)),
    ] {
        let frame = unknown(next);
        assert_eq!(verdict(&frame), PASS_ALLOWED, "{next}");
        assert_eq!(decide(frame.as_slice(), &judge).verdict, judged, "{next}");
    }
}
