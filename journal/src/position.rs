//! Where a log can be gone on with, so that a start need not read all of it.
//!
//! The file is an aid: it counts only where a signed head says the same, and what is missing or damaged is read instead.

use std::io::{self, Read as _};

use serde::{Deserialize, Serialize};

use crate::{
    chain::End,
    checked,
    disk::{Disk, Reader, write_all},
    keeper::Closed,
};

const UNFINISHED: &str = "position.new";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Closed segments that are not sealed yet, in order.
    pub(crate) closed: Vec<Closed>,
    /// The segment that grows, and its length at `end`, in bytes.
    pub(crate) segment: String,
    pub(crate) length: u64,
    pub(crate) end: End,
}

impl Position {
    pub(crate) const NAME: &str = "position";

    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.remove(UNFINISHED)?;
        let file = disk.open(UNFINISHED)?;
        write_all(file.as_ref(), &checked::seal(&serde_json::to_vec(self)?), 0)?;
        file.sync()?;
        disk.rename(UNFINISHED, Self::NAME)?;
        disk.sync_names()
    }

    /// The last one that was written, if there is one and it can be read.
    pub(crate) fn read(disk: &dyn Disk) -> Option<Self> {
        if !disk.names().ok()?.iter().any(|name| name == Self::NAME) {
            return None;
        }
        let file = disk.open(Self::NAME).ok()?;
        let mut text = Vec::new();
        Reader::new(file.as_ref()).read_to_end(&mut text).ok()?;
        Self::parse(&text)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(checked::open(text)?).ok()
    }
}
