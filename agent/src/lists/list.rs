//! One list: entries by rule, found by prefix, by address and by end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use ipnet::IpNet;

use crate::{
    entry::Entry,
    rule::{Action, Rule},
};

/// What an entry says beside its rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub comment: Option<String>,
    pub expires: Option<DateTime<Utc>>,
}

/// A note, or that there is none. Neighbours with the same note share it.
pub type Noted = Option<Arc<Note>>;

/// Entries in the order of their prefixes, one for each rule.
#[derive(Debug, Clone, Default)]
pub struct List {
    entries: BTreeMap<Rule, Noted>,
    /// How many entries there are of each prefix length, IPv4 and IPv6: a lookup asks for those only.
    lengths: [BTreeMap<u8, usize>; 2],
    ends: BTreeSet<(DateTime<Utc>, Rule)>,
    allowing: usize,
}

impl List {
    /// Puts an entry in; gives what stood there.
    pub fn insert(&mut self, rule: Rule, note: Noted) -> Option<Noted> {
        if let Some(expires) = end(&note) {
            self.ends.insert((expires, rule.clone()));
        }
        let before = self.entries.insert(rule.clone(), note.clone());
        match &before {
            Some(before) if end(before) != end(&note) => self.forget_end(&rule, before),
            Some(_) => {}
            None => self.count(&rule, true),
        }
        before
    }

    /// Takes an entry out; gives what stood there.
    pub fn remove(&mut self, rule: &Rule) -> Option<Noted> {
        let before = self.entries.remove(rule)?;
        self.forget_end(rule, &before);
        self.count(rule, false);
        Some(before)
    }

    pub fn get(&self, rule: &Rule) -> Option<&Noted> {
        self.entries.get(rule)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries that let someone in.
    pub fn allowing(&self) -> usize {
        self.allowing
    }

    /// Entries with an end.
    pub fn ending(&self) -> usize {
        self.ends.len()
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.entries.keys()
    }

    /// The entries, in the order of their prefixes.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.items().map(|(rule, note)| entry(rule, note))
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (&Rule, &Noted)> {
        self.entries.iter()
    }

    /// The entries with this very prefix.
    pub fn at(&self, prefix: &IpNet) -> Vec<Entry> {
        // No action comes before `Protect`.
        let first = Rule {
            prefix: *prefix,
            action: Action::Protect,
        };
        self.entries
            .range(first..)
            .take_while(|(rule, _)| rule.prefix == *prefix)
            .map(|(rule, note)| entry(rule, note))
            .collect()
    }

    /// The entries that cover the address, the most specific first.
    pub fn covering(&self, address: IpAddr) -> Vec<Entry> {
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        lengths
            .keys()
            .rev()
            .filter_map(|length| IpNet::new(address, *length).ok())
            .flat_map(|net| self.at(&net.trunc()))
            .collect()
    }

    /// The entries whose time is over.
    pub fn expired(&self, now: DateTime<Utc>) -> impl Iterator<Item = Entry> {
        self.ends
            .iter()
            .take_while(move |(expires, _)| *expires <= now)
            .filter_map(|(_, rule)| self.entries.get(rule).map(|note| entry(rule, note)))
    }

    fn forget_end(&mut self, rule: &Rule, before: &Noted) {
        if let Some(expires) = end(before) {
            self.ends.remove(&(expires, rule.clone()));
        }
    }

    fn count(&mut self, rule: &Rule, is_new: bool) {
        let [v4, v6] = &mut self.lengths;
        let lengths = match rule.prefix {
            IpNet::V4(_) => v4,
            IpNet::V6(_) => v6,
        };
        let count = lengths.entry(rule.prefix.prefix_len()).or_default();
        *count = if is_new {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        if *count == 0 {
            lengths.remove(&rule.prefix.prefix_len());
        }
        if matches!(rule.action, Action::Allow(_)) {
            self.allowing = if is_new {
                self.allowing.saturating_add(1)
            } else {
                self.allowing.saturating_sub(1)
            };
        }
    }
}

/// Whether two lists have the same entries.
impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for List {}

impl FromIterator<Entry> for List {
    /// Of two entries with the same rule the later counts.
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut shared: Noted = None;
        let items = entries.into_iter().map(|entry| {
            let (rule, note) = split(entry);
            let note = note.map(|note| match &shared {
                Some(last) if **last == note => Arc::clone(last),
                Some(_) | None => Arc::new(note),
            });
            if note.is_some() {
                shared.clone_from(&note);
            }
            (rule, note)
        });
        // The map is built from all of them at once: several times as fast as one by one.
        let mut list = Self {
            entries: items.collect(),
            ..Self::default()
        };
        let rules: Vec<Rule> = list.entries.keys().cloned().collect();
        for rule in &rules {
            list.count(rule, true);
        }
        list.ends = list
            .entries
            .iter()
            .filter_map(|(rule, note)| end(note).map(|expires| (expires, rule.clone())))
            .collect();
        list
    }
}

fn end(note: &Noted) -> Option<DateTime<Utc>> {
    note.as_ref().and_then(|note| note.expires)
}

fn split(entry: Entry) -> (Rule, Option<Note>) {
    let rule = entry.rule();
    let note = Note {
        owner: entry.owner,
        ticket: entry.ticket,
        comment: entry.comment,
        expires: entry.expires,
    };
    (rule, Some(note).filter(|note| *note != Note::default()))
}

/// The rule and the note of an entry.
pub(super) fn noted(entry: Entry) -> (Rule, Noted) {
    let (rule, note) = split(entry);
    (rule, note.map(Arc::new))
}

/// The entry of a rule and its note.
pub(super) fn entry(rule: &Rule, note: &Noted) -> Entry {
    let note = note.as_deref().cloned().unwrap_or_default();
    let (deny, scope) = match &rule.action {
        Action::Allow(scope) => (false, scope.as_deref().cloned()),
        // A list holds nothing else: its entries come from `Entry`s.
        Action::Deny | Action::Ban | Action::Protect => (true, None),
    };
    Entry {
        prefix: rule.prefix,
        deny,
        scope,
        owner: note.owner,
        ticket: note.ticket,
        comment: note.comment,
        expires: note.expires,
    }
}
