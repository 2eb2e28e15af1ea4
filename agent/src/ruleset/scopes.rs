//! Scopes, what they add up to, and the classes that stand for the sums.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use agent_ebpf::{
    class::Class,
    scope::{RANGES, ScopeRange, ScopeSet},
};
use ipnet::IpNet;

use super::{RulesetError, state::Code};
use crate::rule::{Action, Scope, merge};

/// Index of a single scope.
pub(super) type ScopeId = u32;
/// Index of what scopes add up to.
pub(super) type SumId = u32;

/// Scopes by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Scopes {
    scopes: Vec<Arc<Scope>>,
    ids: HashMap<Arc<Scope>, ScopeId>,
    sums: Vec<Sum>,
    sum_ids: HashMap<Vec<ScopeRange>, SumId>,
    joined: HashMap<(Option<SumId>, ScopeId), SumId>,
    /// The sums that have a class, in order of their classes.
    classed: Vec<SumId>,
}

#[derive(Debug, Clone)]
struct Sum {
    ranges: Vec<ScopeRange>,
    class: Option<Class>,
}

impl Scopes {
    /// The code of an action; gives a scope that is new a number.
    pub(super) fn code(&mut self, action: &Action) -> Code {
        match action {
            Action::Protect => Code::PROTECT,
            Action::Ban => Code::BAN,
            Action::Deny => Code::DENY,
            Action::Allow(None) => Code::ALLOW,
            Action::Allow(Some(scope)) => {
                let id = match self.ids.get(scope) {
                    Some(id) => *id,
                    None => {
                        let id = self.scopes.len() as ScopeId;
                        self.scopes.push(Arc::clone(scope));
                        self.ids.insert(Arc::clone(scope), id);
                        id
                    }
                };
                Code::scoped(id)
            }
        }
    }

    /// The action of a code.
    pub(super) fn action(&self, code: Code) -> Action {
        match code {
            Code::PROTECT => Action::Protect,
            Code::BAN => Action::Ban,
            Code::DENY => Action::Deny,
            _ => Action::Allow(
                code.scope()
                    .and_then(|id| self.scopes.get(id as usize).cloned()),
            ),
        }
    }

    /// What a sum and a scope add up to.
    pub(super) fn join(&mut self, sum: Option<SumId>, scope: ScopeId) -> SumId {
        if let Some(joined) = self.joined.get(&(sum, scope)) {
            return *joined;
        }
        let ranges = merge(
            sum.map_or(&[][..], |sum| self.ranges(sum))
                .iter()
                .chain(
                    self.scopes
                        .get(scope as usize)
                        .map_or(&[][..], |scope| scope.ranges()),
                )
                .copied(),
        );
        let id = match self.sum_ids.entry(ranges) {
            hash_map::Entry::Occupied(entry) => *entry.get(),
            hash_map::Entry::Vacant(entry) => {
                let id = self.sums.len() as SumId;
                self.sums.push(Sum {
                    ranges: entry.key().clone(),
                    class: None,
                });
                *entry.insert(id)
            }
        };
        self.joined.insert((sum, scope), id);
        id
    }

    fn ranges(&self, sum: SumId) -> &[ScopeRange] {
        self.sums.get(sum as usize).map_or(&[], |sum| &sum.ranges)
    }

    /// The class of a sum; gives one that is new a class.
    pub(super) fn class(
        &mut self,
        sum: SumId,
        prefix: impl Fn() -> IpNet,
    ) -> Result<Class, RulesetError> {
        let index = self.classed.len();
        let Some(known) = self.sums.get_mut(sum as usize) else {
            return Ok(Class::NOT_LISTED);
        };
        if let Some(class) = known.class {
            return Ok(class);
        }
        let ranges = known.ranges.len();
        if ranges > RANGES {
            return Err(RulesetError::TooManyRanges {
                prefix: prefix(),
                ranges,
            });
        }
        let class = Class::scoped(index)
            .ok_or_else(|| RulesetError::TooManyScopeSets { prefix: prefix() })?;
        known.class = Some(class);
        self.classed.push(sum);
        Ok(class)
    }

    /// The class of what scopes add up to, if one stands for it.
    pub(super) fn class_of_sum(&self, scopes: &[ScopeId]) -> Class {
        let ranges = scopes
            .iter()
            .filter_map(|scope| self.scopes.get(*scope as usize))
            .flat_map(|scope| scope.ranges().iter().copied());
        self.sum_ids
            .get(&merge(ranges))
            .and_then(|sum| self.sums.get(*sum as usize)?.class)
            .unwrap_or(Class::NOT_LISTED)
    }

    /// How many sums have a class.
    pub(super) fn sets(&self) -> usize {
        self.classed.len()
    }

    pub(super) fn scope_sets(&self) -> Vec<ScopeSet> {
        self.classed
            .iter()
            .map(|sum| {
                let mut set = ScopeSet::NONE;
                for (range, from) in set.ranges.iter_mut().zip(self.ranges(*sum)) {
                    *range = *from;
                }
                set
            })
            .collect()
    }
}
