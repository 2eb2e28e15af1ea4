//! An open directory.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir},
    io::Errno,
};

use super::{attributes, fault::Fault};
use crate::{backend::staging, operation::Entry};

/// Names in one answer. With the longest names the reply stays below the 256 KiB that clients accept.
const BATCH: usize = 200;

/// An open directory, read from its begin to its end.
#[derive(Debug)]
pub(super) struct Listing {
    directory: OwnedFd,
    entries: Dir,
}

impl Listing {
    pub(super) fn new(directory: OwnedFd) -> Result<Self, Fault> {
        Ok(Self {
            entries: Dir::read_from(&directory)?,
            directory,
        })
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The next names with their attributes, links not followed; none at the end. A name that vanishes meanwhile is left
    /// out, as are `.`, `..` and uploads in progress.
    pub(super) fn next_batch(&mut self) -> Result<Vec<Entry>, Fault> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(entry) = self.entries.read() else {
                break;
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || staging::is_reserved(name) {
                continue;
            }
            match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => batch.push(Entry {
                    name: Bytes::copy_from_slice(name),
                    attributes: attributes::from_stat(&stat),
                }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(batch)
    }
}
