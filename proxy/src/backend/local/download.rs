//! A file open for reading only: no order to keep, so what the page cache holds is answered at once.

use std::{io::IoSliceMut, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

use super::fault::Fault;
use crate::backend::buffers::Buffer;

/// A file open for reading. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Download(pub(super) Arc<OwnedFd>);

impl Download {
    /// What the page cache has of the range, if that answers the request: all of it, or all up to the file's end. Otherwise the
    /// buffer comes back, with how many bytes are in it.
    pub(super) fn read_cached(
        &self,
        offset: u64,
        length: usize,
        mut buffer: Buffer,
    ) -> Result<Bytes, (Buffer, usize)> {
        match self.cached(offset, buffer.first(length)) {
            Some(got) if got == length || self.ends_at(offset, got) => Ok(buffer.freeze(got)),
            got => Err((buffer, got.unwrap_or(0))),
        }
    }

    fn cached(&self, offset: u64, room: &mut [u8]) -> Option<usize> {
        // preadv2 takes the offset -1 for the file's own position.
        i64::try_from(offset).ok()?;
        rustix::io::preadv2(
            &self.0,
            &mut [IoSliceMut::new(room)],
            offset,
            ReadWriteFlags::NOWAIT,
        )
        .ok()
    }

    fn ends_at(&self, offset: u64, got: usize) -> bool {
        let size = rustix::fs::fstat(&self.0).map(|status| u64::try_from(status.st_size));
        offset
            .checked_add(got as u64)
            .is_some_and(|end| matches!(size, Ok(Ok(size)) if end >= size))
    }

    /// Reads the rest of the range from disk, of which the buffer has the first `done` bytes; empty past the end.
    pub(super) fn read(
        &self,
        offset: u64,
        length: usize,
        (mut buffer, mut done): (Buffer, usize),
    ) -> Result<Bytes, Fault> {
        while let Some(room) = buffer.first(length).get_mut(done..)
            && !room.is_empty()
        {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match rustix::io::pread(&self.0, room, at) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(buffer.freeze(done))
    }
}

/// Reads until `length` bytes or the end of the file; empty past the end.
pub(super) fn read_fully(file: &OwnedFd, offset: u64, length: usize) -> Result<Bytes, Fault> {
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let at = offset
            .checked_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX))
            .ok_or(Errno::INVAL)?;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    buffer.truncate(length);
    Ok(buffer.into())
}
