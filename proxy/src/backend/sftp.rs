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
mod tending;
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
    Backend, BackendError, BackendService, Beginning, Capabilities, Execution, FileVersion, Owner,
    Shown, Tending,
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
            rereads: true,
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

    /// What clients write under a file's own name would be mixed with what the gateway writes.
    fn tending(&self) -> Option<&dyn Tending> {
        (self.0.publication() == Publication::Rename).then_some(self)
    }
}

impl Tending for SftpBackend {
    fn is_in_place(&self) -> bool {
        true
    }

    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>> {
        let (session, permit) = (self.0.clone(), recorded.into_intent());
        async move {
            let exchanged = session.exchange(&permit, &beginning).await;
            exchanged.map_err(|fault| session.blame(&fault, &permit))
        }
        .boxed()
    }

    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution {
        let (session, permit) = (self.0.clone(), recorded.into_intent());
        async move {
            let destroyed = session.destroy(&permit, &beginning).await;
            destroyed.map_err(|fault| session.blame(&fault, &permit))
        }
        .boxed()
    }

    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>> {
        let (session, permit) = (self.0.clone(), recorded.into_intent());
        async move {
            let version = session.version(&permit).await;
            version.map_err(|fault| session.blame(&fault, &permit))
        }
        .boxed()
    }

    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution {
        let (session, permit) = (self.0.clone(), recorded.into_intent());
        start(async move {
            let closed = session.close_over(&permit, &version).await;
            closed.map_err(|fault| session.blame(&fault, &permit))
        })
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
