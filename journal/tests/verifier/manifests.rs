//! Manifests of what was delivered, as whoever gets them checks them.

use std::{fs, path::Path, process::Command};

use portcullis_journal::{
    Actor, Event, EventKind, Journal, OperationId, Options, SessionId, Verdict,
    manifest::{Manifest, Scope, of_session},
    record::untrusted,
    tree::{
        checkpoint::{CHECKPOINTS, notes},
        key::{SigningKey, public_key_path, read_verifier_keys},
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Written, independent, text, verify};

const SESSION: [u8; 16] = [0x5a; 16];

/// Names below `/inbox`, and what was uploaded there.
const FILES: [(&[u8], &str); 4] = [
    (b"a.csv", "one"),
    (b"sub/b b\\b.csv", "two"),
    (b"odd\xff", "three"),
    ("\u{fc}.csv".as_bytes(), "four"),
];

fn event(kind: EventKind, outcome: Verdict, operation: Option<u64>, body: Value) -> Event {
    let mut event = Event::new(kind);
    event.session = Some(SessionId(SESSION));
    event.user = Some(Actor {
        uid: Some(3),
        name: "alice".to_owned(),
        kind: None,
    });
    event.outcome = Some(outcome);
    event.operation = operation.map(OperationId);
    event.body = body.as_object().cloned().unwrap_or_default();
    event
}

fn events() -> Vec<Event> {
    let (intent, outcome) = (EventKind::OperationIntent, EventKind::OperationOutcome);
    let mounts = json!({ "mounts": [{ "at": "/inbox", "backend": "disk", "directory": "/" }] });
    let mut all = vec![event(
        EventKind::SessionMounts,
        Verdict::Success,
        None,
        mounts,
    )];
    for (number, (name, content)) in (0_u64..).zip(FILES) {
        let path = untrusted(&[b"/inbox/", name].concat());
        let (open, close) = (number * 2, number * 2 + 1);
        let opened = json!({
            "sftp_op": "open", "path": path, "mount": 0, "handle_id": number, "flags": "write,create", "attrs": {},
        });
        let summary = json!({
            "direction": "upload", "path": path, "handle_id": number, "bytes": content.len(),
            "sha256": hex::encode(Sha256::digest(content)), "sha256_source": "stream",
        });
        let closing = json!({ "sftp_op": "close", "handle_id": number });
        all.extend([
            event(intent, Verdict::Allow, Some(open), opened),
            event(outcome, Verdict::Success, Some(open), json!({})),
            event(intent, Verdict::Allow, Some(close), closing),
            event(EventKind::TransferSummary, Verdict::Success, None, summary),
            event(outcome, Verdict::Success, Some(close), json!({})),
        ]);
    }
    let closed = event(
        EventKind::ConnectionClose,
        Verdict::Success,
        None,
        json!({}),
    );
    all.push(closed);
    all
}

/// A log with that session, the manifest beside it, and the files in `delivered`.
fn delivery() -> (Written, String) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path().join("log");
    let options = Options {
        compression_level: None,
        node: "gw1".to_owned(),
        ..Options::default_in(&directory)
    };
    let signing_key = options.signing_key.clone();
    let key = public_key_path(&signing_key);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (journal, _) = Journal::open(options).expect("a journal");
        for event in events() {
            journal.append(event).await.expect("a record");
        }
        journal.close().await.expect("the end");
    });
    let keys = read_verifier_keys(&key).expect("the keys");
    let session = hex::encode(SESSION);
    let manifest = of_session(&directory, &session, &Scope::All, &keys, None).expect("a manifest");
    let signing_key = SigningKey::read(&signing_key).expect("the key");
    let signed = manifest.sign(&signing_key).expect("a signature");
    fs::write(home.path().join("manifest"), &signed).expect("it is written");
    let delivered = home.path().join("delivered");
    fs::create_dir_all(delivered.join("inbox/sub")).expect("a folder");
    for (name, content) in FILES {
        use std::os::unix::ffi::OsStrExt as _;
        let path = delivered
            .join("inbox")
            .join(std::ffi::OsStr::from_bytes(name));
        fs::write(path, content).expect("it is written");
    }
    let log = Written {
        _home: home,
        directory,
        key,
    };
    (log, signed)
}

fn check(log: &Written, more: &[&Path]) -> (Option<i32>, String) {
    let file = log.key.with_file_name("manifest");
    let arguments = [Path::new("manifest"), &file, Path::new("--key"), &log.key];
    let output = verify(&[&arguments, more].concat());
    (output.status.code(), text(&output))
}

#[test]
fn a_manifest_is_checked_alone_with_the_log_and_with_the_files() {
    let (log, signed) = delivery();
    let delivered = log.key.with_file_name("delivered");
    let files = [Path::new("--files"), &delivered];
    let journal = [Path::new("--journal"), &log.directory];
    for more in [&[][..], &files, &journal, &[files, journal].concat()] {
        let (code, said) = check(&log, more);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("4 file(s) of / were delivered by alice"),
            "{said}"
        );
    }
    let other = independent(
        "manifest.py",
        &[&log.key.with_file_name("manifest"), &log.key],
    );
    assert!(other.status.success(), "{}", text(&other));
    assert_eq!(text(&other).lines().count(), 4);

    fs::write(delivered.join("inbox/a.csv"), "eno").unwrap();
    let (code, said) = check(&log, &files);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("finding: inbox/a.csv: is not what was delivered"),
        "{said}"
    );
    fs::remove_file(delivered.join("inbox/a.csv")).unwrap();
    let (code, said) = check(&log, &files);
    assert_eq!(code, Some(1));
    assert!(said.contains("finding: inbox/a.csv: is missing"), "{said}");

    let segment = log.directory.join("000000000000.jsonl");
    let records = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, records.replacen("\"bytes\":3", "\"bytes\":4", 1)).unwrap();
    let (code, said) = check(&log, &journal);
    assert_eq!(code, Some(1));
    assert!(said.contains("was edited"), "{said}");
    assert_eq!(check(&log, &[]).0, Some(0));

    let forged = signed.replacen("a.csv", "b.csv", 1);
    fs::write(log.key.with_file_name("manifest"), forged).unwrap();
    let (code, said) = check(&log, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is not what its key signed"), "{said}");
}

#[test]
fn sha256sum_takes_a_manifest_as_it_is() {
    let (log, _) = delivery();
    let delivered = log.key.with_file_name("delivered");
    let sums = || {
        Command::new("sha256sum")
            .args(["--check", "../manifest"])
            .current_dir(&delivered)
            .env("LC_ALL", "C")
            .output()
            .expect("sha256sum runs")
    };
    let sound = sums();
    assert!(sound.status.success(), "{}", text(&sound));
    // The name that is no text is in a comment.
    assert_eq!(
        text(&sound).matches(": OK\n").count(),
        3,
        "{}",
        text(&sound)
    );
    fs::write(delivered.join("inbox/a.csv"), "eno").unwrap();
    let altered = sums();
    assert!(!altered.status.success());
    assert!(
        text(&altered).contains("inbox/a.csv: FAILED"),
        "{}",
        text(&altered)
    );
}

#[test]
fn a_checkpoint_or_a_manifest_of_another_key_is_refused() {
    let (log, _) = delivery();
    let checkpoints = fs::read(log.directory.join(CHECKPOINTS)).unwrap();
    let (all, _) = notes(&checkpoints);
    fs::write(log.key.with_file_name("manifest"), all.last().unwrap()).unwrap();
    let (code, said) = check(&log, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("not a manifest"), "{said}");

    // As a checkpoint that was kept elsewhere.
    let (log, signed) = delivery();
    let manifest = log.key.with_file_name("manifest");
    let kept = [
        &log.directory,
        Path::new("--key"),
        &log.key,
        Path::new("--checkpoint"),
    ];
    let output = verify(&[&kept[..], &[&manifest]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));

    let (stranger, _) = delivery();
    fs::write(stranger.key.with_file_name("manifest"), signed).unwrap();
    let (code, said) = check(&stranger, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("with none of these keys"), "{said}");
    assert!(Manifest::check(b"", &[]).is_err());

    fs::remove_file(manifest).unwrap();
    assert_eq!(check(&log, &[]).0, Some(2));
}
