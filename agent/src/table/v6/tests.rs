use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::table::{
    NeedsRebuild,
    testing::{Random, Until, memory},
};

type Shared = Arc<Box<[AtomicU64]>>;
/// By address and length.
type Oracle = BTreeMap<(u128, u8), Class>;

const NET: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0000;
const SEED: u64 = 0x5eed;

fn mask(length: u8) -> u128 {
    !u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

fn table(oracle: &Oracle) -> Table6<Shared> {
    let classed: Vec<Classed6> = oracle
        .iter()
        .map(|((address, length), class)| Classed6 {
            address: *address,
            length: *length,
            class: *class,
        })
        .collect();
    let plan = plan(&classed, SEED).unwrap();
    let words = layout::CELLS[plan.size()] as usize * layout::WORDS;
    plan.build(Arc::new(memory(words)))
}

fn longest_match(oracle: &Oracle, address: u128) -> Class {
    (0..=128)
        .rev()
        .find_map(|length| oracle.get(&(address & mask(length), length)).copied())
        .unwrap_or(Class::NOT_LISTED)
}

/// Both ends of a prefix, and their neighbours outside.
fn edges((address, length): (u128, u8)) -> [u128; 4] {
    let last = address | !mask(length);
    [address.wrapping_sub(1), address, last, last.wrapping_add(1)]
}

fn no_wait() {
    panic!("no grace period is needed");
}

/// Prefixes that meet each other: the bits of their addresses are few.
fn any_prefix(lengths: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = (u128, u8)> {
    let bits = [
        0_u32, 1, 30, 62, 63, 64, 65, 80, 94, 95, 96, 97, 110, 111, 112,
    ];
    (
        prop::sample::select(vec![NET, 0, u128::MAX]),
        prop::sample::subsequence(bits.to_vec(), 0..4),
        lengths,
    )
        .prop_map(|(base, bits, length)| {
            let noise = bits.iter().fold(0, |noise, bit| noise | 1_u128 << bit);
            ((base ^ noise) & mask(length), length)
        })
}

fn any_class() -> impl Strategy<Value = Class> {
    prop_oneof![(1_u8..8).prop_map(Class), Just(Class(255))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_address_has_the_class_of_the_longest_prefix(
        oracle in prop::collection::btree_map(any_prefix(0..=128), any_class(), 0..60),
        addresses in prop::collection::vec(any::<u128>(), 50),
    ) {
        let table = table(&oracle);
        for address in oracle.keys().copied().flat_map(edges).chain(addresses) {
            prop_assert_eq!(
                table.class_of(address),
                longest_match(&oracle, address),
                "{:x}", address
            );
        }
    }

    #[test]
    fn edits_give_what_a_new_table_would(
        mut oracle in prop::collection::btree_map(any_prefix(0..=128), any_class(), 0..30),
        edits in prop::collection::vec(
            prop::collection::btree_map(any_prefix(17..=128), prop::option::of(any_class()), 1..4),
            1..20
        ),
    ) {
        let mut table = table(&oracle);
        let mut addresses: Vec<u128> = oracle.keys().copied().flat_map(edges).collect();
        for edit in edits {
            let changes: Vec<Change6> = edit
                .iter()
                .map(|(&(address, length), class)| Change6 { address, length, class: *class })
                .collect();
            table.edit(&changes, &mut || {}).unwrap();
            for (prefix, class) in edit {
                addresses.extend(edges(prefix));
                match class {
                    Some(class) => oracle.insert(prefix, class),
                    None => oracle.remove(&prefix),
                };
            }
        }
        for address in addresses {
            prop_assert_eq!(
                table.class_of(address),
                longest_match(&oracle, address),
                "{:x}", address
            );
        }
        prop_assert_eq!(table.prefixes, oracle.keys().filter(|(_, length)| *length > 16).count());
    }
}

#[test]
fn every_length_has_its_ends_and_not_their_neighbours() {
    for length in 0..=128 {
        let prefix = (
            0x2a0e_b107_1234_5678_9abc_def0_1234_5678 & mask(length),
            length,
        );
        let oracle = Oracle::from([(prefix, Class::ALLOWED)]);
        let table = table(&oracle);
        for address in edges(prefix) {
            assert_eq!(
                table.class_of(address),
                longest_match(&oracle, address),
                "{address:x}, length {length}"
            );
        }
    }
}

#[test]
fn a_full_list_has_all_its_prefixes_and_takes_more() {
    let mut random = Random(11);
    let mut oracle = Oracle::new();
    while oracle.len() < 24_000 {
        let address = NET | u128::from(random.below(300)) << 96 | u128::from(random.next()) << 32;
        let length = [48, 56, 64, 96, 128][random.below(5) as usize];
        oracle.insert((address & mask(length), length), Class::ALLOWED);
    }
    let mut table = table(&oracle);
    assert_eq!(table.size(), 0);
    let mut waits = 0;
    for _ in 0..3_000 {
        let address = NET | u128::from(random.below(300)) << 96 | u128::from(random.next());
        let change = Change6 {
            address,
            length: 128,
            class: Some(Class::BANNED),
        };
        table.edit(&[change], &mut || waits += 1).unwrap();
        oracle.insert((address, 128), Class::BANNED);
    }
    assert!(waits > 0, "nothing had to be moved");
    for (address, length) in oracle.keys() {
        assert_eq!(
            table.class_of(*address),
            longest_match(&oracle, *address),
            "{address:x}/{length}"
        );
    }
}

#[test]
fn a_table_that_is_full_says_so_and_stays() {
    let mut table = table(&Oracle::new());
    let host = |number: u32| NET | u128::from(number);
    let refused = (0..1 << 20).find_map(|number| {
        let change = Change6 {
            address: host(number),
            length: 128,
            class: Some(Class::ALLOWED),
        };
        let error = table.edit(&[change], &mut || {}).err()?;
        Some((number, error))
    });
    let (number, error) = refused.expect("the smallest table is not endless");
    assert_eq!(error, NeedsRebuild::Full);
    assert_eq!(table.class_of(host(number)), Class::NOT_LISTED);
    assert!((0..number).all(|number| table.class_of(host(number)) == Class::ALLOWED));
}

#[test]
fn a_prefix_that_the_root_holds_is_not_edited_in_place() {
    let mut table = table(&Oracle::new());
    let change = |length| Change6 {
        address: NET & mask(length),
        length,
        class: Some(Class::ALLOWED),
    };
    assert_eq!(
        table.edit(&[change(16)], &mut no_wait),
        Err(NeedsRebuild::TooWide)
    );
    assert_eq!(table.class_of(NET), Class::NOT_LISTED);
    assert_eq!(table.edit(&[change(17)], &mut no_wait), Ok(()));
    assert_eq!(table.class_of(NET), Class::ALLOWED);
}

#[test]
fn two_million_hosts_fit_and_more_than_the_largest_table_holds_do_not() {
    let hosts = |count: u128| -> Vec<Classed6> {
        (0..count)
            .map(|host| Classed6 {
                address: NET + host,
                length: 128,
                class: Class::ALLOWED,
            })
            .collect()
    };
    assert!(plan(&hosts(2_000_000), SEED).is_ok());
    let error = plan(&hosts(6_000_000), SEED).unwrap_err();
    assert!(error.to_string().contains("128 MiB"), "{error}");
}

#[test]
fn a_reader_sees_the_old_class_or_the_new() {
    // Enough neighbours that places are short, and prefixes move.
    let mut random = Random(3);
    let mut oracle = Oracle::new();
    while oracle.len() < 18_000 {
        oracle.insert((NET | u128::from(random.next()), 128), Class::ALLOWED);
    }
    let inner = NET | 0xabcd << 64;
    oracle.insert((inner, 64), Class::PROTECTED);
    let mut table = table(&oracle);
    let watched: Vec<(u128, [Class; 2])> = oracle
        .keys()
        .take(2_000)
        .map(|(address, _)| (*address, [Class::ALLOWED; 2]))
        .chain([
            (inner | 1, [Class::PROTECTED; 2]),
            (NET | 0xabce << 64, [Class::NOT_LISTED, Class::DENIED]),
            (NET | 1 << 95, [Class::NOT_LISTED; 2]),
        ])
        .collect();
    let memory = Arc::clone(table.memory());
    let is_over = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let mut waits = 0;
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for (address, allowed) in &watched {
                    let class = layout::class_of(&Words(memory.words()), address.to_be_bytes());
                    assert!(allowed.contains(&class), "{address:x} is {class:?}");
                }
                rounds.fetch_add(1, Ordering::Release);
            }
        });
        let _until = Until(&is_over);
        let mut wait = || {
            waits += 1;
            let seen = rounds.load(Ordering::Acquire);
            while rounds.load(Ordering::Acquire) < seen + 2 && !reader.is_finished() {
                thread::yield_now();
            }
        };
        let mut hosts: Vec<u128> = Vec::new();
        for round in 0..3_000 {
            let wide = Change6 {
                address: NET | 0xabc0 << 64,
                length: 60,
                class: (round % 2 == 0).then_some(Class::DENIED),
            };
            let host = Change6 {
                address: NET | u128::from(random.next()),
                length: 128,
                class: Some(Class::BANNED),
            };
            hosts.push(host.address);
            let mut changes = vec![wide, host];
            if round % 3 == 0 {
                let address = hosts.swap_remove(random.below(hosts.len() as u64) as usize);
                changes.retain(|change| change.address != address);
                changes.push(Change6 {
                    address,
                    length: 128,
                    class: None,
                });
            }
            for change in changes {
                table.edit(&[change], &mut wait).unwrap();
            }
        }
    });
    assert!(waits > 0, "nothing had to be moved");
}
