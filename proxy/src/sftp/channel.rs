//! Serves one channel: a task that reads, decides and runs, and a task that writes.
//!
//! The reading task never waits for the writing one. What is between them is bounded by credit instead: a request holds
//! its place until its reply is written, a READ begins only when its bytes fit into the channel's
//! [`Credit`](crate::session::Credit), and a WRITE that
//! doesn't fit stops the reading until earlier ones are done.

mod engine;
#[cfg(test)]
mod tests;
mod writer;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_journal::{EventKind, Verdict};
use tokio_util::sync::CancellationToken;

use self::engine::Engine;
use super::framing::FramingError;
use crate::{
    gate::Gate,
    session::{Activity, Budget},
};

/// Requests without a written reply; a client that goes beyond doesn't read its replies, and the channel ends.
pub const MAX_REQUESTS: usize = 8192;
/// The channel ends when a WRITE has waited for credit for so long without anything having happened.
const STALL_DEADLINE: Duration = Duration::from_secs(300);
/// How long the requests that have arrived may run on once the client has closed the channel.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// Where a channel's bytes come from.
pub trait Source: Send {
    /// The next bytes, or `None` after the last. Cancel-safe: dropped before it resolves, it has taken nothing.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;

    /// Resolves once the peer takes no replies either; asked only after the last bytes.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;
}

/// Where a channel's bytes go.
pub trait Sink: Send {
    /// Resolves once the bytes are on their way; `false` if nothing can be sent any more. Never dropped before it resolves
    /// unless the channel is given up.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

/// Why a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    #[error("the client closed the channel")]
    ClosedByClient,
    #[error("the client closed the channel inside a packet")]
    CutPacket,
    #[error("{0}")]
    Framing(FramingError),
    #[error("the first packet is not INIT, or a later one is")]
    NotInit,
    #[error("the client speaks version {version}; 3 is served")]
    Version { version: u32 },
    #[error("a packet has no request id to answer to")]
    NoRequestId,
    #[error("more than {MAX_REQUESTS} requests without a reply that was read")]
    TooManyRequests,
    #[error("the backend did not take what was written within the deadline")]
    Stalled,
    #[error("the session was ended")]
    Cancelled,
    #[error("the connection is gone")]
    ConnectionLost,
    #[error("an internal error; the log has it")]
    Internal,
}

impl Ended {
    /// The code that records carry.
    pub fn code(self) -> &'static str {
        match self {
            Self::ClosedByClient => "closed_by_client",
            Self::CutPacket => "cut_packet",
            Self::Framing(_) => "framing",
            Self::NotInit => "not_init",
            Self::Version { .. } => "version",
            Self::NoRequestId => "no_request_id",
            Self::TooManyRequests => "too_many_requests",
            Self::Stalled => "stalled",
            Self::Cancelled => "cancelled",
            Self::ConnectionLost => "connection_lost",
            Self::Internal => "internal",
        }
    }

    /// True if what has arrived is still carried out. Where the client doesn't take its replies, or the backend its data, it
    /// would only wait.
    fn drains(self) -> bool {
        match self {
            Self::ClosedByClient
            | Self::CutPacket
            | Self::Framing(_)
            | Self::NotInit
            | Self::Version { .. }
            | Self::NoRequestId
            | Self::ConnectionLost => true,
            Self::TooManyRequests | Self::Stalled | Self::Cancelled | Self::Internal => false,
        }
    }

    /// True if the client broke the protocol: that is put on record by itself.
    fn is_violation(self) -> bool {
        match self {
            Self::CutPacket
            | Self::Framing(_)
            | Self::NotInit
            | Self::Version { .. }
            | Self::NoRequestId
            | Self::TooManyRequests
            | Self::Stalled => true,
            Self::ClosedByClient | Self::Cancelled | Self::ConnectionLost | Self::Internal => false,
        }
    }
}

/// Serves SFTP until the channel ends, `cancel` is triggered, or the client breaks the protocol. When this resolves, what
/// was open is on record as not closed, and every backend has withdrawn what was not published.
pub async fn serve_frames<R, W>(
    source: R,
    sink: W,
    gate: impl Into<Arc<Gate>>,
    activity: Activity,
    budget: Budget,
    cancel: CancellationToken,
) -> Ended
where
    R: Source + 'static,
    W: Sink + 'static,
{
    let gate = gate.into();
    let engine = Engine::new(Arc::clone(&gate), activity, &budget);
    // A task of its own, so that a panic ends the channel and not the withdrawal of what it left open.
    let serving = tokio::spawn(engine.serve(source, sink, cancel));
    let ended = serving.await.unwrap_or(Ended::Internal);
    if ended.is_violation() {
        gate.deny(ended.code(), &ended.to_string(), serde_json::Map::new());
    }
    gate.end().await;
    ended
}

/// The record of an intent that was not carried out, or whose end nobody waited for.
fn unfinished(
    gate: &Gate,
    operation: portcullis_journal::OperationId,
    outcome: Verdict,
    reason: &str,
) {
    let mut event = gate.requester().event(EventKind::OperationOutcome);
    event.operation = Some(operation);
    event.outcome = Some(outcome);
    event.reason = Some(reason.to_owned());
    gate.append(event);
}
