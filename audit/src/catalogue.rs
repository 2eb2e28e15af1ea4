//! What should lie on the backends, by what a log says was done to them.
//!
//! Pure: records in, judgements out. What can't be known for sure is [`Judgement::Unverified`] and never a finding: an operation
//! whose outcome is unknown, a change that is under way, content without a hash.
//!
//! Places are paths `/<backend>/<path below its root>`, one namespace for all backends: two mounts of one directory are one
//! place. With a [`PathKey`] all of them are kept as tokens, so that records that hide names count too.

mod deed;
mod directories;
mod fold;
mod names;
mod place;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use self::{
    directories::Directories,
    fold::Session,
    names::{Entry, Names},
    place::ancestors,
};
pub use self::{
    place::{clean, joined},
    reader::Reader,
};
use crate::hidden::{PathKey, is_token};

/// Earlier contents of a place that are remembered.
const EARLIER: usize = 16;

/// A change, and who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub user: Option<String>,
    /// 32 hexadecimal digits.
    pub session: Option<String>,
    /// As records write it.
    pub time: String,
    /// Number of the record.
    pub seq: u64,
}

/// A content that was on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub sha256: [u8; 32],
    /// Bytes, if the log says how many.
    pub size: Option<u64>,
    pub by: Change,
}

/// What should lie at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Known(Content),
    /// It was removed, or has another name.
    Gone(Change),
    /// A link; what lies at its end is another place.
    Link(Change),
    Unknown {
        since: Change,
        /// A code.
        because: String,
    },
}

impl State {
    /// SHA-256 and size in bytes.
    fn content(&self) -> Option<([u8; 32], u64)> {
        match self {
            Self::Known(content) => Some((content.sha256, content.size?)),
            Self::Gone(_) | Self::Link(_) | Self::Unknown { .. } => None,
        }
    }

    fn change(&self) -> &Change {
        match self {
            Self::Known(content) => &content.by,
            Self::Gone(change) | Self::Link(change) | Self::Unknown { since: change, .. } => change,
        }
    }
}

#[derive(Debug, Clone)]
struct Place {
    state: State,
    /// Oldest first.
    earlier: Vec<Content>,
    /// Record that put it here: a rename does not change who wrote it.
    placed: u64,
    /// Number of the hard link that made it one of several names.
    linked: Option<u64>,
    /// The encrypted file that it is.
    object: Option<Object>,
}

/// Id of an encrypted file, which it keeps under all its names.
pub type Object = [u8; 16];

/// An operation that asks what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Its session's number, as a number.
    pub session: u128,
    pub operation: u64,
}

/// What an encrypted file was when it was published. It never changes: what is changed is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnRecord {
    pub sha256: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// Number of the record that says so.
    pub record: u64,
}

/// Whether an encrypted file lies where it was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// With its content, where that is on record.
    Fits(Option<OnRecord>),
    /// Another one was put there, by the record of this number.
    Other(u64),
    /// No record says which one was.
    Unsaid,
    /// Something is under way there.
    Changing,
}

/// A set of keys that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub set: String,
    /// By whose word.
    pub by: Change,
}

/// What was found at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    Content(&'a [u8; 32]),
    Link,
    Nothing,
}

/// What is found, beside what should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Sound,
    /// Nobody can say; a code.
    Unverified(String),
    Finding(Finding),
}

/// A place is not as the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: FindingKind,
    /// The last good state, or the removal.
    pub last: Option<Change>,
    /// What should be there.
    pub expected: Option<[u8; 32]>,
    /// The earlier state that is there again.
    pub earlier: Option<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    Altered,
    Missing,
    /// No record explains the file.
    Unknown,
    /// The content is one that the place, or the file, had before.
    RolledBack,
    /// It can't be read.
    Unreadable,
}

impl FindingKind {
    pub const ALL: [Self; 5] = [
        Self::Altered,
        Self::Missing,
        Self::Unknown,
        Self::RolledBack,
        Self::Unreadable,
    ];

    /// The word in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::RolledBack => "rolled_back",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Folds records into what should lie where.
#[derive(Debug, Default)]
pub struct Catalogue {
    key: Option<PathKey>,
    /// Where the roots of backends are, by their names.
    roots: HashMap<String, Vec<u8>>,
    /// Backends that show an upload before it is closed.
    direct: HashSet<String>,
    sessions: HashMap<u128, Session>,
    places: BTreeMap<Vec<u8>, Place>,
    /// Directories below which nothing is known since then.
    trees: BTreeMap<Vec<u8>, (Change, String)>,
    /// Targets of links, at their places in clear or as tokens.
    links: HashMap<Vec<u8>, Option<Vec<u8>>>,
    next_link: u64,
    /// In the place of `places` where only names are asked for: not who or when, and nothing of what is gone.
    names: Option<Names>,
    /// Places whose file was destroyed, by whose word.
    tombstones: BTreeMap<Vec<u8>, Change>,
    /// Encrypted files that were, by which record.
    destroyed: HashMap<Object, u64>,
    /// Roots of backends whose keys were destroyed.
    lost: BTreeMap<Vec<u8>, Lost>,
    directories: Directories,
    is_cut: bool,
}

impl Catalogue {
    /// `roots` are the places of backends' roots where they are not `/<name>`: one that lies in another's directory. `direct` are
    /// the backends that show an upload before it is closed.
    pub fn new(
        key: Option<PathKey>,
        roots: impl IntoIterator<Item = (String, Vec<u8>)>,
        direct: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            key,
            roots: roots.into_iter().collect(),
            direct: direct.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The same, for [`named`](Self::named) alone: it takes less memory, and none for what was removed.
    #[must_use]
    pub fn lean(self) -> Self {
        Self {
            names: Some(Names::default()),
            ..self
        }
    }

    /// The log does not begin with the first file: what no record explains may have been there before.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The place of a path below a backend's root, in clear.
    pub fn place(&self, backend: &str, path: &[u8]) -> Vec<u8> {
        joined(&self.root(backend), path)
    }

    /// As the place is kept, and as findings say it.
    pub fn name(&self, place: &[u8]) -> Vec<u8> {
        match &self.key {
            Some(key) if !is_token(place) => key.token(place).into_bytes(),
            Some(_) | None => place.to_vec(),
        }
    }

    /// What should lie at a place, and below it: those of which the content is known.
    pub fn known_below(&self, place: &[u8]) -> Vec<(&[u8], &Content)> {
        self.range(&self.name(place))
            .filter_map(|(at, entry)| match &entry.state {
                State::Known(content) => Some((at.as_slice(), content)),
                State::Gone(_) | State::Link(_) | State::Unknown { .. } => None,
            })
            .collect()
    }

    /// What should lie there; `None` where no record says anything.
    pub fn state(&self, place: &[u8]) -> Option<&State> {
        Some(&self.places.get(&self.name(place))?.state)
    }

    /// Number of the record that last put something there, or took it away.
    pub fn placed(&self, place: &[u8]) -> Option<u64> {
        Some(self.places.get(&self.name(place))?.placed)
    }

    /// Whether the encrypted file that lies at a place was put there, by what is on record and done.
    pub fn named(&self, place: &[u8], object: &Object) -> Named {
        self.named_to(None, place, object)
    }

    /// As [`named`](Self::named), for an operation that is on record itself and has changed nothing yet.
    pub fn named_to(&self, asker: Option<Asker>, place: &[u8], object: &Object) -> Named {
        if let Some(record) = self.destroyed.get(object) {
            return Named::Other(*record);
        }
        let Some(place) = self.resolved(&self.name(place), true) else {
            return Named::Unsaid;
        };
        if self.is_changing_beside(asker, &place) {
            return Named::Changing;
        }
        let entry = match &self.names {
            Some(names) => names.get(&place),
            None => self.places.get(&place).and_then(Place::entry),
        };
        let lost = self.tree_of(&place);
        match entry {
            Some(entry) if lost.is_some_and(|(since, _)| entry.placed < since.seq) => Named::Unsaid,
            Some(entry) if entry.object == *object => Named::Fits(entry.on_record()),
            Some(entry) => Named::Other(entry.record),
            None => Named::Unsaid,
        }
    }

    /// Places whose file was destroyed and that have no other since, and by whose word.
    pub fn shredded(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        let gone = |at: &[u8], by: &Change| {
            let state = self.places.get(at).map(|place| &place.state);
            matches!(state, Some(State::Gone(last)) if last.seq == by.seq)
        };
        self.tombstones
            .iter()
            .filter(move |(at, by)| gone(at, by))
            .map(|(at, by)| (at.as_slice(), by))
    }

    /// The keys of what lies there, or should, if they were destroyed since it was put there.
    pub fn lost(&self, place: &[u8]) -> Option<&Lost> {
        if self.lost.is_empty() {
            return None;
        }
        let name = self.name(place);
        let entry = self.places.get(&name)?;
        match entry.state {
            State::Known(_) | State::Unknown { .. } => {}
            State::Gone(_) | State::Link(_) => return None,
        }
        ancestors(&name)
            .filter_map(|above| self.lost.get(above))
            .filter(|lost| entry.placed < lost.by.seq)
            .max_by_key(|lost| lost.by.seq)
    }

    /// What was found at a place beside what the log says.
    pub fn judge(&self, place: &[u8], found: Found<'_>) -> Judgement {
        let place = self.name(place);
        if self.is_changing(&place) {
            return Judgement::Unverified("changing".to_owned());
        }
        let entry = self.places.get(&place);
        if let Some((since, because)) = self.tree_of(&place)
            && entry.is_none_or(|entry| entry.placed < since.seq)
        {
            return Judgement::Unverified(because.clone());
        }
        let Some(entry) = entry else {
            return match found {
                Found::Nothing => Judgement::Sound,
                Found::Content(_) | Found::Link if self.is_cut => {
                    Judgement::Unverified("log_is_cut".to_owned())
                }
                Found::Content(_) | Found::Link => finding(FindingKind::Unknown, None),
            };
        };
        match (&entry.state, found) {
            (State::Known(content), Found::Content(sha256)) if content.sha256 == *sha256 => {
                Judgement::Sound
            }
            (State::Known(_) | State::Gone(_), Found::Content(sha256)) => entry.differs(sha256),
            (State::Known(_), Found::Link) => entry.finding(FindingKind::Altered, None),
            (State::Known(_), Found::Nothing) => entry.finding(FindingKind::Missing, None),
            (State::Gone(_), Found::Nothing) | (State::Link(_), Found::Link) => Judgement::Sound,
            (State::Gone(_), Found::Link) | (State::Link(_), Found::Content(_)) => {
                entry.finding(FindingKind::Unknown, None)
            }
            (State::Link(_), Found::Nothing) => Judgement::Unverified("link".to_owned()),
            (State::Unknown { because, .. }, Found::Content(_) | Found::Link | Found::Nothing) => {
                Judgement::Unverified(because.clone())
            }
        }
    }

    /// A file that can't be read: a finding if its content should be known.
    pub fn judge_unreadable(&self, place: &[u8]) -> Judgement {
        let name = self.name(place);
        match self.places.get(&name) {
            Some(entry) if matches!(entry.state, State::Known(_)) && !self.is_changing(&name) => {
                entry.finding(FindingKind::Unreadable, None)
            }
            Some(_) | None => Judgement::Unverified("unreadable".to_owned()),
        }
    }

    /// Of the youngest directory above that nothing is known of.
    fn tree_of(&self, place: &[u8]) -> Option<&(Change, String)> {
        if self.trees.is_empty() {
            return None;
        }
        ancestors(place)
            .filter_map(|above| self.trees.get(above))
            .max_by_key(|(since, _)| since.seq)
    }
}

impl Place {
    /// What names need of it.
    fn entry(&self) -> Option<Entry> {
        Some(Entry {
            object: self.object?,
            content: self.state.content(),
            record: self.state.change().seq,
            placed: self.placed,
        })
    }

    fn differs(&self, found: &[u8; 32]) -> Judgement {
        let earlier = self.earlier.iter().rev();
        let earlier = earlier
            .filter(|content| content.sha256 == *found)
            .map(|content| content.by.clone())
            .next();
        let kind = match (&earlier, &self.state) {
            (Some(_), _) => FindingKind::RolledBack,
            (None, State::Gone(_)) => FindingKind::Unknown,
            (None, State::Known(_) | State::Link(_) | State::Unknown { .. }) => {
                FindingKind::Altered
            }
        };
        self.finding(kind, earlier)
    }

    fn finding(&self, kind: FindingKind, earlier: Option<Change>) -> Judgement {
        Judgement::Finding(Finding {
            kind,
            last: Some(self.state.change().clone()),
            expected: match &self.state {
                State::Known(content) => Some(content.sha256),
                State::Gone(_) | State::Link(_) | State::Unknown { .. } => None,
            },
            earlier,
        })
    }

    /// All contents that it is or was known to have.
    fn contents(self) -> Vec<Content> {
        let mut contents = self.earlier;
        if let State::Known(content) = self.state {
            contents.push(content);
        }
        contents
    }
}

fn finding(kind: FindingKind, last: Option<Change>) -> Judgement {
    Judgement::Finding(Finding {
        kind,
        last,
        expected: None,
        earlier: None,
    })
}
