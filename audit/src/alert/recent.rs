//! What a rule remembers of its subjects.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Alert, Rule, Watched};

/// Subjects of one rule; the one that was quiet for longest makes room.
const SUBJECTS: usize = 10_000;
/// Events of one subject that are told apart. Beyond them, those of one such part of the window count together, from its
/// beginning: a subject costs no more than twice as many.
const EVENTS: usize = 64;
/// Alerts of one rule within its quiet time, whatever their subjects: names are the peer's to make up.
const ALERTS: usize = 50;

/// One event, or several that are counted together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) at: DateTime<Utc>,
    pub(super) first: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Seen {
    pub(super) fn once(at: DateTime<Utc>, seq: u64) -> Self {
        Self {
            at,
            first: seq,
            events: 1,
            bytes: 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    subjects: Subjects,
    /// When the last alerts were given.
    given: VecDeque<DateTime<Utc>>,
    /// Alerts that were not, because there were so many of other subjects.
    too_many: u64,
}

#[derive(Debug, Default)]
struct Subjects {
    by_name: BTreeMap<String, Subject>,
    /// Names by the turn in which they were heard of last.
    turns: BTreeMap<u64, String>,
    turn: u64,
}

#[derive(Debug, Default)]
struct Subject {
    seen: VecDeque<Seen>,
    turn: u64,
    told: Option<DateTime<Utc>>,
    held_back: u64,
}

impl Recent {
    pub(super) fn is_due(&self, rule: &Rule, subject: &str, now: DateTime<Utc>) -> bool {
        self.subjects
            .by_name
            .get(subject)
            .is_none_or(|known| !known.is_quiet(rule.quiet, now))
    }

    /// Counts an event; the alert, if it is one too many and the subject is not to be quiet.
    pub(super) fn add(&mut self, rule: &Rule, name: &str, new: Seen) -> Option<Alert> {
        let subject = self.subjects.touch(name);
        while let Some(oldest) = subject.seen.front()
            && new.at - oldest.at > rule.window
        {
            subject.seen.pop_front();
        }
        let count = subject.seen.len();
        let slot = rule.window / i32::try_from(EVENTS).unwrap_or(i32::MAX);
        match subject.seen.back_mut() {
            Some(last) if count >= EVENTS && new.at - last.at < slot => {
                last.events += new.events;
                last.bytes = last.bytes.saturating_add(new.bytes);
            }
            _ => subject.seen.push_back(new),
        }
        let events = subject.seen.iter().map(|seen| seen.events).sum();
        let bytes = subject
            .seen
            .iter()
            .fold(0_u64, |sum, seen| sum.saturating_add(seen.bytes));
        let (count, unit) = reached(&rule.watched, events, bytes)?;
        let first = subject.seen.front().map_or(new.first, |seen| seen.first);
        subject.seen.clear();
        if subject.is_quiet(rule.quiet, new.at) {
            subject.held_back += 1;
            return None;
        }
        if self.given.len() >= ALERTS {
            let is_early = |first: &DateTime<Utc>| new.at - *first < rule.quiet;
            if self.given.front().is_some_and(is_early) {
                self.too_many += 1;
                return None;
            }
            self.given.pop_front();
        }
        self.given.push_back(new.at);
        subject.told = Some(new.at);
        let held_back = std::mem::take(&mut subject.held_back) + std::mem::take(&mut self.too_many);
        Some(Alert {
            rule: rule.name.clone(),
            kind: rule.watched.name(),
            subject: name.to_owned(),
            count,
            unit,
            window: rule.window,
            first,
            last: new.first,
            held_back,
            to: rule.to.clone(),
        })
    }

    /// Entries that are kept.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let subjects = self.subjects.by_name.values();
        subjects.map(|subject| subject.seen.len()).sum()
    }

    /// An alert of the subject was given.
    pub(super) fn told(&mut self, name: &str, at: DateTime<Utc>) {
        self.subjects.touch(name).told = Some(at);
    }
}

impl Subjects {
    fn touch(&mut self, name: &str) -> &mut Subject {
        self.turn += 1;
        if let Some(known) = self.by_name.get(name) {
            self.turns.remove(&known.turn);
        } else if self.by_name.len() >= SUBJECTS
            && let Some((_, idle)) = self.turns.pop_first()
        {
            self.by_name.remove(&idle);
        }
        self.turns.insert(self.turn, name.to_owned());
        let subject = self.by_name.entry(name.to_owned()).or_default();
        subject.turn = self.turn;
        subject
    }
}

impl Subject {
    /// A clock that was set back does not make a subject quiet for longer.
    fn is_quiet(&self, quiet: TimeDelta, at: DateTime<Utc>) -> bool {
        self.told
            .is_some_and(|told| at >= told && at - told < quiet)
    }
}

/// The count that has reached its threshold, and what it counts.
fn reached(watched: &Watched, events: u64, bytes: u64) -> Option<(u64, &'static str)> {
    match watched {
        Watched::BruteForce { failures, .. } => {
            (events >= *failures).then_some((events, "failures"))
        }
        Watched::DenialBurst { denials, .. } => (events >= *denials).then_some((events, "denials")),
        Watched::MassDownload {
            bytes: most_bytes,
            files,
        } => {
            let by_bytes = most_bytes.is_some_and(|most| bytes >= most);
            let by_files = files.is_some_and(|most| events >= most);
            (by_bytes.then_some((bytes, "bytes"))).or(by_files.then_some((events, "files")))
        }
        Watched::OffHours(_) => Some((events, "logins")),
        Watched::RelaxationExpiring { .. } => Some((events, "exceptions")),
        Watched::VerifyFailed
        | Watched::SinkBehind { .. }
        | Watched::Disk
        | Watched::FilesAltered => Some((events, "records")),
    }
}
