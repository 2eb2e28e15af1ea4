//! What the records of an operation don't repeat: an outcome stands without the path of its intent, a READ without that of its
//! handle.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use portcullis_journal::{
    EventKind,
    read::{Record, User},
    record::untrusted_bytes,
};
use serde::Serialize;
use serde_json::Value;

use crate::{hidden::as_recorded, raw};

/// Intents without an outcome, and open handles, that are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 1 << 16;

/// What a record is about, also where another record says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deed {
    /// As the record writes it: `open`, `read`.
    pub operation: Option<String>,
    pub path: Option<Vec<u8>>,
    /// The new name, or the target of a link.
    pub path2: Option<Vec<u8>>,
    pub handle: Option<u64>,
    pub offset: Option<u64>,
    /// Asked for.
    pub length: Option<u64>,
    /// The intent that an outcome belongs to.
    pub intent: Option<u64>,
    /// Of the intent, for an outcome that a later run of the gateway wrote.
    pub user: Option<User>,
    pub source: Option<IpAddr>,
}

/// A deed as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sftp_op: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path2: Option<Value>,
}

impl Deed {
    /// What the record itself says.
    pub fn of(record: &Record) -> Self {
        let path = |field| bytes(&record.body, field);
        let number = |field| integer(record.body.get(field));
        Self {
            operation: text(&record.body, "sftp_op").map(str::to_owned),
            path: path("path"),
            path2: path("path2"),
            handle: number("handle_id"),
            offset: number("offset"),
            length: number("len"),
            intent: None,
            user: None,
            source: None,
        }
    }

    pub(crate) fn told(&self) -> Told<'_> {
        let path = |path: &Option<Vec<u8>>| path.as_deref().map(as_recorded);
        Told {
            seq: self.intent,
            sftp_op: self.operation.as_deref(),
            path: path(&self.path),
            path2: path(&self.path2),
        }
    }

    fn opens(&self) -> bool {
        self.handle.is_some() && self.path.is_some()
    }
}

/// A text of a record's body.
pub fn text<'a>(body: &'a Value, field: &str) -> Option<&'a str> {
    body.get(field)?.as_str()
}

/// A peer's text of a record's body.
pub fn bytes(body: &Value, field: &str) -> Option<Vec<u8>> {
    untrusted_bytes(text(body, field)?)
}

/// An integer, which the canonical form writes as text where it is large.
pub fn integer(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

/// Intents that wait for their outcome and handles that are open, by session.
#[derive(Debug, Default)]
pub struct Operations {
    sessions: HashMap<u128, Session>,
    intents: VecDeque<(u128, u64)>,
    handles: VecDeque<(u128, u64)>,
}

#[derive(Debug, Default)]
struct Session {
    intents: HashMap<u64, Deed>,
    /// Paths.
    handles: HashMap<u64, Vec<u8>>,
}

impl Operations {
    /// True if something of the line's session is remembered.
    pub(crate) fn know_session_of(&self, line: &[u8]) -> bool {
        !self.sessions.is_empty()
            && raw::session(line).is_some_and(|session| self.sessions.contains_key(&session))
    }

    /// Says what the record is about. `remember` is asked of an intent, by its deed.
    pub fn observe(&mut self, record: &Record, remember: impl FnOnce(&Deed) -> bool) -> Deed {
        let mut deed = Deed::of(record);
        let Some(session) = record.session.as_deref().and_then(raw::session_number) else {
            return deed;
        };
        if record.event == EventKind::OperationOutcome.name() {
            return self.ended(session, record).unwrap_or(deed);
        }
        let opens = deed.handle.filter(|_| deed.opens());
        if opens.is_none()
            && let Some(handle) = deed.handle
        {
            let known = self.sessions.get(&session);
            deed.path = known.and_then(|session| session.handles.get(&handle).cloned());
        }
        if record.event == EventKind::OperationIntent.name() && remember(&deed) {
            self.began(session, record, &deed, opens);
        }
        deed
    }

    fn began(&mut self, session: u128, record: &Record, deed: &Deed, opens: Option<u64>) {
        let Some(operation) = record.operation else {
            return;
        };
        let mut deed = deed.clone();
        deed.intent = Some(record.seq);
        deed.user.clone_from(&record.user);
        deed.source = record.source.map(|source| source.ip);
        let known = self.sessions.entry(session).or_default();
        if let (Some(handle), Some(path)) = (opens, &deed.path) {
            known.handles.insert(handle, path.clone());
            self.handles.push_back((session, handle));
        }
        known.intents.insert(operation, deed);
        self.intents.push_back((session, operation));
        if self.intents.len() > REMEMBERED
            && let Some((session, operation)) = self.intents.pop_front()
        {
            self.forget(session, |known| {
                known.intents.remove(&operation);
            });
        }
        if self.handles.len() > REMEMBERED
            && let Some((session, handle)) = self.handles.pop_front()
        {
            self.forget(session, |known| {
                known.handles.remove(&handle);
            });
        }
    }

    fn ended(&mut self, session: u128, record: &Record) -> Option<Deed> {
        let deed = self
            .sessions
            .get_mut(&session)?
            .intents
            .remove(&record.operation?)?;
        let operation = deed.operation.as_deref().unwrap_or_default();
        let failed = record.outcome.as_deref() == Some("failure");
        let is_gone =
            operation == "close" || failed && deed.opens() && operation.starts_with("open");
        let is_gone = is_gone || operation == "check_file_name";
        self.forget(session, |known| {
            if let Some(handle) = deed.handle.filter(|_| is_gone) {
                known.handles.remove(&handle);
            }
        });
        Some(deed)
    }

    fn forget(&mut self, session: u128, forget: impl FnOnce(&mut Session)) {
        if let Some(known) = self.sessions.get_mut(&session) {
            forget(known);
            if known.intents.is_empty() && known.handles.is_empty() {
                self.sessions.remove(&session);
            }
        }
    }
}
