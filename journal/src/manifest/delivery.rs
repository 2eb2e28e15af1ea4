//! What a session left behind of its uploads, by its records.
//!
//! What can't be known for sure keeps its name and loses its digest, with a code that says why.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use serde_json::Value;

use super::Entry;
use crate::{
    EventKind,
    read::Record,
    record::{HIDDEN, untrusted_bytes},
};

/// Failures after which nothing has changed.
const CERTAIN: [&str; 10] = [
    "not_found",
    "permission_denied",
    "already_exists",
    "not_a_directory",
    "is_a_directory",
    "not_empty",
    "no_space",
    "invalid_handle",
    "invalid_argument",
    "unsupported",
];

/// Follows one session.
#[derive(Debug)]
pub(super) struct Delivery {
    /// 32 hexadecimal digits.
    session: String,
    begun: Option<String>,
    ended: Option<String>,
    user: Option<String>,
    /// Its last record, or the start that came after a crash.
    last: u64,
    mounts: Vec<Mount>,
    has_mounts: bool,
    /// By handle.
    writing: HashMap<u64, Written>,
    /// By operation.
    pending: HashMap<u64, Pending>,
    entries: BTreeMap<Place, Entry>,
    links: BTreeSet<Place>,
}

#[derive(Debug)]
struct Mount {
    at: Vec<u8>,
    backend: String,
    directory: Vec<u8>,
}

/// Where a file lies: two mounts of one directory are one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    backend: String,
    path: Vec<u8>,
    /// The path is made of tokens: its last one may have an extension, which those of a path further down have not.
    is_hidden: bool,
}

#[derive(Debug, Clone)]
struct Written {
    at: Place,
    /// As the record writes it, decoded.
    path: Vec<u8>,
    is_through_link: bool,
}

#[derive(Debug)]
struct Pending {
    deed: Deed,
    /// Another one touched the same place meanwhile: which was first, nobody knows.
    is_contested: bool,
    seq: u64,
}

#[derive(Debug)]
enum Deed {
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
struct Move {
    from: Place,
    to: Place,
    /// The new name as clients see it.
    path: Vec<u8>,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// Nothing has changed.
    Failed,
    Unsure,
}

impl Delivery {
    pub(super) fn of(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            begun: None,
            ended: None,
            user: None,
            last: 0,
            mounts: Vec::new(),
            has_mounts: false,
            writing: HashMap::new(),
            pending: HashMap::new(),
            entries: BTreeMap::new(),
            links: BTreeSet::new(),
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.begun.is_some()
    }

    pub(super) fn has_mounts(&self) -> bool {
        self.has_mounts
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// First and last time, once it has ended.
    pub(super) fn time(&self) -> Option<(&str, &str)> {
        Some((self.begun.as_deref()?, self.ended.as_deref()?))
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Where the mounts are, as clients see them.
    pub(super) fn mount_points(&self) -> impl Iterator<Item = &[u8]> {
        self.mounts.iter().map(|mount| mount.at.as_slice())
    }

    /// By name.
    pub(super) fn into_entries(mut self) -> Vec<Entry> {
        self.lose_pending();
        let mut entries: Vec<Entry> = self.entries.into_values().collect();
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        entries
    }

    /// Takes the next record of the log.
    pub(super) fn hear(&mut self, record: &Record) {
        let is = |kind: EventKind| record.event == kind.name();
        if record.session.as_deref() != Some(&self.session) {
            // The run before ended without saying so.
            if is(EventKind::AppStart) && self.is_known() && self.ended.is_none() {
                self.ended = Some(record.time.clone());
                self.last = record.seq;
                self.lose_pending();
            }
            return;
        }
        self.begun.get_or_insert_with(|| record.time.clone());
        self.last = self.last.max(record.seq);
        if is(EventKind::SessionMounts) {
            self.begin(record);
        } else if is(EventKind::OperationIntent) {
            self.intent(record);
        } else if is(EventKind::OperationOutcome) {
            self.outcome(record);
        } else if is(EventKind::TransferSummary) {
            self.summary(record);
        } else if is(EventKind::ConnectionClose) {
            self.ended.get_or_insert_with(|| record.time.clone());
        }
    }

    fn begin(&mut self, record: &Record) {
        self.has_mounts = true;
        self.user = record.user.as_ref().map(|user| user.name.clone());
        let listed = record.body.get("mounts").and_then(Value::as_array);
        let mounts = listed.into_iter().flatten().map(|mount| Mount {
            at: bytes(mount, "at").unwrap_or_default(),
            backend: text(mount, "backend").unwrap_or_default().to_owned(),
            directory: bytes(mount, "directory").unwrap_or_default(),
        });
        self.mounts = mounts.collect();
    }

    fn intent(&mut self, record: &Record) {
        let (Some(operation), Some(name)) = (record.operation, text(&record.body, "sftp_op"))
        else {
            return;
        };
        if let Some(deed) = self.deed(record, name) {
            let pending = Pending {
                deed,
                is_contested: false,
                seq: record.seq,
            };
            self.pending.insert(operation, pending);
        }
    }

    /// What the intent is about to change; `None` if nothing.
    fn deed(&mut self, record: &Record, name: &str) -> Option<Deed> {
        let body = &record.body;
        let handle = integer(body.get("handle_id"));
        let of = |field| self.place(record, field);
        Some(match name {
            "open" => {
                let flags = text(body, "flags")?;
                let writes = flags
                    .split(',')
                    .any(|flag| matches!(flag, "write" | "append"));
                let handle = handle.filter(|_| writes)?;
                let path = bytes(body, "path")?;
                let at = of("path").unwrap_or_else(|| Place::of(b"", "", &path).with(&path));
                let is_through_link = self.is_link(&at) || self.is_below_link(&at);
                self.writing.insert(
                    handle,
                    Written {
                        at,
                        path,
                        is_through_link,
                    },
                );
                Deed::Open { handle }
            }
            "close" => {
                let written = self.writing.get(&handle?)?;
                Deed::Publish {
                    at: written.at.clone(),
                    has_ended: false,
                }
            }
            "setstat" | "lsetstat" => {
                body.get("attrs")?.get("size")?;
                match of("path") {
                    Some(at) if !(self.is_below_link(&at) || self.is_link(&at)) => Deed::Cut { at },
                    at => unclear(at.as_ref()),
                }
            }
            "remove" => match of("path") {
                Some(at) if !self.is_below_link(&at) => Deed::Remove { at },
                at => unclear(at.as_ref()),
            },
            "symlink" => match of("path") {
                Some(at) if !self.is_below_link(&at) => Deed::SymLink { at },
                at => unclear(at.as_ref()),
            },
            "rename" | "posix_rename" | "hardlink" => {
                let path = bytes(body, "path2")?;
                match (of("path"), of("path2")) {
                    (Some(from), Some(to))
                        if !self.is_below_link(&from) && !self.is_below_link(&to) =>
                    {
                        if name == "hardlink" {
                            Deed::HardLink { from, to }
                        } else {
                            Deed::Move(Box::new(Move { from, to, path }))
                        }
                    }
                    (from, to) => unclear(from.as_ref().and(to.as_ref())),
                }
            }
            _ => return None,
        })
    }

    fn place(&self, record: &Record, field: &str) -> Option<Place> {
        let index = integer(record.body.get("mount"))?;
        let mount = self.mounts.get(usize::try_from(index).ok()?)?;
        let path = bytes(&record.body, field)?;
        let rest = path.strip_prefix(beginning(&mount.at))?;
        (rest.is_empty() || rest.starts_with(b"/"))
            .then(|| Place::of(&mount.directory, &mount.backend, &path).with(rest))
    }

    fn is_link(&self, at: &Place) -> bool {
        self.links.contains(at)
    }

    fn is_below_link(&self, at: &Place) -> bool {
        self.links.iter().any(|link| link.is_above(at))
    }

    fn outcome(&mut self, record: &Record) {
        let Some(Pending {
            deed,
            is_contested,
            seq,
        }) = record
            .operation
            .and_then(|operation| self.pending.remove(&operation))
        else {
            return;
        };
        let ended = Ended::of(record);
        if let Deed::Open { handle } = deed {
            if ended == Ended::Failed {
                self.writing.remove(&handle);
            } else if let Some(written) = self.writing.get(&handle).cloned() {
                // Until its CLOSE says what is there.
                self.doubt(&written.at, "written_again");
            }
            return;
        }
        let is_told = matches!(
            deed,
            Deed::Publish {
                has_ended: true,
                ..
            }
        );
        if ended == Ended::Failed || is_told {
            return;
        }
        self.contest(&deed);
        match ended {
            Ended::Done if is_contested => self.lose(&deed, "concurrent"),
            Ended::Done => self.apply(deed, [seq, record.seq]),
            Ended::Unsure | Ended::Failed => self.lose(&deed, "unknown_outcome"),
        }
    }

    fn apply(&mut self, deed: Deed, records: [u64; 2]) {
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

    fn doubt(&mut self, at: &Place, because: &str) {
        for at in self.at_or_below(at) {
            if let Some(entry) = self.entries.get_mut(&at) {
                entry.sha256 = Err(because.to_owned());
            }
        }
    }

    fn doubt_all(&mut self, because: &str) {
        for entry in self.entries.values_mut() {
            entry.sha256 = Err(because.to_owned());
        }
    }

    fn lose(&mut self, deed: &Deed, because: &str) {
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

    fn lose_pending(&mut self) {
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
    fn contest(&mut self, deed: &Deed) {
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

    /// An upload or download has ended.
    fn summary(&mut self, record: &Record) {
        if text(&record.body, "direction") != Some("upload") {
            return;
        }
        let Some(written) =
            integer(record.body.get("handle_id")).and_then(|handle| self.writing.remove(&handle))
        else {
            return;
        };
        let mut is_contested = false;
        for pending in self.pending.values_mut() {
            if let Deed::Publish {
                at,
                has_ended: ended @ false,
            } = &mut pending.deed
                && *at == written.at
            {
                *ended = true;
                is_contested |= pending.is_contested;
            }
        }
        if record.outcome.as_deref() != Some("success") {
            return;
        }
        self.contest(&Deed::Publish {
            at: written.at.clone(),
            has_ended: true,
        });
        if written.is_through_link {
            self.doubt_all("through_a_link");
        }
        let why = text(&record.body, "sha256_reason").filter(|why| is_code(why));
        let why = why.unwrap_or("no_digest");
        let sha256 = match text(&record.body, "sha256").and_then(digest) {
            Some(_) if written.is_through_link => Err("through_a_link".to_owned()),
            Some(_) if is_contested => Err("concurrent".to_owned()),
            Some(sha256) => Ok(sha256),
            None => Err(why.to_owned()),
        };
        // Of a resumed upload the record has only what came in this session.
        let is_whole = text(&record.body, "sha256_source") == Some("stream");
        let entry = Entry {
            path: written.path,
            recorded: None,
            size: integer(record.body.get("bytes")).filter(|_| is_whole),
            time: record.time.clone(),
            sha256,
            records: vec![record.seq],
        };
        self.entries.insert(written.at, entry);
    }
}

fn unclear(at: Option<&Place>) -> Deed {
    Deed::Unclear {
        because: if at.is_some() {
            "through_a_link"
        } else {
            "place_unknown"
        },
    }
}

impl Deed {
    fn places(&self) -> Vec<&Place> {
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

impl Place {
    /// The directory of a mount; `path` only tells whether names are hidden.
    fn of(directory: &[u8], backend: &str, path: &[u8]) -> Self {
        let directory = beginning(directory);
        let begin = directory.iter().position(|&byte| byte == b'/');
        let named = directory.get(begin.unwrap_or(directory.len())..);
        Self {
            backend: backend.to_owned(),
            path: named.unwrap_or_default().to_vec(),
            is_hidden: is_token(path),
        }
    }

    fn with(mut self, rest: &[u8]) -> Self {
        self.path.extend_from_slice(rest);
        self
    }

    /// What lies `rest` below it.
    fn with_below(self, rest: &[u8]) -> Self {
        let path = [self.beginning(), rest].concat();
        Self { path, ..self }
    }

    /// As it stands in what is below it.
    fn beginning(&self) -> &[u8] {
        if self.is_hidden {
            without_extension(&self.path)
        } else {
            &self.path
        }
    }

    /// What `other` has behind this place; `None` if it does not lie at or below it.
    fn rest<'a>(&self, other: &'a Self) -> Option<&'a [u8]> {
        if self == other {
            return Some(b"");
        }
        if self.backend != other.backend {
            return None;
        }
        let rest = other.path.strip_prefix(self.beginning())?;
        rest.starts_with(b"/").then_some(rest)
    }

    fn is_above(&self, other: &Self) -> bool {
        self.rest(other).is_some_and(|rest| !rest.is_empty())
    }
}

impl Ended {
    fn of(record: &Record) -> Self {
        let reason = record.reason.as_deref().unwrap_or_default();
        match record.outcome.as_deref() {
            Some("success") => Self::Done,
            Some("failure") if CERTAIN.contains(&reason) => Self::Failed,
            Some(_) | None => Self::Unsure,
        }
    }
}

/// Whether this stands in place of a path.
pub(super) fn is_token(path: &[u8]) -> bool {
    path.starts_with(HIDDEN.as_bytes())
}

/// A path as it stands in what is below it: `/` is empty, and a token has no extension.
pub(super) fn beginning(path: &[u8]) -> &[u8] {
    let path = if is_token(path) {
        without_extension(path)
    } else {
        path
    };
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Tokens have no dot in them.
fn without_extension(path: &[u8]) -> &[u8] {
    let name = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let last = path.get(name..).unwrap_or_default();
    match last.iter().position(|&byte| byte == b'.') {
        Some(at) if at > 0 => path.get(..name + at).unwrap_or(path),
        Some(_) | None => path,
    }
}

fn text<'a>(body: &'a Value, field: &str) -> Option<&'a str> {
    body.get(field)?.as_str()
}

fn bytes(body: &Value, field: &str) -> Option<Vec<u8>> {
    untrusted_bytes(text(body, field)?)
}

fn integer(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}
