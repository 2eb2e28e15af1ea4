//! The control connections of one session and mount.
//!
//! FTP does one thing at a time on a connection, so each transfer in progress holds one of its own. All others share what
//! is left, in turn.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::{
    connection::{Connection, Server, Transfer},
    fault::Fault,
    location::{Base, Location},
};
use crate::{backend::ErrorKind, path::RelativePath};

/// Connections of one session and mount: as many as clients usually open to an FTP server.
const CONNECTIONS: usize = 4;
/// One always remains for short commands, so that a session with open transfers can go on.
const TRANSFERS: usize = CONNECTIONS - 1;

#[derive(Debug)]
pub(super) struct Pool {
    server: Arc<Server>,
    directory: Vec<u8>,
    base: OnceCell<Base>,
    idle: Mutex<Vec<Connection>>,
    connections: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    /// Downloads, the longest open first. One that nobody reads at the moment gives way to another transfer.
    downloads: Mutex<VecDeque<Weak<DownloadLine>>>,
}

/// The transfer of a download, while it has one. Held locked while it is read.
pub(super) type DownloadLine = tokio::sync::Mutex<Option<(Transfer, Lease)>>;

/// A connection in use. It goes back to the pool unless it is out of step.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _connection_permit: OwnedSemaphorePermit,
    _transfer_permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(server: Arc<Server>, directory: &[u8]) -> Self {
        Self {
            server,
            directory: directory.to_vec(),
            base: OnceCell::new(),
            idle: Mutex::new(Vec::new()),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            downloads: Mutex::new(VecDeque::new()),
        }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// A connection for short commands.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Fault> {
        self.lease_with(None).await
    }

    /// A connection for a transfer.
    pub(super) async fn lease_for_transfer(self: &Arc<Self>) -> Result<Lease, Fault> {
        let mut permit = Arc::clone(&self.transfers).try_acquire_owned();
        if permit.is_err() && self.pause_a_download() {
            permit = Arc::clone(&self.transfers).try_acquire_owned();
        }
        let Ok(permit) = permit else {
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

    /// Says that the download's transfer may be broken off when it is not being read: it can begin again where it was.
    pub(super) fn may_pause(&self, line: &Arc<DownloadLine>) {
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        downloads.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&Arc::downgrade(line)));
        downloads.push_back(Arc::downgrade(line));
    }

    fn pause_a_download(&self) -> bool {
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for index in 0..downloads.len() {
            let line = downloads.get(index).and_then(Weak::upgrade);
            let paused =
                line.and_then(|line| line.try_lock().ok().and_then(|mut line| line.take()));
            if paused.is_some() {
                downloads.remove(index);
                return true;
            }
        }
        false
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
                Base::new(&pool.directory, &login_directory)
            })
            .await?;
        let location = base.join(path)?;
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
                .push(connection);
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
