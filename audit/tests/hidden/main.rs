//! Hidden paths as a log has them, read by a program that knows nothing but the written format.

use std::{path::Path, process::Command, sync::Arc};

use portcullis_audit::hidden::{AuditorSecret, PathKey, PathVeil};
use portcullis_journal::{Event, EventKind, Journal, Options, record::untrusted};
use serde_json::{Map, Value};

const PATHS: [&[u8]; 8] = [
    b"/inbox/M\xc3\xbcller.dcm",
    b"/",
    b"/a/b/c.tar.gz",
    b"/\xff\xfe/new\nline",
    b"../target",
    b"/.hidden",
    b"/1.2.840.113619",
    b"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b\x00c",
];

fn denied(path: &[u8]) -> Event {
    let mut event = Event::new(EventKind::OperationDenied);
    event.body.insert("path".to_owned(), untrusted(path));
    event
        .body
        .insert("path2".to_owned(), untrusted(&[path, b"/x.csv"].concat()));
    event
        .body
        .insert("error".to_owned(), untrusted(&[b"no ", path].concat()));
    event
}

#[tokio::test]
async fn an_independent_program_opens_what_was_sealed_and_makes_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (_, auditor) = AuditorSecret::generate(&file("auditor")).unwrap();
    let key = PathKey::open(&file("paths")).unwrap();
    let options = Options {
        veil: Some(Arc::new(PathVeil::new(key, Some(auditor)))),
        ..Options::default_in(file("log"))
    };
    let (journal, _) = Journal::open(options).unwrap();
    for path in PATHS {
        journal.append(denied(path)).await.unwrap();
    }
    journal.close().await.unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent/hidden.py");
    let run = |secret: &Path| {
        Command::new("python3")
            .arg("-B")
            .arg(&script)
            .args([&file("log/000000000000.jsonl"), &file("paths"), secret])
            .output()
            .expect("python3 is there; cargo xtask setup installs it")
    };
    let output = run(&file("auditor"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let opened: Vec<Map<String, Value>> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|opened: &Map<_, _>| !opened.is_empty())
        .collect();
    let expected: Vec<_> = PATHS
        .iter()
        .map(|path| {
            [
                ("error", [b"no ", *path].concat()),
                ("path", path.to_vec()),
                ("path2", [*path, b"/x.csv"].concat()),
            ]
            .map(|(name, text)| (name.to_owned(), Value::from(hex::encode(text))))
            .into_iter()
            .collect::<Map<_, _>>()
        })
        .collect();
    assert_eq!(opened, expected);

    AuditorSecret::generate(&file("other")).unwrap();
    let output = run(&file("other"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not sealed to this key"));
}
