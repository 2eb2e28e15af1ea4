//! Where entries come from besides the control API: a directory of list files, feeds, host names.
//!
//! Each source keeps its last good lists: they are in force until better ones were read whole, checked and taken by the engine.

pub mod directory;
pub mod feed;
pub mod format;
pub mod names;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::entry::Entry;

/// New content of lists, to be put in force as one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUpdate {
    /// By name, such as `file:partner.txt`. `None` ends the list; lists that aren't named stay as they are.
    pub lists: BTreeMap<String, Option<Vec<Entry>>>,
    /// For the journal.
    pub reason: String,
}

/// Who puts updates in force.
pub trait Sink: Send + Sync + 'static {
    /// Puts the update in force as a whole, or refuses it as a whole and says why.
    fn apply(&self, update: SourceUpdate) -> impl Future<Output = Result<(), String>> + Send;
}

/// How a source is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceStatus {
    /// The list's name, or `directory`.
    pub name: String,
    pub state: SourceState,
    /// Entries in force.
    pub entries: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<DateTime<Utc>>,
}

/// Whether what a source says is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// Nothing was read yet.
    Waiting,
    /// What it says is in force.
    Good,
    /// What it says can't be read or used; what it said before is in force.
    Failing,
    /// What it says changes too much to be taken without an operator; what it said before is in force.
    Held,
}

/// The states of all sources, shared by those who report and those who ask.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, SourceStatus>>>);

impl Board {
    /// All states, by name.
    pub fn all(&self) -> Vec<SourceStatus> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.values().cloned().collect()
    }

    /// Changes the state of the source called `name`, which is made if there is none.
    fn update(&self, name: &str, change: impl FnOnce(&mut SourceStatus)) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let status = states
            .entry(name.to_owned())
            .or_insert_with(|| SourceStatus {
                name: name.to_owned(),
                state: SourceState::Waiting,
                entries: 0,
                last_good: None,
                last_error: None,
                next_try: None,
            });
        change(status);
    }

    fn remove(&self, name: &str) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.remove(name);
    }
}
