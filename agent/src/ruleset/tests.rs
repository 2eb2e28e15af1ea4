use std::sync::{Arc, atomic::AtomicU64};

use agent_ebpf::{
    scope::ScopeRange,
    table::{v4, v6},
};
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;
use crate::{
    rule::{Scope, merge},
    table::{NeedsRebuild, Table4, Table6},
};

const ANY: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));

fn rule(prefix: &str, action: Action) -> Rule {
    Rule {
        prefix: prefix.parse().unwrap(),
        action,
    }
}

fn scoped(text: &str) -> Action {
    Action::Allow(Some(Arc::new(text.parse().unwrap())))
}

fn class(ruleset: &Ruleset, address: &str) -> Class {
    ruleset.class_of(address.parse().unwrap())
}

/// What a class means, by its number or by its scope.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Plain(Class),
    Scoped(Vec<ScopeRange>),
}

/// What the rules make of an address, by reading them one after the other.
fn expected(rules: &[Rule], address: IpAddr) -> Meaning {
    let covering: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.prefix.contains(&address))
        .collect();
    let has = |action: &Action| covering.iter().any(|rule| rule.action == *action);
    if has(&Action::Protect) {
        return Meaning::Plain(Class::PROTECTED);
    }
    if has(&Action::Ban) {
        return Meaning::Plain(Class::BANNED);
    }
    let denied = covering
        .iter()
        .filter(|rule| rule.action == Action::Deny)
        .map(|rule| rule.prefix.prefix_len())
        .max();
    let allowing: Vec<&Action> = covering
        .iter()
        .filter(|rule| denied.is_none_or(|denied| rule.prefix.prefix_len() > denied))
        .map(|rule| &rule.action)
        .filter(|action| matches!(action, Action::Allow(_)))
        .collect();
    if allowing.is_empty() {
        return Meaning::Plain(match denied {
            Some(_) => Class::DENIED,
            None => Class::NOT_LISTED,
        });
    }
    if allowing.contains(&&Action::Allow(None)) {
        return Meaning::Plain(Class::ALLOWED);
    }
    let ranges = allowing.iter().flat_map(|action| match action {
        Action::Allow(Some(scope)) => scope.ranges(),
        Action::Allow(None) | Action::Protect | Action::Ban | Action::Deny => &[],
    });
    Meaning::Scoped(merge(ranges.copied()))
}

fn meaning(class: Class, sets: &[ScopeSet]) -> Meaning {
    match class.scope() {
        None => Meaning::Plain(class),
        Some(index) => Meaning::Scoped(
            sets[index as usize]
                .ranges
                .iter()
                .copied()
                .filter(|range| *range != ScopeRange::UNUSED)
                .collect(),
        ),
    }
}

/// A ruleset with the tables that its changes go to.
struct Live {
    rules: Vec<Rule>,
    ruleset: Ruleset,
    v4: Table4<Box<[AtomicU64]>>,
    v6: Table6<Box<[AtomicU64]>>,
}

fn memory(words: u32) -> Box<[AtomicU64]> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

impl Live {
    fn new(rules: Vec<Rule>) -> Self {
        let compiled = compile(&rules).unwrap();
        let plan4 = crate::table::v4::plan(&compiled.v4).unwrap();
        let plan6 = crate::table::v6::plan(&compiled.v6, 1).unwrap();
        let (size4, size6) = (plan4.size(), plan6.size());
        Self {
            v4: plan4.build(memory(v4::CELLS[size4] * v4::WORDS as u32)),
            v6: plan6.build(memory(v6::CELLS[size6] * v6::WORDS as u32)),
            ruleset: Ruleset::index(&rules, compiled),
            rules,
        }
    }

    fn edit(&mut self, edit: &Edit) {
        let changes = match edit {
            Edit::Insert(rule) => {
                self.rules.push(rule.clone());
                self.ruleset.insert(rule).unwrap()
            }
            Edit::Remove(index) => {
                if self.rules.is_empty() {
                    return;
                }
                let rule = self.rules.swap_remove(index.index(self.rules.len()));
                self.ruleset.remove(&rule).unwrap()
            }
        };
        let results = [
            self.v4.edit(&changes.v4, &mut || {}),
            self.v6.edit(&changes.v6, &mut || {}),
        ];
        if results.contains(&Err(NeedsRebuild::TooWide)) {
            *self = Self::new(self.ruleset.rules());
        }
    }

    /// Compares both edges of each prefix, and their neighbours, in the ruleset and the tables.
    fn check(&self, prefixes: &[Rule]) -> Result<(), TestCaseError> {
        let sets = self.ruleset.scope_sets();
        for rule in prefixes {
            for address in edges(rule.prefix) {
                let expected = expected(&self.rules, address);
                let class = self.ruleset.class_of(address);
                prop_assert_eq!(meaning(class, &sets), expected, "{}", address);
                let found = match address {
                    IpAddr::V4(address) => self.v4.class_of(address.to_bits()),
                    IpAddr::V6(address) => self.v6.class_of(address.to_bits()),
                };
                prop_assert_eq!(found, class, "{}", address);
            }
        }
        Ok(())
    }
}

fn edges(prefix: IpNet) -> Vec<IpAddr> {
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|bits| IpAddr::from(std::net::Ipv4Addr::from_bits(bits)))
                .to_vec()
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .into_iter()
                .map(|bits| IpAddr::from(std::net::Ipv6Addr::from_bits(bits)))
                // Those are of the other family.
                .filter(|address| address.to_canonical() == *address)
                .collect()
        }
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Insert(Rule),
    Remove(prop::sample::Index),
}

/// Prefixes that meet each other: the bits of their addresses are few.
fn any_net() -> impl Strategy<Value = IpNet> {
    let length4 = prop_oneof![2 => 20_u8..=32, 1 => 0_u8..=32];
    let length6 = prop_oneof![2 => 44_u8..=66, 1 => 0_u8..=128];
    let v4 = (0_u32..32, length4).prop_map(|(noise, length)| {
        let address =
            0x0a00_0000 | (noise & 1) | (noise & 2) << 5 | (noise & 4) << 6 | (noise & 24) << 10;
        IpNet::from(Ipv4Net::new(address.into(), length).unwrap()).trunc()
    });
    let v6 = (0_u128..32, length6).prop_map(|(noise, length)| {
        let address = 0x2001_0db8_u128 << 96
            | (noise & 1)
            | (noise & 2) << 62
            | (noise & 4) << 63
            | (noise & 24) << 77;
        IpNet::from(Ipv6Net::new(address.into(), length).unwrap()).trunc()
    });
    prop_oneof![v4, v6]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        1 => Just(Action::Protect),
        2 => Just(Action::Ban),
        2 => Just(Action::Deny),
        4 => Just(Action::Allow(None)),
        4 => prop::sample::select(vec!["tcp/22", "tcp/443", "udp/53", "tcp/22,udp/53"])
            .prop_map(scoped),
    ];
    (any_net(), action).prop_map(|(prefix, action)| Rule { prefix, action })
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any_rule().prop_map(Edit::Insert),
        any::<prop::sample::Index>().prop_map(Edit::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn tables_say_what_the_rules_say_after_any_edits(
        rules in prop::collection::vec(any_rule(), 0..25),
        edits in prop::collection::vec(any_edit(), 0..25),
    ) {
        let mut prefixes = rules.clone();
        let mut live = Live::new(rules);
        live.check(&prefixes)?;
        for edit in &edits {
            live.edit(edit);
            if let Edit::Insert(rule) = edit {
                prefixes.push(rule.clone());
            }
        }
        live.check(&prefixes)?;

        let mut kept = live.ruleset.rules();
        live.rules.sort();
        kept.sort();
        prop_assert_eq!(&kept, &live.rules);
    }

    #[test]
    fn the_first_rule_found_is_the_decisive_one(rules in prop::collection::vec(any_rule(), 1..25)) {
        let ruleset = Ruleset::build(&rules).unwrap();
        for address in rules.iter().flat_map(|rule| edges(rule.prefix)) {
            let found = ruleset.find(address);
            let mut covering: Vec<Rule> = rules
                .iter()
                .filter(|rule| rule.prefix.contains(&address))
                .cloned()
                .collect();
            covering.sort();
            covering.dedup();
            let mut sorted = found.clone();
            sorted.sort();
            prop_assert_eq!(&sorted, &covering);
            let first = found.first().map(|rule| &rule.action);
            match expected(&rules, address) {
                Meaning::Plain(Class::NOT_LISTED) => prop_assert_eq!(first, None),
                Meaning::Plain(Class::PROTECTED) => prop_assert_eq!(first, Some(&Action::Protect)),
                Meaning::Plain(Class::BANNED) => prop_assert_eq!(first, Some(&Action::Ban)),
                Meaning::Plain(Class::DENIED) => prop_assert_eq!(first, Some(&Action::Deny)),
                Meaning::Plain(_) | Meaning::Scoped(_) => {
                    prop_assert!(matches!(first, Some(Action::Allow(_))), "{:?}", first);
                }
            }
        }
    }
}

#[test]
fn a_rule_that_is_there_twice_leaves_with_the_second() {
    let ban = rule("203.0.113.7/32", Action::Ban);
    let mut ruleset = Ruleset::build(&[ban.clone(), ban.clone()]).unwrap();
    assert_eq!(ruleset.remove(&ban), Ok(Changes::default()));
    assert_eq!(class(&ruleset, "203.0.113.7"), Class::BANNED);
    assert_ne!(ruleset.remove(&ban), Ok(Changes::default()));
    assert_eq!(class(&ruleset, "203.0.113.7"), Class::NOT_LISTED);
    assert_eq!(
        ruleset.remove(&ban),
        Err(RulesetError::NoSuchRule { prefix: ban.prefix })
    );
}

#[test]
fn a_prefix_that_says_the_same_as_a_wider_one_is_left_out() {
    let compiled = compile(&[
        rule("10.0.0.0/8", Action::Allow(None)),
        rule("10.1.0.0/16", Action::Allow(None)),
        rule("10.1.0.0/16", scoped("tcp/22")),
        rule("10.1.2.0/24", Action::Deny),
        rule("2001:db8::/32", Action::Ban),
        rule("2001:db8::1/128", Action::Allow(None)),
    ])
    .unwrap();
    let v4: Vec<u8> = compiled.v4.iter().map(|prefix| prefix.length).collect();
    assert_eq!(v4, [8, 24]);
    assert_eq!(compiled.v6.len(), 1);
    assert!(compiled.scope_sets().is_empty());
}

#[test]
fn a_mapped_address_is_its_ipv4_address() {
    let ruleset = Ruleset::build(&[rule("203.0.113.7/32", Action::Ban)]).unwrap();
    assert_eq!(class(&ruleset, "::ffff:203.0.113.7"), Class::BANNED);
    assert_eq!(class(&ruleset, "::ffff:203.0.113.8"), Class::NOT_LISTED);
}

/// So many rules with one port each, all different.
fn ports(count: u32) -> Vec<Rule> {
    (0..count)
        .map(|number| {
            rule(
                &format!("10.0.{number}.0/24"),
                scoped(&format!("tcp/{}", 2 * number)),
            )
        })
        .collect()
}

#[test]
fn as_many_scope_sets_fit_as_there_are_classes_and_one_more_does_not() {
    assert!(compile(&ports(SCOPE_SETS)).is_ok());
    let error = compile(&ports(SCOPE_SETS + 1)).unwrap_err();
    assert_eq!(
        error,
        RulesetError::TooManyScopeSets {
            prefix: "10.0.251.0/24".parse().unwrap()
        }
    );
}

#[test]
fn an_edit_that_needs_too_many_scope_sets_changes_nothing() {
    let mut ruleset = Ruleset::build(&ports(SCOPE_SETS)).unwrap();
    let before = ruleset.rules();
    let more = rule("192.0.2.0/24", scoped("udp/1"));
    assert!(matches!(
        ruleset.insert(&more),
        Err(RulesetError::TooManyScopeSets { .. })
    ));
    assert_eq!(ruleset.rules(), before);
    assert_eq!(class(&ruleset, "192.0.2.1"), Class::NOT_LISTED);
    // One that is there already does.
    let known = rule("192.0.2.0/24", scoped("tcp/0"));
    assert!(!ruleset.insert(&known).unwrap().scopes_changed);
}

#[test]
fn scopes_that_add_up_to_too_many_ranges_are_refused_and_named() {
    let sum = |count: usize| -> Vec<Rule> {
        ports(u32::try_from(count).unwrap())
            .into_iter()
            .map(|rule| Rule {
                prefix: ANY,
                ..rule
            })
            .collect()
    };
    let ruleset = Ruleset::build(&sum(RANGES)).unwrap();
    assert_eq!(ruleset.scope_sets().len(), 1);
    assert_eq!(
        compile(&sum(RANGES + 1)).unwrap_err(),
        RulesetError::TooManyRanges {
            prefix: ANY,
            ranges: RANGES + 1
        }
    );
    // They don't count where a ban decides.
    let mut banned = sum(RANGES + 1);
    banned.push(Rule {
        prefix: ANY,
        action: Action::Ban,
    });
    assert!(compile(&banned).is_ok());
}

#[test]
fn scope_sets_keep_their_places_through_edits() {
    let (ssh, dns) = (scoped("tcp/22"), scoped("udp/53"));
    let mut ruleset = Ruleset::build(&[rule("10.0.0.0/8", ssh.clone())]).unwrap();
    let before = ruleset.scope_sets();
    let changes = ruleset.insert(&rule("10.0.0.0/24", dns)).unwrap();
    assert!(changes.scopes_changed);
    ruleset.remove(&rule("10.0.0.0/8", ssh)).unwrap();
    let after = ruleset.scope_sets();
    assert_eq!(after[..before.len()], before);
    let both: Scope = "tcp/22,udp/53".parse().unwrap();
    assert_eq!(after[1].ranges[..2], *both.ranges());
}
