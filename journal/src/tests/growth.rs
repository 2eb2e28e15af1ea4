//! Growth between two heads, over segments that are open, sealed and deleted.

use std::fs;

use super::{retention::shortened, sealing::Log};
use crate::{
    growth::{GrowthError, grow, tree_at},
    tree::{
        Tree,
        checkpoint::{CHECKPOINTS, Head, Judged, judge, notes},
        key::{public_key_path, read_verifier_keys},
    },
};

fn heads(log: &Log) -> Vec<Head> {
    let keys = read_verifier_keys(&public_key_path(&log.options().signing_key)).unwrap();
    let text = fs::read(log.directory().join(CHECKPOINTS)).unwrap();
    let head = |note: &&[u8]| match judge(note, &keys) {
        Judged::Good(head) => Some(head),
        Judged::OtherKey { .. } | Judged::BadSignature { .. } | Judged::Malformed => None,
    };
    notes(&text).0.iter().filter_map(head).collect()
}

/// Each head after the first is shown to continue each head from there on.
fn assert_grown(log: &Log, heads: &[Head]) {
    for (at, new) in heads.iter().enumerate() {
        for old in &heads[..=at] {
            let from = tree_at(&log.directory(), old.size).unwrap();
            assert_eq!(from.root(), old.root);
            let grown = grow(&log.directory(), &from, new).unwrap();
            assert_eq!(grown.tree.root(), new.root);
            let (proof, size) = (grown.proof, new.size);
            tlog_tiles::check_tree(&proof, size, new.root, old.size, old.root).unwrap();
        }
    }
}

#[tokio::test]
async fn growth_is_shown_over_open_and_sealed_segments_and_from_nothing() {
    let log = Log::filled().await;
    let heads = heads(&log);
    let some: Vec<_> = heads.iter().copied().step_by(heads.len() / 6).collect();
    assert!(some.len() > 4, "{heads:?}");
    assert_grown(&log, &some);
    let whole = heads.last().unwrap();
    let new = grow(&log.directory(), &Tree::default(), whole).unwrap();
    assert_eq!((new.proof.len(), new.tree.root()), (0, whole.root));
    let back = grow(&log.directory(), &new.tree, &heads[0]);
    assert!(matches!(back, Err(GrowthError::Shrinks { .. })));
    let beyond = tree_at(&log.directory(), whole.size + 1);
    assert!(matches!(beyond, Err(GrowthError::Missing { .. })));
}

#[tokio::test]
async fn growth_is_shown_from_behind_what_was_deleted_and_not_from_before() {
    let log = shortened().await;
    let heads = heads(&log);
    let gone = crate::read::layout(&log.directory()).unwrap().tombstones;
    let first = gone.last().unwrap().end.records;
    let (before, behind): (Vec<_>, Vec<_>) = heads.iter().partition(|head| head.size < first);
    assert!(!before.is_empty() && behind.len() > 1);
    assert_grown(&log, &behind);
    for head in before {
        let lost = tree_at(&log.directory(), head.size);
        assert!(matches!(lost, Err(GrowthError::Missing { .. })));
    }
}

#[tokio::test]
async fn an_edited_record_is_not_shown_to_be_what_was_signed() {
    let log = Log::new();
    let (journal, _) = log.open();
    log.grow(&journal, 0, 20).await;
    journal.close().await.unwrap();
    let head = *heads(&log).last().unwrap();
    let path = log.directory().join("000000000000.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("log.start", "log.stort", 1)).unwrap();
    let grown = grow(&log.directory(), &Tree::default(), &head);
    assert!(matches!(grown, Err(GrowthError::Altered { .. })));
}
