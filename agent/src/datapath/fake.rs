//! A datapath without a kernel, for tests of what stands above it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_ebpf::{
    class::Class,
    verdict::{Drop, Verdict},
};
use ipnet::IpNet;

use super::{
    Counters, Datapath, DatapathError, Description, Edit, InterfaceStatus, PacketEvent, Probe,
    Readback, Settings,
};
use crate::{
    rule::{Action, Rule},
    ruleset::compile,
};

/// What a fake was told; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    told: Arc<Mutex<Told>>,
}

/// The state of a [`Fake`].
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub generation: u64,
    pub rules: Vec<Rule>,
    pub settings: Settings,
    /// The rules and settings that an armed revert goes back to.
    pub previous: Option<(Vec<Rule>, Settings)>,
    /// Every call fails while this is set.
    pub refuses: bool,
    /// How often the content was compared with the wish.
    pub verified: u64,
    /// Whether the next comparison finds a difference, and how many did.
    pub drifts: bool,
    pub drifts_total: u64,
}

impl Told {
    /// The prefixes of the rules with this action.
    pub fn with(&self, action: &Action) -> Vec<IpNet> {
        self.rules
            .iter()
            .filter(|rule| rule.action == *action)
            .map(|rule| rule.prefix)
            .collect()
    }
}

impl Fake {
    /// What it was told so far.
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    /// Makes the next comparison find a difference.
    pub fn drift(&self) {
        self.lock().drifts = true;
    }

    /// Makes every call fail, or work again.
    pub fn set_refuses(&self, refuses: bool) {
        self.lock().refuses = refuses;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Told>, DatapathError> {
        let told = self.lock();
        if told.refuses {
            Err(DatapathError::Refused)
        } else {
            Ok(told)
        }
    }
}

fn apply(rules: &mut Vec<Rule>, edit: &Edit) {
    match edit {
        Edit::Add(rule) => rules.push(rule.clone()),
        Edit::Remove(rule) => {
            if let Some(at) = rules.iter().position(|there| there == rule) {
                rules.remove(at);
            }
        }
    }
}

impl Datapath for Fake {
    fn switch(&mut self, rules: Arc<[Rule]>, settings: &Settings) -> Result<u64, DatapathError> {
        let mut told = self.open()?;
        compile(&rules)?;
        told.generation += 1;
        told.rules = rules.to_vec();
        told.settings = settings.clone();
        Ok(told.generation)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<u64, DatapathError> {
        let mut told = self.open()?;
        let mut rules = told.rules.clone();
        for edit in edits {
            apply(&mut rules, edit);
        }
        compile(&rules)?;
        for edit in edits {
            apply(&mut told.rules, edit);
            if let Some((rules, _)) = told.previous.as_mut().filter(|_| edit.is_ban()) {
                apply(rules, edit);
            }
        }
        told.generation += 1;
        Ok(told.generation)
    }

    fn switch_confirmed(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
        _after: Duration,
    ) -> Result<u64, DatapathError> {
        let mut told = self.open()?;
        if told.previous.is_some() {
            return Err(DatapathError::AlreadyArmed);
        }
        told.previous = Some((told.rules.clone(), told.settings.clone()));
        drop(told);
        self.switch(rules, settings)
    }

    fn confirm(&mut self) -> Result<(), DatapathError> {
        match self.open()?.previous.take() {
            Some(_) => Ok(()),
            None => Err(DatapathError::NotArmed),
        }
    }

    fn revert(&mut self) -> Result<u64, DatapathError> {
        let mut told = self.open()?;
        let (rules, settings) = told.previous.take().ok_or(DatapathError::NotArmed)?;
        told.rules = rules;
        told.settings = settings;
        told.generation += 1;
        Ok(told.generation)
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn verify(&mut self) -> Result<Readback, DatapathError> {
        let mut told = self.open()?;
        told.verified += 1;
        let drifted = std::mem::take(&mut told.drifts);
        if drifted {
            told.generation += 1;
            told.drifts_total += 1;
        }
        Ok(Readback {
            sha256: String::new(),
            drifted,
            drifts_total: told.drifts_total,
        })
    }

    fn tend(&mut self) -> Vec<InterfaceStatus> {
        Vec::new()
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Counters::collect(|_| Ok(0))
    }

    fn open_event_window(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    fn events(&mut self, _limit: usize) -> Vec<PacketEvent> {
        Vec::new()
    }

    fn observe(&mut self, _one_in: Option<u32>) -> Result<(), DatapathError> {
        self.open().map(|_| ())
    }

    fn probe(&mut self, _frame: &[u8], _interface: Option<u32>) -> Result<Probe, DatapathError> {
        self.open().map(|told| Probe {
            verdict: Verdict::Drop(Drop::NotListed),
            class: Class::NOT_LISTED,
            generation: told.generation,
            monitored: false,
        })
    }

    fn describe(&self) -> Description {
        Description::default()
    }
}
