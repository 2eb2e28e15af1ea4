use portcullis_journal::{Actor, Event, record::untrusted};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{ALICE, BOB, Log};

fn records(log: &Log) -> Vec<(Vec<u8>, Record)> {
    log.lines()
        .into_iter()
        .map(|line| {
            let record = serde_json::from_slice(&line).unwrap();
            (line, record)
        })
        .collect()
}

/// What matches; no match may be lost to the test of the bytes.
fn found(log: &Log, criteria: Criteria) -> Vec<u64> {
    let filter = Filter::from(criteria);
    let mut found = Vec::new();
    for (line, record) in records(log) {
        if filter.matches(&record) {
            let text = String::from_utf8_lossy(&line);
            assert!(filter.may_match(&line), "{filter:?} loses {text}");
            found.push(record.seq);
        }
    }
    found
}

fn named(user: &str, body: Value) -> Event {
    let mut event = ALICE.event(EventKind::OperationDenied, Verdict::Deny, body);
    event.user = Some(Actor {
        uid: None,
        name: user.to_owned(),
        kind: None,
    });
    event
}

#[test]
fn each_criterion_finds_its_records_and_not_their_neighbours() {
    let mut ban = Event::new(EventKind::BanChange);
    ban.body.insert("source".into(), json!("192.0.2.0/24"));
    let mut change = Event::new(EventKind::AdminAccount);
    change.body.insert("account".into(), json!("alice"));
    // log.start is record 0.
    let log = Log::of(vec![
        ALICE.intent(
            1,
            json!({ "sftp_op": "open", "path": "/inbox/a", "handle_id": 1 }),
        ),
        BOB.intent(2, json!({ "sftp_op": "stat", "path": "/inbox2/a" })),
        ALICE.event(
            EventKind::AuthStep,
            Verdict::Failure,
            json!({ "method": "password" }),
        ),
        BOB.intent(
            3,
            json!({ "sftp_op": "rename", "path": "/x", "path2": "/inbox/b" }),
        ),
        ban,
        change,
    ]);
    let all = Criteria::default;
    let list = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (criteria, expected) in [
        (
            Criteria {
                user: Some("alice".into()),
                ..all()
            },
            vec![1, 3, 6],
        ),
        (
            Criteria {
                user: Some("alic".into()),
                ..all()
            },
            vec![],
        ),
        (
            Criteria {
                path: Some("/inbox".parse().unwrap()),
                ..all()
            },
            vec![1, 4],
        ),
        (
            Criteria {
                path: Some("/inbox*/a".parse().unwrap()),
                ..all()
            },
            vec![1, 2],
        ),
        (
            Criteria {
                source: Some("192.0.2.7/32".parse().unwrap()),
                ..all()
            },
            vec![1, 3, 5],
        ),
        (
            Criteria {
                source: Some("198.51.100.0/24".parse().unwrap()),
                ..all()
            },
            vec![2, 4],
        ),
        (
            Criteria {
                session: Some("B0b0".into()),
                ..all()
            },
            vec![2, 4],
        ),
        (
            Criteria {
                operations: list(&["open", "rename"]),
                ..all()
            },
            vec![1, 4],
        ),
        (
            Criteria {
                outcomes: list(&["failure"]),
                ..all()
            },
            vec![3],
        ),
        (
            Criteria {
                events: list(&["auth"]),
                ..all()
            },
            vec![3],
        ),
        (
            Criteria {
                events: list(&["au"]),
                ..all()
            },
            vec![],
        ),
        (
            Criteria {
                until: Some(DateTime::UNIX_EPOCH),
                ..all()
            },
            vec![],
        ),
    ] {
        assert_eq!(found(&log, criteria.clone()), expected, "{criteria:?}");
    }
}

#[test]
fn since_is_included_and_until_is_not() {
    let log = Log::of(vec![named("a", json!({})), named("b", json!({}))]);
    let time = |seq: usize| {
        let (_, record) = &records(&log)[seq];
        DateTime::parse_from_rfc3339(&record.time).unwrap().to_utc()
    };
    let criteria = Criteria {
        since: Some(time(1)),
        until: Some(time(2)),
        ..Criteria::default()
    };
    assert_eq!(found(&log, criteria), [1]);
}

#[test]
fn text_that_looks_like_the_envelope_is_not_taken_for_it() {
    let forged = r#"x","event":"auth.result","outcome":"success","ts":"2000-01-01T00:00:00.000000Z","session_id":"00"#;
    let log = Log::of(vec![named(
        forged,
        json!({ "path": forged, "error": forged }),
    )]);
    let (line, record) = &records(&log)[1];
    assert_eq!(raw::EVENT.of(line), Some(record.event.as_bytes()));
    assert_eq!(raw::TIME.of(line), Some(record.time.as_bytes()));
    assert_eq!(
        raw::session(line),
        Some(0xa1a1_a1a1_a1a1_a1a1_a1a1_a1a1_a1a1_a1a1)
    );
    let criteria = Criteria {
        user: Some(forged.to_owned()),
        ..Criteria::default()
    };
    assert_eq!(found(&log, criteria), [1]);
    let criteria = Criteria {
        events: vec!["auth.result".into()],
        ..Criteria::default()
    };
    assert_eq!(found(&log, criteria), [0; 0]);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-c/\"\\\\\n\u{202e}\u{e4}*]{0,6}",
        Just("alice".to_owned()),
        Just("b64:YQ==".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_record_that_matches_is_lost_to_the_test_of_the_bytes(
        texts in prop::collection::vec((any_text(), prop::collection::vec(any::<u8>(), 0..6), any_text()), 1..8),
        depth in 0usize..4,
        glob in any::<bool>(),
    ) {
        let events: Vec<Event> = texts
            .iter()
            .map(|(user, bytes, path)| {
                let path = [b"/", path.as_bytes(), b"/", bytes].concat();
                named(user, json!({ "sftp_op": "stat", "path": untrusted(&path), "path2": untrusted(bytes) }))
            })
            .collect();
        let log = Log::of(events);
        let records = records(&log);
        for (user, _, path) in &texts {
            let begin: String = path.chars().take(depth).collect();
            let begin = if glob { format!("/{begin}*") } else { format!("/{begin}") };
            let criteria = [
                Criteria { user: Some(user.clone()), ..Criteria::default() },
                Criteria { path: begin.parse().ok(), ..Criteria::default() },
                Criteria { session: Some("a1a1".into()), source: "192.0.2.7/32".parse().ok(), ..Criteria::default() },
                Criteria { operations: vec!["stat".into()], outcomes: vec!["deny".into()], ..Criteria::default() },
            ];
            for criteria in criteria {
                let filter = Filter::from(criteria);
                for (line, record) in &records {
                    prop_assert!(filter.may_match(line) || !filter.matches(record), "{:?} {:?}", filter, record);
                }
            }
            let filter = Filter::from(Criteria { user: Some(user.clone()), ..Criteria::default() });
            prop_assert!(records.iter().any(|(_, record)| filter.matches(record)));
        }
    }
}
