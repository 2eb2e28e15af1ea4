//! A change of the lists, which can be undone.

use std::collections::{BTreeMap, btree_map::Entry as Place};

use serde::{Deserialize, Serialize};

use super::{
    List, ListName, Noted,
    list::{entry, noted},
};
use crate::{entry::Entry, rule::Rule};

/// One entry before and after a change; the absence of both does not occur.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub rule: Rule,
    pub before: Option<Noted>,
    pub after: Option<Noted>,
}

impl Step {
    /// The step that puts `entry` where `list` has something else, or nothing.
    pub fn put(list: Option<&List>, entry: Entry) -> Option<Self> {
        let (rule, note) = noted(entry);
        let before = list.and_then(|list| list.get(&rule)).cloned();
        (before.as_ref() != Some(&note)).then_some(Self {
            rule,
            before,
            after: Some(note),
        })
    }

    /// The step that takes a rule out of `list`.
    pub fn remove(list: Option<&List>, rule: &Rule) -> Option<Self> {
        let before = list.and_then(|list| list.get(rule))?;
        Some(Self {
            rule: rule.clone(),
            before: Some(before.clone()),
            after: None,
        })
    }

    /// A step as it is read from a file.
    pub fn of(before: Option<Entry>, after: Option<Entry>) -> Option<Self> {
        let before = before.map(noted);
        let after = after.map(noted);
        let rule = match (&before, &after) {
            (Some((before, _)), Some((after, _))) if before != after => return None,
            (Some((rule, _)), _) | (None, Some((rule, _))) => rule.clone(),
            (None, None) => return None,
        };
        Some(Self {
            rule,
            before: before.map(|(_, note)| note),
            after: after.map(|(_, note)| note),
        })
    }

    pub fn before(&self) -> Option<Entry> {
        self.before.as_ref().map(|note| entry(&self.rule, note))
    }

    pub fn after(&self) -> Option<Entry> {
        self.after.as_ref().map(|note| entry(&self.rule, note))
    }

    fn inverse(&self) -> Self {
        Self {
            rule: self.rule.clone(),
            before: self.after.clone(),
            after: self.before.clone(),
        }
    }
}

/// Steps by list, each rule of a list at most once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    lists: BTreeMap<ListName, Vec<Step>>,
}

/// How much a change changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub added: usize,
    pub removed: usize,
    /// Entries that keep their rule and say something else beside it.
    pub changed: usize,
}

/// What a change does to the rules: what comes in, and what goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleEdits {
    pub added: Vec<Rule>,
    pub removed: Vec<Rule>,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub fn lists(&self) -> impl Iterator<Item = (&ListName, &[Step])> {
        self.lists
            .iter()
            .map(|(name, steps)| (name, steps.as_slice()))
    }

    pub fn steps(&self) -> impl Iterator<Item = (&ListName, &Step)> {
        self.lists()
            .flat_map(|(name, steps)| steps.iter().map(move |step| (name, step)))
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (_, step) in self.steps() {
            match (&step.before, &step.after) {
                (None, _) => counts.added += 1,
                (_, None) => counts.removed += 1,
                (Some(_), Some(_)) => counts.changed += 1,
            }
        }
        counts
    }

    /// Steps that change a rule.
    pub fn rule_edits(&self) -> RuleEdits {
        let mut edits = RuleEdits::default();
        for (_, step) in self.steps() {
            match (&step.before, &step.after) {
                (None, Some(_)) => edits.added.push(step.rule.clone()),
                (Some(_), None) => edits.removed.push(step.rule.clone()),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        edits
    }

    /// The change that undoes this one.
    pub fn inverse(&self) -> Self {
        self.lists()
            .map(|(name, steps)| (name.clone(), steps.iter().map(Step::inverse).collect()))
            .collect()
    }

    /// This change, and then `later`, as one.
    pub fn then(self, later: Self) -> Self {
        let mut all: BTreeMap<ListName, BTreeMap<Rule, Step>> = BTreeMap::new();
        for (name, steps) in self.lists.into_iter().chain(later.lists) {
            let known = all.entry(name).or_default();
            for step in steps {
                match known.entry(step.rule.clone()) {
                    Place::Vacant(place) => drop(place.insert(step)),
                    Place::Occupied(mut place) => place.get_mut().after = step.after,
                }
            }
        }
        all.into_iter()
            .map(|(name, steps)| {
                let steps = steps
                    .into_values()
                    .filter(|step| step.before != step.after)
                    .collect();
                (name, steps)
            })
            .collect()
    }
}

impl FromIterator<(ListName, Vec<Step>)> for Delta {
    fn from_iter<I: IntoIterator<Item = (ListName, Vec<Step>)>>(lists: I) -> Self {
        Self {
            lists: lists
                .into_iter()
                .filter(|(_, steps)| !steps.is_empty())
                .collect(),
        }
    }
}

/// What has to change for `old` to become `new`; both are walked once.
pub(super) fn between(old: Option<&List>, new: Option<&List>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut old = old.into_iter().flat_map(List::items).peekable();
    let mut new = new.into_iter().flat_map(List::items).peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return steps,
        };
        let before = order.is_le().then(|| old.next()).flatten();
        let after = order.is_ge().then(|| new.next()).flatten();
        let Some((rule, _)) = before.or(after) else {
            return steps;
        };
        let before = before.map(|(_, note)| note);
        let after = after.map(|(_, note)| note);
        if before != after {
            steps.push(Step {
                rule: rule.clone(),
                before: before.cloned(),
                after: after.cloned(),
            });
        }
    }
}
