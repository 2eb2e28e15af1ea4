mod export;
mod hidden;

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use clap::{CommandFactory as _, Parser};
use portcullis_audit::hidden::{AuditorSecret, PathKey};
use portcullis_journal::{Event, EventKind, Journal, OperationId, Options, SessionId, Verdict};
use portcullis_journal::{proof::check_excerpt, tree::key::read_verifier_keys};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::config::Config;

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    audit: AuditCommand,
}

/// A log, a configuration that names it, and accounts with their outbox.
struct Shell {
    directory: TempDir,
    config: PathBuf,
}

impl Shell {
    fn new(events: Vec<Event>) -> Self {
        Self::hiding("", &[events])
    }

    /// With what the section of the journal says besides, and a run of the gateway for each list. `%` is the directory; the
    /// first run says everything in clear.
    fn hiding(lines: &str, runs: &[Vec<Event>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (log, database) = (
            directory.path().join("log"),
            directory.path().join("accounts.db"),
        );
        drop(Accounts::open(&database).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let config = directory.path().join("proxy.toml");
        let lines = lines.replace('%', directory.path().to_str().unwrap());
        let text = format!(
            "[accounts]\ndatabase = \"{}\"\n[journal]\ndirectory = \"{}\"\nsigning_key = \"{}.key\"\n{lines}\n",
            database.display(),
            log.display(),
            log.display()
        );
        std::fs::write(&config, text).unwrap();
        AuditorSecret::generate(&directory.path().join("auditor"))
            .map(|(_, public)| {
                std::fs::write(directory.path().join("auditor.pub"), public.to_text())
            })
            .unwrap()
            .unwrap();
        let journal = Config::load_audit(&config).journal.unwrap();
        let veil = journal.veil().unwrap();
        runtime.block_on(async {
            for (number, events) in runs.iter().enumerate() {
                let veil = veil.clone().filter(|_| number > 0 || runs.len() == 1);
                let options = Options {
                    veil,
                    ..journal.options()
                };
                let (journal, _) = Journal::open(options).unwrap();
                for event in events.iter().cloned() {
                    journal.append(event).await.unwrap();
                }
                journal.close().await.unwrap();
            }
        });
        Self { directory, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run_with(&self, config: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let line = CommandLine::try_parse_from([&["audit"], arguments].concat())?;
        let mut logs = Logs::of(line.audit.reading, Config::load_audit(config))?;
        logs.patience = Duration::from_millis(200);
        let mut output = Vec::new();
        line.audit.question.answer(Ok(logs), &mut output)?;
        Ok(String::from_utf8(output)?)
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run_with(&self.config, arguments)
    }

    /// What waits for the daemon.
    fn notes(&self) -> Vec<Event> {
        let accounts = Accounts::open(&self.path("accounts.db")).unwrap();
        let notes = accounts.pending_changes().unwrap();
        notes.into_iter().map(|note| note.event).collect()
    }
}

fn stat(path: &str) -> Event {
    let mut event = Event::new(EventKind::OperationDenied);
    event
        .body
        .insert("path".to_owned(), untrusted(path.as_bytes()));
    event
}

#[test]
fn the_commands_are_well_formed() {
    CommandLine::command().debug_assert();
}

#[test]
fn a_search_is_on_record_with_who_asked_for_what() {
    let shell = Shell::new(vec![stat("/inbox/a"), stat("/outbox/b")]);
    let found = shell
        .run(&["search", "--path", "/inbox", "--limit", "5"])
        .unwrap();
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(found.contains("\"/inbox/a\""), "{found}");
    let [note] = shell.notes().try_into().unwrap();
    assert_eq!(note.kind, EventKind::LogRead);
    assert_eq!(note.user.unwrap().name, actor());
    assert_eq!(note.body["command"], "search");
    assert_eq!(note.body["filters"], json!({ "path": "/inbox" }));
}

#[test]
fn nobody_reads_unrecorded_without_saying_why() {
    let shell = Shell::new(vec![stat("/inbox/a")]);
    let log = shell.path("log").display().to_string();
    std::fs::remove_file(shell.path("accounts.db")).unwrap();
    let nowhere = shell.path("nothing.toml");
    let search = ["search", "--log", &log];
    for config in [&shell.config, &nowhere] {
        let refused = shell.run_with(config, &search).unwrap_err();
        assert!(
            format!("{refused:#}").contains("--unrecorded REASON"),
            "{refused:#}"
        );
        assert!(
            shell
                .run_with(config, &["search", "--log", &log, "--unrecorded", " "])
                .is_err()
        );
        let search = [
            "search",
            "--log",
            &log,
            "--unrecorded",
            "a copy, on my laptop",
        ];
        let found = shell.run_with(config, &search).unwrap();
        assert!(found.contains("/inbox/a"), "{found}");
    }
    assert!(!shell.path("accounts.db").exists(), "made one");
}

#[test]
fn wrong_criteria_are_refused_before_anything_is_read() {
    let shell = Shell::new(Vec::new());
    for wrong in [
        &["search", "--outcome", "fine"][..],
        &["search", "--session", "xyz"],
        &["search", "--path", "inbox"],
        &["search", "--source", "host.example"],
        &["search", "--since", "yesterday"],
        &["search", "--since", "1h", "--until", "2h"],
        &["search", "--op", "OPEN"],
    ] {
        assert!(shell.run(wrong).is_err(), "{wrong:?}");
    }
    assert!(shell.notes().is_empty());
}

#[test]
fn a_session_and_a_file_that_nobody_knows_are_an_error_that_says_so() {
    let mut event = stat("/inbox/a");
    event.outcome = Some(Verdict::Deny);
    event.session = Some(SessionId([0xab; 16]));
    let mut other = event.clone();
    other.session = Some(SessionId([0xac; 16]));
    let mut again = other.clone();
    again.session = Some(SessionId([0xad; 16]));
    if let Some(SessionId(bytes)) = &mut again.session {
        *bytes = [0xac, 0xac, 0xac, 0xac, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    }
    let shell = Shell::new(vec![event, other, again]);
    let told = shell.run(&["session", "abab"]).unwrap();
    assert!(
        told.starts_with("session abababab") && told.contains("DENIED"),
        "{told}"
    );
    let ambiguous = shell.run(&["session", "acac"]).unwrap_err();
    assert!(
        ambiguous.to_string().contains("give more digits"),
        "{ambiguous}"
    );
    let nobody = shell.run(&["session", "beef"]).unwrap_err();
    assert!(nobody.to_string().contains("no session"), "{nobody}");
    let touched = shell.run(&["file", "/inbox/a", "--json"]).unwrap();
    assert_eq!(touched.lines().count(), 1 + 3, "{touched}");
    let nobody = shell.run(&["file", "/inbox/b"]).unwrap_err();
    assert!(nobody.to_string().contains("no record names"), "{nobody}");
    assert_eq!(shell.notes().len(), 5);
}

#[test]
fn a_report_is_written_for_people_and_programs() {
    let shell = Shell::new(vec![stat("/inbox/<script>")]);
    let (html, json) = (shell.path("r.html"), shell.path("r.json"));
    let files = [html.display().to_string(), json.display().to_string()];
    let said = shell
        .run(&[
            "report", "--period", "1d", "--html", &files[0], "--json", &files[1],
        ])
        .unwrap();
    assert!(said.contains("denials               1\n"), "{said}");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(
        page.contains("/inbox/&lt;script&gt;") && !page.contains("<script"),
        "{page}"
    );
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["totals"]["denials"], 1);
    assert_eq!(report["logs"][0]["coverage"]["first_seq"], 0);
    for wrong in [
        &["report", "--period", "november"][..],
        &["report", "--period", "1d", "--zone", "Mars/Olympus"],
        &["report", "--period", "1d", "--hours", "daily"],
    ] {
        assert!(shell.run(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(shell.notes().len(), 1);
}

#[test]
fn a_review_is_signed_once_it_is_on_record_and_otherwise_not_at_all() {
    let shell = Shell::new(vec![stat("/inbox/a")]);
    let report = shell.path("r.html");
    std::fs::write(&report, "abc").unwrap();
    let file = report.display().to_string();
    let sign = [
        "review",
        "sign",
        "--period",
        "1d",
        "--reviewer",
        "Dora",
        "--note",
        "nothing odd",
        "--report",
        &file,
    ];
    let refused = shell.run(&sign).unwrap_err();
    assert!(
        refused.to_string().contains("nothing is signed"),
        "{refused}"
    );
    assert!(shell.notes().is_empty(), "withdrawn");

    shell.run(&[&sign[..], &["--no-wait"]].concat()).unwrap();
    let [note] = shell.notes().try_into().unwrap();
    assert_eq!(note.kind, EventKind::AdminReview);
    assert_eq!(note.body["reviewer"], "Dora");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(note.body["report_sha256"], abc);
    assert_eq!(note.body["covered"][0]["first_seq"], 0);
    assert_eq!(note.body["covered"][0]["last_seq"], 2);

    // A daemon takes the notes.
    let accounts = Accounts::open(&shell.path("accounts.db")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for change in accounts.pending_changes().unwrap() {
                    accounts.forget_changes(change.id).unwrap();
                }
                std::thread::yield_now();
            }
        });
        let said = shell.run(&sign);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(said.unwrap().contains("is on record"));
    });
}

#[test]
fn nobody_signs_for_what_is_not_over_not_there_or_not_said() {
    let shell = Shell::new(vec![stat("/inbox/a")]);
    let sign = |period: &str, reviewer: &str| {
        let words = [
            "review",
            "sign",
            "--period",
            period,
            "--reviewer",
            reviewer,
            "--note",
            "fine",
            "--no-wait",
        ];
        shell.run(&words)
    };
    for (period, reviewer, why) in [
        ("2999-01", "Dora", "not over"),
        ("2001-01", "Dora", "nothing to sign for"),
        ("1d", " ", "must say something"),
    ] {
        let refused = sign(period, reviewer).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    assert!(shell.notes().is_empty());
    sign("1d", "Dora").unwrap();
}

#[test]
fn a_hold_is_laid_at_once_and_released_only_on_record() {
    let shell = Shell::new(Vec::new());
    let add = |name: &str, more: &[&str]| {
        let arguments = ["hold", "add", name, "--reason", "case 7", "--by", "counsel"];
        shell.run(&[&arguments[..], more].concat())
    };
    assert!(shell.run(&["hold", "list"]).unwrap().contains("no holds"));
    let said = add(
        "case-7",
        &["--since", "2026-01-01", "--until", "2026-01-31"],
    )
    .unwrap();
    assert!(said.contains("2026-01-01T00:00:00"), "{said}");
    // The name is taken, or none, or the time is.
    for (name, more) in [
        ("case-7", vec![]),
        ("../case", vec![]),
        (
            "case-8",
            vec!["--since", "2026-02-01", "--until", "2026-01-31"],
        ),
    ] {
        assert!(add(name, &more).is_err(), "{name}");
    }
    let listed = shell.run(&["hold", "list", "--json"]).unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "case-7");
    assert_eq!(listed[0]["hold"]["until"], "2026-02-01T00:00:00Z");
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    let notes = shell.notes();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].kind, EventKind::LogHold);

    // Without a daemon nothing is released.
    let release = [
        "hold", "release", "case-7", "--reason", "over", "--by", "counsel",
    ];
    let error = shell.run(&release).unwrap_err();
    assert!(format!("{error:#}").contains("the hold stays"), "{error:#}");
    assert_eq!(shell.notes().len(), 1);
    assert!(
        shell
            .run(&["hold", "list"])
            .unwrap()
            .contains("case-7: records")
    );
    let unknown = [
        "hold", "release", "case-9", "--reason", "over", "--by", "counsel",
    ];
    assert!(shell.run(&unknown).is_err());
}

#[test]
fn the_next_key_is_made_once() {
    let shell = Shell::new(Vec::new());
    let key = shell.path("log.key");
    let text = std::fs::read_to_string(&shell.config)
        .unwrap()
        .replace("\"unused\"", &format!("{key:?}"));
    std::fs::write(&shell.config, text).unwrap();
    let said = shell.run(&["change-key"]).unwrap();
    let public = std::fs::read_to_string(shell.path("log.key.next.pub")).unwrap();
    assert!(said.contains(public.trim()), "{said}");
    let error = shell.run(&["change-key"]).unwrap_err();
    assert!(
        format!("{error:#}").contains("reload the daemon"),
        "{error:#}"
    );
}

#[test]
fn a_journal_is_begun_anew_only_when_it_can_not_be_gone_on_with() {
    let shell = Shell::new(vec![stat("/inbox/a"), stat("/inbox/b")]);
    let key = shell.path("log.key");
    let text = std::fs::read_to_string(&shell.config)
        .unwrap()
        .replace("\"unused\"", &format!("{key:?}"));
    std::fs::write(&shell.config, text).unwrap();
    let call = [
        "begin-anew",
        "--reason",
        "disk replaced",
        "--by",
        "Dr. Grün",
    ];
    let refused = |expected: &str| {
        let error = shell.run(&call).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    };
    refused("can be gone on with");
    let options = Options {
        signing_key: key.clone(),
        ..Options::default_in(shell.path("log"))
    };
    let (held, _) = Journal::open(options).unwrap();
    refused("stop it first");
    drop(held);

    // One record is changed: nothing can be appended to that.
    let segment = shell.path("log/000000000000.jsonl");
    let lock = std::fs::File::open(shell.path("log/lock")).unwrap();
    while rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(lock);
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replacen("/inbox/a", "/inbox/c", 1)).unwrap();
    let old_key = std::fs::read(&key).unwrap();
    let said = shell.run(&call).unwrap();
    let first: Vec<_> = portcullis_journal::read::records(&shell.path("log"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let begun = &first[1];
    assert_eq!((begun.event.as_str(), begun.seq), ("log.begin_anew", 1));
    assert_eq!(begun.body["by"], "Dr. Grün");
    assert!(
        begun.body["fault"]
            .as_str()
            .unwrap()
            .contains("does not follow")
    );
    assert!(begun.body["signed_records"].as_u64() > Some(2));
    let evidence = PathBuf::from(begun.body["evidence"].as_str().unwrap());
    assert!(said.contains(&evidence.display().to_string()), "{said}");
    let kept = std::fs::read_to_string(evidence.join("000000000000.jsonl")).unwrap();
    assert!(kept.contains("/inbox/c"));
    assert_ne!(std::fs::read(&key).unwrap(), old_key);
    assert!(
        said.contains(
            std::fs::read_to_string(shell.path("log.key.pub"))
                .unwrap()
                .trim()
        )
    );
}

const HMAC: &str = "path_mode = \"hmac\"";
const SEALED: &str = "path_mode = \"sealed\"\nauditor_key = \"%/auditor.pub\"";

#[test]
fn manifests_on_record_are_named_by_what_became_of_them() {
    let written = |file: &str, content: &str| {
        let mut event = Event::new(EventKind::ManifestWritten);
        event.outcome = Some(Verdict::Success);
        for (field, value) in [
            ("session", "5a".repeat(16).into()),
            ("user", "alice".into()),
            ("file", file.into()),
            ("sha256", hex::encode(Sha256::digest(content)).into()),
            ("files", 3.into()),
        ] {
            event.body.insert(field.to_owned(), value);
        }
        event
    };
    let mut failed = Event::new(EventKind::ManifestWritten);
    failed.outcome = Some(Verdict::Failure);
    let today = chrono::Utc::now().date_naive();
    let [good, changed] = ["good", "changed"].map(|name| format!("{today}/{name}.manifest"));
    let events = vec![
        written("2020-01-01/old.manifest", "x"),
        written(&good, "before a crash"),
        failed,
        written(&good, "good"),
        written(&changed, "changed"),
    ];
    let shell = Shell::hiding(
        "[manifests]\ndirectory = \"%/manifests\"\nkeep_days = 30",
        &[events],
    );
    let put = |name: &str, content: &str| {
        let path = shell.path("manifests").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(shell.path("manifests"), private).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put(&good, "good");
    put(&changed, "changed");
    let states = |arguments: &[&str]| -> Vec<String> {
        let said = shell.run(&[&["manifests"], arguments].concat()).unwrap();
        said.lines()
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(states(&[]), ["removed", "ok", "ok"]);
    assert_eq!(states(&["--user", "bob"]), [""; 0]);
    assert_eq!(states(&["--until", "2020-01-01"]), [""; 0]);
    put(&changed, "other");
    let error = shell.run(&["manifests"]).unwrap_err().to_string();
    assert!(error.starts_with("1 of 3 manifest(s)"), "{error}");
    // Where nothing says how long they are kept, none may be missing.
    let copy = shell.path("copy");
    std::fs::create_dir(&copy).unwrap();
    let error = shell.run(&["manifests", "--directory", copy.to_str().unwrap()]);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("3 of 3 manifest(s)"), "{error}");
    let note = shell.notes().pop().unwrap();
    assert_eq!(note.body["command"], "manifests");
}
