//! What is written is read back with small readers that know only the standards.

use portcullis_journal::record::untrusted;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{syslog::Syslog, *};

mod cef_form;
mod ocsf_form;
mod syslog_form;

const PREV: &str = "9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c9f2c";

fn product() -> Product {
    Product {
        name: "portcullis-proxy".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

fn syslog(format: Format) -> Syslog {
    Syslog {
        facility: syslog::FACILITY,
        enterprise: syslog::ENTERPRISE,
        message_bytes: syslog::MESSAGE_BYTES,
        format,
        is_synced: None,
        product: product(),
    }
}

/// A record's line, as the journal would write it.
fn line(event: &str, outcome: &str, body: &Value) -> Vec<u8> {
    json!({
        "body": body,
        "boot_id": "4c1f0b7e",
        "dst": {"ip": "192.0.2.1", "port": 22},
        "event": event,
        "mono_ns": 5_215_403,
        "node": "gw1",
        "op_id": 17,
        "outcome": outcome,
        "prev": PREV,
        "seq": 4711,
        "session_id": "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a",
        "src": {"ip": "192.0.2.7", "port": 50022},
        "ts": "2026-11-22T01:02:03.000004Z",
        "user": {"name": "alice", "type": "human", "uid": 3},
        "v": 1,
    })
    .to_string()
    .into_bytes()
}

/// Records of every event that there is, with the fields that the gateway and the agent give them.
fn samples() -> Vec<Vec<u8>> {
    let path = json!({"sftp_op": "open", "path": "/inbox/a.csv", "handle_id": 1, "flags": "read"});
    let rename = json!({"sftp_op": "posix_rename", "path": "/a", "path2": "/b/c"});
    let mut lines = vec![
        line(
            "conn.open",
            "allow",
            &json!({"client_version": "SSH-2.0-x", "kex": "mlkem768x25519-sha256", "pq": true}),
        ),
        line(
            "conn.close",
            "success",
            &json!({"close_reason": "client", "bytes_in": 5, "bytes_out": 7, "duration_ms": 12}),
        ),
        line("channel.refused", "deny", &json!({"request": "exec"})),
        line(
            "auth.step",
            "failure",
            &json!({"method": "password", "factor": "password", "fail_count": 1, "locked": true}),
        ),
        line(
            "auth.result",
            "success",
            &json!({"factors": ["publickey", "totp"], "is_mfa": true, "fail_count": 0}),
        ),
        line("op.intent", "allow", &path),
        line("op.intent", "allow", &rename),
        line(
            "op.intent",
            "allow",
            &json!({"sftp_op": "write", "handle_id": 1, "offset": 0, "len": 32768}),
        ),
        line(
            "op.outcome",
            "success",
            &json!({"status": "SSH_FX_OK", "latency_us": 120, "bytes": 32768}),
        ),
        line("op.denied", "deny", &path),
        line(
            "xfer.summary",
            "success",
            &json!({"direction": "upload", "path": "/inbox/a.csv", "bytes": 9, "sha256": PREV, "duration_ms": 3}),
        ),
        line(
            "allow.change",
            "allow",
            &json!({"action": "replace", "revision": 4}),
        ),
        line(
            "ban.change",
            "success",
            &json!({"action": "ban", "cidr": "192.0.2.0/24"}),
        ),
        line(
            "admin.account",
            "success",
            &json!({"action": "enroll-totp", "account": "alice", "account_uid": 3}),
        ),
        line(
            "admin.account",
            "success",
            &json!({"action": "set", "group": "nurses"}),
        ),
        line(
            "admin.break_glass",
            "success",
            &json!({"action": "break-glass-open", "account": "seal", "custodians": ["a", "b"]}),
        ),
        line(
            "config.change",
            "failure",
            &json!({"faults": ["x"], "config_sha256": PREV}),
        ),
        line(
            "app.start",
            "success",
            &json!({"program": "portcullis-proxy", "version": "0.1.0"}),
        ),
        line("app.stop", "success", &json!({"connections_cut": 0})),
        line("what.else", "success", &json!({})),
    ];
    for event in [
        "start", "stop", "rotate", "gap", "disk", "sink", "alert", "read",
    ] {
        lines.push(line(
            &format!("log.{event}"),
            "failure",
            &json!({"bytes": 3}),
        ));
    }
    // What a crash leaves: no source, no user.
    let bare = json!({"body": {}, "boot_id": "b", "event": "op.outcome", "mono_ns": 1, "node": "gw1", "op_id": 3,
        "outcome": "unknown", "prev": PREV, "reason": "gateway_crashed", "seq": 1, "session_id": "5a", "ts": "2026-11-22T01:02:03.000004Z", "v": 1});
    lines.push(bare.to_string().into_bytes());
    lines
}

/// What a partner may call a file: everything that could end a field, a line or a message, and 64 KiB of it.
fn hostile_names() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("\n<13>1 2026-11-22T01:02:03Z gw1 portcullis-proxy - log.stop - forged".to_owned()),
        Just("\r\n".to_owned()),
        Just("] [forged@1 a=\"b\"]".to_owned()),
        Just("\"\\]\"".to_owned()),
        Just("|CEF:0|x|y|1|1|n|1|".to_owned()),
        Just(" outcome=success act\\=x ".to_owned()),
        Just("\u{202e}\u{2066}\u{85}\u{1b}[2J\u{7f}\0".to_owned()),
        Just("\\".to_owned()),
        Just("=|\"}],\"event\":\"x\"".to_owned()),
        any::<String>(),
    ];
    prop_oneof![
        9 => prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat().into_bytes()),
        2 => prop::collection::vec(any::<u8>(), 0..64),
        1 => (any::<char>(), 60_000_usize..65_536).prop_map(|(c, length)| {
            let mut name = c.to_string().repeat(length / c.len_utf8());
            name.push('\n');
            name.into_bytes()
        }),
    ]
}

/// A record of a file with that name, by a user who claims that name too.
fn hostile(name: &[u8]) -> Vec<u8> {
    let text = untrusted(name);
    let user: String = String::from_utf8_lossy(name).chars().take(128).collect();
    let mut record: Value =
        serde_json::from_slice(&line("op.denied", "deny", &json!({"sftp_op": "open"}))).unwrap();
    record["body"]["path"] = text;
    record["user"]["name"] = user.into();
    record.to_string().into_bytes()
}

#[test]
fn a_line_stands_as_it_stands_in_the_log() {
    for line in samples() {
        let entry = Entry::parse(&line).unwrap();
        assert_eq!(Format::Json.write(&entry, &product()), line);
    }
}

#[test]
fn what_is_no_record_is_none() {
    for text in [&b""[..], b"{}", b"CEF:0", b"{\"seq\":1}"] {
        assert!(Entry::parse(text).is_none());
    }
}

#[test]
fn severities_rise_with_what_happened() {
    let of = |event: &str, outcome: &str, body: Value| {
        let line = line(event, outcome, &body);
        Severity::of(&Entry::parse(&line).unwrap().record)
    };
    assert_eq!(of("op.intent", "allow", json!({})), Severity::Informational);
    assert_eq!(of("op.denied", "deny", json!({})), Severity::Medium);
    assert_eq!(of("auth.step", "failure", json!({})), Severity::Low);
    assert_eq!(
        of("auth.step", "failure", json!({"locked": false})),
        Severity::Low
    );
    assert_eq!(
        of("auth.step", "failure", json!({"locked": true})),
        Severity::High
    );
    assert_eq!(of("log.disk", "failure", json!({})), Severity::High);
    assert_eq!(
        of("log.disk", "success", json!({})),
        Severity::Informational
    );
    assert_eq!(
        of("admin.break_glass", "success", json!({})),
        Severity::Critical
    );
}

#[test]
fn the_name_of_a_path_is_its_last_component() {
    for (path, name) in [
        ("/a/b", "b"),
        ("/a/", "a"),
        ("/", "/"),
        ("", "/"),
        ("b64:/w==", "w=="),
    ] {
        assert_eq!(name_of(path), name);
    }
}
