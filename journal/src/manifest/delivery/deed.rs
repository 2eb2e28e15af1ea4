//! What deeds do to files.

use std::ops::Bound;

use serde_json::Value;

use super::{Delivery, digest, integer, place::Place, text};
use crate::token::beginning;

#[derive(Debug)]
pub(super) enum Deed {
    Open {
        handle: u64,
    },
    Publish {
        at: Place,
        has_ended: bool,
    },
    Remove {
        at: Place,
    },
    Move(Box<Move>),
    HardLink {
        from: Place,
        to: Place,
    },
    SymLink {
        at: Place,
    },
    Cut {
        at: Place,
    },
    /// Somewhere behind a link, or in no mount.
    Unclear {
        because: &'static str,
    },
}

#[derive(Debug)]
pub(super) struct Move {
    pub(super) from: Place,
    pub(super) to: Place,
    /// The new name as clients see it.
    pub(super) path: Vec<u8>,
}

impl Deed {
    pub(super) fn places(&self) -> Vec<&Place> {
        match self {
            Self::Publish { at, .. }
            | Self::Remove { at }
            | Self::SymLink { at }
            | Self::Cut { at } => vec![at],
            Self::Move(step) => vec![&step.from, &step.to],
            Self::HardLink { from, to } => vec![from, to],
            Self::Open { .. } | Self::Unclear { .. } => Vec::new(),
        }
    }
}

pub(super) fn unclear(at: Option<&Place>) -> Deed {
    Deed::Unclear {
        because: if at.is_some() {
            "through_a_link"
        } else {
            "place_unknown"
        },
    }
}

/// What an encrypted file is that a SETSTAT made of another: the gateway has read it.
#[derive(Debug)]
pub(super) struct Made {
    sha256: [u8; 32],
    /// Bytes.
    size: u64,
}

impl Made {
    /// `None` where the outcome does not vouch for the content.
    pub(super) fn of(deed: &Deed, outcome: &Value) -> Option<(Place, Self)> {
        let Deed::Cut { at } = deed else {
            return None;
        };
        outcome.get("enc")?;
        let sha256 = text(outcome, "sha256").and_then(digest)?;
        let size = integer(outcome.get("size"))?;
        Some((at.clone(), Self { sha256, size }))
    }
}

impl Delivery {
    /// What was delivered under this name is another file, which is known too.
    pub(super) fn make(&mut self, at: &Place, made: Made, records: [u64; 2]) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.sha256 = Ok(made.sha256);
            entry.size = Some(made.size);
            entry.records.extend(records);
        }
    }

    pub(super) fn apply(&mut self, deed: Deed, records: [u64; 2]) {
        match deed {
            Deed::Open { .. } => {}
            Deed::Publish { at, .. } => self.doubt(&at, "no_summary"),
            Deed::Remove { at } => {
                self.entries.remove(&at);
                self.links.remove(&at);
            }
            Deed::Cut { at } => self.doubt(&at, "size_changed"),
            // Whoever writes under one of the names may change the other.
            Deed::HardLink { from, to } => {
                self.doubt(&from, "hard_link");
                self.entries.remove(&to);
            }
            Deed::SymLink { at } => {
                self.entries.remove(&at);
                self.links.insert(at);
            }
            Deed::Move(step) => self.rename(&step, records),
            Deed::Unclear { because } => self.doubt_all(because),
        }
    }

    fn rename(&mut self, step: &Move, records: [u64; 2]) {
        let Move { from, to, path } = step;
        if from == to {
            return;
        }
        let leaving = self.at_or_below(from);
        let leaving: Vec<_> = leaving
            .into_iter()
            .filter_map(|at| self.entries.remove(&at).map(|entry| (at, entry)))
            .collect();
        self.entries.remove(to);
        for (at, mut entry) in leaving {
            let rest = from.rest(&at).unwrap_or_default().to_vec();
            let new = if rest.is_empty() {
                entry.path.clone_from(path);
                to.clone()
            } else {
                entry.path = [beginning(path), &rest].concat();
                to.clone().with_below(&rest)
            };
            entry.records.extend(records);
            self.entries.insert(new, entry);
        }
        let links = std::mem::take(&mut self.links);
        for link in links {
            let rest = from.rest(&link).map(<[u8]>::to_vec);
            self.links.insert(match rest {
                Some(rest) if rest.is_empty() => to.clone(),
                Some(rest) => to.clone().with_below(&rest),
                None => link,
            });
        }
    }

    fn at_or_below(&self, at: &Place) -> Vec<Place> {
        let begin = at.beginning();
        let bound = |end: &[u8], is_hidden| Place {
            backend: at.backend.clone(),
            path: [begin, end].concat(),
            is_hidden,
        };
        // The byte behind a slash.
        let range = (
            Bound::Included(bound(b"/", false)),
            Bound::Excluded(bound(b"0", false)),
        );
        let below = self.entries.range(range).map(|(at, _)| at.clone());
        let itself = self.entries.contains_key(at).then(|| at.clone());
        itself.into_iter().chain(below).collect()
    }

    pub(super) fn doubt(&mut self, at: &Place, because: &str) {
        for at in self.at_or_below(at) {
            if let Some(entry) = self.entries.get_mut(&at) {
                entry.sha256 = Err(because.to_owned());
            }
        }
    }

    pub(super) fn doubt_all(&mut self, because: &str) {
        for entry in self.entries.values_mut() {
            entry.sha256 = Err(because.to_owned());
        }
    }

    pub(super) fn lose(&mut self, deed: &Deed, because: &str) {
        if let Deed::Unclear { because } = deed {
            return self.doubt_all(because);
        }
        for at in deed.places() {
            let at = at.clone();
            self.doubt(&at, because);
        }
        if let Deed::SymLink { at } = deed {
            self.links.insert(at.clone());
        }
    }

    pub(super) fn lose_pending(&mut self) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            let is_told = matches!(
                pending.deed,
                Deed::Publish {
                    has_ended: true,
                    ..
                }
            );
            if !is_told {
                self.lose(&pending.deed, "unknown_outcome");
            }
        }
    }

    /// Others that are under way at the same place can't be put in order any more.
    pub(super) fn contest(&mut self, deed: &Deed) {
        for pending in self.pending.values_mut() {
            let touches = |own: &Place| {
                let mut others = pending.deed.places().into_iter();
                others.any(|other| own.rest(other).is_some() || other.rest(own).is_some())
            };
            if deed.places().into_iter().any(touches) {
                pending.is_contested = true;
            }
        }
    }
}
