//! A file open for reading only: no order to keep, so what the page cache holds is answered at once.

use std::{io::IoSliceMut, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

use super::{buffers::Buffer, fault::Fault};

/// A file open for reading. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Download(pub(super) Arc<OwnedFd>);

impl Download {
    /// What the page cache has of the range, if that answers the request: all of it, or all up to the file's end. Otherwise the
    /// buffer comes back.
    pub(super) fn read_cached(
        &self,
        offset: u64,
        length: usize,
        mut buffer: Buffer,
    ) -> Result<Bytes, Buffer> {
        match self.cached(offset, buffer.first(length)) {
            Some(got) => Ok(buffer.freeze(got)),
            None => Err(buffer),
        }
    }

    fn cached(&self, offset: u64, room: &mut [u8]) -> Option<usize> {
        let length = room.len();
        // preadv2 takes the offset -1 for the file's own position.
        i64::try_from(offset).ok()?;
        let got = rustix::io::preadv2(
            &self.0,
            &mut [IoSliceMut::new(room)],
            offset,
            ReadWriteFlags::NOWAIT,
        )
        .ok()?;
        let end = offset.checked_add(u64::try_from(got).ok()?)?;
        let is_complete = got == length
            || u64::try_from(rustix::fs::fstat(&self.0).ok()?.st_size)
                .is_ok_and(|size| end >= size);
        is_complete.then_some(got)
    }

    /// Reads the range from disk; empty past the end.
    pub(super) fn read(
        &self,
        offset: u64,
        length: usize,
        mut buffer: Buffer,
    ) -> Result<Bytes, Fault> {
        let mut done = 0;
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
