//! What one rule more or less changes.

use agent_ebpf::class::Class;

use super::{
    RulesetError,
    index::Index,
    prefix::{Address, Prefix},
    scopes::Scopes,
    state::{Actions, Code, State},
};
use crate::table::{Change6, Classed4};

/// The two edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Remove,
}

/// A prefix and its classes before and after an edit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<A> {
    prefix: Prefix<A>,
    old: Side,
    new: Side,
}

/// A prefix before or after.
#[derive(Debug, Clone, Copy)]
struct Side {
    state: State,
    class: Class,
    /// Whether the prefix has a class other than the next wider one.
    is_listed: bool,
}

impl Side {
    fn listed(self) -> Option<Class> {
        self.is_listed.then_some(self.class)
    }
}

/// Edits the index, and tells the prefix and all that it covers. Nothing if no class changes.
pub(super) fn edit<A: Address>(
    index: &mut Index<A>,
    scopes: &mut Scopes,
    prefix: Prefix<A>,
    code: Code,
    kind: Kind,
) -> Result<Vec<Step<A>>, RulesetError> {
    let before = index.get(prefix).cloned();
    match kind {
        Kind::Insert => index.insert(prefix, code),
        Kind::Remove => {
            if !index.remove(prefix, code) {
                return Err(RulesetError::NoSuchRule {
                    prefix: prefix.net(),
                });
            }
        }
    }
    let steps = steps(index, scopes, prefix, before.as_ref());
    if steps.is_err() {
        match kind {
            Kind::Insert => {
                index.remove(prefix, code);
            }
            Kind::Remove => index.insert(prefix, code),
        }
    }
    steps
}

fn steps<A: Address>(
    index: &Index<A>,
    scopes: &mut Scopes,
    prefix: Prefix<A>,
    before: Option<&Actions>,
) -> Result<Vec<Step<A>>, RulesetError> {
    let mut above = State::default();
    let mut allowing = Vec::new();
    let mut after = None;
    index.visit_covering(prefix, |wider, actions| {
        if wider == prefix {
            after = Some(actions);
        } else {
            above.add_wider(actions, &mut |scope| allowing.push(scope));
        }
    });
    above.set_scopes(&allowing, scopes);
    let outer = above.class(scopes, || prefix.net())?;
    let mut side = |actions: Option<&Actions>| -> Result<Side, RulesetError> {
        let state = actions.map_or(above, |actions| above.with_narrower(actions, scopes));
        let class = state.class(scopes, || prefix.net())?;
        Ok(Side {
            state,
            class,
            is_listed: class != outer,
        })
    };
    let edited = Step {
        prefix,
        old: side(before)?,
        new: side(after)?,
    };
    if edited.old.state == edited.new.state {
        return Ok(Vec::new());
    }
    if prefix.length == A::BITS && edited.old.class == edited.new.class {
        return Ok(Vec::new());
    }
    let mut steps = vec![edited];
    if prefix.length == A::BITS || prefix.length < A::SHORTEST_EDIT {
        // Nothing lies below, or the table is built anew whatever does.
        return Ok(steps);
    }
    let mut covering = vec![edited];
    let mut failed = None;
    index.visit_covered(prefix, |narrower, actions| {
        while covering
            .pop_if(|step| step.prefix.last() < narrower.address)
            .is_some()
        {}
        let Some(wider) = covering.last().copied() else {
            return;
        };
        if failed.is_some() {
            return;
        }
        let mut side = |wider: Side| -> Result<Side, RulesetError> {
            let state = wider.state.with_narrower(actions, scopes);
            let class = state.class(scopes, || narrower.net())?;
            Ok(Side {
                state,
                class,
                is_listed: class != wider.class,
            })
        };
        match (side(wider.old), side(wider.new)) {
            (Ok(old), Ok(new)) => {
                let step = Step {
                    prefix: narrower,
                    old,
                    new,
                };
                steps.push(step);
                covering.push(step);
            }
            (Err(error), _) | (_, Err(error)) => failed = Some(error),
        }
    });
    match failed {
        Some(error) => Err(error),
        None if steps.iter().all(|step| step.old.class == step.new.class) => Ok(Vec::new()),
        None => Ok(steps),
    }
}

/// The edited prefix with its class, then those that differ from the next wider one.
pub(super) fn painted(steps: &[Step<u32>]) -> Vec<Classed4> {
    let edited = steps.iter().take(1);
    let narrower = steps.iter().skip(1).filter(|step| step.new.is_listed);
    edited
        .chain(narrower)
        .map(|step| Classed4 {
            address: step.prefix.address,
            length: step.prefix.length,
            class: step.new.class,
        })
        .collect()
}

/// The prefixes that are listed otherwise than before.
pub(super) fn replaced(steps: &[Step<u128>]) -> Vec<Change6> {
    steps
        .iter()
        .filter(|step| step.old.listed() != step.new.listed())
        .map(|step| Change6 {
            address: step.prefix.address,
            length: step.prefix.length,
            class: step.new.listed(),
        })
        .collect()
}
