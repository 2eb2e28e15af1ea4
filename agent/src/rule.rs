//! Rules as the datapath takes them: a prefix, and what is to become of its packets.

use std::{fmt, str::FromStr, sync::Arc};

use agent_ebpf::scope::{RANGES, ScopeRange};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de};

/// One rule. Several may have the same prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub prefix: IpNet,
    pub action: Action,
}

/// What a rule makes of the sources in its prefix. `Protect` beats `Ban`, and `Ban` beats the others, however long the
/// prefixes are. Between `Allow` and `Deny` the longer prefix wins, and `Deny` when both are as long. A source may use what any of the
/// `Allow` rules permits that cover it and are more specific than the most specific `Deny` that does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    Protect,
    Ban,
    Deny,
    /// All protocols and ports, or only those of a scope.
    Allow(Option<Arc<Scope>>),
}

/// Protocols and destination ports: one or more ranges, in order, none of which touches another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    ranges: Vec<ScopeRange>,
}

/// Why a text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    #[error(
        "`{part}` is not a protocol with ports such as tcp/22, udp/5000-5010, icmp or protocol/47"
    )]
    Syntax { part: String },
    #[error("`{part}` begins after its end")]
    Backwards { part: String },
    #[error("{ranges} ranges in one scope, where {RANGES} are the most")]
    TooMany { ranges: usize },
}

/// Protocols by name, and whether they have ports.
pub(crate) const PROTOCOLS: [(&str, u8, bool); 9] = [
    ("tcp", 6, true),
    ("udp", 17, true),
    ("sctp", 132, true),
    ("icmp", 1, false),
    ("icmpv6", 58, false),
    ("gre", 47, false),
    ("esp", 50, false),
    ("ah", 51, false),
    ("igmp", 2, false),
];

impl Scope {
    /// A scope of these ranges; those that overlap or touch become one.
    ///
    /// # Errors
    /// If there is none, or there are more than [`RANGES`].
    pub fn new(ranges: impl IntoIterator<Item = ScopeRange>) -> Result<Self, ScopeError> {
        let merged = merge(ranges);
        if merged.is_empty() {
            return Err(ScopeError::Syntax {
                part: String::new(),
            });
        }
        if merged.len() > RANGES {
            return Err(ScopeError::TooMany {
                ranges: merged.len(),
            });
        }
        Ok(Self { ranges: merged })
    }

    /// Its ranges, in order.
    pub fn ranges(&self) -> &[ScopeRange] {
        &self.ranges
    }
}

/// These ranges in order; those that overlap or touch become one.
pub(crate) fn merge(ranges: impl IntoIterator<Item = ScopeRange>) -> Vec<ScopeRange> {
    let mut sorted: Vec<ScopeRange> = ranges.into_iter().collect();
    sorted.sort_unstable();
    let mut merged: Vec<ScopeRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last)
                if last.protocol == range.protocol
                    && u32::from(range.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(range.last);
            }
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let ranges: Vec<ScopeRange> = text
            .split(',')
            .map(|part| range(part.trim()))
            .collect::<Result<_, _>>()?;
        Self::new(ranges)
    }
}

fn range(part: &str) -> Result<ScopeRange, ScopeError> {
    let syntax = || ScopeError::Syntax {
        part: part.to_owned(),
    };
    let (name, rest) = match part.split_once('/') {
        Some((name, rest)) => (name, Some(rest)),
        None => (part, None),
    };
    if name == "protocol" {
        let number: u8 = rest.and_then(number).ok_or_else(syntax)?;
        return Ok(ScopeRange::protocol(number));
    }
    let (_, protocol, has_ports) = PROTOCOLS
        .into_iter()
        .find(|(known, _, _)| *known == name)
        .ok_or_else(syntax)?;
    let Some(ports) = rest else {
        return Ok(ScopeRange::protocol(protocol));
    };
    if !has_ports {
        return Err(syntax());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Some(first), Some(last)) = (number::<u16>(first), number::<u16>(last)) else {
        return Err(syntax());
    };
    if first > last {
        return Err(ScopeError::Backwards {
            part: part.to_owned(),
        });
    }
    Ok(ScopeRange::ports(protocol, first, last))
}

/// A number of digits only: `parse` alone takes a sign too.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let known = PROTOCOLS
                .iter()
                .find(|(_, protocol, _)| u16::from(*protocol) == range.protocol);
            match known {
                Some((name, _, _)) => f.write_str(name)?,
                None => write!(f, "protocol/{}", range.protocol)?,
            }
            match (range.first, range.last) {
                (0, u16::MAX) => {}
                (first, last) if first == last => write!(f, "/{first}")?,
                (first, last) => write!(f, "/{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_is_written_as_it_was_read() {
        for text in [
            "tcp/22",
            "tcp/22,udp/5000-5010",
            "tcp",
            "icmp,tcp/443",
            "protocol/89",
        ] {
            assert_eq!(scope(text).to_string(), text);
        }
        assert_eq!(scope("protocol/6").to_string(), "tcp");
        assert_eq!(scope("udp/53, tcp/22").to_string(), "tcp/22,udp/53");
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one_and_others_are_not() {
        assert_eq!(scope("tcp/22-30,tcp/25-40,tcp/41").to_string(), "tcp/22-41");
        assert_eq!(scope("tcp/22,tcp/24").to_string(), "tcp/22,tcp/24");
        assert_eq!(scope("tcp/65535,tcp/0").to_string(), "tcp/0,tcp/65535");
        assert_eq!(scope("tcp/22,tcp").to_string(), "tcp");
    }

    #[test]
    fn what_is_no_scope_is_refused_and_named() {
        for text in [
            "",
            "tcp/",
            "tcp/65536",
            "tcp/-1",
            "tcp/+1",
            "tcp/1-2-3",
            "icmp/8",
            "ssh",
            "protocol/256",
            "protocol",
            "tcp/22,",
        ] {
            assert!(
                matches!(text.parse::<Scope>(), Err(ScopeError::Syntax { .. })),
                "{text}"
            );
        }
        assert_eq!(
            "tcp/25-22".parse::<Scope>(),
            Err(ScopeError::Backwards {
                part: "tcp/25-22".to_owned()
            })
        );
    }

    #[test]
    fn so_many_ranges_fit_and_one_more_does_not() {
        let ports = |count: usize| {
            (0..count)
                .map(|index| format!("tcp/{}", index * 2))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(scope(&ports(RANGES)).ranges().len(), RANGES);
        assert_eq!(
            ports(RANGES + 1).parse::<Scope>(),
            Err(ScopeError::TooMany { ranges: RANGES + 1 })
        );
    }
}
