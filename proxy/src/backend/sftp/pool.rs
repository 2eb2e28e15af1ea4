//! The SSH connections to one account of a server. Each session and mount has a channel on one of them.
//!
//! Only the opening of a channel is ever tried twice: what was asked on a channel is lost with it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{
    SftpSettings,
    connection::Connection,
    fault::Loss,
    login::{self, Login, NoChannel},
    places::{Choice, PlaceId, Places, REFUSAL},
};
use crate::backend::ErrorKind;

/// The part of the deadline within which a connection that was opened earlier must give a channel: a dead one leaves time for
/// a new one.
const SHARE_OF_DEADLINE: u32 = 4;

/// The SSH connections to one account of a server.
pub(super) struct Pool {
    settings: Arc<SftpSettings>,
    state: Mutex<State>,
    /// Told when there may be room for a channel.
    changed: Notify,
}

struct State {
    places: Places<Arc<Login>>,
    /// A task waits for idle connections to grow old.
    is_reaping: bool,
}

/// A channel's share of an SSH connection, given back when dropped.
pub(super) struct Lease {
    pool: Arc<Pool>,
    id: PlaceId,
    /// `None` while it is being opened.
    login: Option<Arc<Login>>,
    /// The server has, or will have, no channel open that belongs to this.
    is_clean: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?})", self.state().places)
    }
}

impl Pool {
    pub(super) fn new(settings: Arc<SftpSettings>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                places: Places::new(settings.pool),
                is_reaping: false,
            }),
            settings,
            changed: Notify::new(),
        })
    }

    pub(super) fn settings(&self) -> &SftpSettings {
        &self.settings
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a channel, on a new connection if need be, and begins SFTP on it. If there is no room, waits for some, within the
    /// deadline for connecting.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Connection, Loss> {
        let mut is_full = false;
        let opened = timeout(self.settings.timeout, self.open_in_time(&mut is_full)).await;
        let limits = self.settings.pool;
        match opened {
            Ok(opened) => opened,
            Err(_) if is_full => Err(Loss::unavailable(format!(
                "all {} connections of its account are in use, and each has as many channels as it may; if the server takes more, raise max_connections, or max_channels ({}) and the server's own limit (OpenSSH: MaxSessions)",
                limits.connections, limits.channels
            ))),
            Err(_) => Err(Loss {
                kind: ErrorKind::TimedOut,
                why: format!(
                    "connecting and logging in took longer than {} s",
                    self.settings.timeout.as_secs_f32()
                ),
            }),
        }
    }

    async fn open_in_time(self: &Arc<Self>, is_full: &mut bool) -> Result<Connection, Loss> {
        loop {
            // Made before the look, so that no change is missed.
            let changed = self.changed.notified();
            let choice = self.state().places.choose(
                Instant::now(),
                |login| login.is_open(),
                |login| login.is_near(),
            );
            *is_full = matches!(choice, Choice::Wait);
            match choice {
                Choice::Wait => {
                    // What was refused is tried again without anybody's word.
                    let _ = timeout(REFUSAL, changed).await;
                }
                Choice::Connect(id) => return self.connect(id).await,
                Choice::Join(id, login) => {
                    if let Some(connection) = self.join(id, login).await? {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    async fn connect(self: &Arc<Self>, id: PlaceId) -> Result<Connection, Loss> {
        let mut lease = Lease {
            pool: self.clone(),
            id,
            login: None,
            is_clean: true,
        };
        let login = Arc::new(login::connect(&self.settings).await?);
        lease.login = Some(login.clone());
        lease.is_clean = false;
        self.state().places.connected(id, login.clone());
        self.changed.notify_waiters();
        let (read, write) = login.open_channel().await?;
        let ended = login.cut.child_token();
        Connection::open(lease, ended, read, write, self.settings.timeout).await
    }

    /// A channel on an open connection; `None` if it gives none.
    async fn join(
        self: &Arc<Self>,
        id: PlaceId,
        login: Arc<Login>,
    ) -> Result<Option<Connection>, Loss> {
        let mut lease = Lease {
            pool: self.clone(),
            id,
            login: Some(login.clone()),
            is_clean: false,
        };
        let patience = self.settings.timeout / SHARE_OF_DEADLINE;
        match timeout(patience, login.open_channel()).await {
            Ok(Ok((read, write))) => {
                let ended = login.cut.child_token();
                Connection::open(lease, ended, read, write, self.settings.timeout)
                    .await
                    .map(Some)
            }
            Ok(Err(NoChannel::Refused(reason))) => {
                tracing::debug!(reason, "the server takes no more channels on a connection");
                self.state().places.refused(id, Instant::now());
                lease.is_clean = true;
                Ok(None)
            }
            // Dropped unclean, the lease casts doubt on the connection.
            Ok(Err(NoChannel::Broken(_))) | Err(_) => Ok(None),
        }
    }

    fn release(self: &Arc<Self>, id: PlaceId) {
        let must_reap = {
            let mut state = self.state();
            state.places.release(id, Instant::now());
            let (expired, next) = state.places.expire(Instant::now());
            dismiss(expired);
            next.is_some() && !std::mem::replace(&mut state.is_reaping, true)
        };
        self.changed.notify_waiters();
        if must_reap {
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(reap(Arc::downgrade(self)))),
                Err(_) => self.state().is_reaping = false,
            }
        }
    }

    /// No session begins here any more: idle connections end, and the others with their last channel.
    pub(super) fn retire(&self) {
        let mut state = self.state();
        state.places.retire();
        let (expired, _) = state.places.expire(Instant::now());
        dismiss(expired);
    }

    /// Keeps other channels off a connection until its server has shown that it is alive; without a sign within the deadline all
    /// its channels end. A connection with one channel ends at once.
    fn doubt(self: &Arc<Self>, id: PlaceId, login: &Arc<Login>) {
        if self.state().places.is_alone(id) {
            login.cut.cancel();
            return;
        }
        self.state().places.set_doubtful(id, true);
        let (pool, login) = (self.clone(), login.clone());
        let asking = async move {
            if timeout(pool.settings.timeout, login.ping()).await.is_ok() {
                pool.state().places.set_doubtful(id, false);
            } else {
                login.cut.cancel();
            }
            pool.changed.notify_waiters();
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(asking);
        }
    }
}

/// Ends connections that nothing uses, with a goodbye if there is a runtime to say it.
fn dismiss(logins: Vec<Arc<Login>>) {
    for login in logins {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { login.farewell().await });
        }
    }
}

/// Closes connections that have been idle for their time, until none is left.
async fn reap(pool: Weak<Pool>) {
    loop {
        let (expired, next) = {
            let Some(pool) = pool.upgrade() else {
                return;
            };
            let mut state = pool.state();
            let (expired, next) = state.places.expire(Instant::now());
            state.is_reaping = next.is_some();
            (expired, next)
        };
        dismiss(expired);
        let Some(next) = next else {
            return;
        };
        sleep_until(next).await;
    }
}

impl Lease {
    /// The server was silent for the deadline.
    pub(super) fn doubt(&self) {
        if let Some(login) = &self.login {
            self.pool.doubt(self.id, login);
        }
    }

    /// The channel was ended in order.
    pub(super) fn leave_clean(mut self) {
        self.is_clean = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_clean {
            self.doubt();
        }
        self.pool.release(self.id);
    }
}
