//! Questions to logs with hidden paths.

use super::*;

/// A rename that was done, and a removal that failed and says so with the path.
pub(super) fn deeds() -> Vec<Event> {
    let of = |kind, number, outcome, fields: &[(&str, &str)]| {
        let mut event = Event::new(kind);
        event.session = Some(SessionId([7; 16]));
        event.operation = Some(OperationId(number));
        event.outcome = Some(outcome);
        for (name, value) in fields {
            let value = untrusted(value.as_bytes());
            event.body.insert((*name).to_owned(), value);
        }
        event
    };
    let (intent, outcome) = (EventKind::OperationIntent, EventKind::OperationOutcome);
    let rename = [
        ("sftp_op", "rename"),
        ("path", "/in/old.csv"),
        ("path2", "/in/new.csv"),
    ];
    let remove = [("sftp_op", "remove"), ("path", "/in/new.csv")];
    vec![
        of(intent, 1, Verdict::Allow, &rename),
        of(outcome, 1, Verdict::Success, &[]),
        of(intent, 2, Verdict::Allow, &remove),
        of(outcome, 2, Verdict::Failure, &[("error", "no /in/new.csv")]),
    ]
}

#[test]
fn hidden_paths_are_found_by_their_clear_names_with_the_gateway_s_key_or_a_copy() {
    for mode in [HMAC, SEALED] {
        let shell = Shell::hiding(mode, &[deeds()]);
        let key = PathKey::read(&shell.path("log.pathkey")).unwrap();
        let found = shell.run(&["search", "--path", "/in"]).unwrap();
        assert_eq!(found.lines().count(), 4, "{found}");
        assert!(
            found.contains(&key.token(b"/in/old.csv")) && !found.contains("/in"),
            "{found}"
        );
        let found = shell.run(&["search", "--path", "/*/new.csv"]).unwrap();
        assert_eq!(found.lines().count(), 4, "{found}");
        assert_eq!(shell.run(&["search", "--path", "/i"]).unwrap(), "");
        let token = key.token(b"/in/new.csv");
        let found = shell
            .run(&["search", "--path", &token, "--outcome", "failure"])
            .unwrap();
        assert_eq!(found.lines().count(), 1, "{found}");

        let copy = shell.path("copy");
        std::fs::rename(shell.path("log.pathkey"), &copy).unwrap();
        let refused = shell.run(&["search", "--path", "/in"]).unwrap_err();
        assert!(
            format!("{refused:#}").contains("--path-key FILE"),
            "{refused:#}"
        );
        let copy = copy.display().to_string();
        let found = shell
            .run(&["search", "--path", "/in", "--path-key", &copy])
            .unwrap();
        assert_eq!(found.lines().count(), 4, "{found}");
    }
}

#[test]
fn a_glob_within_a_name_needs_the_auditor_s_key() {
    let shell = Shell::hiding(SEALED, &[deeds()]);
    let search = ["search", "--path", "/in/n*.csv"];
    let refused = shell.run(&search).unwrap_err();
    assert!(format!("{refused:#}").contains("--unseal"), "{refused:#}");
    let secret = shell.path("auditor").display().to_string();
    let found = shell
        .run(&[&search[..], &["--unseal", &secret]].concat())
        .unwrap();
    assert_eq!(found.lines().count(), 4, "{found}");
    assert!(
        found.contains("\"/in/new.csv\"") && found.contains("no /in/new.csv"),
        "{found}"
    );
    let none = ["search", "--path", "/in/m*.csv", "--unseal", &secret];
    assert_eq!(shell.run(&none).unwrap(), "");
}

#[test]
fn sealed_paths_are_shown_to_their_auditor_and_to_nobody_else() {
    let shell = Shell::hiding(SEALED, &[deeds()]);
    let secret = shell.path("auditor").display().to_string();
    let other = shell.path("other").display().to_string();
    AuditorSecret::generate(Path::new(&other)).unwrap();
    for question in [
        &["search"][..],
        &["search", "--json"],
        &["session", "07070707"],
        &["session", "07070707", "--json"],
        &["file", "/in/new.csv"],
        &["file", "/in/new.csv", "--json"],
    ] {
        let unseal = |key: &str| shell.run(&[question, &["--unseal", key]].concat()).unwrap();
        assert!(unseal(&secret).contains("/in/old.csv"), "{question:?}");
        let asked = question.first() == Some(&"file");
        for answer in [shell.run(question).unwrap(), unseal(&other)] {
            assert!(!answer.contains("old.csv"), "{question:?}: {answer}");
            assert!(
                asked || !answer.contains("new.csv"),
                "{question:?}: {answer}"
            );
        }
    }
    let notes = shell.notes();
    assert!(
        notes
            .iter()
            .any(|note| note.body["filters"]["unseal"] == true)
    );
}

#[test]
fn a_file_is_followed_through_renames_that_are_hidden_and_from_the_time_before() {
    for mode in ["", HMAC, SEALED] {
        let shell = Shell::hiding(mode, &[deeds(), deeds()]);
        let story = shell.run(&["file", "/in/old.csv"]).unwrap();
        let touches = |what: &str| story.lines().filter(|line| line.contains(what)).count();
        assert!(
            touches("rename") >= 2 && touches("remove") >= 1,
            "{mode}: {story}"
        );
        let story = shell.run(&["file", "/in/new.csv"]).unwrap();
        let removed = story.lines().filter(|line| line.contains("remove")).count();
        assert_eq!(removed, 2, "{mode}: {story}");
    }
}

#[test]
fn who_has_no_key_is_told_what_was_passed_over() {
    let shell = Shell::hiding(HMAC, &[deeds()]);
    let log = shell.path("log").display().to_string();
    let nowhere = shell.path("nothing.toml");
    let file = [
        "file",
        "/in/new.csv",
        "--log",
        &log,
        "--unrecorded",
        "a copy",
    ];
    let refused = shell.run_with(&nowhere, &file).unwrap_err();
    assert!(
        format!("{refused:#}").contains("--path-key FILE"),
        "{refused:#}"
    );
}
