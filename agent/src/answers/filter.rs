//! Which drops a watcher wants to see. The daemon asks it, so that a busy host sends only what is wanted.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{names, reasons, report::DropReport};
use crate::prefix::{self, PrefixError};

/// The query of `GET /v1/events`, as it is written. What is absent is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// An address or a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Reasons by name, with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Only packets that monitor mode let pass, or only those that were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitored: Option<bool>,
    /// Each report also has the packet's first bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub head: bool,
}

/// What a watcher wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    source: Option<IpNet>,
    reasons: Vec<String>,
    port: Option<u16>,
    protocol: Option<u8>,
    interface: Option<String>,
    monitored: Option<bool>,
}

/// Why a query makes no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    #[error("source: {0}")]
    Source(#[from] PrefixError),
    #[error("reason: `{reason}` is none; expected {expected}")]
    Reason { reason: String, expected: String },
    #[error("protocol: {0}")]
    Protocol(String),
}

impl Filter {
    /// Reads a query.
    ///
    /// # Errors
    /// With what was expected, if a value is none.
    pub fn new(query: &EventQuery) -> Result<Self, FilterError> {
        let reasons: Vec<String> = query
            .reason
            .iter()
            .flat_map(|reasons| reasons.split(','))
            .map(|reason| reason.trim().to_owned())
            .collect();
        for reason in &reasons {
            if !reasons::drop_names().any(|name| name == reason) {
                return Err(FilterError::Reason {
                    reason: reason.clone(),
                    expected: reasons::drop_names().collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(Self {
            source: query.source.as_deref().map(prefix::parse).transpose()?,
            reasons,
            port: query.port,
            protocol: query
                .protocol
                .as_deref()
                .map(names::parse_protocol)
                .transpose()
                .map_err(FilterError::Protocol)?,
            interface: query.interface.clone(),
            monitored: query.monitored,
        })
    }

    /// Whether it is to be seen.
    pub fn admits(&self, report: &DropReport) -> bool {
        let has_source = |wanted: &IpNet| {
            report
                .source
                .is_some_and(|source| wanted.contains(&source.to_canonical()))
        };
        self.source.as_ref().is_none_or(has_source)
            && (self.reasons.is_empty()
                || self.reasons.iter().any(|reason| *reason == report.reason))
            && self
                .port
                .is_none_or(|wanted| report.destination_port == wanted)
            && self.protocol.is_none_or(|wanted| report.protocol == wanted)
            && self
                .interface
                .as_ref()
                .is_none_or(|wanted| report.interface == *wanted)
            && self
                .monitored
                .is_none_or(|wanted| report.monitored == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::testing::report;

    fn filter(query: EventQuery) -> Filter {
        Filter::new(&query).unwrap()
    }

    #[test]
    fn each_filter_lets_its_own_through_and_not_the_nearest_other() {
        let text = |text: &str| Some(text.to_owned());
        let of = |change: fn(&mut DropReport)| {
            let mut report = report("198.51.100.255");
            change(&mut report);
            report
        };
        let pairs: [(EventQuery, DropReport, DropReport); 7] = [
            (
                EventQuery {
                    source: text("198.51.100.0/24"),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.source = Some("198.51.101.0".parse().unwrap())),
            ),
            (
                EventQuery {
                    source: text("198.51.100.255"),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.source = None),
            ),
            (
                EventQuery {
                    reason: text("banned, not_listed"),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.reason = "short_ipv4".into()),
            ),
            (
                EventQuery {
                    port: Some(22),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.destination_port = 23),
            ),
            (
                EventQuery {
                    protocol: text("tcp"),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.protocol = 17),
            ),
            (
                EventQuery {
                    interface: text("gw0"),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.interface = "gw01".to_owned()),
            ),
            (
                EventQuery {
                    monitored: Some(false),
                    ..EventQuery::default()
                },
                of(|_| {}),
                of(|report| report.monitored = true),
            ),
        ];
        for (query, wanted, other) in pairs {
            let filter = filter(query.clone());
            assert!(filter.admits(&wanted), "{query:?}");
            assert!(!filter.admits(&other), "{query:?}");
            assert!(Filter::default().admits(&other), "{query:?}");
        }
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let filter = filter(EventQuery {
            port: Some(22),
            protocol: Some("udp".to_owned()),
            ..EventQuery::default()
        });
        assert!(!filter.admits(&report("198.51.100.7")), "the port alone");
    }

    #[test]
    fn a_value_that_is_none_is_refused_with_what_was_expected() {
        for (query, words) in [
            (
                EventQuery {
                    reason: Some("not_listed,nosuch".to_owned()),
                    ..EventQuery::default()
                },
                "`nosuch` is none; expected short_ethernet, ",
            ),
            (
                EventQuery {
                    source: Some("198.51.100.7/24".to_owned()),
                    ..EventQuery::default()
                },
                "did you mean 198.51.100.0/24?",
            ),
            (
                EventQuery {
                    protocol: Some("ssh".to_owned()),
                    ..EventQuery::default()
                },
                "`ssh` is not a protocol",
            ),
        ] {
            let error = Filter::new(&query).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
