//! One connection, from its first byte to its last record: one task owns its state.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_journal::{Journal, SessionId};
use russh::{
    Disconnect,
    server::{self, RunningSession},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    handler::{Handler, HandlerError, State},
    limits::{Slot, UnauthenticatedSlot},
    negotiation::{Observed, Tap},
    record::Recorder,
    stream::{Meter, Stream},
    terms::{Terms, Timers},
};
use crate::{
    accounts::{admission::Refusal, enrolment::TIME_LIMIT},
    allowance::Ledger,
    auth::{
        Authenticator,
        attempt::Withdrawal,
        enrolment::Enrolling,
        throttle::{Loss, Throttles},
        trust::Withdrawn,
    },
    metrics::{self, Present, Stage},
    session::Session,
};

/// How long a client gets to read why it is disconnected.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// How long channels get to withdraw what was not finished; longer than the gate gives a backend for it.
const WITHDRAWAL: Duration = Duration::from_secs(40);
/// While draining, a session that did nothing for so long, has no file open and no operation under way has no transfer.
const QUIET: Duration = Duration::from_secs(2);
/// From the token of an enrolment to its second code: as long as the token's use counts.
const ENROLMENT_LIMIT: Duration = Duration::from_secs(TIME_LIMIT.num_seconds().unsigned_abs());
/// How often it is looked whether the last file was closed.
const WORK_CHECK: Duration = Duration::from_millis(200);

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

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The client left.
    Client,
    /// The client or the network broke off, or broke the protocol.
    Broken,
    /// The library's task panicked.
    Panicked,
    LoginGrace,
    /// Its place was given to another before it had shown anything.
    GaveWay,
    TooManyFailures,
    TooManyRefusals,
    /// The account has as many sessions as it may.
    TooManySessions,
    /// The user has a new authenticator, and logs in with it.
    Enrolled,
    EnrolmentFailed,
    EnrolmentLimit,
    Idle,
    SessionLimit,
    /// The account was disabled or changed.
    Revoked,
    /// A rule of the account does not admit the session any more.
    NotAdmitted(Refusal),
    /// The key or certificate of the login counts no longer.
    KeyWithdrawn(Withdrawn),
    /// `conn.open` could not be made durable.
    Unrecorded,
    AccountsUnavailable,
    /// The configuration changed in what the session rests on.
    Reload,
    Shutdown,
}

impl CloseReason {
    /// The code in records and metrics.
    fn code(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broken => "broken",
            Self::Panicked => "panicked",
            Self::LoginGrace => "login_grace",
            Self::GaveWay => "gave_way",
            Self::TooManyFailures => "too_many_failures",
            Self::TooManyRefusals => "too_many_refusals",
            Self::TooManySessions => "too_many_sessions",
            Self::Enrolled => "enrolled",
            Self::EnrolmentFailed => "enrolment_failed",
            Self::EnrolmentLimit => "enrolment_limit",
            Self::Idle => "idle",
            Self::SessionLimit => "session_limit",
            Self::Revoked => "revoked",
            Self::NotAdmitted(refusal) => refusal.code(),
            Self::KeyWithdrawn(Withdrawn::Revoked) => "key_revoked",
            Self::KeyWithdrawn(Withdrawn::Expired) => "key_expired",
            Self::KeyWithdrawn(Withdrawn::Authority) => "authority_removed",
            Self::Unrecorded => "unrecorded",
            Self::AccountsUnavailable => "accounts_unavailable",
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
        }
    }

    /// What the source pays for it, where nobody logged in. Wrong answers were charged one by one.
    fn loss(self) -> Option<Loss> {
        match self {
            Self::Client | Self::Broken | Self::GaveWay => Some(Loss::NoAuth),
            Self::LoginGrace => Some(Loss::Grace),
            Self::Panicked => Some(Loss::Crash),
            Self::TooManyFailures
            | Self::TooManyRefusals
            | Self::TooManySessions
            | Self::Enrolled
            | Self::EnrolmentFailed
            | Self::EnrolmentLimit
            | Self::Idle
            | Self::SessionLimit
            | Self::Revoked
            | Self::NotAdmitted(_)
            | Self::KeyWithdrawn(_)
            | Self::Unrecorded
            | Self::AccountsUnavailable
            | Self::Reload
            | Self::Shutdown => None,
        }
    }

    /// What the client is told; `None` if nothing can be told any more.
    fn farewell(self) -> Option<(Disconnect, &'static str)> {
        match self {
            // One that gave way must take nothing any more.
            Self::Client | Self::Broken | Self::Panicked | Self::Unrecorded | Self::GaveWay => None,
            Self::AccountsUnavailable => {
                Some((Disconnect::ServiceNotAvailable, "Service not available"))
            }
            Self::LoginGrace => Some((Disconnect::ByApplication, "Login took too long")),
            Self::TooManyFailures => Some((
                Disconnect::NoMoreAuthMethodsAvailable,
                "Too many authentication failures",
            )),
            Self::TooManyRefusals => Some((
                Disconnect::ProtocolError,
                "This server only offers the sftp subsystem",
            )),
            Self::TooManySessions => Some((
                Disconnect::TooManyConnections,
                "Too many sessions of this account",
            )),
            Self::Enrolled => Some((Disconnect::ByApplication, "Enrolled; log in again")),
            Self::EnrolmentFailed => Some((Disconnect::ByApplication, "Not enrolled")),
            Self::EnrolmentLimit => Some((Disconnect::ByApplication, "Enrolment took too long")),
            Self::Idle => Some((Disconnect::ByApplication, "Idle for too long")),
            Self::SessionLimit => Some((Disconnect::ByApplication, "Session limit reached")),
            Self::Revoked => Some((Disconnect::ByApplication, "Account changed")),
            Self::NotAdmitted(refusal) => Some((
                Disconnect::ByApplication,
                match refusal {
                    Refusal::Expired => "Account expired",
                    Refusal::Hours => "Hours are over",
                    Refusal::Sealed => "Account sealed",
                    Refusal::Machine(_) => "Not admitted any more",
                    Refusal::Idle | Refusal::Source => "Account changed",
                },
            )),
            Self::KeyWithdrawn(_) => Some((Disconnect::ByApplication, "Key not valid any more")),
            Self::Reload => Some((Disconnect::ByApplication, "Configuration changed")),
            Self::Shutdown => Some((Disconnect::ByApplication, "Server is shutting down")),
        }
    }
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
        proven: unauthenticated.proven(),
        state: State::Authenticating,
        refusals: 0,
    };
    let stream = Stream::new(socket, tap, meter, cut.clone());
    let mut connection = Connection {
        services: &services,
        timers: terms.timers,
        terms,
        updates,
        observed,
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
    let conflict = connection.conflict.as_ref();
    let changed = conflict
        .filter(|_| reason == CloseReason::Reload)
        .and_then(|conflict| conflict.key.as_deref());
    let closed = recorder.closed(reason.code(), changed, Instant::now());
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

/// How far a connection is, with what that stage holds.
enum Phase {
    Unauthenticated(UnauthenticatedSlot),
    Enrolling {
        user: Enrolling,
        source: IpAddr,
        since: Instant,
        #[expect(dead_code, reason = "held for the count")]
        present: Present,
    },
    Authenticated {
        session: Session,
        since: Instant,
        #[expect(dead_code, reason = "held for the count")]
        present: Present,
    },
}

struct Connection<'a> {
    services: &'a Services,
    /// Under which the connection was accepted.
    terms: Arc<Terms>,
    updates: watch::Receiver<Arc<Terms>>,
    /// Of the terms in force.
    timers: Timers,
    observed: Arc<Observed>,
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
                conflict,
                inbox,
                stage,
                ..
            } = self;
            tokio::select! {
                result = session => {
                    *running = None;
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

impl Phase {
    /// When to look at the timers next.
    fn deadline(&self, timers: &Timers, begun: Instant) -> Instant {
        match self {
            Self::Unauthenticated(_) => begun + timers.login_grace,
            Self::Enrolling { since, .. } => *since + ENROLMENT_LIMIT,
            Self::Authenticated { session, since, .. } => {
                let now = Instant::now();
                let idle = session.activity.idle(now);
                let idle_end = now + timers.idle_timeout.saturating_sub(idle);
                idle_end.min(*since + timers.session_limit)
            }
        }
    }

    fn expired(&self, timers: &Timers, begun: Instant, now: Instant) -> Option<CloseReason> {
        match self {
            Self::Unauthenticated(_) => {
                (now >= begun + timers.login_grace).then_some(CloseReason::LoginGrace)
            }
            Self::Enrolling { since, .. } => {
                (now >= *since + ENROLMENT_LIMIT).then_some(CloseReason::EnrolmentLimit)
            }
            Self::Authenticated { session, since, .. } => {
                if now >= *since + timers.session_limit {
                    Some(CloseReason::SessionLimit)
                } else if session.activity.idle(now) >= timers.idle_timeout {
                    Some(CloseReason::Idle)
                } else {
                    None
                }
            }
        }
    }

    /// Resolves when the place of a connection that is not yet authenticated was given to another.
    async fn lost(&self) {
        match self {
            Self::Unauthenticated(slot) => slot.lost().await,
            Self::Enrolling { .. } | Self::Authenticated { .. } => std::future::pending().await,
        }
    }

    /// Resolves once the account was disabled or changed, or does not admit the session any more.
    async fn revoked(&self, authenticator: &Authenticator) -> CloseReason {
        let session = match self {
            Self::Unauthenticated(_) => return std::future::pending().await,
            Self::Enrolling { user, source, .. } => {
                authenticator.until_disabled(user, *source).await;
                return CloseReason::Revoked;
            }
            Self::Authenticated { session, .. } => session,
        };
        let (user, source) = (&session.user, session.source.ip());
        match authenticator.until_revoked(user, source).await {
            Withdrawal::Changed => CloseReason::Revoked,
            Withdrawal::Refused(refusal) => CloseReason::NotAdmitted(refusal),
        }
    }

    /// Resolves once a machine account lacks what makes up for its second factor.
    async fn uncontrolled(&self, authenticator: &Authenticator) -> CloseReason {
        match self {
            Self::Unauthenticated(_) | Self::Enrolling { .. } => std::future::pending().await,
            Self::Authenticated { session, .. } => {
                let usage = session.place.usage();
                let missing = authenticator.until_control_missing(&session.user, usage);
                CloseReason::NotAdmitted(missing.await)
            }
        }
    }

    /// Resolves once the hours of the account have ended.
    async fn hours_over(&self, authenticator: &Authenticator) {
        match self {
            Self::Unauthenticated(_) | Self::Enrolling { .. } => std::future::pending().await,
            Self::Authenticated { session, .. } => {
                authenticator.until_hours_end(&session.user).await;
            }
        }
    }

    /// Resolves once the key of the login counts no longer.
    async fn key_withdrawn(&self, authenticator: &Authenticator) -> Withdrawn {
        match self {
            Self::Unauthenticated(_) | Self::Enrolling { .. } => std::future::pending().await,
            Self::Authenticated { session, .. } => {
                authenticator.until_key_withdrawn(&session.user).await
            }
        }
    }

    /// Resolves at shutdown once no transfer is under way.
    async fn drained(&self, drain: &CancellationToken) {
        drain.cancelled().await;
        self.finished().await;
    }

    /// Resolves once no transfer is under way.
    async fn finished(&self) {
        if let Self::Authenticated { session, .. } = self {
            loop {
                let idle = session.activity.idle(Instant::now());
                let rest = QUIET.checked_sub(idle).filter(|rest| !rest.is_zero());
                match rest {
                    // An upload may wait for its sender, or a read for a slow server.
                    None if session.activity.is_working() => time::sleep(WORK_CHECK).await,
                    None => return,
                    Some(rest) => time::sleep(rest).await,
                }
            }
        }
    }
}

fn ended_by(error: &HandlerError) -> CloseReason {
    match error {
        HandlerError::Unrecorded(error) => {
            tracing::error!(%error, "a connection was refused because it can't be recorded");
            CloseReason::Unrecorded
        }
        HandlerError::Accounts(error) => {
            tracing::error!(%error, "a login was refused because the accounts can't be read");
            CloseReason::AccountsUnavailable
        }
        // The library's task is never aborted, so that only a panic ends it this way.
        HandlerError::Ssh(russh::Error::Join(error)) => {
            tracing::error!(%error, "a connection's task panicked");
            CloseReason::Panicked
        }
        HandlerError::Ssh(russh::Error::Disconnect | russh::Error::HUP) => CloseReason::Client,
        // Most clients close the socket without a farewell.
        HandlerError::Ssh(russh::Error::IO(error)) if is_hang_up(error) => CloseReason::Client,
        HandlerError::Ssh(error) => {
            tracing::debug!(%error, "a connection broke");
            CloseReason::Broken
        }
        HandlerError::Randomness(error) => {
            tracing::error!(%error, "an enrolment was refused");
            CloseReason::EnrolmentFailed
        }
        HandlerError::Ending => CloseReason::Broken,
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
    ]
    .contains(&error.kind())
}
