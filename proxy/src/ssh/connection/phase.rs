//! How far a connection is, and what ends it there.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::time;
use tokio_util::sync::CancellationToken;

use super::CloseReason;
use crate::{
    accounts::enrolment::TIME_LIMIT,
    auth::{Authenticator, attempt::Withdrawal, enrolment::Enrolling, trust::Withdrawn},
    metrics::Present,
    session::Session,
    ssh::{limits::UnauthenticatedSlot, terms::Timers},
};

/// While draining, a session that did nothing for so long, has no file open and no operation under way has no transfer.
const QUIET: Duration = Duration::from_secs(2);
/// From the token of an enrolment to its second code: as long as the token's use counts.
const ENROLMENT_LIMIT: Duration = Duration::from_secs(TIME_LIMIT.num_seconds().unsigned_abs());
/// How often it is looked whether the last file was closed.
const WORK_CHECK: Duration = Duration::from_millis(200);

/// How far a connection is, with what that stage holds.
pub(super) enum Phase {
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

impl Phase {
    /// When to look at the timers next.
    pub(super) fn deadline(&self, timers: &Timers, begun: Instant) -> Instant {
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

    pub(super) fn expired(
        &self,
        timers: &Timers,
        begun: Instant,
        now: Instant,
    ) -> Option<CloseReason> {
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
    pub(super) async fn lost(&self) {
        match self {
            Self::Unauthenticated(slot) => slot.lost().await,
            Self::Enrolling { .. } | Self::Authenticated { .. } => std::future::pending().await,
        }
    }

    /// Resolves once the account was disabled or changed, or does not admit the session any more.
    pub(super) async fn revoked(&self, authenticator: &Authenticator) -> CloseReason {
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
    pub(super) async fn uncontrolled(&self, authenticator: &Authenticator) -> CloseReason {
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
    pub(super) async fn hours_over(&self, authenticator: &Authenticator) {
        match self {
            Self::Unauthenticated(_) | Self::Enrolling { .. } => std::future::pending().await,
            Self::Authenticated { session, .. } => {
                authenticator.until_hours_end(&session.user).await;
            }
        }
    }

    /// Resolves once the key of the login counts no longer.
    pub(super) async fn key_withdrawn(&self, authenticator: &Authenticator) -> Withdrawn {
        match self {
            Self::Unauthenticated(_) | Self::Enrolling { .. } => std::future::pending().await,
            Self::Authenticated { session, .. } => {
                authenticator.until_key_withdrawn(&session.user).await
            }
        }
    }

    /// Resolves at shutdown once no transfer is under way.
    pub(super) async fn drained(&self, drain: &CancellationToken) {
        drain.cancelled().await;
        self.finished().await;
    }

    /// Resolves once no transfer is under way.
    pub(super) async fn finished(&self) {
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
