use std::{fs, path::Path};

use chrono::{DateTime, Utc};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

use super::*;
use crate::{
    entry::Entry,
    lists::{ListName, Lists, tests::some_lists},
};

const OPTIONS: Options = Options {
    segment_bytes: 1 << 20,
    history: HistoryLimits {
        keep: 100,
        max_bytes: 1 << 30,
    },
};

/// Segments so short that every record begins one.
const SHORT: Options = Options {
    segment_bytes: 1,
    ..OPTIONS
};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn ban(source: &str) -> Ban {
    Ban {
        source: source.parse().unwrap(),
        expires: now(),
        reason: "test".to_owned(),
        by: "root".to_owned(),
    }
}

fn revision(number: u64, delta: &Delta) -> Revision {
    Revision {
        revision: number,
        time: now(),
        by: Some("root".to_owned()),
        action: "add".to_owned(),
        reason: None,
        ticket: None,
        counts: delta.counts(),
        entries: 0,
        digest: String::new(),
        confirm_by: None,
    }
}

/// Keeps what makes the content's lists into `wanted`.
fn keep(store: &mut Store, content: &mut Content, wanted: &Lists) {
    let delta = content.lists.delta_to(wanted);
    let number = content.number() + 1;
    let (revision, _) = store.keep_lists(revision(number, &delta), &delta).unwrap();
    content.apply(&Record::Lists(revision), Some(&delta));
}

fn lists(prefixes: &[&str]) -> Lists {
    let entries = prefixes
        .iter()
        .map(|prefix| Entry::allow(prefix.parse().unwrap()));
    [(ListName::manual(), entries.collect())]
        .into_iter()
        .collect()
}

#[derive(Debug, Clone)]
enum Act {
    Lists(Lists),
    Ban(u8),
    Unban(u8),
    Shift(i64),
}

fn some_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => some_lists().prop_map(Act::Lists),
        3 => (0_u8..4).prop_map(Act::Ban),
        2 => (0_u8..4).prop_map(Act::Unban),
        1 => (-9_i64..9).prop_map(Act::Shift),
    ]
}

fn act(store: &mut Store, content: &mut Content, act: &Act) {
    match act {
        Act::Lists(wanted) => keep(store, content, wanted),
        Act::Ban(host) => {
            let ban = ban(&format!("198.51.100.{host}/32"));
            let _ = store.keep_ban(&ban).unwrap();
            content.apply(&Record::Banned { ban }, None);
        }
        Act::Unban(host) => {
            let sources = vec![format!("198.51.100.{host}/32").parse().unwrap()];
            let _ = store.keep_unban(sources.clone()).unwrap();
            content.apply(&Record::Unbanned { sources }, None);
        }
        Act::Shift(seconds) => {
            let seconds = *seconds;
            let _ = store.keep_clock_shift(seconds).unwrap();
            content.apply(&Record::ClockShifted { seconds }, None);
        }
    }
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A crash leaves any number of bytes of what was being written.
    #[test]
    fn a_log_cut_at_any_byte_opens_as_what_was_acknowledged_up_to_there(
        acts in vec(some_act(), 1..8),
        short in any::<bool>(),
        cuts in vec(any::<prop::sample::Index>(), 12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let options = if short { SHORT } else { OPTIONS };
        let (mut store, mut content) = Store::open(directory.path(), options).unwrap();
        // The content after each acknowledged change, and how long the last segment was then.
        let mut acknowledged = vec![content.clone()];
        for one in &acts {
            act(&mut store, &mut content, one);
            acknowledged.push(content.clone());
        }
        drop(store);
        let (store, whole) = Store::open(directory.path(), options).unwrap();
        prop_assert_eq!(&whole, acknowledged.last().unwrap());
        drop(store);

        let last = *segment::list(directory.path()).unwrap().last().unwrap();
        let length = fs::metadata(segment::path(directory.path(), last)).unwrap().len();
        for cut in cuts {
            let at = cut.index(usize::try_from(length).unwrap() + 1) as u64;
            let crashed = copy(directory.path());
            let file = fs::OpenOptions::new()
                .write(true)
                .open(segment::path(crashed.path(), last))
                .unwrap();
            file.set_len(at).unwrap();
            let (mut store, mut content) = Store::open(crashed.path(), options).unwrap();
            prop_assert!(acknowledged.contains(&content), "cut at {} of {}", at, length);
            // It goes on from there, and what is kept then is there after the next start.
            act(&mut store, &mut content, &Act::Ban(9));
            drop(store);
            let (_, again) = Store::open(crashed.path(), options).unwrap();
            prop_assert_eq!(again, content);
        }
    }

    #[test]
    fn any_two_revisions_differ_by_what_lies_between_them(states in vec(some_lists(), 1..8), short in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let options = if short { SHORT } else { OPTIONS };
        let (mut store, mut content) = Store::open(directory.path(), options).unwrap();
        for state in &states {
            keep(&mut store, &mut content, state);
        }
        drop(store);
        let (store, _) = Store::open(directory.path(), options).unwrap();
        let all: Vec<Lists> = std::iter::once(Lists::default()).chain(states).collect();
        for (from, old) in all.iter().enumerate() {
            for (to, new) in all.iter().enumerate() {
                let mut lists = old.clone();
                lists.apply(&store.delta(from as u64, to as u64).unwrap());
                prop_assert_eq!(&lists, new, "{} to {}", from, to);
            }
        }
    }
}

#[test]
fn a_record_that_is_damaged_before_the_end_is_an_error_and_not_a_shorter_list() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut content) = Store::open(directory.path(), OPTIONS).unwrap();
    keep(&mut store, &mut content, &lists(&["203.0.113.0/24"]));
    let first = store.segment.length();
    keep(
        &mut store,
        &mut content,
        &lists(&["203.0.113.0/24", "192.0.2.0/24"]),
    );
    drop(store);
    let path = segment::path(directory.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from(first).unwrap() - 1;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(
        Store::open(directory.path(), OPTIONS),
        Err(StateError::Malformed { .. })
    ));
}

#[test]
fn a_snapshot_that_is_not_whole_is_an_error_and_not_a_shorter_list() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut content) = Store::open(directory.path(), SHORT).unwrap();
    keep(&mut store, &mut content, &lists(&["203.0.113.0/24"]));
    keep(
        &mut store,
        &mut content,
        &lists(&["203.0.113.0/24", "192.0.2.0/24"]),
    );
    drop(store);
    let number = *snapshot::list(directory.path()).unwrap().last().unwrap();
    let path = snapshot::path(directory.path(), number);
    let text = fs::read_to_string(&path).unwrap();
    for damaged in [
        text.replace("203.0.113.0/24", "203.0.113.0/25"),
        text.lines()
            .take(2)
            .map(|line| format!("{line}\n"))
            .collect(),
        text.replace("\"format\":1", "\"format\":2"),
        String::new(),
    ] {
        fs::write(&path, damaged).unwrap();
        assert!(matches!(
            Store::open(directory.path(), SHORT),
            Err(StateError::Malformed { .. })
        ));
    }
}

#[test]
fn what_is_undone_never_was() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut content) = Store::open(directory.path(), OPTIONS).unwrap();
    keep(&mut store, &mut content, &lists(&["203.0.113.0/24"]));
    let kept = store.keep_ban(&ban("198.51.100.7/32")).unwrap();
    store.undo(kept).unwrap();
    let delta = content.lists.delta_to(&lists(&["192.0.2.0/24"]));
    let (_, kept) = store.keep_lists(revision(2, &delta), &delta).unwrap();
    store.undo(kept).unwrap();
    keep(&mut store, &mut content, &lists(&["198.51.100.0/24"]));
    assert_eq!(store.history().count(), 2);
    drop(store);
    let (store, again) = Store::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(again, content);
    assert_eq!(store.history().count(), 2);
}

#[test]
fn a_change_that_can_not_be_written_leaves_the_log_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut content) = Store::open(directory.path(), SHORT).unwrap();
    keep(&mut store, &mut content, &lists(&["203.0.113.0/24"]));
    // A directory in the next segment's place: even root can't write it.
    let place = segment::path(directory.path(), 2);
    fs::create_dir(&place).unwrap();
    assert!(matches!(
        store.keep_ban(&ban("198.51.100.7/32")),
        Err(StateError::Write { .. })
    ));
    fs::remove_dir(&place).unwrap();
    act(&mut store, &mut content, &Act::Ban(7));
    drop(store);
    assert_eq!(Store::open(directory.path(), SHORT).unwrap().1, content);
}

#[test]
fn old_revisions_are_forgotten_and_the_lists_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        history: HistoryLimits {
            keep: 3,
            max_bytes: 1 << 30,
        },
        ..SHORT
    };
    let (mut store, mut content) = Store::open(directory.path(), options).unwrap();
    for host in 0..12 {
        keep(
            &mut store,
            &mut content,
            &lists(&[&format!("203.0.113.{host}/32")]),
        );
    }
    drop(store);
    let (mut store, again) = Store::open(directory.path(), options).unwrap();
    assert_eq!(again, content);
    let kept: Vec<u64> = store
        .history()
        .map(|entry| entry.revision.revision)
        .collect();
    assert_eq!(kept, [10, 11, 12]);
    assert!(store.delta(9, 12).is_ok());
    for revision in [8, 13] {
        assert!(matches!(
            store.delta(revision, 12),
            Err(StateError::NoSuchRevision { first: 9, .. })
        ));
    }
    keep(&mut store, &mut content, &lists(&["192.0.2.0/24"]));
    drop(store);
    let store = Store::open(directory.path(), options).unwrap().0;
    assert!(segment::list(directory.path()).unwrap().len() <= 6);
    assert!(snapshot::list(directory.path()).unwrap().len() <= 2);
    drop(store);
}

#[test]
fn the_files_of_the_earlier_version_are_taken_over_once() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("allowlist.txt"),
        "203.0.113.0/24 # lab\n0.0.0.0/0\n",
    )
    .unwrap();
    let bans = vec![ban("198.51.100.7/32")];
    fs::write(
        directory.path().join("bans.json"),
        serde_json::to_vec(&bans).unwrap(),
    )
    .unwrap();
    let (store, content) = Store::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(content.lists.len(), 2);
    assert_eq!(content.bans.into_values().collect::<Vec<_>>(), bans);
    drop(store);
    fs::write(directory.path().join("allowlist.txt"), "nonsense").unwrap();
    let (_, again) = Store::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(again.lists, content.lists);
}

#[test]
fn damaged_files_of_the_earlier_version_are_not_taken_for_empty_ones() {
    for (name, text) in [
        ("allowlist.txt", "203.0.113.0/24\n203.0."),
        ("bans.json", "["),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), text).unwrap();
        assert!(matches!(
            Store::open(directory.path(), OPTIONS),
            Err(StateError::Malformed { .. })
        ));
        assert!(directory.path().join(name).exists());
    }
}
