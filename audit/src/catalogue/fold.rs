//! What records do to the catalogue.

use std::collections::HashMap;

use portcullis_journal::{EventKind, read::Record};
use serde_json::Value;

use super::{Catalogue, Change, Content, Lost, Object, deed::Deed};
use crate::{
    hidden::is_token,
    operations::{bytes, integer, text},
    raw,
};

/// What is remembered of a session.
#[derive(Debug, Default)]
pub(super) struct Session {
    mounts: Option<Vec<MountPoint>>,
    pub(super) pending: HashMap<u64, Pending>,
    /// Files that are open for writing, by handle.
    writing: HashMap<u64, Written>,
}

#[derive(Debug)]
struct MountPoint {
    at: Vec<u8>,
    backend: String,
    directory: Vec<u8>,
    /// On its server: it does not count from the login directory.
    is_absolute: bool,
}

/// What is being uploaded, and whether its backend shows that before it is closed.
#[derive(Debug, Clone)]
struct Written {
    place: Option<Vec<u8>>,
    is_direct: bool,
}

/// An operation that is on record before it is done.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) deed: Deed,
    /// Another one touched the same place meanwhile: which was first, nobody knows.
    pub(super) is_contested: bool,
    by: Change,
}

/// What opens or changes files, as records write it.
const DEEDS: [&str; 11] = [
    "encrypt",
    "open",
    "close",
    "remove",
    "rename",
    "posix_rename",
    "hardlink",
    "symlink",
    "setstat",
    "lsetstat",
    "fsetstat",
];

/// Failures after which nothing has changed; after any other, nobody knows.
const CERTAIN: [&str; 12] = [
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
    "not_authentic",
    "shredded",
];

impl Catalogue {
    /// False only if the line changes nothing here.
    pub fn matters(&self, line: &[u8]) -> bool {
        let Some(event) = raw::EVENT.of(line) else {
            return true;
        };
        let is = |kind: EventKind| event == kind.name().as_bytes();
        if is(EventKind::OperationIntent) {
            let name = raw::OPERATION.of(line).unwrap_or_default();
            return DEEDS.iter().any(|deed| deed.as_bytes() == name);
        }
        if is(EventKind::OperationOutcome) {
            return raw::session(line)
                .and_then(|session| self.sessions.get(&session))
                .is_some_and(|session| !session.pending.is_empty());
        }
        if is(EventKind::AdminAccount) {
            return self.wants_accounts();
        }
        [
            EventKind::SessionMounts,
            EventKind::TransferSummary,
            EventKind::ConnectionClose,
            EventKind::LogBeginAnew,
            EventKind::AppStart,
            EventKind::RestTombstone,
        ]
        .into_iter()
        .any(is)
    }

    /// Takes the next record.
    pub fn hear(&mut self, record: &Record) {
        let is = |kind: EventKind| record.event == kind.name();
        if is(EventKind::LogBeginAnew) {
            self.is_cut = true;
            return;
        }
        if is(EventKind::AppStart) {
            return self.new_run();
        }
        if is(EventKind::RestTombstone) {
            return self.bury(record);
        }
        if is(EventKind::AdminAccount) {
            if self.wants_accounts() {
                self.directories.give(&record.body);
            }
            return;
        }
        let Some(session) = record.session.as_deref().and_then(raw::session_number) else {
            return;
        };
        if is(EventKind::SessionMounts) {
            self.begin(session, record);
        } else if is(EventKind::OperationIntent) {
            self.intent(session, record);
        } else if is(EventKind::OperationOutcome) {
            self.outcome(session, record);
        } else if is(EventKind::TransferSummary) {
            self.summary(session, record);
        } else if is(EventKind::ConnectionClose)
            && let Some(known) = self.sessions.get_mut(&session)
        {
            known.writing.clear();
            if known.pending.is_empty() {
                self.sessions.remove(&session);
            }
        }
    }

    /// They have mounts in clear, where the records of sessions may hide them.
    fn wants_accounts(&self) -> bool {
        self.key.is_some() && self.names.is_none()
    }

    /// A file is destroyed: what stands there afterwards was put there by somebody else.
    fn bury(&mut self, record: &Record) {
        if let Some(set) = text(&record.body, "set") {
            return self.lose_keys(set, record);
        }
        let Some(place) = bytes(&record.body, "path") else {
            return;
        };
        let at = self.name(&place);
        let by = Change {
            user: text(&record.body, "approver")
                .filter(|_| self.names.is_none())
                .map(str::to_owned),
            ..self.change(record)
        };
        if let Some(object) = text(&record.body, "object").and_then(fixed) {
            self.destroyed.insert(object, record.seq);
        }
        let deed = Deed::Remove { at: at.clone() };
        self.contest(&deed);
        self.apply(&deed, &by);
        if self.names.is_none() {
            self.tombstones.insert(at, by);
        }
    }

    /// A set of keys is destroyed. The record of what became of its files names no backends.
    fn lose_keys(&mut self, set: &str, record: &Record) {
        let by = Change {
            user: text(&record.body, "approver").map(str::to_owned),
            ..self.change(record)
        };
        let backends = record.body.get("backends").and_then(Value::as_array);
        for backend in backends.into_iter().flatten().filter_map(Value::as_str) {
            let root = self.name(&self.place(backend, b"/"));
            let lost = Lost {
                set: set.to_owned(),
                by: by.clone(),
            };
            self.lost.insert(root, lost);
        }
    }

    fn begin(&mut self, session: u128, record: &Record) {
        let listed = record.body.get("mounts").and_then(Value::as_array);
        let mounts = listed.into_iter().flatten().map(|mount| MountPoint {
            at: bytes(mount, "at").unwrap_or_default(),
            backend: text(mount, "backend").unwrap_or_default().to_owned(),
            directory: bytes(mount, "directory").unwrap_or_default(),
            is_absolute: mount.get("absolute").and_then(Value::as_bool) == Some(true),
        });
        let mounts: Vec<_> = mounts.collect();
        for mount in &mounts {
            if is_token(&mount.directory) {
                self.directories
                    .hide(&mount.backend, mount.is_absolute, &mount.directory);
                continue;
            }
            let place = self.place(&mount.backend, &mount.directory);
            let directory = match mount.directory.strip_prefix(b"/") {
                Some(below) if !mount.is_absolute => below.to_vec(),
                Some(_) | None => mount.directory.clone(),
            };
            let named = (mount.backend.clone(), directory);
            self.directories
                .clear
                .entry((place, mount.is_absolute))
                .or_insert(named);
        }
        self.sessions.entry(session).or_default().mounts = Some(mounts);
    }

    /// What no outcome was found for has an unknown one.
    fn new_run(&mut self) {
        for (_, session) in std::mem::take(&mut self.sessions) {
            for pending in session.pending.into_values() {
                self.lose(&pending.deed, &pending.by, "unknown_outcome");
            }
        }
    }

    fn intent(&mut self, session: u128, record: &Record) {
        let (Some(operation), Some(name)) = (record.operation, text(&record.body, "sftp_op"))
        else {
            return;
        };
        let by = self.change(record);
        let Some(deed) = self.deed(session, record, name) else {
            return;
        };
        let pending = Pending {
            deed,
            is_contested: false,
            by,
        };
        let known = self.sessions.entry(session).or_default();
        known.pending.insert(operation, pending);
    }

    /// What the intent is about to change; `None` if nothing.
    fn deed(&mut self, session: u128, record: &Record, name: &str) -> Option<Deed> {
        let body = &record.body;
        let handle = integer(body.get("handle_id"));
        let has_size = || {
            body.get("attrs")
                .is_some_and(|attrs| attrs.get("size").is_some())
        };
        match name {
            "open" => {
                let flags = text(body, "flags")?;
                let writes = flags
                    .split(',')
                    .any(|flag| matches!(flag, "write" | "append"));
                let handle = handle.filter(|_| writes)?;
                let (at, is_direct) = self.path(session, record, "path", true);
                let shown = at.clone().filter(|_| is_direct);
                let place = Written {
                    place: at,
                    is_direct,
                };
                let known = self.sessions.entry(session).or_default();
                known.writing.insert(handle, place);
                Some(Deed::Open { handle, at: shown })
            }
            "close" => {
                let known = self.sessions.get(&session)?;
                let at = known.writing.get(&handle?)?.place.clone()?;
                Some(Deed::Publish {
                    at,
                    has_ended: false,
                })
            }
            // Paths of the gateway's own sessions are places.
            "encrypt" => {
                let at = self.name(&bytes(body, "path")?);
                Some(Deed::Encrypt { at })
            }
            // Part of the upload that the handle is.
            "fsetstat" => None,
            "setstat" | "lsetstat" if has_size() => {
                let (at, _) = self.path(session, record, "path", name == "setstat");
                Some(Deed::Cut { at: at? })
            }
            "remove" => {
                let (at, _) = self.path(session, record, "path", false);
                Some(Deed::Remove { at: at? })
            }
            "rename" | "posix_rename" | "hardlink" => {
                let (from, _) = self.path(session, record, "path", false);
                let (to, _) = self.path(session, record, "path2", false);
                let (from, to) = (from?, to?);
                Some(if name == "hardlink" {
                    Deed::HardLink { from, to }
                } else {
                    Deed::Move { from, to }
                })
            }
            "symlink" => {
                let (at, _) = self.path(session, record, "path", false);
                // What is hidden leads nowhere.
                let target = bytes(body, "path2").filter(|target| !is_token(target));
                let at = at?;
                let target = target.filter(|_| !is_token(&at));
                Some(Deed::SymLink { at, target })
            }
            _ => None,
        }
    }

    /// The place that a field of an intent names, over links, and whether its backend shows uploads at once.
    fn path(
        &mut self,
        session: u128,
        record: &Record,
        field: &str,
        follows_last: bool,
    ) -> (Option<Vec<u8>>, bool) {
        let known = self.sessions.get(&session);
        let Some(mounts) = known.and_then(|known| known.mounts.as_ref()) else {
            // Of a version that did not say where mounts lead.
            self.is_cut = true;
            return (None, false);
        };
        let index = integer(record.body.get("mount")).and_then(|index| usize::try_from(index).ok());
        let Some(mount) = index.and_then(|index| mounts.get(index)) else {
            return (None, false);
        };
        let is_direct = self.direct.contains(&mount.backend);
        let place = bytes(&record.body, field)
            .and_then(|path| self.place_of(&mount.backend, &mount.directory, &mount.at, &path));
        let Some(place) = place else {
            return (None, is_direct);
        };
        let resolved = self.resolved(&place, follows_last);
        if resolved.is_none() {
            // Whatever it was done to, it is not known which.
            let by = self.change(record);
            self.forget(&place, &by, "through_a_link");
        }
        (resolved, is_direct)
    }

    fn outcome(&mut self, session: u128, record: &Record) {
        let Some(operation) = record.operation else {
            return;
        };
        let now = self.change(record);
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        let Some(pending) = known.pending.remove(&operation) else {
            return;
        };
        let by = Change {
            user: pending.by.user.clone(),
            session: pending.by.session.clone(),
            time: now.time,
            seq: now.seq,
        };
        let verdict = Ended::of(record);
        if let Deed::Open { handle, at } = &pending.deed {
            if verdict == Ended::Failed {
                known.writing.remove(handle);
            } else if let Some(at) = at {
                self.forget(at, &by, "being_written");
            }
            // Elsewhere the CLOSE publishes.
            return;
        }
        let has_ended = matches!(
            &pending.deed,
            Deed::Publish {
                has_ended: true,
                ..
            }
        );
        if let (Ended::Done, Deed::Encrypt { at }) = (verdict, &pending.deed) {
            let object = object(&record.body).filter(|_| !pending.is_contested);
            if text(&record.body, "state") == Some("encrypted") {
                let sha256 = text(&record.body, "sha256").and_then(fixed);
                let content = sha256.zip(integer(record.body.get("bytes")));
                self.encrypted(at, object, content, &by);
            }
            // A session of the gateway has no end of its own.
            let is_over = |known: &Session| known.mounts.is_none() && known.pending.is_empty();
            if self.sessions.get(&session).is_some_and(is_over) {
                self.sessions.remove(&session);
            }
            return;
        }
        if !has_ended && verdict != Ended::Failed {
            self.contest(&pending.deed);
        }
        match (verdict, &pending.deed) {
            // Its summary has said it.
            (
                Ended::Done | Ended::Failed | Ended::Unsure,
                Deed::Publish {
                    has_ended: true, ..
                },
            ) => {}
            (Ended::Failed, _) => {}
            (Ended::Done, Deed::Publish { .. }) => {
                self.lose(&pending.deed, &by, "no_summary");
            }
            (Ended::Done, deed) if pending.is_contested => self.lose(deed, &by, "concurrent"),
            // It was written anew, and other names of the file that it was keep that.
            (Ended::Done, Deed::Cut { at }) if object(&record.body).is_some() => {
                self.published(at, &record.body, by, "size_changed");
            }
            (Ended::Done, deed) => self.apply(deed, &by),
            (Ended::Unsure, deed) => self.lose(deed, &by, "unknown_outcome"),
        }
    }

    /// An upload or download has ended.
    fn summary(&mut self, session: u128, record: &Record) {
        if text(&record.body, "direction") != Some("upload") {
            return;
        }
        let Some(handle) = integer(record.body.get("handle_id")) else {
            return;
        };
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        let Some(Written {
            place: Some(at),
            is_direct,
        }) = known.writing.remove(&handle)
        else {
            return;
        };
        let mut is_contested = false;
        for pending in known.pending.values_mut() {
            if let Deed::Publish {
                at: own,
                has_ended: ended @ false,
            } = &mut pending.deed
                && *own == at
            {
                *ended = true;
                is_contested |= pending.is_contested;
            }
        }
        let by = self.change(record);
        let deed = Deed::Publish {
            at: at.clone(),
            has_ended: true,
        };
        match Ended::of(record) {
            Ended::Done => {
                self.contest(&deed);
                if is_contested {
                    return self.forget(&at, &by, "concurrent");
                }
                let because = text(&record.body, "sha256_reason").unwrap_or("no_digest");
                self.published(&at, &record.body, by, because);
            }
            Ended::Failed if !is_direct => {}
            Ended::Unsure if !is_direct && record.reason.as_deref() == Some("not_closed") => {}
            Ended::Failed | Ended::Unsure => {
                self.contest(&deed);
                self.forget(&at, &by, "unknown_outcome");
            }
        }
    }
}

impl Catalogue {
    /// A file stands at its place, with what a record says of it.
    fn published(&mut self, at: &[u8], body: &Value, by: Change, because: &str) {
        let object = object(body);
        let is_whole = text(body, "sha256_source") == Some("stream");
        let written = || integer(body.get("bytes")).filter(|_| is_whole);
        let size = integer(body.get("size")).or_else(written);
        match text(body, "sha256").and_then(fixed) {
            Some(sha256) => self.know(at, Content { sha256, size, by }, object),
            None => self.lack(at, &by, because, object),
        }
    }
}

/// How an operation ended, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// Nothing has changed.
    Failed,
    Unsure,
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

impl Catalogue {
    fn change(&self, record: &Record) -> Change {
        let seq = record.seq;
        if self.names.is_some() {
            return Change {
                user: None,
                session: None,
                time: String::new(),
                seq,
            };
        }
        Change {
            user: record.user.as_ref().map(|user| user.name.clone()),
            session: record.session.clone(),
            time: record.time.clone(),
            seq,
        }
    }
}

/// The encrypted file that a record tells of.
fn object(body: &Value) -> Option<Object> {
    text(body.get("enc")?, "dek_id").and_then(fixed)
}

fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
