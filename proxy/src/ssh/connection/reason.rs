//! Why a connection ends, and what is made of it: a code, a charge, a farewell.

use std::io;

use russh::Disconnect;

use crate::{
    accounts::admission::Refusal,
    auth::{throttle::Loss, trust::Withdrawn},
    ssh::handler::HandlerError,
};

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ssh) enum CloseReason {
    /// The client left.
    Client,
    /// The client or the network broke off, or broke the protocol.
    Broken,
    /// The client sent a message that has no place where it came; its number.
    UnexpectedMessage(u8),
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
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broken => "broken",
            Self::UnexpectedMessage(_) => "unexpected_message",
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
    pub(super) fn loss(self) -> Option<Loss> {
        match self {
            Self::Client | Self::Broken | Self::UnexpectedMessage(_) | Self::GaveWay => {
                Some(Loss::NoAuth)
            }
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
    pub(super) fn farewell(self) -> Option<(Disconnect, &'static str)> {
        match self {
            // One that gave way must take nothing any more.
            Self::Client | Self::Broken | Self::Panicked | Self::Unrecorded | Self::GaveWay => None,
            Self::AccountsUnavailable => {
                Some((Disconnect::ServiceNotAvailable, "Service not available"))
            }
            Self::UnexpectedMessage(_) => Some((Disconnect::ProtocolError, "Unexpected message")),
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

/// Why a connection ended whose library task failed.
pub(super) fn ended_by(error: &HandlerError) -> CloseReason {
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
