//! What a layer of the gateway below the policy does to carry a permitted operation out.
//!
//! A layer that keeps files in another form than clients see reads and writes other bytes than they ask for. It does so by steps: each
//! belongs to one operation that is permitted and on record, is for the same account and place, and gives the client nothing more.

use std::sync::Arc;

use portcullis_journal::Covers;

use super::Permit;
use crate::{
    operation::{Access, Care, HandleId, Operation},
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
            (None, Some(by)) => {
                let is_there = path(step).is_none_or(|at| path(whole) == Some(at));
                path(whole).is_some() && by.0 & OWN != 0 && is_there
            }
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
        // A file that is encrypted is written anew beside the old one.
        (
            Operation::Tend {
                path,
                care: Care::Encrypt { .. },
            },
            Operation::Open {
                path: at,
                handle,
                access,
                ..
            },
        ) => path == at && handle.0 & OWN != 0 && access.writes() && !access.create,
        (
            Operation::Tend {
                care: Care::Encrypt { .. },
                ..
            },
            Operation::Write { handle, .. } | Operation::Fsetstat { handle, .. },
        ) => handle.0 & OWN != 0,
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
    | Operation::Setstat { path, .. }
    | Operation::Tend { path, .. } = operation
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        operation::Attributes,
        testing::{self, Fixture},
    };

    const READ: Access = Access::READ;
    const REPLACE: Access = Access::REPLACE;
    const CREATE: Access = Access {
        create: true,
        ..REPLACE
    };

    const HANDLE: HandleId = HandleId(7);

    fn open(path: &str, handle: HandleId, access: Access) -> Operation {
        Operation::Open {
            path: VirtualPath::clean(path.as_bytes()).unwrap(),
            handle,
            access,
            attributes: Attributes::default(),
        }
    }

    fn read(handle: HandleId) -> Operation {
        Operation::Read {
            handle,
            offset: 0,
            length: 1,
        }
    }

    fn write(handle: HandleId) -> Operation {
        Operation::Write {
            handle,
            offset: 0,
            data: Bytes::from_static(b"x"),
        }
    }

    fn close(handle: HandleId) -> Operation {
        Operation::Close { handle }
    }

    fn stat(path: &str) -> Operation {
        Operation::Stat {
            path: VirtualPath::clean(path.as_bytes()).unwrap(),
        }
    }

    fn remove(path: &str) -> Operation {
        Operation::Remove {
            path: VirtualPath::clean(path.as_bytes()).unwrap(),
        }
    }

    const ENCRYPT: Care = Care::Encrypt { expected: None };

    fn tend(path: &str, care: Care) -> Operation {
        Operation::Tend {
            path: VirtualPath::clean(path.as_bytes()).unwrap(),
            care,
        }
    }

    #[test]
    fn a_step_goes_as_far_as_its_operation_and_no_further() {
        let (other, beneath) = (HandleId(8), HANDLE.beneath());
        let fsetstat = Operation::Fsetstat {
            handle: HANDLE,
            attributes: Attributes::default(),
        };
        for (whole, allowed, forbidden) in [
            (
                open("/a", HANDLE, READ),
                vec![
                    open("/a", HANDLE, READ),
                    read(HANDLE),
                    Operation::Fstat { handle: HANDLE },
                    close(HANDLE),
                    read(beneath),
                ],
                vec![
                    open("/a", HANDLE, REPLACE),
                    write(HANDLE),
                    read(other),
                    close(other),
                    remove("/a"),
                ],
            ),
            (
                open("/a", HANDLE, CREATE),
                vec![
                    open("/a", HANDLE, REPLACE),
                    open("/a", HANDLE, CREATE),
                    open("/a", beneath, READ),
                    close(beneath),
                ],
                vec![
                    open("/b", HANDLE, REPLACE),
                    open("/a", other, REPLACE),
                    close(HANDLE),
                    write(HANDLE),
                ],
            ),
            (
                open("/a", HANDLE, REPLACE),
                vec![open("/a", HANDLE, REPLACE)],
                vec![open("/a", HANDLE, CREATE)],
            ),
            (
                read(HANDLE),
                vec![read(HANDLE)],
                vec![write(HANDLE), read(other), close(HANDLE)],
            ),
            (
                write(HANDLE),
                vec![write(HANDLE)],
                vec![write(other), close(HANDLE), fsetstat.clone()],
            ),
            (
                close(HANDLE),
                vec![
                    write(HANDLE),
                    close(HANDLE),
                    fsetstat,
                    open("/a", HANDLE, REPLACE),
                    open("/a", beneath, READ),
                    close(beneath),
                ],
                vec![
                    write(other),
                    close(other),
                    open("/a", HANDLE, CREATE),
                    open("/a", other, READ),
                    remove("/a"),
                ],
            ),
            (
                stat("/a"),
                vec![
                    stat("/a"),
                    open("/a", beneath, READ),
                    read(beneath),
                    close(beneath),
                ],
                vec![
                    open("/a", beneath, REPLACE),
                    read(HANDLE),
                    write(beneath),
                    stat("/b"),
                ],
            ),
            (
                tend("/a", Care::Rewrap),
                vec![
                    tend("/a", Care::Rewrap),
                    open("/a", beneath, READ),
                    read(beneath),
                ],
                vec![
                    tend("/b", Care::Rewrap),
                    tend("/a", ENCRYPT),
                    open("/b", beneath, READ),
                    open("/a", beneath, REPLACE),
                    write(beneath),
                    remove("/a"),
                ],
            ),
            (
                tend("/a", ENCRYPT),
                vec![
                    open("/a", beneath, READ),
                    open("/a", beneath, REPLACE),
                    write(beneath),
                    close(beneath),
                ],
                vec![
                    open("/b", beneath, REPLACE),
                    open("/a", beneath, CREATE),
                    open("/a", HANDLE, REPLACE),
                    write(HANDLE),
                    remove("/a"),
                ],
            ),
            (
                remove("/a"),
                vec![remove("/a")],
                vec![remove("/b"), open("/a", beneath, READ), stat("/a")],
            ),
        ] {
            for step in allowed {
                assert!(leads_to(&whole, &step), "{whole:?} takes {step:?}");
            }
            for step in forbidden {
                assert!(!leads_to(&whole, &step), "{whole:?} takes no {step:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_step_belongs_to_the_record_of_its_own_operation_alone() {
        let fixture = Fixture::new();
        let (one, two) = (
            fixture.recorded(stat("/a")).await,
            fixture.recorded(stat("/a")).await,
        );
        let step = one.intent().step(stat("/a"));
        assert!(one.cover(step.clone()).is_ok());
        assert!(two.cover(step).is_err(), "of another operation");
        let elsewhere = fixture.recorded(stat("/b")).await;
        assert!(one.cover(elsewhere.intent().step(stat("/b"))).is_err());
        let mut stolen = one.intent().step(stat("/a"));
        stolen.requester = Arc::new(testing::requester());
        assert!(one.cover(stolen).is_err(), "of another account");
    }
}
