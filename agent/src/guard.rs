//! What a change would cut, before it is made. Pure but for [`session`].

pub mod session;

use std::{collections::BTreeMap, net::IpAddr};

use agent_ebpf::class::Class;
use serde::{Deserialize, Serialize};

use crate::{
    lists::{Counts, Delta, Lists, RuleEdits},
    rule::{Action, Rule},
    ruleset::Ruleset,
    traffic::LivePeer,
};

use self::session::Session;

/// Entries, flows and sources that a preview names one by one; of more there is the number.
const NAMED: usize = 50;

/// A source seen to pass while the traffic was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedSource {
    pub address: IpAddr,
    /// Packets in the sample.
    pub packets: u64,
}

/// What a change does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    #[serde(flatten)]
    pub counts: Counts,
    /// The first entries that come, go or change, as `LIST: ENTRY`.
    pub examples: Examples,
    pub impact: Impact,
}

/// Some entries of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examples {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

/// Whom a change cuts off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// The far end of the session that the change is asked for over, if it would be cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_session: Option<IpAddr>,
    /// Live connections that pass now and would not.
    pub cut_flows: usize,
    /// The first of them.
    pub flows: Vec<LivePeer>,
    /// Sources seen while the traffic was observed that would not pass, those with the most packets first.
    pub sources: Vec<ObservedSource>,
}

/// Why a change is refused unless it is forced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("this would cut your own session from {address}; repeat with --force if that is meant")]
    OwnSession { address: IpAddr },
    #[error(
        "this would cut {flows} live connections, more than {limit} (guard.max_cut_flows), among them {example}; look at them with --dry-run, and repeat with --force if that is meant"
    )]
    Flows {
        flows: usize,
        limit: usize,
        example: IpAddr,
    },
    #[error(
        "nothing is protected, and this leaves no entry that lets anyone in: every packet would be dropped; repeat with --force if that is meant"
    )]
    Nobody,
}

impl Impact {
    /// Whether the change may be made without being forced.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, max_cut_flows: usize) -> Result<(), Refusal> {
        if let Some(address) = self.own_session {
            return Err(Refusal::OwnSession { address });
        }
        match self.flows.first() {
            Some(example) if self.cut_flows > max_cut_flows => Err(Refusal::Flows {
                flows: self.cut_flows,
                limit: max_cut_flows,
                example: example.address,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// The rules before and after a change, as far as they cover one address.
pub trait Judge {
    fn before(&self, address: IpAddr) -> Vec<Rule>;
    fn after(&self, address: IpAddr) -> Vec<Rule>;
}

/// A change of the lists: `after` is given when it is too large to be laid over the present ones step by step.
pub struct ListChange<'a> {
    /// Protected sources and bans.
    pub others: &'a [Rule],
    pub lists: &'a Lists,
    pub edits: &'a RuleEdits,
    pub after: Option<&'a Lists>,
}

impl ListChange<'_> {
    fn with(&self, lists: &Lists, address: IpAddr) -> Vec<Rule> {
        let others = self
            .others
            .iter()
            .filter(|rule| rule.prefix.contains(&address));
        let entries = lists
            .covering(address)
            .into_iter()
            .map(|(_, entry)| entry.rule());
        others.cloned().chain(entries).collect()
    }
}

impl Judge for ListChange<'_> {
    fn before(&self, address: IpAddr) -> Vec<Rule> {
        self.with(self.lists, address)
    }

    fn after(&self, address: IpAddr) -> Vec<Rule> {
        if let Some(after) = self.after {
            return self.with(after, address);
        }
        let mut rules = self.before(address);
        for removed in &self.edits.removed {
            if let Some(at) = rules.iter().position(|rule| rule == removed) {
                rules.swap_remove(at);
            }
        }
        let added = self.edits.added.iter();
        rules.extend(added.filter(|rule| rule.prefix.contains(&address)).cloned());
        rules
    }
}

/// Whom a change cuts off, of those that are connected or were seen.
pub fn impact(
    judge: &impl Judge,
    session: Option<Session>,
    peers: &[LivePeer],
    observed: &[ObservedSource],
) -> Impact {
    let is_cut = |address: IpAddr, port: Option<(u8, u16)>| {
        passes(&judge.before(address), address, port)
            && !passes(&judge.after(address), address, port)
    };
    let mut flows: Vec<LivePeer> = Vec::new();
    let mut cut_flows = 0;
    // Many flows come from few addresses.
    let mut known: BTreeMap<(IpAddr, u8, u16), bool> = BTreeMap::new();
    for peer in peers {
        let key = (peer.address, peer.protocol, peer.local_port);
        let is_cut = *known
            .entry(key)
            .or_insert_with(|| is_cut(peer.address, Some((peer.protocol, peer.local_port))));
        if is_cut {
            cut_flows += 1;
            if flows.len() < NAMED {
                flows.push(*peer);
            }
        }
    }
    let mut sources: Vec<ObservedSource> = observed
        .iter()
        .filter(|source| is_cut(source.address, None))
        .cloned()
        .collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.packets));
    sources.truncate(NAMED);
    Impact {
        own_session: session
            .filter(|session| {
                !passes(
                    &judge.after(session.client),
                    session.client,
                    Some((TCP, session.port)),
                )
            })
            .map(|session| session.client),
        cut_flows,
        flows,
        sources,
    }
}

/// The first entries of a change.
pub fn examples(delta: &Delta) -> Examples {
    let mut examples = Examples::default();
    for (name, step) in delta.steps() {
        let rule = &step.rule;
        let what = match &rule.action {
            Action::Allow(Some(scope)) => format!("{name}: {} {scope}", rule.prefix),
            Action::Deny => format!("{name}: {} deny", rule.prefix),
            Action::Allow(None) | Action::Ban | Action::Protect => {
                format!("{name}: {}", rule.prefix)
            }
        };
        let place = match (&step.before, &step.after) {
            (None, _) => &mut examples.added,
            (_, None) => &mut examples.removed,
            (Some(_), Some(_)) => &mut examples.changed,
        };
        if place.len() < NAMED {
            place.push(what);
        }
    }
    examples
}

const TCP: u8 = 6;

/// Whether a source passes: any of its packets if no port is given.
fn passes(covering: &[Rule], address: IpAddr, port: Option<(u8, u16)>) -> bool {
    // Rules that can't be compiled are refused when they are switched.
    let Ok(ruleset) = Ruleset::build(covering) else {
        return false;
    };
    let class = ruleset.class_of(address);
    match class.scope() {
        Some(index) => port.is_none_or(|(protocol, port)| {
            usize::try_from(index)
                .ok()
                .and_then(|index| ruleset.scope_sets().get(index).copied())
                .is_some_and(|set| set.permits(protocol, Some(port)))
        }),
        None => class == Class::ALLOWED || class == Class::PROTECTED,
    }
}

#[cfg(test)]
mod tests;
