//! How operations ended, as records.

use std::time::Duration;

use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::{Event, EventKind, OperationId, Verdict, record::untrusted};
use serde_json::Value;

use crate::{
    backend::BackendError,
    operation::{Outcome, Stored, Tended},
    policy::{Requester, encryption},
    status::Status,
};

/// The record of an operation's end, `op.outcome`. `written` are the bytes of a WRITE, or that several others moved.
pub(super) fn outcome_event(
    requester: &Requester,
    id: OperationId,
    result: &Result<Outcome, BackendError>,
    written: Option<usize>,
    latency: Duration,
) -> Event {
    let mut event = requester.event(EventKind::OperationOutcome);
    event.operation = Some(id);
    let status = match result {
        Ok(outcome) => {
            event.outcome = Some(Verdict::Success);
            let bytes = if let Outcome::Data(data) = outcome {
                Some(data.len())
            } else {
                written
            };
            if let Some(bytes) = bytes {
                event.body.insert("bytes".into(), bytes.into());
            }
            if let Outcome::Tended(tended) = outcome {
                event.body.insert("state".into(), tended.name().into());
                if let Tended::Encrypted {
                    sha256,
                    bytes,
                    object,
                } = tended
                {
                    event
                        .body
                        .insert("sha256".into(), hex::encode(sha256).into());
                    event.body.insert("bytes".into(), (*bytes).into());
                    event.body.insert("enc".into(), encryption(*object));
                }
            }
            Status::from(outcome)
        }
        Err(error) => {
            event.outcome = Some(Verdict::Failure);
            event.reason = Some(error.kind.code().to_owned());
            event
                .body
                .insert("error".into(), untrusted(error.message.as_bytes()));
            event
                .body
                .insert("origin".into(), error.origin.code().into());
            Status::from(error)
        }
    };
    event.body.insert("status".into(), status.name().into());
    let latency = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    event.body.insert("latency_us".into(), latency.into());
    event
}

/// An operation that is no upload has made a file of another.
pub(super) fn tell_published(event: &mut Event, sha256: Option<[u8; 32]>, stored: &Stored) {
    let mut field = |name: &str, value: Value| event.body.insert(name.to_owned(), value);
    field("enc", encryption(stored.object));
    field("size", stored.size.into());
    if let Some(sha256) = sha256 {
        field("sha256", hex::encode(sha256).into());
        field("sha256_source", "reread".into());
    }
}

/// Where digests come from: what the journal says, or the file's bytes.
pub(super) fn tell_source(event: &mut Event, told_by: Option<OnRecord>) {
    let source = if told_by.is_some() { "journal" } else { "read" };
    event.body.insert("source".into(), source.into());
    if let Some(told_by) = told_by {
        event.body.insert("record".into(), told_by.record.into());
    }
}
