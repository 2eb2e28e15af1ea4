//! Records that were taken out of a log, and what is made of them on the way.

use std::{collections::BTreeSet, fs, path::Path};

use portcullis_journal::{
    proof::{ProofError, provable, write_excerpt},
    tree::key::read_verifier_keys,
};
use serde_json::Value;

use super::{Written, independent, text, verify, written};

const MANY: u64 = 2500;
const CHOSEN: [u64; 7] = [0, 7, 8, 1023, 1024, 2000, 2502];

fn excerpt(log: &Written, chosen: impl IntoIterator<Item = u64>) -> Result<String, ProofError> {
    let keys = read_verifier_keys(&log.key).expect("the key");
    let mut out = Vec::new();
    let chosen: BTreeSet<u64> = chosen.into_iter().collect();
    write_excerpt(&log.directory, &chosen, &keys, &mut out)?;
    Ok(String::from_utf8(out).expect("text"))
}

fn check(log: &Written, excerpt: &str) -> (Option<i32>, String) {
    let path = log.key.with_file_name("excerpt");
    fs::write(&path, excerpt).expect("the excerpt is written");
    let arguments = [Path::new("check"), &path, Path::new("--key"), &log.key];
    let output = verify(&arguments);
    let other = independent("excerpt.py", &[&path, &log.key]);
    assert_eq!(
        output.status.success(),
        other.status.success(),
        "{} {}",
        text(&output),
        text(&other)
    );
    (output.status.code(), text(&output))
}

/// The line of the excerpt with that record.
fn line_of(excerpt: &str, record: u64) -> &str {
    let begin = format!("{record} {{");
    excerpt
        .lines()
        .find(|line| line.starts_with(&begin))
        .expect("the record is in the excerpt")
}

#[test]
fn an_excerpt_is_checked_with_the_public_key_alone() {
    let log = written(MANY);
    let text = excerpt(&log, CHOSEN).unwrap();
    fs::rename(&log.directory, log.key.with_file_name("elsewhere")).unwrap();
    let (code, said) = check(&log, &text);
    assert_eq!(code, Some(0), "{said}");
    let (verdict, records) = said.split_once('\n').unwrap();
    assert!(
        verdict.starts_with("OK: these are 7 record(s) of a log"),
        "{verdict}"
    );
    let seqs: Vec<u64> = records
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["seq"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(seqs, CHOSEN);
    let stranger = written(1);
    let (code, said) = check(&stranger, &text);
    assert_eq!(code, Some(1));
    assert!(said.contains("signed with none of these keys"), "{said}");
}

#[test]
fn what_is_changed_in_an_excerpt_is_named_by_its_record() {
    let log = written(MANY);
    let honest = excerpt(&log, CHOSEN).unwrap();
    let (seven, eight) = (line_of(&honest, 7), line_of(&honest, 8));
    let body = |line: &str| line.split_once(' ').unwrap().1.to_owned();
    let swapped = honest
        .replace(seven, "7 @")
        .replace(eight, &format!("8 {}", body(seven)))
        .replace("7 @", &format!("7 {}", body(eight)));
    let hash_of = |range: &str| {
        let mut hashes = honest.lines().filter_map(|line| line.strip_prefix(range));
        hashes.next().expect("the hash is in the excerpt")
    };
    let of_another = honest.replace(
        &format!("1025 1026 {}", hash_of("1025 1026 ")),
        &format!("1025 1026 {}", hash_of("1 2 ")),
    );
    for (what, forged, named) in [
        (
            "a byte of a path",
            honest.replace(seven, &seven.replace("b64:L2lu", "b64:L2lv")),
            "record 7 is not proved: its line is not the one that was signed",
        ),
        (
            "two lines in each other's place",
            swapped,
            "record 7 is not proved: its line is that of another record",
        ),
        (
            "a record under another number",
            honest.replace("\n1023 {", "\n1022 {"),
            "record 1022 is not proved: its line is that of another record",
        ),
        (
            "a record twice",
            honest
                .replace("records 7", "records 8")
                .replace(seven, &format!("{seven}\n{seven}")),
            "record 7 is not proved: it stands behind",
        ),
        (
            "a proof of another record",
            of_another,
            "record 1024 is not proved: its line is not the one that was signed",
        ),
        (
            "a record more",
            honest.replace(seven, &format!("{seven}\n{seven}")),
            "more records than it says",
        ),
        (
            "a record less",
            honest.replace(&format!("{seven}\n"), ""),
            "fewer records",
        ),
        (
            "no checkpoint",
            format!("{}\n\n", honest.split("\n\n").next().unwrap()),
            "is not a checkpoint",
        ),
        (
            "another form",
            honest.replace("@v1", "@v2"),
            "name of the form",
        ),
    ] {
        assert_ne!(forged, honest, "{what}");
        let (code, said) = check(&log, &forged);
        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(said.contains(named), "{what}: {said}");
    }
    let (code, said) = check(&log, &honest);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn every_changed_byte_of_an_excerpt_is_found() {
    let log = written(20);
    let keys = read_verifier_keys(&log.key).unwrap();
    let honest = excerpt(&log, [3]).unwrap().into_bytes();
    let said = |bytes: &[u8]| portcullis_journal::proof::check_excerpt(bytes, &keys);
    let proved = said(&honest).unwrap();
    for at in 0..honest.len() {
        let mut forged = honest.clone();
        forged[at] ^= 1;
        // What is left may be a proof only if it is of the same records.
        if let Ok(other) = said(&forged) {
            assert_eq!(other, proved, "byte {at}");
        }
        assert!(said(&honest[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn what_can_not_be_taken_out_says_why() {
    let log = written(100);
    let keys = read_verifier_keys(&log.key).unwrap();
    let all = provable(&log.directory, &keys).unwrap();
    excerpt(&log, 0..all).unwrap();
    let refused = excerpt(&log, [1, all]).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("no checkpoint of these keys covers record"),
        "{refused}"
    );
    let segment = log.directory.join("000000000000.jsonl");
    let content = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, content.replacen("192.0.2.7", "192.0.2.8", 1)).unwrap();
    let refused = excerpt(&log, [50]).unwrap_err();
    assert!(matches!(refused, ProofError::Altered { .. }), "{refused}");
}
