//! The control connections of one session and mount.
//!
//! FTP does one thing at a time on a connection, so each transfer in progress holds one of its own. All others share what
//! is left, in turn.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Instant,
};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    download,
    fault::Fault,
    location::{Base, Location},
    server::Server,
};
use crate::{
    backend::{ErrorKind, Owner, staging::SessionNames},
    path::RelativePath,
};

/// Connections of one session and mount: as many as clients usually open to an FTP server.
const CONNECTIONS: usize = 4;
/// One always remains for short commands, so that a session with open transfers can go on.
const TRANSFERS: usize = CONNECTIONS - 1;

/// Downloads that may have bytes in memory, read ahead or kept: some 5 MiB each.
const DOWNLOADS: usize = 8;
/// Names of directories that are being listed, for one session: some 100 bytes each.
const LISTED_NAMES: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct Pool {
    server: Arc<Server>,
    directory: Vec<u8>,
    names: SessionNames,
    is_beneath: bool,
    base: OnceCell<Base>,
    /// Connections that nobody uses, each since when; the last was used last.
    idle: Mutex<Vec<(Instant, Connection)>>,
    connections: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    /// Downloads, the longest open first. One gives way when another transfer needs its connection.
    downloads: Mutex<VecDeque<Weak<download::Line>>>,
    listed_names: Arc<Semaphore>,
    ended: CancellationToken,
    keeper: OnceLock<()>,
}

/// A connection in use. It goes back to the pool unless it is out of step.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _connection_permit: OwnedSemaphorePermit,
    _transfer_permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(
        server: Arc<Server>,
        directory: &[u8],
        owner: &Owner,
        ended: CancellationToken,
    ) -> Self {
        Self {
            names: server.names.session(owner, directory),
            is_beneath: owner.is_beneath_a_layer(),
            server,
            directory: directory.to_vec(),
            base: OnceCell::new(),
            idle: Mutex::new(Vec::new()),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            downloads: Mutex::new(VecDeque::new()),
            listed_names: Arc::new(Semaphore::new(LISTED_NAMES)),
            ended,
            keeper: OnceLock::new(),
        }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The staging names of this session.
    pub(super) fn names(&self) -> &SessionNames {
        &self.names
    }

    /// Its uploads are read by a layer above, and go on with other bytes than those that were there.
    pub(super) fn is_beneath_a_layer(&self) -> bool {
        self.is_beneath
    }

    /// False once it is known that the server takes no rest of an interrupted upload. At its end alone, as by APPE, is not enough
    /// for a layer.
    pub(super) fn may_resume(&self) -> bool {
        let quirks = &self.server.quirks;
        !(quirks.no_resume.is_known()
            || self.is_beneath && (quirks.no_rest.is_known() || quirks.no_restore.is_known()))
    }

    /// Whether the server takes the rest of an interrupted upload, as far as it tells without one.
    pub(super) async fn continues_uploads(&self, lease: &mut Lease) -> Result<bool, Fault> {
        if lease.restarts_uploads().await? {
            return Ok(true);
        }
        if self.is_beneath {
            self.server.quirks.no_restore.learn();
            return Ok(false);
        }
        lease.appends().await
    }

    /// A connection for short commands.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Fault> {
        self.lease_with(None).await
    }

    /// A connection for a transfer. If all are in use, a download gives way: it can begin again where it was.
    pub(super) async fn lease_for_transfer(self: &Arc<Self>) -> Result<Lease, Fault> {
        let transfers = Arc::clone(&self.transfers);
        let permit = match transfers.try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) if self.ask_a_download() => {
                let waiting = Arc::clone(&self.transfers).acquire_owned();
                tokio::time::timeout(self.server.settings.timeout, waiting)
                    .await
                    .ok()
                    .and_then(Result::ok)
            }
            Err(_) => None,
        };
        let Some(permit) = permit else {
            return Err(Fault::judged(
                ErrorKind::Unavailable,
                format!(
                    "{TRANSFERS} transfers are open already in this session, and each needs its own FTP connection; \
                     close one first"
                ),
            ));
        };
        self.lease_with(Some(permit)).await
    }

    /// Says that the download has begun a transfer, which may be broken off in favour of another.
    pub(super) fn may_give_way(&self, line: &Arc<download::Line>) {
        let oldest = {
            let mut downloads = self
                .downloads
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            downloads
                .retain(|known| known.strong_count() > 0 && !known.ptr_eq(&Arc::downgrade(line)));
            downloads.push_back(Arc::downgrade(line));
            (downloads.len() > DOWNLOADS)
                .then(|| downloads.pop_front())
                .flatten()
        };
        if let Some(oldest) = oldest.as_ref().and_then(Weak::upgrade) {
            oldest.take();
        }
    }

    /// Takes the connection of the download that has one for longest, or asks for it; false if there is none.
    fn ask_a_download(&self) -> bool {
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while let Some(line) = downloads.pop_front() {
            if line.upgrade().is_some_and(|line| line.take()) {
                return true;
            }
        }
        false
    }

    /// The right to keep so many names of a listing.
    pub(super) fn keep_names(&self, count: usize) -> Result<OwnedSemaphorePermit, Fault> {
        u32::try_from(count)
            .ok()
            .and_then(|count| {
                Arc::clone(&self.listed_names)
                    .try_acquire_many_owned(count)
                    .ok()
            })
            .ok_or_else(|| {
                Fault::judged(
                    ErrorKind::Unavailable,
                    format!("the open directories of this session have more than {LISTED_NAMES} names; close some first"),
                )
            })
    }

    async fn lease_with(
        self: &Arc<Self>,
        transfer_permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Lease, Fault> {
        let waiting = Arc::clone(&self.connections).acquire_owned();
        let timeout = self.server.settings.timeout;
        let Ok(Ok(permit)) = tokio::time::timeout(timeout, waiting).await else {
            return Err(Fault::TimedOut {
                command: "the commands before it",
                timeout,
            });
        };
        let connection = loop {
            match self.take_idle() {
                Some(mut connection) => {
                    if connection.is_alive().await {
                        break connection;
                    }
                }
                None => break Connection::open(&self.server).await?,
            }
        };
        self.keeper.get_or_init(|| self.start_keeper());
        Ok(Lease {
            connection: Some(connection),
            pool: Arc::clone(self),
            _connection_permit: permit,
            _transfer_permit: transfer_permit,
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .map(|(_, connection)| connection)
    }

    /// From now on looks after idle connections until the session ends.
    fn start_keeper(self: &Arc<Self>) {
        let (pool, ended) = (Arc::downgrade(self), self.ended.clone());
        let interval = self.server.settings.keepalive;
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(interval).await;
                match pool.upgrade() {
                    Some(pool) => pool.tend_idle().await,
                    None => return,
                }
            }
        }));
    }

    /// Keeps the connection that was used last alive by NOOP, and closes the others that were not used for an interval.
    async fn tend_idle(&self) {
        let interval = self.server.settings.keepalive;
        let last = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let last = idle.pop();
            idle.retain(|(since, _)| since.elapsed() < interval);
            last
        };
        let Some((since, mut connection)) = last else {
            return;
        };
        if since.elapsed() < interval || connection.is_answering().await {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((since, connection));
        }
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close_idle(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Lease {
    /// Where `path` is on the server.
    pub(super) async fn locate(&mut self, path: &RelativePath) -> Result<Location, Fault> {
        let pool = Arc::clone(&self.pool);
        let base = pool
            .base
            .get_or_try_init(async || {
                let login_directory = if pool.directory.starts_with(b"/") {
                    Vec::new()
                } else {
                    self.login_directory().await?
                };
                let charset = pool.server.settings.charset;
                Base::new(&charset.to_server(&pool.directory)?, &login_directory)
            })
            .await?;
        let charset = pool.server.settings.charset;
        let location = base.join(&charset.to_server(path.as_bytes())?)?;
        if location.as_bytes().contains(&0xFF) && !self.takes_names_with_0xff() {
            return Err(Fault::judged(
                ErrorKind::Unsupported,
                "vsftpd misreads names that contain the byte 0xFF; rename the file",
            ));
        }
        Ok(location)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.is_in_step()
        {
            self.pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((Instant::now(), connection));
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("a lease holds its connection until it is dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("a lease holds its connection until it is dropped")
    }
}
