//! Host names as entries: each is a list of the addresses that it has, asked anew when its records' time is over.

mod lookup;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::lookup::{Lookup, LookupError, Resolver};
use super::{Board, Sink, SourceState, SourceUpdate};
use crate::{entry::Entry, rule::Scope};

/// What begins the name of a list from a host name.
pub const PREFIX: &str = "name:";
/// Records are asked anew no sooner and no later, whatever their TTL says.
pub const MIN_TTL: Duration = Duration::from_secs(30);
pub const MAX_TTL: Duration = Duration::from_secs(3600);
/// Addresses of one name, unless set.
pub const DEFAULT_MAX_ADDRESSES: usize = 16;
/// Host names in one configuration.
pub const MAX_NAMES: usize = 256;
/// After a failure: at first and at most.
const FIRST_RETRY: Duration = MIN_TTL;
const LAST_RETRY: Duration = Duration::from_secs(600);

/// A host name, and what its addresses are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    /// Fully qualified, in lower case, without the final dot.
    pub host: String,
    pub scope: Option<Scope>,
    pub owner: Option<String>,
    pub ticket: Option<String>,
    /// The most addresses that count; the lowest ones do.
    pub max_addresses: usize,
    /// Whether addresses of private networks count (RFC 1918, RFC 6598, RFC 4193, link-local).
    pub allow_private: bool,
}

impl HostName {
    fn list(&self) -> String {
        format!("{PREFIX}{}", self.host)
    }

    fn entries(&self, addresses: &BTreeSet<IpAddr>) -> Vec<Entry> {
        addresses
            .iter()
            .map(|address| Entry {
                scope: self.scope.clone(),
                owner: self.owner.clone(),
                ticket: self.ticket.clone(),
                comment: Some(self.host.chars().take(crate::entry::MAX_TEXT).collect()),
                ..Entry::allow((*address).into())
            })
            .collect()
    }
}

/// One name between two questions.
struct Name {
    settings: HostName,
    /// The last good answer, by family.
    v4: BTreeSet<IpAddr>,
    v6: BTreeSet<IpAddr>,
    /// What is in force; `None` before anything of it is known here.
    applied: Option<BTreeSet<IpAddr>>,
    /// Whether addresses from before a restart are in force; half an answer does not replace them.
    has_old: bool,
    due: Instant,
    failures: u32,
}

/// What an answer makes of a name.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    addresses: BTreeSet<IpAddr>,
    /// What was left out of the answer, or why there is none.
    complaint: Option<String>,
    is_good: bool,
    next: Duration,
}

impl Name {
    fn new(settings: HostName, has_old: bool, now: Instant) -> Self {
        Self {
            settings,
            v4: BTreeSet::new(),
            v6: BTreeSet::new(),
            applied: None,
            has_old,
            due: now,
            failures: 0,
        }
    }

    /// Takes an answer. A family that could not be asked, or a name without any address, keeps what it had.
    fn judge(
        &mut self,
        v4: Result<Lookup, LookupError>,
        v6: Result<Lookup, LookupError>,
    ) -> Judged {
        let mut complaints = Vec::new();
        let mut ttl = MAX_TTL;
        let mut is_good = true;
        let mut left_out = BTreeSet::new();
        let mut found: Vec<Option<BTreeSet<IpAddr>>> = Vec::new();
        for answer in [v4, v6] {
            found.push(match answer {
                Ok(Lookup {
                    addresses,
                    ttl: records,
                }) => {
                    ttl = ttl.min(records);
                    let (usable, unusable) = addresses
                        .into_iter()
                        .map(|address| address.to_canonical())
                        .partition(|address| is_usable(*address, self.settings.allow_private));
                    left_out.extend::<BTreeSet<IpAddr>>(unusable);
                    Some(usable)
                }
                Err(LookupError::NoRecords) => Some(BTreeSet::new()),
                Err(LookupError::Failed(error)) => {
                    is_good = false;
                    complaints.push(error);
                    None
                }
            });
        }
        let is_empty = found
            .iter()
            .all(|found| found.as_ref().is_none_or(BTreeSet::is_empty));
        if is_empty {
            if is_good && left_out.is_empty() {
                complaints.push("the name has no address".to_owned());
            }
            is_good = false;
        } else {
            let mut found = found.into_iter();
            if let Some(Some(v4)) = found.next() {
                self.v4 = v4;
            }
            if let Some(Some(v6)) = found.next() {
                self.v6 = v6;
            }
        }
        if !left_out.is_empty() {
            let left_out: Vec<String> = left_out.iter().map(ToString::to_string).collect();
            complaints.push(format!(
                "left out, since no stranger can have them or allow_private is not set: {}",
                left_out.join(", ")
            ));
        }
        let all: BTreeSet<IpAddr> = self.v4.union(&self.v6).copied().collect();
        if all.len() > self.settings.max_addresses {
            complaints.push(format!(
                "{} addresses, of which {} are taken (max_addresses)",
                all.len(),
                self.settings.max_addresses
            ));
        }
        let next = if is_good {
            self.failures = 0;
            ttl.clamp(MIN_TTL, MAX_TTL)
        } else {
            let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(8));
            self.failures = self.failures.saturating_add(1);
            wait.min(LAST_RETRY)
        };
        Judged {
            addresses: all.into_iter().take(self.settings.max_addresses).collect(),
            complaint: (!complaints.is_empty()).then(|| complaints.join("; ")),
            is_good,
            next,
        }
    }
}

/// Whether a packet of a stranger can come from the address.
fn is_usable(address: IpAddr, allow_private: bool) -> bool {
    let never = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let private = match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            if v4.is_broadcast() || a == 0 {
                return false;
            }
            v4.is_private() || v4.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    !never && (allow_private || !private)
}

/// Asks for the names until `stop`. `lists` are those from names that are in force at the start, from before a restart, with their sizes.
pub async fn run(
    names: Vec<HostName>,
    lists: BTreeMap<String, usize>,
    resolver: Resolver,
    sink: impl Sink,
    board: Board,
    stop: CancellationToken,
) {
    let start = Instant::now();
    let wanted: BTreeSet<String> = names.iter().map(HostName::list).collect();
    for (list, entries) in &lists {
        if wanted.contains(list) {
            board.update(list, |status| status.entries = *entries);
        }
    }
    let in_force: BTreeSet<String> = lists.keys().cloned().collect();
    let mut ended: BTreeMap<String, Option<Vec<Entry>>> = lists
        .into_keys()
        .filter(|list| !wanted.contains(list))
        .map(|list| (list, None))
        .collect();
    let mut names: Vec<Name> = names
        .into_iter()
        .map(|name| {
            let has_old = in_force.contains(&name.list());
            Name::new(name, has_old, start)
        })
        .collect();
    loop {
        let now = Instant::now();
        let due: Vec<&mut Name> = names.iter_mut().filter(|name| name.due <= now).collect();
        let answers = join_all(due.into_iter().map(async |name| {
            let answer = tokio::join!(
                resolver.v4(&name.settings.host),
                resolver.v6(&name.settings.host)
            );
            (name, answer)
        }))
        .await;
        let mut update = SourceUpdate {
            lists: std::mem::take(&mut ended),
            reason: String::new(),
        };
        let mut changed = Vec::new();
        for (name, (v4, v6)) in answers {
            let judged = name.judge(v4, v6);
            name.due = Instant::now() + judged.next;
            report(&board, name, &judged);
            // A name that never had an address has nothing in force to be replaced by nothing.
            let is_half = name.applied.is_none() && name.has_old && !judged.is_good;
            let is_new = name.applied.as_ref() != Some(&judged.addresses)
                && !judged.addresses.is_empty()
                && !is_half;
            if is_new {
                let entries = name.settings.entries(&judged.addresses);
                update.lists.insert(name.settings.list(), Some(entries));
                changed.push((name, judged.addresses));
            }
        }
        if !update.lists.is_empty() {
            let reason = changed
                .iter()
                .map(|(name, addresses)| {
                    let addresses: Vec<String> =
                        addresses.iter().map(ToString::to_string).collect();
                    format!("{} is {}", name.settings.host, addresses.join(", "))
                })
                .chain(
                    (update.lists.len() > changed.len())
                        .then(|| "names taken out of the configuration".to_owned()),
                )
                .collect::<Vec<_>>()
                .join("; ");
            update.reason = format!("host names: {reason}");
            tracing::info!(reason = %update.reason, "addresses of host names changed");
            let removed: Vec<String> = update
                .lists
                .iter()
                .filter(|(_, entries)| entries.is_none())
                .map(|(list, _)| list.clone())
                .collect();
            match sink.apply(update).await {
                Ok(()) => taken(&board, changed),
                Err(refusal) => {
                    tracing::error!(%refusal, "addresses of host names are not taken; the last good ones stay in force");
                    ended.extend(removed.into_iter().map(|list| (list, None)));
                    refused(&board, changed, &refusal);
                }
            }
        }
        let next = names.iter().map(|name| name.due).min();
        let wait = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait => {}
        }
    }
}

fn report(board: &Board, name: &Name, judged: &Judged) {
    let list = name.settings.list();
    if let Some(complaint) = &judged.complaint {
        tracing::warn!(host = %name.settings.host, %complaint, "host name");
    }
    let next_try = TimeDelta::from_std(judged.next)
        .ok()
        .and_then(|next| Utc::now().checked_add_signed(next));
    board.update(&list, |status| {
        status.last_error.clone_from(&judged.complaint);
        status.next_try = next_try;
        if judged.is_good {
            status.state = SourceState::Good;
            status.last_good = Some(Utc::now());
        } else {
            status.state = SourceState::Failing;
        }
    });
}

fn taken(board: &Board, changed: Vec<(&mut Name, BTreeSet<IpAddr>)>) {
    for (name, addresses) in changed {
        board.update(&name.settings.list(), |status| {
            status.entries = addresses.len()
        });
        name.applied = Some(addresses);
    }
}

fn refused(board: &Board, changed: Vec<(&mut Name, BTreeSet<IpAddr>)>, refusal: &str) {
    for (name, _) in changed {
        board.update(&name.settings.list(), |status| {
            status.state = SourceState::Failing;
            status.last_error = Some(refusal.to_owned());
        });
        name.due = Instant::now() + FIRST_RETRY;
    }
}

#[cfg(test)]
mod tests;
