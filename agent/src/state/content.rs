//! All that is kept, as it stands after some record of the log.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use ipnet::IpNet;

use super::record::{Record, Revision};
use crate::{
    bans::Ban,
    lists::{Delta, Lists},
};

/// The lists and the bans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    pub lists: Lists,
    pub bans: BTreeMap<IpNet, Ban>,
    /// How the lists came to be; `None` before the first change.
    pub revision: Option<Revision>,
    /// Whether that revision waits for its confirmation.
    pub is_pending: bool,
}

impl Content {
    /// The number of the revision of the lists.
    pub fn number(&self) -> u64 {
        self.revision
            .as_ref()
            .map_or(0, |revision| revision.revision)
    }

    /// The digest of the revision; empty before the first.
    pub fn digest(&self) -> &str {
        self.revision
            .as_ref()
            .map_or("", |revision| &revision.digest)
    }

    /// What a record makes of it. `delta` is what it says of the lists.
    pub(super) fn apply(&mut self, record: &Record, delta: Option<&Delta>) {
        match record {
            Record::Lists(revision) => {
                if let Some(delta) = delta {
                    self.lists.apply(delta);
                }
                self.is_pending = revision.confirm_by.is_some();
                self.revision = Some(revision.clone());
            }
            Record::Confirmed { revision } => {
                if self.number() == *revision {
                    self.is_pending = false;
                }
            }
            Record::Banned { ban } => drop(self.bans.insert(ban.source, ban.clone())),
            Record::Unbanned { sources } => {
                for source in sources {
                    self.bans.remove(source);
                }
            }
            Record::ClockShifted { seconds } => shift(self.bans.values_mut(), *seconds),
        }
    }
}

/// Moves the ends of bans by so many seconds.
pub(crate) fn shift<'a>(bans: impl Iterator<Item = &'a mut Ban>, seconds: i64) {
    let Some(by) = TimeDelta::try_seconds(seconds) else {
        return;
    };
    for ban in bans {
        // A sum beyond what can be written stays as it was.
        ban.expires = ban.expires.checked_add_signed(by).unwrap_or(ban.expires);
    }
}
