//! Proofs that stand alone, as one auditor makes them and another checks them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Written, independent, text, verify, written};

/// Records that `written(2500)` leaves: the first checkpoint covers fewer.
const MANY: u64 = 2500;

fn prove(log: &Written, what: &str, value: &Path) -> Result<PathBuf, String> {
    let output = verify(&[
        Path::new("prove"),
        &log.directory,
        Path::new("--key"),
        &log.key,
        Path::new(what),
        value,
    ]);
    if output.status.code() != Some(0) {
        assert!(output.stdout.is_empty(), "half a proof");
        return Err(text(&output));
    }
    let path = log.key.with_file_name("proof");
    fs::write(&path, output.stdout).expect("the proof is written");
    Ok(path)
}

fn check(log: &Written, proof: &Path, since: Option<&Path>) -> (Option<i32>, String) {
    let mut arguments = vec![Path::new("check"), proof, Path::new("--key"), &log.key];
    if let Some(since) = since {
        arguments.extend([Path::new("--since"), since]);
    }
    let output = verify(&arguments);
    (output.status.code(), text(&output))
}

/// The second checkpoint of the log, kept elsewhere: the first covers its first record only.
fn kept_checkpoint(log: &Written) -> PathBuf {
    let notes = fs::read_to_string(log.directory.join("checkpoints")).expect("the checkpoints");
    let lines: Vec<&str> = notes.lines().skip(5).take(5).collect();
    let path = log.key.with_file_name("kept");
    fs::write(&path, lines.join("\n") + "\n").expect("the kept checkpoint is written");
    path
}

#[test]
fn a_record_is_proved_to_who_has_the_key_and_another_text_is_not() {
    let log = written(MANY);
    for index in ["0", "7", "2502"] {
        let proof = prove(&log, "--record", Path::new(index)).unwrap();
        let (code, said) = check(&log, &proof, None);
        assert_eq!(code, Some(0), "{said}");
        let (verdict, record) = said.split_once('\n').unwrap();
        assert!(
            verdict.starts_with(&format!("OK: this is record {index} of")),
            "{verdict}"
        );
        let record: Value = serde_json::from_str(record).unwrap();
        assert_eq!(record["seq"].to_string(), index);
        let other = independent("proof.py", &[&proof, &log.key]);
        assert!(other.status.success(), "{}", text(&other));

        let honest = fs::read_to_string(&proof).unwrap();
        let stranger = written(1);
        assert_eq!(check(&stranger, &proof, None).0, Some(1), "another key");
        for (from, to) in [
            ("index ", "index 1"),
            ("extra ey", "extra eA"),
            ("\n\n", "\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n"),
            ("@v1", "@v2"),
        ] {
            let forged = honest.replacen(from, to, 1);
            assert_ne!(forged, honest);
            fs::write(&proof, forged).unwrap();
            let (code, said) = check(&log, &proof, None);
            assert_ne!(code, Some(0), "{from:?}: {said}");
            let other = independent("proof.py", &[&proof, &log.key]);
            assert!(!other.status.success(), "{from:?}");
        }
    }
}

#[test]
fn a_log_is_proved_to_have_grown_and_one_that_was_altered_is_not() {
    let log = written(MANY);
    let kept = kept_checkpoint(&log);
    let proof = prove(&log, "--since", &kept).unwrap();
    let (code, said) = check(&log, &proof, Some(&kept));
    assert_eq!(code, Some(0), "{said}");
    let old: u64 = said.split(' ').nth(6).unwrap().parse().unwrap();
    assert!((2..MANY).contains(&old), "{said}");
    let other = independent("proof.py", &[&proof, &log.key, &kept]);
    assert!(other.status.success(), "{}", text(&other));
    let (code, said) = check(&log, &proof, None);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--since is missing"), "{said}");

    // The checkpoint of another log of the same size and name does not fit.
    let twin = written(MANY);
    let (code, _) = check(&log, &proof, Some(&kept_checkpoint(&twin)));
    assert_ne!(code, Some(0));
    // A hash less.
    let honest = fs::read_to_string(&proof).unwrap();
    let lines: Vec<&str> = honest.lines().collect();
    let shorter = [&lines[..1], &lines[2..]].concat().join("\n") + "\n";
    fs::write(&proof, shorter).unwrap();
    let (code, said) = check(&log, &proof, Some(&kept));
    assert_eq!(code, Some(1), "{said}");

    let path = log.directory.join("000000000000.jsonl");
    let content = fs::read_to_string(&path).unwrap();
    fs::write(&path, content.replacen("\"n\":7,", "\"n\":8,", 1)).unwrap();
    for (what, value) in [("--since", kept.as_path()), ("--record", Path::new("9"))] {
        let said = prove(&log, what, value).unwrap_err();
        assert!(said.contains("let portcullis-verify say where"), "{said}");
    }
}

#[test]
fn what_can_not_be_proved_says_why() {
    let log = written(5);
    let said = prove(&log, "--record", Path::new("4000")).unwrap_err();
    assert!(
        said.contains("no checkpoint of these keys covers record 4000: they cover 8"),
        "{said}"
    );
    let long = kept_checkpoint(&written(MANY));
    assert!(prove(&log, "--since", &long).is_err(), "another log's");
    for (arguments, expected) in [
        (
            vec!["prove", "--record", "1"],
            "directory of the log is missing",
        ),
        (
            vec!["prove", "x", "--key", "k"],
            "one of --record NUMBER and --since FILE",
        ),
        (vec!["check", "--key", "k"], "file of the proof is missing"),
        (vec!["x", "--record", "1"], "--record"),
    ] {
        let arguments: Vec<&Path> = arguments.into_iter().map(Path::new).collect();
        let output = verify(&arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    for no_proof in ["", "old 5\n", "c2sp.org/tlog-proof@v1\n\n", "old 05\n\nx\n"] {
        let path = log.key.with_file_name("no-proof");
        fs::write(&path, no_proof).unwrap();
        let (code, said) = check(&log, &path, Some(&kept_checkpoint(&log)));
        assert_eq!(code, Some(1), "{no_proof:?}: {said}");
        assert!(said.contains("NOT PROVED: not a proof"), "{said}");
    }
}
