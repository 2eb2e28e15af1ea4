//! One connection, from its first byte to its last record: one task owns its state.

mod phase;
mod reason;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_journal::{Journal, SessionId};
use russh::server::{self, RunningSession};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::reason::CloseReason;
use self::{phase::Phase, reason::ended_by};
use super::{
    handler::{Handler, State},
    limits::{Slot, UnauthenticatedSlot},
    negotiation::{Observed, Tap},
    overheard::Overheard,
    record::Recorder,
    stream::{Meter, Stream},
    terms::{Terms, Timers},
};
use crate::{
    accounts::admission::Refusal,
    allowance::Ledger,
    auth::{enrolment::Enrolling, throttle::Throttles},
    metrics::{self, Present, Stage},
    session::Session,
};

/// How long a client gets to read why it is disconnected.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// How long channels get to withdraw what was not finished; longer than the gate gives a backend for it.
const WITHDRAWAL: Duration = Duration::from_secs(40);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Services {
    /// Those in force.
    pub(super) terms: watch::Sender<Arc<Terms>>,
    pub(super) ledger: Ledger,
    /// What sources pay for failures.
    pub(super) throttles: Throttles,
    pub(super) journal: Journal,
    /// Cancelled when no new work may begin.
    pub(super) drain: CancellationToken,
    /// Cancelled when everything has to end at once.
    pub(super) kill: CancellationToken,
}

/// What the callbacks tell the connection's task.
#[derive(Debug)]
pub(super) enum Notice {
    Authenticated(Session),
    Enrolling {
        user: Enrolling,
        source: IpAddr,
    },
    /// What the connection was for is done: if the client leaves now, this is why.
    Done(CloseReason),
    End(CloseReason),
}

/// Serves one connection to its end.
pub(super) async fn serve(
    services: Arc<Services>,
    socket: TcpStream,
    (source, destination): (SocketAddr, SocketAddr),
    id: SessionId,
    (slot, unauthenticated): (Slot, UnauthenticatedSlot),
) {
    let begun = Instant::now();
    let mut updates = services.terms.subscribe();
    let terms = Arc::clone(&updates.borrow_and_update());
    let cut = services.kill.child_token();
    let channels_end = cut.child_token();
    let channels = TaskTracker::new();
    let tap = Tap::default();
    let observed = tap.observed();
    let meter = Arc::new(Meter::default());
    let recorder = Arc::new(Recorder::new(
        services.journal.clone(),
        id,
        (source, destination),
        Arc::clone(&observed),
        Arc::clone(&meter),
        begun,
    ));
    let overheard = Overheard::new(Arc::clone(&recorder));
    // One notice of the login, one of the end: both fit, so that the callbacks never wait for this task.
    let (notices, inbox) = mpsc::channel(2);
    let handler = Handler {
        recorder: Arc::clone(&recorder),
        attempt: terms.authenticator.attempt(source, id),
        services: Arc::clone(&services),
        notices,
        cut: cut.clone(),
        channels_end: channels_end.clone(),
        channels: channels.clone(),
        meter: Arc::clone(&meter),
        overheard: Arc::clone(&overheard),
        proven: unauthenticated.proven(),
        state: State::Authenticating,
        refusals: 0,
    };
    let stream = Stream::new(socket, tap, meter, cut.clone()).overheard_by(Arc::clone(&overheard));
    let mut connection = Connection {
        services: &services,
        timers: terms.timers,
        terms,
        updates,
        observed,
        overheard,
        conflict: None,
        begun,
        inbox,
        stage: Phase::Unauthenticated(unauthenticated),
    };
    let reason = match connection.begin(stream, handler).await {
        Ok(mut running) => {
            let reason = connection.watch(&mut running).await;
            channels_end.cancel();
            end(reason, running, &cut).await;
            reason
        }
        Err(reason) => reason,
    };
    if let (Phase::Unauthenticated(_), Some(loss)) = (&connection.stage, reason.loss()) {
        services.throttles.lost(source.ip(), loss, id);
    }
    cut.cancel();
    channels.close();
    if time::timeout(WITHDRAWAL, channels.wait()).await.is_err() {
        tracing::error!(%source, "channels of an ended connection do not let go");
    }
    if let Phase::Authenticated { session, .. } = &connection.stage {
        let authenticator = &connection.terms.authenticator;
        authenticator
            .count_volume(&session.user, session.place.usage())
            .await;
    }
    metrics::connection_closed(reason.code());
    let closed = recorder.closed(reason.code(), connection.detail(reason), Instant::now());
    if let Err(error) = closed.await {
        tracing::error!(%source, %error, "the end of a connection is not on record");
    }
    drop((connection, slot));
}

/// Says goodbye, waits a moment, and cuts.
async fn end(
    reason: CloseReason,
    mut running: Option<RunningSession<Handler>>,
    cut: &CancellationToken,
) {
    let Some(running) = &mut running else {
        return;
    };
    if let Some((code, text)) = reason.farewell() {
        let handle = running.handle();
        let farewell = async {
            // Not sent during a key exchange, nor while the client takes no data: the cut below ends it then.
            let _ = handle
                .disconnect(code, text.to_owned(), String::new())
                .await;
            let _ = (&mut *running).await;
        };
        if time::timeout(FAREWELL, farewell).await.is_ok() {
            return;
        }
    }
    cut.cancel();
    // Dropping it would not stop the library's task; the cut does.
    if time::timeout(FAREWELL, running).await.is_err() {
        tracing::error!("a connection that was cut does not end");
    }
}

struct Connection<'a> {
    services: &'a Services,
    /// Under which the connection was accepted.
    terms: Arc<Terms>,
    updates: watch::Receiver<Arc<Terms>>,
    /// Of the terms in force.
    timers: Timers,
    observed: Arc<Observed>,
    overheard: Arc<Overheard>,
    conflict: Option<Conflict>,
    begun: Instant,
    inbox: mpsc::Receiver<Notice>,
    stage: Phase,
}

/// Why a session has to end after its transfers.
#[derive(Debug)]
struct Conflict {
    reason: CloseReason,
    /// The key of the configuration that changed, if that is the reason.
    key: Option<String>,
    /// When its transfers are cut.
    cut_at: Instant,
}

impl Connection<'_> {
    /// Exchanges identifications and starts the library's task.
    async fn begin(
        &self,
        stream: Stream,
        handler: Handler,
    ) -> Result<Option<RunningSession<Handler>>, CloseReason> {
        let begin = server::run_stream(Arc::clone(&self.terms.library), stream, handler);
        tokio::select! {
            running = time::timeout(self.timers.login_grace, begin) => match running {
                Ok(Ok(running)) => Ok(Some(running)),
                Ok(Err(error)) => Err(ended_by(&error)),
                Err(_) => Err(CloseReason::LoginGrace),
            },
            () = self.stage.lost() => Err(CloseReason::GaveWay),
            () = self.services.drain.cancelled() => Err(CloseReason::Shutdown),
        }
    }

    /// Waits for the first reason to end. Takes the library's task away if that ended by itself.
    async fn watch(&mut self, running: &mut Option<RunningSession<Handler>>) -> CloseReason {
        let mut done = None;
        while let Some(session) = running.as_mut() {
            let deadline = time::Instant::from_std(self.deadline());
            let Self {
                services,
                terms,
                updates,
                overheard,
                conflict,
                inbox,
                stage,
                ..
            } = self;
            tokio::select! {
                result = session => {
                    *running = None;
                    if overheard.is_over() {
                        return CloseReason::UnexpectedMessage(overheard.unexpected().await);
                    }
                    // A notice may have come just before.
                    if let Ok(Notice::End(reason) | Notice::Done(reason)) = inbox.try_recv() {
                        return reason;
                    }
                    let reason = result.map_or_else(|error| ended_by(&error), |()| CloseReason::Client);
                    return done.filter(|_| reason == CloseReason::Client).unwrap_or(reason);
                }
                Some(notice) = inbox.recv() => match notice {
                    Notice::Authenticated(session) => {
                        *stage = Phase::Authenticated {
                            session,
                            since: Instant::now(),
                            present: Present::at(Stage::Authenticated),
                        };
                        self.compare(Instant::now());
                    }
                    Notice::Enrolling { user, source } => {
                        *stage = Phase::Enrolling {
                            user,
                            source,
                            since: Instant::now(),
                            present: Present::at(Stage::Enrolling),
                        };
                    }
                    Notice::Done(reason) => done = Some(reason),
                    Notice::End(reason) => return reason,
                },
                Ok(()) = updates.changed() => self.compare(Instant::now()),
                () = time::sleep_until(deadline) => {
                    if let Some(reason) = self.expired(Instant::now()) {
                        return reason;
                    }
                }
                number = overheard.unexpected() => return CloseReason::UnexpectedMessage(number),
                () = stage.lost() => return CloseReason::GaveWay,
                reason = stage.revoked(&terms.authenticator) => return reason,
                reason = stage.uncontrolled(&terms.authenticator) => return reason,
                withdrawn = stage.key_withdrawn(&terms.authenticator) => {
                    return CloseReason::KeyWithdrawn(withdrawn);
                }
                () = stage.hours_over(&terms.authenticator), if conflict.is_none() => {
                    *conflict = Some(Conflict {
                        reason: CloseReason::NotAdmitted(Refusal::Hours),
                        key: None,
                        cut_at: Instant::now() + terms.authenticator.hours_grace(),
                    });
                }
                () = stage.finished(), if conflict.is_some() => {
                    return conflict.as_ref().map_or(CloseReason::Reload, |conflict| conflict.reason);
                }
                () = stage.drained(&services.drain) => return CloseReason::Shutdown,
                () = services.kill.cancelled() => return CloseReason::Shutdown,
            }
        }
        CloseReason::Client
    }

    /// Looks what the terms in force leave of the session.
    fn compare(&mut self, now: Instant) {
        let terms = Arc::clone(&self.updates.borrow_and_update());
        self.timers = terms.timers;
        let Phase::Authenticated { session, .. } = &self.stage else {
            return;
        };
        let key = terms.conflict(session, &self.terms, self.observed.negotiated());
        // What ends for another reason ends all the same.
        if let Some(Conflict { key: None, .. }) = self.conflict {
            return;
        }
        self.conflict = key.map(|key| {
            // A further reload does not give the session more time.
            let cut_at = self.conflict.as_ref().map(|conflict| conflict.cut_at);
            tracing::info!(session = ?session.id, user = session.user.name(), changed = key, "a session ends after its transfers");
            Conflict {
                reason: CloseReason::Reload,
                key: Some(key),
                cut_at: cut_at.unwrap_or_else(|| now + terms.timers.reload_grace),
            }
        });
    }

    /// What the record of the end says beside its reason.
    fn detail(&self, reason: CloseReason) -> Option<(&'static str, serde_json::Value)> {
        match (reason, &self.conflict) {
            (CloseReason::UnexpectedMessage(number), _) => Some(("message", number.into())),
            (CloseReason::Reload, Some(Conflict { key: Some(key), .. })) => {
                Some(("changed", key.as_str().into()))
            }
            _ => None,
        }
    }

    /// When to look at the timers next.
    fn deadline(&self) -> Instant {
        let deadline = self.stage.deadline(&self.timers, self.begun);
        match &self.conflict {
            Some(conflict) => deadline.min(conflict.cut_at),
            None => deadline,
        }
    }

    fn expired(&self, now: Instant) -> Option<CloseReason> {
        let cut = self
            .conflict
            .as_ref()
            .filter(|conflict| now >= conflict.cut_at);
        self.stage
            .expired(&self.timers, self.begun, now)
            .or(cut.map(|conflict| conflict.reason))
    }
}
