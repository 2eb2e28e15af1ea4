//! What a record says, and its canonical form.

use std::net::SocketAddr;

use serde_json::{Map, Value};

/// Position of a record in its log: 0 for the first, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

/// One connection to a gateway, 128 random bits; written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

/// One operation of a session; the intent and its outcome carry the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// The kind of event, written as the dotted name beside each variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// `app.start`
    AppStart,
    /// `app.stop`
    AppStop,
    /// `conn.open`
    ConnectionOpen,
    /// `conn.close`
    ConnectionClose,
    /// `auth.step`: one method tried; never carries the code or the password.
    AuthStep,
    /// `auth.result`
    AuthResult,
    /// `op.intent`
    OperationIntent,
    /// `op.outcome`
    OperationOutcome,
    /// `op.denied`: refused by policy or by the parser before there was an intent.
    OperationDenied,
    /// `channel.refused`: a channel or channel request other than the SFTP subsystem.
    ChannelRefused,
    /// `xfer.summary`
    TransferSummary,
    /// `allow.change`
    AllowChange,
    /// `ban.change`
    BanChange,
    /// `admin.account`
    AdminAccount,
    /// `log.start`
    LogStart,
    /// `log.stop`
    LogStop,
    /// `log.gap`: bytes dropped from a torn tail at recovery.
    LogGap,
    /// `log.disk`: the log could not be written, or can be again.
    LogDisk,
    /// `log.rotate`
    LogRotate,
}

/// How a recorded thing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allow,
    Deny,
    Success,
    Failure,
    Unknown,
}

/// What kind of account acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountKind {
    Human,
    Machine,
    Admin,
    BreakGlass,
}

/// Who acted. `uid` is absent while the name is only claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub uid: Option<i64>,
    pub name: String,
    pub kind: Option<AccountKind>,
}

/// One thing to record. The envelope (sequence number, time, node, chain hash) is added by the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    pub outcome: Option<Verdict>,
    /// A code such as `bad_password`, not a sentence.
    pub reason: Option<String>,
    pub session: Option<SessionId>,
    pub operation: Option<OperationId>,
    pub user: Option<Actor>,
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
    /// The event's own fields. Bytes from a peer go through [`untrusted`].
    pub body: Map<String, Value>,
}

impl Event {
    /// An event with nothing but its kind.
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            outcome: None,
            reason: None,
            session: None,
            operation: None,
            user: None,
            source: None,
            destination: None,
            body: Map::new(),
        }
    }
}

/// Bytes from a peer as a JSON string: UTF-8 as it is, anything else as `b64:` and base64.
///
/// A UTF-8 string that itself begins with `b64:` is encoded too, so that the two forms can't be confused.
pub fn untrusted(bytes: &[u8]) -> Value {
    use base64::Engine as _;
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("b64:") => Value::String(text.to_owned()),
        _ => Value::String(format!(
            "b64:{}",
            base64::engine::general_purpose::STANDARD.encode(bytes)
        )),
    }
}

/// Something that may be done once it is on record.
pub trait Intent {
    /// The `op.intent` event that announces it.
    fn event(&self) -> Event;
}

/// Proof that an intent is durable. Only [`Journal::record_intent`](crate::Journal::record_intent) makes one.
#[derive(Debug)]
pub struct Recorded<I> {
    intent: I,
    id: RecordId,
}

impl<I> Recorded<I> {
    pub(crate) fn new(intent: I, id: RecordId) -> Self {
        Self { intent, id }
    }

    /// What is on record.
    pub fn intent(&self) -> &I {
        &self.intent
    }

    /// Gives up the proof for what it covers.
    pub fn into_intent(self) -> I {
        self.intent
    }

    /// Where the record stands.
    pub fn id(&self) -> RecordId {
        self.id
    }
}
