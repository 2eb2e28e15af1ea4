//! What a record says, and its canonical form.

mod canonical;

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use canonical::{Draft, Frame, Identity};

/// Position of a record in its log: 0 for the first, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

/// One connection to a gateway, 128 random bits; written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(#[serde(with = "hex")] pub [u8; 16]);

/// One operation of a session; the intent and its outcome carry the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// `session.mounts`: where the paths of a session lead.
    SessionMounts,
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
    /// `rest.finding`: a stored file is not what was stored.
    RestFinding,
    /// `rest.verify`: what a look at stored files found.
    RestVerify,
    /// `rest.rotation`: the keys of stored files were wrapped to others.
    RestRotation,
    /// `rest.migration`: stored files were encrypted.
    RestMigration,
    /// `rest.tombstone`: the key of a stored file is destroyed.
    RestTombstone,
    /// `manifest.written`: what a session delivered was written down and signed, or could not be.
    ManifestWritten,
    /// `allow.change`
    AllowChange,
    /// `ban.change`
    BanChange,
    /// `admin.account`
    AdminAccount,
    /// `admin.break_glass`: a sealed account was opened, closed or reviewed, or someone was refused as its custodian.
    AdminBreakGlass,
    /// `admin.review`: someone signed for what he saw of a period.
    AdminReview,
    /// `config.change`: another configuration came into force, or was refused.
    ConfigChange,
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
    /// `log.verify`: what a look at the log found.
    LogVerify,
    /// `log.key`: another key signs the log from here on.
    LogKey,
    /// `log.clock`: the host's clock was set.
    LogClock,
    /// `log.begin_anew`: the log before can't be gone on with and was put aside.
    LogBeginAnew,
    /// `log.hold`: a legal hold was laid or released.
    LogHold,
    /// `log.delete`: records that are too old are about to be deleted.
    LogDelete,
    /// `log.read`: someone asked the log a question.
    LogRead,
    /// `log.sink`: records were not sent to a collector, or are sent again.
    LogSink,
    /// `log.witness`: a witness cosigns the log, does not answer, or refuses it.
    LogWitness,
    /// `log.alert`: a rule says that somebody should hear of records.
    LogAlert,
}

impl EventKind {
    /// The dotted name that stands in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::AppStart => "app.start",
            Self::AppStop => "app.stop",
            Self::ConnectionOpen => "conn.open",
            Self::ConnectionClose => "conn.close",
            Self::AuthStep => "auth.step",
            Self::AuthResult => "auth.result",
            Self::SessionMounts => "session.mounts",
            Self::OperationIntent => "op.intent",
            Self::OperationOutcome => "op.outcome",
            Self::OperationDenied => "op.denied",
            Self::ChannelRefused => "channel.refused",
            Self::TransferSummary => "xfer.summary",
            Self::RestFinding => "rest.finding",
            Self::RestVerify => "rest.verify",
            Self::RestRotation => "rest.rotation",
            Self::RestMigration => "rest.migration",
            Self::RestTombstone => "rest.tombstone",
            Self::ManifestWritten => "manifest.written",
            Self::AllowChange => "allow.change",
            Self::BanChange => "ban.change",
            Self::AdminAccount => "admin.account",
            Self::AdminBreakGlass => "admin.break_glass",
            Self::AdminReview => "admin.review",
            Self::ConfigChange => "config.change",
            Self::LogStart => "log.start",
            Self::LogStop => "log.stop",
            Self::LogGap => "log.gap",
            Self::LogDisk => "log.disk",
            Self::LogRotate => "log.rotate",
            Self::LogVerify => "log.verify",
            Self::LogKey => "log.key",
            Self::LogBeginAnew => "log.begin_anew",
            Self::LogClock => "log.clock",
            Self::LogHold => "log.hold",
            Self::LogDelete => "log.delete",
            Self::LogRead => "log.read",
            Self::LogSink => "log.sink",
            Self::LogWitness => "log.witness",
            Self::LogAlert => "log.alert",
        }
    }
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

impl Verdict {
    /// The word that stands in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }
}

/// What kind of account acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountKind {
    Human,
    Machine,
    Admin,
    BreakGlass,
}

impl AccountKind {
    /// The word that stands in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Machine => "machine",
            Self::Admin => "admin",
            Self::BreakGlass => "breakglass",
        }
    }
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
/// A UTF-8 string is encoded too when it begins with `b64:` or [`HIDDEN`], so that no form can be taken for another, or when it holds
/// what JSON leaves unescaped and a terminal, a line reader or an eye could misread: DEL, C1 controls, line and
/// paragraph separators, bidirectional overrides. [`untrusted_bytes`] is the way back.
pub fn untrusted(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text)
            if !text.starts_with(ENCODED)
                && !text.starts_with(HIDDEN)
                && !text.contains(is_deceptive) =>
        {
            Value::String(text.to_owned())
        }
        Ok(_) | Err(_) => Value::String(format!("{ENCODED}{}", BASE64.encode(bytes))),
    }
}

/// The bytes that [`untrusted`] was given; `None` for text that it can't have made.
pub fn untrusted_bytes(text: &str) -> Option<Vec<u8>> {
    match text.strip_prefix(ENCODED) {
        Some(encoded) => BASE64.decode(encoded).ok(),
        None => Some(text.as_bytes().to_vec()),
    }
}

const ENCODED: &str = "b64:";

/// Stands before what a log says in place of a path that it must not say in clear.
pub const HIDDEN: &str = "hmac:";

fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Something that may be done once it is on record.
pub trait Intent {
    /// The `op.intent` event that announces it.
    fn event(&self) -> Event;
}

/// An intent that announces several acts at once.
pub trait Covers<I>: Intent {
    /// True if `act` is one of those that this intent announced.
    fn covers(&self, act: &I) -> bool;
}

/// Proof that an intent is durable, by a record of its own or one that covers it. Only
/// [`Journal::record_intent`](crate::Journal::record_intent) begins one.
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

    /// The proof for an act that this intent covers.
    ///
    /// # Errors
    /// The act itself, if it is not covered.
    pub fn cover<A>(&self, act: A) -> Result<Recorded<A>, A>
    where
        I: Covers<A>,
    {
        if self.intent.covers(&act) {
            Ok(Recorded::new(act, self.id))
        } else {
            Err(act)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_readable() {
        assert_eq!(
            untrusted(b"/inbox/M\xc3\xbcller.csv"),
            "/inbox/M\u{fc}ller.csv"
        );
    }

    #[test]
    fn what_could_deceive_a_reader_is_encoded_and_comes_back() {
        for bytes in [
            &b"\xff\xfe"[..],
            b"b64:AAAA",
            b"hmac:/AAAA",
            "a\u{2028}b".as_bytes(),
            "\u{9b}31m".as_bytes(),
            "\u{202e}fdp".as_bytes(),
        ] {
            let Value::String(text) = untrusted(bytes) else {
                panic!("not a string")
            };
            assert!(text.starts_with("b64:"), "{text}");
            assert_eq!(untrusted_bytes(&text).as_deref(), Some(bytes));
        }
    }
}
