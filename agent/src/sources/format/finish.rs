//! What can be said only of a whole list.

use ipnet::IpNet;

use super::{Format, Parsed};
use crate::entry::Entry;

/// One prefix in the order in which a prefix comes before those within it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: u128,
    length: u8,
    index: u32,
}

impl Key {
    fn new(index: usize, prefix: &IpNet) -> Self {
        let (address, length) = match prefix {
            IpNet::V4(net) => (u128::from(u32::from(net.addr())), net.prefix_len()),
            IpNet::V6(net) => (u128::from(net.addr()), net.prefix_len()),
        };
        Self {
            address,
            length,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }
}

pub(super) fn finish(mut entries: Vec<Entry>, format: Format) -> Parsed {
    let mut overlaps = 0;
    let mut superseded: Vec<u32> = Vec::new();
    for is_v6 in [false, true] {
        let mut keys: Vec<Key> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| matches!(entry.prefix, IpNet::V6(_)) == is_v6)
            .map(|(index, entry)| Key::new(index, &entry.prefix))
            .collect();
        keys.sort_unstable();
        // Prefixes nest or are disjoint, so the last one that no other covers is the only one to compare with.
        let mut outer: Option<IpNet> = None;
        for same in keys.chunk_by(|a, b| a.address == b.address && a.length == b.length) {
            let Some(prefix) = same
                .first()
                .and_then(|key| Some(entries.get(key.index as usize)?.prefix))
            else {
                continue;
            };
            match &outer {
                Some(outer) if outer.contains(&prefix) => overlaps += 1,
                Some(_) | None => outer = Some(prefix),
            }
            supersede(&entries, same, &mut superseded);
        }
    }
    let duplicates = superseded.len();
    if duplicates > 0 {
        superseded.sort_unstable();
        let mut next = superseded.iter().peekable();
        let mut index = 0_u32;
        entries.retain(|_| {
            let is_superseded = next.next_if_eq(&&index).is_some();
            index += 1;
            !is_superseded
        });
    }
    Parsed {
        entries,
        format,
        duplicates,
        overlaps,
    }
}

/// Of entries with one prefix, those that a later one of the same kind and scope replaces.
fn supersede(entries: &[Entry], same: &[Key], superseded: &mut Vec<u32>) {
    if same.len() < 2 {
        return;
    }
    let mut order: Vec<(&Entry, u32)> = same
        .iter()
        .filter_map(|key| Some((entries.get(key.index as usize)?, key.index)))
        .collect();
    let kind = |entry: &Entry| (entry.deny, entry.scope.clone());
    order.sort_by_cached_key(|(entry, index)| (kind(entry), *index));
    for pair in order.windows(2) {
        if let [(a, index), (b, _)] = pair
            && a.deny == b.deny
            && a.scope == b.scope
        {
            superseded.push(*index);
        }
    }
}
