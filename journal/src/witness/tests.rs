use super::*;
use crate::tree::{
    Tree,
    checkpoint::{sign, sign_over},
    key::{SigningKey, public_key_path, read_verifier_keys},
    ranges::Ranges,
};

const TIME: u64 = 1_700_000_000;

fn log_key(name: &str) -> (SigningKey, Vec<StandardVerifier>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let key = SigningKey::open(&path, name).unwrap();
    (key, read_verifier_keys(&public_key_path(&path)).unwrap())
}

fn witness_key() -> CosigningKey {
    let folder = tempfile::tempdir().unwrap();
    CosigningKey::open(&folder.path().join("key"), "w1").unwrap()
}

/// Leaf `n` of the log with the name `log`; logs part at leaf 5.
fn leaf(log: &str, n: u64) -> Vec<u8> {
    if n < 5 {
        n.to_be_bytes().to_vec()
    } else {
        [log.as_bytes(), &n.to_be_bytes()].concat()
    }
}

fn tree(log: &str, size: u64) -> Tree {
    let mut tree = Tree::default();
    (0..size).for_each(|n| tree.push(&leaf(log, n)));
    tree
}

fn proof(log: &str, old: u64, size: u64) -> Vec<Hash> {
    if old == 0 {
        return Vec::new();
    }
    let mut ranges = Ranges::of_consistency(old, size);
    (0..size).for_each(|n| ranges.push_leaf(tlog_tiles::record_hash(&leaf(log, n))));
    ranges.roots()
}

fn body(key: &SigningKey, log: &str, old: u64, size: u64) -> Vec<u8> {
    let request = Request {
        old,
        proof: proof(log, old, size),
        note: &sign(&tree(log, size), key),
    };
    request.to_bytes()
}

struct Scene {
    log: SigningKey,
    trusted: Vec<StandardVerifier>,
    own: CosigningKey,
    known: Known,
}

impl Scene {
    /// A witness that has cosigned so many records.
    fn at(size: u64) -> Self {
        let (log, trusted) = log_key("gw1");
        let mut scene = Self {
            known: Known::new(trusted.clone()),
            own: witness_key(),
            log,
            trusted,
        };
        if size > 0 {
            scene.go_on(&body(&scene.log, "a", 0, size)).unwrap();
        }
        scene
    }

    fn ask(&self, body: &[u8]) -> Result<Answer, Refusal> {
        self.known.cosign(&Request::parse(body)?, &self.own, TIME)
    }

    fn go_on(&mut self, body: &[u8]) -> Result<(), Refusal> {
        self.known = self.ask(body)?.known;
        Ok(())
    }
}

#[test]
fn a_log_that_grows_is_cosigned_from_any_size_to_any_size() {
    for size in 1..20 {
        for more in size..20 {
            let mut scene = Scene::at(size);
            let answer = scene.ask(&body(&scene.log, "a", size, more)).unwrap();
            let keys = [scene.own.public().clone()];
            let mut note = sign(&tree("a", more), &scene.log);
            note.extend_from_slice(&answer.lines);
            assert_eq!(cosignatures(&note, &keys).unwrap()[0].time, TIME);
            assert_eq!(answer.known.latest(), Some(&note[..]));
            scene.known = answer.known;
            assert_eq!(scene.known.size(), more);
        }
    }
}

#[test]
fn what_does_not_continue_the_log_is_not_cosigned() {
    let scene = Scene::at(8);
    let key = &scene.log;
    let conflict = |old, size| Refusal::Conflict {
        cosigned: 8,
        old,
        size,
    };
    // The same bytes would be cosigned if they were the next.
    for (old, size) in [(0, 12), (7, 12), (9, 12), (0, 8), (4, 6)] {
        let refused = scene.ask(&body(key, "a", old, size)).unwrap_err();
        assert_eq!(refused, conflict(old, size));
    }
    assert!(scene.ask(&body(key, "a", 8, 12)).is_ok());
    // Another log that was the same up to record 5, with a proof of its own.
    for size in [8, 9, 12, 16] {
        let refused = scene.ask(&body(key, "b", 8, size)).unwrap_err();
        assert!(
            matches!(refused, Refusal::Inconsistent { cosigned: 8, size: named, .. } if named == size)
        );
    }
}

#[test]
fn a_proof_is_the_right_one_or_none() {
    let scene = Scene::at(6);
    let note = sign(&tree("a", 11), &scene.log);
    let right = proof("a", 6, 11);
    let ask = |proof: Vec<Hash>| {
        let request = Request {
            old: 6,
            proof,
            note: &note,
        };
        scene.ask(&request.to_bytes())
    };
    assert!(ask(right.clone()).is_ok());
    for at in 0..right.len() {
        let mut changed = right.clone();
        changed[at].0[0] ^= 1;
        let mut short = right.clone();
        short.remove(at);
        let mut long = right.clone();
        long.insert(at, right[at]);
        for wrong in [changed, short, long] {
            assert!(matches!(ask(wrong), Err(Refusal::Inconsistent { .. })));
        }
    }
    // Growth from nothing needs no proof, and has none.
    let new = Scene::at(0);
    let request = |proof| {
        let note = sign(&tree("a", 11), &new.log);
        let note = &note[..];
        new.ask(
            &Request {
                old: 0,
                proof,
                note,
            }
            .to_bytes(),
        )
    };
    assert!(request(Vec::new()).is_ok());
    assert!(matches!(request(right), Err(Refusal::Inconsistent { .. })));
}

#[test]
fn only_the_keys_of_the_log_count() {
    let scene = Scene::at(0);
    let (stranger, _) = log_key("gw1");
    assert!(scene.ask(&body(&scene.log, "a", 0, 3)).is_ok());
    assert_eq!(
        scene.ask(&body(&stranger, "a", 0, 3)).unwrap_err(),
        Refusal::NotSigned
    );
    // A known key's name under another text.
    let forged = String::from_utf8(body(&scene.log, "a", 0, 3)).unwrap();
    let forged = forged.replacen("\n3\n", "\n4\n", 1);
    assert_eq!(
        scene.ask(forged.as_bytes()).unwrap_err(),
        Refusal::NotSigned
    );
    // Signatures of strangers beside the right one are not handed on.
    let mut both = body(&scene.log, "a", 0, 3);
    let other = body(&stranger, "a", 0, 3);
    let line = other.windows(3).rposition(|at| at == "\u{2014}".as_bytes());
    both.extend_from_slice(&other[line.unwrap()..]);
    let answer = scene.ask(&both).unwrap();
    let latest = String::from_utf8(answer.known.latest().unwrap().to_vec()).unwrap();
    assert_eq!(latest.matches('\u{2014}').count(), 2);
}

#[test]
fn a_request_is_read_strictly() {
    let scene = Scene::at(0);
    let good = String::from_utf8(body(&scene.log, "a", 0, 3)).unwrap();
    assert!(Request::parse(good.as_bytes()).is_ok());
    let hash = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let with_hashes =
        |count| good.replacen("old 0\n", &format!("old 7\n{}", hash.repeat(count)), 1);
    assert_eq!(
        Request::parse(with_hashes(63).as_bytes())
            .unwrap()
            .proof
            .len(),
        63
    );
    for wrong in [
        with_hashes(64),
        String::new(),
        "old 0\n".to_owned(),
        good.replacen("old 0", "old 00", 1),
        good.replacen("old 0", "old +0", 1),
        good.replacen("old 0", "old ", 1),
        good.replacen("old 0", "old 18446744073709551616", 1),
        good.replacen("old 0", "Old 0", 1),
        good.replacen("old 0\n", "old 0\r\n", 1),
        good.replacen("old 0\n", "old 0\nnot a hash\n", 1),
        good.replacen("\n\n", "\n", 1),
    ] {
        let refused = Request::parse(wrong.as_bytes()).and_then(|request| request.origin());
        assert!(matches!(refused, Err(Refusal::Malformed(_))), "{wrong}");
    }
    for cut in 0..good.len() {
        let asked = scene.ask(&good.as_bytes()[..cut]);
        assert!(asked.is_err(), "cut at {cut}");
    }
    let old_above = body(&scene.log, "a", 0, 3);
    let old_above = String::from_utf8(old_above)
        .unwrap()
        .replacen("old 0", "old 4", 1);
    assert_eq!(
        scene.ask(old_above.as_bytes()).unwrap_err(),
        Refusal::OldAboveNew { old: 4, size: 3 }
    );
}

#[test]
fn an_empty_log_has_the_root_of_nothing() {
    let scene = Scene::at(0);
    assert!(scene.ask(&body(&scene.log, "a", 0, 0)).is_ok());
    let mut other = Note::new(
        &Checkpoint::new("gw1", 0, tree("a", 1).root(), "")
            .unwrap()
            .to_bytes(),
        &[],
    )
    .unwrap();
    other.add_sigs(&[scene.log.signer()]).unwrap();
    let request = Request {
        old: 0,
        proof: Vec::new(),
        note: &other.to_bytes(),
    };
    assert!(matches!(
        scene.ask(&request.to_bytes()),
        Err(Refusal::Inconsistent { .. })
    ));
}

#[test]
fn a_change_of_the_key_is_followed_and_kept() {
    let mut scene = Scene::at(3);
    let (next, _) = log_key("gw1");
    // Nobody knows the next key before the log hands over to it.
    assert_eq!(
        scene.ask(&body(&next, "a", 3, 9)).unwrap_err(),
        Refusal::NotSigned
    );
    let request = Request {
        old: 3,
        proof: proof("a", 3, 7),
        note: &sign_over(&tree("a", 7), &scene.log, &next),
    };
    scene.go_on(&request.to_bytes()).unwrap();
    // Again, as a log does that did not hear the answer.
    let again = Request {
        old: 7,
        proof: Vec::new(),
        ..request
    };
    scene.go_on(&again.to_bytes()).unwrap();
    let text = scene.known.to_bytes();
    let read = Known::parse(&text, scene.trusted.clone(), scene.own.public()).unwrap();
    assert_eq!(read.to_bytes(), text);
    scene.known = read;
    assert!(scene.ask(&body(&next, "a", 7, 9)).is_ok());
    assert_eq!(
        scene.ask(&body(&scene.log, "a", 7, 9)).unwrap_err(),
        Refusal::NotSigned
    );
}

#[test]
fn what_was_kept_comes_back_and_damage_is_not_taken_for_a_new_log() {
    let scene = Scene::at(6);
    let text = scene.known.to_bytes();
    let own = scene.own.public();
    let read = Known::parse(&text, scene.trusted.clone(), own).unwrap();
    assert_eq!((read.size(), read.to_bytes()), (6, text.clone()));
    for cut in 0..text.len() {
        let cut = Known::parse(&text[..cut], scene.trusted.clone(), own);
        assert!(cut.is_err());
    }
    let (_, other_log) = log_key("gw1");
    assert!(Known::parse(&text, other_log, own).is_err());
    assert!(Known::parse(&text, scene.trusted.clone(), witness_key().public()).is_err());
}
