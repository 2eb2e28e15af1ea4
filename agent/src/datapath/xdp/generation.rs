//! A generation: rules, settings, and the tables and parameters they became.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use agent_ebpf::{
    layout::{Active, FlowTimeouts, MONITORED_INTERFACES, Parameters},
    limit::Rate,
    scope::ScopeSet,
};

use super::{
    family::{V4, V6},
    tables::Placed,
};
use crate::{
    datapath::{DatapathError, MonitoredSet, Settings},
    interface,
    rule::Rule,
    ruleset::{Compiled, Ruleset, RulesetError},
};

/// A generation in the kernel.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) rules: Rules,
    pub(super) settings: Settings,
    /// The slot of `parameters` and `scopes`.
    pub(super) slot: u32,
    pub(super) parameters: Parameters,
    pub(super) scopes: Vec<ScopeSet>,
    pub(super) v4: Placed<V4>,
    pub(super) v6: Placed<V6>,
}

impl Generation {
    /// The word that puts it in force.
    pub(super) fn active(&self) -> Active {
        Active::new(
            self.number,
            self.v4.place,
            self.v6.place,
            self.slot,
            self.parameters.conditions(),
        )
    }
}

/// The rules of a generation. They are indexed for edits aside, while packets are judged already.
pub(super) struct Rules {
    /// As they were given, until they are edited.
    given: Option<Arc<[Rule]>>,
    /// Under way, until it is asked for.
    pending: Option<JoinHandle<Ruleset>>,
    ready: Option<Ruleset>,
}

impl Rules {
    pub(super) fn new(rules: Arc<[Rule]>, compiled: Compiled) -> Self {
        let given = Arc::clone(&rules);
        let pending = thread::Builder::new()
            .name("index".to_owned())
            .spawn(move || Ruleset::index(&rules, compiled))
            .ok();
        Self {
            given: Some(given),
            pending,
            ready: None,
        }
    }

    /// All rules.
    pub(super) fn all(&mut self) -> Result<Arc<[Rule]>, RulesetError> {
        match &self.given {
            Some(given) => Ok(Arc::clone(given)),
            None => Ok(self.index()?.rules().into()),
        }
    }

    /// The index, to be edited.
    pub(super) fn edit(&mut self) -> Result<&mut Ruleset, RulesetError> {
        self.index()?;
        self.given = None;
        self.index()
    }

    /// The index, to be asked.
    pub(super) fn index(&mut self) -> Result<&mut Ruleset, RulesetError> {
        let ruleset = match self.ready.take() {
            Some(ruleset) => Some(ruleset),
            None => self.pending.take().and_then(|thread| thread.join().ok()),
        };
        let ruleset = match ruleset {
            Some(ruleset) => ruleset,
            // Before the first edit, which leaves an index, the rules are there as they were given.
            None => Ruleset::build(self.given.as_deref().unwrap_or_default())?,
        };
        Ok(self.ready.insert(ruleset))
    }
}

/// What does not change from generation to generation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    pub(super) sample_mask: u32,
    pub(super) events_per_window: u32,
    pub(super) timeouts: FlowTimeouts,
}

/// The parameters that settings mean at the moment: interfaces are named in them, and have a number only while they exist.
pub(super) fn parameters(settings: &Settings, fixed: Fixed) -> Result<Parameters, DatapathError> {
    let mut parameters = Parameters::new(settings.policy);
    parameters.sample_mask = fixed.sample_mask;
    parameters.events_per_window = fixed.events_per_window;
    parameters.timeouts = fixed.timeouts;
    parameters.learn_replies(settings.learn_replies);
    if let Some(rate) = settings.rate {
        parameters.rate = Rate {
            packets_per_second: rate.packets_per_second.min(Rate::MAX),
            syns_per_second: rate.syns_per_second.min(Rate::MAX),
        };
    }
    match &settings.monitored {
        MonitoredSet::None => {}
        MonitoredSet::All => parameters.monitor_all(true),
        MonitoredSet::Interfaces(names) if names.len() > MONITORED_INTERFACES => {
            return Err(DatapathError::TooManyMonitored { found: names.len() });
        }
        MonitoredSet::Interfaces(names) => {
            parameters.monitor_some(true);
            for (index, name) in parameters.monitored.iter_mut().zip(names) {
                *index = interface::query(name)
                    .ok()
                    .flatten()
                    .map_or(0, |interface| interface.index);
            }
        }
    }
    Ok(parameters)
}
