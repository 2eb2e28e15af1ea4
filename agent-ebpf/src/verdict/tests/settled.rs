//! The short way through plain packets says what the long way says.

use std::vec::Vec;

use proptest::prelude::*;

use super::{ALLOWED4, ALLOWED6, Frame, mapped};
use crate::{
    class::Class,
    layout::Conditions,
    limit::Excess,
    packet::{Bytes, Headers, Kind, Source, parse, plain},
    verdict::{Policy, Rules, Verdict, decide, settled},
};

/// Every source has this class; what the conditions leave out does not happen.
struct Uniform {
    class: Class,
    conditions: Conditions,
}

impl Rules for Uniform {
    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn class_of(&self, _source: Source) -> Class {
        self.class
    }

    fn permits(&self, _scope: u32, _protocol: u8, _port: Option<u16>) -> bool {
        true
    }

    fn is_reply<B: Bytes + ?Sized>(&self, _packet: &B, _headers: &Headers) -> bool {
        self.conditions.has_any(Conditions::REPLIES)
    }

    fn limits(&self) -> bool {
        self.conditions.has_any(Conditions::LIMITS)
    }

    fn excess(&self, _source: Source, _is_connection_attempt: bool) -> Option<Excess> {
        Some(Excess::Packets)
    }
}

#[test]
fn a_class_settles_only_what_is_so_whatever_else_holds() {
    let frame = Frame::ipv4(ALLOWED4).frame().bytes();
    let mut unsettled = Vec::new();
    for class in (0..=Class::FIRST_SCOPED.0).map(Class) {
        for conditions in (0..16).map(Conditions) {
            match settled(class, conditions) {
                Some(verdict) => {
                    let rules = Uniform { class, conditions };
                    assert_eq!(decide(frame.as_slice(), &rules).verdict, verdict);
                    let is_monitored = conditions.has_any(Conditions::MONITORING);
                    assert!(!is_monitored || matches!(verdict, Verdict::Pass(_)));
                }
                None => unsettled.push((class, conditions)),
            }
        }
    }
    for (class, unsettling) in [
        (Class::NOT_LISTED, Conditions::MONITORING),
        (Class::NOT_LISTED, Conditions::REPLIES),
        (Class::ALLOWED, Conditions::LIMITS),
        (Class::BANNED, Conditions::MONITORING),
        (Class::DENIED, Conditions::MONITORING),
        (Class::FIRST_SCOPED, Conditions::NONE),
    ] {
        assert!(
            unsettled.contains(&(class, unsettling)),
            "{class:?} {unsettling:?}"
        );
    }
    assert!(unsettled.iter().all(|(class, conditions)| {
        *class == Class::FIRST_SCOPED || *conditions != Conditions::NONE
    }));
}

#[test]
fn plain_packets_are_taken_for_plain_and_their_nearest_neighbours_are_not() {
    let frame = Frame::ipv4(ALLOWED4);
    let is_plain4 = |frame: Frame| plain::ipv4(frame.bytes().as_slice()).is_some();
    assert!(is_plain4(frame.frame()));
    assert!(
        is_plain4(frame.clone().fragment(0x4000).frame()),
        "don't fragment"
    );
    assert!(is_plain4(frame.clone().protocol(1).frame()));
    for (what, frame) in [
        ("tagged", frame.frame().tagged(0x8100)),
        ("options", frame.clone().options(1).frame()),
        ("first fragment", frame.clone().fragment(0x2000).frame()),
        ("later fragment", frame.clone().fragment(1).frame()),
        ("later fragment", frame.clone().fragment(0x0100).frame()),
        ("IPv6", Frame::ipv6(ALLOWED6).frame()),
    ] {
        assert!(!is_plain4(frame), "{what}");
    }

    let frame = Frame::ipv6(ALLOWED6);
    let is_plain6 = |frame: Frame| plain::ipv6(frame.bytes().as_slice()).is_some();
    assert!(is_plain6(frame.frame()));
    for (what, frame) in [
        ("tagged", frame.frame().tagged(0x8100)),
        ("extension", frame.clone().extension(60, 0).frame()),
        ("fragment", frame.clone().fragment(1).frame()),
        ("ICMPv6", frame.clone().icmp(135).frame()),
        ("unknown next header", frame.clone().next(253).frame()),
        ("IPv4-mapped", Frame::ipv6(mapped(ALLOWED4)).frame()),
        ("IPv4", Frame::ipv4(ALLOWED4).frame()),
    ] {
        assert!(!is_plain6(frame), "{what}");
    }
}

fn agree(bytes: &[u8]) {
    let source = plain::ipv4(bytes)
        .map(Source::V4)
        .or_else(|| plain::ipv6(bytes).map(|[high, low]| Source::V6(high, low)));
    if let Some(source) = source {
        let headers = parse(bytes).unwrap();
        assert_eq!(headers.kind, Kind::Ip(source));
        assert_eq!(plain::headers(bytes, source), Some(headers));
    }
}

#[test]
fn a_packet_cut_at_any_byte_is_plain_only_where_it_can_be_parsed() {
    for frame in [Frame::ipv4(ALLOWED4).frame(), Frame::ipv6(ALLOWED6).frame()] {
        let bytes = frame.bytes();
        for end in 0..=bytes.len() {
            agree(&bytes[..end]);
        }
    }
}

proptest! {
    #[test]
    fn what_is_plain_is_parsed_to_the_same_source(
        source in any::<[u8; 16]>(), at in 12_usize..24, byte in any::<u8>(), is_v6 in any::<bool>(),
    ) {
        let [a, b, c, d, ..] = source;
        let frame = if is_v6 { Frame::ipv6(source).frame() } else { Frame::ipv4([a, b, c, d]).frame() };
        let mut bytes = frame.bytes();
        agree(&bytes);
        bytes[at] = byte;
        agree(&bytes);
    }
}
