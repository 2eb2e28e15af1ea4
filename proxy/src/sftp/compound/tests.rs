#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the operations that it answers"
)]

use std::sync::Arc;

use portcullis_journal::OperationId;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    operation::{Check, DigestAlgorithm},
    policy::{Named, authorize},
    testing,
};

fn open_file(name: &str, id: u64, access: Access) -> Arc<OpenHandle> {
    let open = Operation::Open {
        path: VirtualPath::clean(name.as_bytes()).unwrap(),
        handle: HandleId(id),
        access,
        attributes: Attributes::default(),
    };
    let permit = authorize(
        &Arc::new(testing::requester()),
        &[testing::everything("/", "memory")],
        OperationId(1),
        open,
        Named::default(),
    )
    .unwrap();
    Arc::new(permit.opens().unwrap())
}

fn source() -> Arc<OpenHandle> {
    let access = Access {
        read: true,
        ..Access::default()
    };
    open_file("/source", 1, access)
}

fn target() -> Arc<OpenHandle> {
    let access = Access {
        write: true,
        create: true,
        truncate: true,
        ..Access::default()
    };
    open_file("/target", 2, access)
}

fn find(id: HandleId) -> Option<Arc<OpenHandle>> {
    match id.0 {
        1 => Some(source()),
        2 => Some(target()),
        _ => None,
    }
}

fn check(offset: u64, length: Option<u64>, block_size: Option<u32>) -> Check {
    Check {
        algorithm: DigestAlgorithm::Sha256,
        offset,
        length,
        block_size,
    }
}

fn check_file(check: Check) -> Compound<()> {
    let operation = Operation::CheckFile {
        handle: HandleId(1),
        check,
    };
    Compound::of(&operation, find).unwrap()
}

/// A file that answers READs in any order, and never with more than `most` bytes.
struct World<'a> {
    content: &'a [u8],
    most: usize,
    order: Vec<prop::sample::Index>,
    written: Vec<u8>,
    recalled: Option<OnRecord>,
    most_under_way: usize,
}

impl<'a> World<'a> {
    fn new(content: &'a [u8]) -> Self {
        Self {
            content,
            most: usize::MAX,
            order: Vec::new(),
            written: Vec::new(),
            recalled: None,
            most_under_way: 0,
        }
    }

    fn run(&mut self, mut work: Compound<()>) -> Result<Outcome, BackendError> {
        let mut under_way: Vec<(Part, Operation)> = Vec::new();
        let mut turns = self.order.clone().into_iter().cycle();
        loop {
            match work.step() {
                Step::Recall(_) => work.recalled(self.recalled),
                Step::Finish(result) => {
                    assert!(under_way.is_empty(), "finished with parts under way");
                    return result;
                }
                Step::Run(part, operation, _) => {
                    under_way.push((part, operation));
                    self.most_under_way = self.most_under_way.max(under_way.len());
                }
                Step::Wait => {
                    assert!(!under_way.is_empty(), "waits for nothing");
                    let at = turns.next().map_or(0, |turn| turn.index(under_way.len()));
                    let (part, operation) = under_way.remove(at);
                    let (result, opened) = self.answer(&operation);
                    work.ended(part, result, opened, Some(()));
                }
            }
        }
    }

    fn answer(
        &mut self,
        operation: &Operation,
    ) -> (Result<Outcome, BackendError>, Option<Arc<OpenHandle>>) {
        match operation {
            Operation::Open { .. } => (Ok(Outcome::Opened), Some(source())),
            Operation::Read { offset, length, .. } => {
                let from = (*offset as usize).min(self.content.len());
                let most = (*length as usize).min(self.most);
                let to = (from + most).min(self.content.len());
                let data = Bytes::copy_from_slice(&self.content[from..to]);
                let outcome = if data.is_empty() {
                    Outcome::End
                } else {
                    Outcome::Data(data)
                };
                (Ok(outcome), None)
            }
            Operation::Write { offset, data, .. } => {
                let at = *offset as usize;
                if self.written.len() < at + data.len() {
                    self.written.resize(at + data.len(), 0);
                }
                self.written[at..at + data.len()].copy_from_slice(data);
                (Ok(Outcome::Done), None)
            }
            _ => (Ok(Outcome::Done), None),
        }
    }
}

fn digests(result: Result<Outcome, BackendError>) -> Bytes {
    match result.unwrap() {
        Outcome::Digests { digests, .. } => digests,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_digests_are_those_of_the_blocks_however_the_reads_come_back(
        length in 0_usize..1_500_000,
        offset in 0_u64..400_000,
        wanted in prop_oneof![Just(None), (1_u64..1_600_000).prop_map(Some)],
        block_size in prop_oneof![Just(None), (4096_u32..300_000).prop_map(Some)],
        most in 50_000_usize..400_000,
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let content: Vec<u8> = (0..length).map(|byte| (byte / 7) as u8).collect();
        let mut world = World { most, order, ..World::new(&content) };
        let found = digests(world.run(check_file(check(offset, wanted, block_size))));
        let from = (offset as usize).min(length);
        let to = wanted.map_or(length, |wanted| (from + wanted as usize).min(length));
        let range = &content[from..to];
        let expected: Vec<u8> = match block_size {
            None => Sha256::digest(range).to_vec(),
            Some(size) => range.chunks(size as usize).flat_map(Sha256::digest).collect(),
        };
        prop_assert!(found == expected);
        prop_assert!(world.most_under_way <= WINDOW);
    }

    #[test]
    fn a_copy_has_the_bytes_of_its_range_however_the_reads_come_back(
        length in 0_usize..1_500_000,
        offset in 0_u64..400_000,
        target_offset in 0_u64..1000,
        most in 50_000_usize..400_000,
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let content: Vec<u8> = (0..length).map(|byte| (byte / 5) as u8).collect();
        let mut world = World { most, order, ..World::new(&content) };
        let result = world.run(copy(offset, None, target_offset));
        prop_assert_eq!(result.unwrap(), Outcome::Done);
        let range = &content[(offset as usize).min(length)..];
        if !range.is_empty() {
            prop_assert!(world.written[target_offset as usize..] == *range);
        }
    }
}

fn copy(offset: u64, length: Option<u64>, target_offset: u64) -> Compound<()> {
    let operation = Operation::CopyData {
        source: HandleId(1),
        offset,
        length,
        target: HandleId(2),
        target_offset,
    };
    Compound::of(&operation, find).unwrap()
}

#[test]
fn a_copy_that_wants_more_than_there_is_says_so_and_one_that_wants_as_much_does_not() {
    let mut world = World::new(b"0123456789");
    assert_eq!(world.run(copy(2, Some(8), 0)).unwrap(), Outcome::Done);
    assert_eq!(world.written, b"23456789");
    let mut world = World::new(b"0123456789");
    assert_eq!(world.run(copy(2, Some(9), 0)).unwrap(), Outcome::End);
    assert_eq!(world.written, b"23456789");
}

#[test]
fn blocks_that_a_reply_has_room_for_are_hashed_and_one_more_is_refused() {
    let content = vec![7; 256 * 4097];
    let at_most = check(0, Some(256 * 4096), Some(256));
    let found = digests(World::new(&content).run(check_file(at_most)));
    assert_eq!(found.len(), 128 * 1024);
    let known_before = check(0, Some(256 * 4096 + 1), Some(256));
    let mut world = World::new(&content);
    world.run(check_file(known_before)).unwrap_err();
    assert_eq!(world.most_under_way, 0, "nothing is read for it");
    let found_out = check(0, None, Some(256));
    let error = World::new(&content).run(check_file(found_out)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failure);
}

#[test]
fn the_journal_answers_for_the_whole_file_with_its_sha256_and_for_nothing_else() {
    let content = [9; 1000];
    let read = Sha256::digest(content);
    let known = OnRecord {
        sha256: [1; 32],
        size: 1000,
        record: 17,
    };
    let sha256 = DigestAlgorithm::Sha256;
    for (offset, length, block_size, algorithm, is_told) in [
        (0, None, None, sha256, true),
        (0, Some(1000), None, sha256, true),
        (0, Some(2000), Some(1000), sha256, true),
        (0, None, Some(4096), sha256, true),
        (0, None, Some(999), sha256, false),
        (0, Some(999), None, sha256, false),
        (1, None, None, sha256, false),
        (0, None, None, DigestAlgorithm::Sha512, false),
    ] {
        let check = Check {
            algorithm,
            offset,
            length,
            block_size,
        };
        let mut world = World {
            recalled: Some(known),
            ..World::new(&content)
        };
        let found = digests(world.run(check_file(check)));
        assert_eq!(found[..] == known.sha256, is_told, "{check:?}");
        assert_eq!(world.most_under_way == 0, is_told, "{check:?}");
    }
    let check = check(0, None, None);
    let unknown = digests(World::new(&content).run(check_file(check)));
    assert_eq!(unknown[..], read[..]);
    // A block of nothing is none, however much is known of it.
    let nothing = OnRecord { size: 0, ..known };
    let mut world = World {
        recalled: Some(nothing),
        ..World::new(&[])
    };
    let check = Check {
        block_size: Some(256),
        ..check
    };
    assert!(digests(world.run(check_file(check))).is_empty());
}

#[test]
fn a_file_that_is_checked_by_name_is_closed_whether_or_not_it_could_be_read() {
    let operation = Operation::CheckFileName {
        path: VirtualPath::clean(b"/source").unwrap(),
        handle: HandleId(1),
        check: check(0, None, None),
    };
    for failure in [false, true] {
        let mut work: Compound<()> = Compound::of(&operation, |_| None).unwrap();
        assert!(work.is_unopened());
        let mut parts = Vec::new();
        let result = loop {
            match work.step() {
                Step::Finish(result) => break result,
                Step::Recall(_) => work.recalled(None),
                Step::Wait => panic!("every part has ended"),
                Step::Run(part, operation, _) => {
                    parts.push(operation.name());
                    let (result, opened) = World::new(b"abc").answer(&operation);
                    let result = match part {
                        Part::Read { .. } if failure => Err(BackendError::new(
                            ErrorKind::Unavailable,
                            Origin::Backend,
                            "gone",
                        )),
                        Part::Open | Part::Read { .. } | Part::Write | Part::Close => result,
                    };
                    work.ended(part, result, opened, None);
                }
            }
        };
        assert_eq!(result.is_err(), failure);
        assert_eq!(parts.first(), Some(&"open"));
        assert_eq!(parts.last(), Some(&"close"));
        assert_eq!(parts.iter().filter(|&&part| part == "close").count(), 1);
    }
}
