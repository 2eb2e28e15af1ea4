//! Manifests of logs that the real journal wrote.

use std::path::PathBuf;

use proptest::prelude::*;
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

#[test]
fn each_byte_of_a_manifest_counts() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/b", "b")
            .end(),
    );
    let signed = log.signed();
    assert_eq!(
        Manifest::check(signed.as_bytes(), &log.keys()).unwrap(),
        log.manifest()
    );
    for at in 0..signed.len() {
        for change in [0x01, 0x20, 0x80] {
            let mut forged = signed.clone().into_bytes();
            forged[at] ^= change;
            let checked = Manifest::check(&forged, &log.keys());
            assert!(
                checked.is_err(),
                "byte {at}: {}",
                String::from_utf8_lossy(&forged)
            );
        }
        let cut = [&signed.as_bytes()[..at], &signed.as_bytes()[at + 1..]].concat();
        assert!(
            Manifest::check(&cut, &log.keys()).is_err(),
            "without byte {at}"
        );
    }
    for (from, to) in [
        ("# files 2", "# files 3"),
        ("7 bytes", "07 bytes"),
        ("inbox/b", "inbox/c"),
        (", records 6", ", records 5"),
        ("# user alice", "# user mallory"),
    ] {
        let forged = signed.replacen(from, to, 1);
        assert_ne!(forged, signed, "{to}");
        assert!(
            Manifest::check(forged.as_bytes(), &log.keys()).is_err(),
            "{to}"
        );
    }
}

#[test]
fn a_manifest_is_by_the_key_of_its_log() {
    let events = || Session::new().upload(0, "/inbox/a", "a").end();
    let (log, other) = (Log::of(events()), Log::of(events()));
    let signed = log.signed();
    assert!(Manifest::check(signed.as_bytes(), &log.keys()).is_ok());
    assert!(matches!(
        Manifest::check(signed.as_bytes(), &other.keys()),
        Err(ManifestError::OtherKey { .. })
    ));
    let both = [other.keys(), log.keys()].concat();
    assert!(Manifest::check(signed.as_bytes(), &both).is_ok());

    // A key of another name that the auditor trusts as well.
    let stranger = SigningKey::open(&log.0.path().join("stranger"), "other").unwrap();
    assert!(matches!(
        log.manifest().sign(&stranger),
        Err(ManifestError::OtherOrigin { .. })
    ));
    let lent = Manifest {
        origin: "other".to_owned(),
        ..log.manifest()
    };
    let lent = lent.sign(&stranger).unwrap();
    let trusted = [log.keys(), vec![stranger.verifier()]].concat();
    assert!(Manifest::check(lent.as_bytes(), &trusted).is_ok());
    let forged = lent.replacen("# log other", "# log gw1", 1);
    assert!(Manifest::check(forged.as_bytes(), &trusted).is_err());
}

#[test]
fn a_checkpoint_is_no_manifest_and_a_manifest_no_checkpoint() {
    let log = Log::of(Session::new().upload(0, "/inbox/a", "a").end());
    let checkpoints = std::fs::read(log.directory().join(CHECKPOINTS)).unwrap();
    let (all, _) = notes(&checkpoints);
    let checkpoint = *all.last().unwrap();
    assert!(matches!(judge(checkpoint, &log.keys()), Judged::Good(_)));
    assert!(matches!(
        Manifest::check(checkpoint, &log.keys()),
        Err(ManifestError::NotAManifest { .. })
    ));
    let signed = log.signed();
    assert!(Manifest::check(signed.as_bytes(), &log.keys()).is_ok());
    assert_eq!(judge(signed.as_bytes(), &log.keys()), Judged::Malformed);
    // Nor in the file of checkpoints.
    let mixed = [signed.as_bytes(), checkpoint].concat();
    let (found, _) = notes(&mixed);
    assert_eq!(judge(found[0], &log.keys()), Judged::Malformed);
}

type Lie = fn(&mut Manifest);

#[test]
fn what_a_signed_manifest_says_is_compared_with_the_log() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/b", "b")
            .end(),
    );
    let honest = log.manifest();
    let findings = |manifest: &Manifest| compare(manifest, &log.directory()).unwrap();
    assert_eq!(findings(&honest), [""; 0]);
    let lies: [(&str, Lie); 10] = [
        ("another size", |it| it.entries[0].size = Some(8)),
        ("no size", |it| it.entries[0].size = None),
        ("another digest", |it| it.entries[0].sha256 = Ok([9; 32])),
        ("no digest", |it| {
            it.entries[0].sha256 = Err("lost".to_owned())
        }),
        ("another name", |it| {
            it.entries[0].path = b"/inbox/c".to_vec()
        }),
        ("another time", |it| {
            it.entries[0].time.replace_range(0..4, "1999")
        }),
        ("other records", |it| it.entries[0].records = vec![1]),
        ("a file less", |it| drop(it.entries.remove(0))),
        ("another user", |it| it.user = "bob".to_owned()),
        ("another head", |it| it.head.root = Hash([7; 32])),
    ];
    for (what, lie) in lies {
        let mut manifest = honest.clone();
        lie(&mut manifest);
        let signed = manifest.sign(&log.key()).unwrap();
        let checked = Manifest::check(signed.as_bytes(), &log.keys()).unwrap();
        assert!(!findings(&checked).is_empty(), "{what}");
    }
    // A file less outside of the scope is none.
    let mut part = honest;
    part.entries.remove(0);
    part.scope = b"/inbox/b".to_vec();
    assert_eq!(findings(&part), [""; 0]);
}

#[test]
fn hidden_names_stay_hidden_unless_they_are_opened() {
    let token = |path: &str| Value::from(format!("hmac:{path}"));
    let mounts = [("hmac:/IN", "disk", "hmac:/P")];
    let log = Log::of(
        Session::with(&mounts)
            .upload(0, token("/IN/A.part"), "a")
            .deed(json!({
                "sftp_op": "rename", "path": "hmac:/IN/A.part", "path2": "hmac:/IN/B.csv", "mount": 0,
            }))
            .upload(0, token("/IN/D/E.csv"), "e")
            .deed(json!({
                // A directory's token may have an extension, those of its files have it not.
                "sftp_op": "rename", "path": "hmac:/IN/D.old", "path2": "hmac:/IN/F.new", "mount": 0,
            }))
            .end(),
    );
    assert_eq!(
        log.entries(),
        [known("hmac:/IN/B.csv", "a"), known("hmac:/IN/F/E.csv", "e")]
    );
    let wish = Scope::At(Wish {
        path: b"/inbox".to_vec(),
        token: Some(b"hmac:/IN".to_vec()),
        is_mount: true,
    });
    let manifest = log.at(&wish).unwrap();
    let text = manifest.sign(&log.key()).unwrap();
    assert!(text.contains("# scope hmac:/IN\n"), "{text}");
    // sha256sum would look for a file of that name.
    assert!(
        text.contains(&format!(
            "\n# {}  hmac:/IN/B.csv\n",
            hex::encode(sha256("a"))
        )),
        "{text}"
    );
    assert_eq!(
        Manifest::check(text.as_bytes(), &log.keys()).unwrap(),
        manifest
    );

    let open = |record: &mut crate::read::Record| {
        let names = [("hmac:/IN", "/inbox"), ("hmac:/P", "/partner")];
        let mut text = record.body.to_string();
        for (token, name) in [
            ("/A.part", "/a.part"),
            ("/B.csv", "/b.csv"),
            ("D.old", "d.old"),
            ("F.new", "f.new"),
            ("/D/E.csv", "/d.old/e.csv"),
        ] {
            text = text.replace(token, name);
        }
        for (token, name) in names {
            text = text.replace(token, name);
        }
        record.body = serde_json::from_str(&text).unwrap();
    };
    let opened = of_session(
        &log.directory(),
        SESSION,
        &Scope::All,
        &log.keys(),
        Some(&open),
    )
    .unwrap();
    let text = opened.sign(&log.key()).unwrap();
    assert!(text.contains("recorded as hmac:/IN/B.csv\n"), "{text}");
    assert!(
        text.contains("  inbox/b.csv\n") && text.contains("  inbox/f.new/e.csv\n"),
        "{text}"
    );
    assert_eq!(compare(&opened, &log.directory()).unwrap(), [""; 0]);
    let mut lie = opened;
    lie.entries[0].recorded = Some(b"hmac:/IN/X".to_vec());
    assert!(!compare(&lie, &log.directory()).unwrap().is_empty());
}

#[test]
fn files_are_compared_by_their_names_below_the_directory_and_nowhere_else() {
    let log = Log::of(
        Session::new()
            .upload(0, "/inbox/a", "a")
            .upload(0, "/inbox/sub/b", "b")
            .end(),
    );
    let folder = tempfile::tempdir().unwrap();
    let delivered = folder.path().join("delivered");
    std::fs::create_dir_all(delivered.join("inbox/sub")).unwrap();
    let mut manifest = log.manifest();
    for entry in &mut manifest.entries {
        entry.size = Some(1);
    }
    let compared = |manifest: &Manifest, number: usize| {
        compare_file(manifest, &manifest.entries[number], &delivered, &mut |_| {}).unwrap()
    };
    assert_eq!(compared(&manifest, 0), Stored::Missing);
    std::fs::write(delivered.join("inbox/a"), "a").unwrap();
    assert_eq!(compared(&manifest, 0), Stored::Same);
    for content in ["b", "aa", ""] {
        std::fs::write(delivered.join("inbox/a"), content).unwrap();
        assert_eq!(compared(&manifest, 0), Stored::Differs);
    }
    // The same content elsewhere, over a link, and over names that lead out.
    std::fs::write(folder.path().join("b"), "b").unwrap();
    std::os::unix::fs::symlink(folder.path().join("b"), delivered.join("inbox/sub/b")).unwrap();
    assert_eq!(compared(&manifest, 1), Stored::Refused);
    for path in ["/../b", "/inbox/../../b", "//b", "/"] {
        manifest.entries[1].path = path.as_bytes().to_vec();
        let found = compared(&manifest, 1);
        assert!(
            matches!(found, Stored::Refused | Stored::Differs),
            "{path}: {found:?}"
        );
    }
    manifest.entries[0].sha256 = Err("lost".to_owned());
    assert_eq!(compared(&manifest, 0), Stored::Unknown);
}

#[test]
fn names_that_could_be_taken_for_something_else_are_encoded() {
    let log = Log::of(
        Session::new()
            .upload(0, untrusted(b"/inbox/hmac:"), "1")
            .upload(0, untrusted(b"/hmac:/x"), "2")
            .upload(0, untrusted(b"/inbox/new\nline"), "3")
            .upload(0, untrusted(b"/inbox/\xff"), "4")
            .upload(0, untrusted("/inbox/ \u{e4}\\ ".as_bytes()), "5")
            .end(),
    );
    let manifest = log.manifest();
    let text = log.signed();
    assert_eq!(
        Manifest::check(text.as_bytes(), &log.keys()).unwrap(),
        manifest
    );
    assert_eq!(text.matches("\n# b64:").count(), 0, "{text}");
    assert_eq!(text.matches("  b64:").count(), 3, "{text}");
    assert!(
        text.contains("  inbox/hmac:\n") && text.contains("  inbox/ \u{e4}\\ \n"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn the_text_is_read_back_as_it_was_meant(
        names in prop::collection::vec(prop::collection::vec(any::<u8>().prop_filter("a byte of a name", |b| !matches!(b, 0 | b'/')), 1..9), 0..5),
        below in prop::sample::select(vec!["/", "/in", "/in/deep"]),
        user in "\\PC{1,8}",
        size in prop::option::of(any::<u64>()),
        digest in prop::option::of(any::<[u8; 32]>()),
    ) {
        let above = if below == "/" { "" } else { below };
        let manifest = Manifest {
            origin: "gw1".to_owned(),
            head: Head { size: 7, root: Hash([3; 32]) },
            session: SESSION.to_owned(),
            user,
            begun: "2026-11-22T01:02:03.000004Z".to_owned(),
            ended: "2026-11-22T01:02:03.000005Z".to_owned(),
            scope: below.as_bytes().to_vec(),
            below: below.as_bytes().to_vec(),
            entries: names
                .into_iter()
                .map(|name| Entry {
                    path: [above.as_bytes(), b"/", &name].concat(),
                    recorded: None,
                    size,
                    time: "2026-11-22T01:02:03.000005Z".to_owned(),
                    sha256: digest.ok_or_else(|| "lost".to_owned()),
                    records: vec![1, 2],
                })
                .collect(),
        };
        let text = manifest.to_text();
        prop_assert_eq!(Manifest::of_text(&text), Ok(manifest));
    }

    #[test]
    fn what_is_no_manifest_never_panics(text in "\\PC*") {
        let text = format!("{}{text}\n", form::FIRST);
        if let Ok(manifest) = Manifest::of_text(&text) {
            prop_assert_eq!(manifest.to_text(), text);
        }
    }
}
