//! Accepts connections within the limits, whatever the operating system runs short of.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use portcullis_journal::{Journal, SessionId};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{self, Services},
    forwarded,
    limits::{Limits, Refusal},
    record::RefusalRecorder,
    terms::Terms,
    workers::Workers,
};
use crate::{allowance::Ledger, config::AcceptMode, metrics};

/// Wait after an accept that failed for want of descriptors or memory; others have to end first.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
/// Connections of load balancers that wait for their header, at most 107 or 4,112 bytes each.
const HEADERS_MAX: usize = 256;
/// How long connections get to end after they were cut: to withdraw unfinished uploads takes the longest.
const LAST_CALL: Duration = Duration::from_secs(45);

/// Why an address can't be served.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// All connections of the gateway.
#[derive(Debug)]
pub struct Server {
    services: Arc<Services>,
    limits: Arc<Limits>,
    refusals: Arc<Mutex<RefusalRecorder>>,
    accepting: TaskTracker,
    connections: TaskTracker,
    workers: Arc<Workers>,
    headers: Arc<Semaphore>,
}

impl Server {
    /// # Errors
    /// If the threads of connections can't be had.
    pub fn new(terms: Terms, journal: Journal) -> io::Result<Self> {
        Ok(Self {
            limits: Limits::new(terms.limits),
            refusals: Arc::new(Mutex::new(RefusalRecorder::new(
                journal.clone(),
                Instant::now(),
            ))),
            services: Arc::new(Services {
                throttles: terms.authenticator.throttles().clone(),
                terms: watch::Sender::new(Arc::new(terms)),
                ledger: Ledger::default(),
                journal,
                drain: CancellationToken::new(),
                kill: CancellationToken::new(),
            }),
            accepting: TaskTracker::new(),
            connections: TaskTracker::new(),
            workers: Arc::new(Workers::start()?),
            headers: Arc::new(Semaphore::new(HEADERS_MAX)),
        })
    }

    /// From here on connections begin under these terms. A session that rests on what is otherwise under them ends once it
    /// has no transfer, or when its grace is over; every other goes on.
    pub fn change_terms(&self, terms: Terms) {
        self.limits.set(terms.limits);
        self.services.terms.send_replace(Arc::new(terms));
    }

    /// What keeps new connections out for a time.
    pub fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    /// Accepts connections on `listener` until [`drain`](Self::drain).
    pub fn accept_on(&self, listener: TcpListener) {
        let acceptor = Acceptor {
            services: Arc::clone(&self.services),
            limits: Arc::clone(&self.limits),
            refusals: Arc::clone(&self.refusals),
            connections: self.connections.clone(),
            workers: Arc::clone(&self.workers),
            headers: Arc::clone(&self.headers),
        };
        self.accepting.spawn(Arc::new(acceptor).run(listener));
    }

    /// Accepts no more, lets transfers go on for `grace`, and then cuts what is left; `hurry` ends the grace.
    /// Returns how many connections had to be cut.
    pub async fn drain(&self, grace: Duration, hurry: impl Future<Output = ()>) -> usize {
        self.services.drain.cancel();
        self.accepting.close();
        self.accepting.wait().await;
        self.connections.close();
        tokio::select! {
            () = self.connections.wait() => return 0,
            () = time::sleep(grace) => {}
            () = hurry => {}
        }
        let cut = self.connections.len();
        self.services.kill.cancel();
        if time::timeout(LAST_CALL, self.connections.wait())
            .await
            .is_err()
        {
            tracing::error!(
                connections = self.connections.len(),
                "connections do not end"
            );
        }
        cut
    }
}

/// Binds the addresses, all or none.
///
/// # Errors
/// For the first that can't be had.
pub async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ListenError { address, source })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

struct Acceptor {
    services: Arc<Services>,
    limits: Arc<Limits>,
    refusals: Arc<Mutex<RefusalRecorder>>,
    connections: TaskTracker,
    workers: Arc<Workers>,
    /// Seats of connections whose PROXY header is still to come.
    headers: Arc<Semaphore>,
}

impl Acceptor {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let drain = self.services.drain.clone();
        while let Some(accepted) = drain.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, peer)) => self.receive(socket, peer),
                Err(error) if is_shortage(&error) => {
                    tracing::error!(%error, "connections can't be accepted; more file descriptors are needed (LimitNOFILE)");
                    metrics::connection_refused("shortage");
                    time::sleep(SHORTAGE_PAUSE).await;
                }
                // The client is gone already.
                Err(error) => tracing::debug!(%error, "a connection broke before it was accepted"),
            }
        }
    }

    /// Finds out who is at the other end.
    fn receive(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        // An IPv4 client of an IPv6 socket is the IPv4 client in limits, records and bans.
        let peer = canonical(peer);
        let Ok(destination) = socket.local_addr().map(canonical) else {
            return;
        };
        let terms = Arc::clone(&self.services.terms.borrow());
        let forwarders = &terms.proxy_protocol_from;
        if !forwarders.iter().any(|named| named.contains(&peer.ip())) {
            return self.admit(socket, peer, destination);
        }
        let Ok(seat) = Arc::clone(&self.headers).try_acquire_owned() else {
            return self.refuse("too_many_proxy_headers", peer, destination);
        };
        let acceptor = Arc::clone(self);
        self.connections.spawn(async move {
            acceptor.forward(socket, peer, destination).await;
            drop(seat);
        });
    }

    /// Learns from a load balancer whose connection this is.
    async fn forward(&self, mut socket: TcpStream, peer: SocketAddr, destination: SocketAddr) {
        let reading = forwarded::client(&mut socket);
        match self.services.drain.run_until_cancelled(reading).await {
            None => {}
            Some(Ok(None)) => self.admit(socket, peer, destination),
            Some(Ok(Some((source, destination)))) => {
                self.admit(socket, canonical(source), canonical(destination));
            }
            Some(Err(error)) => {
                tracing::warn!(%peer, error = &error as &dyn std::error::Error, "a load balancer's connection has no good PROXY header");
                self.refuse(error.code(), peer, destination);
            }
        }
    }

    fn admit(&self, socket: TcpStream, source: SocketAddr, destination: SocketAddr) {
        if !self.is_listed(source.ip()) {
            return self.refuse("source_not_listed", source, destination);
        }
        let admitted = match self.services.throttles.penalised(source.ip()) {
            Some(penalised) => Err(penalised.code()),
            None => {
                let admitted = self.limits.admit(source.ip(), Instant::now());
                admitted.map_err(Refusal::code)
            }
        };
        let slots = match admitted {
            Ok(slots) => slots,
            Err(reason) => return self.refuse(reason, source, destination),
        };
        let mut id = [0; 16];
        if getrandom::fill(&mut id).is_err() || socket.set_nodelay(true).is_err() {
            return;
        }
        // The socket leaves this runtime for that of the thread which is to carry it.
        let (Ok(socket), Some(place)) = (socket.into_std(), self.workers.place()) else {
            return;
        };
        let runtime = place.runtime.clone();
        let services = Arc::clone(&self.services);
        let serve = async move {
            match TcpStream::from_std(socket) {
                Ok(socket) => {
                    let addresses = (source, destination);
                    connection::serve(services, socket, addresses, SessionId(id), slots).await;
                }
                Err(error) => tracing::error!(%source, %error, "a connection can't be served"),
            }
            drop(place);
        };
        self.connections.spawn_on(serve, &runtime);
    }

    /// Whether an account may be used from there, where that is asked. As long as the accounts can't be read, nobody is.
    fn is_listed(&self, source: IpAddr) -> bool {
        let terms = self.services.terms.borrow();
        match terms.accept {
            AcceptMode::Any => true,
            AcceptMode::ListedSources => {
                let allowlist = terms.authenticator.allowlist();
                let allowlist = allowlist.borrow();
                allowlist
                    .as_ref()
                    .is_some_and(|list| list.covering(source).is_some())
            }
        }
    }

    /// Closes a connection that was accepted, and says why.
    fn refuse(&self, reason: &'static str, source: SocketAddr, destination: SocketAddr) {
        metrics::connection_refused(reason);
        tracing::debug!(%source, reason, "connection refused");
        self.refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refused(reason, source, destination, Instant::now());
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// accept(2): too many descriptors of the process or the system, or no memory for buffers.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
