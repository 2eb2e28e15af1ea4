use portcullis_journal::{Event, Verdict, record::untrusted};
use serde_json::json;

use super::*;
use crate::testing::{ALICE, BOB, Log, Session};

fn history(log: &Log, path: &[u8]) -> Vec<Touch> {
    let record = |line: &[u8]| -> Record { serde_json::from_slice(line).unwrap() };
    let mut renames = Renames::default();
    for line in log.lines() {
        if renames.matters(&line) {
            renames.hear(&record(&line));
        }
    }
    let lineage = renames.lineage(path, None);
    let needles = Needles::of(&lineage);
    let mut history = History::of(&lineage);
    let mut told = Vec::new();
    for line in log.lines() {
        if history.matters(&line, &needles) {
            told.extend(history.hear(&record(&line)));
        }
    }
    told.extend(history.end());
    told
}

fn transfer(who: &Session, direction: &str, path: &str, sha256: Option<&str>) -> Vec<Event> {
    let (upload, handle) = (direction == "upload", 9);
    let summary = json!({
        "direction": direction, "path": path, "handle_id": handle, "bytes": 5, "sha256": sha256, "ranges_complete": !upload,
    });
    let flags = if upload { "write,create" } else { "read" };
    let name = if upload { "write" } else { "read" };
    [
        who.open(100, path.as_bytes(), handle, flags),
        who.moved(101, name, handle, 0, 5),
        who.close(102, handle, summary),
    ]
    .concat()
}

fn rename(from: &str, to: &str, outcome: Verdict) -> Vec<Event> {
    let body = json!({ "sftp_op": "rename", "path": from, "path2": to });
    vec![
        ALICE.intent(200, body),
        ALICE.outcome(200, outcome, json!({})),
    ]
}

fn deeds(told: &[Touch]) -> Vec<(&str, &str)> {
    let name = |touch: &Touch| touch.path.as_str().map(str::to_owned);
    assert!(told.iter().all(|touch| name(touch).is_some()), "{told:?}");
    told.iter()
        .map(|touch| (&*touch.what, touch.path.as_str().unwrap()))
        .collect()
}

#[test]
fn a_download_is_compared_with_the_last_upload() {
    let log = Log::of(
        [
            transfer(&ALICE, "upload", "/a", Some("11")),
            transfer(&BOB, "download", "/a", Some("11")),
            transfer(&BOB, "download", "/a", Some("66")),
            transfer(&BOB, "download", "/a", None),
            transfer(&ALICE, "upload", "/a", None),
            transfer(&BOB, "download", "/a", Some("11")),
            transfer(&BOB, "download", "/b", Some("11")),
        ]
        .concat(),
    );
    let told = history(&log, b"/a");
    let compared: Vec<_> = told.iter().map(|touch| touch.compared.clone()).collect();
    let upload = told[0].seq;
    let unknown = |because| Some(Compared::Unknown { because });
    assert_eq!(
        compared,
        [
            None,
            Some(Compared::Same { upload }),
            Some(Compared::Differs {
                upload,
                sha256: "11".to_owned()
            }),
            unknown("the download has no hash"),
            None,
            unknown("the last change has no hash"),
        ]
    );
    assert!(
        told[2].line().contains("DIFFERS from the upload"),
        "{}",
        told[2].line()
    );
    assert_eq!(told[1].user.as_deref(), Some("bob"));
}

#[test]
fn renames_are_followed_both_ways_and_others_of_the_name_are_not() {
    let log = Log::of(
        [
            transfer(&ALICE, "upload", "/tmp/a", Some("11")),
            transfer(&ALICE, "upload", "/in/x", Some("22")),
            rename("/tmp/a", "/in/a", Verdict::Success),
            // Another file under the old name.
            transfer(&BOB, "upload", "/tmp/a", Some("33")),
            rename("/in/b", "/in/c", Verdict::Failure),
            rename("/in", "/done", Verdict::Success),
            transfer(&BOB, "download", "/done/a", Some("11")),
            BOB.done(300, "stat", b"/done/a"),
            BOB.done(301, "stat", b"/done/a"),
            BOB.done(302, "remove", b"/done/a"),
        ]
        .concat(),
    );
    let expected = [
        ("upload", "/tmp/a"),
        ("rename", "/tmp/a"),
        ("download", "/done/a"),
        ("stat", "/done/a"),
        ("remove", "/done/a"),
    ];
    for name in ["/done/a", "/in/a"] {
        let told = history(&log, name.as_bytes());
        assert_eq!(deeds(&told), expected, "{name}");
        assert_eq!(told[3].times, 2);
        assert!(
            matches!(told[2].compared, Some(Compared::Same { .. })),
            "{name}"
        );
    }
}

#[test]
fn a_denial_is_told_and_what_a_name_hides_is_shown() {
    let path = "/a\n\u{202e}\"";
    let body = json!({ "sftp_op": "open", "path": untrusted(path.as_bytes()) });
    let log = Log::of(vec![BOB.event(
        EventKind::OperationDenied,
        Verdict::Deny,
        body,
    )]);
    let told = history(&log, path.as_bytes());
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .line()
            .ends_with("open \"/a\\u{a}\\u{202e}\\\"\", deny"),
        "{}",
        told[0].line()
    );
}
