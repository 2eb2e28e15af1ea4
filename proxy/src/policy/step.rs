//! What a layer of the gateway below the policy does to carry a permitted operation out.
//!
//! A layer that keeps files in another form than clients see reads and writes other bytes than they ask for. It does so by steps: each
//! belongs to one operation that is permitted and on record, is for the same account and place, and gives the client nothing more.

use std::sync::Arc;

use portcullis_journal::Covers;

use super::Permit;
use crate::{
    operation::{Access, HandleId, Operation},
    path::VirtualPath,
};

/// Set in handles that a layer opens for itself.
const OWN: u64 = 1 << 63;

impl HandleId {
    /// The handle of the file that stands where the one of this handle is to come. Clients can't have it.
    pub fn beneath(self) -> Self {
        Self(self.0 | OWN)
    }
}

impl Permit {
    /// A step of this operation, for [`Recorded::cover`](portcullis_journal::Recorded::cover), which refuses one that goes further.
    pub fn step(&self, operation: Operation) -> Self {
        Self {
            operation,
            ..self.clone()
        }
    }
}

impl Covers<Self> for Permit {
    fn covers(&self, step: &Self) -> bool {
        self.id == step.id
            && self.route == step.route
            && self.decision == step.decision
            && Arc::ptr_eq(&self.requester, &step.requester)
            && leads_to(&self.operation, &step.operation)
    }
}

/// True if carrying out `whole` may take `step`.
fn leads_to(whole: &Operation, step: &Operation) -> bool {
    if reads(step) {
        return match (whole.handle().or(opened(whole)), on(step)) {
            (Some(handle), Some(by)) => by == handle || by == handle.beneath(),
            // By path: nothing that a client has is open.
            (None, Some(by)) => path(whole).is_some() && by.0 & OWN != 0,
            (_, None) => path(whole).is_some() && path(whole) == path(step),
        };
    }
    match (whole, step) {
        // An upload is made of what it is made of, and its end publishes it.
        (
            Operation::Open {
                path,
                handle,
                access,
                ..
            },
            Operation::Open {
                path: at,
                handle: by,
                access: asked,
                ..
            },
        ) => path == at && handle == by && is_no_more(*asked, *access),
        (
            Operation::Write { handle, .. } | Operation::Close { handle },
            Operation::Write { handle: by, .. },
        )
        | (
            Operation::Close { handle },
            Operation::Close { handle: by } | Operation::Fsetstat { handle: by, .. },
        )
        | (Operation::Fsetstat { handle, .. }, Operation::Fsetstat { handle: by, .. }) => {
            handle == by
        }
        // What was opened for reading and is not what it should be.
        (Operation::Open { handle, access, .. }, Operation::Close { handle: by }) => {
            handle == by && !access.writes()
        }
        // What is changed in the middle is written anew when it is closed.
        (
            Operation::Close { handle },
            Operation::Open {
                handle: by, access, ..
            },
        ) => handle == by && access.writes() && !access.create,
        // SETSTAT with a size writes the file anew.
        (
            Operation::Setstat { path, .. },
            Operation::Open {
                path: at, access, ..
            },
        ) => path == at && access.writes() && !access.create,
        (
            Operation::Setstat { .. },
            Operation::Write { handle, .. }
            | Operation::Close { handle }
            | Operation::Fsetstat { handle, .. },
        ) => handle.0 & OWN != 0,
        (Operation::Setstat { path, .. }, Operation::Setstat { path: at, .. }) => path == at,
        // As it is.
        _ => whole == step,
    }
}

/// True for what changes nothing: an OPEN for reading, a READ, a look, the CLOSE of what a layer opened.
fn reads(step: &Operation) -> bool {
    if let Operation::Open { access, .. } = step {
        return !access.writes() && !access.create && !access.truncate;
    }
    if let Operation::Close { handle } = step {
        return handle.0 & OWN != 0;
    }
    matches!(
        step,
        Operation::Read { .. }
            | Operation::Fstat { .. }
            | Operation::Stat { .. }
            | Operation::Lstat { .. }
    )
}

/// The handle that a step is on, or opens.
fn on(step: &Operation) -> Option<HandleId> {
    step.handle().or(opened(step))
}

fn opened(operation: &Operation) -> Option<HandleId> {
    if let Operation::Open { handle, .. } = operation {
        Some(*handle)
    } else {
        None
    }
}

fn path(operation: &Operation) -> Option<&VirtualPath> {
    if let Operation::Open { path, .. }
    | Operation::Stat { path }
    | Operation::Lstat { path }
    | Operation::Setstat { path, .. } = operation
    {
        Some(path)
    } else {
        None
    }
}

/// True if `asked` is nothing that `granted` does not have, but for reading: the client sees nothing of it.
fn is_no_more(asked: Access, granted: Access) -> bool {
    (!asked.writes() || granted.writes())
        && (!asked.create || granted.create)
        && (!granted.exclusive || asked.exclusive)
}
