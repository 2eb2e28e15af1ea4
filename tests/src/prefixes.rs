//! Lists as large networks have them, for measuring. The same number gives the same list.

use std::{
    collections::HashSet,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};

/// Seed of both lists.
const SEED: u64 = 0x0050_6f72_7463_756c;
/// Prefixes below one /32 of an IPv6 list.
const BELOW_ALLOCATION: usize = 33;
const MOST_ALLOCATIONS: usize = 30_000;
/// First 16 bits of the /12s from which registries allocate.
const REGISTRIES: [u32; 5] = [0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00];

/// So many IPv4 prefixes, sorted, each once: half are addresses, in runs of 1 to 8 in one /24, 15 % are /25 to /31, 25 % /24, 10 % /16 to
/// /23, over all unicast space.
pub fn v4(count: usize) -> Vec<Ipv4Net> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut list = List::new(count);
    while !list.is_full() {
        let length = match random.u32(0..100) {
            0..50 => 32,
            50..65 => random.u8(25..=31),
            65..90 => 24,
            _ => random.u8(16..=23),
        };
        let address = random.u32(1 << 24..224 << 24);
        if length == 32 {
            // A run has 4.5 addresses on average.
            if random.u32(0..9) < 2 {
                for _ in 0..random.u32(1..=8) {
                    let host = address & !0xff | u32::from(random.u8(..));
                    list.add(Ipv4Net::new_assert(Ipv4Addr::from_bits(host), 32));
                }
            }
        } else {
            list.add(Ipv4Net::new_assert(Ipv4Addr::from_bits(address), length).trunc());
        }
    }
    list.sorted()
}

/// So many IPv6 prefixes, sorted, each once: 30 % are addresses, 25 % /64, 25 % /48, 10 % /56, 8 % /33 to /47, the rest /36 to /127, below one
/// /32 for 33 of them, but no more than 30,000.
pub fn v6(count: usize) -> Vec<Ipv6Net> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let allocations: Vec<u128> = (0..(count / BELOW_ALLOCATION).clamp(1, MOST_ALLOCATIONS))
        .map(|_| {
            let registry = random.choice(REGISTRIES).unwrap_or(0x2001);
            u128::from(registry << 16 | random.u32(0..1 << 20)) << 96
        })
        .collect();
    let mut list = List::new(count);
    while !list.is_full() {
        let length = match random.u32(0..100) {
            0..30 => 128,
            30..55 => 64,
            55..80 => 48,
            80..90 => 56,
            90..98 => random.u8(33..=47),
            _ => random.u8(36..=127),
        };
        let Some(allocation) = random.choice(&allocations) else {
            break;
        };
        let address = allocation | random.u128(..) >> 32;
        list.add(Ipv6Net::new_assert(Ipv6Addr::from_bits(address), length).trunc());
    }
    list.sorted()
}

/// A list that takes no prefix twice.
struct List<N> {
    count: usize,
    seen: HashSet<N>,
}

impl<N: Copy + Eq + Hash + Ord> List<N> {
    fn new(count: usize) -> Self {
        Self {
            count,
            seen: HashSet::with_capacity(count),
        }
    }

    fn is_full(&self) -> bool {
        self.seen.len() == self.count
    }

    fn add(&mut self, prefix: N) {
        if !self.is_full() {
            self.seen.insert(prefix);
        }
    }

    fn sorted(self) -> Vec<N> {
        let mut list: Vec<N> = self.seen.into_iter().collect();
        list.sort_unstable();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(lengths: impl Iterator<Item = u8>, of: std::ops::RangeInclusive<u8>) -> usize {
        lengths.filter(|length| of.contains(length)).count() / 100
    }

    #[test]
    fn a_list_has_the_count_and_the_mix_that_are_promised() {
        let v4 = v4(10_000);
        assert_eq!(v4.len(), 10_000);
        let lengths = || v4.iter().map(Ipv4Net::prefix_len);
        for (of, percent) in [(32..=32, 50), (25..=31, 15), (24..=24, 25), (16..=23, 10)] {
            let share = share(lengths(), of.clone());
            assert!(share.abs_diff(percent) <= 2, "{share} % of {of:?}");
        }
        let v6 = v6(10_000);
        assert_eq!(v6.len(), 10_000);
        let lengths = || v6.iter().map(Ipv6Net::prefix_len);
        for (of, percent) in [(128..=128, 30), (64..=64, 25), (48..=48, 25), (33..=47, 8)] {
            let share = share(lengths(), of.clone());
            assert!(share.abs_diff(percent) <= 2, "{share} % of {of:?}");
        }
    }

    #[test]
    fn the_same_list_comes_twice() {
        assert_eq!(v4(1_000), v4(1_000));
        assert_eq!(v6(1_000), v6(1_000));
    }
}
