//! Stretches of an open file whose READs or WRITEs are announced at once.

use std::sync::Arc;

use portcullis_journal::{Covers, Event, EventKind, Intent, OperationId, SessionId, Verdict};

use super::{Permit, Requester};
use crate::operation::{HandleId, Operation};

/// Which records READs and WRITEs make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataOps {
    /// An intent and an outcome for each request.
    #[default]
    Each,
    /// Those for [`DataOps::EXTENT`] bytes at once, and in each direction.
    Extent,
    /// Those for the whole open file, and in each direction.
    Summary,
}

impl DataOps {
    /// What an extent reserves, in bytes: 64 to 512 requests of the usual clients.
    pub const EXTENT: u64 = 16 << 20;
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// A stretch of an open file that a client may read, or write, with one record before and one after.
#[derive(Debug, Clone)]
pub struct Extent {
    id: OperationId,
    requester: Arc<Requester>,
    handle: HandleId,
    direction: Direction,
    from: u64,
    /// Excluded; `None` is all up to the end.
    until: Option<u64>,
}

/// What a READ or WRITE touches.
struct Access {
    handle: HandleId,
    direction: Direction,
    offset: u64,
    length: u64,
}

impl Extent {
    /// The stretch that is announced, as `id`, for a permitted READ or WRITE and those like it; `None` for any other
    /// operation, and where each request has its own records.
    pub fn of(permit: &Permit, data_ops: DataOps, id: OperationId) -> Option<Self> {
        let access = Access::of(permit.operation())?;
        let (from, until) = match data_ops {
            DataOps::Each => return None,
            DataOps::Extent => {
                let length = access.length.max(DataOps::EXTENT);
                (access.offset, access.offset.checked_add(length))
            }
            DataOps::Summary => (0, None),
        };
        Some(Self {
            id,
            requester: Arc::clone(permit.requester()),
            handle: access.handle,
            direction: access.direction,
            from,
            until,
        })
    }

    pub fn id(&self) -> OperationId {
        self.id
    }

    pub fn requester(&self) -> &Arc<Requester> {
        &self.requester
    }

    fn session(&self) -> SessionId {
        self.requester.session
    }
}

impl Access {
    fn of(operation: &Operation) -> Option<Self> {
        if let Operation::Read {
            handle,
            offset,
            length,
        } = operation
        {
            return Some(Self {
                handle: *handle,
                direction: Direction::Read,
                offset: *offset,
                length: u64::from(*length),
            });
        }
        if let Operation::Write {
            handle,
            offset,
            data,
        } = operation
        {
            return Some(Self {
                handle: *handle,
                direction: Direction::Write,
                offset: *offset,
                length: data.len() as u64,
            });
        }
        None
    }
}

impl Direction {
    /// Of a READ or WRITE.
    pub fn of(operation: &Operation) -> Option<Self> {
        Some(Access::of(operation)?.direction)
    }

    /// As records name the operation.
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Intent for Extent {
    fn event(&self) -> Event {
        let mut event = self.requester.event(EventKind::OperationIntent);
        event.outcome = Some(Verdict::Allow);
        event.operation = Some(self.id);
        let body = &mut event.body;
        body.insert("sftp_op".into(), self.direction.name().into());
        body.insert("handle_id".into(), self.handle.0.into());
        body.insert("offset".into(), self.from.into());
        body.insert(
            "len".into(),
            self.until.map(|until| until - self.from).into(),
        );
        body.insert("extent".into(), true.into());
        event
    }
}

impl Covers<Permit> for Extent {
    fn covers(&self, permit: &Permit) -> bool {
        let Some(access) = Access::of(permit.operation()) else {
            return false;
        };
        let ends = access.offset.checked_add(access.length);
        permit.requester().session == self.session()
            && access.handle == self.handle
            && access.direction == self.direction
            && access.offset >= self.from
            && self
                .until
                .is_none_or(|until| ends.is_some_and(|end| end <= until))
    }
}
