//! What can be asked of the engine.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use tokio::sync::{broadcast, oneshot};

use crate::{
    answers::{question::Question, recent::TopReply, why::WhyReply},
    bans::Ban,
    control::{ChangeReply, DiffReply, Failure, ListedEntry, StatusReply, peer::Peer},
    entry::Entry,
    guard::ObservedSource,
    lists::{List, ListName},
    record::Grounds,
    state::HistoryEntry,
};

/// A request, and where its answer goes.
#[derive(Debug)]
pub enum Request {
    Ban {
        source: IpNet,
        lifetime: Duration,
        reason: String,
        terms: Terms,
        by: Peer,
        reply: Reply<Ban>,
    },
    Unban {
        source: IpNet,
        terms: Terms,
        by: Peer,
        reply: Reply<Ban>,
    },
    Bans {
        reply: Reply<Vec<Ban>>,
    },
    Change {
        change: Change,
        terms: Terms,
        by: Peer,
        reply: Reply<ChangeReply>,
    },
    Confirm {
        terms: Terms,
        by: Peer,
        reply: Reply<ChangeReply>,
    },
    Revert {
        terms: Terms,
        by: Peer,
        reply: Reply<ChangeReply>,
    },
    /// The entries of a list, or of all of them, with the revision.
    Entries {
        list: Option<ListName>,
        reply: Reply<(u64, Vec<ListedEntry>)>,
    },
    History {
        reply: Reply<Vec<HistoryEntry>>,
    },
    Diff {
        from: u64,
        to: u64,
        reply: Reply<DiffReply>,
    },
    Observe {
        window: Duration,
        reply: Reply<Observation>,
    },
    Protect {
        facts: LiveFacts,
        reply: Reply<()>,
    },
    Status {
        reply: Reply<StatusReply>,
    },
    Top {
        reply: Reply<TopReply>,
    },
    Why {
        question: Question,
        reply: Reply<Box<WhyReply>>,
    },
}

/// What the running machine protects beside the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveFacts {
    /// Each with what makes it so, in words.
    pub protected: BTreeMap<IpNet, String>,
    /// Whether one of them is the far end of an administrator's session.
    pub has_session: bool,
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// A change of the lists.
#[derive(Debug)]
pub enum Change {
    /// Entries of the manual list to put in.
    Add(Vec<Entry>),
    /// Prefixes whose entries leave the manual list.
    Remove(Vec<IpNet>),
    /// The whole manual list.
    Replace(List),
    /// The lists of an earlier revision, all of them.
    Rollback(u64),
    /// Whole lists of files, feeds and host names; an empty one ends.
    Sync(BTreeMap<ListName, List>),
}

impl Change {
    /// Whether somebody may be cut off by it who was let in before.
    pub(crate) fn may_cut(&self) -> bool {
        match self {
            Self::Add(entries) => entries.iter().any(|entry| entry.deny),
            Self::Remove(_) | Self::Replace(_) | Self::Rollback(_) | Self::Sync(_) => true,
        }
    }

    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Remove(_) => "remove",
            Self::Replace(_) => "replace",
            Self::Rollback(_) => "rollback",
            Self::Sync(_) => "sync",
        }
    }
}

/// How a change is to be made.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub reason: Option<String>,
    pub ticket: Option<String>,
    pub force: bool,
    pub dry_run: bool,
    pub confirm_within: Option<Duration>,
    /// The revision that the lists must be at.
    pub if_revision: Option<u64>,
    /// Sources that were seen to pass.
    pub observed: Vec<ObservedSource>,
}

impl Terms {
    pub(super) fn grounds(&self) -> Grounds<'_> {
        Grounds {
            reason: self.reason.as_deref(),
            ticket: self.ticket.as_deref(),
        }
    }
}

/// Sources of passing packets, as they are sampled.
#[derive(Debug)]
pub struct Observation {
    pub passes: broadcast::Receiver<IpAddr>,
}
