//! A log that changes its signing key.

use std::fs;

use super::{
    sealing::{Log, report, text_of},
    *,
};
use crate::{
    AppendError,
    proof::{check_record_proof, prove_record},
    tree::{
        checkpoint::CHECKPOINTS,
        key::{SigningKey, public_key_path, read_verifier_keys},
        keyring::successors,
    },
    verify::{Kind, directory::verify},
};

#[tokio::test]
async fn a_log_goes_on_under_another_key_that_the_first_hands_over_to() {
    let log = Log::new();
    let path = log.options().signing_key;
    let (journal, _) = log.open();
    let first_day = log.folder.path().join("first-day.pub");
    fs::copy(public_key_path(&path), &first_day).unwrap();
    let old_secret = fs::read(&path).unwrap();
    log.grow(&journal, 0, 1_000).await;
    assert_eq!(journal.change_key().await, Ok(false));
    let announced = SigningKey::prepare_next(&path).unwrap();
    assert!(SigningKey::prepare_next(&path).is_err());
    assert_eq!(journal.change_key().await, Ok(true));
    assert_eq!(journal.change_key().await, Ok(false));
    log.grow(&journal, 1_000, 1_000).await;
    journal.close().await.unwrap();
    assert_ne!(fs::read(&path).unwrap(), old_secret);

    // Whoever holds the key of the first day needs no other.
    let trusted = || read_verifier_keys(&first_day).unwrap();
    let sound = verify(&log.directory(), trusted(), None).unwrap();
    assert!(sound.is_sound(), "{sound:#?}");
    assert_eq!((sound.chained_only(), sound.keys.len()), (0, 2));
    assert!(log.report().is_sound());
    let text = fs::read(log.directory().join(CHECKPOINTS)).unwrap();
    assert_eq!(
        successors(&text, trusted()),
        std::slice::from_ref(&announced)
    );
    let proof = prove_record(&log.directory(), 3_000, &trusted()).unwrap();
    let new = log.folder.path().join("new.pub");
    fs::write(&new, &announced).unwrap();
    let new = read_verifier_keys(&new).unwrap();
    assert!(check_record_proof(proof.as_bytes(), &new).is_ok());
    assert!(check_record_proof(proof.as_bytes(), &trusted()).is_err());

    // The next start goes on under the new key, and one that was prepared meanwhile takes over at once.
    SigningKey::prepare_next(&path).unwrap();
    let (journal, _) = log.open();
    journal.append(named("third")).await.unwrap();
    journal.close().await.unwrap();
    let sound = verify(&log.directory(), trusted(), None).unwrap();
    assert!(sound.is_sound(), "{sound:#?}");
    assert_eq!(sound.keys.len(), 3);

    // A checkpoint that the old key signs now, stolen or not, is not believed.
    let current = fs::read(&path).unwrap();
    let current_pub = fs::read(public_key_path(&path)).unwrap();
    fs::write(&path, &old_secret).unwrap();
    fs::write(public_key_path(&path), fs::read(&first_day).unwrap()).unwrap();
    let error = Journal::open(log.options()).unwrap_err();
    assert!(matches!(
        error,
        crate::OpenError::Recover {
            source: crate::recover::RecoverError::OtherKey { .. },
            ..
        }
    ));
    let copy = log.folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(log.directory()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let mut tree = crate::tree::Tree::default();
    for line in text_of(&log.directory()) {
        tree.push(line.as_bytes());
    }
    let thief = SigningKey::open(&path, "gw1/log").unwrap();
    let forged = crate::tree::checkpoint::sign(&tree, &thief);
    fs::write(
        copy.join(CHECKPOINTS),
        [fs::read(copy.join(CHECKPOINTS)).unwrap(), forged].concat(),
    )
    .unwrap();
    let found = verify(&copy, trusted(), None).unwrap();
    assert_eq!(
        found.findings.iter().map(|f| f.kind).collect::<Vec<_>>(),
        [Kind::WrongKey]
    );
    fs::write(&path, current).unwrap();
    fs::write(public_key_path(&path), current_pub).unwrap();
    assert!(report(&log.directory(), &log.options()).is_sound());
}

#[tokio::test]
async fn a_next_key_that_is_none_is_refused_and_the_old_one_signs_on() {
    let log = Log::new();
    let path = log.options().signing_key;
    let (journal, _) = log.open();
    let mut next = path.clone().into_os_string();
    next.push(".next");
    for text in ["", "PRIVATE+KEY+x"] {
        fs::write(&next, text).unwrap();
        assert!(matches!(
            journal.change_key().await,
            Err(AppendError::Write { .. })
        ));
        journal.append(named("still")).await.unwrap();
    }
    // The same key again is no change.
    fs::copy(&path, &next).unwrap();
    assert!(journal.change_key().await.is_err());
    fs::remove_file(&next).unwrap();
    journal.close().await.unwrap();
    assert!(log.report().is_sound());
}
