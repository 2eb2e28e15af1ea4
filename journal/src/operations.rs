//! Operations that are announced and have no outcome yet.

use std::collections::HashMap;

use crate::{
    OperationId, SessionId,
    line::Envelope,
    record::{Event, EventKind},
};

type Name = (SessionId, OperationId);

/// What a record says about an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begun(Name),
    Ended(Name),
}

impl Step {
    pub(crate) fn of_event(event: &Event) -> Option<Self> {
        let name = (event.session?, event.operation?);
        if event.kind == EventKind::OperationIntent {
            Some(Self::Begun(name))
        } else {
            (event.kind == EventKind::OperationOutcome).then_some(Self::Ended(name))
        }
    }

    pub(crate) fn of_record(record: &Envelope<'_>) -> Option<Self> {
        let mut session = [0; 16];
        hex::decode_to_slice(record.session_id.as_ref()?.as_bytes(), &mut session).ok()?;
        let name = (SessionId(session), OperationId(record.op_id?));
        match record.event.as_ref() {
            "op.intent" => Some(Self::Begun(name)),
            "op.outcome" => Some(Self::Ended(name)),
            _ => None,
        }
    }
}

/// Operations without an outcome.
#[derive(Debug, Default)]
pub(crate) struct OpenOperations {
    /// When each began, counted in steps.
    begun: HashMap<Name, u64>,
    steps: u64,
}

impl OpenOperations {
    /// Those that `list` gave.
    pub(crate) fn from_list(list: &[Name]) -> Self {
        let mut open = Self::default();
        list.iter().for_each(|&name| open.take(Step::Begun(name)));
        open
    }

    pub(crate) fn take(&mut self, step: Step) {
        self.steps += 1;
        match step {
            Step::Begun(name) => drop(self.begun.insert(name, self.steps)),
            Step::Ended(name) => drop(self.begun.remove(&name)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.begun.len()
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Name> {
        let mut all: Vec<_> = self.begun.iter().collect();
        all.sort_by_key(|&(_, begun)| begun);
        all.into_iter().map(|(&name, _)| name).collect()
    }
}
