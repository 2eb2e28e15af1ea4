//! Generations in the kernel: what fails changes nothing, what differs is repaired, what is not confirmed goes back.

use std::{
    io,
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use agent_ebpf::table::v4;
use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use portcullis_agent::{
    datapath::{
        Datapath as _, DatapathError, Edit, Settings,
        kernel::{Kernel, Linux, Mapping, NewMap},
        mode::TableChoice,
    },
    rule::{Action, Rule},
};
use portcullis_tests::frames::Frame;
use rustix::io::Errno;

use crate::{flows::rule, loaded::Loaded};

/// The kernel, but for the calls that are made to fail.
#[derive(Default)]
struct Faulty {
    calls: AtomicUsize,
    /// Calls from this one on fail; 0 for none.
    first: AtomicUsize,
    /// How many fail.
    count: AtomicUsize,
    /// As which error.
    error: AtomicI32,
}

impl Faulty {
    fn fail(&self, first: usize, count: usize, error: Errno) {
        self.calls.store(0, Ordering::SeqCst);
        self.error.store(error.raw_os_error(), Ordering::SeqCst);
        self.count.store(count, Ordering::SeqCst);
        self.first.store(first, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<Linux> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let first = self.first.load(Ordering::SeqCst);
        if first != 0 && call >= first && call - first < self.count.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(
                self.error.load(Ordering::SeqCst),
            ));
        }
        Ok(Linux)
    }
}

impl Kernel for Faulty {
    fn create(&self, map: NewMap) -> io::Result<OwnedFd> {
        self.check()?.create(map)
    }

    fn map(&self, array: BorrowedFd<'_>, bytes: usize) -> io::Result<Mapping> {
        self.check()?.map(array, bytes)
    }

    fn update(&self, map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check()?.update(map, key, value)
    }

    fn delete(&self, map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
        self.check()?.delete(map, key)
    }

    fn inner(&self, outer: BorrowedFd<'_>, slot: u32) -> io::Result<u32> {
        self.check()?.inner(outer, slot)
    }

    fn open(&self, identifier: u32) -> io::Result<OwnedFd> {
        self.check()?.open(identifier)
    }

    fn next_key(
        &self,
        map: BorrowedFd<'_>,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> io::Result<bool> {
        self.check()?.next_key(map, key, next)
    }
}

/// Of each pair, the one that the first list has and the one that the second has.
const FIRST: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
const SECOND: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];

fn allow(sources: &[&str]) -> Arc<[Rule]> {
    sources
        .iter()
        .map(|source| rule(source, Action::Allow(None)))
        .collect()
}

/// Which of these sources pass.
fn passing(loaded: &mut Loaded, sources: &[&str]) -> Vec<bool> {
    sources
        .iter()
        .map(|source| {
            let source: IpAddr = source.parse().unwrap();
            let frame = Frame::tcp(source, 22).bytes();
            let probe = loaded.datapath.probe(&frame, None).unwrap();
            assert_eq!(probe.generation, loaded.datapath.generation());
            probe.verdict.name() == "allowed"
        })
        .collect()
}

fn all() -> Vec<&'static str> {
    [FIRST, SECOND].concat()
}

#[test]
fn a_switch_that_fails_at_any_call_changes_nothing_and_works_afterwards() {
    for table in [TableChoice::Compiled, TableChoice::Lpm] {
        let kernel = Arc::new(Faulty::default());
        let mut loaded = Loaded::through(kernel.clone(), &[], table).unwrap();
        let settings = Settings::default();
        loaded.datapath.switch(allow(&FIRST), &settings).unwrap();
        let mut refused = 0;
        for error in [Errno::NOSPC, Errno::NOMEM] {
            for call in 1.. {
                let before = loaded.datapath.generation();
                // The freeing of what was replaced comes last, and is retried by `tend`.
                kernel.fail(call, usize::MAX, error);
                let result = loaded.datapath.switch(allow(&SECOND), &settings);
                kernel.fail(0, 0, Errno::INTR);
                loaded.datapath.tend();
                if result.is_ok() {
                    let now = passing(&mut loaded, &all());
                    assert_eq!(now, [false, false, true, true], "{error}, call {call}");
                    loaded.datapath.switch(allow(&FIRST), &settings).unwrap();
                    break;
                }
                refused += 1;
                assert_eq!(loaded.datapath.generation(), before);
                let now = passing(&mut loaded, &all());
                assert_eq!(now, [true, true, false, false], "{error}, call {call}");
            }
        }
        // Of either family: make, map, put into the slot; a trie also takes its entry.
        assert!(refused >= 2 * 4, "{refused}");
    }
}

#[test]
fn calls_that_would_work_a_moment_later_are_made_again() {
    let kernel = Arc::new(Faulty::default());
    let mut loaded = Loaded::through(kernel.clone(), &[], TableChoice::Compiled).unwrap();
    let settings = Settings::default();
    loaded.datapath.switch(allow(&FIRST), &settings).unwrap();
    for error in [Errno::INTR, Errno::AGAIN, Errno::BUSY, Errno::NOMEM] {
        for call in 1..10 {
            kernel.fail(call, 3, error);
            loaded.datapath.switch(allow(&SECOND), &settings).unwrap();
            loaded.datapath.switch(allow(&FIRST), &settings).unwrap();
        }
    }
}

#[test]
fn an_edit_that_fails_changes_nothing() {
    for table in [TableChoice::Compiled, TableChoice::Lpm] {
        let kernel = Arc::new(Faulty::default());
        let mut loaded = Loaded::through(kernel.clone(), &[], table).unwrap();
        loaded
            .datapath
            .switch(allow(&FIRST), &Settings::default())
            .unwrap();
        let before = loaded.datapath.generation();
        // Too wide to be made in place, so that tables must be built; and with an edit before it that is made in place.
        let edits = [
            Edit::Add(rule(SECOND[0], Action::Allow(None))),
            Edit::Add(Rule {
                prefix: "0.0.0.0/0".parse().unwrap(),
                action: Action::Allow(None),
            }),
        ];
        for call in 1..3 {
            kernel.fail(call, usize::MAX, Errno::NOSPC);
            assert!(loaded.datapath.edit(&edits).is_err(), "call {call}");
            kernel.fail(0, 0, Errno::INTR);
            assert_eq!(loaded.datapath.generation(), before);
            assert_eq!(
                passing(&mut loaded, &all()),
                [true, true, false, false],
                "call {call}"
            );
        }
        // One that is not there is refused with the one before it.
        let edits = [
            Edit::Add(rule(SECOND[0], Action::Allow(None))),
            Edit::Remove(rule(SECOND[1], Action::Ban)),
        ];
        assert!(matches!(
            loaded.datapath.edit(&edits),
            Err(DatapathError::Rules(_))
        ));
        assert_eq!(passing(&mut loaded, &all()), [true, true, false, false]);
        assert!(!loaded.datapath.verify().unwrap().drifted);
        loaded.datapath.edit(&edits[..1]).unwrap();
        assert_eq!(passing(&mut loaded, &all()), [true, true, true, false]);
        assert!(loaded.datapath.generation() > before);
    }
}

#[test]
fn a_single_edit_that_fails_at_any_call_changes_nothing_and_works_afterwards() {
    let everybody = Rule {
        prefix: "0.0.0.0/0".parse().unwrap(),
        action: Action::Allow(None),
    };
    let edits = [
        (
            Edit::Add(rule(SECOND[0], Action::Allow(None))),
            [true, true, true, false],
        ),
        (
            Edit::Add(rule(SECOND[1], Action::Allow(None))),
            [true, true, false, true],
        ),
        (
            Edit::Add(rule(FIRST[0], Action::Ban)),
            [false, true, false, false],
        ),
        (
            Edit::Remove(rule(FIRST[1], Action::Allow(None))),
            [true, false, false, false],
        ),
        // Not made in place.
        (Edit::Add(everybody), [true, true, true, false]),
    ];
    for table in [TableChoice::Compiled, TableChoice::Lpm] {
        let kernel = Arc::new(Faulty::default());
        let mut loaded = Loaded::through(kernel.clone(), &[], table).unwrap();
        let mut refused = [0; 5];
        for error in [Errno::NOMEM, Errno::NOSPC] {
            for (at, (edit, expected)) in edits.iter().enumerate() {
                let edit = std::slice::from_ref(edit);
                let settings = Settings::default();
                let before = loaded.datapath.switch(allow(&FIRST), &settings).unwrap();
                for call in 1.. {
                    kernel.fail(call, usize::MAX, error);
                    let result = loaded.datapath.edit(edit);
                    kernel.fail(0, 0, Errno::INTR);
                    if result.is_ok() {
                        break;
                    }
                    refused[at] += 1;
                    assert_eq!(loaded.datapath.generation(), before);
                    assert_eq!(
                        passing(&mut loaded, &all()),
                        [true, true, false, false],
                        "{edit:?}, {error}, call {call}"
                    );
                    assert!(!loaded.datapath.verify().unwrap().drifted);
                }
                assert!(loaded.datapath.generation() > before);
                assert_eq!(passing(&mut loaded, &all()), expected, "{edit:?}, {error}");
                assert!(!loaded.datapath.verify().unwrap().drifted);
            }
        }
        println!("{table:?}: refused {refused:?} times");
        // Of one family at least: make, map, put into the slot.
        assert!(refused[4] >= 2 * 3, "{table:?}: {refused:?}");
    }
}

#[test]
fn a_change_of_the_tables_by_someone_else_is_found_and_repaired() {
    let mut loaded = Loaded::new(TableChoice::Compiled).unwrap();
    loaded
        .datapath
        .switch(allow(&FIRST), &Settings::default())
        .unwrap();
    let clean = loaded.datapath.verify().unwrap();
    assert!(!clean.drifted);
    assert_eq!(loaded.datapath.verify().unwrap(), clean);

    // Whatever slot it is in: the root of 203.0.0.0/16 says that all of it is allowed.
    let outer = MapData::from_pin(loaded.pin("TABLE4_0")).unwrap();
    let outer: ArrayOfMaps<MapData, Array<MapData, [u64; v4::WORDS]>> =
        Map::ArrayOfMaps(outer).try_into().unwrap();
    let mut changed = 0;
    for slot in 0..outer.len() {
        let Ok(mut inner) = outer.get(&slot, 0) else {
            continue;
        };
        let index = 203_u32 << 8;
        let mut cell = inner.get(&(index / 8), 0).unwrap();
        cell[index as usize / 2 % 4] = 1;
        inner.set(index / 8, cell, 0).unwrap();
        changed += 1;
    }
    assert_eq!(changed, 1, "one table is in its slot");
    assert!(passing(&mut loaded, &SECOND)[0], "the change holds");

    let before = loaded.datapath.generation();
    let found = loaded.datapath.verify().unwrap();
    assert!(found.drifted);
    assert_eq!(found.drifts_total, 1);
    assert_eq!(passing(&mut loaded, &all()), [true, true, false, false]);
    assert!(loaded.datapath.generation() > before);
    assert!(!loaded.datapath.verify().unwrap().drifted);

    // After edits there is no image to compare with: then it is asked for each prefix.
    loaded
        .datapath
        .edit(&[Edit::Add(rule(SECOND[1], Action::Allow(None)))])
        .unwrap();
    assert!(!loaded.datapath.verify().unwrap().drifted);
}

#[test]
fn what_is_not_confirmed_goes_back_by_itself_and_bans_go_with_it() {
    let mut loaded = Loaded::new(TableChoice::Compiled).unwrap();
    let settings = Settings::default();
    loaded.datapath.switch(allow(&all()), &settings).unwrap();
    let second = Duration::from_secs(1);
    let confirmed = loaded
        .datapath
        .switch_confirmed(allow(&SECOND), &settings, second)
        .unwrap();
    assert!(matches!(
        loaded
            .datapath
            .switch_confirmed(allow(&FIRST), &settings, second),
        Err(DatapathError::AlreadyArmed)
    ));
    let ban = Edit::Add(rule(FIRST[0], Action::Ban));
    let addition = Edit::Add(rule("203.0.113.3", Action::Allow(None)));
    loaded.datapath.edit(&[ban, addition]).unwrap();
    let sources = [&all()[..], &["203.0.113.3"]].concat();
    assert_eq!(
        passing(&mut loaded, &sources),
        [false, false, true, true, true]
    );
    thread::sleep(second + Duration::from_millis(100));
    // Nothing was called since: the program has gone back, but for the ban.
    assert!(loaded.datapath.generation() < confirmed);
    let reverted = [false, true, true, true, false];
    assert_eq!(passing(&mut loaded, &sources), reverted);
    assert!(matches!(
        loaded.datapath.confirm(),
        Err(DatapathError::TooLate)
    ));
    let number = loaded.datapath.revert().unwrap();
    assert!(number > confirmed);
    assert_eq!(loaded.datapath.generation(), number);
    assert_eq!(passing(&mut loaded, &sources), reverted);
    assert!(matches!(
        loaded.datapath.revert(),
        Err(DatapathError::NotArmed)
    ));
}

#[test]
fn what_is_confirmed_stays() {
    let mut loaded = Loaded::new(TableChoice::Compiled).unwrap();
    let settings = Settings::default();
    loaded.datapath.switch(allow(&FIRST), &settings).unwrap();
    let window = Duration::from_millis(500);
    loaded
        .datapath
        .switch_confirmed(allow(&SECOND), &settings, window)
        .unwrap();
    loaded.datapath.confirm().unwrap();
    thread::sleep(window + Duration::from_millis(100));
    assert_eq!(passing(&mut loaded, &all()), [false, false, true, true]);
    assert!(matches!(
        loaded.datapath.confirm(),
        Err(DatapathError::NotArmed)
    ));
}

#[test]
fn a_made_up_packet_counts_nothing_and_reports_nothing() {
    let mut loaded = Loaded::new(TableChoice::Compiled).unwrap();
    loaded
        .datapath
        .switch(allow(&FIRST), &Settings::default())
        .unwrap();
    loaded.datapath.open_event_window().unwrap();
    loaded.datapath.observe(Some(1)).unwrap();
    let before = loaded.datapath.counters().unwrap();
    assert_eq!(passing(&mut loaded, &all()), [true, true, false, false]);
    assert_eq!(loaded.datapath.counters().unwrap(), before);
    assert!(loaded.datapath.events(10).is_empty());
}
