//! What all parts of one connection share once the user is authenticated.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use portcullis_journal::{Journal, SessionId};

use crate::{auth::Authenticated, backend::BackendService, policy::Mount};

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
    pub journal: Journal,
    pub activity: Activity,
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
