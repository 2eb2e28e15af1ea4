//! The first and the last record of a run.

use std::{io, net::SocketAddr};

use portcullis_journal::{AppendError, Event, EventKind, Journal, OperationId, SessionId, Verdict};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::config::Config;

/// `app.start`, durable when this returns.
pub(super) async fn started(
    journal: &Journal,
    config: &Config,
    addresses: &[SocketAddr],
) -> Result<(), AppendError> {
    let exceptions: Vec<Value> = config
        .plaintext_exceptions()
        .map(|(backend, exception)| {
            json!({
                "backend": backend,
                "what": "plaintext",
                "reason": exception.reason,
                "approver": exception.approver,
                "expires": exception.expires.to_string(),
            })
        })
        .collect();
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let mut event = Event::new(EventKind::AppStart);
    event.outcome = Some(Verdict::Success);
    for (key, value) in [
        ("program", "portcullis-proxy".into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("binary_sha256", own_digest().await.into()),
        ("config_sha256", hex::encode(config.sha256).into()),
        ("cipher_policy", config.server.cipher_policy.name().into()),
        ("listen", addresses.into()),
        ("exceptions", exceptions.into()),
    ] {
        event.body.insert(key.to_owned(), value);
    }
    journal.append(event).await.map(|_| ())
}

/// The outcome of operations that were under way when the gateway died, durable when this returns: nobody knows whether
/// the backend did them.
pub(super) async fn left_unknown(
    journal: &Journal,
    operations: &[(SessionId, OperationId)],
) -> Result<(), AppendError> {
    let appends: Vec<_> = operations
        .iter()
        .map(|&(session, operation)| {
            let mut event = Event::new(EventKind::OperationOutcome);
            event.session = Some(session);
            event.operation = Some(operation);
            event.outcome = Some(Verdict::Unknown);
            event.reason = Some("gateway_crashed".to_owned());
            journal.append(event)
        })
        .collect();
    for append in appends {
        append.await?;
    }
    Ok(())
}

/// `app.stop`, durable when this returns.
pub(super) async fn stopped(
    journal: &Journal,
    signal: &'static str,
    cut: usize,
) -> Result<(), AppendError> {
    let mut event = Event::new(EventKind::AppStop);
    event.outcome = Some(Verdict::Success);
    event.reason = Some(signal.to_owned());
    event.body.insert("connections_cut".to_owned(), cut.into());
    journal.append(event).await.map(|_| ())
}

/// SHA-256 of the running program, `None` where it can't be read.
async fn own_digest() -> Option<String> {
    tokio::task::spawn_blocking(|| -> io::Result<String> {
        let mut file = std::fs::File::open("/proc/self/exe")?;
        let mut digest = Sha256::new();
        io::copy(&mut file, &mut Writer(&mut digest))?;
        Ok(hex::encode(digest.finalize()))
    })
    .await
    .ok()?
    .ok()
}

struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
