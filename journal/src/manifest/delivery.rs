//! What a session left behind of its uploads, by its records.
//!
//! What can't be known for sure keeps its name and loses its digest, with a code that says why.

mod deed;
mod place;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use memchr::memmem::Finder;
use serde_json::Value;

use self::{
    deed::{Deed, Made, Move, unclear},
    place::Place,
};
use super::Entry;
use crate::{EventKind, read::Record, record::untrusted_bytes, token::beginning};

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

/// In intents that change no file by themselves, and are most of all.
static MOVING_DATA: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| {
    ["read", "write"].map(|name| Finder::new(&format!("\"sftp_op\":\"{name}\"")).into_owned())
});

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

    /// Nothing of it comes any more. What was under way when its connection was given up may end later.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && self.pending.is_empty()
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Where the mounts are, as clients see them.
    pub(super) fn mount_points(&self) -> impl Iterator<Item = &[u8]> {
        self.mounts.iter().map(|mount| mount.at.as_slice())
    }

    /// Whether any file was delivered so far.
    pub(super) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// How many things are remembered.
    pub(super) fn remembers(&self) -> usize {
        self.entries.len() + self.links.len() + self.pending.len() + self.writing.len()
    }

    /// Forgets what was done; the times are still good.
    pub(super) fn let_go(&mut self) {
        self.pending = HashMap::new();
        self.writing = HashMap::new();
        self.links = BTreeSet::new();
        // That there is something to tell is known.
        let first = self.entries.pop_first();
        self.entries = first.into_iter().collect();
    }

    /// False only if the line, of that event, changes nothing here but the number of the last record.
    pub(super) fn matters(&self, event: &[u8], line: &[u8]) -> bool {
        let is = |kind: EventKind| event == kind.name().as_bytes();
        if is(EventKind::OperationOutcome) {
            return !self.pending.is_empty();
        }
        if is(EventKind::OperationIntent) {
            return !MOVING_DATA.iter().any(|data| data.find(line).is_some());
        }
        true
    }

    /// Takes the number of a record that does not matter otherwise.
    pub(super) fn touch(&mut self, record: u64) {
        self.last = self.last.max(record);
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
            if is(EventKind::AppStart) && self.is_known() {
                if self.ended.is_none() {
                    self.ended = Some(record.time.clone());
                    self.last = record.seq;
                }
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
            Ended::Done => {
                let made = Made::of(&deed, &record.body);
                self.apply(deed, [seq, record.seq]);
                if let Some((at, made)) = made {
                    self.make(&at, made, [seq, record.seq]);
                }
            }
            Ended::Unsure | Ended::Failed => self.lose(&deed, "unknown_outcome"),
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
        // Of a resumed upload the bytes are those that came in this session.
        let is_whole = text(&record.body, "sha256_source") == Some("stream");
        let entry = Entry {
            path: written.path,
            recorded: None,
            size: integer(record.body.get("size"))
                .or_else(|| integer(record.body.get("bytes")).filter(|_| is_whole)),
            time: record.time.clone(),
            sha256,
            records: vec![record.seq],
        };
        self.entries.insert(written.at, entry);
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
