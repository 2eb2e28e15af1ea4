//! What covers an address, and which of it decided.

use std::{borrow::Cow, cmp::Reverse};

use agent_ebpf::{
    scope::ScopeSet,
    verdict::{Drop, Pass, Verdict},
};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    answers::{frame::Packet, names},
    bans::Ban,
    entry::Entry,
    lists::ListName,
    rule::{Action, Rule, Scope},
};

/// Something that covers an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cover {
    Protected {
        prefix: IpNet,
        /// Where it comes from: the configuration, or a fact of the running machine.
        origin: Cow<'static, str>,
    },
    Ban(Ban),
    Entry {
        list: ListName,
        #[serde(flatten)]
        entry: Entry,
        /// The change that brought it, if it is still known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Since>,
    },
}

/// The change that an entry is there since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    pub revision: u64,
    pub time: DateTime<Utc>,
    /// Who asked for it; absent for what the agent did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Cover {
    pub fn prefix(&self) -> IpNet {
        match self {
            Self::Protected { prefix, .. } => *prefix,
            Self::Ban(ban) => ban.source,
            Self::Entry { entry, .. } => entry.prefix,
        }
    }

    /// The rule that it is for the kernel.
    pub fn rule(&self) -> Rule {
        let with = |action| Rule {
            prefix: self.prefix(),
            action,
        };
        match self {
            Self::Protected { .. } => with(Action::Protect),
            Self::Ban(_) => with(Action::Ban),
            Self::Entry { entry, .. } => entry.rule(),
        }
    }
}

/// Puts the most specific first; at one prefix, in the order of precedence.
pub(super) fn sort(covering: &mut [Cover]) {
    covering.sort_by_key(|cover| (Reverse(cover.prefix().prefix_len()), cover.rule().action));
}

/// The one of `covering`, which is sorted, that led to the verdict.
pub(super) fn deciding<'a>(
    verdict: Verdict,
    packet: &Packet,
    covering: &'a [Cover],
) -> Option<&'a Cover> {
    let entry = |wanted: &dyn Fn(&Entry) -> bool| {
        covering.iter().find(|cover| match cover {
            Cover::Entry { entry, .. } => wanted(entry),
            Cover::Ban(_) | Cover::Protected { .. } => false,
        })
    };
    match verdict {
        Verdict::Pass(Pass::Protected) => covering
            .iter()
            .find(|cover| matches!(cover, Cover::Protected { .. })),
        Verdict::Drop(Drop::Banned) => covering.iter().find(|cover| matches!(cover, Cover::Ban(_))),
        Verdict::Drop(Drop::Denied) => entry(&|entry| entry.deny),
        Verdict::Drop(Drop::OutOfScope) => entry(&|entry| entry.scope.is_some()),
        Verdict::Pass(Pass::Allowed) | Verdict::Drop(Drop::RateLimited | Drop::SynRateLimited) => {
            entry(&|entry| {
                !entry.deny
                    && entry
                        .scope
                        .as_ref()
                        .is_none_or(|scope| permits(scope, packet))
            })
        }
        Verdict::Pass(_) | Verdict::Drop(_) => None,
    }
}

fn permits(scope: &Scope, packet: &Packet) -> bool {
    let mut set = ScopeSet::NONE;
    for (place, range) in set.ranges.iter_mut().zip(scope.ranges()) {
        *place = *range;
    }
    let port = (!packet.later_fragment).then_some(if names::has_ports(packet.protocol) {
        packet.destination_port
    } else {
        0
    });
    set.permits(packet.protocol, port)
}
