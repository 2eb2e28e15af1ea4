//! What all parts of one connection share once the user is authenticated.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_journal::{Journal, SessionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    allowance::{Ledger, SessionPlace},
    auth::Authenticated,
    backend::BackendService,
    config::ScpMode,
    policy::{DataOps, Mount},
    sftp::{Digests, request::Extensions},
};

/// The configured backends by name.
pub type Backends = Arc<HashMap<String, Arc<dyn BackendService>>>;

/// One authenticated connection.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: SessionId,
    pub source: SocketAddr,
    pub user: Arc<Authenticated>,
    pub mounts: Arc<Vec<Mount>>,
    pub backends: Backends,
    /// Those that are off by default and switched on.
    pub extensions: Extensions,
    pub ledger: Ledger,
    /// Held for as long as anything of the session lives.
    pub place: Arc<SessionPlace>,
    pub journal: Journal,
    pub activity: Activity,
    pub budget: Budget,
    pub digests: Digests,
    pub data_ops: DataOps,
    pub scp: ScpMode,
}

/// Bytes that all channels of one session may hold together.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Of READ and READDIR replies under way and not yet written, beside each channel's own [`Credit::OWN`].
    pub read: Arc<Semaphore>,
    /// Of WRITEs that have arrived and are not done, likewise.
    pub write: Arc<Semaphore>,
}

impl Budget {
    /// Enough for 32 of the longest READs.
    pub const READ: usize = 8 << 20;
    /// OpenSSH's client may have 64 WRITEs of 255 KiB under way; twice that.
    pub const WRITE: usize = 32 << 20;
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            read: Arc::new(Semaphore::new(Self::READ)),
            write: Arc::new(Semaphore::new(Self::WRITE)),
        }
    }
}

/// Bytes that one channel may hold in one direction: some of its own, and what the session's [`Budget`] has left. A sibling
/// that is never read, or whose backend takes nothing, holds the session's part for ever, and this channel goes on with
/// its own.
#[derive(Debug, Clone)]
pub struct Credit {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

impl Credit {
    /// Enough for four of the longest READs or WRITEs.
    pub const OWN: usize = 1 << 20;

    /// Of a channel of the session, for the replies to READ and READDIR.
    pub fn to_read(budget: &Budget) -> Self {
        Self::with(&budget.read)
    }

    /// Of a channel of the session, for the data of WRITEs.
    pub fn to_write(budget: &Budget) -> Self {
        Self::with(&budget.write)
    }

    fn with(shared: &Arc<Semaphore>) -> Self {
        Self {
            own: Arc::new(Semaphore::new(Self::OWN)),
            shared: Arc::clone(shared),
        }
    }

    /// Takes so many bytes, if one of the two has them.
    pub fn try_take(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        let take = |from: &Arc<Semaphore>| Arc::clone(from).try_acquire_many_owned(bytes).ok();
        take(&self.own).or_else(|| take(&self.shared))
    }

    /// Takes so many bytes as soon as one of the two has them.
    pub fn take(&self, bytes: u32) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let own = Arc::clone(&self.own).acquire_many_owned(bytes);
        let shared = Arc::clone(&self.shared).acquire_many_owned(bytes);
        async move {
            tokio::select! {
                permit = own => permit.ok(),
                permit = shared => permit.ok(),
            }
        }
    }
}

/// When this session last did something: an SFTP request that arrived, data that moved. Keepalives don't count. And what it
/// has under way.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Deeds>);

#[derive(Debug)]
struct Deeds {
    begun: Instant,
    /// Milliseconds after `begun` when something last happened.
    last: AtomicU64,
    under_way: AtomicUsize,
}

/// Something that is under way for as long as this lives: an open file, an operation.
#[derive(Debug)]
pub struct UnderWay(Activity);

impl Activity {
    /// Active now.
    pub fn begin(now: Instant) -> Self {
        Self(Arc::new(Deeds {
            begun: now,
            last: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
        }))
    }

    /// Something happened.
    pub fn touch(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.0.begun).as_millis())
            .unwrap_or(u64::MAX);
        self.0.last.fetch_max(since, Ordering::Relaxed);
    }

    /// How long nothing has happened.
    pub fn idle(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.0.begun)
            .saturating_sub(last)
    }

    /// Something begins that a shutdown should not cut before its grace ends.
    pub fn begin_work(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// True while a file is open or an operation runs, however long nothing happens.
    pub fn is_working(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.touch(Instant::now());
        self.0.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_works_while_something_is_under_way_and_is_idle_all_the_same() {
        let now = Instant::now();
        let activity = Activity::begin(now);
        assert!(!activity.is_working());
        let file = activity.begin_work();
        let operation = activity.begin_work();
        drop(file);
        assert!(activity.is_working());
        let later = now + Duration::from_secs(60);
        assert!(activity.idle(later) > Duration::from_secs(50));
        drop(operation);
        assert!(!activity.is_working());
        activity.touch(later);
        assert!(activity.idle(later) < Duration::from_millis(2));
    }
}
