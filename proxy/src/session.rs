//! What all parts of one connection share once the user is authenticated.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use portcullis_journal::{Journal, SessionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::Authenticated,
    backend::BackendService,
    policy::Mount,
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
    pub journal: Journal,
    pub activity: Activity,
    pub budget: Budget,
    pub digests: Digests,
}

/// Bytes that all channels of one session may hold together.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Of READ and READDIR replies under way and not yet written, beside each channel's own [`Credit::OWN`].
    pub read: Arc<Semaphore>,
    /// Of WRITEs that have arrived and are not done.
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

/// Bytes of READ and READDIR replies that one channel may have under way: some of its own, and what the session's
/// [`Budget`] has left. A sibling that is never read holds the session's part for ever, and this channel goes on with its
/// own.
#[derive(Debug, Clone)]
pub struct Credit {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

impl Credit {
    /// Enough for four of the longest READs.
    pub const OWN: usize = 1 << 20;

    /// Of a channel of the session.
    pub fn new(budget: &Budget) -> Self {
        Self {
            own: Arc::new(Semaphore::new(Self::OWN)),
            shared: Arc::clone(&budget.read),
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

/// When this session last did something: an SFTP request that arrived, data that moved. Keepalives don't count.
#[derive(Debug, Clone)]
pub struct Activity(Arc<std::sync::atomic::AtomicU64>, std::time::Instant);

impl Activity {
    /// Active now.
    pub fn begin(now: std::time::Instant) -> Self {
        Self(Arc::default(), now)
    }

    /// Something happened.
    pub fn touch(&self, now: std::time::Instant) {
        let since =
            u64::try_from(now.saturating_duration_since(self.1).as_millis()).unwrap_or(u64::MAX);
        self.0
            .fetch_max(since, std::sync::atomic::Ordering::Relaxed);
    }

    /// How long nothing has happened.
    pub fn idle(&self, now: std::time::Instant) -> std::time::Duration {
        let last =
            std::time::Duration::from_millis(self.0.load(std::sync::atomic::Ordering::Relaxed));
        now.saturating_duration_since(self.1).saturating_sub(last)
    }
}
