use portcullis_journal::{Event, Verdict, record::untrusted};
use serde_json::json;

use super::*;
use crate::testing::{ALICE, BOB, Log, Session as Who};

const A: [u8; 32] = [0xaa; 32];
const B: [u8; 32] = [0xbb; 32];

fn mounts(who: &Who, at: &str, directory: &str) -> Event {
    let body = json!({ "mounts": [{ "at": at, "backend": "disk", "directory": directory }] });
    who.event(EventKind::SessionMounts, Verdict::Success, body)
}

fn begin() -> Vec<Event> {
    vec![mounts(&ALICE, "/in", "/a"), mounts(&BOB, "/", "/")]
}

use portcullis_journal::EventKind;

fn opens(who: &Who, operation: u64, path: &str, handle: u64) -> Vec<Event> {
    let body = json!({
        "sftp_op": "open", "path": path, "handle_id": handle, "flags": "write,create,truncate",
        "attrs": {}, "mount": 0,
    });
    vec![
        who.intent(operation, body),
        who.outcome(operation, Verdict::Success, json!({})),
    ]
}

fn summary(handle: u64, content: Option<[u8; 32]>) -> serde_json::Value {
    json!({
        "direction": "upload", "path": "/x", "handle_id": handle, "bytes": 5,
        "sha256": content.map(hex::encode), "sha256_source": "stream",
        "sha256_reason": content.is_none().then_some("not_sequential"),
    })
}

fn upload(who: &Who, operation: u64, path: &str, content: [u8; 32]) -> Vec<Event> {
    let mut events = opens(who, operation, path, operation);
    events.extend(who.close(operation + 1, operation, summary(operation, Some(content))));
    events
}

fn asked(who: &Who, operation: u64, name: &str, paths: &[&str]) -> Event {
    let mut body = json!({ "sftp_op": name, "mount": 0 });
    for (field, path) in ["path", "path2"].iter().zip(paths) {
        body[*field] = untrusted(path.as_bytes());
    }
    who.intent(operation, body)
}

fn ended(who: &Who, operation: u64, verdict: Verdict, reason: &str) -> Event {
    let mut event = who.outcome(operation, verdict, json!({}));
    event.reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
    event
}

fn did(who: &Who, operation: u64, name: &str, paths: &[&str]) -> Vec<Event> {
    vec![
        asked(who, operation, name, paths),
        ended(who, operation, Verdict::Success, ""),
    ]
}

fn after(events: &[Vec<Event>]) -> Catalogue {
    with(Catalogue::default(), events)
}

fn with(catalogue: Catalogue, events: &[Vec<Event>]) -> Catalogue {
    let log = Log::of(
        std::iter::once(begin())
            .chain(events.to_vec())
            .flatten()
            .collect(),
    );
    let mut reader = Reader::of(&log.path(), catalogue).unwrap();
    reader.advance().unwrap();
    reader.catalogue
}

/// `sound`, the kind of a finding and who was last, or `?` and why nobody can say.
fn judged(catalogue: &Catalogue, place: &str, found: Found<'_>) -> String {
    match catalogue.judge(place.as_bytes(), found) {
        Judgement::Sound => "sound".to_owned(),
        Judgement::Unverified(because) => format!("? {because}"),
        Judgement::Finding(finding) => {
            let last = finding.last.and_then(|last| last.user);
            format!("{} {}", finding.kind.name(), last.unwrap_or_default())
        }
    }
}

#[test]
fn an_upload_is_sound_as_it_was_and_altered_or_missing_otherwise() {
    let catalogue = after(&[upload(&ALICE, 1, "/in/x", A)]);
    let judged = |found| judged(&catalogue, "/disk/a/x", found);
    assert_eq!(judged(Found::Content(&A)), "sound");
    assert_eq!(judged(Found::Content(&B)), "altered alice");
    assert_eq!(judged(Found::Nothing), "missing alice");
    assert_eq!(judged(Found::Link), "altered alice");
    assert!(!catalogue.is_cut());
}

#[test]
fn what_no_record_explains_is_unknown_unless_the_log_lacks_its_beginning() {
    let catalogue = after(&[]);
    assert_eq!(
        judged(&catalogue, "/disk/a/y", Found::Content(&A)),
        "unknown "
    );
    assert_eq!(judged(&catalogue, "/disk/a/y", Found::Nothing), "sound");
    let anew = Event::new(EventKind::LogBeginAnew);
    let catalogue = after(&[vec![anew]]);
    assert_eq!(
        judged(&catalogue, "/disk/a/y", Found::Content(&A)),
        "? log_is_cut"
    );
}

#[test]
fn two_mounts_of_one_directory_are_one_place() {
    let catalogue = after(&[upload(&ALICE, 1, "/in/x", A), upload(&BOB, 1, "/a/x", B)]);
    assert_eq!(judged(&catalogue, "/disk/a/x", Found::Content(&B)), "sound");
    assert_eq!(
        judged(&catalogue, "/disk/a/x", Found::Content(&A)),
        "rolled_back bob"
    );
    assert_eq!(catalogue.known_below(b"/disk").len(), 1);
    assert_eq!(catalogue.known_below(b"/disk/a/x").len(), 1);
    assert_eq!(catalogue.known_below(b"/dis").len(), 0);
}

#[test]
fn a_backend_in_the_directory_of_another_shares_its_places() {
    let roots = [("disk".to_owned(), b"/all/partners".to_vec())];
    let catalogue = Catalogue::new(None, roots, []);
    let catalogue = with(catalogue, &[upload(&ALICE, 1, "/in/x", A)]);
    let place = catalogue.place("disk", b"a/x");
    assert_eq!(place, b"/all/partners/a/x");
    assert_eq!(
        judged(&catalogue, "/all/partners/a/x", Found::Nothing),
        "missing alice"
    );
}

#[test]
fn an_upload_without_digest_or_of_unknown_end_is_never_a_finding_and_one_that_failed_changes_nothing()
 {
    let first = upload(&ALICE, 1, "/in/x", A);
    let closing = |verdict, reason: &str, content| {
        let mut events = opens(&BOB, 11, "/a/x", 9);
        let close = json!({ "sftp_op": "close", "handle_id": 9 });
        events.push(BOB.intent(12, close));
        let mut event = BOB.event(EventKind::TransferSummary, verdict, summary(9, content));
        event.reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
        events.push(event);
        events.push(ended(&BOB, 12, verdict, reason));
        after(&[first.clone(), events])
    };
    let judged = |catalogue: &Catalogue| judged(catalogue, "/disk/a/x", Found::Content(&B));
    let unhashed = closing(Verdict::Success, "", None);
    assert_eq!(judged(&unhashed), "? not_sequential");
    let timed_out = closing(Verdict::Failure, "timed_out", Some(B));
    assert_eq!(judged(&timed_out), "? unknown_outcome");
    let no_space = closing(Verdict::Failure, "no_space", Some(B));
    assert_eq!(judged(&no_space), "altered alice");
    let hashed = closing(Verdict::Success, "", Some(B));
    assert_eq!(judged(&hashed), "sound");
}

#[test]
fn an_upload_that_is_not_closed_counts_only_where_it_is_seen_at_once() {
    let mut cut = opens(&BOB, 11, "/a/x", 9);
    let mut event = BOB.event(
        EventKind::TransferSummary,
        Verdict::Failure,
        summary(9, Some(B)),
    );
    event.reason = Some("not_closed".to_owned());
    cut.push(event);
    let events = [upload(&ALICE, 1, "/in/x", A), cut];
    let staged = after(&events);
    assert_eq!(
        judged(&staged, "/disk/a/x", Found::Content(&B)),
        "altered alice"
    );
    let direct = with(Catalogue::new(None, [], ["disk".to_owned()]), &events);
    assert_eq!(
        judged(&direct, "/disk/a/x", Found::Content(&B)),
        "? unknown_outcome"
    );
}

#[test]
fn what_is_under_way_is_not_judged() {
    let first = upload(&ALICE, 1, "/in/x", A);
    for (intent, place) in [
        (asked(&BOB, 11, "remove", &["/a/x"]), "/disk/a/x"),
        (asked(&BOB, 11, "rename", &["/a", "/b"]), "/disk/a/x"),
        (asked(&BOB, 11, "rename", &["/b/z", "/a/x"]), "/disk/a/x"),
    ] {
        let catalogue = after(&[first.clone(), vec![intent.clone()]]);
        assert_eq!(judged(&catalogue, place, Found::Nothing), "? changing");
        assert_eq!(
            judged(&catalogue, "/disk/c", Found::Content(&A)),
            "unknown "
        );
        // The next run of the gateway has no outcome for it either.
        let start = vec![intent, Event::new(EventKind::AppStart)];
        let catalogue = after(&[first.clone(), start]);
        assert_eq!(
            judged(&catalogue, place, Found::Nothing),
            "? unknown_outcome"
        );
    }
}

#[test]
fn a_removed_file_is_gone_and_unknown_or_rolled_back_when_it_is_there_again() {
    let first = upload(&ALICE, 1, "/in/x", A);
    let catalogue = after(&[first.clone(), did(&BOB, 11, "remove", &["/a/x"])]);
    let here = |found| judged(&catalogue, "/disk/a/x", found);
    assert_eq!(here(Found::Nothing), "sound");
    assert_eq!(here(Found::Content(&A)), "rolled_back bob");
    assert_eq!(here(Found::Content(&B)), "unknown bob");
    let failed = |reason| {
        let ended = ended(&BOB, 11, Verdict::Failure, reason);
        let catalogue = after(&[
            first.clone(),
            vec![asked(&BOB, 11, "remove", &["/a/x"]), ended],
        ]);
        judged(&catalogue, "/disk/a/x", Found::Nothing)
    };
    assert_eq!(failed("permission_denied"), "missing alice");
    assert_eq!(failed("timed_out"), "? unknown_outcome");
}

#[test]
fn a_rename_takes_the_content_along_and_replaces_what_was_there() {
    let catalogue = after(&[
        upload(&ALICE, 1, "/in/old", B),
        upload(&ALICE, 3, "/in/new", A),
        did(&BOB, 11, "posix_rename", &["/a/new", "/a/old"]),
    ]);
    assert_eq!(
        judged(&catalogue, "/disk/a/old", Found::Content(&A)),
        "sound"
    );
    assert_eq!(
        judged(&catalogue, "/disk/a/old", Found::Content(&B)),
        "rolled_back alice"
    );
    assert_eq!(judged(&catalogue, "/disk/a/new", Found::Nothing), "sound");
    assert_eq!(
        judged(&catalogue, "/disk/a/new", Found::Content(&A)),
        "rolled_back bob"
    );
}

#[test]
fn a_renamed_directory_takes_all_below_it_along_and_nothing_beside_it() {
    let catalogue = after(&[
        upload(&BOB, 1, "/d/x", A),
        upload(&BOB, 3, "/d/e/y", B),
        upload(&BOB, 5, "/dd/z", A),
        did(&BOB, 11, "rename", &["/d", "/f"]),
    ]);
    for (place, found, expected) in [
        ("/disk/f/x", Found::Content(&A), "sound"),
        ("/disk/f/e/y", Found::Nothing, "missing bob"),
        ("/disk/d/x", Found::Nothing, "sound"),
        ("/disk/d/x", Found::Content(&A), "rolled_back bob"),
        ("/disk/dd/z", Found::Content(&A), "sound"),
    ] {
        assert_eq!(judged(&catalogue, place, found), expected, "{place}");
    }
}

#[test]
fn a_rename_of_unknown_end_makes_both_trees_unknown_until_something_is_uploaded() {
    let asked = asked(&BOB, 11, "rename", &["/d", "/f"]);
    let catalogue = after(&[
        upload(&BOB, 1, "/d/x", A),
        upload(&BOB, 3, "/f/y", A),
        upload(&BOB, 5, "/g", A),
        vec![asked, ended(&BOB, 11, Verdict::Unknown, "gateway_crashed")],
        upload(&BOB, 13, "/f/z", A),
    ]);
    for place in ["/disk/d/x", "/disk/f/x", "/disk/f/y", "/disk/f", "/disk/d"] {
        assert_eq!(judged(&catalogue, place, Found::Nothing), {
            "? unknown_outcome"
        });
        assert_eq!(judged(&catalogue, place, Found::Content(&B)), {
            "? unknown_outcome"
        });
    }
    assert_eq!(judged(&catalogue, "/disk/f/z", Found::Content(&A)), "sound");
    assert_eq!(
        judged(&catalogue, "/disk/f/z", Found::Nothing),
        "missing bob"
    );
    assert_eq!(judged(&catalogue, "/disk/g", Found::Nothing), "missing bob");
}

#[test]
fn two_changes_at_once_leave_the_place_unknown_and_one_after_the_other_do_not() {
    let first = upload(&BOB, 1, "/x", A);
    let (put, removal) = (
        opens(&ALICE, 11, "/in/y", 9),
        [
            asked(&BOB, 21, "remove", &["/a/y"]),
            ended(&BOB, 21, Verdict::Success, ""),
        ],
    );
    let close = ALICE.close(12, 9, summary(9, Some(A)));
    let [removing, removed] = removal.clone();
    let mut mixed = put.clone();
    mixed.extend([close[0].clone(), removing]);
    mixed.push(removed);
    mixed.extend(close[1..].to_vec());
    let catalogue = after(&[first.clone(), mixed]);
    assert_eq!(
        judged(&catalogue, "/disk/a/y", Found::Nothing),
        "? concurrent"
    );
    assert_eq!(judged(&catalogue, "/disk/x", Found::Nothing), "missing bob");
    let ordered = [put, close, removal.to_vec()].concat();
    let catalogue = after(&[first, ordered]);
    assert_eq!(judged(&catalogue, "/disk/a/y", Found::Nothing), "sound");
}

#[test]
fn a_hard_link_is_a_second_name_and_a_cut_concerns_both() {
    let first = upload(&BOB, 1, "/x", A);
    let link = did(&BOB, 11, "hardlink", &["/x", "/y"]);
    let catalogue = after(&[first.clone(), link.clone()]);
    assert_eq!(judged(&catalogue, "/disk/y", Found::Content(&A)), "sound");
    assert_eq!(judged(&catalogue, "/disk/y", Found::Nothing), "missing bob");
    let setstat = |attrs| {
        let mut events = vec![first.clone(), link.clone()];
        events.push(vec![
            BOB.intent(
                13,
                json!({ "sftp_op": "setstat", "path": "/y", "attrs": attrs, "mount": 0 }),
            ),
            ended(&BOB, 13, Verdict::Success, ""),
        ]);
        let catalogue = after(&events);
        ["/disk/x", "/disk/y"].map(|place| judged(&catalogue, place, Found::Content(&B)))
    };
    assert_eq!(setstat(json!({ "size": 3 })), ["? size_changed"; 2]);
    assert_eq!(setstat(json!({ "permissions": "644" })), ["altered bob"; 2]);
    let replaced = after(&[first.clone(), link.clone(), upload(&BOB, 15, "/x", B)]);
    assert_eq!(judged(&replaced, "/disk/y", Found::Content(&A)), "sound");
}

#[test]
fn what_is_done_through_a_link_counts_where_it_leads_or_is_unknown() {
    let link = |target: &str| did(&BOB, 1, "symlink", &["/l", target]);
    let catalogue = after(&[link("d/e"), upload(&BOB, 3, "/l/x", A)]);
    assert_eq!(
        judged(&catalogue, "/disk/d/e/x", Found::Content(&A)),
        "sound"
    );
    assert_eq!(
        judged(&catalogue, "/disk/d/e/x", Found::Content(&B)),
        "altered bob"
    );
    assert_eq!(judged(&catalogue, "/disk/l", Found::Link), "sound");
    assert_eq!(
        judged(&catalogue, "/disk/l", Found::Content(&A)),
        "unknown bob"
    );
    assert_eq!(judged(&catalogue, "/disk/m", Found::Link), "unknown ");
    let absolute = after(&[link("/etc"), upload(&BOB, 3, "/l/x", A)]);
    assert_eq!(
        judged(&absolute, "/disk/l/x", Found::Nothing),
        "? through_a_link"
    );
    let looped = after(&[link("l"), upload(&BOB, 3, "/l/x", A)]);
    assert_eq!(
        judged(&looped, "/disk/l/x", Found::Nothing),
        "? through_a_link"
    );
    let removed = after(&[
        link("d"),
        did(&BOB, 3, "remove", &["/l"]),
        upload(&BOB, 5, "/l", A),
    ]);
    assert_eq!(judged(&removed, "/disk/l", Found::Content(&A)), "sound");
}

#[test]
fn hidden_records_are_the_same_places_to_who_has_the_key() {
    let key = PathKey::new(&[7; 32]);
    let token = |path: &str| key.token(path.as_bytes());
    let body = json!({ "mounts": [{ "at": token("/in.d"), "backend": "disk", "directory": token("/a.d") }] });
    let hidden = vec![ALICE.event(EventKind::SessionMounts, Verdict::Success, body)];
    let rename = did(
        &ALICE,
        5,
        "rename",
        &[&token("/in.d/x.dcm"), &token("/in.d/y.dcm")],
    );
    let events = [
        upload(&BOB, 1, "/b.dcm", B),
        hidden,
        upload(&ALICE, 1, &token("/in.d/x.dcm"), A),
        rename,
    ];
    let catalogue = with(Catalogue::new(Some(key), [], []), &events);
    for (place, found, expected) in [
        ("/disk/a.d/y.dcm", Found::Content(&A), "sound"),
        ("/disk/a.d/y.dcm", Found::Content(&B), "altered alice"),
        ("/disk/a.d/x.dcm", Found::Content(&A), "rolled_back alice"),
        ("/disk/b.dcm", Found::Nothing, "missing bob"),
        ("/disk/c.dcm", Found::Content(&A), "unknown "),
    ] {
        assert_eq!(judged(&catalogue, place, found), expected, "{place}");
    }
    assert_eq!(catalogue.known_below(b"/disk/a.d").len(), 1);
    assert_eq!(catalogue.directories().count(), 2);
}

#[test]
fn a_directory_that_is_absolute_on_its_server_is_told_from_one_below_the_login_directory() {
    let mounted = [
        ("/a", "/srv/a", true),
        ("/b", "/srv/a", false),
        ("/c", "/", false),
        ("/d", "/", true),
    ];
    let listed = mounted.map(|(at, directory, is_absolute)| {
        let mut mount = json!({ "at": at, "backend": "peer", "directory": directory });
        if is_absolute {
            mount["absolute"] = true.into();
        }
        mount
    });
    let body = json!({ "mounts": listed });
    let event = ALICE.event(EventKind::SessionMounts, Verdict::Success, body);
    let catalogue = with(Catalogue::default(), &[vec![event]]);
    let mut found: Vec<_> = catalogue
        .directories()
        .filter(|(backend, _)| *backend == "peer")
        .map(|(_, directory)| String::from_utf8_lossy(directory).into_owned())
        .collect();
    found.sort();
    assert_eq!(found, ["", "/", "/srv/a", "srv/a"]);
}

#[test]
fn a_session_that_does_not_say_where_its_mounts_lead_leaves_the_rest_unexplained() {
    let other = Who { id: 0xc0, ..ALICE };
    let catalogue = after(&[upload(&other, 1, "/in/x", A), upload(&ALICE, 1, "/in/y", A)]);
    assert!(catalogue.is_cut());
    assert_eq!(
        judged(&catalogue, "/disk/a/x", Found::Content(&A)),
        "? log_is_cut"
    );
    assert_eq!(
        judged(&catalogue, "/disk/a/y", Found::Nothing),
        "missing alice"
    );
}

#[test]
fn a_catalogue_follows_a_log_that_grows_and_says_what_cannot_be_read() {
    let log = Log::of([begin(), upload(&ALICE, 1, "/in/x", A)].concat());
    let mut reader = Reader::of(&log.path(), Catalogue::default()).unwrap();
    reader.advance().unwrap();
    log.add(upload(&BOB, 1, "/a/x", B));
    reader.advance().unwrap();
    assert_eq!(
        judged(&reader.catalogue, "/disk/a/x", Found::Content(&B)),
        "sound"
    );
    let unreadable = |place: &str| reader.catalogue.judge_unreadable(place.as_bytes());
    assert!(matches!(unreadable("/disk/a/x"), Judgement::Finding(_)));
    assert!(matches!(unreadable("/disk/a/y"), Judgement::Unverified(_)));
}

/// Of an encrypted file.
const ONE: Object = [1; 16];
const TWO: Object = [2; 16];

fn encrypted(who: &Who, operation: u64, path: &str, object: Object) -> Vec<Event> {
    let mut body = summary(operation, Some(A));
    body["enc"] = json!({ "alg": "AES-256-GCM", "dek_id": hex::encode(object) });
    let mut events = opens(who, operation, path, operation);
    events.extend(who.close(operation + 1, operation, body));
    events
}

const FITS: Named = Named::Fits(None);

fn fits(named: Named) -> bool {
    matches!(named, Named::Fits(_))
}

/// Of what is found at a place, where all is kept.
fn assert_judged(catalogue: &Catalogue, place: &str, found: &[u8; 32], expected: &str) {
    if catalogue.names.is_none() {
        assert_eq!(judged(catalogue, place, Found::Content(found)), expected);
    }
}

/// The same with all that is kept, and with what names need.
fn both(events: &[Vec<Event>]) -> [Catalogue; 2] {
    [after(events), with(Catalogue::default().lean(), events)]
}

#[test]
fn an_encrypted_file_fits_where_it_was_put_and_nowhere_else() {
    let events = [
        encrypted(&ALICE, 1, "/in/x", ONE),
        encrypted(&ALICE, 3, "/in/y", TWO),
        upload(&ALICE, 5, "/in/plain", B),
    ];
    for catalogue in both(&events) {
        let named = |path: &[u8], object| catalogue.named(&catalogue.place("disk", path), object);
        assert!(fits(named(b"/a/x", &ONE)));
        assert!(fits(named(b"/a/y", &TWO)));
        assert!(matches!(named(b"/a/x", &TWO), Named::Other(_)));
        assert!(matches!(named(b"/a/y", &ONE), Named::Other(_)));
        assert_eq!(named(b"/a/plain", &ONE), Named::Unsaid);
        assert_eq!(named(b"/a/new", &ONE), Named::Unsaid);
    }
}

#[test]
fn a_file_keeps_fitting_through_what_sessions_do_and_its_older_version_does_not() {
    let events = [
        encrypted(&ALICE, 1, "/in/d/x", ONE),
        encrypted(&ALICE, 3, "/in/y", ONE),
        encrypted(&ALICE, 5, "/in/y", TWO),
        did(&ALICE, 7, "rename", &["/in/d", "/in/e"]),
        did(&BOB, 9, "hardlink", &["/a/e/x", "/a/z"]),
        did(&ALICE, 11, "remove", &["/in/e/x"]),
        encrypted(&ALICE, 13, "/in/w", ONE),
        did(&ALICE, 15, "posix_rename", &["/in/w", "/in/v"]),
    ];
    for catalogue in both(&events) {
        let named = |path: &[u8], object| catalogue.named(&catalogue.place("disk", path), object);
        assert!(fits(named(b"/a/z", &ONE)));
        assert!(matches!(named(b"/a/z", &TWO), Named::Other(_)));
        assert!(fits(named(b"/a/v", &ONE)));
        assert!(matches!(named(b"/a/y", &ONE), Named::Other(_)), "older");
        assert!(fits(named(b"/a/y", &TWO)));
        for gone in [b"/a/d/x".as_slice(), b"/a/e/x", b"/a/w"] {
            assert_eq!(named(gone, &ONE), Named::Unsaid);
        }
    }
}

#[test]
fn nothing_is_said_of_what_nobody_can_know() {
    let move_lost = |verdict, reason: &str| {
        vec![
            asked(&ALICE, 7, "rename", &["/in/d", "/in/e"]),
            ended(&ALICE, 7, verdict, reason),
        ]
    };
    for (change, changed) in [
        (move_lost(Verdict::Failure, "timeout"), Named::Unsaid),
        (move_lost(Verdict::Failure, "not_found"), FITS),
        (
            vec![asked(&ALICE, 7, "remove", &["/in/d/x"])],
            Named::Changing,
        ),
        (did(&ALICE, 7, "remove", &["/in/other"]), FITS),
    ] {
        let events = [encrypted(&ALICE, 1, "/in/d/x", ONE), change];
        for catalogue in both(&events) {
            let place = catalogue.place("disk", b"/a/d/x");
            let named = catalogue.named(&place, &ONE);
            assert_eq!(if fits(named) { FITS } else { named }, changed);
        }
    }
}

#[test]
fn what_the_gateway_encrypted_keeps_its_content_and_has_an_object() {
    let encrypts = |body: serde_json::Value, verdict, reason: &str| {
        let asked = json!({ "sftp_op": "encrypt", "path": "/disk/a/x", "mount": 0 });
        let mut ended = BOB.outcome(7, verdict, body);
        ended.reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
        vec![BOB.intent(7, asked), ended]
    };
    let enc = json!({ "alg": "AES-256-GCM", "dek_id": hex::encode(ONE) });
    let done = json!({ "state": "encrypted", "enc": enc });
    let current = json!({ "state": "current" });
    for (body, verdict, reason, fits) in [
        (done, Verdict::Success, "", true),
        (current, Verdict::Success, "", false),
        (json!({}), Verdict::Failure, "timeout", false),
        (json!({}), Verdict::Failure, "not_found", false),
    ] {
        let migrated = encrypts(body, verdict, reason);
        let uploaded = upload(&ALICE, 1, "/in/x", A);
        for catalogue in both(&[uploaded, migrated.clone()]) {
            let named = |object| catalogue.named(b"/disk/a/x", object);
            assert_judged(&catalogue, "/disk/a/x", &A, "sound");
            assert_eq!(self::fits(named(&ONE)), fits, "{reason}");
            assert_eq!(matches!(named(&TWO), Named::Other(_)), fits, "{reason}");
        }
        // Of a file from before the log, only names know it.
        let [whole, lean] = both(&[migrated]);
        assert_eq!(self::fits(lean.named(b"/disk/a/x", &ONE)), fits);
        assert_eq!(whole.state(b"/disk/a/x"), None);
    }
}

/// A SETSTAT with a size of an encrypted file, and what its outcome says.
fn cut(
    operation: u64,
    path: &str,
    verdict: Verdict,
    reason: &str,
    said: serde_json::Value,
) -> Vec<Event> {
    let asked = json!({ "sftp_op": "setstat", "path": path, "mount": 0, "attrs": { "size": 3 } });
    let mut ended = ALICE.outcome(operation, verdict, said);
    ended.reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
    vec![ALICE.intent(operation, asked), ended]
}

#[test]
fn a_file_that_was_cut_is_another_one_and_what_it_was_before_does_not_fit() {
    let enc = |object: Object| json!({ "alg": "AES-256-GCM", "dek_id": hex::encode(object) });
    let made =
        json!({ "enc": enc(TWO), "size": 3, "sha256": hex::encode(B), "sha256_source": "reread" });
    let unchanged = json!({ "enc": enc(ONE), "size": 5 });
    let cut = |verdict, reason: &str, said| {
        both(&[
            encrypted(&ALICE, 1, "/in/x", ONE),
            did(&BOB, 9, "hardlink", &["/a/x", "/a/z"]),
            cut(11, "/in/x", verdict, reason, said),
        ])
    };
    for catalogue in cut(Verdict::Success, "", made) {
        let at = |path: &[u8], object| catalogue.named(path, object);
        let Named::Fits(Some(told)) = at(b"/disk/a/x", &TWO) else {
            panic!("the new one is on record");
        };
        assert_eq!((told.sha256, told.size), (B, 3));
        assert!(matches!(at(b"/disk/a/x", &ONE), Named::Other(_)));
        // The other name has the file that it had.
        assert!(fits(at(b"/disk/a/z", &ONE)));
        assert_judged(&catalogue, "/disk/a/z", &A, "sound");
        assert_judged(&catalogue, "/disk/a/x", &B, "sound");
    }
    for (verdict, reason, said) in [
        (Verdict::Success, "", unchanged),
        (Verdict::Failure, "not_authentic", json!({})),
    ] {
        for catalogue in cut(verdict, reason, said) {
            assert!(fits(catalogue.named(b"/disk/a/x", &ONE)), "{reason}");
            assert!(matches!(
                catalogue.named(b"/disk/a/x", &TWO),
                Named::Other(_)
            ));
            assert_judged(&catalogue, "/disk/a/x", &A, "sound");
        }
    }
    for catalogue in cut(Verdict::Failure, "timed_out", json!({})) {
        assert_eq!(catalogue.named(b"/disk/a/x", &ONE), Named::Unsaid);
    }
}

#[test]
fn an_update_that_wrote_nothing_leaves_the_file_known() {
    let closes = |said: serde_json::Value| {
        let mut body = summary(9, None);
        body["sha256_reason"] = "not_from_nothing".into();
        if said != json!(null) {
            body["enc"] = json!({ "alg": "AES-256-GCM", "dek_id": said });
        }
        let mut events = opens(&ALICE, 8, "/in/x", 9);
        events.extend(ALICE.close(11, 9, body));
        both(&[encrypted(&ALICE, 1, "/in/x", ONE), events])
    };
    for catalogue in closes(json!(hex::encode(ONE))) {
        assert!(matches!(
            catalogue.named(b"/disk/a/x", &ONE),
            Named::Fits(Some(_))
        ));
        assert!(matches!(
            catalogue.named(b"/disk/a/x", &TWO),
            Named::Other(_)
        ));
        assert_judged(&catalogue, "/disk/a/x", &A, "sound");
    }
    for catalogue in closes(json!(hex::encode(TWO))) {
        assert_eq!(catalogue.named(b"/disk/a/x", &TWO), FITS);
        assert_judged(&catalogue, "/disk/a/x", &A, "? not_from_nothing");
    }
    for catalogue in closes(json!(null)) {
        assert_eq!(catalogue.named(b"/disk/a/x", &ONE), Named::Unsaid);
    }
}

#[test]
fn a_refused_open_leaves_a_file_known_where_uploads_are_seen_at_once() {
    for (verdict, reason, is_known) in [
        (Verdict::Failure, "not_authentic", true),
        (Verdict::Failure, "timed_out", false),
        (Verdict::Success, "", false),
    ] {
        let [asked, _]: [Event; 2] = opens(&BOB, 11, "/a/x", 9).try_into().unwrap();
        let events = [
            encrypted(&ALICE, 1, "/in/x", ONE),
            vec![asked, ended(&BOB, 11, verdict, reason)],
        ];
        let catalogue = with(
            Catalogue::new(None, [], ["disk".to_owned()]).lean(),
            &events,
        );
        assert_eq!(
            fits(catalogue.named(b"/disk/a/x", &ONE)),
            is_known,
            "{reason}"
        );
        let other = catalogue.named(b"/disk/a/x", &TWO);
        assert_eq!(matches!(other, Named::Other(_)), is_known, "{reason}");
    }
}

#[test]
fn a_file_that_was_destroyed_is_not_missed_and_one_that_is_there_again_is_found() {
    let tombstone = || {
        let mut event = Event::new(EventKind::RestTombstone);
        event.outcome = Some(Verdict::Allow);
        event.body = json!({ "backend": "disk", "path": "/disk/a/x", "approver": "J. Doe", "object": "09".repeat(16) })
            .as_object()
            .unwrap()
            .clone();
        event
    };
    let log = |more: Vec<Event>| {
        let uploaded = upload(&ALICE, 1, "/in/x", A);
        after(&[uploaded, vec![tombstone()], more])
    };
    let buried = log(Vec::new());
    assert_eq!(buried.judge(b"/disk/a/x", Found::Nothing), Judgement::Sound);
    let Judgement::Finding(finding) = buried.judge(b"/disk/a/x", Found::Content(&A)) else {
        panic!("it is there again");
    };
    assert_eq!(finding.kind, FindingKind::RolledBack);
    assert_eq!(finding.last.unwrap().user.as_deref(), Some("J. Doe"));
    let shredded: Vec<_> = buried.shredded().map(|(at, _)| at.to_vec()).collect();
    assert_eq!(shredded, [b"/disk/a/x".to_vec()]);

    assert_eq!(buried.named(b"/disk/a/x", &ONE), Named::Unsaid);
    assert!(matches!(
        buried.named(b"/disk/a/x", &[9; 16]),
        Named::Other(_)
    ));

    let again = log(upload(&ALICE, 11, "/in/x", B));
    assert_eq!(
        again.judge(b"/disk/a/x", Found::Content(&B)),
        Judgement::Sound
    );
    assert_eq!(again.shredded().count(), 0, "another file has the name");
}

#[test]
fn what_lay_on_a_backend_when_its_keys_were_destroyed_is_lost_and_what_came_later_is_not() {
    let tombstone = |backends: &[&str]| {
        let mut event = Event::new(EventKind::RestTombstone);
        event.outcome = Some(Verdict::Allow);
        event.body = json!({ "set": "acme", "kek_ids": ["09".repeat(16)], "backends": backends, "approver": "J. Doe" })
            .as_object()
            .unwrap()
            .clone();
        event
    };
    let log = |backends: &[&str]| {
        let mut events = upload(&ALICE, 1, "/in/x", A);
        events.extend(upload(&ALICE, 11, "/in/y", A));
        events.push(tombstone(backends));
        // What became of the keys.
        let mut end = Event::new(EventKind::RestTombstone);
        end.outcome = Some(Verdict::Success);
        end.body.insert("set".into(), "acme".into());
        after(&[events, upload(&ALICE, 21, "/in/y", B), vec![end]])
    };
    let lost = log(&["other", "disk"]);
    let found = lost.lost(b"/disk/a/x").unwrap();
    assert_eq!(found.set, "acme");
    assert_eq!(found.by.user.as_deref(), Some("J. Doe"));
    for path in [&b"/disk/a/y"[..], b"/disk/a/z", b"/diskette/a/x"] {
        assert_eq!(lost.lost(path), None);
    }
    assert_eq!(log(&["other"]).lost(b"/disk/a/x"), None);
    assert_eq!(lost.shredded().count(), 0, "no file was destroyed alone");
}
