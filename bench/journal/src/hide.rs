//! What it costs to hide paths, by itself.

use std::{path::Path, time::Instant};

use anyhow::Result;
use portcullis_audit::hidden::{AuditorSecret, PathKey, PathVeil};
use portcullis_journal::{Event, EventKind, OperationId, SessionId, Veil, record::untrusted};
use serde_json::{Value, json};

/// An OPEN, of a file three directories down.
fn open(path: u64) -> Event {
    let mut event = Event::new(EventKind::OperationIntent);
    event.session = Some(SessionId([0x5a; 16]));
    event.operation = Some(OperationId(path));
    let path = format!(
        "/inbox/2026-11/clinic-{:03}/scan-{path:08}.dcm",
        path % 1000
    );
    event.body.insert("path".into(), untrusted(path.as_bytes()));
    event.body.insert("sftp_op".into(), "open".into());
    event.body.insert("handle_id".into(), 7.into());
    event.body.insert("flags".into(), "read".into());
    event.body.insert("decision".into(), "as_asked".into());
    event
}

fn read(offset: u64) -> Event {
    let mut event = Event::new(EventKind::OperationIntent);
    event.body.insert("sftp_op".into(), "read".into());
    event.body.insert("handle_id".into(), 7.into());
    event.body.insert("offset".into(), offset.into());
    event.body.insert("len".into(), 32_768.into());
    event
}

/// Nanoseconds that each event takes.
fn timed(veil: &PathVeil, events: u64, event: impl Fn(u64) -> Event) -> f64 {
    let mut made: Vec<Event> = (0..events).map(event).collect();
    let began = Instant::now();
    for event in &mut made {
        veil.cover(event);
    }
    began.elapsed().as_secs_f64() * 1e9 / events as f64
}

pub(crate) fn hidden(directory: &Path, events: u64) -> Result<Value> {
    std::fs::create_dir_all(directory)?;
    let (_, auditor) = AuditorSecret::generate(&directory.join("auditor"))?;
    let key = PathKey::open(&directory.join("paths"))?;
    let hmac = PathVeil::new(key.clone(), None);
    let sealed = PathVeil::new(key, Some(auditor));
    let sealed_new = timed(&sealed, events, open);
    // What is remembered.
    let few = |at| open(at % 500);
    timed(&sealed, 500, few);
    Ok(json!({
        "read_ns": timed(&hmac, events, read),
        "hmac_ns": timed(&hmac, events, open),
        "sealed_new_ns": sealed_new,
        "sealed_again_ns": timed(&sealed, events, few),
    }))
}
