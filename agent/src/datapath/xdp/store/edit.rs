//! Single changes of a generation that packets are judged by.

use super::{Keep, Store, Which};
use crate::{
    datapath::{DatapathError, Edit},
    ruleset::{Changes, Ruleset, RulesetError},
};

impl Store {
    pub(in crate::datapath::xdp) fn edit(&mut self, edits: &[Edit]) -> Result<u64, DatapathError> {
        self.complete_revert();
        if self.current.is_none() {
            return Err(DatapathError::NoGeneration);
        }
        // The generation gone back to first: if that fails, nothing has changed that packets are judged by.
        let bans: Vec<Edit> = edits.iter().filter(|edit| edit.is_ban()).cloned().collect();
        let previous_too = self.previous.is_some() && !bans.is_empty();
        if previous_too {
            self.apply(Which::Previous, &bans)?;
        }
        if let Err(error) = self.apply(Which::Current, edits) {
            if previous_too {
                let undone: Vec<Edit> = bans.iter().rev().map(inverse).collect();
                if let Err(error) = self.apply(Which::Previous, &undone) {
                    tracing::error!(%error, "a ban stays in the generation that a missed confirmation goes back to");
                }
            }
            return Err(error);
        }
        Ok(self.number())
    }

    fn apply(&mut self, which: Which, edits: &[Edit]) -> Result<(), DatapathError> {
        let mut done = 0;
        let mut in_place = 0;
        let mut outcome = Outcome::InPlace;
        let mut failure = None;
        for edit in edits {
            match self.apply_one(which, edit, outcome) {
                Ok(new) => outcome = new,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            done += 1;
            if outcome == Outcome::InPlace {
                in_place = done;
            }
        }
        if failure.is_none() && outcome == Outcome::NeedsRebuild {
            failure = self.rebuild(which).err();
        } else if failure.is_none() && which == Which::Current {
            self.renumber();
        }
        let Some(failure) = failure else {
            return Ok(());
        };
        for (index, edit) in edits.iter().enumerate().take(done).rev() {
            // What the tables have not seen is only struck out of the rules.
            let outcome = if index < in_place {
                Outcome::InPlace
            } else {
                Outcome::NeedsRebuild
            };
            match self.apply_one(which, &inverse(edit), outcome) {
                Ok(now) if now == outcome => {}
                Ok(_) | Err(_) => {
                    tracing::error!(
                        "an edit could not be taken back; the next comparison will see it"
                    );
                }
            }
        }
        Err(failure)
    }

    /// Changes the index of the rules, and the tables unless they will be built anew.
    fn apply_one(
        &mut self,
        which: Which,
        edit: &Edit,
        outcome: Outcome,
    ) -> Result<Outcome, DatapathError> {
        let generation = match which {
            Which::Current => self.current.as_mut(),
            Which::Previous => self.previous.as_mut(),
        };
        let generation = generation.ok_or(DatapathError::NoGeneration)?;
        let ruleset = generation.rules.edit()?;
        let changes = change(ruleset, edit)?;
        if outcome == Outcome::NeedsRebuild {
            return Ok(outcome);
        }
        if changes.scopes_changed {
            generation.scopes = ruleset.scope_sets();
            self.page.write_scopes(generation.slot, &generation.scopes);
        }
        let first = self.tables4.edit(&mut generation.v4, &changes.v4);
        let second = self.tables6.edit(&mut generation.v6, &changes.v6);
        Ok(if first.is_ok() && second.is_ok() {
            Outcome::InPlace
        } else {
            Outcome::NeedsRebuild
        })
    }

    /// The same tables under the next number.
    fn renumber(&mut self) {
        self.number += 1;
        if let Some(current) = &mut self.current {
            current.number = self.number;
            self.page.activate(current.active());
        }
    }

    /// Builds the tables of a generation anew from its rules.
    fn rebuild(&mut self, which: Which) -> Result<(), DatapathError> {
        let generation = match which {
            Which::Current => self.current.as_mut(),
            Which::Previous => self.previous.as_mut(),
        };
        let generation = generation.ok_or(DatapathError::NoGeneration)?;
        let rules = generation.rules.all()?;
        let settings = generation.settings.clone();
        let number = generation.number;
        let keep = match which {
            Which::Current => Keep::WhatIsTheSame,
            Which::Previous => Keep::Nothing,
        };
        let mut prepared = self.prepare(rules, &settings, keep)?;
        match which {
            Which::Current => drop(self.put_in_force(prepared)),
            Which::Previous => {
                prepared.number = number;
                self.put_in_reserve(prepared);
            }
        }
        Ok(())
    }
}

/// Whether the tables could be edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    InPlace,
    NeedsRebuild,
}

fn change(ruleset: &mut Ruleset, edit: &Edit) -> Result<Changes, RulesetError> {
    match edit {
        Edit::Add(rule) => ruleset.insert(rule),
        Edit::Remove(rule) => ruleset.remove(rule),
    }
}

fn inverse(edit: &Edit) -> Edit {
    match edit {
        Edit::Add(rule) => Edit::Remove(rule.clone()),
        Edit::Remove(rule) => Edit::Add(rule.clone()),
    }
}
