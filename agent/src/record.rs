//! What the agent puts into the journal, before it acts.

use std::{fs, future::Future, net::SocketAddr, pin::Pin};

use chrono::{DateTime, SecondsFormat, Utc};
use portcullis_journal::{AccountKind, Actor, AppendError, Event, EventKind, Journal, Verdict};
use serde_json::{Map, Value, json};

use crate::{
    bans::Ban,
    control::peer::{Identity, Peer},
    lists::Delta,
};

/// Entries named one by one in a record; of a larger change it has the counts, and the state directory has the entries.
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

/// Why someone asked for a change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grounds<'a> {
    pub reason: Option<&'a str>,
    pub ticket: Option<&'a str>,
}

/// A change of the lists to `revision`, or what is done with one that waits for its confirmation.
pub fn allow_change(
    action: &str,
    revision: u64,
    delta: &Delta,
    grounds: Grounds<'_>,
    by: &Peer,
) -> Event {
    let counts = delta.counts();
    let mut body = object([
        ("action", json!(action)),
        ("revision", json!(revision)),
        ("added", json!(counts.added)),
        ("removed", json!(counts.removed)),
        ("changed", json!(counts.changed)),
    ]);
    if counts.added + counts.removed + counts.changed <= MAX_NAMED {
        let steps: Vec<Value> = delta
            .steps()
            .map(|(list, step)| json!({ "list": list, "before": step.before(), "after": step.after() }))
            .collect();
        body.insert("steps".to_owned(), json!(steps));
    }
    body.extend(grounds.fields());
    Event {
        user: actor(by),
        source: address(by),
        outcome: Some(Verdict::Allow),
        body,
        ..Event::new(EventKind::AllowChange)
    }
}

/// A ban that is made, lifted, or at its end.
pub fn ban_change(action: &str, ban: &Ban, grounds: Grounds<'_>, by: &Peer) -> Event {
    let mut body = object([
        ("action", json!(action)),
        ("source", json!(ban.source.to_string())),
        ("expires", json!(time(ban.expires))),
        ("reason", json!(ban.reason)),
    ]);
    if let Some(ticket) = grounds.ticket {
        body.insert("ticket".to_owned(), json!(ticket));
    }
    if let Some(reason) = grounds.reason.filter(|reason| *reason != ban.reason) {
        body.insert("lifted_because".to_owned(), json!(reason));
    }
    Event {
        user: actor(by),
        source: address(by),
        outcome: Some(Verdict::Allow),
        body,
        ..Event::new(EventKind::BanChange)
    }
}

/// A change that is on record and was not made after all.
pub fn not_made(kind: EventKind, action: &str, error: &str) -> Event {
    Event {
        outcome: Some(Verdict::Failure),
        body: object([("action", json!(action)), ("error", json!(error))]),
        ..Event::new(kind)
    }
}

impl Grounds<'_> {
    fn fields(self) -> impl Iterator<Item = (String, Value)> {
        let field =
            |name: &str, text: Option<&str>| text.map(|text| (name.to_owned(), json!(text)));
        field("reason", self.reason)
            .into_iter()
            .chain(field("ticket", self.ticket))
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

fn actor(peer: &Peer) -> Option<Actor> {
    let uid = match peer.identity {
        Identity::Process { uid, .. } => Some(i64::from(uid)),
        Identity::Certificate { .. } => None,
        Identity::Agent => return None,
    };
    Some(Actor {
        uid,
        name: peer.name.clone(),
        kind: Some(AccountKind::Admin),
    })
}

fn address(peer: &Peer) -> Option<SocketAddr> {
    match peer.identity {
        Identity::Certificate { address, .. } => Some(address),
        Identity::Process { .. } | Identity::Agent => None,
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
