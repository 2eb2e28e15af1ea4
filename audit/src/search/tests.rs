use portcullis_journal::{Event, OperationId, SessionId, Verdict};
use serde_json::{Value, json};

use super::*;
use crate::{
    filter::Criteria,
    testing::{ALICE, BOB, Log},
};

fn search(log: &Log, criteria: Criteria) -> Vec<Found> {
    let filter = Filter::from(criteria);
    let results = Results::of(&[log.path()], &filter, None).unwrap();
    results.collect::<Result<_, _>>().unwrap()
}

fn seqs(found: &[Found]) -> Vec<u64> {
    found.iter().map(|found| found.record.seq).collect()
}

/// Records 1 to 10: an upload to /inbox/a by alice, between records of bob.
fn upload() -> Log {
    Log::of(
        [
            ALICE.open(1, b"/inbox/a", 7, "write,create"),
            BOB.open(2, b"/other", 7, "read"),
            ALICE.moved(3, "write", 7, 0, 100),
            BOB.moved(4, "read", 7, 0, 50),
            ALICE.close(
                5,
                7,
                json!({ "direction": "upload", "path": "/inbox/a", "bytes": 100 }),
            ),
        ]
        .concat(),
    )
}

#[test]
fn a_path_finds_what_happened_through_its_handles_and_how_each_ended() {
    let path = |text: &str| Criteria {
        path: Some(text.parse().unwrap()),
        ..Criteria::default()
    };
    let found = search(&upload(), path("/inbox"));
    assert_eq!(seqs(&found), [1, 2, 5, 6, 9, 10, 11]);
    let outcome = &found[3];
    assert_eq!(outcome.deed.operation.as_deref(), Some("write"));
    assert_eq!(outcome.deed.path.as_deref(), Some(&b"/inbox/a"[..]));
    assert_eq!(outcome.deed.intent, Some(5));
    assert_eq!(seqs(&search(&upload(), path("/other"))), [3, 4, 7, 8]);
    assert_eq!(seqs(&search(&upload(), path("/in"))), [0; 0]);
}

#[test]
fn an_outcome_is_found_by_the_operation_of_its_intent() {
    let criteria = |operation: &str, outcome: &str| Criteria {
        operations: vec![operation.to_owned()],
        outcomes: vec![outcome.to_owned()],
        ..Criteria::default()
    };
    assert_eq!(seqs(&search(&upload(), criteria("read", "success"))), [8]);
    assert_eq!(
        seqs(&search(&upload(), criteria("read", "failure"))),
        [0; 0]
    );
    let read = &search(&upload(), criteria("read", "allow"))[0];
    assert_eq!(read.deed.path.as_deref(), Some(&b"/other"[..]));
}

#[test]
fn what_a_crash_cut_off_is_found_by_the_user_of_its_intent() {
    let mut unknown = Event::new(EventKind::OperationOutcome);
    unknown.session = Some(SessionId([0xa1; 16]));
    unknown.operation = Some(OperationId(1));
    unknown.outcome = Some(Verdict::Unknown);
    let intent = ALICE.intent(1, json!({ "sftp_op": "remove", "path": "/a" }));
    let log = Log::of(vec![intent, unknown]);
    for (user, expected) in [("alice", vec![1, 2]), ("bob", vec![])] {
        let user = Some(user.to_owned());
        let found = search(
            &log,
            Criteria {
                user,
                ..Criteria::default()
            },
        );
        assert_eq!(seqs(&found), expected);
    }
}

#[test]
fn several_logs_come_in_the_order_of_their_times() {
    let one = Log::of(ALICE.done(1, "stat", b"/1"));
    let other = Log::of(BOB.done(2, "stat", b"/2"));
    one.add(ALICE.done(3, "stat", b"/3"));
    let filter = Filter::from(Criteria {
        events: vec!["op.intent".to_owned()],
        ..Criteria::default()
    });
    let logs = [one.path(), other.path()];
    let found: Vec<_> = Results::of(&logs, &filter, None)
        .unwrap()
        .map(|found| found.unwrap())
        .map(|found| (found.log, found.deed.path.unwrap()))
        .collect();
    let expected = [(0, "/1"), (1, "/2"), (0, "/3")];
    assert_eq!(
        found,
        expected.map(|(log, path)| (log, path.as_bytes().to_vec()))
    );
}

#[test]
fn the_end_is_the_end_until_something_is_added() {
    let log = Log::of(ALICE.done(1, "stat", b"/1"));
    let filter = Filter::from(Criteria {
        path: Some("/".parse().unwrap()),
        ..Criteria::default()
    });
    let logs = [log.path()];
    let mut results = Results::of(&logs, &filter, None).unwrap();
    assert_eq!(results.by_ref().count(), 2);
    log.add(ALICE.done(2, "stat", b"/2"));
    assert_eq!(results.by_ref().count(), 2);
}

#[test]
fn json_has_the_record_as_it_stands_and_nothing_for_a_terminal() {
    let mut event = ALICE.intent(1, json!({ "sftp_op": "stat", "path": "/a" }));
    if let Some(user) = &mut event.user {
        user.name = "a\u{9b}31m\n\u{202e}".to_owned();
    }
    let log = Log::of(vec![event]);
    let found = search(
        &log,
        Criteria {
            path: Some("/a".parse().unwrap()),
            ..Criteria::default()
        },
    );
    let json = found[0].to_json(&[log.path()]).unwrap();
    assert!(json.is_ascii() && !json.contains('\n'), "{json}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["record"],
        serde_json::from_slice::<Value>(&found[0].line).unwrap()
    );
    assert_eq!(json["record"]["user"]["name"], "a\u{9b}31m\n\u{202e}");
    let line = crate::text::line(&found[0].record, &found[0].deed);
    assert!(line.is_ascii() && !line.contains('\n'), "{line}");
}
