//! What deeds do to places.

use std::{collections::BTreeMap, ops::Bound};

use super::{
    Asker, Catalogue, Change, Content, EARLIER, Object, Place, State,
    names::{Entry, Renamed},
};
use crate::{file::moved, hidden::base, pattern::is_at_or_below};

/// What an operation does to places.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Publish {
        at: Vec<u8>,
        has_ended: bool,
    },
    Remove {
        at: Vec<u8>,
    },
    Move {
        from: Vec<u8>,
        to: Vec<u8>,
    },
    HardLink {
        from: Vec<u8>,
        to: Vec<u8>,
    },
    SymLink {
        at: Vec<u8>,
        target: Option<Vec<u8>>,
    },
    Cut {
        at: Vec<u8>,
    },
    Open {
        handle: u64,
        /// Where the backend shows at once what is written.
        at: Option<Vec<u8>>,
    },
    /// By the gateway itself, which keeps the content.
    Encrypt {
        at: Vec<u8>,
    },
}

impl Deed {
    fn places(&self) -> Vec<&[u8]> {
        match self {
            Self::Publish { at, .. }
            | Self::Remove { at }
            | Self::SymLink { at, .. }
            | Self::Cut { at }
            | Self::Encrypt { at } => vec![at],
            Self::Move { from, to } | Self::HardLink { from, to } => vec![from, to],
            // Elsewhere the CLOSE changes the place.
            Self::Open { at, .. } => at.iter().map(Vec::as_slice).collect(),
        }
    }

    fn touches(&self, place: &[u8]) -> bool {
        self.places()
            .into_iter()
            .any(|own| is_at_or_below(place, own) || is_at_or_below(own, place))
    }
}

impl Catalogue {
    /// Others that are under way at the same place can't be put in order any more.
    pub(super) fn contest(&mut self, deed: &Deed) {
        for session in self.sessions.values_mut() {
            for pending in session.pending.values_mut() {
                let is_itself = matches!(
                    &pending.deed,
                    Deed::Publish {
                        has_ended: true,
                        ..
                    }
                );
                if !is_itself && deed.places().iter().any(|at| pending.deed.touches(at)) {
                    pending.is_contested = true;
                }
            }
        }
    }

    pub(super) fn is_changing(&self, place: &[u8]) -> bool {
        self.is_changing_beside(None, place)
    }

    /// By another operation than the one that asks.
    pub(super) fn is_changing_beside(&self, asker: Option<Asker>, place: &[u8]) -> bool {
        let of = |asker: Asker, session| (asker.session == session).then_some(asker.operation);
        let mut pending = self.sessions.iter().flat_map(|(&number, session)| {
            let own = asker.and_then(|asker| of(asker, number));
            let others = session.pending.iter();
            others.filter(move |(operation, _)| own != Some(**operation))
        });
        pending.any(|(_, pending)| pending.deed.touches(place))
    }

    pub(super) fn apply(&mut self, deed: &Deed, by: &Change) {
        match deed {
            Deed::Publish { at, .. } => self.forget(at, by, "no_summary"),
            Deed::Open { .. } | Deed::Encrypt { .. } => {}
            Deed::Remove { at } => self.put(at, State::Gone(by.clone()), by.seq, None),
            Deed::Cut { at } => {
                let group = self.places.get(at).and_then(|place| place.linked);
                self.forget(at, by, "size_changed");
                self.forget_group(group, by);
            }
            Deed::SymLink { at, target } => {
                self.put(at, State::Link(by.clone()), by.seq, None);
                self.links.insert(Self::link_name(at), target.clone());
            }
            Deed::HardLink { from, to } if self.names.is_some() => {
                let entry = self.names.as_ref().and_then(|names| names.get(from));
                let placed = by.seq;
                self.note(to, entry.map(|entry| Entry { placed, ..entry }));
            }
            Deed::HardLink { from, to } => {
                let Some(mut place) = self.places.get(from).cloned() else {
                    return self.forget(to, by, "linked_to_unknown");
                };
                let group = place.linked.unwrap_or(self.next_link);
                self.next_link += 1;
                place.linked = Some(group);
                if let Some(from) = self.places.get_mut(from) {
                    from.linked = Some(group);
                }
                self.install(to, place, by);
            }
            Deed::Move { from, to } => self.rename(from, to, by),
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8], by: &Change) {
        if from == to {
            return;
        }
        if self.names.is_some() {
            return self.rename_names(from, to, by);
        }
        let below: Vec<Vec<u8>> = self.range(from).map(|(at, _)| at.clone()).collect();
        if !below.iter().any(|at| at == from) && self.places.contains_key(to) {
            self.forget(to, by, "from_unknown");
        }
        let tree = self.tree_of(from).is_some();
        let mut arriving = Vec::new();
        for at in below {
            let is_lost = self.tree_of(&at).map(|(since, _)| since.seq);
            let (Some(mut place), Some(new)) = (self.places.remove(&at), moved(&at, from, to))
            else {
                continue;
            };
            if matches!(place.state, State::Gone(_)) {
                self.places.insert(at, place);
                continue;
            }
            let left = Place {
                state: State::Gone(by.clone()),
                earlier: place.clone().contents(),
                placed: by.seq,
                linked: None,
                object: None,
            };
            self.places.insert(at, left);
            if is_lost.is_some_and(|since| place.placed < since) {
                let state = State::Unknown {
                    since: by.clone(),
                    because: "from_unknown".to_owned(),
                };
                place.earlier = place.clone().contents();
                place.state = state;
                place.object = None;
            }
            arriving.push((new, place));
        }
        for (new, place) in arriving {
            self.install(&new, place, by);
        }
        self.rename_trees_and_links(from, to, by, tree);
    }

    fn rename_names(&mut self, from: &[u8], to: &[u8], by: &Change) {
        let above = self.tree_of(from);
        let below = Self::link_name(from);
        let below = self
            .trees
            .iter()
            .filter(|(at, _)| is_at_or_below(at, &below));
        let lost = above
            .into_iter()
            .chain(below.map(|(_, tree)| tree))
            .map(|(since, _)| since.seq.saturating_sub(1))
            .max();
        let tree = above.is_some();
        let (from_below, to_below) = (Self::link_name(from), Self::link_name(to));
        let renamed = [(from, &from_below), (to, &to_below)];
        let [old, new] = renamed.map(|(file, directory)| Renamed { file, directory });
        if let Some(names) = &mut self.names {
            names.rename(old, new, by.seq, lost.unwrap_or_default());
        }
        self.links.remove(&to_below);
        self.rename_trees_and_links(from, to, by, tree);
    }

    fn rename_trees_and_links(&mut self, from: &[u8], to: &[u8], by: &Change, tree: bool) {
        if tree {
            let tree = (by.clone(), "from_unknown".to_owned());
            self.trees.insert(Self::link_name(to), tree);
        }
        let trees: BTreeMap<_, _> = std::mem::take(&mut self.trees);
        for (at, tree) in trees {
            let at = moved(&at, base(from), base(to)).unwrap_or(at);
            self.trees.insert(at, tree);
        }
        let links = std::mem::take(&mut self.links);
        for (at, target) in links {
            let at = moved(&at, base(from), base(to)).unwrap_or(at);
            self.links.insert(at, target);
        }
    }

    /// The outcome is not known.
    pub(super) fn lose(&mut self, deed: &Deed, by: &Change, because: &str) {
        if let Deed::Encrypt { at } = deed {
            return self.encrypted(at, None, None, by);
        }
        for at in deed.places() {
            self.forget(at, by, because);
        }
        if let Deed::Move { from, to } = deed {
            for at in [from, to] {
                let tree = (by.clone(), because.to_owned());
                self.trees.insert(Self::link_name(at), tree);
            }
        }
        if let Deed::SymLink { at, .. } = deed {
            self.links.insert(Self::link_name(at), None);
        }
    }

    /// The same content is another stored file. What that content is, the gateway has seen; of a file from before the log it
    /// vouches for nothing but the name.
    pub(super) fn encrypted(
        &mut self,
        at: &[u8],
        object: Option<Object>,
        content: Option<([u8; 32], u64)>,
        by: &Change,
    ) {
        if self.names.is_some() {
            let entry = object.map(|object| Entry {
                object,
                content,
                record: by.seq,
                placed: by.seq,
            });
            self.note(at, entry);
        } else if let Some(place) = self.places.get_mut(at) {
            place.object = object;
        }
    }

    pub(super) fn know(&mut self, at: &[u8], content: Content, object: Option<Object>) {
        let seq = content.by.seq;
        self.put(at, State::Known(content), seq, object);
    }

    pub(super) fn forget(&mut self, at: &[u8], since: &Change, because: &str) {
        self.lack(at, since, because, None);
    }

    /// The content is not known, unless it is that of the same encrypted file.
    pub(super) fn lack(
        &mut self,
        at: &[u8],
        since: &Change,
        because: &str,
        object: Option<Object>,
    ) {
        let known = self.names.as_ref().and_then(|names| names.get(at));
        if let Some(known) = known.filter(|known| Some(known.object) == object) {
            let placed = since.seq;
            return self.note(at, Some(Entry { placed, ..known }));
        }
        if let Some(place) = self.places.get_mut(at)
            && object.is_some()
            && place.object == object
        {
            place.placed = since.seq;
            return;
        }
        let state = State::Unknown {
            since: since.clone(),
            because: because.to_owned(),
        };
        self.put(at, state, since.seq, object);
    }

    /// Other names of a file that was changed in place.
    pub(super) fn forget_group(&mut self, group: Option<u64>, since: &Change) {
        let Some(group) = group else { return };
        let names: Vec<_> = self
            .places
            .iter()
            .filter(|(_, place)| place.linked == Some(group))
            .map(|(at, _)| at.clone())
            .collect();
        for at in names {
            self.forget(&at, since, "size_changed");
        }
    }

    fn put(&mut self, at: &[u8], state: State, placed: u64, object: Option<Object>) {
        if self.names.is_some() {
            let entry = object.map(|object| Entry {
                object,
                content: state.content(),
                record: state.change().seq,
                placed,
            });
            return self.note(at, entry);
        }
        let place = Place {
            state,
            earlier: Vec::new(),
            placed,
            linked: None,
            object,
        };
        self.replace(at, place);
    }

    /// In the place of [`replace`](Self::replace), for names.
    fn note(&mut self, at: &[u8], entry: Option<Entry>) {
        if !self.links.is_empty() {
            self.links.remove(&Self::link_name(at));
        }
        match (&mut self.names, entry) {
            (Some(names), Some(entry)) => names.put(at, &entry),
            (Some(names), None) => drop(names.remove(at)),
            (None, _) => {}
        }
    }

    fn install(&mut self, at: &[u8], mut place: Place, by: &Change) {
        place.placed = by.seq;
        self.replace(at, place);
    }

    /// What was there before stays in mind.
    fn replace(&mut self, at: &[u8], mut place: Place) {
        if !matches!(place.state, State::Link(_)) && !self.links.is_empty() {
            self.links.remove(&Self::link_name(at));
        }
        if let Some(before) = self.places.remove(at) {
            let mut earlier = before.contents();
            earlier.append(&mut place.earlier);
            place.earlier = earlier;
        }
        let too_many = place.earlier.len().saturating_sub(EARLIER);
        place.earlier.drain(..too_many);
        self.places.insert(at.to_vec(), place);
    }

    /// The place and all below it.
    pub(super) fn range(&self, place: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Place)> {
        let itself = self.places.get_key_value(place);
        let begin = Self::link_name(place);
        let from = [begin.as_slice(), b"/"].concat();
        // The byte behind a slash.
        let until = [begin.as_slice(), b"0"].concat();
        let below = self
            .places
            .range::<Vec<u8>, _>((Bound::Included(from), Bound::Excluded(until)));
        itself.into_iter().chain(below)
    }
}
