//! Source addresses: of entries, of nobody, and of nobody next to entries.

use ipnet::IpNet;

/// xorshift64*: the same addresses in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// Which packets a measurement sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hit,
    Miss,
    Near,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Near];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Near => "near",
        }
    }
}

/// The prefixes of one family, and who is in them. Addresses are numbers of 32 or 128 bits.
pub(crate) struct Members {
    bits: u32,
    prefixes: Vec<(u128, u32)>,
    /// Ends of what the prefixes cover, in order, without overlap.
    ranges: Vec<(u128, u128)>,
}

impl Members {
    pub(crate) fn new(prefixes: &[IpNet]) -> Self {
        let bits = match prefixes.first() {
            Some(IpNet::V6(_)) => 128,
            Some(IpNet::V4(_)) | None => 32,
        };
        let mut prefixes: Vec<(u128, u32)> = prefixes
            .iter()
            .map(|prefix| {
                let address = match prefix {
                    IpNet::V4(net) => u128::from(u32::from(net.network())),
                    IpNet::V6(net) => u128::from(net.network()),
                };
                (address, u32::from(prefix.prefix_len()))
            })
            .collect();
        prefixes.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        for (first, length) in &prefixes {
            let last = first | hosts(bits, *length);
            match ranges.last_mut() {
                Some((_, end)) if *first <= *end => *end = last.max(*end),
                Some(_) | None => ranges.push((*first, last)),
            }
        }
        Self {
            bits,
            prefixes,
            ranges,
        }
    }

    fn has(&self, address: u128) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= address);
        after
            .checked_sub(1)
            .and_then(|index| self.ranges.get(index))
            .is_some_and(|(_, last)| address <= *last)
    }

    /// One address; `None` when none of this kind is found, as when everything is listed.
    fn draw(&self, kind: Kind, random: &mut Random) -> Option<u128> {
        let member = |random: &mut Random, wider: u32| {
            let (address, length) = *self.prefixes.get(random.below(self.prefixes.len()))?;
            let length = length.min(wider);
            let hosts = hosts(self.bits, length);
            Some((address & !hosts) | (random.wide() & hosts))
        };
        match kind {
            Kind::Hit => member(random, self.bits),
            Kind::Miss => (0..1_000).find_map(|_| {
                let address = if self.bits == 32 {
                    // 1.0.0.0 to 223.255.255.255.
                    u128::from(0x0100_0000 + random.next() % (0xe000_0000 - 0x0100_0000))
                } else {
                    1 << 125 | random.wide() >> 3
                };
                (!self.has(address)).then_some(address)
            }),
            Kind::Near => (0..1_000).find_map(|_| {
                let address = member(random, if self.bits == 32 { 24 } else { 32 })?;
                (!self.has(address)).then_some(address)
            }),
        }
    }

    /// Addresses as they stand in a packet, in two words each (IPv4: the first half of the first).
    pub(crate) fn sources(&self, kind: Kind, count: usize, random: &mut Random) -> Vec<[u64; 2]> {
        (0..count)
            .map_while(|_| self.draw(kind, random))
            .map(|address| {
                if self.bits == 32 {
                    let address = u32::try_from(address).unwrap_or(0).to_be_bytes();
                    [u64::from(u32::from_ne_bytes(address)), 0]
                } else {
                    let [high, low] = [(address >> 64) as u64, address as u64];
                    [
                        u64::from_ne_bytes(high.to_be_bytes()),
                        u64::from_ne_bytes(low.to_be_bytes()),
                    ]
                }
            })
            .collect()
    }
}

fn hosts(bits: u32, length: u32) -> u128 {
    let free = bits - length.min(bits);
    if free >= 128 {
        u128::MAX
    } else {
        (1 << free) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn hits_are_members_and_misses_are_not() {
        for list in [
            nets(&["192.0.2.0/25", "192.0.2.64/26", "198.51.100.7/32"]),
            nets(&["2001:db8::/48", "2001:db8:1::7/128"]),
        ] {
            let members = Members::new(&list);
            let mut random = Random::new(1);
            for _ in 0..1_000 {
                assert!(members.has(members.draw(Kind::Hit, &mut random).unwrap()));
                for kind in [Kind::Miss, Kind::Near] {
                    assert!(!members.has(members.draw(kind, &mut random).unwrap()));
                }
            }
        }
    }

    #[test]
    fn nobody_is_near_when_all_are_listed() {
        let members = Members::new(&nets(&["0.0.0.0/0"]));
        assert_eq!(members.draw(Kind::Near, &mut Random::new(1)), None);
        assert!(
            members
                .sources(Kind::Miss, 9, &mut Random::new(1))
                .is_empty()
        );
    }
}
