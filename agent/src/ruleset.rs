//! What a set of rules makes of each address: pure, for both families.
//!
//! [`compile()`] turns a whole list into the prefixes that a table is built from. A [`Ruleset`] indexes the same rules, so that
//! one of them can be added or removed and the prefixes that this changes are known without looking at the others.

mod compile;
mod edit;
mod index;
mod prefix;
mod scopes;
mod state;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use agent_ebpf::{
    class::{Class, SCOPE_SETS},
    scope::{RANGES, ScopeSet},
};
use ipnet::IpNet;

use self::{
    index::Index,
    prefix::{Prefix, family},
    scopes::Scopes,
    state::{Code, State},
};
use crate::{
    rule::{Action, Rule},
    table::{Change6, Classed4},
};

pub use self::compile::{Compiled, compile};

/// Why rules cannot be compiled or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesetError {
    #[error(
        "the scopes at {prefix} add up to a set of their own, and there are {SCOPE_SETS} others, the most there can be; use fewer different scopes"
    )]
    TooManyScopeSets { prefix: IpNet },
    #[error(
        "the scopes at {prefix} add up to {ranges} ranges, where {RANGES} are the most; widen or drop some of them"
    )]
    TooManyRanges { prefix: IpNet, ranges: usize },
    #[error("there is no such rule for {prefix}")]
    NoSuchRule { prefix: IpNet },
}

/// Rules that can be edited one by one. The same rule may be there several times, as from two lists, and then leaves with the last.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    v4: Index<u32>,
    v6: Index<u128>,
    scopes: Scopes,
}

/// What an edit changes in the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// For [`Table4::edit`](crate::table::Table4::edit).
    pub v4: Vec<Classed4>,
    /// For [`Table6::edit`](crate::table::Table6::edit).
    pub v6: Vec<Change6>,
    /// Whether [`Ruleset::scope_sets`] has grown: write it before the tables.
    pub scopes_changed: bool,
}

impl Ruleset {
    /// Indexes rules.
    ///
    /// # Errors
    /// If their scopes cannot be compiled.
    pub fn build(rules: &[Rule]) -> Result<Self, RulesetError> {
        Ok(Self::index(rules, compile(rules)?))
    }

    /// Indexes the rules that `compiled` was made from; classes stay the same.
    pub fn index(rules: &[Rule], compiled: Compiled) -> Self {
        let mut scopes = compiled.into_scopes();
        let sorted = compile::sort(rules, &mut scopes);
        Self {
            v4: Index::from_sorted(sorted.v4()),
            v6: Index::from_sorted(sorted.v6()),
            scopes,
        }
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// If its scope cannot be compiled with the others; then nothing has changed. Compiling [`Ruleset::rules`] with it
    /// may succeed, since scope sets no longer in use are only given up then.
    pub fn insert(&mut self, rule: &Rule) -> Result<Changes, RulesetError> {
        self.edit(rule, edit::Kind::Insert)
    }

    /// Removes a rule once.
    ///
    /// # Errors
    /// If there is no such rule, or the scopes that then come into effect cannot be compiled; then nothing has changed.
    pub fn remove(&mut self, rule: &Rule) -> Result<Changes, RulesetError> {
        self.edit(rule, edit::Kind::Remove)
    }

    fn edit(&mut self, rule: &Rule, kind: edit::Kind) -> Result<Changes, RulesetError> {
        let sets = self.scopes.sets();
        let code = self.scopes.code(&rule.action);
        let mut changes = Changes::default();
        match rule.prefix {
            IpNet::V4(net) => {
                let prefix = Prefix::from(net);
                let steps = edit::edit(&mut self.v4, &mut self.scopes, prefix, code, kind)?;
                changes.v4 = edit::painted(&steps);
            }
            IpNet::V6(net) => {
                let prefix = Prefix::from(net);
                let steps = edit::edit(&mut self.v6, &mut self.scopes, prefix, code, kind)?;
                changes.v6 = edit::replaced(&steps);
            }
        }
        changes.scopes_changed = self.scopes.sets() != sets;
        Ok(changes)
    }

    /// The scope sets that classes stand for: the one at index `i` is that of `Class::scoped(i)`. An edit adds to them and never
    /// changes one that is there.
    pub fn scope_sets(&self) -> Vec<ScopeSet> {
        self.scopes.scope_sets()
    }

    /// The class of an address.
    pub fn class_of(&self, address: IpAddr) -> Class {
        fn class<A: prefix::Address>(index: &Index<A>, address: A, scopes: &Scopes) -> Class {
            let mut state = State::default();
            let mut allowing = Vec::new();
            index.visit_covering(Prefix::host(address), |_, actions| {
                state.add_wider(actions, &mut |scope| allowing.push(scope));
            });
            state.class_with(|| scopes.class_of_sum(&allowing))
        }
        match family(address) {
            prefix::Family::V4(address) => class(&self.v4, address, &self.scopes),
            prefix::Family::V6(address) => class(&self.v6, address, &self.scopes),
        }
    }

    /// The rules that cover an address, the most decisive first. Each once.
    pub fn find(&self, address: IpAddr) -> Vec<Rule> {
        let mut rules = Vec::new();
        match family(address) {
            prefix::Family::V4(address) => {
                self.v4
                    .visit_covering(Prefix::host(address), |prefix, actions| {
                        rules.extend(
                            actions
                                .iter()
                                .map(|(code, _)| self.rule(prefix.net(), code)),
                        );
                    });
            }
            prefix::Family::V6(address) => {
                self.v6
                    .visit_covering(Prefix::host(address), |prefix, actions| {
                        rules.extend(
                            actions
                                .iter()
                                .map(|(code, _)| self.rule(prefix.net(), code)),
                        );
                    });
            }
        }
        // They come with the longest prefix first, and at one prefix in the order of `Action`.
        rules.sort_by_key(|rule: &Rule| match rule.action {
            Action::Protect => 0,
            Action::Ban => 1,
            Action::Deny | Action::Allow(_) => 2,
        });
        rules
    }

    /// All rules, in order of their prefixes, each as often as it is there.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut add = |net: IpNet, code: Code, count: u32| {
            rules.extend((0..count).map(|_| self.rule(net, code)));
        };
        self.v4
            .for_each(|prefix, code, count| add(prefix.net(), code, count));
        self.v6
            .for_each(|prefix, code, count| add(prefix.net(), code, count));
        rules
    }

    fn rule(&self, prefix: IpNet, code: Code) -> Rule {
        Rule {
            prefix,
            action: self.scopes.action(code),
        }
    }
}
