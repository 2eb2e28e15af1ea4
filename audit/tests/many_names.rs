//! What the names of many encrypted files cost: memory, and the time until a start knows them.
//!
//! `FILES=1000000 cargo test --release -p portcullis-audit --test many_names -- --ignored --nocapture`

use std::{fs, time::Instant};

use portcullis_audit::catalogue::{Catalogue, Named, Reader};
use portcullis_journal::{Event, EventKind, Journal, OperationId, Options, SessionId, Verdict};
use serde_json::{Value, json};

const SESSION: SessionId = SessionId([7; 16]);
/// Files of a directory.
const TOGETHER: u64 = 1000;
/// Records that are under way at once.
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

/// Bytes of memory that the process has.
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[tokio::test]
#[ignore = "it measures, with optimisation"]
async fn names_of_many_files() {
    let files: u64 = std::env::var("FILES").map_or(300_000, |files| files.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default_in(folder.path().join("log"));
    let directory = options.directory.clone();
    let (journal, _) = Journal::open(options).unwrap();
    let mounts = json!({ "mounts": [{ "at": "/in", "backend": "disk", "directory": "/" }] });
    let begun = event(EventKind::SessionMounts, Verdict::Success, None, mounts);
    journal.append(begun).await.unwrap();
    let mut waiting = Vec::new();
    for number in 0..files {
        for event in upload(number) {
            waiting.push(journal.append_soon(event));
        }
        if number % BATCH == BATCH - 1 {
            for pending in waiting.drain(..) {
                pending.await.unwrap();
            }
        }
    }
    for pending in waiting {
        pending.await.unwrap();
    }
    journal.close().await.unwrap();

    let before = resident().unwrap();
    let begun = Instant::now();
    let catalogue = Catalogue::new(None, [], []).lean();
    let mut reader = Reader::of(&directory, catalogue).unwrap();
    reader.advance().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let taken = resident().unwrap() - before;
    let last = reader
        .catalogue
        .place("disk", &path(files - 1).as_bytes()[3..]);
    let object = (u128::from(files) - 1).to_be_bytes();
    assert!(matches!(
        reader.catalogue.named(&last, &object),
        Named::Fits(_)
    ));
    println!(
        "{files} files: {} bytes each, {} records read in {seconds:.1} s",
        taken / files,
        7 * files + 3
    );
}
