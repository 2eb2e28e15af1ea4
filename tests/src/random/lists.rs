//! Lists whose prefixes lie close together: nested, adjacent, equal, of all lengths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    frames::{TCP, UDP},
    oracle::{Action, Rule, Span},
};

/// Ranges in all scopes of a list together, so that no sum of scopes has more than one scope may.
const RANGES: usize = 16;
/// Scopes of a list: their sums are fewer than there are classes.
const SCOPES: usize = 6;

/// A list of so many rules of both families.
pub fn list(random: &mut Rng, length: usize) -> Vec<Rule> {
    let scopes = scopes(random);
    let mut rules: Vec<Rule> = Vec::with_capacity(length);
    // One in twenty lists has prefixes that cover nearly everything.
    let shortest = if random.u8(..20) == 0 { 0 } else { 8 };
    let anchors: Vec<IpNet> = (0..random.usize(1..6))
        .map(|_| anywhere(random, shortest))
        .collect();
    while rules.len() < length {
        let near = match random.usize(..rules.len() + 3) {
            0..3 => random.choice(&anchors).copied(),
            known => rules.get(known - 3).map(|rule| rule.prefix),
        };
        let Some(near) = near else { continue };
        let prefix = match random.u8(..10) {
            0..5 => within(random, near),
            5 => around(random, near, shortest),
            6..8 => beside(random, near),
            8 => near,
            _ => anywhere(random, shortest),
        };
        rules.push(Rule {
            prefix,
            action: action(random, &scopes),
        });
    }
    rules
}

/// A rule to be added to a list: near those that are there, with one of their actions.
pub fn edit(random: &mut Rng, rules: &[Rule]) -> Option<Rule> {
    let near = random.choice(rules)?.prefix;
    let action = random.choice(rules)?.action.clone();
    let prefix = match random.u8(..4) {
        0 => beside(random, near),
        1 => near,
        2 => around(random, near, 8),
        _ => within(random, near),
    };
    Some(Rule { prefix, action })
}

fn action(random: &mut Rng, scopes: &[Vec<Span>]) -> Action {
    match random.u8(..20) {
        0 => Action::Protect,
        1..4 => Action::Ban,
        4..7 => Action::Deny,
        7..11 => Action::Allow(random.choice(scopes).cloned()),
        _ => Action::Allow(None),
    }
}

fn scopes(random: &mut Rng) -> Vec<Vec<Span>> {
    let mut left = RANGES;
    let mut scopes = Vec::new();
    for _ in 0..random.usize(1..=SCOPES) {
        let ranges = random.usize(1..4).min(left);
        left -= ranges;
        if ranges == 0 {
            break;
        }
        scopes.push((0..ranges).map(|_| span(random)).collect());
    }
    scopes
}

/// Ports close together, so that neighbours of a range are hit too.
fn span(random: &mut Rng) -> Span {
    let (protocol, has_ports) = *random
        .choice(&[
            (TCP, true),
            (UDP, true),
            (132, true),
            (1, false),
            (47, false),
            (58, false),
        ])
        .unwrap_or(&(TCP, true));
    let (first, last) = match random.u8(..8) {
        _ if !has_ports => (0, u16::MAX),
        0 => (0, u16::MAX),
        1 => (u16::MAX - random.u16(..4), u16::MAX),
        2 => (0, random.u16(..4)),
        _ => {
            let first = random.u16(20..30);
            (first, first + random.u16(..4))
        }
    };
    Span {
        protocol,
        first,
        last,
    }
}

/// A prefix of any length from `shortest` on.
fn anywhere(random: &mut Rng, shortest: u8) -> IpNet {
    if random.bool() {
        v4(random.u32(..), random.u8(shortest..=32))
    } else {
        // Mostly in 2000::/3, and now and then among the special ones.
        let address = match random.u8(..8) {
            0 => random.u128(..),
            _ => random.u128(..) >> 3 | 1 << 125,
        };
        v6(address, random.u8(shortest..=128))
    }
}

/// A prefix inside, of one of the lengths that people use or of any.
fn within(random: &mut Rng, prefix: IpNet) -> IpNet {
    let length = longer(random, prefix);
    match prefix {
        IpNet::V4(net) => {
            let host = random.u32(..) & u32::from(net.hostmask());
            v4(u32::from(net.network()) | host, length)
        }
        IpNet::V6(net) => {
            let host = random.u128(..) & u128::from(net.hostmask());
            v6(u128::from(net.network()) | host, length)
        }
    }
}

fn longer(random: &mut Rng, prefix: IpNet) -> u8 {
    let (from, to) = (prefix.prefix_len(), prefix.max_prefix_len());
    match random.u8(..4) {
        0 => to,
        1 => (from + 1).min(to),
        _ => random.u8(from..=to),
    }
}

/// A prefix that contains it.
fn around(random: &mut Rng, prefix: IpNet, shortest: u8) -> IpNet {
    let longest = prefix.prefix_len();
    let length = match random.u8(..3) {
        0 => longest.saturating_sub(1).max(shortest.min(longest)),
        _ => random.u8(shortest.min(longest)..=longest),
    };
    match prefix {
        IpNet::V4(net) => v4(net.network().into(), length),
        IpNet::V6(net) => v6(net.network().into(), length),
    }
}

/// The prefix before or behind, of the same length.
fn beside(random: &mut Rng, prefix: IpNet) -> IpNet {
    let is_before = random.bool();
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let address = if is_before {
                first.wrapping_sub(1)
            } else {
                last.wrapping_add(1)
            };
            v4(address, net.prefix_len())
        }
        IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            let address = if is_before {
                first.wrapping_sub(1)
            } else {
                last.wrapping_add(1)
            };
            v6(address, net.prefix_len())
        }
    }
}

fn v4(address: u32, length: u8) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::from(address), length.min(32))
        .trunc()
        .into()
}

/// Without the block of IPv4-mapped addresses: a source in it is its IPv4 address, so that a rule about it would have none.
fn v6(address: u128, length: u8) -> IpNet {
    let address = Ipv6Addr::from(address);
    let address = match address.to_ipv4_mapped() {
        Some(v4) => v4.to_ipv6_compatible(),
        None => address,
    };
    Ipv6Net::new_assert(address, length.min(128)).trunc().into()
}

/// An address of this prefix, or just beside it.
pub(super) fn address_near(random: &mut Rng, prefix: IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let address = match random.u8(..8) {
                0 => first,
                1 => last,
                2 => first.wrapping_sub(1),
                3 => last.wrapping_add(1),
                4 => first ^ 1 << random.u8(..32),
                _ => first | random.u32(..) & u32::from(net.hostmask()),
            };
            Ipv4Addr::from(address).into()
        }
        IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            let address = match random.u8(..8) {
                0 => first,
                1 => last,
                2 => first.wrapping_sub(1),
                3 => last.wrapping_add(1),
                4 => first ^ 1 << random.u8(..128),
                _ => first | random.u128(..) & u128::from(net.hostmask()),
            };
            Ipv6Addr::from(address).into()
        }
    }
}
