//! Which records are asked for, with a test of a line's bytes that comes before it is read as JSON.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use memchr::memmem::Finder;
use portcullis_journal::{
    EventKind, Verdict,
    read::{Part, Record},
    record::HIDDEN,
};

use crate::{
    operations::{Deed, text},
    pattern::PathPattern,
    raw,
    time::as_recorded,
};

/// What is asked for. A field that is empty asks for nothing in particular.
#[derive(Debug, Clone, Default)]
pub struct Criteria {
    /// Who acted, or whose account was changed.
    pub user: Option<String>,
    pub path: Option<PathPattern>,
    /// Where it came from, or what was banned.
    pub source: Option<IpNet>,
    /// The beginning of a session's hexadecimal digits.
    pub session: Option<String>,
    /// Such as `open`; an outcome counts as its intent does.
    pub operations: Vec<String>,
    pub outcomes: Vec<String>,
    /// Such as `auth.step`, or `auth` for all that begin so.
    pub events: Vec<String>,
    pub since: Option<DateTime<Utc>>,
    /// Excluded.
    pub until: Option<DateTime<Utc>>,
}

/// Whether a record was met that may be about the path, and hides it.
#[derive(Debug, Clone)]
struct PassedOver {
    mark: Finder<'static>,
    is_met: Arc<AtomicBool>,
}

impl PassedOver {
    fn look(&self, line: &[u8]) {
        if !self.is_met.load(Ordering::Relaxed) && self.mark.find(line).is_some() {
            self.is_met.store(true, Ordering::Relaxed);
        }
    }
}

/// Criteria, ready to be asked of many records.
#[derive(Debug, Clone)]
pub struct Filter {
    user: Option<(String, Finder<'static>)>,
    path: Option<(PathPattern, Vec<Finder<'static>>)>,
    passed_over: PassedOver,
    source: Option<(IpNet, Option<Finder<'static>>)>,
    session: Option<(String, Finder<'static>)>,
    operations: Vec<(String, Finder<'static>)>,
    outcomes: Vec<String>,
    events: Vec<String>,
    since: Option<String>,
    until: Option<String>,
    encoded: Finder<'static>,
    ban: Finder<'static>,
}

impl From<Criteria> for Filter {
    fn from(criteria: Criteria) -> Self {
        let finder = |needle: Vec<u8>| Finder::new(&needle).into_owned();
        Self {
            user: criteria.user.map(|user| {
                let quoted = [b":\"", raw::escaped(&user).as_slice(), b"\""].concat();
                (user, finder(quoted))
            }),
            path: criteria.path.map(|path| {
                let needles = path.needles().into_iter().map(finder).collect();
                (path, needles)
            }),
            passed_over: PassedOver {
                mark: finder(format!("\"path\":\"{HIDDEN}").into_bytes()),
                is_met: Arc::default(),
            },
            source: criteria.source.map(|network| {
                let is_host = network.prefix_len() == network.max_prefix_len();
                let network = if is_host {
                    // As records write it.
                    IpNet::from(network.addr().to_canonical())
                } else {
                    network
                };
                let whole = format!("\"{}\"", network.addr());
                (network, is_host.then(|| finder(whole.into_bytes())))
            }),
            session: criteria.session.map(|digits| {
                let digits = digits.to_ascii_lowercase();
                let quoted = format!("\"session_id\":\"{digits}");
                (digits, finder(quoted.into_bytes()))
            }),
            operations: criteria
                .operations
                .into_iter()
                .map(|name| {
                    let quoted = format!("\"sftp_op\":\"{name}\"");
                    (name, finder(quoted.into_bytes()))
                })
                .collect(),
            outcomes: criteria.outcomes,
            events: criteria.events,
            since: criteria.since.map(as_recorded),
            until: criteria.until.map(as_recorded),
            encoded: Finder::new("\"b64:"),
            ban: Finder::new("ban.change"),
        }
    }
}

impl Filter {
    /// False only if no record with this line can match, by what itself says.
    pub fn may_match(&self, line: &[u8]) -> bool {
        self.may_match_time(line)
            && self.may_match_actor(line)
            && self.may_match_kind(line)
            && self.may_match_deed(line)
    }

    /// True if the record matches by what itself says.
    pub fn matches(&self, record: &Record) -> bool {
        self.matches_as(record, &Deed::of(record))
    }

    /// True if the record matches, being about `deed`.
    pub fn matches_as(&self, record: &Record, deed: &Deed) -> bool {
        self.matches_time(&record.time)
            && self.matches_kind(record)
            && self.matches_actor(record, deed)
            && self.matches_deed(deed)
    }

    /// Whether records were met that hide their paths, which was asked for without the key.
    pub fn has_passed_over_hidden(&self) -> bool {
        self.passed_over.is_met.load(Ordering::Relaxed)
    }

    /// The part of a log that need be read.
    pub fn part(&self) -> Part {
        Part {
            first: 0,
            since: self.since.clone(),
            until: self.until.clone(),
        }
    }

    /// True if a record may match by what another one says of its operation.
    pub(crate) fn asks_for_deeds(&self) -> bool {
        self.path.is_some() || !self.operations.is_empty()
    }

    /// True if handles have to be known by their paths: of operations that name none.
    pub(crate) fn asks_for_operations(&self) -> bool {
        !self.operations.is_empty()
    }

    pub(crate) fn may_match_actor(&self, line: &[u8]) -> bool {
        self.user
            .as_ref()
            .is_none_or(|(_, quoted)| quoted.find(line).is_some())
            && self
                .session
                .as_ref()
                .is_none_or(|(_, quoted)| quoted.find(line).is_some())
            && self.source.as_ref().is_none_or(|(_, whole)| {
                whole
                    .as_ref()
                    .is_none_or(|whole| whole.find(line).is_some() || self.ban.find(line).is_some())
            })
    }

    pub(crate) fn may_match_deed(&self, line: &[u8]) -> bool {
        self.path.as_ref().is_none_or(|(path, quoted)| {
            if path.is_blind() {
                self.passed_over.look(line);
            }
            quoted.iter().any(|quoted| quoted.find(line).is_some())
                || self.encoded.find(line).is_some()
        }) && (self.operations.is_empty()
            || self
                .operations
                .iter()
                .any(|(_, quoted)| quoted.find(line).is_some()))
    }

    pub(crate) fn may_match_time(&self, line: &[u8]) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        raw::TIME.of(line).is_none_or(|time| {
            self.since
                .as_ref()
                .is_none_or(|since| time >= since.as_bytes())
                && self
                    .until
                    .as_ref()
                    .is_none_or(|until| time < until.as_bytes())
        })
    }

    /// True if records of that kind may match.
    pub(crate) fn asks_for(&self, event: EventKind) -> bool {
        self.matches_event(event.name())
    }

    fn may_match_kind(&self, line: &[u8]) -> bool {
        let is = |found: Option<&[u8]>, wanted: &dyn Fn(&str) -> bool| {
            found
                .and_then(|found| std::str::from_utf8(found).ok())
                .is_some_and(wanted)
        };
        (self.events.is_empty() || is(raw::EVENT.of(line), &|event| self.matches_event(event)))
            && (self.outcomes.is_empty()
                || is(raw::OUTCOME.of(line), &|outcome| {
                    self.outcomes.iter().any(|wanted| wanted == outcome)
                }))
    }

    fn matches_time(&self, time: &str) -> bool {
        self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time < until)
    }

    fn matches_event(&self, event: &str) -> bool {
        self.events.is_empty()
            || self.events.iter().any(|wanted| {
                event
                    .strip_prefix(wanted.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }

    fn matches_kind(&self, record: &Record) -> bool {
        self.matches_event(&record.event)
            && (self.outcomes.is_empty()
                || record
                    .outcome
                    .as_ref()
                    .is_some_and(|outcome| self.outcomes.contains(outcome)))
    }

    fn matches_actor(&self, record: &Record, deed: &Deed) -> bool {
        let user = record.user.as_ref().or(deed.user.as_ref());
        let source = record.source.map(|source| source.ip).or(deed.source);
        self.user.as_ref().is_none_or(|(wanted, _)| {
            user.is_some_and(|user| user.name == *wanted)
                || text(&record.body, "account") == Some(wanted)
        }) && self.session.as_ref().is_none_or(|(wanted, _)| {
            record
                .session
                .as_ref()
                .is_some_and(|session| session.starts_with(wanted))
        }) && self.source.as_ref().is_none_or(|(network, _)| {
            source.is_some_and(|ip| network.contains(&ip.to_canonical()))
                || is_banned(record, network)
        })
    }

    pub(crate) fn matches_deed(&self, deed: &Deed) -> bool {
        self.path.as_ref().is_none_or(|(wanted, _)| {
            [&deed.path, &deed.path2]
                .into_iter()
                .flatten()
                .any(|path| wanted.is_match(path))
        }) && (self.operations.is_empty()
            || deed
                .operation
                .as_ref()
                .is_some_and(|name| self.operations.iter().any(|(wanted, _)| wanted == name)))
    }
}

/// True if the record is about a ban that concerns the network.
fn is_banned(record: &Record, network: &IpNet) -> bool {
    record.event == EventKind::BanChange.name()
        && ["source", "cidr"].into_iter().any(|field| {
            text(&record.body, field)
                .and_then(|banned| {
                    let host = || banned.parse::<IpAddr>().map(IpNet::from).ok();
                    banned.parse::<IpNet>().ok().or_else(host)
                })
                .is_some_and(|banned| banned.contains(network) || network.contains(&banned))
        })
}

/// The words for [`Criteria::outcomes`].
pub fn outcomes() -> [&'static str; 5] {
    [
        Verdict::Allow,
        Verdict::Deny,
        Verdict::Success,
        Verdict::Failure,
        Verdict::Unknown,
    ]
    .map(Verdict::name)
}

#[cfg(test)]
mod tests;
