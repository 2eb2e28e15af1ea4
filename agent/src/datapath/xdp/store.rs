//! Generations: built aside, put in force by one store, and gone back to.

mod check;
mod edit;

use std::{collections::HashSet, sync::Arc, thread, time::Duration};

use agent_ebpf::{
    layout::{Active, Parameters, SLOTS},
    scope::ScopeSet,
};

use super::{
    family::{V4, V6},
    generation::{Fixed, Generation, Rules, parameters},
    page::{Page, boot_time, boot_time_after},
    reaper::{Discarded, Reaper},
    tables::{Part, Tables},
};
use crate::{
    datapath::{DatapathError, Settings},
    rule::Rule,
    ruleset::compile,
};

/// The generations in the kernel.
pub(super) struct Store {
    page: Page,
    tables4: Tables<V4>,
    tables6: Tables<V6>,
    slots: HashSet<u32>,
    reaper: Reaper,
    fixed: Fixed,
    current: Option<Generation>,
    /// What an armed revert goes back to.
    previous: Option<Generation>,
    /// The highest number given so far.
    number: u64,
    drifts: u64,
}

/// Which of two generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Current,
    Previous,
}

impl Store {
    /// Keeps what an earlier daemon's generation uses as it is, until the first [`Store::switch`].
    pub(super) fn new(
        page: Page,
        mut tables4: Tables<V4>,
        mut tables6: Tables<V6>,
        reaper: Reaper,
        fixed: Fixed,
    ) -> Self {
        let mut slots = HashSet::new();
        for active in [page.active(), page.previous()] {
            tables4.adopt(active.v4());
            tables6.adopt(active.v6());
            slots.insert(active.parameters());
        }
        let number = page.active().number().max(page.previous().number());
        Self {
            page,
            tables4,
            tables6,
            slots,
            reaper,
            fixed,
            current: None,
            previous: None,
            number,
            drifts: 0,
        }
    }

    pub(super) fn page(&self) -> &Page {
        &self.page
    }

    /// The generation in force, as far as this process made it.
    pub(super) fn current(&self) -> Option<&Generation> {
        if self.is_overdue() {
            self.previous.as_ref()
        } else {
            self.current.as_ref()
        }
    }

    /// The number of the generation in force, whoever made it.
    pub(super) fn number(&self) -> u64 {
        self.in_force().number()
    }

    fn in_force(&self) -> Active {
        if self.is_overdue() {
            self.page.previous()
        } else {
            self.page.active()
        }
    }

    /// Whether the time to confirm is over, and the program has gone back.
    fn is_overdue(&self) -> bool {
        let deadline = self.page.deadline();
        deadline != 0 && boot_time() > deadline
    }

    pub(super) fn switch(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
    ) -> Result<u64, DatapathError> {
        self.complete_revert();
        let prepared = self.prepare(rules, settings, Keep::WhatIsTheSame)?;
        Ok(self.put_in_force(prepared))
    }

    fn put_in_force(&mut self, prepared: Prepared) -> u64 {
        // One word, read once for each packet: from here on the new generation holds, all of it at once.
        self.page.activate(prepared.active);
        self.number = prepared.number;
        let before = self.current.take();
        let is_first = before.is_none();
        let (before4, before6) = match before {
            Some(before) => {
                self.slots.remove(&before.slot);
                self.reaper
                    .discard(Discarded::Memory(Box::new(before.rules)));
                (Some(before.v4), Some(before.v6))
            }
            None => (None, None),
        };
        let is_all_kept = matches!((&prepared.v4, &prepared.v6), (Part::Kept(_), Part::Kept(_)));
        // Both wait for the packets under way, so they do it at the same time.
        let Self {
            tables4,
            tables6,
            reaper,
            ..
        } = self;
        let (v4, v6) = thread::scope(|scope| {
            let retiring = scope.spawn(|| tables4.replace(prepared.v4, before4, reaper));
            let v6 = tables6.replace(prepared.v6, before6, reaper);
            (retiring.join().ok().flatten(), v6)
        });
        if let (Some(v4), Some(v6)) = (v4, v6) {
            if is_all_kept && let Err(error) = self.tables4.wait_for_readers(&v4) {
                tracing::warn!(%error, "can't wait for the packets under way");
            }
            self.current = Some(Generation {
                number: prepared.number,
                rules: prepared.rules,
                settings: prepared.settings,
                slot: prepared.slot,
                parameters: prepared.parameters,
                scopes: prepared.scopes,
                v4,
                v6,
            });
        }
        if is_first && self.previous.is_none() {
            // A revert that an earlier daemon armed would go back to what that one built.
            self.page.disarm();
            self.sweep();
        }
        prepared.number
    }

    /// As [`Store::put_in_force`], for the generation that a revert goes back to.
    fn put_in_reserve(&mut self, prepared: Prepared) {
        let active = prepared.active.numbered(prepared.number);
        self.page.set_previous(active);
        if let Some(before) = self.previous.take() {
            self.retire(before);
        }
        if let (Part::New(v4), Part::New(v6)) = (prepared.v4, prepared.v6) {
            self.previous = Some(Generation {
                number: prepared.number,
                rules: prepared.rules,
                settings: prepared.settings,
                slot: prepared.slot,
                parameters: prepared.parameters,
                scopes: prepared.scopes,
                v4,
                v6,
            });
        }
    }

    pub(super) fn switch_confirmed(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
        after: Duration,
    ) -> Result<u64, DatapathError> {
        self.complete_revert();
        if self.previous.is_some() {
            return Err(DatapathError::AlreadyArmed);
        }
        let Some(before) = &self.current else {
            return Err(DatapathError::NotArmed);
        };
        let before = before.active();
        let prepared = self.prepare(rules, settings, Keep::Nothing)?;
        // While both words are the same, it does not matter which of them judges.
        self.page.arm(before, boot_time_after(after));
        self.previous = self.current.take();
        Ok(self.put_in_force(prepared))
    }

    pub(super) fn confirm(&mut self) -> Result<(), DatapathError> {
        if self.previous.is_none() {
            return Err(DatapathError::NotArmed);
        }
        if self.is_overdue() {
            return Err(DatapathError::TooLate);
        }
        self.page.disarm();
        if let Some(previous) = self.previous.take() {
            self.retire(previous);
        }
        Ok(())
    }

    pub(super) fn revert(&mut self) -> Result<u64, DatapathError> {
        let mut previous = self.previous.take().ok_or(DatapathError::NotArmed)?;
        self.number += 1;
        previous.number = self.number;
        self.page.activate(previous.active());
        self.page.disarm();
        if let Some(dropped) = self.current.replace(previous) {
            self.retire(dropped);
        }
        Ok(self.number)
    }

    /// Notes for good what the program does since the time to confirm was over.
    pub(super) fn complete_revert(&mut self) {
        if self.previous.is_some() && self.is_overdue() {
            // It can't fail while there is something to go back to.
            let _ = self.revert();
        }
    }

    /// Builds a generation that nothing uses yet.
    fn prepare(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
        keep: Keep,
    ) -> Result<Prepared, DatapathError> {
        // Tables that could not be taken out of their slots would leave none for new ones.
        self.retire_lingering();
        let parameters = parameters(settings, self.fixed)?;
        let mut compiled = compile(&rules)?;
        let scopes = compiled.scope_sets();
        let classed4 = std::mem::take(&mut compiled.v4);
        let classed6 = std::mem::take(&mut compiled.v6);
        let kept = self
            .current
            .as_ref()
            .filter(|_| keep == Keep::WhatIsTheSame);
        let place4 = kept.and_then(|kept| kept.v4.is_of(&classed4).then_some(kept.v4.place));
        let place6 = kept.and_then(|kept| kept.v6.is_of(&classed6).then_some(kept.v6.place));
        let seed = getrandom::u64().map_err(|source| DatapathError::Random { source })?;
        let slot = (0..SLOTS)
            .find(|slot| !self.slots.contains(slot))
            .ok_or(DatapathError::NoSlot)?;

        let Self {
            tables4, tables6, ..
        } = self;
        let (v4, v6) = thread::scope(|scope| {
            let building = scope.spawn(|| match place6 {
                Some(place) => Ok(Part::Kept(place)),
                None => tables6.build(classed6, seed).map(Part::New),
            });
            let v4 = match place4 {
                Some(place) => Ok(Part::Kept(place)),
                None => tables4.build(classed4, seed).map(Part::New),
            };
            let v6 = building.join().unwrap_or(Err(DatapathError::NoSlot));
            (v4, v6)
        });
        let (v4, v6) = match (v4, v6) {
            (Ok(v4), Ok(v6)) => (v4, v6),
            (v4, v6) => {
                // What was built is in nobody's way, and goes again.
                let mut error = None;
                match v4 {
                    Ok(Part::New(placed)) => self.tables4.retire(placed, &self.reaper),
                    Ok(Part::Kept(_)) => {}
                    Err(refused) => error = Some(refused),
                }
                match v6 {
                    Ok(Part::New(placed)) => self.tables6.retire(placed, &self.reaper),
                    Ok(Part::Kept(_)) => {}
                    Err(refused) => error = Some(refused),
                }
                return Err(error.unwrap_or(DatapathError::NoSlot));
            }
        };
        self.slots.insert(slot);
        self.page.write(slot, &parameters, &scopes);
        let number = self.number + 1;
        Ok(Prepared {
            number,
            active: Active::new(
                number,
                v4.place(),
                v6.place(),
                slot,
                parameters.conditions(),
            ),
            rules: Rules::new(rules, compiled),
            settings: settings.clone(),
            slot,
            parameters,
            scopes,
            v4,
            v6,
        })
    }

    fn retire(&mut self, generation: Generation) {
        self.slots.remove(&generation.slot);
        let Self {
            tables4,
            tables6,
            reaper,
            ..
        } = self;
        reaper.discard(Discarded::Memory(Box::new(generation.rules)));
        thread::scope(|scope| {
            scope.spawn(|| tables4.retire(generation.v4, reaper));
            tables6.retire(generation.v6, reaper);
        });
    }

    /// Removes what earlier daemons left in the slots.
    fn sweep(&mut self) {
        let Some(current) = &self.current else {
            return;
        };
        self.tables4.sweep(&[current.v4.place]);
        self.tables6.sweep(&[current.v6.place]);
        self.slots = HashSet::from([current.slot]);
    }

    /// Work that waited, and parameters whose interfaces have other numbers now.
    pub(super) fn tend(&mut self) {
        self.complete_revert();
        self.retire_lingering();
        for generation in self.current.iter_mut().chain(&mut self.previous) {
            if let Ok(parameters) = parameters(&generation.settings, self.fixed)
                && parameters != generation.parameters
            {
                generation.parameters = parameters;
                self.page
                    .write(generation.slot, &parameters, &generation.scopes);
            }
        }
    }

    fn retire_lingering(&mut self) {
        self.tables4.retire_lingering(&self.reaper);
        self.tables6.retire_lingering(&self.reaper);
    }

    /// Bytes in the kernel, and prefixes of both families, of the generation in force.
    pub(super) fn size(&self) -> (u64, usize, usize) {
        self.current().map_or((0, 0, 0), |generation| {
            (
                generation.v4.bytes() + generation.v6.bytes(),
                generation.v4.prefixes(),
                generation.v6.prefixes(),
            )
        })
    }
}

/// Whether tables of the generation in force may go on in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    WhatIsTheSame,
    /// Both generations stay, and are edited apart.
    Nothing,
}

/// A generation that is not in force yet.
struct Prepared {
    number: u64,
    active: Active,
    rules: Rules,
    settings: Settings,
    slot: u32,
    parameters: Parameters,
    scopes: Vec<ScopeSet>,
    v4: Part<V4>,
    v6: Part<V6>,
}
