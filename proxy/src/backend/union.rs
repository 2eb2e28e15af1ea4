//! Mounts below a mount: their names stand in its listings, in place of what its backend has there.
//!
//! The directories from a mount down to another one below it are a read-only union: they list what the backend has and the
//! next name on the way, and are there even if the backend has no such directory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use portcullis_audit::catalogue::OnRecord;
use portcullis_journal::Recorded;

use super::{
    Backend, BackendError, Capabilities, ErrorKind, Execution, Origin,
    gateway::{directory, directory_entry},
};
use crate::{
    operation::{Entry, HandleId, Operation, Outcome},
    path::VirtualPath,
    policy::Permit,
};

/// The names that a mount's directories have because of mounts below it. The keys are paths below the mount's directory.
type Names = HashMap<Vec<u8>, BTreeSet<Bytes>>;

/// A backend with the mounts below its mount.
#[derive(Debug)]
pub struct Union {
    backend: Arc<dyn Backend>,
    names: Names,
    open: Arc<Mutex<HashMap<HandleId, Listing>>>,
}

#[derive(Debug)]
struct Listing {
    names: BTreeSet<Bytes>,
    /// The names of mounts were given.
    is_given: bool,
    /// The backend has the directory too.
    is_on_backend: bool,
}

impl Union {
    /// `backend` itself if no other mount lies below `at`.
    pub fn over(
        backend: Arc<dyn Backend>,
        at: &VirtualPath,
        mounts: impl Iterator<Item = VirtualPath>,
    ) -> Arc<dyn Backend> {
        let mut names = Names::new();
        for below in mounts.filter_map(|mount| mount.below(at)) {
            let mut directory = Vec::new();
            for name in below.components() {
                names
                    .entry(directory.clone())
                    .or_default()
                    .insert(Bytes::copy_from_slice(name));
                if !directory.is_empty() {
                    directory.push(b'/');
                }
                directory.extend_from_slice(name);
            }
        }
        if names.is_empty() {
            return backend;
        }
        Arc::new(Self {
            backend,
            names,
            open: Arc::default(),
        })
    }

    fn open_directory(
        &self,
        handle: HandleId,
        names: BTreeSet<Bytes>,
        recorded: Recorded<Permit>,
    ) -> Execution {
        // The mount's own directory has to be there: its absence is a fault that somebody should hear of.
        let is_mount = recorded
            .intent()
            .target()
            .is_none_or(|target| target.is_empty());
        let opening = self.backend.execute(recorded);
        let open = Arc::clone(&self.open);
        async move {
            let is_on_backend = match opening.await {
                Ok(Outcome::Opened) => true,
                Err(error) if !is_mount && is_absent(&error) => false,
                other => return other,
            };
            let listing = Listing {
                names,
                is_given: false,
                is_on_backend,
            };
            lock(&open).insert(handle, listing);
            Ok(Outcome::Opened)
        }
        .boxed()
    }

    /// What a listing brings that the backend has no part in; `None` if it has.
    fn answer_alone(&self, operation: &Operation) -> Option<Result<Outcome, BackendError>> {
        let mut open = lock(&self.open);
        let listing = operation
            .handle()
            .and_then(|handle| open.get_mut(&handle))
            .filter(|listing| !listing.is_on_backend)?;
        if let Operation::Readdir { .. } = operation {
            Some(Ok(if std::mem::replace(&mut listing.is_given, true) {
                Outcome::End
            } else {
                Outcome::Names(entries(&listing.names))
            }))
        } else if let Operation::Fstat { .. } = operation {
            Some(Ok(Outcome::Attributes(directory())))
        } else if let Operation::Close { handle } = operation {
            open.remove(handle);
            Some(Ok(Outcome::Done))
        } else {
            Some(Err(refusal(
                ErrorKind::Unsupported,
                "the directory is only there for the mounts below it",
            )))
        }
    }

    fn read_directory(&self, handle: HandleId, recorded: Recorded<Permit>) -> Execution {
        let reading = self.backend.execute(recorded);
        let open = Arc::clone(&self.open);
        async move {
            let outcome = reading.await?;
            let mut open = lock(&open);
            let Some(listing) = open.get_mut(&handle) else {
                return Ok(outcome);
            };
            let mut names = if let Outcome::Names(names) = outcome {
                names
            } else if listing.is_given {
                return Ok(outcome);
            } else {
                Vec::new()
            };
            names.retain(|entry| !listing.names.contains(&entry.name));
            if !std::mem::replace(&mut listing.is_given, true) {
                names.extend(entries(&listing.names));
            }
            Ok(Outcome::Names(names))
        }
        .boxed()
    }
}

impl Backend for Union {
    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn member(&self) -> Option<&str> {
        self.backend.member()
    }

    fn on_record(&self, handle: HandleId) -> Option<OnRecord> {
        self.backend.on_record(handle)
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        let permit = recorded.intent();
        let operation = permit.operation();
        if let Some(answer) = self.answer_alone(operation) {
            return ready(answer).boxed();
        }
        let names = permit
            .target()
            .filter(|_| operation.handle().is_none())
            .and_then(|target| self.names.get(target.as_bytes()));
        match (operation, names) {
            (Operation::Opendir { handle, .. }, Some(names)) => {
                self.open_directory(*handle, names.clone(), recorded)
            }
            (Operation::Stat { .. } | Operation::Lstat { .. }, Some(_)) => {
                let asked = self.backend.execute(recorded);
                async move {
                    match asked.await {
                        Err(error) if !is_absent(&error) => Err(error),
                        Ok(Outcome::Attributes(found)) if found.is_directory() => {
                            Ok(Outcome::Attributes(found))
                        }
                        Ok(_) | Err(_) => Ok(Outcome::Attributes(directory())),
                    }
                }
                .boxed()
            }
            (Operation::Open { .. } | Operation::CheckFileName { .. }, Some(_)) => {
                let error = refusal(ErrorKind::IsADirectory, "a mount lies below it");
                ready(Err(error)).boxed()
            }
            (Operation::Readlink { .. }, Some(_)) => {
                let error = refusal(ErrorKind::InvalidArgument, "a mount lies below it");
                ready(Err(error)).boxed()
            }
            (Operation::Readdir { handle }, _) if lock(&self.open).contains_key(handle) => {
                self.read_directory(*handle, recorded)
            }
            (Operation::Close { handle }, _) => {
                lock(&self.open).remove(handle);
                self.backend.execute(recorded)
            }
            // The policy lets nothing change the directories on the way.
            (_, _) => self.backend.execute(recorded),
        }
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        lock(&self.open).clear();
        self.backend.end()
    }
}

fn entries(names: &BTreeSet<Bytes>) -> Vec<Entry> {
    names.iter().cloned().map(directory_entry).collect()
}

/// Nothing is there, or something that a mount hides.
fn is_absent(error: &BackendError) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn refusal(kind: ErrorKind, message: &str) -> BackendError {
    BackendError::new(kind, Origin::Client, message)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
