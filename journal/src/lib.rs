//! The tamper-evident record log of both daemons.
//!
//! A [`Journal`] has one writer. Whatever is appended is hash-chained, written in order and made durable by group
//! commit; [`verify`] checks a directory of segments offline and needs nothing but the directory and a public key.
//! A backend operation can be performed only with a [`Recorded`], and only [`Journal::record_intent`] makes one.

pub mod append;
pub mod record;

pub use append::{AppendError, Journal, Options, Pending, PendingIntent, Recovery, Status};
pub use record::{
    AccountKind, Actor, Event, EventKind, Intent, OperationId, RecordId, Recorded, SessionId,
    Verdict,
};
