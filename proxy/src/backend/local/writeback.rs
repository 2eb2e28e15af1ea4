//! Bytes of an upload on their way to the disk while more arrive, so that CLOSE finds little left to wait for.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::io::Errno;

use super::lane::Pool;

/// Bytes worth a sync of their own: small uploads wait for the one at CLOSE only.
const DISTANCE: u64 = 32 << 20;

/// The syncs of one upload.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    unsynced: u64,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    is_busy: AtomicBool,
    /// Held while a sync runs. The kernel tells a failed one to whoever asks first, and to nobody else.
    result: Mutex<Result<(), Errno>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            is_busy: AtomicBool::new(false),
            result: Mutex::new(Ok(())),
        }
    }
}

impl Writeback {
    /// Notes that `bytes` were written to `file`, and begins a sync beside the writes if it is time.
    pub(super) fn wrote(&mut self, bytes: usize, file: &Arc<OwnedFd>, pool: &Pool) {
        self.unsynced = self.unsynced.saturating_add(bytes as u64);
        if self.unsynced < DISTANCE || self.shared.is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        self.unsynced = 0;
        let (shared, file) = (Arc::clone(&self.shared), Arc::clone(file));
        pool.start(move || shared.sync(&file));
    }

    /// Waits until everything is on disk.
    ///
    /// # Errors
    /// If this sync or one before it failed: bytes are lost then.
    pub(super) fn finish(&self, file: &OwnedFd) -> Result<(), Errno> {
        let result = self.shared.result.lock();
        (*result.unwrap_or_else(PoisonError::into_inner))?;
        rustix::fs::fsync(file)
    }

    /// True if a sync failed: bytes are lost then. Waits for one that runs.
    pub(super) fn has_failed(&self) -> bool {
        let result = self.shared.result.lock();
        result.unwrap_or_else(PoisonError::into_inner).is_err()
    }
}

impl Shared {
    fn sync(&self, file: &OwnedFd) {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() {
            *result = rustix::fs::fdatasync(file);
        }
        self.is_busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<OwnedFd> {
        Arc::new(tempfile::tempfile().unwrap().into())
    }

    /// A socket can't be synced: EINVAL.
    fn unsyncable() -> Arc<OwnedFd> {
        Arc::new(std::os::unix::net::UnixStream::pair().unwrap().0.into())
    }

    #[tokio::test]
    async fn a_sync_that_failed_beside_the_writes_fails_the_upload() {
        let (pool, file) = (Pool::new(std::time::Duration::from_secs(30)), file());
        let mut writeback = Writeback::default();
        writeback.wrote(1 << 20, &unsyncable(), &pool);
        assert_eq!(writeback.finish(&file), Ok(()), "too little for a sync");
        assert!(!writeback.has_failed());
        writeback.wrote(31 << 20, &unsyncable(), &pool);
        while writeback.shared.is_busy.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert_eq!(writeback.finish(&file), Err(Errno::INVAL));
        assert!(writeback.has_failed());
    }

    #[tokio::test]
    async fn one_sync_runs_at_a_time() {
        let (pool, file) = (Pool::new(std::time::Duration::from_secs(30)), file());
        let mut writeback = Writeback::default();
        let shared = Arc::clone(&writeback.shared);
        let running = shared.result.lock().unwrap();
        writeback.wrote(32 << 20, &file, &pool);
        assert_eq!(writeback.unsynced, 0);
        writeback.wrote(32 << 20, &file, &pool);
        assert_eq!(writeback.unsynced, 32 << 20, "the first has not ended");
        drop(running);
        while shared.is_busy.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        writeback.wrote(1, &file, &pool);
        assert_eq!(writeback.unsynced, 0);
        assert_eq!(writeback.finish(&file), Ok(()));
    }
}
