//! Frames from members of a list, from their neighbours and from nobody; whole, odd and broken ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::lists::address_near;
use crate::{
    frames::{Body, Extension, Fragment, Frame, ICMPV6, SHORTEST, TCP, UDP, V4, V6, transport},
    oracle::Rule,
};

/// The bytes of a frame, at least as many as the kernel takes.
pub fn frame(random: &mut Rng, rules: &[Rule]) -> Vec<u8> {
    let source = match random.choice(rules) {
        Some(rule) if random.u8(..16) != 0 => address_near(random, rule.prefix),
        _ if random.bool() => Ipv4Addr::from(random.u32(..)).into(),
        _ => Ipv6Addr::from(random.u128(..)).into(),
    };
    let mut frame = Frame::new(body(random, source));
    if random.u8(..8) == 0 {
        frame.destination = [0x01, 0x80, 0xc2, 0, 0, random.u8(..) & 0x1f];
    }
    if random.u8(..4) == 0 {
        frame.tags = (0..random.usize(1..=6))
            .map(|_| if random.bool() { 0x8100 } else { 0x88a8 })
            .collect();
    }
    let mut bytes = frame.bytes();
    if random.u8(..10) == 0 {
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.u8(..);
            }
        }
    }
    if random.u8(..10) == 0 {
        bytes.truncate(random.usize(SHORTEST..=bytes.len()));
    }
    bytes
}

fn body(random: &mut Rng, source: IpAddr) -> Body {
    if random.u8(..16) == 0 {
        return other(random);
    }
    match source {
        IpAddr::V4(source) => match random.u8(..8) {
            0 => Body::V6(v6(random, source.to_ipv6_mapped())),
            1 => {
                // RFC 6052's prefix, or its neighbour.
                let block = if random.u8(..4) == 0 { 0xff9c } else { 0xff9b };
                let [high, low] = [source.to_bits() >> 16, source.to_bits() & 0xffff]
                    .map(|half| u16::try_from(half).unwrap_or_default());
                let source = Ipv6Addr::new(0x64, block, 0, 0, 0, 0, high, low);
                Body::V6(v6(random, source))
            }
            _ => Body::V4(v4(random, source)),
        },
        IpAddr::V6(source) => Body::V6(v6(random, source)),
    }
}

fn other(random: &mut Rng) -> Body {
    let ethertype = match random.u8(..6) {
        0 => 0x0806,
        1 => 0x88cc,
        2 => 0x8809,
        3 => random.u16(..=1501),
        4 => 0x9100,
        _ => random.u16(..),
    };
    Body::Other {
        ethertype,
        bytes: payload(random),
    }
}

fn v4(random: &mut Rng, source: Ipv4Addr) -> V4 {
    let is_plain = random.u8(..4) != 0;
    V4 {
        source,
        option_words: if is_plain { 0 } else { random.u8(..=10) },
        fragment: if is_plain {
            Fragment::Whole
        } else {
            fragment(random)
        },
        protocol: protocol(random),
        payload: payload(random),
    }
}

fn v6(random: &mut Rng, source: Ipv6Addr) -> V6 {
    let extensions = match random.u8(..16) {
        0..10 => 0,
        10..13 => 1,
        13 | 14 => random.usize(2..8),
        _ => random.usize(8..12),
    };
    let protocol = protocol(random);
    let mut payload = payload(random);
    if protocol == ICMPV6
        && let Some(kind) = payload.first_mut()
    {
        *kind = random.u8(131..140);
    }
    V6 {
        source,
        hop_limit: if random.bool() { 255 } else { random.u8(..) },
        extensions: (0..extensions).map(|_| extension(random)).collect(),
        protocol,
        payload,
    }
}

fn extension(random: &mut Rng) -> Extension {
    match random.u8(..8) {
        0 => Extension::Authentication {
            words: random.u8(..8),
        },
        1 => Extension::Fragment(fragment(random)),
        number => Extension::Common {
            number: Extension::COMMON
                .get(usize::from(number) % Extension::COMMON.len())
                .copied()
                .unwrap_or_default(),
            units: random.u8(..3),
        },
    }
}

fn fragment(random: &mut Rng) -> Fragment {
    random.choice(Fragment::ALL).unwrap_or(Fragment::Whole)
}

fn protocol(random: &mut Rng) -> u8 {
    match random.u8(..16) {
        0..6 => TCP,
        6..10 => UDP,
        10 => 132,
        11 => 1,
        12 | 13 => ICMPV6,
        14 => 47,
        _ => random.u8(..),
    }
}

/// A transport header to a port that scopes are near to, now and then cut.
fn payload(random: &mut Rng) -> Vec<u8> {
    let port = match random.u8(..8) {
        0 => random.u16(..),
        1 => random.u16(..6),
        2 => u16::MAX - random.u16(..6),
        _ => random.u16(18..36),
    };
    let mut bytes = transport(port);
    if random.u8(..16) == 0 {
        bytes.truncate(random.usize(..bytes.len()));
    }
    bytes
}
