//! What is known of one source.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use portcullis_journal::SessionId;
use serde::{Deserialize, Serialize};

use super::{Evidence, Mistake};

/// Milliseconds, since 1970 or as a difference.
pub(super) type Millis = i64;
pub(super) type NameHash = u64;

const DAY: Millis = 24 * 3600 * 1000;
/// Failures are in a row if no pause between them is so long, where nobody is banned.
pub(super) const PAUSE: Millis = 300_000;
/// Names of a source that pay on their own.
const NAMES_MAX: usize = 16;
/// Good users that are remembered of a source.
const GOOD_MAX: usize = 8;
/// How long a login makes a good user.
const GOOD_MEMORY: Millis = 7 * DAY;
/// How long a ban that ended makes the next one longer.
const BAN_MEMORY: Millis = 7 * DAY;
/// Sessions that the evidence names.
const SESSIONS_MAX: usize = 8;

/// A penalty that adds up and runs out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Penalty {
    until: Millis,
    /// Whether it once exceeded the threshold; it then holds until it has run out.
    active: bool,
}

impl Penalty {
    /// At most `max`: a clock that jumped back leaves nobody out for longer.
    pub(super) fn remaining(&self, now: Millis, max: Millis) -> Millis {
        self.until.saturating_sub(now).clamp(0, max.max(0))
    }

    pub(super) fn holds(&self, now: Millis, max: Millis) -> bool {
        self.active && self.remaining(now, max) > 0
    }

    pub(super) fn charge(&mut self, amount: Millis, threshold: Millis, max: Millis, now: Millis) {
        let before = self.remaining(now, max);
        let after = before.saturating_add(amount).min(max);
        self.active = (self.active && before > 0) || after > threshold;
        self.until = now.saturating_add(after);
    }

    /// What stays goes on to hold if it did.
    fn take_back(&mut self, amount: Millis, max: Millis, now: Millis) {
        let rest = self.remaining(now, max).saturating_sub(amount).max(0);
        self.active &= rest > 0;
        self.until = now.saturating_add(rest);
    }

    pub(super) fn until(&self) -> Millis {
        self.until
    }
}

/// A name that was tried from the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    hash: NameHash,
    pub(super) penalty: Penalty,
    /// Of the source's failures in a row.
    failures: u32,
}

/// Failures that follow one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Failures {
    count: u32,
    mistakes: [u32; Mistake::ALL.len()],
    since: Millis,
    /// When a further failure begins another row.
    ends: Millis,
    sessions: VecDeque<[u8; 16]>,
}

/// What is known of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    pub(super) penalty: Penalty,
    names: Vec<Name>,
    failures: Failures,
    /// Users who logged in from here, and when they did last.
    good: Vec<(NameHash, Millis)>,
    bans: u32,
    /// When the last ban ends.
    banned_until: Millis,
    last_seen: Millis,
}

impl Source {
    pub(super) fn name(&self, hash: NameHash) -> Option<&Name> {
        self.names.iter().find(|name| name.hash == hash)
    }

    /// Users who logged in from here lately.
    pub(super) fn good_users(&self, now: Millis) -> usize {
        let is_recent = |last: Millis| now.saturating_sub(last) < GOOD_MEMORY;
        self.good
            .iter()
            .filter(|(_, last)| is_recent(*last))
            .count()
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.count
    }

    /// Whether the session is among the last ones with a failure.
    pub(super) fn has_failed(&self, session: SessionId) -> bool {
        self.failures.sessions.contains(&session.0)
    }

    /// Bans that make the next one longer.
    pub(super) fn earlier_bans(&self, now: Millis) -> u32 {
        if now.saturating_sub(self.banned_until) < BAN_MEMORY {
            self.bans
        } else {
            0
        }
    }

    /// One more failure in a row, or the first of another row.
    pub(super) fn count(
        &mut self,
        hash: NameHash,
        mistake: Mistake,
        session: SessionId,
        now: Millis,
        window: Millis,
    ) {
        if self.failures.count > 0 && now >= self.failures.ends {
            self.forget_failures();
        }
        if self.failures.count == 0 {
            self.failures.since = now;
        }
        self.last_seen = now;
        let failures = &mut self.failures;
        failures.count = failures.count.saturating_add(1);
        failures.ends = now.saturating_add(window);
        for (count, kind) in failures.mistakes.iter_mut().zip(Mistake::ALL) {
            *count = count.saturating_add(u32::from(kind == mistake));
        }
        if failures.sessions.back() != Some(&session.0) {
            if failures.sessions.len() >= SESSIONS_MAX {
                failures.sessions.pop_front();
            }
            failures.sessions.push_back(session.0);
        }
        if let Some(name) = self.name_or_room(hash, now) {
            name.failures = name.failures.saturating_add(1);
        }
    }

    /// Charges the name. False if there are too many names already.
    pub(super) fn charge_name(
        &mut self,
        hash: NameHash,
        amount: Millis,
        (threshold, max): (Millis, Millis),
        now: Millis,
    ) -> bool {
        match self.name_or_room(hash, now) {
            Some(name) => {
                name.penalty.charge(amount, threshold, max, now);
                true
            }
            None => false,
        }
    }

    /// The name's own part of failures and penalty is taken back.
    pub(super) fn forgive(&mut self, hash: NameHash, max: Millis, now: Millis) {
        let Some(index) = self.names.iter().position(|name| name.hash == hash) else {
            return;
        };
        let name = self.names.swap_remove(index);
        // Where others are good users, the name's failures were not charged to the source.
        if self.good_users(now) == 0 {
            let share = name.penalty.remaining(now, max);
            self.penalty.take_back(share, max, now);
        }
        self.failures.count = self.failures.count.saturating_sub(name.failures);
        if self.failures.count == 0 {
            self.forget_failures();
        }
    }

    /// The user of that name logged in.
    pub(super) fn welcome(&mut self, hash: NameHash, now: Millis) {
        self.last_seen = now;
        self.good.retain(|(other, _)| *other != hash);
        if self.good.len() >= GOOD_MAX {
            let oldest = self
                .good
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, last))| *last);
            if let Some((oldest, _)) = oldest {
                self.good.swap_remove(oldest);
            }
        }
        self.good.push((hash, now));
    }

    /// The source is cut off until then.
    pub(super) fn banned(&mut self, until: Millis, now: Millis) {
        self.bans = self.earlier_bans(now).saturating_add(1);
        self.banned_until = until;
        self.forget_failures();
    }

    pub(super) fn forget_failures(&mut self) {
        self.failures = Failures::default();
        for name in &mut self.names {
            name.failures = 0;
        }
    }

    pub(super) fn evidence(&self, earlier_bans: u32) -> Evidence {
        let failures = &self.failures;
        Evidence {
            failures: failures.count,
            mistakes: failures.mistakes,
            names: self.names.iter().filter(|name| name.failures > 0).count(),
            since: DateTime::<Utc>::from_timestamp_millis(failures.since).unwrap_or_default(),
            sessions: failures.sessions.iter().copied().map(SessionId).collect(),
            earlier_bans,
        }
    }

    /// From when on nothing is lost if the source is forgotten.
    pub(super) fn matters_until(&self) -> Millis {
        let names = self.names.iter().map(|name| name.penalty.until());
        let good = self
            .good
            .iter()
            .map(|(_, last)| last.saturating_add(GOOD_MEMORY));
        let ban = (self.bans > 0).then(|| self.banned_until.saturating_add(BAN_MEMORY));
        let row = (self.failures.count > 0).then_some(self.failures.ends);
        names
            .chain(good)
            .chain(ban)
            .chain(row)
            .chain([self.penalty.until(), self.last_seen])
            .max()
            .unwrap_or_default()
    }

    /// The entry of the name, made if there is room. A name that no longer pays makes room.
    fn name_or_room(&mut self, hash: NameHash, now: Millis) -> Option<&mut Name> {
        let found = self.names.iter().position(|name| name.hash == hash);
        let index = found.or_else(|| {
            let fresh = Name {
                hash,
                penalty: Penalty::default(),
                failures: 0,
            };
            if self.names.len() < NAMES_MAX {
                self.names.push(fresh);
                return Some(self.names.len() - 1);
            }
            let quiet = self
                .names
                .iter()
                .position(|name| name.failures == 0 && name.penalty.until() <= now)?;
            *self.names.get_mut(quiet)? = fresh;
            Some(quiet)
        })?;
        self.names.get_mut(index)
    }
}

pub(super) fn millis(time: DateTime<Utc>) -> Millis {
    time.timestamp_millis()
}
