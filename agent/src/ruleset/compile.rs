//! From a list of rules to sorted prefixes with classes.

use agent_ebpf::{class::Class, scope::ScopeSet};
use ipnet::IpNet;

use super::{
    RulesetError,
    prefix::{Address, Prefix},
    scopes::Scopes,
    state::{Actions, Code, State},
};
use crate::{
    rule::Rule,
    table::{Classed4, Classed6},
};

/// Rules, compiled: what the tables are built from.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// In order. A prefix that says the same as the next wider one is left out.
    pub v4: Vec<Classed4>,
    /// In order. A prefix that says the same as the next wider one is left out.
    pub v6: Vec<Classed6>,
    scopes: Scopes,
}

impl Compiled {
    /// The scope sets that classes stand for: the one at index `i` is that of `Class::scoped(i)`.
    pub fn scope_sets(&self) -> Vec<ScopeSet> {
        self.scopes.scope_sets()
    }

    pub(super) fn into_scopes(self) -> Scopes {
        self.scopes
    }
}

/// Compiles rules. Fastest when they are in order.
///
/// # Errors
/// If their scopes add up to too many different sets, or to one with too many ranges.
pub fn compile(rules: &[Rule]) -> Result<Compiled, RulesetError> {
    let mut scopes = Scopes::default();
    let sorted = sort(rules, &mut scopes);
    let mut v4 = Vec::with_capacity(sorted.v4.len());
    sweep(sorted.v4(), &mut scopes, |prefix, class| {
        v4.push(Classed4 {
            address: prefix.address,
            length: prefix.length,
            class,
        });
    })?;
    let mut v6 = Vec::with_capacity(sorted.v6.len());
    sweep(sorted.v6(), &mut scopes, |prefix, class| {
        v6.push(Classed6 {
            address: prefix.address,
            length: prefix.length,
            class,
        });
    })?;
    Ok(Compiled { v4, v6, scopes })
}

/// Rules by prefix, then action.
pub(super) struct Sorted {
    /// Address, 8 bits of length, 24 of code.
    v4: Vec<u64>,
    /// Upper half, lower half, and 8 bits of length with 24 of code.
    v6: Vec<(u64, u64, u32)>,
}

impl Sorted {
    pub(super) fn v4(&self) -> impl Iterator<Item = (Prefix<u32>, Code)> {
        self.v4.iter().map(|key| {
            let (length, code) = unpack(*key as u32);
            let address = (key >> 32) as u32;
            (Prefix { address, length }, code)
        })
    }

    pub(super) fn v6(&self) -> impl Iterator<Item = (Prefix<u128>, Code)> {
        self.v6.iter().map(|(high, low, rest)| {
            let (length, code) = unpack(*rest);
            let address = u128::from(*high) << 64 | u128::from(*low);
            (Prefix { address, length }, code)
        })
    }
}

fn pack(length: u8, code: Code) -> u32 {
    u32::from(length) << 24 | code.0 & 0xff_ffff
}

fn unpack(packed: u32) -> (u8, Code) {
    ((packed >> 24) as u8, Code(packed & 0xff_ffff))
}

/// Sorts rules, and numbers their scopes.
pub(super) fn sort(rules: &[Rule], scopes: &mut Scopes) -> Sorted {
    let mut v4: Vec<u64> = Vec::with_capacity(rules.len());
    let mut v6: Vec<(u64, u64, u32)> = Vec::new();
    for rule in rules {
        let code = scopes.code(&rule.action);
        match rule.prefix {
            IpNet::V4(net) => {
                let prefix = Prefix::from(net);
                v4.push(u64::from(prefix.address) << 32 | u64::from(pack(prefix.length, code)));
            }
            IpNet::V6(net) => {
                let Prefix { address, length } = Prefix::from(net);
                v6.push(((address >> 64) as u64, address as u64, pack(length, code)));
            }
        }
    }
    if !v4.is_sorted() {
        v4.sort_unstable();
    }
    if !v6.is_sorted() {
        v6.sort_unstable();
    }
    Sorted { v4, v6 }
}

/// Goes through the rules from one prefix to the next and tells the class of each that differs from that of the next wider.
fn sweep<A: Address>(
    sorted: impl Iterator<Item = (Prefix<A>, Code)>,
    scopes: &mut Scopes,
    mut tell: impl FnMut(Prefix<A>, Class),
) -> Result<(), RulesetError> {
    /// A prefix that covers where the sweep stands.
    struct Wider<A> {
        last: A,
        state: State,
        class: Class,
    }
    let mut covering: Vec<Wider<A>> = Vec::new();
    for_each_prefix(sorted, |prefix, actions| {
        while covering
            .pop_if(|wider| wider.last < prefix.address)
            .is_some()
        {}
        let (before, outer) = covering
            .last()
            .map_or_else(Default::default, |wider| (wider.state, wider.class));
        let state = before.with_narrower(actions, scopes);
        if state == before {
            return Ok(());
        }
        let class = state.class(scopes, || prefix.net())?;
        if class != outer {
            tell(prefix, class);
        }
        if prefix.length < A::BITS {
            covering.push(Wider {
                last: prefix.last(),
                state,
                class,
            });
        }
        Ok(())
    })
}

/// Calls `visit` with each prefix and all its actions.
pub(super) fn for_each_prefix<A: Address, E>(
    sorted: impl Iterator<Item = (Prefix<A>, Code)>,
    mut visit: impl FnMut(Prefix<A>, &Actions) -> Result<(), E>,
) -> Result<(), E> {
    let mut held: Option<(Prefix<A>, Actions)> = None;
    for (prefix, code) in sorted {
        match &mut held {
            Some((same, actions)) if *same == prefix => actions.add(code),
            Some(held) => {
                visit(held.0, &held.1)?;
                *held = (prefix, Actions::One(code));
            }
            None => held = Some((prefix, Actions::One(code))),
        }
    }
    match held {
        Some((prefix, actions)) => visit(prefix, &actions),
        None => Ok(()),
    }
}
