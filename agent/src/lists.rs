//! The allowlist: the union of named lists. Pure: no file, no clock.
//!
//! "manual" is what people edit over the control interface; every list file, feed and host name has a list of its own
//! ("file:partner.txt", "feed:NAME", "name:HOST"), and so has another daemon that offers one ("offer:NAME"). The same
//! rule may be in several lists.

mod delta;
mod list;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de};

pub use self::{
    delta::{Counts, Delta, RuleEdits, Step},
    list::{List, Note, Noted},
};
use crate::{entry::Entry, rule::Rule};

/// The name of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListName(Arc<str>);

/// Why a text is not the name of a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the name of a list, such as manual, file:partner.txt, feed:NAME, name:HOST or offer:NAME"
)]
pub struct ListNameError {
    text: String,
}

/// Bytes of a list's name: a file name and the word before it.
const MAX_NAME: usize = 264;

impl ListName {
    /// The list that people edit.
    pub fn manual() -> Self {
        Self(Arc::from("manual"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ListName {
    type Err = ListNameError;

    fn from_str(text: &str) -> Result<Self, ListNameError> {
        let is_known = text == "manual"
            || ["file:", "feed:", "name:", "offer:"].iter().any(|kind| {
                text.strip_prefix(kind)
                    .is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
            });
        if is_known && text.len() <= MAX_NAME && !text.chars().any(char::is_control) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(ListNameError {
                text: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ListName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ListName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// All lists. A clone shares them, and costs nothing until one of the two is edited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    lists: BTreeMap<ListName, Arc<List>>,
}

impl Lists {
    /// The list of this name, if there is one with entries.
    pub fn get(&self, name: &ListName) -> Option<&List> {
        self.lists.get(name).map(Arc::as_ref)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ListName, &List)> {
        self.lists.iter().map(|(name, list)| (name, list.as_ref()))
    }

    /// Entries of all lists together.
    pub fn len(&self) -> usize {
        self.lists.values().map(|list| list.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Entries that let someone in.
    pub fn allowing(&self) -> usize {
        self.lists.values().map(|list| list.allowing()).sum()
    }

    /// Puts a whole list in, or takes it out if it is empty. Gives the steps from the old one.
    pub fn replace(&mut self, name: &ListName, list: List) -> Vec<Step> {
        let steps = delta::between(self.get(name), Some(&list));
        if list.is_empty() {
            self.lists.remove(name);
        } else {
            self.lists.insert(name.clone(), Arc::new(list));
        }
        steps
    }

    /// Carries a change out.
    pub fn apply(&mut self, delta: &Delta) {
        for (name, steps) in delta.lists() {
            let list = Arc::make_mut(self.lists.entry(name.clone()).or_default());
            for step in steps {
                match &step.after {
                    Some(note) => drop(list.insert(step.rule.clone(), note.clone())),
                    None => drop(list.remove(&step.rule)),
                }
            }
            if list.is_empty() {
                self.lists.remove(name);
            }
        }
    }

    /// What has to change for these lists to become `wanted`.
    pub fn delta_to(&self, wanted: &Self) -> Delta {
        let names: BTreeSet<&ListName> = self.lists.keys().chain(wanted.lists.keys()).collect();
        names
            .into_iter()
            .filter(
                |name| match (self.lists.get(*name), wanted.lists.get(*name)) {
                    (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
                    (None, _) | (_, None) => true,
                },
            )
            .map(|name| {
                (
                    name.clone(),
                    delta::between(self.get(name), wanted.get(name)),
                )
            })
            .collect()
    }

    /// Every entry that covers the address, with its list; the most specific first.
    pub fn covering(&self, address: IpAddr) -> Vec<(ListName, Entry)> {
        let mut found: Vec<(ListName, Entry)> = self
            .lists
            .iter()
            .flat_map(|(name, list)| {
                list.covering(address)
                    .into_iter()
                    .map(|entry| (name.clone(), entry))
            })
            .collect();
        found.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.prefix.prefix_len()));
        found
    }

    /// The lists that have an entry with this very prefix.
    pub fn holding(&self, prefix: &IpNet) -> Vec<ListName> {
        self.lists
            .iter()
            .filter(|(_, list)| !list.at(prefix).is_empty())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The entries whose time is over.
    pub fn expired(&self, now: DateTime<Utc>) -> Vec<(ListName, Entry)> {
        self.lists
            .iter()
            .flat_map(|(name, list)| list.expired(now).map(|entry| (name.clone(), entry)))
            .collect()
    }

    /// The rules of all entries: one for each entry, so that a rule of two lists is there twice.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.lists.values().flat_map(|list| list.rules())
    }
}

impl FromIterator<(ListName, List)> for Lists {
    fn from_iter<I: IntoIterator<Item = (ListName, List)>>(lists: I) -> Self {
        Self {
            lists: lists
                .into_iter()
                .filter(|(_, list)| !list.is_empty())
                .map(|(name, list)| (name, Arc::new(list)))
                .collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
