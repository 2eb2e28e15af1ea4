//! The tamper-evident record log of both daemons.
//!
//! A [`Journal`] has one writer. Whatever is appended is hash-chained, written in order and made durable by group
//! commit; [`verify`] checks a directory of segments offline and needs nothing but the directory and a public key.
//! A backend operation can be performed only with a [`Recorded`], and only [`Journal::record_intent`] makes one.

#![forbid(unsafe_code)]

pub mod append;
mod chain;
mod checked;
pub mod cosigned;
pub mod disk;
pub mod growth;
mod keeper;
mod line;
pub mod manifest;
mod operations;
mod passage;
mod position;
pub mod proof;
mod queue;
pub mod read;
pub mod record;
pub mod recover;
pub mod retention;
mod sealed;
mod segment;
pub mod tiles;
pub mod token;
pub mod tree;
pub mod verify;
pub mod witness;
mod writer;

pub use append::{
    AppendError, Journal, OpenError, Options, Pending, PendingIntent, Recovery, Status, Urgency,
    Veil,
};
#[cfg(any(test, feature = "fault-injection"))]
pub use chain::Moment;
pub use record::{
    AccountKind, Actor, Covers, Event, EventKind, Intent, OperationId, RecordId, Recorded,
    SessionId, Verdict,
};

#[cfg(test)]
mod tests;
