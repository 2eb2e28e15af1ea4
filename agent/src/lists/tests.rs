use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::TimeDelta;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

fn some_entry() -> impl Strategy<Value = Entry> {
    // Few addresses, so that two lists often have a prefix in common.
    let prefix = prop_oneof![
        (0_u32..16, 24_u8..=32).prop_map(|(host, length)| IpNet::from(
            Ipv4Net::new_assert(Ipv4Addr::from(0xcb00_7100 | host), length).trunc()
        )),
        (0_u128..16, 120_u8..=128).prop_map(|(host, length)| IpNet::from(
            Ipv6Net::new_assert(Ipv6Addr::from((0x2001_0db8_u128 << 96) | host), length).trunc()
        )),
    ];
    let action = select(vec![
        (true, None),
        (false, None),
        (false, Some("tcp/22")),
        (false, Some("udp/53")),
    ]);
    (
        prefix,
        action,
        option::of("[a-z]{1,2}"),
        option::of(0..4_i64),
    )
        .prop_map(|(prefix, (deny, scope), owner, end)| Entry {
            deny,
            scope: scope.map(|text| text.parse().unwrap()),
            owner,
            expires: end.map(|minutes| start() + TimeDelta::minutes(minutes)),
            ..Entry::allow(prefix)
        })
}

pub(crate) fn some_lists() -> impl Strategy<Value = Lists> {
    let name = select(vec!["manual", "file:a.txt", "feed:b"]);
    vec((name, some_entry()), 0..60).prop_map(|entries| {
        let mut lists: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
        for (name, entry) in entries {
            lists.entry(name).or_default().push(entry);
        }
        lists
            .into_iter()
            .map(|(name, entries)| (name.parse().unwrap(), entries.into_iter().collect()))
            .collect()
    })
}

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

proptest! {
    #[test]
    fn applying_the_difference_gives_the_wanted_lists(old in some_lists(), new in some_lists()) {
        let delta = old.delta_to(&new);
        let mut lists = old.clone();
        lists.apply(&delta);
        prop_assert_eq!(&lists, &new);
        lists.apply(&delta.inverse());
        prop_assert_eq!(&lists, &old);
    }

    #[test]
    fn two_changes_as_one_do_the_same(a in some_lists(), b in some_lists(), c in some_lists()) {
        let both = a.delta_to(&b).then(b.delta_to(&c));
        prop_assert_eq!(both, a.delta_to(&c));
    }

    #[test]
    fn a_list_knows_its_counts_and_ends_after_any_change(old in some_lists(), new in some_lists()) {
        let mut lists = old.clone();
        lists.apply(&old.delta_to(&new));
        for (name, list) in lists.iter() {
            let anew: List = list.entries().collect();
            prop_assert_eq!(list.allowing(), anew.allowing(), "{}", name);
            prop_assert_eq!(list.ending(), anew.ending(), "{}", name);
        }
        for minutes in 0..4 {
            let now = start() + TimeDelta::minutes(minutes);
            let scanned = lists
                .iter()
                .flat_map(|(_, list)| list.entries())
                .filter(|entry| entry.is_expired(now))
                .count();
            prop_assert_eq!(lists.expired(now).len(), scanned);
        }
    }

    #[test]
    fn covering_finds_what_a_scan_finds(lists in some_lists(), host in 0_u32..20) {
        let address = IpAddr::from(Ipv4Addr::from(0xcb00_7100 | host));
        let mut scanned: Vec<(ListName, Entry)> = lists
            .iter()
            .flat_map(|(name, list)| list.entries().map(|entry| (name.clone(), entry)))
            .filter(|(_, entry)| entry.prefix.contains(&address))
            .collect();
        scanned.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.prefix.prefix_len()));
        let found = lists.covering(address);
        prop_assert_eq!(found.len(), scanned.len());
        for entry in &scanned {
            prop_assert!(found.contains(entry));
        }
        prop_assert!(found.is_sorted_by_key(|(_, entry)| std::cmp::Reverse(entry.prefix.prefix_len())));
    }
}

#[test]
fn an_edit_of_a_shared_list_leaves_the_other_copy_alone() {
    let entry = Entry::allow("203.0.113.0/24".parse().unwrap());
    let old: Lists = [(
        ListName::manual(),
        [entry.clone()].into_iter().collect::<List>(),
    )]
    .into_iter()
    .collect();
    let mut new = old.clone();
    let step = Step::remove(new.get(&ListName::manual()), &entry.rule()).unwrap();
    new.apply(&[(ListName::manual(), vec![step])].into_iter().collect());
    assert!(new.is_empty());
    assert_eq!(old.len(), 1);
}

#[test]
fn the_same_entry_again_is_no_step_and_another_comment_is_one() {
    let entry = Entry::allow("203.0.113.0/24".parse().unwrap());
    let list: List = [entry.clone()].into_iter().collect();
    assert_eq!(Step::put(Some(&list), entry.clone()), None);
    let commented = Entry {
        comment: Some("lab".to_owned()),
        ..entry
    };
    let step = Step::put(Some(&list), commented.clone()).unwrap();
    assert_eq!(step.after(), Some(commented));
    let delta: Delta = [(ListName::manual(), vec![step])].into_iter().collect();
    assert_eq!(delta.counts().changed, 1);
    assert_eq!(delta.rule_edits(), RuleEdits::default());
}

#[test]
fn names_say_what_kind_of_list_it_is() {
    for name in ["manual", "file:a.txt", "feed:spamhaus", "name:host.example"] {
        assert_eq!(name.parse::<ListName>().unwrap().as_str(), name);
    }
    for name in ["", "other", "file:", "file:../a", "feed:a\nb", "Manual"] {
        assert!(name.parse::<ListName>().is_err(), "{name}");
    }
}
