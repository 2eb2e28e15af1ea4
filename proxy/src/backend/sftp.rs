//! An SFTP server as a backend: a channel for each session and mount, many requests in flight on it, and a pool of SSH
//! connections below.
//!
//! Requests go out in the order in which they are asked for. A channel that breaks fails what waits for it and is
//! opened again by the next request that needs none of the old handles; nothing is ever sent twice.

mod abilities;
mod connection;
mod copy;
mod fault;
mod file;
mod login;
mod perform;
mod places;
mod pool;
mod session;
mod staged;
mod sweep;
#[cfg(test)]
mod tests;
mod upload;
pub(crate) mod wire;
mod writes;

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use portcullis_journal::Recorded;

pub use self::{login::Credential, places::PoolLimits};
use self::{pool::Pool, session::Session, sweep::Sweeps};
use super::{
    Backend, BackendError, BackendService, Capabilities, Execution, Owner, Shown,
    staging::{LEAST_RESUMABLE, StagingNames, UploadSettings},
};
use crate::{operation::Outcome, policy::Permit};

/// Settings of an SFTP backend.
#[derive(Debug, Clone)]
pub struct SftpSettings {
    /// Name or address.
    pub host: String,
    pub port: u16,
    pub user: String,
    /// The one key that the server must prove.
    pub host_key: ssh_key::PublicKey,
    pub credential: Credential,
    pub uploads: UploadSettings,
    pub publication: Publication,
    /// Most bytes of an existing file that are copied through the gateway so that a client can change or continue it.
    pub copy_limit: u64,
    /// SSH connections, and channels on them, of all sessions together.
    pub pool: PoolLimits,
    /// How long a connection on which nothing arrives waits before it asks whether the server is there. The third question without
    /// an answer ends it.
    pub keepalive: Duration,
    /// For connecting and logging in, and for an answer while no bytes move.
    pub timeout: Duration,
}

/// How what a client uploads gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// By renaming a staging file at CLOSE.
    Rename,
    /// It is written under its name from the first byte on, for servers and accounts without the right to rename. What is
    /// incomplete is visible, and stays if the upload is interrupted.
    Direct,
}

/// An SFTP server.
#[derive(Debug)]
pub struct SftpService {
    pool: Arc<Pool>,
    names: StagingNames,
    sweeps: Arc<Sweeps>,
}

impl SftpService {
    pub fn new(settings: SftpSettings) -> Self {
        let mut uploads = settings.uploads.clone();
        // What is written directly is its own partial.
        uploads.may_resume &= settings.publication == Publication::Rename;
        Self {
            pool: Pool::new(Arc::new(settings)),
            names: StagingNames::new(uploads, b""),
            sweeps: Arc::default(),
        }
    }
}

impl Drop for SftpService {
    fn drop(&mut self) {
        self.pool.retire();
    }
}

impl BackendService for SftpService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        Arc::new(SftpBackend(Session::new(
            self.pool.clone(),
            self.names.session(owner, directory),
            self.sweeps.clone(),
            directory,
        )))
    }
}

#[derive(Debug)]
struct SftpBackend(Arc<Session>);

impl Backend for SftpBackend {
    /// What OpenSSH's server can. An older one refuses what it lacks when it is asked.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            random_access: true,
            update: true,
            resume_from: Some(LEAST_RESUMABLE),
            read_back: true,
            atomic_replace: true,
            symlinks: true,
            set_times: true,
            set_permissions: true,
            filesystem_status: true,
            any_name: true,
            shows: Shown::ALL,
        }
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let session = self.0.clone();
        start(async move {
            let permit = recorded.into_intent();
            session
                .perform(&permit)
                .await
                .map_err(|fault| session.blame(&fault, &permit))
        })
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        let session = self.0.clone();
        async move { session.end().await }.boxed()
    }
}

/// Runs the future to its first wait, so that its first request is queued before this returns.
fn start(
    future: impl Future<Output = Result<Outcome, BackendError>> + Send + 'static,
) -> Execution {
    let mut execution = future.boxed();
    match execution
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => std::future::ready(result).boxed(),
        // The next poll leaves its own waker wherever this one was left.
        Poll::Pending => execution,
    }
}
