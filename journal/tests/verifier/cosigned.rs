//! What witnesses vouch for, as an auditor finds it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use portcullis_journal::{
    cosigned::{COSIGNED, CosignedFile},
    tree::{
        checkpoint::{CHECKPOINTS, notes},
        cosignature::CosigningKey,
        key::{public_key_path, read_verifier_keys},
    },
    witness::{Known, Request},
};

use super::{Written, independent, text, verify, written};

const TIME: u64 = 1_700_000_000;

/// A log of many checkpoints, and two witnesses.
struct Scene {
    log: Written,
    witnesses: [(PathBuf, CosigningKey); 2],
    /// The public keys of both.
    keys: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let log = written(9_000);
        let witness = |name: &str| {
            let path = log.key.with_file_name(name);
            let key = CosigningKey::open(&path, name).expect("a key");
            (path, key)
        };
        let witnesses = [witness("w1"), witness("w2")];
        let keys = log.key.with_file_name("witnesses.pub");
        let lines: String = witnesses
            .iter()
            .map(|(_, key)| format!("{}\n", key.public()))
            .collect();
        fs::write(&keys, lines).expect("a file");
        Self {
            log,
            witnesses,
            keys,
        }
    }

    fn checkpoints(&self) -> Vec<Vec<u8>> {
        let text = fs::read(self.log.directory.join(CHECKPOINTS)).expect("checkpoints");
        notes(&text).0.iter().map(|note| note.to_vec()).collect()
    }

    /// Lets a witness cosign a checkpoint, by its place from the end.
    fn cosign(&self, witness: usize, from_the_end: usize, time: u64) {
        let keys = read_verifier_keys(&self.log.key).expect("keys");
        let note = self.checkpoints().into_iter().nth_back(from_the_end);
        let note = note.expect("a checkpoint");
        let request = Request {
            old: 0,
            proof: Vec::new(),
            note: &note,
        };
        let (_, own) = self.witnesses.get(witness).expect("a witness");
        let answer = Known::new(keys).cosign(&request, own, time);
        let known = answer.expect("a cosignature").known;
        let latest = known.latest().expect("a note");
        let mut file = CosignedFile::open(&self.log.directory).expect("a file");
        file.append(latest).expect("room");
    }

    fn verify(&self, more: &[&str]) -> Output {
        let more: Vec<_> = more.iter().map(Path::new).collect();
        let log: &[&Path] = &[&self.log.directory, Path::new("--key"), &self.log.key];
        verify(&[log, &[Path::new("--witness"), &self.keys], &more].concat())
    }
}

fn size(note: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(note);
    let line = text.lines().nth(1).expect("a size");
    line.parse().expect("a number")
}

#[test]
fn the_newest_place_that_enough_witnesses_cosigned_is_named() {
    let scene = Scene::new();
    let none = scene.verify(&[]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));
    assert!(
        text(&none).contains("no checkpoint is cosigned"),
        "{}",
        text(&none)
    );

    scene.cosign(0, 2, TIME);
    scene.cosign(1, 2, TIME + 60);
    scene.cosign(0, 1, TIME + 120);
    let sizes: Vec<u64> = scene
        .checkpoints()
        .iter()
        .rev()
        .map(|note| size(note))
        .collect();
    let both = scene.verify(&[]);
    assert_eq!(both.status.code(), Some(0), "{}", text(&both));
    let said = format!(
        "cosigned: {} records, on 2023-11-14T22:14:20Z, by w1, w2",
        sizes[2]
    );
    assert!(text(&both).contains(&said), "{}", text(&both));
    let one = scene.verify(&["--quorum", "1"]);
    let said = format!(
        "cosigned: {} records, on 2023-11-14T22:15:20Z, by w1;",
        sizes[1]
    );
    assert!(text(&one).contains(&said), "{}", text(&one));
    for quorum in ["0", "3"] {
        assert_eq!(scene.verify(&["--quorum", quorum]).status.code(), Some(2));
    }
    // A key of a log is no key of a witness.
    let mut call: Vec<&Path> = vec![&scene.log.directory, Path::new("--key"), &scene.log.key];
    call.extend([Path::new("--witness"), &scene.log.key]);
    assert_eq!(verify(&call).status.code(), Some(2));
}

#[test]
fn a_cut_behind_a_cosigned_place_is_found_and_named() {
    let scene = Scene::new();
    scene.cosign(0, 0, TIME);
    assert_eq!(scene.verify(&["--quorum", "1"]).status.code(), Some(0));
    let covered = size(scene.checkpoints().last().unwrap());
    // The last segment goes, and the checkpoints that cover it: without a witness nothing shows.
    let directory = &scene.log.directory;
    let names = fs::read_dir(directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let last = names.filter(|name| name.ends_with(".jsonl")).max().unwrap();
    let first: u64 = last.trim_end_matches(".jsonl").parse().unwrap();
    fs::remove_file(directory.join(&last)).unwrap();
    let kept = scene.checkpoints();
    let kept: Vec<u8> = kept
        .into_iter()
        .filter(|note| size(note) <= first)
        .flatten()
        .collect();
    fs::write(directory.join(CHECKPOINTS), kept).unwrap();
    let _ = fs::remove_file(directory.join("position"));
    let cut = scene.verify(&["--quorum", "1"]);
    assert_eq!(cut.status.code(), Some(1), "{}", text(&cut));
    let said = format!("records {first} to {} cut off", covered - 1);
    assert!(text(&cut).contains(&said), "{}", text(&cut));

    // The note may lie elsewhere: a witness gives it out.
    let note = scene.log.key.with_file_name("from-the-witness");
    fs::rename(directory.join(COSIGNED), &note).unwrap();
    let unseen = verify(&[directory, Path::new("--key"), &scene.log.key]);
    assert_eq!(unseen.status.code(), Some(0), "{}", text(&unseen));
    let seen = scene.verify(&["--quorum", "1", "--checkpoint", note.to_str().unwrap()]);
    assert_eq!(seen.status.code(), Some(1), "{}", text(&seen));
    assert!(text(&seen).contains(&said), "{}", text(&seen));
}

#[test]
fn a_cosignature_that_its_witness_did_not_make_is_a_finding() {
    let scene = Scene::new();
    scene.cosign(0, 1, TIME);
    scene.cosign(0, 0, TIME);
    let path = scene.log.directory.join(COSIGNED);
    let kept = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = kept.lines().collect();
    // The cosignature of the first stands under the second.
    let mut swapped = lines.clone();
    let last = swapped.len() - 1;
    swapped[last] = swapped[last / 2];
    assert_ne!(swapped, lines);
    fs::write(&path, swapped.join("\n") + "\n").unwrap();
    let found = scene.verify(&["--quorum", "1"]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    assert!(
        text(&found).contains("is not what w1 cosigned"),
        "{}",
        text(&found)
    );
}

#[test]
fn a_program_of_its_own_finds_the_cosignatures_right_and_another_time_wrong() {
    let scene = Scene::new();
    scene.cosign(0, 1, TIME);
    scene.cosign(1, 0, TIME);
    let path = scene.log.directory.join(COSIGNED);
    let [(one, _), (other, _)] = &scene.witnesses;
    let (one, other) = (public_key_path(one), public_key_path(other));
    let check = || independent("cosignature.py", &[&path, &scene.log.key, &one, &other]);
    let right = check();
    assert!(right.status.success(), "{}", text(&right));
    assert!(text(&right).contains("cosigned: 2"), "{}", text(&right));
    // A later time under the same signature: the letters of its last bytes stand at 12 to 15 of the data.
    let kept = fs::read_to_string(&path).unwrap();
    let at = kept.rfind(" w2 ").unwrap() + 4 + 14;
    let other_letter = if &kept[at..=at] == "A" { "B" } else { "A" };
    let mut edited = kept.clone();
    edited.replace_range(at..=at, other_letter);
    fs::write(&path, edited).unwrap();
    assert!(!check().status.success(), "another time passed");
}
