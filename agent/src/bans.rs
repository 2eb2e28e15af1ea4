//! Bans: who is cut off until when, and who may never be.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{prefix, state};

/// A source that is cut off for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    pub source: IpNet,
    pub expires: DateTime<Utc>,
    pub reason: String,
    /// Who asked for it.
    pub by: String,
}

/// How far a ban may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_lifetime: Duration,
    pub max_entries: usize,
    /// The shortest IPv4 prefix length that can be banned.
    pub widest_ipv4: u8,
    /// The shortest IPv6 prefix length that can be banned.
    pub widest_ipv6: u8,
    /// Bans within one IPv4 /24: one request after the other can't take a network down.
    pub max_in_ipv4_24: usize,
    /// Bans within one IPv6 /48.
    pub max_in_ipv6_48: usize,
    /// Sources that are not protected and yet never banned.
    pub never: Vec<IpNet>,
}

/// Characters of a reason that are kept.
pub const MAX_REASON: usize = 200;

/// Why a ban is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BanError {
    #[error("{asked} can't be banned: {protected} is protected")]
    Protected { asked: IpNet, protected: IpNet },
    #[error("{asked} can't be banned: {never} is never to be (bans.never)")]
    Never { asked: IpNet, never: IpNet },
    #[error(
        "there are {limit} bans in {network} already (bans.{setting}); an administrator may ban the network"
    )]
    Crowded {
        network: IpNet,
        limit: usize,
        setting: &'static str,
    },
    #[error(
        "a lifetime of {asked_seconds} s is over the ceiling of {ceiling_seconds} s (bans.max_lifetime)"
    )]
    LifetimeTooLong {
        asked_seconds: u64,
        ceiling_seconds: u64,
    },
    #[error("a lifetime must be at least one second")]
    NoLifetime,
    #[error(
        "{asked} is wider than /{widest}, the widest that may be banned (bans.widest_{family})"
    )]
    TooWide {
        asked: IpNet,
        widest: u8,
        family: &'static str,
    },
    #[error("there are {limit} bans already (bans.max_entries)")]
    TooMany { limit: usize },
    #[error("a reason has at most {MAX_REASON} characters and no control characters")]
    Reason,
}

/// The bans in force and the rules for new ones.
#[derive(Debug, Clone)]
pub struct BanBook {
    limits: Limits,
    protected: Vec<IpNet>,
    bans: BTreeMap<IpNet, Ban>,
}

impl BanBook {
    /// An empty book. Loopback is always protected, whatever `protected` says.
    pub fn new(limits: Limits, protected: &[IpNet]) -> Self {
        let mut book = Self {
            limits,
            protected: Vec::new(),
            bans: BTreeMap::new(),
        };
        book.protect(protected);
        book
    }

    /// Makes these the protected sources, with loopback. Bans of them stay, and do nothing while they are protected.
    pub fn protect(&mut self, protected: &[IpNet]) {
        self.protected = protected.to_vec();
        self.protected.extend(prefix::loopback());
    }

    /// Takes over bans made earlier. Gives those that are left out: they have expired, or may not be by the present settings.
    pub fn restore(&mut self, bans: impl IntoIterator<Item = Ban>, now: DateTime<Utc>) -> Vec<Ban> {
        let mut left_out = Vec::new();
        for ban in bans {
            if ban.expires > now && self.forbidding(&ban.source).is_ok() {
                self.bans.insert(ban.source, ban);
            } else {
                left_out.push(ban);
            }
        }
        left_out
    }

    /// What a new ban would be, if it may be made. A source that is banned for longer stays so.
    ///
    /// # Errors
    /// If the source is protected, or the ban goes beyond a limit.
    pub fn admit(
        &self,
        source: IpNet,
        lifetime: Duration,
        reason: &str,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Ban, BanError> {
        self.forbidding(&source)?;
        let (widest, family) = match source {
            IpNet::V4(_) => (self.limits.widest_ipv4, "ipv4"),
            IpNet::V6(_) => (self.limits.widest_ipv6, "ipv6"),
        };
        if source.prefix_len() < widest {
            return Err(BanError::TooWide {
                asked: source,
                widest,
                family,
            });
        }
        if lifetime.as_secs() == 0 {
            return Err(BanError::NoLifetime);
        }
        if lifetime > self.limits.max_lifetime {
            return Err(BanError::LifetimeTooLong {
                asked_seconds: lifetime.as_secs(),
                ceiling_seconds: self.limits.max_lifetime.as_secs(),
            });
        }
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(BanError::Reason);
        }
        let earlier = self.bans.get(&source);
        if earlier.is_none() && self.bans.len() >= self.limits.max_entries {
            return Err(BanError::TooMany {
                limit: self.limits.max_entries,
            });
        }
        if earlier.is_none() {
            self.check_crowd(source)?;
        }
        let expires = now + lifetime;
        Ok(Ban {
            source,
            expires: earlier.map_or(expires, |earlier| earlier.expires.max(expires)),
            reason: reason.to_owned(),
            by: by.to_owned(),
        })
    }

    /// Enters a ban that was admitted.
    pub fn insert(&mut self, ban: Ban) -> Option<Ban> {
        self.bans.insert(ban.source, ban)
    }

    /// Lifts the ban of exactly this source.
    pub fn remove(&mut self, source: &IpNet) -> Option<Ban> {
        self.bans.remove(source)
    }

    /// The ban of exactly this source.
    pub fn get(&self, source: &IpNet) -> Option<&Ban> {
        self.bans.get(source)
    }

    /// Bans whose time has come.
    pub fn expired(&self, now: DateTime<Utc>) -> Vec<Ban> {
        self.bans
            .values()
            .filter(|ban| ban.expires <= now)
            .cloned()
            .collect()
    }

    pub fn bans(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    pub fn len(&self) -> usize {
        self.bans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// Moves the ends of all bans by so many seconds: the wall clock was set, and the time that is left is to stay.
    pub fn shift(&mut self, seconds: i64) {
        state::shift(self.bans.values_mut(), seconds);
    }

    fn forbidding(&self, source: &IpNet) -> Result<(), BanError> {
        let overlapping = |nets: &[IpNet]| {
            nets.iter()
                .find(|net| prefix::overlap(net, source))
                .copied()
        };
        let asked = *source;
        if let Some(protected) = overlapping(&self.protected) {
            return Err(BanError::Protected { asked, protected });
        }
        match overlapping(&self.limits.never) {
            Some(never) => Err(BanError::Never { asked, never }),
            None => Ok(()),
        }
    }

    fn check_crowd(&self, source: IpNet) -> Result<(), BanError> {
        let (length, limit, setting) = match source {
            IpNet::V4(_) => (24, self.limits.max_in_ipv4_24, "max_in_ipv4_24"),
            IpNet::V6(_) => (48, self.limits.max_in_ipv6_48, "max_in_ipv6_48"),
        };
        let Some(network) = IpNet::new(source.addr(), length)
            .ok()
            .map(|net| net.trunc())
            .filter(|_| source.prefix_len() > length)
        else {
            return Ok(());
        };
        let count = self
            .bans
            .range(network..)
            .take_while(|(banned, _)| network.contains(*banned))
            .count();
        if count < limit {
            Ok(())
        } else {
            Err(BanError::Crowded {
                network,
                limit,
                setting,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_lifetime: Duration::from_secs(3_600),
        max_entries: 3,
        widest_ipv4: 24,
        widest_ipv6: 48,
        max_in_ipv4_24: 100,
        max_in_ipv6_48: 100,
        never: Vec::new(),
    };
    const MINUTE: Duration = Duration::from_secs(60);

    fn net(text: &str) -> IpNet {
        prefix::parse(text).unwrap()
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn book() -> BanBook {
        BanBook::new(LIMITS, &[net("192.0.2.10"), net("2001:db8:1::/48")])
    }

    fn ask(book: &BanBook, source: &str) -> Result<Ban, BanError> {
        book.admit(net(source), MINUTE, "test", "root", now())
    }

    #[test]
    fn protected_addresses_can_not_be_banned_and_their_neighbours_can() {
        let book = book();
        for protected in [
            "192.0.2.10",
            "192.0.2.0/24",
            "2001:db8:1::5",
            "2001:db8:1::/64",
            "127.0.0.1",
            "127.4.0.0/24",
            "::1",
        ] {
            assert!(
                matches!(ask(&book, protected), Err(BanError::Protected { .. })),
                "{protected}"
            );
        }
        for neighbour in [
            "192.0.2.11",
            "192.0.2.9",
            "2001:db8:2::/48",
            "128.0.0.1",
            "::2",
        ] {
            assert!(ask(&book, neighbour).is_ok(), "{neighbour}");
        }
    }

    #[test]
    fn the_widest_prefix_is_admitted_and_one_bit_wider_is_not() {
        let book = book();
        assert!(ask(&book, "198.51.100.0/24").is_ok());
        assert!(matches!(
            ask(&book, "198.51.100.0/23"),
            Err(BanError::TooWide { widest: 24, .. })
        ));
        assert!(ask(&book, "2001:db8:2::/48").is_ok());
        assert!(matches!(
            ask(&book, "2001:db8:2::/47"),
            Err(BanError::TooWide { widest: 48, .. })
        ));
    }

    #[test]
    fn the_longest_lifetime_is_admitted_and_a_second_more_is_not() {
        let book = book();
        let ask = |seconds| {
            book.admit(
                net("198.51.100.7"),
                Duration::from_secs(seconds),
                "",
                "root",
                now(),
            )
        };
        assert!(ask(3_600).is_ok());
        assert!(matches!(ask(3_601), Err(BanError::LifetimeTooLong { .. })));
        assert_eq!(ask(0), Err(BanError::NoLifetime));
    }

    #[test]
    fn a_shorter_ban_does_not_cut_a_longer_one_short() {
        let mut book = book();
        let long = book
            .admit(net("198.51.100.7"), MINUTE * 10, "long", "root", now())
            .unwrap();
        book.insert(long.clone());
        let short = book
            .admit(net("198.51.100.7"), MINUTE, "short", "root", now())
            .unwrap();
        assert_eq!(short.expires, long.expires);
    }

    #[test]
    fn a_full_book_refuses_a_new_source_and_not_a_known_one() {
        let mut book = book();
        for source in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
            let ban = ask(&book, source).unwrap();
            book.insert(ban);
        }
        assert_eq!(
            ask(&book, "198.51.100.4"),
            Err(BanError::TooMany { limit: 3 })
        );
        assert!(ask(&book, "198.51.100.3").is_ok());
    }

    #[test]
    fn what_is_never_to_be_banned_is_not_and_its_neighbour_is() {
        let limits = Limits {
            never: vec![net("198.51.100.8/29")],
            ..LIMITS
        };
        let book = BanBook::new(limits, &[]);
        for never in ["198.51.100.8", "198.51.100.15", "198.51.100.0/24"] {
            assert!(
                matches!(ask(&book, never), Err(BanError::Never { .. })),
                "{never}"
            );
        }
        for neighbour in ["198.51.100.7", "198.51.100.16"] {
            assert!(ask(&book, neighbour).is_ok(), "{neighbour}");
        }
    }

    #[test]
    fn so_many_bans_fit_into_a_network_and_one_more_does_not() {
        for (inside, beside, network) in [
            (
                ["198.51.100.0", "198.51.100.255", "198.51.100.128/25"],
                "198.51.101.0",
                "198.51.100.0/24",
            ),
            (
                ["2001:db8:2::", "2001:db8:2:ffff::1", "2001:db8:2:8000::/64"],
                "2001:db8:3::",
                "2001:db8:2::/48",
            ),
        ] {
            let limits = Limits {
                max_entries: 100,
                max_in_ipv4_24: 2,
                max_in_ipv6_48: 2,
                ..LIMITS
            };
            let mut book = BanBook::new(limits, &[]);
            let [first, second, third] = inside;
            for source in [first, second] {
                let ban = ask(&book, source).unwrap();
                book.insert(ban);
            }
            assert!(matches!(
                ask(&book, third),
                Err(BanError::Crowded { limit: 2, .. })
            ));
            assert!(ask(&book, first).is_ok(), "known already");
            assert!(ask(&book, beside).is_ok());
            assert!(ask(&book, network).is_ok(), "the whole network instead");
        }
    }

    #[test]
    fn the_time_that_is_left_stays_when_the_clock_is_set() {
        let mut book = book();
        let ban = ask(&book, "198.51.100.7").unwrap();
        book.insert(ban);
        for hours in [1, -2] {
            let before = book.bans().next().unwrap().expires;
            book.shift(hours * 3_600);
            let after = book.bans().next().unwrap().expires;
            assert_eq!(after - before, chrono::TimeDelta::hours(hours));
        }
    }

    #[test]
    fn a_ban_ends_at_its_second_and_not_before() {
        let mut book = book();
        let ban = ask(&book, "198.51.100.7").unwrap();
        book.insert(ban.clone());
        assert!(book.expired(now() + Duration::from_secs(59)).is_empty());
        assert_eq!(book.expired(now() + MINUTE), [ban]);
    }

    #[test]
    fn restored_bans_obey_the_present_settings() {
        let mut earlier = BanBook::new(LIMITS, &[]);
        for source in ["192.0.2.10", "198.51.100.7"] {
            let ban = ask(&earlier, source).unwrap();
            earlier.insert(ban);
        }
        let mut book = book();
        let left_out = book.restore(earlier.bans().cloned(), now());
        assert_eq!(left_out[0].source, net("192.0.2.10"));
        assert_eq!(
            book.bans().map(|ban| ban.source).collect::<Vec<_>>(),
            [net("198.51.100.7")]
        );
        let mut late = self::book();
        let left_out = late.restore(earlier.bans().cloned(), now() + MINUTE);
        assert!(late.is_empty());
        assert_eq!(left_out.len(), 2);
    }

    #[test]
    fn a_reason_is_short_and_printable() {
        let ask = |reason: &str| book().admit(net("198.51.100.7"), MINUTE, reason, "root", now());
        assert!(ask(&"x".repeat(MAX_REASON)).is_ok());
        assert_eq!(ask(&"x".repeat(MAX_REASON + 1)), Err(BanError::Reason));
        assert_eq!(ask("a\nb"), Err(BanError::Reason));
    }
}
