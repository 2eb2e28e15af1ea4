//! When a source has failed often enough to be banned on the wire.
//!
//! Pure: counts failures for each source within a sliding window and says when to ask for a ban.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Sources remembered at once. An attacker needs a whole TCP and SSH handshake for each, so 16,384 (some 2 MiB) is ample;
/// beyond it the source that has been quiet for longest is forgotten.
const SOURCES_MAX: usize = 16_384;

/// The failures of one source that lead to a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleConfig {
    /// So many failures ...
    pub failures: u32,
    /// ... within this time ...
    pub window: Duration,
    /// ... cut the source off for so long.
    pub lifetime: Duration,
}

/// What to ask the agent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRequest {
    /// An IPv4 address, or an IPv6 /64: whoever has one address of it has all.
    pub source: IpNet,
    pub lifetime: Duration,
    /// For the record and the operator.
    pub reason: String,
}

/// Recent failures by source.
#[derive(Debug)]
pub struct Throttle {
    config: ThrottleConfig,
    failures: HashMap<IpNet, VecDeque<Instant>>,
}

impl Throttle {
    pub fn new(config: ThrottleConfig) -> Self {
        Self {
            config,
            failures: HashMap::new(),
        }
    }

    /// Counts a failure. The one that fills the measure asks for a ban, and the count begins anew.
    pub fn failure(&mut self, source: IpAddr, now: Instant) -> Option<BanRequest> {
        let source = network(source);
        self.make_room_for(source, now);
        let window = self.config.window;
        let recent = self.failures.entry(source).or_default();
        recent.retain(|&at| now.saturating_duration_since(at) < window);
        recent.push_back(now);
        if recent.len() < self.config.failures.max(1) as usize {
            return None;
        }
        self.failures.remove(&source);
        Some(BanRequest {
            source,
            lifetime: self.config.lifetime,
            reason: format!(
                "{} failed authentications within {} s",
                self.config.failures,
                window.as_secs()
            ),
        })
    }

    /// A login forgives what the source did before.
    pub fn success(&mut self, source: IpAddr) {
        self.failures.remove(&network(source));
    }

    fn make_room_for(&mut self, source: IpNet, now: Instant) {
        if self.failures.len() < SOURCES_MAX || self.failures.contains_key(&source) {
            return;
        }
        let window = self.config.window;
        self.failures.retain(|_, recent| {
            recent
                .back()
                .is_some_and(|&at| now.saturating_duration_since(at) < window)
        });
        if self.failures.len() >= SOURCES_MAX {
            let quietest = self
                .failures
                .iter()
                .min_by_key(|(_, recent)| recent.back().copied())
                .map(|(source, _)| *source);
            if let Some(quietest) = quietest {
                self.failures.remove(&quietest);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64.
pub(super) fn network(source: IpAddr) -> IpNet {
    match source.to_canonical() {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::from(address)),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            let prefix = Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
            IpNet::V6(Ipv6Net::new_assert(prefix, 64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ThrottleConfig = ThrottleConfig {
        failures: 3,
        window: Duration::from_secs(60),
        lifetime: Duration::from_secs(900),
    };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_failure_of_the_measure_asks_for_a_ban_and_the_one_before_does_not() {
        let (mut throttle, now) = (Throttle::new(CONFIG), Instant::now());
        let source = address("192.0.2.7");
        assert_eq!(throttle.failure(source, now), None);
        assert_eq!(throttle.failure(source, now), None);
        let ban = throttle.failure(source, now).unwrap();
        assert_eq!(ban.source, "192.0.2.7/32".parse::<IpNet>().unwrap());
        assert_eq!(ban.lifetime, CONFIG.lifetime);
        assert_eq!(throttle.failure(source, now), None, "the count begins anew");
    }

    #[test]
    fn failures_within_the_window_count_and_older_ones_do_not() {
        let (mut throttle, start) = (Throttle::new(CONFIG), Instant::now());
        let source = address("192.0.2.7");
        throttle.failure(source, start);
        throttle.failure(source, start + Duration::from_secs(30));
        let at_the_edge = start + CONFIG.window;
        assert_eq!(throttle.failure(source, at_the_edge), None);
        let inside = start + Duration::from_secs(89);
        assert!(throttle.failure(source, inside).is_some());
    }

    #[test]
    fn other_sources_do_not_count_but_neighbours_in_one_ipv6_64_and_mapped_ipv4_do() {
        let (mut throttle, now) = (Throttle::new(CONFIG), Instant::now());
        throttle.failure(address("192.0.2.7"), now);
        throttle.failure(address("192.0.2.8"), now);
        assert_eq!(throttle.failure(address("192.0.2.9"), now), None);
        assert_eq!(throttle.failure(address("::ffff:192.0.2.7"), now), None);
        assert!(throttle.failure(address("192.0.2.7"), now).is_some());

        throttle.failure(address("2001:db8::1"), now);
        throttle.failure(address("2001:db8:0:1::1"), now);
        assert_eq!(throttle.failure(address("2001:db8::2"), now), None);
        let ban = throttle.failure(address("2001:db8::3"), now).unwrap();
        assert_eq!(ban.source, "2001:db8::/64".parse::<IpNet>().unwrap());
    }

    #[test]
    fn a_login_forgives_earlier_failures_of_its_source_only() {
        let (mut throttle, now) = (Throttle::new(CONFIG), Instant::now());
        let (alice, mallory) = (address("192.0.2.7"), address("192.0.2.66"));
        for _ in 0..2 {
            throttle.failure(alice, now);
            throttle.failure(mallory, now);
        }
        throttle.success(alice);
        assert_eq!(throttle.failure(alice, now), None);
        assert!(throttle.failure(mallory, now).is_some());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quietest_source_first() {
        let config = ThrottleConfig {
            failures: 2,
            ..CONFIG
        };
        let (mut throttle, start) = (Throttle::new(config), Instant::now());
        let source = |n: u32| IpAddr::from((0x0A00_0000 + n).to_be_bytes());
        for n in 0..SOURCES_MAX as u32 {
            let now = start + Duration::from_micros(u64::from(n));
            assert_eq!(throttle.failure(source(n), now), None);
        }
        let now = start + Duration::from_secs(1);
        throttle.failure(address("192.0.2.7"), now);
        assert_eq!(throttle.failures.len(), SOURCES_MAX);
        assert_eq!(throttle.failure(source(0), now), None, "forgotten");
        assert!(throttle.failure(source(9), now).is_some(), "remembered");
    }
}
