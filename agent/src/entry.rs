//! One entry of a list: a prefix, what becomes of it, and what a person wants to know about it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    prefix,
    rule::{Action, Rule, Scope},
};

/// Characters of an owner, a ticket or a comment.
pub const MAX_TEXT: usize = 200;

/// One entry of a list. Within a list there is one for each [`Entry::rule`]; the last written counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub prefix: IpNet,
    /// Takes the prefix out of wider entries that allow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny: bool,
    /// What its sources may use; all if absent. A denied entry has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// From then on it counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<DateTime<Utc>>,
}

/// Why an entry can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    #[error("{prefix} has bits set behind its length; did you mean {corrected}?")]
    HostBits { prefix: IpNet, corrected: IpNet },
    #[error(
        "{prefix} is denied, so it can't have a scope: allow what it may use, or deny all of it"
    )]
    ScopedDenial { prefix: IpNet },
    #[error(
        "the {field} of {prefix} is longer than {MAX_TEXT} characters or has control characters"
    )]
    Text { prefix: IpNet, field: &'static str },
}

/// Why a text is not an end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is neither a date such as 2026-12-31, a time such as 2026-12-31T18:00:00Z, nor a duration such as 12h or 90d"
)]
pub struct ExpiryError {
    text: String,
}

impl Entry {
    /// An entry that allows all of `prefix` for good.
    pub fn allow(prefix: IpNet) -> Self {
        Self {
            prefix,
            deny: false,
            scope: None,
            owner: None,
            ticket: None,
            comment: None,
            expires: None,
        }
    }

    /// The entry in the form that is kept: an IPv4-mapped prefix becomes the IPv4 prefix, and texts lose the blanks around
    /// them, empty ones altogether.
    ///
    /// # Errors
    /// If the prefix has host bits set, a denied prefix has a scope, or a text is too long or has control characters.
    pub fn check(self) -> Result<Self, EntryError> {
        let prefix = self.prefix;
        let corrected = prefix.trunc();
        if corrected != prefix {
            return Err(EntryError::HostBits { prefix, corrected });
        }
        let prefix = prefix::unmapped(prefix);
        if self.deny && self.scope.is_some() {
            return Err(EntryError::ScopedDenial { prefix });
        }
        let text = |field, text: Option<String>| match text {
            Some(text) if text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) => {
                Err(EntryError::Text { prefix, field })
            }
            Some(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            None => Ok(None),
        };
        Ok(Self {
            prefix,
            owner: text("owner", self.owner)?,
            ticket: text("ticket", self.ticket)?,
            comment: text("comment", self.comment)?,
            ..self
        })
    }

    /// The entry as the datapath takes it.
    pub fn rule(&self) -> Rule {
        let action = if self.deny {
            Action::Deny
        } else {
            Action::Allow(self.scope.clone().map(Arc::new))
        };
        Rule {
            prefix: self.prefix,
            action,
        }
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Reads an end: a date (the end of that day, UTC), a time of RFC 3339, or a duration from `now` on.
///
/// # Errors
/// If it is none of them.
pub fn parse_expiry(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, ExpiryError> {
    let date = || {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        let next = day.checked_add_days(Days::new(1))?;
        Some(next.and_time(NaiveTime::MIN).and_utc())
    };
    let time = || {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|time| time.to_utc())
    };
    let duration = || {
        let duration = prefix::parse_duration(text).ok()?;
        after(now, duration)
    };
    date()
        .or_else(time)
        .or_else(duration)
        .ok_or_else(|| ExpiryError {
            text: text.to_owned(),
        })
}

fn after(now: DateTime<Utc>, duration: Duration) -> Option<DateTime<Utc>> {
    now.checked_add_signed(chrono::TimeDelta::from_std(duration).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(prefix: &str) -> Entry {
        Entry::allow(prefix.parse().unwrap())
    }

    #[test]
    fn host_bits_are_refused_and_the_prefix_meant_is_named() {
        let error = entry("203.0.113.7/24").check().unwrap_err();
        assert!(
            error.to_string().contains("did you mean 203.0.113.0/24?"),
            "{error}"
        );
        assert!(entry("203.0.113.0/24").check().is_ok());
    }

    #[test]
    fn a_mapped_prefix_is_kept_as_ipv4() {
        assert_eq!(
            entry("::ffff:203.0.113.0/120").check(),
            Ok(entry("203.0.113.0/24"))
        );
    }

    #[test]
    fn a_denied_prefix_has_no_scope() {
        let scoped = Entry {
            scope: Some("tcp/22".parse().unwrap()),
            ..entry("203.0.113.0/24")
        };
        assert!(scoped.clone().check().is_ok());
        let denied = Entry {
            deny: true,
            ..scoped
        };
        assert!(matches!(
            denied.check(),
            Err(EntryError::ScopedDenial { .. })
        ));
    }

    #[test]
    fn the_longest_text_is_kept_and_one_character_more_is_refused() {
        let with = |text: &str| {
            Entry {
                owner: Some(text.to_owned()),
                ..entry("203.0.113.0/24")
            }
            .check()
        };
        let longest = "ü".repeat(MAX_TEXT);
        assert_eq!(with(&longest).unwrap().owner, Some(longest.clone()));
        for text in [format!("{longest}x"), "a\nb".to_owned()] {
            assert!(matches!(
                with(&text),
                Err(EntryError::Text { field: "owner", .. })
            ));
        }
        assert_eq!(with(" a ").unwrap().owner, Some("a".to_owned()));
        assert_eq!(with("  ").unwrap().owner, None);
    }

    #[test]
    fn the_same_prefix_with_another_scope_is_another_rule() {
        let plain = entry("203.0.113.0/24");
        let scoped = Entry {
            scope: Some("tcp/22".parse().unwrap()),
            ..plain.clone()
        };
        let owned = Entry {
            owner: Some("lab".to_owned()),
            ..plain.clone()
        };
        assert_ne!(plain.rule(), scoped.rule());
        assert_eq!(plain.rule(), owned.rule());
    }

    #[test]
    fn an_end_is_a_date_a_time_or_a_duration() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |text: &str| parse_expiry(text, now).map(|time| time.to_rfc3339());
        for (text, wanted) in [
            ("2027-12-31", "2028-01-01T00:00:00+00:00"),
            ("2027-12-31T18:00:00+02:00", "2027-12-31T16:00:00+00:00"),
            ("90s", "2027-01-15T08:01:30+00:00"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "2027-02-30",
            "tomorrow",
            "90",
            "2027-12-31 18:00",
            "99999999999999999d",
        ] {
            assert!(at(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_entry_ends_at_its_second_and_not_before() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ending = Entry {
            expires: Some(now),
            ..entry("203.0.113.0/24")
        };
        assert!(ending.is_expired(now));
        assert!(!ending.is_expired(now - Duration::from_secs(1)));
        assert!(!entry("203.0.113.0/24").is_expired(now));
    }

    #[test]
    fn what_is_absent_is_not_written() {
        let text = serde_json::to_string(&entry("203.0.113.0/24")).unwrap();
        assert_eq!(text, r#"{"prefix":"203.0.113.0/24"}"#);
        assert_eq!(
            serde_json::from_str::<Entry>(&text).unwrap(),
            entry("203.0.113.0/24")
        );
        assert!(
            serde_json::from_str::<Entry>(r#"{"prefix":"203.0.113.0/24","colour":"red"}"#).is_err()
        );
    }
}
