use portcullis_journal::{Event, OperationId, SessionId, Verdict};
use serde_json::json;

use super::*;
use crate::testing::{ALICE, Log};

fn story(events: Vec<Event>) -> Vec<Chapter> {
    let log = Log::of(events);
    let mut story = Story::default();
    let mut told = Vec::new();
    for line in log.lines() {
        let record: Record = serde_json::from_slice(&line).unwrap();
        if record.session.is_some() {
            told.extend(story.hear(&record));
        }
    }
    told.extend(story.end());
    told
}

fn sentences(events: Vec<Event>) -> Vec<String> {
    story(events)
        .iter()
        .map(|chapter| chapter.what.sentence())
        .collect()
}

#[test]
fn reads_and_writes_of_a_file_are_one_line() {
    let summary = json!({
        "direction": "upload", "path": "/inbox/a", "handle_id": 7, "bytes": 150, "sha256": "ab12", "sha256_source": "stream",
    });
    let told = sentences(
        [
            ALICE.open(1, b"/inbox/a", 7, "write,create"),
            ALICE.open(2, b"/b", 8, "read"),
            ALICE.moved(3, "write", 7, 100, 50),
            ALICE.moved(4, "read", 8, 10, 5),
            ALICE.moved(5, "write", 7, 0, 100),
            ALICE.close(6, 7, summary),
        ]
        .concat(),
    );
    assert_eq!(
        told,
        [
            "wrote \"/inbox/a\": 150 bytes in 2 writes, without gaps, SHA-256 ab12",
            "read \"/b\": 5 bytes in 1 reads, in part, not_closed",
        ]
    );
}

#[test]
fn requests_that_were_announced_together_count_one_by_one() {
    let extent = |operation, name: &str, handle: u64, outcome, done| {
        let body = json!({
            "sftp_op": name, "handle_id": handle, "offset": 0, "len": 16_777_216, "extent": true,
        });
        vec![
            ALICE.intent(operation, body),
            ALICE.outcome(operation, outcome, done),
        ]
    };
    let whole = json!({ "bytes": 150, "requests": 2, "offset": 0, "len": 150 });
    let gaps = json!({ "bytes": 150, "requests": 4, "failed": 1, "offset": 0, "len": 200 });
    let told = sentences(
        [
            ALICE.open(1, b"/a", 7, "write,create"),
            extent(2, "write", 7, Verdict::Success, whole),
            ALICE.open(3, b"/b", 8, "read"),
            extent(4, "read", 8, Verdict::Failure, gaps),
        ]
        .concat(),
    );
    assert_eq!(
        told,
        [
            "wrote \"/a\": 150 bytes in 2 writes, without gaps, not_closed",
            "read \"/b\": 150 bytes in 3 reads, in part, 1 failed, not_closed",
        ]
    );
}

#[test]
fn a_login_a_denial_and_the_end_are_told_in_order() {
    let mut denied = ALICE.event(
        EventKind::OperationDenied,
        Verdict::Deny,
        json!({ "sftp_op": "open", "path": "/x\n", "error": "no rule" }),
    );
    denied.reason = Some("no_rule".to_owned());
    let told = sentences(
        [
            vec![
                ALICE.event(
                    EventKind::ConnectionOpen,
                    Verdict::Allow,
                    json!({ "cipher": "aes256-gcm@openssh.com" }),
                ),
                ALICE.event(
                    EventKind::AuthStep,
                    Verdict::Success,
                    json!({ "method": "publickey", "factor": "key" }),
                ),
                ALICE.event(
                    EventKind::AuthResult,
                    Verdict::Success,
                    json!({ "factors": ["key", "totp"], "is_mfa": true }),
                ),
            ],
            ALICE.done(1, "stat", b"/1"),
            ALICE.done(2, "stat", b"/2"),
            ALICE.done(3, "stat", b"/3"),
            ALICE.done(4, "remove", b"/1"),
            ALICE.done(5, "remove", b"/2"),
            vec![
                denied,
                ALICE.event(
                    EventKind::ConnectionClose,
                    Verdict::Success,
                    json!({ "bytes_in": 2048, "bytes_out": 1, "duration_ms": 1500 }),
                ),
            ],
        ]
        .concat(),
    );
    assert_eq!(
        told,
        [
            "192.0.2.7 connected, cipher aes256-gcm@openssh.com",
            "login step of alice: success, method publickey, factor key",
            "alice is in, factors key+totp, is_mfa true",
            "stat \"/1\" and 2 more, last \"/3\"",
            "remove \"/1\"",
            "remove \"/2\"",
            "DENIED open \"/x\\u{a}\" (no_rule): no rule",
            "ended after 1.500 s, 2.0 KiB in, 1 bytes out",
        ]
    );
}

#[test]
fn what_a_crash_left_open_says_so() {
    let mut unknown = Event::new(EventKind::OperationOutcome);
    unknown.session = Some(SessionId([0xa1; 16]));
    unknown.operation = Some(OperationId(2));
    unknown.outcome = Some(Verdict::Unknown);
    unknown.reason = Some("gateway_crashed".to_owned());
    let remove = ALICE.intent(2, json!({ "sftp_op": "remove", "path": "/a" }));
    assert_eq!(
        sentences(vec![remove, unknown]),
        ["remove \"/a\": unknown (gateway_crashed)"]
    );
}

#[test]
fn chapters_are_json_with_peers_texts_as_records_write_them() {
    let told = story(ALICE.done(1, "remove", b"/\xff"));
    let json = serde_json::to_value(&told[0]).unwrap();
    assert_eq!(json["what"], "operation");
    assert_eq!(json["path"], "b64:L/8=");
    assert_eq!(json["seq"], 1);
}
