//! Bans: who is cut off until when, and who may never be.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::prefix;

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
}

/// Characters of a reason that are kept.
pub const MAX_REASON: usize = 200;

/// Why a ban is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BanError {
    #[error("{asked} can't be banned: {protected} is protected")]
    Protected { asked: IpNet, protected: IpNet },
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
        let mut protected = protected.to_vec();
        protected.extend(prefix::loopback());
        Self {
            limits,
            protected,
            bans: BTreeMap::new(),
        }
    }

    /// Takes over bans made earlier: what has expired or is protected by the present settings is left out.
    pub fn restore(&mut self, bans: impl IntoIterator<Item = Ban>, now: DateTime<Utc>) {
        for ban in bans {
            if ban.expires > now && self.protecting(&ban.source).is_none() {
                self.bans.insert(ban.source, ban);
            }
        }
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
        if let Some(protected) = self.protecting(&source) {
            return Err(BanError::Protected {
                asked: source,
                protected: *protected,
            });
        }
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
        let expires = now + lifetime;
        Ok(Ban {
            source,
            expires: earlier.map_or(expires, |earlier| earlier.expires.max(expires)),
            reason: reason.to_owned(),
            by: by.to_owned(),
        })
    }

    /// Enters a ban that was admitted.
    pub fn insert(&mut self, ban: Ban) {
        self.bans.insert(ban.source, ban);
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

    fn protecting(&self, source: &IpNet) -> Option<&IpNet> {
        self.protected
            .iter()
            .find(|protected| prefix::overlap(protected, source))
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
        book.restore(earlier.bans().cloned(), now());
        assert_eq!(
            book.bans().map(|ban| ban.source).collect::<Vec<_>>(),
            [net("198.51.100.7")]
        );
        let mut late = self::book();
        late.restore(earlier.bans().cloned(), now() + MINUTE);
        assert!(late.is_empty());
    }

    #[test]
    fn a_reason_is_short_and_printable() {
        let ask = |reason: &str| book().admit(net("198.51.100.7"), MINUTE, reason, "root", now());
        assert!(ask(&"x".repeat(MAX_REASON)).is_ok());
        assert_eq!(ask(&"x".repeat(MAX_REASON + 1)), Err(BanError::Reason));
        assert_eq!(ask("a\nb"), Err(BanError::Reason));
    }
}
