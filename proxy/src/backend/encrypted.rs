//! Encryption at rest, over any backend: what lies there is made by [`portcullis_at_rest`], what sessions see is the plaintext.
//!
//! An operation is carried out by steps of the backend below, each a part of what is on record
//! ([`Permit::step`](crate::policy::Permit::step)). Names, directories and links are the backend's own.

mod closing;
mod download;
mod fault;
mod keys;
mod migrate;
mod pending;
mod rewind;
mod session;
mod shown;
mod shred;
mod steps;
mod tend;
#[cfg(test)]
pub(super) mod tests;
mod upload;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use portcullis_at_rest::{EXTENT_PLAINTEXT, Keyring, ObjectId, Realm, SEGMENT_PLAINTEXT};
use portcullis_audit::catalogue::{Asker, Named, OnRecord};
use portcullis_journal::Recorded;

use self::{
    closing::{finish, start, withdraw},
    fault::Fault,
    session::{Handle, Handles, Session},
    shown::show_plaintext,
    steps::Steps,
};
pub use self::{
    keys::waiting,
    pending::{Pending, Place},
};
use super::{
    Backend, BackendError, BackendService, Capabilities, Execution, HalfwayRenames, Owner,
    buffers::Buffers,
};
use crate::{
    operation::{Care, HandleId, Operation, Outcome},
    policy::Permit,
};

/// How one backend's files are encrypted.
#[derive(Debug)]
pub struct Vault {
    pub ring: Keyring,
    /// Of the backend.
    pub realm: Realm,
    /// What is done with files that are not encrypted.
    pub foreign: Foreign,
    /// Most bytes of a file that can be changed, or written in any order.
    pub update_limit: u64,
    /// Where such a file waits for its CLOSE, encrypted.
    pub spool_directory: PathBuf,
    /// Where a head is kept that is being written in the place of another.
    pub pending: Pending,
    /// What tells that a file lies where it was put; without it that is not looked at.
    pub names: Option<NamedPlaces>,
    /// A client who asks for a digest is told what the journal says.
    pub vouch: bool,
}

/// Names of stored files, beside the files themselves: these are authentic wherever they lie.
pub trait Names: fmt::Debug + Send + Sync {
    /// Whether a file was put at one of these places: a backend, and a path below its root. Or why that can't be told.
    fn named(
        &self,
        asker: Asker,
        places: Vec<(String, Vec<u8>)>,
        object: ObjectId,
    ) -> BoxFuture<'static, Result<Named, String>>;
}

/// Where the files of a backend are to be found.
#[derive(Debug, Clone)]
pub struct NamedPlaces {
    pub names: Arc<dyn Names>,
    /// The backend, and the lists that it is a member of.
    pub backends: Vec<String>,
}

/// What is done with files that are not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// They can be listed, moved and removed, and not opened.
    Refuse,
    /// They are read as they are, until they are migrated.
    Read,
}

/// An encrypted backend.
#[derive(Debug)]
pub struct EncryptedService {
    service: Arc<dyn BackendService>,
    vault: Arc<Vault>,
    buffers: Buffers,
}

impl EncryptedService {
    pub fn new(service: Arc<dyn BackendService>, vault: Vault) -> Self {
        Self {
            service,
            vault: Arc::new(vault),
            buffers: Buffers::default(),
        }
    }
}

impl BackendService for EncryptedService {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        let pace = owner.pace().clone();
        let owner = owner.clone().beneath_a_layer();
        let mut backend = self.service.session(directory, &owner);
        let below = backend.capabilities();
        let is_kept = below.resume_from.is_some();
        let can_resume = is_kept && below.rereads;
        if is_kept && !can_resume {
            // The key that the rest would be encrypted with is in the first bytes of what is there.
            let owner = owner.resuming(Some(false));
            backend = self.service.session(directory, &owner);
        }
        let handles = Arc::<Handles>::default();
        let held = Arc::downgrade(&handles);
        self.vault.ring.hold(held);
        Arc::new(Encrypted {
            session: Session {
                backend,
                directory: directory.into(),
                can_read: below.rereads,
                can_resume,
                is_random: below.random_access,
                pace,
                vault: Arc::clone(&self.vault),
                buffers: self.buffers.clone(),
                handles,
                spoiled: Arc::default(),
                own: Arc::default(),
            },
        })
    }
}

/// An extent, and a segment behind it that was followed by another.
const RESUME_FROM: u64 = EXTENT_PLAINTEXT + 2 * SEGMENT_PLAINTEXT as u64;

#[derive(Debug)]
struct Encrypted {
    session: Session,
}

impl Backend for Encrypted {
    fn capabilities(&self) -> Capabilities {
        let below = self.session.backend.capabilities();
        Capabilities {
            random_access: true,
            update: true,
            resume_from: below
                .resume_from
                .filter(|_| self.session.can_resume)
                .map(|_| RESUME_FROM),
            read_back: false,
            rereads: false,
            ..below
        }
    }

    fn member(&self) -> Option<&str> {
        self.session.backend.member()
    }

    fn on_record(&self, handle: HandleId) -> Option<OnRecord> {
        match self.session.handle(handle)? {
            Handle::Download(download) => download.on_record(),
            Handle::Upload(_) | Handle::Plain | Handle::Directory => None,
        }
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let session = self.session.clone();
        let steps = Steps::new(&session.backend, recorded);
        if let Some(fault) = session.refused(steps.operation()) {
            return answer(Err(fault));
        }
        match steps.operation().clone() {
            Operation::Open {
                path,
                handle,
                access,
                attributes,
            } => {
                if access.writes() {
                    session
                        .open_upload(steps, path, handle, access, attributes)
                        .boxed()
                } else {
                    session.open_download(steps, path, handle)
                }
            }
            Operation::Opendir { handle, .. } => {
                let opening = steps.pass();
                async move {
                    let outcome = opening.await?;
                    session.insert(handle, Handle::Directory);
                    Ok(outcome)
                }
                .boxed()
            }
            Operation::Close { handle } => session.close(steps, handle),
            Operation::Read {
                handle,
                offset,
                length,
            } => match session.handle(handle) {
                Some(Handle::Download(download)) => download.read(&steps, offset, length),
                Some(Handle::Upload(upload)) => {
                    let read = lock(&upload).read(offset, length);
                    answer(read.map(|data| {
                        if data.is_empty() {
                            Outcome::End
                        } else {
                            Outcome::Data(data.into())
                        }
                    }))
                }
                Some(Handle::Plain | Handle::Directory) | None => steps.pass(),
            },
            Operation::Write {
                handle,
                offset,
                data,
            } => match session.handle(handle) {
                Some(Handle::Upload(upload)) => {
                    let mut open = lock(&upload);
                    let written = open.write(offset, &data, &session.vault);
                    let (rewinding, withdrawal) = (open.rewinding.take(), open.withdrawal());
                    let rewound = open.rewound.clone();
                    drop(open);
                    match (written, rewinding, rewound) {
                        (Ok(_), Some(rewind), _) => {
                            session.rewind(steps, handle, upload, rewind).boxed()
                        }
                        (Ok(pieces), None, Some(rewound)) if pieces.is_empty() => {
                            rewind::wait(upload, rewound).boxed()
                        }
                        (Ok(pieces), None, _) => finish(start(&steps, handle, pieces)),
                        (Err(fault), _, _) => withdraw(&steps, handle, withdrawal, fault),
                    }
                }
                Some(_) => answer(Err(Fault::WrongHandle)),
                None => answer(Err(Fault::NoSuchHandle)),
            },
            Operation::Readdir { .. } => {
                let reading = steps.pass();
                async move {
                    let mut outcome = reading.await?;
                    if let Outcome::Names(entries) = &mut outcome {
                        for entry in entries {
                            show_plaintext(&mut entry.attributes);
                        }
                    }
                    Ok(outcome)
                }
                .boxed()
            }
            Operation::Stat { path } | Operation::Lstat { path } => {
                session.stat(steps, path).boxed()
            }
            Operation::Fstat { handle } => session.fstat(steps, handle),
            Operation::Fsetstat { handle, attributes } => {
                session.set_open(steps, handle, attributes)
            }
            Operation::Setstat { path, attributes } if attributes.size.is_some() => {
                session.resize(steps, path, attributes).boxed()
            }
            Operation::Fsync { handle } => match session.handle(handle) {
                // Nothing of it is on the backend before it is closed.
                Some(Handle::Upload(upload)) if !lock(&upload).is_open_below() => {
                    answer(Ok(Outcome::Done))
                }
                _ => steps.pass(),
            },
            Operation::Setstat { .. }
            | Operation::Lsetstat { .. }
            | Operation::Remove { .. }
            | Operation::Mkdir { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::PosixRename { .. }
            | Operation::Readlink { .. }
            | Operation::Symlink { .. }
            | Operation::Hardlink { .. }
            | Operation::Statvfs { .. }
            | Operation::Fstatvfs { .. }
            | Operation::Realpath { .. }
            | Operation::CheckFile { .. }
            | Operation::CheckFileName { .. }
            | Operation::CopyData { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. } => steps.pass(),
            Operation::Tend { path, care } => match care {
                Care::Rewrap => session.rewrap(steps, path).boxed(),
                Care::Encrypt { expected } => session.encrypt(steps, path, expected).boxed(),
                Care::Identify => session.identify(steps, path).boxed(),
                Care::Shred { object } => session.shred(steps, path, object).boxed(),
            },
        }
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.session.handles.table().clear();
        self.session.backend.end()
    }

    fn halfway_renames(&self) -> Option<&dyn HalfwayRenames> {
        // Names are those of the backend, and what is encrypted is compared as it is.
        self.session.backend.halfway_renames()
    }
}

fn answer(result: Result<Outcome, Fault>) -> Execution {
    ready(result.map_err(BackendError::from)).boxed()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
