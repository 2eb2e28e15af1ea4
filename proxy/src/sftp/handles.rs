//! The open files and directories of one channel.

use std::{collections::HashMap, sync::Arc};

use super::transfer::Transfer;
use crate::{
    gate::Announcement,
    operation::{Entry, HandleId, MAX_OPEN_HANDLES},
    path::VirtualPath,
    policy::{Direction, OpenHandle},
    session::UnderWay,
};

/// Handles by their id; an id is never used twice.
#[derive(Debug)]
pub struct Handles {
    next: u64,
    /// OPENs under way: they will need a place.
    reserved: usize,
    open: HashMap<HandleId, Slot>,
}

/// One open handle and what has gone through it.
#[derive(Debug)]
pub struct Slot {
    pub handle: Arc<OpenHandle>,
    /// `None` for a directory.
    pub transfer: Option<Transfer>,
    /// While a file is open, its session is working.
    pub under_way: Option<UnderWay>,
    /// Names that the last packet had no room for.
    pub unsent: Vec<Entry>,
    /// What was announced last for its READs, and for its WRITEs.
    pub extents: Extents,
    /// The upload whose bytes a handle for reading shows. It may be closed by now.
    upload: Option<HandleId>,
    /// A CLOSE has arrived: for the client the handle is gone.
    closing: bool,
}

/// The latest extent of each direction.
#[derive(Debug, Default)]
pub struct Extents {
    read: Option<Arc<Announcement>>,
    write: Option<Arc<Announcement>>,
}

impl Extents {
    pub fn of(&mut self, direction: Direction) -> &mut Option<Arc<Announcement>> {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }
}

impl Slot {
    /// A CLOSE has arrived and is not done.
    pub fn is_closing(&self) -> bool {
        self.closing
    }
}

impl Handles {
    /// `first` is the first id; channels that begin at random numbers can be told apart in the records of a session.
    pub fn new(first: u64) -> Self {
        Self {
            next: first,
            reserved: 0,
            open: HashMap::new(),
        }
    }

    /// The id for the next OPEN.
    pub fn next_id(&self) -> HandleId {
        HandleId(self.next)
    }

    pub fn is_full(&self) -> bool {
        self.open.len() + self.reserved >= MAX_OPEN_HANDLES
    }

    /// The OPEN with [`next_id`](Self::next_id) was permitted.
    pub fn reserve(&mut self) {
        self.next += 1;
        self.reserved += 1;
    }

    /// A reserved OPEN has ended: with an open handle, or without.
    pub fn settle(&mut self, opened: Option<(OpenHandle, Option<Transfer>)>) {
        self.reserved -= 1;
        if let Some((handle, transfer)) = opened {
            let upload = if handle.is_written() {
                None
            } else {
                self.written(handle.path()).map(|slot| slot.handle.id())
            };
            let slot = Slot {
                handle: Arc::new(handle),
                transfer,
                under_way: None,
                unsent: Vec::new(),
                extents: Extents::default(),
                upload,
                closing: false,
            };
            self.open.insert(slot.handle.id(), slot);
        }
    }

    /// What a client may still name.
    pub fn find(&self, id: HandleId) -> Option<&Arc<OpenHandle>> {
        let slot = self.open.get(&id)?;
        (!slot.closing).then_some(&slot.handle)
    }

    /// The handle through which the client writes `path`, the latest if there are several, if it may still name it.
    pub fn upload_to(&self, path: &VirtualPath) -> Option<HandleId> {
        self.written(path)
            .filter(|slot| !slot.closing)
            .map(|slot| slot.handle.id())
    }

    /// As [`upload_to`](Self::upload_to), for the path and all below it.
    pub fn upload_within(&self, path: &VirtualPath) -> Option<HandleId> {
        self.open
            .values()
            .filter(|slot| slot.handle.is_written() && !slot.closing)
            .find(|slot| slot.handle.path().below(path).is_some())
            .map(|slot| slot.handle.id())
    }

    /// The upload whose bytes a request through `id` looks at, if that handle doesn't write them itself.
    pub fn upload_behind(&self, id: HandleId) -> Option<HandleId> {
        self.open.get(&id)?.upload
    }

    /// Where the client writes `path`, closing or not.
    pub fn written(&self, path: &VirtualPath) -> Option<&Slot> {
        self.open
            .values()
            .filter(|slot| slot.handle.is_written() && slot.handle.path() == path)
            .max_by_key(|slot| slot.handle.id())
    }

    /// What stands behind a handle, closing or not.
    pub fn slot(&mut self, id: HandleId) -> Option<&mut Slot> {
        self.open.get_mut(&id)
    }

    /// As [`slot`](Self::slot), to look at.
    pub fn slot_ref(&self, id: HandleId) -> Option<&Slot> {
        self.open.get(&id)
    }

    /// Marks a handle as closing, or takes that back.
    pub fn set_closing(&mut self, id: HandleId, closing: bool) {
        if let Some(slot) = self.open.get_mut(&id) {
            slot.closing = closing;
        }
    }

    pub fn remove(&mut self, id: HandleId) -> Option<Slot> {
        self.open.remove(&id)
    }

    /// All that is open, in the order in which it was opened.
    pub fn take_all(&mut self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.open.drain().map(|(_, slot)| slot).collect();
        slots.sort_by_key(|slot| slot.handle.id());
        slots
    }
}
