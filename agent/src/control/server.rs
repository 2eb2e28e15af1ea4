//! The control interface: HTTP/JSON on a Unix socket, and over mutual TLS where that is configured.

mod caller;
mod idempotency;
mod intake;
mod limiter;
pub mod openapi;
mod remotes;
mod routes;
pub mod tls;

pub use self::{limiter::Rate, remotes::Remotes};

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{caller::Caller, idempotency::Answers, limiter::Limiter, tls::Tls};
use super::{
    Failure,
    peer::{Peer, Roles},
};
use crate::{
    answers::feed::Feed,
    config,
    engine::{Refresh, Reply, Request},
    sources::feed::Acceptance,
};

/// Connections at a time. One more waits, so that no local user can exhaust the daemon.
const MAX_CONNECTIONS: usize = 64;
/// For a request's head, and for the next one on the same connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers need.
#[derive(Clone)]
pub struct Service {
    requests: mpsc::Sender<Request>,
    refresh: Refresh,
    reports: Feed,
    /// Ends the streams of events, which would otherwise hold up the end of the daemon.
    stop: CancellationToken,
    limiter: Arc<Limiter>,
    answers: Arc<Answers>,
    connections: Arc<AtomicU64>,
    seats: Arc<Semaphore>,
    remotes: Remotes,
    acceptance: Acceptance,
    control: Arc<config::Control>,
}

impl Service {
    pub fn new(
        requests: mpsc::Sender<Request>,
        refresh: Refresh,
        reports: Feed,
        control: config::Control,
        stop: CancellationToken,
    ) -> Self {
        Self {
            requests,
            refresh,
            reports,
            stop,
            limiter: Arc::new(Limiter::new(control.rate)),
            answers: Arc::new(Answers::default()),
            connections: Arc::new(AtomicU64::new(1)),
            seats: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            remotes: Remotes::default(),
            acceptance: Acceptance::default(),
            control: Arc::new(control),
        }
    }

    /// The far ends of connections over TLS.
    pub fn remotes(&self) -> Remotes {
        self.remotes.clone()
    }

    /// Where an operator's word on feeds that are held back goes.
    pub fn acceptance(&self) -> Acceptance {
        self.acceptance.clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| Failure::stopping())?;
        answer.await.map_err(|_| Failure::stopping())?
    }

    fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}

/// Binds the socket. One that a dead daemon left is removed; the lock on the pins keeps a living one safe.
///
/// Anyone may connect: what a caller may do is decided by the kernel's word on who it is.
///
/// # Errors
/// If it can't be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves the Unix socket until the service is told to stop.
///
/// # Errors
/// None so far: what fails is one connection.
pub async fn serve(listener: UnixListener, service: Service) -> io::Result<()> {
    let app = routes::router(service.clone());
    let tracker = TaskTracker::new();
    while let Some(seat) = seat(&service).await {
        let accepted = tokio::select! {
            connection = listener.accept() => accepted(connection).await,
            () = service.stop.cancelled() => break,
        };
        let Some((stream, _)) = accepted else {
            continue;
        };
        let peer = Peer::of(&stream, service.next_connection(), &service.control)
            .inspect_err(|error| tracing::warn!(%error, "no peer credentials"))
            .ok();
        let (app, stop) = (app.clone(), service.stop.clone());
        tracker.spawn(async move {
            connection(stream, peer, app, stop).await;
            drop(seat);
        });
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// Serves mutual TLS until the service is told to stop.
///
/// # Errors
/// None so far: what fails is one connection.
pub async fn serve_tls(listener: TcpListener, tls: Tls, service: Service) -> io::Result<()> {
    let app = routes::router(service.clone());
    let tls = Arc::new(tls);
    let port = listener.local_addr()?.port();
    let tracker = TaskTracker::new();
    while let Some(seat) = seat(&service).await {
        let accepted = tokio::select! {
            connection = listener.accept() => accepted(connection).await,
            () = service.stop.cancelled() => break,
        };
        let Some((stream, address)) = accepted else {
            continue;
        };
        let (app, stop, tls) = (app.clone(), service.stop.clone(), Arc::clone(&tls));
        let (number, remotes) = (service.next_connection(), service.remotes());
        tracker.spawn(async move {
            let shaken = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)).await;
            match shaken {
                Ok(Ok(stream)) => {
                    let peer = tls.peer(&stream, address, port, number);
                    let present = peer
                        .as_ref()
                        .filter(|peer| peer.roles != Roles::default())
                        .map(|_| remotes.enter(address.ip()));
                    connection(stream, peer, app, stop).await;
                    drop(present);
                }
                Ok(Err(error)) => tracing::warn!(%address, %error, "TLS handshake refused"),
                Err(_) => tracing::warn!(%address, "TLS handshake not finished in time"),
            }
            drop(seat);
        });
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// A seat for one more connection; `None` when the service is to stop.
async fn seat(service: &Service) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        seat = Arc::clone(&service.seats).acquire_owned() => seat.ok(),
        () = service.stop.cancelled() => None,
    }
}

/// What an accept gave; `None` after a failure, which may go away.
async fn accepted<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "accept on the control interface");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection<S>(stream: S, peer: Option<Peer>, app: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let app = TowerToHyperService::new(app.layer(Extension(Caller(peer))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), app);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control interface broke");
    }
}

#[cfg(test)]
mod tests;
