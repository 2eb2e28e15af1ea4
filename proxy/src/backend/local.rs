//! A directory of this machine as a backend.
//!
//! Every path is resolved by the kernel beneath the mount's directory. A session's operations are done one after the
//! other in the order they came, as in OpenSSH's sftp-server; only READs of files that are open for nothing else run
//! beside them.

mod attributes;
mod download;
mod fault;
mod lane;
mod listing;
mod partial;
mod session;
mod sweep;
mod tending;
#[cfg(test)]
mod tests;
mod tree;
mod turns;
mod upload;
mod writeback;

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use portcullis_journal::Recorded;
use rustix::fs::{Mode, OFlags};

use self::{
    download::Download,
    lane::{Lane, Pool},
    session::{Session, data_or_end},
};
use super::{
    Backend, BackendError, BackendService, Beginning, Capabilities, Execution, FileVersion, Owner,
    Shown, Tending,
    buffers::{Buffer, Buffers},
    staging::{LEAST_RESUMABLE, StagingNames, UploadSettings},
};
use crate::{operation::Operation, policy::Permit};

/// Settings of a local backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSettings {
    /// The mounts' directories are below it. It must exist.
    pub directory: PathBuf,
    pub uploads: UploadSettings,
    /// How long an operation may take without a sign of progress.
    pub timeout: Duration,
}

/// Why a local backend can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error(
        "open directory {}; it must exist and be a directory that the gateway's user may search",
        directory.display()
    )]
    Directory {
        directory: PathBuf,
        source: std::io::Error,
    },
}

/// A directory of this machine.
#[derive(Debug)]
pub struct LocalService {
    root: Arc<OwnedFd>,
    directory: PathBuf,
    names: StagingNames,
    pool: Pool,
    buffers: Buffers,
}

impl LocalService {
    /// Opens the directory, once and for all: what happens to its name later changes nothing.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn new(settings: LocalSettings) -> Result<Self, OpenError> {
        let LocalSettings {
            directory,
            uploads,
            timeout,
        } = settings;
        match rustix::fs::open(
            &directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(root) => Ok(Self {
                root: Arc::new(root),
                directory,
                names: StagingNames::new(uploads, &boot_id()),
                pool: Pool::new(timeout),
                buffers: Buffers::default(),
            }),
            Err(errno) => Err(OpenError::Directory {
                directory,
                source: errno.into(),
            }),
        }
    }

    /// Removes the staging files that crashes and interrupted uploads left behind, once nobody has touched them for the
    /// retention time. Walks the whole tree and blocks; returns how many it removed.
    pub fn sweep_leftovers(&self, now: std::time::SystemTime) -> usize {
        sweep::sweep(&self.root, &self.names, now)
    }
}

/// Tells this run of the kernel from every other: what was not synced is good as long as it runs, since its page cache has
/// it. After a power cut a partial may hold zeros in place of what was acknowledged, so it must not be found again.
fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|error| {
        tracing::warn!(%error, "the kernel's boot id can't be read; uploads are not resumed beyond a restart");
        let mut random = vec![0; 16];
        // Without randomness either, no upload can begin: staging files need it too.
        let _ = getrandom::fill(&mut random);
        random
    })
}

impl BackendService for LocalService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        Arc::new(self.backend(directory, owner))
    }
}

impl LocalService {
    fn backend(&self, directory: &[u8], owner: &Owner) -> LocalBackend {
        let lane = Lane::new(self.pool.clone());
        LocalBackend {
            pool: self.pool.clone(),
            buffers: self.buffers.clone(),
            session: Arc::new(Session::new(
                self.root.clone(),
                directory,
                format!(
                    "local directory {}/{}",
                    self.directory.display(),
                    String::from_utf8_lossy(directory)
                ),
                self.names.session(owner, directory),
                self.pool.clone(),
                lane.pulse(),
            )),
            lane,
        }
    }
}

#[derive(Debug)]
struct LocalBackend {
    session: Arc<Session>,
    lane: Arc<Lane>,
    pool: Pool,
    buffers: Buffers,
}

impl Backend for LocalBackend {
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
        let permit = Arc::new(recorded.into_intent());
        let session = self.session.clone();
        if let &Operation::Read {
            handle,
            offset,
            length,
        } = permit.operation()
            && let Some(download) = session.download(handle)
        {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let buffer = self.buffers.take(length);
            let read = (download, offset, length, buffer);
            return read_beside(self.pool.clone(), session, permit, read);
        }
        self.run(permit, Session::perform)
    }

    fn tending(&self) -> Option<&dyn Tending> {
        Some(self)
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        let session = self.session.clone();
        let ended = self.lane.run_at_any_rate(move || session.end());
        async move {
            // Should the thread have died, the handles are dropped all the same; should the file system hang, they are as
            // soon as it answers.
            let _ = ended.await;
        }
        .boxed()
    }
}

impl Tending for LocalBackend {
    fn is_in_place(&self) -> bool {
        true
    }

    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>> {
        let permit = Arc::new(recorded.into_intent());
        self.run(permit, move |session, permit| {
            session.exchange(permit, &beginning)
        })
    }

    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution {
        let permit = Arc::new(recorded.into_intent());
        self.run(permit, move |session, permit| {
            session.destroy(permit, &beginning)
        })
    }

    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>> {
        self.run(Arc::new(recorded.into_intent()), Session::version)
    }

    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution {
        let permit = Arc::new(recorded.into_intent());
        self.run(permit, move |session, permit| {
            session.publish_over(permit, &version)
        })
    }
}

impl LocalBackend {
    /// In the order of these calls.
    fn run<T: Send + 'static>(
        &self,
        permit: Arc<Permit>,
        work: impl FnOnce(&Session, &Permit) -> Result<T, BackendError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, BackendError>> {
        let done = {
            let (session, permit) = (Arc::clone(&self.session), Arc::clone(&permit));
            self.lane.run(move || work(&session, &permit))
        };
        let session = Arc::clone(&self.session);
        let patience = self.pool.patience();
        async move {
            done.await.unwrap_or_else(|lost| {
                let fault = session.lose(lost, &permit, patience);
                Err(session.blame(&fault, &permit))
            })
        }
        .boxed()
    }
}

fn read_beside(
    pool: Pool,
    session: Arc<Session>,
    permit: Arc<Permit>,
    (download, offset, length, buffer): (Download, u64, usize, Buffer),
) -> Execution {
    async move {
        let data = match download.read_cached(offset, length, buffer) {
            Ok(data) => Ok(data),
            Err(buffer) => pool
                .run(move || download.read(offset, length, buffer))
                .await
                .unwrap_or_else(|lost| Err(session.lose(lost, &permit, pool.patience()))),
        };
        data.map(data_or_end)
            .map_err(|fault| session.blame(&fault, &permit))
    }
    .boxed()
}
