//! The first and the last record of a run, and those of its reloads.

use std::{io, net::SocketAddr, os::unix::ffi::OsStrExt as _, path::Path};

use portcullis_journal::{AppendError, Event, EventKind, Journal, Verdict, record::untrusted};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::reload::ReloadError;
use crate::{auth::krl::RevokedKeys, config::Config};

/// Most faults of a refused configuration that its record names.
const MOST_FAULTS: usize = 20;
/// Longest part of a fault's text that goes into a record, in bytes.
const LONGEST_FAULT: usize = 512;

/// `app.start`, durable when this returns.
pub(super) async fn started(
    journal: &Journal,
    config: &Config,
    addresses: &[SocketAddr],
) -> Result<(), AppendError> {
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
        ("exceptions", exceptions(config)),
    ] {
        event.body.insert(key.to_owned(), value);
    }
    journal.append(event).await.map(|_| ())
}

/// `config.change` of a configuration that is about to come into force, durable when this returns. `changed` are the keys of
/// sections whose contents differ.
pub(super) async fn reloaded(
    journal: &Journal,
    before: &Config,
    after: &Config,
    changed: &[String],
) -> Result<(), AppendError> {
    let mut event = Event::new(EventKind::ConfigChange);
    event.outcome = Some(Verdict::Success);
    for (key, value) in [
        ("config_sha256", hex::encode(after.sha256).into()),
        ("previous_config_sha256", hex::encode(before.sha256).into()),
        ("changed", changed.into()),
        ("cipher_policy", after.server.cipher_policy.name().into()),
        ("exceptions", exceptions(after)),
    ] {
        event.body.insert(key.to_owned(), value);
    }
    journal.append(event).await.map(|_| ())
}

/// `config.change` of a configuration that was refused while `in_force` stays, durable when this returns.
pub(super) async fn refused(
    journal: &Journal,
    in_force: &Config,
    error: &ReloadError,
) -> Result<(), AppendError> {
    let (faults, refused): (Vec<String>, Option<[u8; 32]>) = match error {
        ReloadError::Faulty(error) => (
            error.faults.iter().map(ToString::to_string).collect(),
            error.sha256,
        ),
        ReloadError::NeedsRestart { sha256, .. } => (vec![error.to_string()], Some(*sha256)),
        ReloadError::Backend(_)
        | ReloadError::Algorithms(_)
        | ReloadError::Unrecorded(_)
        | ReloadError::Directory(_)
        | ReloadError::Sink(_)
        | ReloadError::Interrupted(_) => (vec![crate::causes::chain(error)], None),
    };
    let shown: Vec<Value> = faults
        .iter()
        .take(MOST_FAULTS)
        .map(|fault| {
            let bytes = fault.as_bytes();
            untrusted(bytes.get(..LONGEST_FAULT).unwrap_or(bytes))
        })
        .collect();
    let mut event = Event::new(EventKind::ConfigChange);
    event.outcome = Some(Verdict::Failure);
    event.reason = Some(error.code().to_owned());
    for (key, value) in [
        ("config_sha256", hex::encode(in_force.sha256).into()),
        ("refused_config_sha256", refused.map(hex::encode).into()),
        ("faults", shown.into()),
        ("fault_count", faults.len().into()),
    ] {
        event.body.insert(key.to_owned(), value);
    }
    journal.append(event).await.map(|_| ())
}

/// `config.change` of a list of revoked keys that came into force, or of one that did not, durable when this returns.
pub(super) async fn revoked_keys(
    journal: &Journal,
    path: &Path,
    read: Result<&RevokedKeys, &str>,
) -> Result<(), AppendError> {
    let mut event = Event::new(EventKind::ConfigChange);
    let mut put = |key: &str, value: Value| event.body.insert(key.to_owned(), value);
    put("changed", json!(["auth.revoked_keys"]));
    put("file", untrusted(path.as_os_str().as_bytes()));
    match read {
        Ok(keys) => {
            put("list_version", keys.version().to_string().into());
            put("entries", keys.entries().into());
            event.outcome = Some(Verdict::Success);
        }
        Err(problem) => {
            let bytes = problem.as_bytes();
            let shown = untrusted(bytes.get(..LONGEST_FAULT).unwrap_or(bytes));
            put("faults", json!([shown]));
            event.outcome = Some(Verdict::Failure);
            event.reason = Some("faulty".to_owned());
        }
    }
    journal.append(event).await.map(|_| ())
}

/// `config.change` at the end of the exception that a cipher policy needed, durable when this returns.
pub(super) async fn policy_expired(
    journal: &Journal,
    in_force: &Config,
    policy: &str,
) -> Result<(), AppendError> {
    let mut event = Event::new(EventKind::ConfigChange);
    event.outcome = Some(Verdict::Success);
    event.reason = Some("exception_ended".to_owned());
    for (key, value) in [
        ("config_sha256", hex::encode(in_force.sha256).into()),
        ("changed", json!(["server.cipher_policy"])),
        ("cipher_policy", policy.into()),
        (
            "previous_cipher_policy",
            in_force.server.cipher_policy.name().into(),
        ),
    ] {
        event.body.insert(key.to_owned(), value);
    }
    journal.append(event).await.map(|_| ())
}

fn exceptions(config: &Config) -> Value {
    let policy = &config.server.cipher_policy;
    let algorithms = policy.exception().map(|exception| {
        json!({
            "cipher_policy": policy.name(),
            "what": "algorithms weaker than the default's",
            "reason": exception.reason,
            "approver": exception.approver,
            "expires": exception.expires.to_string(),
        })
    });
    let lifetimes = config
        .auth
        .certificate_authorities
        .iter()
        .filter_map(|authority| {
            let exception = authority.exception.as_ref()?;
            Some(json!({
                "certificate_authority": authority.name,
                "what": "certificate lifetime",
                "seconds": authority.max_lifetime.map(|longest| longest.as_secs()),
                "reason": exception.reason,
                "approver": exception.approver,
                "expires": exception.expires.to_string(),
            }))
        });
    let sinks = config.plaintext_sinks().map(|(sink, exception)| {
        json!({
            "sink": sink,
            "what": "plaintext",
            "reason": exception.reason,
            "approver": exception.approver,
            "expires": exception.expires.to_string(),
        })
    });
    let unencrypted = config.unencrypted_exceptions().map(|(backend, exception)| {
        json!({
            "backend": backend,
            "what": "files unencrypted at rest",
            "reason": exception.reason,
            "approver": exception.approver,
            "expires": exception.expires.to_string(),
        })
    });
    config
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
        .chain(unencrypted)
        .chain(sinks)
        .chain(lifetimes)
        .chain(algorithms)
        .collect()
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
