//! Manifests of logs that the real journal wrote.

mod deliveries;
mod text;

use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tlog_tiles::Hash;

use super::*;
use crate::{
    Actor, Event, EventKind, Journal, OperationId, Options, SessionId, Verdict,
    record::untrusted,
    tree::{
        checkpoint::{CHECKPOINTS, Judged, judge, notes},
        key::{public_key_path, read_verifier_keys},
    },
};

const SESSION: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

/// A log, and what was put into it.
struct Log(TempDir);

impl Log {
    fn of(events: Vec<Event>) -> Self {
        let log = Self(tempfile::tempdir().unwrap());
        log.add(events);
        log
    }

    fn add(&self, events: Vec<Event>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut options = Options::default_in(self.directory());
            options.node = "gw1".to_owned();
            let (journal, _) = Journal::open(options).unwrap();
            for event in events {
                journal.append(event).await.unwrap();
            }
            journal.close().await.unwrap();
        });
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn key(&self) -> SigningKey {
        SigningKey::read(&self.directory().with_extension("key")).unwrap()
    }

    fn keys(&self) -> Vec<StandardVerifier> {
        let path = self.directory().with_extension("key");
        read_verifier_keys(&public_key_path(&path)).unwrap()
    }

    fn at(&self, scope: &Scope) -> Result<Manifest, ManifestError> {
        of_session(&self.directory(), SESSION, scope, &self.keys(), None)
    }

    fn manifest(&self) -> Manifest {
        self.at(&Scope::All).unwrap()
    }

    fn signed(&self) -> String {
        self.manifest().sign(&self.key()).unwrap()
    }

    /// Names with their content, or why there is none.
    fn entries(&self) -> Vec<(String, Result<[u8; 32], String>)> {
        let manifest = self.manifest();
        assert_eq!(compare(&manifest, &self.directory()).unwrap(), [""; 0]);
        let entries = manifest.entries.iter();
        entries
            .map(|entry| {
                let name = String::from_utf8_lossy(manifest.name(entry)).into_owned();
                (name, entry.sha256.clone())
            })
            .collect()
    }
}

fn event(kind: EventKind, outcome: Option<Verdict>, body: Value) -> Event {
    let mut event = Event::new(kind);
    event.session = Some(SessionId([0x5a; 16]));
    event.user = Some(Actor {
        uid: Some(3),
        name: "alice".to_owned(),
        kind: None,
    });
    event.outcome = outcome;
    event.body = body.as_object().unwrap().clone();
    event
}

fn sha256(content: &str) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// One session, operation by operation.
struct Session {
    events: Vec<Event>,
    next: u64,
}

impl Session {
    fn new() -> Self {
        Self::with(&[("/inbox", "disk", "/partner"), ("/out", "disk", "/out")])
    }

    fn with(mounts: &[(&str, &str, &str)]) -> Self {
        let mounts: Vec<Value> = mounts
            .iter()
            .map(|(at, backend, directory)| json!({ "at": at, "backend": backend, "directory": directory }))
            .collect();
        let mounts = event(EventKind::SessionMounts, None, json!({ "mounts": mounts }));
        let opened = event(EventKind::ConnectionOpen, Some(Verdict::Allow), json!({}));
        Self {
            events: vec![opened, mounts],
            next: 1,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn intent(&mut self, body: Value) -> u64 {
        let number = self.number();
        let mut intent = event(EventKind::OperationIntent, Some(Verdict::Allow), body);
        intent.operation = Some(OperationId(number));
        self.events.push(intent);
        number
    }

    fn outcome(&mut self, number: u64, outcome: Verdict, reason: Option<&str>) {
        let mut ended = event(EventKind::OperationOutcome, Some(outcome), json!({}));
        ended.operation = Some(OperationId(number));
        ended.reason = reason.map(str::to_owned);
        self.events.push(ended);
    }

    fn deed(mut self, body: Value) -> Self {
        let number = self.intent(body);
        self.outcome(number, Verdict::Success, None);
        self
    }

    fn failing(mut self, body: Value, reason: &str) -> Self {
        let number = self.intent(body);
        self.outcome(number, Verdict::Failure, Some(reason));
        self
    }

    fn open(&mut self, mount: u64, path: &Value) -> u64 {
        let handle = self.number();
        let number = self.intent(json!({
            "sftp_op": "open", "path": path, "mount": mount, "handle_id": handle, "flags": "write,create,truncate", "attrs": {},
        }));
        self.outcome(number, Verdict::Success, None);
        handle
    }

    fn close(&mut self, handle: u64, path: &Value, digest: Value) {
        let number = self.intent(json!({ "sftp_op": "close", "handle_id": handle }));
        self.summary(handle, path, digest);
        self.outcome(number, Verdict::Success, None);
    }

    fn summary(&mut self, handle: u64, path: &Value, digest: Value) {
        let mut body =
            json!({ "direction": "upload", "path": path, "handle_id": handle, "bytes": 7 });
        let fields = body.as_object_mut().unwrap();
        fields.extend(digest.as_object().unwrap().clone());
        let summary = event(EventKind::TransferSummary, Some(Verdict::Success), body);
        self.events.push(summary);
    }

    fn upload(mut self, mount: u64, path: impl Into<Value>, content: &str) -> Self {
        let path = path.into();
        let handle = self.open(mount, &path);
        self.close(handle, &path, said(content));
        self
    }

    fn rename(self, from: &str, to: &str) -> Self {
        self.deed(json!({ "sftp_op": "posix_rename", "path": from, "path2": to, "mount": 0 }))
    }

    fn remove(self, path: &str) -> Self {
        self.deed(json!({ "sftp_op": "remove", "path": path, "mount": 0 }))
    }

    fn end(mut self) -> Vec<Event> {
        let closed = event(
            EventKind::ConnectionClose,
            Some(Verdict::Success),
            json!({}),
        );
        self.events.push(closed);
        self.events
    }
}

fn said(content: &str) -> Value {
    json!({ "sha256": hex::encode(sha256(content)), "sha256_source": "stream" })
}

fn known(name: &str, content: &str) -> (String, Result<[u8; 32], String>) {
    (name.to_owned(), Ok(sha256(content)))
}

fn doubtful(name: &str, because: &str) -> (String, Result<[u8; 32], String>) {
    (name.to_owned(), Err(because.to_owned()))
}

#[test]
fn a_manifest_has_what_was_there_at_the_end_under_its_last_name() {
    let mut session = Session::new()
        .upload(0, "/inbox/a.csv.part", "a")
        .rename("/inbox/a.csv.part", "/inbox/a.csv")
        .upload(0, "/inbox/removed", "r")
        .remove("/inbox/removed")
        .upload(0, "/inbox/twice", "first")
        .upload(0, "/inbox/twice", "second")
        .upload(0, "/inbox/old/b", "b")
        .rename("/inbox/old", "/inbox/new")
        .upload(0, "/inbox/over.part", "over")
        .upload(0, "/inbox/over", "was there")
        .rename("/inbox/over.part", "/inbox/over")
        .upload(1, "/out/c", "c")
        .failing(
            json!({ "sftp_op": "remove", "path": "/out/c", "mount": 1 }),
            "permission_denied",
        );
    let unfinished = session.open(0, &"/inbox/unfinished".into());
    let mut body = json!({ "direction": "upload", "path": "/inbox/unfinished", "handle_id": unfinished, "bytes": 7 });
    body["sha256"] = hex::encode([1; 32]).into();
    let mut summary = event(EventKind::TransferSummary, Some(Verdict::Failure), body);
    summary.reason = Some("not_closed".to_owned());
    session.events.push(summary);
    let log = Log::of(session.end());
    assert_eq!(
        log.entries(),
        [
            known("inbox/a.csv", "a"),
            known("inbox/new/b", "b"),
            known("inbox/over", "over"),
            known("inbox/twice", "second"),
            known("out/c", "c"),
        ]
    );
    let manifest = log.manifest();
    assert_eq!(manifest.user, "alice");
    // Of the upload, and of the renaming that followed.
    assert_eq!(manifest.entries[0].records.len(), 3);
    assert_eq!(manifest.entries[3].records.len(), 1);
    let text = log.signed();
    let line = format!("\n{}  inbox/a.csv\n", hex::encode(sha256("a")));
    assert!(text.contains(&line), "{text}");
}

#[test]
fn a_manifest_can_be_of_one_mount_directory_or_file() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/sub/b", "b")
            .upload(1, "/out/c", "c")
            .upload(1, "/outer", "d")
            .end(),
    );
    let at = |path: &str, is_mount| {
        let path = path.as_bytes().to_vec();
        log.at(&Scope::At(Wish {
            path,
            token: None,
            is_mount,
        }))
    };
    for (path, is_mount, names) in [
        ("/inbox", true, vec!["a", "sub/b"]),
        ("/inbox/sub", false, vec!["b"]),
        ("/inbox/sub/b", false, vec!["b"]),
        ("/out", true, vec!["c"]),
        ("/nothing", false, vec![]),
    ] {
        let manifest = at(path, is_mount).unwrap();
        let found = manifest.entries.iter().map(|entry| manifest.name(entry));
        assert_eq!(
            found.collect::<Vec<_>>(),
            names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>()
        );
        assert_eq!(
            compare(&manifest, &log.directory()).unwrap(),
            [""; 0],
            "{path}"
        );
        let note = manifest.sign(&log.key()).unwrap();
        assert_eq!(
            Manifest::check(note.as_bytes(), &log.keys()).unwrap(),
            manifest
        );
    }
    let refused = at("/inbox/sub", true).unwrap_err().to_string();
    assert!(refused.contains("it had /inbox, /out"), "{refused}");
}

#[test]
fn what_is_not_known_for_sure_keeps_its_name_and_loses_its_digest() {
    let unhashed = json!({ "sha256": null, "sha256_reason": "not_sequential" });
    let link = |to: &str| json!({ "sftp_op": "symlink", "path": to, "path2": "a", "mount": 0 });
    for (what, session, because) in [
        ("nothing", Session::new().upload(0, "/inbox/a", "a"), None),
        (
            "its size was set",
            Session::new().upload(0, "/inbox/a", "a").deed(json!({
                "sftp_op": "setstat", "path": "/inbox/a", "mount": 0, "attrs": { "size": 1 },
            })),
            Some("size_changed"),
        ),
        (
            "only its mode was set",
            Session::new().upload(0, "/inbox/a", "a").deed(json!({
                "sftp_op": "setstat", "path": "/inbox/a", "mount": 0, "attrs": { "permissions": 1 },
            })),
            None,
        ),
        (
            "it has another name",
            Session::new().upload(0, "/inbox/a", "a").deed(json!({
                "sftp_op": "hardlink", "path": "/inbox/a", "path2": "/inbox/b", "mount": 0,
            })),
            Some("hard_link"),
        ),
        (
            "nobody knows whether it was removed",
            Session::new().upload(0, "/inbox/a", "a").failing(
                json!({ "sftp_op": "remove", "path": "/inbox/a", "mount": 0 }),
                "connection_lost",
            ),
            Some("unknown_outcome"),
        ),
        (
            "nobody knows whether it was renamed",
            Session::new().upload(0, "/inbox/a", "a").failing(
                json!({ "sftp_op": "rename", "path": "/inbox/a", "path2": "/inbox/z", "mount": 0 }),
                "connection_lost",
            ),
            Some("unknown_outcome"),
        ),
        (
            "something beside it",
            Session::new().upload(0, "/inbox/a", "a").failing(
                json!({ "sftp_op": "remove", "path": "/inbox/a2", "mount": 0 }),
                "connection_lost",
            ),
            None,
        ),
        (
            "the end of the writing is not on record",
            {
                let mut session = Session::new().upload(0, "/inbox/a", "a");
                session.open(0, &"/inbox/a".into());
                session
            },
            Some("written_again"),
        ),
        (
            "it could not be opened again",
            Session::new().upload(0, "/inbox/a", "a").failing(
                json!({
                    "sftp_op": "open", "path": "/inbox/a", "mount": 0, "handle_id": 99, "flags": "write", "attrs": {},
                }),
                "already_exists",
            ),
            None,
        ),
        (
            "it has no digest",
            {
                let mut session = Session::new();
                let path = "/inbox/a".into();
                let handle = session.open(0, &path);
                session.close(handle, &path, unhashed);
                session
            },
            Some("not_sequential"),
        ),
        (
            "a link leads to it",
            Session::new()
                .upload(0, "/inbox/a", "a")
                .deed(link("/inbox/link"))
                .remove("/inbox/link/x"),
            Some("through_a_link"),
        ),
        (
            "a link is there and nobody uses it",
            Session::new()
                .upload(0, "/inbox/a", "a")
                .deed(link("/inbox/link"))
                .remove("/inbox/linked"),
            None,
        ),
        (
            "a link that was removed",
            Session::new()
                .upload(0, "/inbox/a", "a")
                .deed(link("/inbox/link"))
                .remove("/inbox/link")
                .remove("/inbox/link/x"),
            None,
        ),
    ] {
        let log = Log::of(session.end());
        let expected = match because {
            None => known("inbox/a", "a"),
            Some(because) => doubtful("inbox/a", because),
        };
        assert_eq!(log.entries(), [expected], "{what}");
    }
}

#[test]
fn a_file_that_was_cut_on_purpose_is_what_its_record_says_if_it_vouches_for_that() {
    let made = json!({ "enc": { "dek_id": "00".repeat(16) }, "size": 4, "sha256": hex::encode(sha256("cut!")), "sha256_source": "reread" });
    let without = |field: &str| {
        let mut outcome = made.clone();
        outcome.as_object_mut().unwrap().remove(field);
        outcome
    };
    for (outcome, name, expected, size) in [
        (made.clone(), "/inbox/a", known("inbox/a", "cut!"), Some(4)),
        (
            without("sha256"),
            "/inbox/a",
            doubtful("inbox/a", "size_changed"),
            None,
        ),
        (
            without("size"),
            "/inbox/a",
            doubtful("inbox/a", "size_changed"),
            None,
        ),
        (
            without("enc"),
            "/inbox/a",
            doubtful("inbox/a", "size_changed"),
            None,
        ),
        // Another file than the one that was delivered.
        (made.clone(), "/inbox/other", known("inbox/a", "a"), None),
    ] {
        let mut session = Session::new().upload(0, "/inbox/a", "a");
        let cut = json!({ "sftp_op": "setstat", "path": name, "mount": 0, "attrs": { "size": 4 } });
        let number = session.intent(cut);
        session.outcome(number, Verdict::Success, None);
        let body = outcome.as_object().unwrap().clone();
        session.events.last_mut().unwrap().body = body;
        let log = Log::of(session.end());
        assert_eq!(log.entries(), [expected], "{outcome}");
        let manifest = log.manifest();
        let entry = &manifest.entries[0];
        if let Some(size) = size {
            assert_eq!(entry.size, Some(size));
            // Of the upload, and of what made it another file.
            assert_eq!(entry.records.len(), 3);
        }
    }
}

#[test]
fn what_went_on_at_the_same_time_is_not_put_in_order() {
    for (path, is_contested) in [("/inbox/a", true), ("/inbox/b", false)] {
        let mut session = Session::new();
        let name = "/inbox/a".into();
        let handle = session.open(0, &name);
        let close = session.intent(json!({ "sftp_op": "close", "handle_id": handle }));
        let remove = session.intent(json!({ "sftp_op": "remove", "path": path, "mount": 0 }));
        session.summary(handle, &name, said("a"));
        session.outcome(close, Verdict::Success, None);
        session.outcome(remove, Verdict::Success, None);
        let log = Log::of(session.end());
        let expected = if is_contested {
            doubtful("inbox/a", "concurrent")
        } else {
            known("inbox/a", "a")
        };
        assert_eq!(log.entries(), [expected], "{path}");
    }
}

#[test]
fn two_mounts_of_one_directory_are_one_place() {
    let mounts = |second| {
        Session::with(&[("/one", "disk", "/d"), ("/two", second, "/d/sub")])
            .upload(0, "/one/sub/a", "a")
            .deed(json!({ "sftp_op": "remove", "path": "/two/a", "mount": 1 }))
            .end()
    };
    assert_eq!(Log::of(mounts("disk")).entries(), []);
    assert_eq!(
        Log::of(mounts("other")).entries(),
        [known("one/sub/a", "a")]
    );
}

#[test]
fn a_session_that_a_crash_ended_has_what_was_acknowledged() {
    let mut session = Session::new()
        .upload(0, "/inbox/a", "a")
        .upload(0, "/inbox/b", "b");
    session.intent(json!({ "sftp_op": "remove", "path": "/inbox/b", "mount": 0 }));
    let log = Log::of(session.events);
    assert!(matches!(
        log.at(&Scope::All),
        Err(ManifestError::GoesOn { .. })
    ));
    log.add(vec![Event::new(EventKind::AppStart)]);
    assert_eq!(
        log.entries(),
        [
            known("inbox/a", "a"),
            doubtful("inbox/b", "unknown_outcome")
        ]
    );
}

#[test]
fn there_is_no_manifest_without_a_session_its_mounts_or_a_checkpoint() {
    let log = Log::of(Session::new().upload(0, "/inbox/a", "a").end());
    let other = of_session(
        &log.directory(),
        &"7".repeat(32),
        &Scope::All,
        &log.keys(),
        None,
    );
    assert!(matches!(other, Err(ManifestError::NoSuchSession { .. })));

    let mut events = Session::new().end();
    events.remove(1);
    let old = Log::of(events);
    assert!(matches!(
        old.at(&Scope::All),
        Err(ManifestError::NoMounts { .. })
    ));

    let checkpoints = log.directory().join(CHECKPOINTS);
    let text = std::fs::read(&checkpoints).unwrap();
    let (all, _) = notes(&text);
    let last = all.last().unwrap().len();
    std::fs::write(&checkpoints, &text[..text.len() - last]).unwrap();
    assert!(matches!(
        log.at(&Scope::All),
        Err(ManifestError::Log(
            ProofError::NotCovered { .. } | ProofError::NoCheckpoint { .. }
        ))
    ));
}
