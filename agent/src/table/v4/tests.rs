use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::table::{
    NeedsRebuild, Readers,
    testing::{Random, Until, memory},
};

type Shared = Arc<Box<[AtomicU64]>>;

fn classed(address: u32, length: u8, class: Class) -> Classed4 {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    Classed4 {
        address: address & mask,
        length,
        class,
    }
}

fn table(prefixes: &[Classed4]) -> Table4<Shared> {
    let mut prefixes = prefixes.to_vec();
    prefixes.sort_unstable();
    prefixes.dedup_by_key(|prefix| (prefix.address, prefix.length));
    let plan = plan(&prefixes).unwrap();
    let words = layout::cells_of(plan.size()) as usize * layout::WORDS;
    plan.build(Arc::new(memory(words)))
}

/// The class of the last of these that covers the address.
fn last_painted<'a>(
    prefixes: impl DoubleEndedIterator<Item = &'a Classed4>,
    address: u32,
) -> Class {
    prefixes
        .rev()
        .find(|prefix| prefix.address <= address && address <= prefix.last())
        .map_or(Class::NOT_LISTED, |prefix| prefix.class)
}

fn by_length(prefixes: &[Classed4]) -> Vec<Classed4> {
    let mut sorted: BTreeMap<(u8, u32), Classed4> = BTreeMap::new();
    let mut all = prefixes.to_vec();
    all.sort_unstable();
    for prefix in all {
        sorted
            .entry((prefix.length, prefix.address))
            .or_insert(prefix);
    }
    sorted.into_values().collect()
}

/// Both ends of a prefix, and their neighbours outside.
fn edges(prefix: &Classed4) -> [u32; 4] {
    [
        prefix.address.wrapping_sub(1),
        prefix.address,
        prefix.last(),
        prefix.last().wrapping_add(1),
    ]
}

fn no_wait() {
    panic!("no grace period is needed");
}

fn any_class() -> impl Strategy<Value = Class> {
    prop_oneof![4 => Just(Class::ALLOWED), 3 => (2_u8..8).prop_map(Class), 1 => Just(Class(255))]
}

/// Prefixes that meet each other: the bits of their addresses are few.
fn any_prefix(lengths: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = Classed4> {
    (
        prop::sample::select(vec![0x0a00_0000_u32, 0x0aff_ff00, 0xffff_ff00, 0]),
        any::<[bool; 32]>(),
        lengths,
        any_class(),
    )
        .prop_map(|(base, bits, length, class)| {
            let noise = bits
                .iter()
                .enumerate()
                .filter(|(bit, is_set)| **is_set && [0, 1, 5, 8, 9, 13, 14, 16].contains(bit))
                .fold(0_u32, |noise, (bit, _)| noise | 1 << bit);
            classed(base ^ noise, length, class)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_address_has_the_class_of_the_longest_prefix(
        prefixes in prop::collection::vec(any_prefix(0..=32), 0..60),
        addresses in prop::collection::vec(any::<u32>(), 50),
    ) {
        let table = table(&prefixes);
        let oracle = by_length(&prefixes);
        for address in prefixes.iter().flat_map(edges).chain(addresses) {
            prop_assert_eq!(
                table.class_of(address),
                last_painted(oracle.iter(), address),
                "{:x}", address
            );
        }
    }

    #[test]
    fn edits_paint_over_what_was_there(
        prefixes in prop::collection::vec(any_prefix(0..=32), 0..30),
        edits in prop::collection::vec((any_prefix(16..=32), any::<bool>()), 1..40),
    ) {
        let mut table = table(&prefixes);
        let mut oracle = by_length(&prefixes);
        for (mut edit, clears) in edits {
            if clears {
                edit.class = Class::NOT_LISTED;
            }
            table.edit(&[edit], &mut no_wait).unwrap();
            oracle.push(edit);
        }
        for address in oracle.iter().flat_map(edges) {
            prop_assert_eq!(
                table.class_of(address),
                last_painted(oracle.iter(), address),
                "{:x}", address
            );
        }
        // Nothing is lost: what is in use is what the table leads to.
        prop_assert_eq!(table.space.used(), reachable(&table));
    }
}

/// Cells that the root leads to, with the root.
fn reachable(table: &Table4<Shared>) -> u32 {
    let words = table.words();
    let mut cells = layout::ROOT_CELLS;
    for top in 0..1 << 16 {
        let node = (words.load(top >> 3, top >> 1 & 3) >> (32 * (top & 1))) as u32;
        if node < layout::FIRST_INDEX {
            continue;
        }
        cells += layout::NODE_CELLS;
        for index in 0..layout::NODE_CELLS {
            let block = block::Block::load(&words, node + index);
            cells += block.partial.count_ones() + block::descriptor_cells(block.special);
            cells += (0..64)
                .filter(|bit| {
                    block.special >> bit & 1 != 0
                        && block.descriptor(&words, *bit).value >= layout::FIRST_INDEX
                })
                .count() as u32
                * layout::CLASS_LEAF_CELLS;
        }
    }
    cells
}

#[test]
fn what_lies_within_a_wider_prefix_of_its_class_can_be_cleared() {
    let wide = classed(0x0a00_0000, 17, Class::ALLOWED);
    let within = classed(0x0a00_2000, 25, Class::ALLOWED);
    let cleared = classed(0x0a00_2000, 24, Class::NOT_LISTED);
    let mut table = table(&[wide, within]);
    table.edit(&[cleared], &mut no_wait).unwrap();
    for address in [0x0a00_2000, 0x0a00_207f, 0x0a00_2080, 0x0a00_20ff] {
        assert_eq!(table.class_of(address), Class::NOT_LISTED, "{address:x}");
    }
    for address in [0x0a00_1fff, 0x0a00_2100] {
        assert_eq!(table.class_of(address), Class::ALLOWED, "{address:x}");
    }
}

#[test]
fn every_length_has_its_ends_and_not_their_neighbours() {
    for length in 0..=32 {
        for class in [Class::ALLOWED, Class::DENIED] {
            let prefix = classed(0xc612_3456, length, class);
            let table = table(&[prefix]);
            for address in edges(&prefix) {
                assert_eq!(
                    table.class_of(address),
                    last_painted([prefix].iter(), address),
                    "{address:x}, length {length}"
                );
            }
        }
    }
}

#[test]
fn an_empty_list_lists_nothing() {
    let table = table(&[]);
    assert_eq!(table.size(), 0);
    for address in [0, 1, 0x7f00_0001, u32::MAX] {
        assert_eq!(table.class_of(address), Class::NOT_LISTED);
    }
}

#[test]
fn a_prefix_shorter_than_a_root_entry_is_not_edited_in_place() {
    let mut table = table(&[]);
    let wide = classed(0x0a00_0000, 15, Class::ALLOWED);
    assert_eq!(
        table.edit(&[wide], &mut no_wait),
        Err(NeedsRebuild::TooWide)
    );
    assert_eq!(table.class_of(0x0a00_0001), Class::NOT_LISTED);
    let narrow = classed(0x0a00_0000, 16, Class::ALLOWED);
    assert_eq!(table.edit(&[narrow], &mut no_wait), Ok(()));
    assert_eq!(table.class_of(0x0a00_0001), Class::ALLOWED);
}

#[test]
fn cells_are_reused_after_a_grace_period_and_a_full_table_says_so() {
    let mut table = table(&[]);
    let mut waits = 0;
    let host = classed(0x0a00_0001, 32, Class::ALLOWED);
    for _ in 0..100_000 {
        table.edit(&[host], &mut || waits += 1).unwrap();
        let gone = Classed4 {
            class: Class::NOT_LISTED,
            ..host
        };
        table.edit(&[gone], &mut || waits += 1).unwrap();
    }
    // Each pair of edits retires five cells of some 20,000; half of them are awaited while the other half is used up.
    assert!((40..60).contains(&waits), "{waits}");

    let mut refused = None;
    for host in 0..1_u32 << 16 {
        let host = classed(host << 16 | 1, 32, Class::ALLOWED);
        if let Err(error) = table.edit(&[host], &mut || {}) {
            refused = Some((host, error));
            break;
        }
    }
    let (host, error) = refused.expect("there is not room for 65,536 nodes");
    assert_eq!(error, NeedsRebuild::Full);
    assert_eq!(table.class_of(host.address), Class::NOT_LISTED);
    assert_eq!(table.class_of(host.address - (1 << 16)), Class::ALLOWED);
}

/// Readers that are through when the test says so.
#[derive(Default)]
struct Told {
    begun: u32,
    waited: u32,
    through: bool,
}

impl Readers for Told {
    fn begin(&mut self) {
        self.begun += 1;
    }

    fn are_through(&mut self) -> bool {
        std::mem::take(&mut self.through)
    }

    fn wait(&mut self) {
        self.waited += 1;
    }
}

#[test]
fn readers_are_awaited_beside_edits_and_no_edit_stands_still_while_they_are_through_in_time() {
    let mut table = table(&[]);
    let mut readers = Told::default();
    let host = classed(0x0a00_0001, 32, Class::ALLOWED);
    let gone = Classed4 {
        class: Class::NOT_LISTED,
        ..host
    };
    for _ in 0..100_000 {
        table.edit(&[host], &mut readers).unwrap();
        table.edit(&[gone], &mut readers).unwrap();
        readers.through = true;
    }
    assert!((40..60).contains(&readers.begun), "{}", readers.begun);
    assert_eq!(readers.waited, 0);

    // The same when they never are: each wait is one that was begun.
    let mut slow = Told::default();
    for _ in 0..100_000 {
        table.edit(&[host], &mut slow).unwrap();
        table.edit(&[gone], &mut slow).unwrap();
    }
    assert!(slow.begun.abs_diff(slow.waited) <= 1);
    assert!(slow.waited >= 20, "{}", slow.waited);
}

#[test]
fn two_million_hosts_apart_do_not_fit_and_a_million_do() {
    let hosts = |count: u32| -> Vec<Classed4> {
        (0..count)
            .map(|host| classed(host << 10 | 1, 32, Class::ALLOWED))
            .collect()
    };
    assert!(plan(&hosts(1_000_000)).is_ok());
    let scattered: Vec<Classed4> = (0..2_000_000_u32)
        .map(|host| classed((host << 8) + host % 2, 32, Class::BANNED))
        .collect();
    let error = plan(&scattered).unwrap_err();
    assert!(error.to_string().contains("128 MiB"), "{error}");
}

#[test]
fn a_reader_sees_the_old_class_or_the_new() {
    const NET: u32 = 0x0a00_0000;
    let mut table = table(&[
        classed(NET, 24, Class::ALLOWED),
        classed(NET + 0x0100, 25, Class::ALLOWED),
        classed(NET + 0x0007, 32, Class::PROTECTED),
    ]);
    // Address, and all that it may ever be.
    let watched = [
        (NET + 0x0007, [Class::PROTECTED, Class::PROTECTED]),
        (NET + 0x0008, [Class::ALLOWED, Class::BANNED]),
        (NET + 0x0009, [Class::ALLOWED, Class::ALLOWED]),
        (NET + 0x0101, [Class::ALLOWED, Class::ALLOWED]),
        (NET + 0x01f0, [Class::NOT_LISTED, Class::ALLOWED]),
        (NET + 0x0205, [Class::NOT_LISTED, Class::DENIED]),
        (NET + 0x0206, [Class::NOT_LISTED, Class::NOT_LISTED]),
        (NET + 0x4001, [Class::NOT_LISTED, Class::NOT_LISTED]),
    ];
    let memory = Arc::clone(table.memory());
    let size = table.size();
    let is_over = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for (address, allowed) in &watched {
                    let class =
                        layout::class_of(&Words(memory.words()), size, address.to_be_bytes());
                    assert!(allowed.contains(&class), "{address:x} is {class:?}");
                }
                rounds.fetch_add(1, Ordering::Release);
            }
        });
        let _until = Until(&is_over);
        let mut wait = || {
            let seen = rounds.load(Ordering::Acquire);
            while rounds.load(Ordering::Acquire) < seen + 2 && !reader.is_finished() {
                thread::yield_now();
            }
        };
        let mut random = Random(7);
        let edits = [
            (NET + 0x0008, Class::BANNED, Class::ALLOWED),
            (NET + 0x01f0, Class::ALLOWED, Class::NOT_LISTED),
            (NET + 0x0205, Class::DENIED, Class::NOT_LISTED),
        ];
        for _ in 0..30_000 {
            let (address, first, second) = edits[random.below(3) as usize];
            let class = if random.below(2) == 0 { first } else { second };
            table
                .edit(&[classed(address, 32, class)], &mut wait)
                .unwrap();
        }
    });
    assert!(rounds.into_inner() > 0);
}
