//! What the names of many encrypted files cost: memory, and the time until a start knows them.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_audit::catalogue::{Catalogue, Named, Reader};
use portcullis_journal::{Event, EventKind, Journal, OperationId, Options, SessionId, Verdict};
use rustix::param::page_size;
use serde_json::{Value, json};

const SESSION: SessionId = SessionId([7; 16]);
/// Files of a directory.
const TOGETHER: u64 = 1000;
/// Records of so many files are under way at once.
const BATCH: u64 = 1000;

fn event(kind: EventKind, verdict: Verdict, operation: Option<u64>, body: Value) -> Event {
    let mut event = Event::new(kind);
    event.session = Some(SESSION);
    event.outcome = Some(verdict);
    event.operation = operation.map(OperationId);
    event.body = body.as_object().cloned().unwrap_or_default();
    event
}

fn path(number: u64) -> String {
    format!(
        "/in/partner-{}/2026-11-{:02}/result-{number:012}.hl7",
        number / TOGETHER % 100,
        number / TOGETHER / 100
    )
}

/// OPEN, WRITE, CLOSE.
fn upload(number: u64) -> [Event; 7] {
    let (open, write, close) = (3 * number, 3 * number + 1, 3 * number + 2);
    let intent = |id, body| event(EventKind::OperationIntent, Verdict::Allow, Some(id), body);
    let done = |id, body| {
        event(
            EventKind::OperationOutcome,
            Verdict::Success,
            Some(id),
            body,
        )
    };
    let digest = format!("{number:064x}");
    let object = format!("{number:032x}");
    let summary = json!({
        "direction": "upload", "path": path(number), "handle_id": number, "bytes": 4000, "size": 4000,
        "sha256": digest, "sha256_source": "stream", "duration_ms": 3,
        "enc": { "alg": "AES-256-GCM", "dek_id": object },
    });
    let ended = || json!({ "status": "SSH_FX_OK", "latency_us": 900 });
    [
        intent(
            open,
            json!({
                "sftp_op": "open", "path": path(number), "handle_id": number, "flags": "write,create,truncate",
                "attrs": {}, "mount": 0,
            }),
        ),
        done(open, ended()),
        intent(
            write,
            json!({ "sftp_op": "write", "handle_id": number, "offset": 0, "len": 4000 }),
        ),
        done(write, ended()),
        intent(close, json!({ "sftp_op": "close", "handle_id": number })),
        event(EventKind::TransferSummary, Verdict::Success, None, summary),
        done(close, ended()),
    ]
}

/// Writes a log of that many uploads, and reads it as a start does.
pub(crate) fn named(directory: &Path, files: u64) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(written(directory, files))?;
    let before = resident()?;
    let begun = Instant::now();
    let mut reader = Reader::of(directory, Catalogue::new(None, [], []).lean())?;
    reader.advance()?;
    let seconds = begun.elapsed().as_secs_f64();
    let taken = resident()?.saturating_sub(before);
    let last = path(files - 1);
    let below = last.strip_prefix("/in").context("a path of the mount")?;
    let place = reader.catalogue.place("disk", below.as_bytes());
    let object = (u128::from(files) - 1).to_be_bytes();
    let named = reader.catalogue.named(&place, &object);
    ensure!(
        matches!(named, Named::Fits(_)),
        "the last file is {named:?}"
    );
    Ok(json!({
        "bytes_per_file": taken as f64 / files as f64,
        "seconds": seconds,
        "records": 7 * files,
    }))
}

async fn written(directory: &Path, files: u64) -> Result<()> {
    let (journal, _) = Journal::open(Options::default_in(directory))?;
    let mounts = json!({ "mounts": [{ "at": "/in", "backend": "disk", "directory": "/" }] });
    let begun = event(EventKind::SessionMounts, Verdict::Success, None, mounts);
    journal.append(begun).await?;
    let mut waiting = Vec::new();
    for number in 0..files {
        for event in upload(number) {
            waiting.push(journal.append_soon(event));
        }
        if number % BATCH == BATCH - 1 {
            for pending in waiting.drain(..) {
                pending.await?;
            }
        }
    }
    for pending in waiting {
        pending.await?;
    }
    journal.close().await?;
    Ok(())
}

/// Bytes of memory that the process has.
fn resident() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("a number of pages")?;
    Ok(pages.parse::<u64>()? * page_size() as u64)
}
