//! What the agent puts into the journal, before it acts.

use std::{fs, future::Future, pin::Pin};

use chrono::{DateTime, SecondsFormat, Utc};
use portcullis_journal::{AccountKind, Actor, AppendError, Event, EventKind, Journal, Verdict};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    allowlist::{Allowlist, Changes},
    bans::Ban,
    control::peer::Peer,
};

/// Changes named one by one in a record; of a larger change it has the count and the digest of the list.
const MAX_NAMED: usize = 256;

/// Where events are recorded. A seam for tests: the journal is the only real one.
pub trait Recorder: Send {
    /// Puts `event` on record; resolves when it is durable.
    fn record<'a>(
        &'a self,
        event: Event,
    ) -> Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send + 'a>>;

    /// Whether the last write succeeded.
    fn is_healthy(&self) -> bool;
}

impl Recorder for Journal {
    fn record<'a>(
        &'a self,
        event: Event,
    ) -> Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send + 'a>> {
        let pending = self.append(event);
        Box::pin(async move { pending.await.map(drop) })
    }

    fn is_healthy(&self) -> bool {
        self.status().healthy
    }
}

/// A change of the allowlist from `old` by `changes` to `new`.
pub fn allow_change(action: &str, changes: &Changes, new: &Allowlist, by: &Peer) -> Event {
    let named = |prefixes: Vec<String>| {
        if prefixes.len() <= MAX_NAMED {
            json!(prefixes)
        } else {
            json!(prefixes.len())
        }
    };
    let body = object([
        ("action", json!(action)),
        (
            "put",
            named(
                changes
                    .put
                    .iter()
                    .map(|entry| entry.prefix.to_string())
                    .collect(),
            ),
        ),
        (
            "removed",
            named(changes.removed.iter().map(ToString::to_string).collect()),
        ),
        ("entries", json!(new.len())),
        ("list_sha256", json!(digest(new))),
    ]);
    Event {
        user: Some(actor(by)),
        outcome: Some(Verdict::Allow),
        body,
        ..Event::new(EventKind::AllowChange)
    }
}

/// A ban that is made, lifted (`by` someone), or at its end (`by` nobody).
pub fn ban_change(action: &str, ban: &Ban, by: Option<&Peer>) -> Event {
    let body = object([
        ("action", json!(action)),
        ("source", json!(ban.source.to_string())),
        ("expires", json!(time(ban.expires))),
        ("reason", json!(ban.reason)),
    ]);
    Event {
        user: by.map(actor),
        outcome: Some(Verdict::Allow),
        body,
        ..Event::new(EventKind::BanChange)
    }
}

/// The agent begins or ends to serve.
pub fn life(kind: EventKind, details: Map<String, Value>) -> Event {
    let mut body = object([
        ("app", json!("portcullis-agent")),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ]);
    body.extend(details);
    Event {
        body,
        ..Event::new(kind)
    }
}

/// A time as it stands in records and replies.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// SHA-256 of the list as a list file: what `allow list` prints.
pub fn digest(list: &Allowlist) -> String {
    Sha256::digest(list.to_text())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The name of a user of this machine.
pub fn user_name(uid: u32) -> String {
    let name = fs::read_to_string("/etc/passwd").ok().and_then(|users| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    name.unwrap_or_else(|| format!("uid {uid}"))
}

fn actor(peer: &Peer) -> Actor {
    Actor {
        uid: Some(i64::from(peer.uid)),
        name: peer.name.clone(),
        kind: Some(AccountKind::Admin),
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
