//! Deliveries beside a log that grows are those that its readers find later.

use proptest::prelude::*;

use super::*;
use crate::record::untrusted;

/// A journal that is open, and who follows it.
struct Growing {
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    journal: Option<Journal>,
    segment_bytes: u64,
}

impl Growing {
    fn new() -> Self {
        Self::with_segments_of(64 << 20)
    }

    fn with_segments_of(segment_bytes: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut growing = Self {
            folder: tempfile::tempdir().unwrap(),
            runtime,
            journal: None,
            segment_bytes,
        };
        growing.start();
        growing
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn keys(&self) -> Vec<StandardVerifier> {
        read_verifier_keys(&public_key_path(&self.directory().with_extension("key"))).unwrap()
    }

    /// Opens the log again, as after a crash.
    fn start(&mut self) {
        self.journal = None;
        let mut options = Options::default_in(self.directory());
        options.node = "gw1".to_owned();
        options.segment_bytes = self.segment_bytes;
        // The writer of the run before may still hold it.
        let journal = loop {
            match Journal::open(options.clone()) {
                Ok((journal, _)) => break journal,
                Err(crate::OpenError::Locked { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        self.journal = Some(journal);
    }

    fn add(&self, events: Vec<Event>) {
        let journal = self.journal.as_ref().unwrap();
        self.runtime.block_on(async {
            for event in events {
                journal.append(event).await.unwrap();
            }
        });
    }

    fn sign(&self) {
        let journal = self.journal.as_ref().unwrap();
        self.runtime.block_on(journal.checkpoint()).unwrap();
    }

    fn durable(&self) -> u64 {
        self.journal.as_ref().unwrap().status().durable
    }

    fn follow(&self, mark: Option<&Mark>) -> Deliveries {
        Deliveries::of(&self.directory(), self.keys(), mark, self.durable()).unwrap()
    }

    /// What is told now.
    fn told(&self, deliveries: &mut Deliveries) -> Vec<Manifest> {
        while deliveries.advance(self.durable()).unwrap() {}
        std::iter::from_fn(|| deliveries.pop()).collect()
    }

    /// What a reader finds of a session.
    fn found(&self, number: u8) -> Manifest {
        let session = hex::encode([number; 16]);
        let keys = self.keys();
        of_session(&self.directory(), &session, &Scope::All, &keys, None).unwrap()
    }

    fn written(&self, manifest: &Manifest) -> Event {
        let mut event = Event::new(EventKind::ManifestWritten);
        event.outcome = Some(Verdict::Success);
        let session = untrusted(manifest.session.as_bytes());
        event.body.insert("session".to_owned(), session);
        event
    }
}

/// The events as those of another session.
fn of(number: u8, events: Vec<Event>) -> Vec<Event> {
    let mut events = events;
    for event in &mut events {
        event.session = Some(SessionId([number; 16]));
    }
    events
}

fn uploading(number: u8) -> Vec<Event> {
    let session = Session::new()
        .upload(0, "/inbox/a.part", "a")
        .upload(1, "/out/b", "b")
        .rename("/inbox/a.part", "/inbox/a");
    of(number, session.end())
}

fn interleaved(one: Vec<Event>, other: Vec<Event>) -> Vec<Event> {
    let mut others = other.into_iter();
    let mut events: Vec<_> = one
        .into_iter()
        .flat_map(|event| [Some(event), others.next()])
        .flatten()
        .collect();
    events.extend(others);
    events
}

#[test]
fn a_session_is_told_of_once_it_is_over_and_signed_and_as_a_reader_finds_it() {
    for segment_bytes in [1 << 10, 64 << 20] {
        let log = Growing::with_segments_of(segment_bytes);
        let mut deliveries = log.follow(None);
        log.add(interleaved(uploading(1), uploading(2)));
        // Nothing is signed yet, unless a segment was closed.
        let early = log.told(&mut deliveries);
        assert_eq!(deliveries.wait_for_a_head(), early.len() < 2);
        log.sign();
        let mut told = early;
        told.extend(log.told(&mut deliveries));
        assert_eq!(told, [log.found(1), log.found(2)], "{segment_bytes}");
        assert!(!deliveries.wait_for_a_head());
        assert!(log.told(&mut deliveries).is_empty());
    }
}

#[test]
fn a_session_that_delivered_nothing_is_not_told_of() {
    let log = Growing::new();
    let mut deliveries = log.follow(None);
    let read = json!({ "sftp_op": "open", "path": "/inbox/x", "mount": 0, "handle_id": 1, "flags": "read", "attrs": {} });
    log.add(of(1, Session::new().deed(read).end()));
    let undone = Session::new().upload(0, "/inbox/a", "a").remove("/inbox/a");
    log.add(of(2, undone.end()));
    let mut failed = Session::new();
    let handle = failed.open(0, &"/inbox/a".into());
    let close = failed.intent(json!({ "sftp_op": "close", "handle_id": handle }));
    failed.outcome(close, Verdict::Failure, Some("no_space"));
    log.add(of(3, failed.end()));
    let goes_on = Session::new().upload(0, "/inbox/a", "a");
    log.add(of(4, goes_on.events));
    log.sign();
    assert!(log.told(&mut deliveries).is_empty());
    assert!(!deliveries.wait_for_a_head());
}

#[test]
fn a_crash_ends_a_session_and_the_next_start_tells_of_it() {
    let mut log = Growing::new();
    let mut deliveries = log.follow(None);
    let mut session = Session::new().upload(0, "/inbox/a", "a");
    session.intent(json!({ "sftp_op": "remove", "path": "/inbox/a", "mount": 0 }));
    log.add(of(1, session.events));
    log.sign();
    assert!(log.told(&mut deliveries).is_empty());
    let mark = Mark::from_bytes(&deliveries.mark().to_bytes()).unwrap();
    log.start();
    log.add(vec![Event::new(EventKind::AppStart)]);
    let mut deliveries = log.follow(Some(&mark));
    log.sign();
    assert_eq!(log.told(&mut deliveries), [log.found(1)]);
    // Without a mark, what was before is left alone.
    assert!(log.told(&mut log.follow(None)).is_empty());
}

#[test]
fn what_ends_after_its_session_is_waited_for() {
    let mut log = Growing::new();
    let mut deliveries = log.follow(None);
    let begun = deliveries.mark();
    let mut session = Session::new().upload(0, "/inbox/a", "a");
    let handle = session.open(0, &"/inbox/b".into());
    let close = session.intent(json!({ "sftp_op": "close", "handle_id": handle }));
    let mut events = session.end();
    let mut late = Session::new();
    late.events.clear();
    late.summary(handle, &"/inbox/b".into(), said("b"));
    late.outcome(close, Verdict::Success, None);
    log.add(of(1, std::mem::take(&mut events)));
    log.sign();
    assert!(log.told(&mut deliveries).is_empty());
    assert!(!deliveries.wait_for_a_head());
    log.add(of(1, late.events));
    log.sign();
    let told = log.told(&mut deliveries);
    assert_eq!(told, [log.found(1)]);
    assert_eq!(told[0].entries.len(), 2);

    // What never ends does so with the run.
    let mut session = Session::new().upload(0, "/inbox/a", "a");
    session.intent(json!({ "sftp_op": "remove", "path": "/inbox/a", "mount": 0 }));
    log.add(of(2, session.end()));
    log.sign();
    assert!(log.told(&mut deliveries).is_empty());
    log.start();
    log.add(vec![Event::new(EventKind::AppStart), log.written(&told[0])]);
    log.sign();
    let mut deliveries = log.follow(Some(&begun));
    assert_eq!(log.told(&mut deliveries), [log.found(2)]);
}

#[test]
fn what_is_on_record_is_not_told_of_again_and_what_is_not_is() {
    let mut log = Growing::new();
    let mut deliveries = log.follow(None);
    assert!(log.told(&mut deliveries).is_empty());
    let begun = deliveries.mark();
    log.add(uploading(1));
    log.add(uploading(2));
    log.sign();
    let told = log.told(&mut deliveries);
    assert_eq!(told.len(), 2);
    // The second was not written when the gateway was killed.
    assert_eq!(deliveries.mark().records, begun.records);
    log.add(vec![log.written(&told[0])]);
    deliveries.recorded(&told[0].session);
    let mark = deliveries.mark();
    assert!(mark.records > begun.records);
    log.start();
    for mark in [&begun, &mark] {
        let mut deliveries = log.follow(Some(mark));
        assert_eq!(log.told(&mut deliveries), [log.found(2)]);
        deliveries.recorded(&told[1].session);
        assert!(deliveries.mark().records > mark.records);
    }
}

#[test]
fn a_follower_that_begins_anew_after_each_record_misses_nothing() {
    let log = Growing::new();
    let mut mark = log.follow(None).mark();
    let mut all = Vec::new();
    for event in interleaved(uploading(1), uploading(2)) {
        log.add(vec![event]);
        log.sign();
        let mut deliveries = log.follow(Some(&mark));
        let told = log.told(&mut deliveries);
        for manifest in &told {
            log.add(vec![log.written(manifest)]);
            deliveries.recorded(&manifest.session);
        }
        all.extend(told);
        mark = Mark::from_bytes(&deliveries.mark().to_bytes()).unwrap();
    }
    assert_eq!(all, [log.found(1), log.found(2)]);
}

#[test]
fn a_session_that_is_too_long_to_be_remembered_is_read_again() {
    for most in [0, 1, 5] {
        let log = Growing::with_segments_of(1 << 10);
        let mut deliveries = log.follow(None);
        deliveries.most = most;
        log.add(interleaved(uploading(1), uploading(2)));
        log.sign();
        while deliveries.advance(log.durable()).unwrap() {
            assert!(deliveries.remembered <= most.max(2));
        }
        let told: Vec<_> = std::iter::from_fn(|| deliveries.pop()).collect();
        assert_eq!(told, [log.found(1), log.found(2)], "{most}");
        assert_eq!(deliveries.remembered, 0);
    }
}

#[test]
fn the_key_may_change_on_the_way() {
    let log = Growing::new();
    let mut deliveries = log.follow(None);
    log.add(uploading(1));
    SigningKey::prepare_next(&log.directory().with_extension("key")).unwrap();
    let journal = log.journal.as_ref().unwrap();
    assert!(log.runtime.block_on(journal.change_key()).unwrap());
    log.add(uploading(2));
    log.sign();
    assert_eq!(log.told(&mut deliveries), [log.found(1), log.found(2)]);
}

#[test]
fn nothing_is_told_of_a_log_that_was_altered() {
    for (from, to) in [
        ("/inbox/a.part", "/inbox/b.part"),
        ("conn.open", "conn.opem"),
    ] {
        let log = Growing::new();
        let mut deliveries = log.follow(None);
        log.add(uploading(1));
        log.sign();
        let segment = log.directory().join("000000000000.jsonl");
        let text = std::fs::read_to_string(&segment).unwrap();
        std::fs::write(&segment, text.replacen(from, to, 1)).unwrap();
        let error = deliveries.advance(log.durable()).unwrap_err();
        assert!(
            matches!(error, ManifestError::Log(ProofError::Altered { .. })),
            "{error}"
        );
        assert_eq!(deliveries.pop(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_happens_when_each_delivery_is_told_of_once_and_as_a_reader_finds_it(
        steps in proptest::collection::vec((0..2_u8, 0..7_u8), 1..40),
        cuts in proptest::collection::btree_set(0..120_usize, 0..6),
    ) {
        let mut log = Growing::with_segments_of(1 << 10);
        let mut sessions = [Session::new(), Session::new()];
        for (which, step) in steps {
            let session = &mut sessions[usize::from(which)];
            let done = std::mem::replace(session, Session { events: Vec::new(), next: 0 });
            *session = match step {
                0 => done.upload(0, "/inbox/a", "a"),
                1 => done.upload(1, "/out/b", "b"),
                2 => done.rename("/inbox/a", "/inbox/c"),
                3 => done.remove("/inbox/c"),
                4 => done.deed(json!({ "sftp_op": "setstat", "path": "/inbox/a", "mount": 0, "attrs": { "size": 1 } })),
                5 => done.deed(json!({ "sftp_op": "read", "handle_id": 1, "offset": 0, "len": 1 })),
                _ => done.failing(json!({ "sftp_op": "rename", "path": "/inbox", "path2": "/inbox/d", "mount": 0 }), "timeout"),
            };
        }
        let [one, other] = sessions;
        let events = interleaved(of(1, one.end()), of(2, other.end()));
        let mut deliveries = log.follow(None);
        let mut mark = deliveries.mark();
        let mut told = Vec::new();
        let mut hear = |log: &Growing, deliveries: &mut Deliveries| {
            for manifest in log.told(deliveries) {
                log.add(vec![log.written(&manifest)]);
                deliveries.recorded(&manifest.session);
                told.push(manifest);
            }
        };
        for (at, event) in events.into_iter().enumerate() {
            log.add(vec![event]);
            if cuts.contains(&at) {
                hear(&log, &mut deliveries);
                // An older mark is as good.
                if at % 2 == 0 {
                    mark = deliveries.mark();
                }
                log.start();
                deliveries = log.follow(Some(&mark));
            }
        }
        log.sign();
        hear(&log, &mut deliveries);
        told.sort_by(|one, other| one.session.cmp(&other.session));
        let found = [log.found(1), log.found(2)];
        let delivered: Vec<_> = found.into_iter().filter(|found| !found.entries.is_empty()).collect();
        prop_assert_eq!(told, delivered);
    }
}

#[test]
fn a_mark_that_was_tampered_with_is_none_or_shows() {
    let log = Growing::new();
    let mut deliveries = log.follow(None);
    assert!(log.told(&mut deliveries).is_empty());
    let mut mark = deliveries.mark();
    let sealed = mark.to_bytes();
    for at in 0..sealed.len() {
        let mut other = sealed.clone();
        other[at] ^= 1;
        assert_eq!(Mark::from_bytes(&other), None, "{at}");
    }
    log.add(uploading(1));
    log.sign();
    mark.peaks[0] = Hash([7; 32]).to_string();
    let mut deliveries = log.follow(Some(&mark));
    assert!(deliveries.advance(log.durable()).is_err());
}
