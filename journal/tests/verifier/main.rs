//! The verifier as an auditor runs it, on a log that a journal wrote to a real directory.

mod cosigned;
mod excerpts;
mod manifests;
mod proofs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use portcullis_journal::{
    Event, EventKind, Journal, Options, read,
    record::untrusted,
    tree::key::{SigningKey, public_key_path},
};
use serde_json::Value;

struct Written {
    _home: tempfile::TempDir,
    directory: PathBuf,
    key: PathBuf,
}

fn event(n: u64) -> Event {
    let mut event = Event::new(EventKind::OperationDenied);
    event.source = "192.0.2.7:4000".parse().ok();
    event.body.insert("n".into(), n.into());
    event.body.insert("path".into(), untrusted(b"/in\n\xff"));
    event
}

/// A log of `records` in several segments; the journal is closed.
fn written(records: u64) -> Written {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path().join("log");
    let options = Options {
        segment_bytes: 20_000,
        // The tests change what stands in the segments.
        compression_level: None,
        ..Options::default_in(&directory)
    };
    let key = public_key_path(&options.signing_key);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (journal, _) = Journal::open(options).expect("a journal");
        let pending: Vec<_> = (0..records).map(|n| journal.append(event(n))).collect();
        for one in pending {
            one.await.expect("a record");
        }
        journal.append(event(records)).await.expect("a record");
        journal.close().await.expect("the end");
    });
    Written {
        _home: home,
        directory,
        key,
    }
}

fn verify(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis-verify"))
        .args(arguments)
        .output()
        .expect("the verifier runs")
}

/// Runs a program that knows nothing but the written format.
fn independent(script: &str, arguments: &[&Path]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent");
    Command::new("python3")
        .arg("-B")
        .arg(folder.join(script))
        .args(arguments)
        .output()
        .expect("python3 is there; cargo xtask setup installs it")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_sound_log_exits_0_and_a_flipped_byte_exits_1_and_names_the_record() {
    let log = written(50);
    let call = [log.directory.as_path(), Path::new("--key"), &log.key];
    let sound = verify(&call);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound));
    assert!(text(&sound).contains("OK: 5"), "{}", text(&sound));
    assert!(
        text(&sound).contains("every record is covered"),
        "{}",
        text(&sound)
    );

    let path = log.directory.join("000000000000.jsonl");
    let content = fs::read_to_string(&path).unwrap();
    fs::write(&path, content.replacen("\"n\":7,", "\"n\":8,", 1)).unwrap();
    let edited = verify(&call);
    assert_eq!(edited.status.code(), Some(1), "{}", text(&edited));
    // Record 0 is log.start.
    assert!(
        text(&edited).contains("record 8 was edited (000000000000.jsonl line 9)"),
        "{}",
        text(&edited)
    );
}

#[test]
fn the_report_is_one_json_object_on_request() {
    let log = written(10);
    let output = verify(&[
        &log.directory,
        Path::new("--key"),
        &log.key,
        Path::new("--json"),
    ]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["sound"], true);
    assert_eq!(report["records"], 13);
    assert_eq!(report["signed"], 13);
    assert_eq!(report["chained_only"], 0);
}

#[test]
fn wrong_usage_and_missing_files_exit_2_and_say_what_is_missing() {
    let log = written(1);
    let nowhere = log.directory.join("nowhere");
    for (arguments, expected) in [
        (vec![log.directory.as_path()], "--key is missing"),
        (
            vec![Path::new("--key"), &log.key],
            "the directory of the log is missing",
        ),
        (vec![&nowhere, Path::new("--key"), &log.key], "nowhere"),
        (
            vec![&log.directory, Path::new("--key"), &nowhere],
            "nowhere",
        ),
        (
            vec![
                &log.directory,
                Path::new("--key"),
                &log.directory.join("000000000000.jsonl"),
            ],
            "no signed-note verifier key",
        ),
        (
            vec![
                &log.directory,
                Path::new("--key"),
                &log.key,
                Path::new("--colour"),
            ],
            "--colour",
        ),
        (
            vec![log.key.parent().unwrap(), Path::new("--key"), &log.key],
            "holds no log",
        ),
    ] {
        let output = verify(&arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    assert_eq!(verify(&[Path::new("--help")]).status.code(), Some(0));
}

#[test]
fn records_are_read_back_in_order_with_their_fields() {
    let log = written(300);
    let records: Vec<_> = read::records(&log.directory)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        records
            .iter()
            .map(|record| record.seq)
            .eq(0..records.len() as u64)
    );
    let denied: Vec<_> = records
        .iter()
        .filter(|record| record.event == "op.denied")
        .collect();
    assert!(
        denied
            .iter()
            .map(|record| &record.body["n"])
            .eq((0..=300).map(Value::from).collect::<Vec<_>>().iter())
    );
    assert_eq!(denied[0].source.unwrap().ip.to_string(), "192.0.2.7");
    assert!(
        fs::read_dir(&log.directory).unwrap().count() > 3,
        "one segment only"
    );
}

#[test]
fn a_program_of_its_own_finds_the_log_sound_and_an_edit_unsound() {
    let check = |log: &Written| independent("log.py", &[&log.directory, &log.key]);
    let log = written(2500);
    let sound = check(&log);
    assert!(sound.status.success(), "{}", text(&sound));
    assert!(text(&sound).contains("signatures: "), "{}", text(&sound));

    let path = log.directory.join("checkpoints");
    let notes = fs::read(&path).unwrap();
    let mut edited = notes.clone();
    // The first letter of the base64 root of the first checkpoint.
    let root = edited
        .iter()
        .enumerate()
        .filter(|&(_, &b)| b == b'\n')
        .nth(1)
        .unwrap()
        .0
        + 1;
    edited[root] = if edited[root] == b'A' { b'B' } else { b'A' };
    fs::write(&path, edited).unwrap();
    assert!(!check(&log).status.success(), "an edited root passed");
    fs::write(&path, notes).unwrap();
    assert!(check(&log).status.success());
}

#[test]
fn the_key_of_the_first_day_leads_to_all_later_ones() {
    let home = tempfile::tempdir().unwrap();
    let options = Options::default_in(home.path().join("log"));
    let first_day = home.path().join("first-day.pub");
    let mut announced = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (journal, _) = Journal::open(options.clone()).unwrap();
        fs::copy(public_key_path(&options.signing_key), &first_day).unwrap();
        for n in 0..2 {
            announced.push(SigningKey::prepare_next(&options.signing_key).unwrap());
            assert!(journal.change_key().await.unwrap());
            journal.append(event(n)).await.unwrap();
        }
        journal.close().await.unwrap();
    });
    let key = [Path::new("--key"), &first_day];
    let sound = verify(&[&[options.directory.as_path()][..], &key].concat());
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound));
    let keys = verify(&[&[Path::new("keys"), &options.directory][..], &key].concat());
    assert_eq!(text(&keys), announced.join("\n") + "\n");
    // Somebody else's key leads nowhere, and the log is not sound to its owner.
    let other = written(5);
    let key = [Path::new("--key"), &other.key];
    let keys = verify(&[&[Path::new("keys"), &options.directory][..], &key].concat());
    assert_eq!((keys.status.code(), text(&keys)), (Some(0), String::new()));
    let foreign = verify(&[&[options.directory.as_path()][..], &key].concat());
    assert_eq!(foreign.status.code(), Some(1));
}

#[test]
fn tiles_are_those_of_the_specification_and_grow_with_the_log() {
    let log = written(70_000);
    let folder = log.key.with_file_name("tiles");
    let tiles = |log: &Written| {
        let key = [Path::new("--key"), &log.key, Path::new("--entries")];
        verify(&[&[Path::new("tiles"), &log.directory, &folder][..], &key].concat())
    };
    // First a part of the log, as if it had been signed so far only.
    let path = log.directory.join("checkpoints");
    let all = fs::read_to_string(&path).unwrap();
    let part: Vec<&str> = all.split_inclusive('\n').take(5 * 20).collect();
    fs::write(&path, part.concat()).unwrap();
    for text_of in [part.concat(), all.clone()] {
        fs::write(&path, &text_of).unwrap();
        let made = tiles(&log);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made));
        let checked = independent("tiles.py", &[&folder, &log.key]);
        assert!(checked.status.success(), "{}", text(&checked));
    }
    assert!(folder.join("tile/2/000.p/1").exists());
    let again = tiles(&log);
    assert!(text(&again).contains("0 files are new"), "{}", text(&again));
    // Another log does not get among them, and a tile that was changed is noticed.
    let other = tiles(&written(300));
    assert_eq!(other.status.code(), Some(1), "{}", text(&other));
    let tile = folder.join("tile/0/007");
    let mut hashes = fs::read(&tile).unwrap();
    hashes[40] ^= 1;
    fs::write(&tile, hashes).unwrap();
    let changed = tiles(&log);
    assert!(
        text(&changed).contains("tile/0/007 differs"),
        "{}",
        text(&changed)
    );
    assert!(
        !independent("tiles.py", &[&folder, &log.key])
            .status
            .success()
    );
}
