//! One session of a backend, once the names are known.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use portcullis_at_rest::names::{LONGEST, NameTooLong, Names};
use portcullis_journal::Recorded;

use crate::{
    backend::{
        Backend, BackendError, Beginning, Capabilities, ErrorKind, Execution, FileVersion, Origin,
        Settled, Tending,
    },
    metrics,
    operation::{Attributes, Entry, Operation, Outcome},
    policy::{Permit, Stored},
};

/// Counts names on one backend that nobody gave through the gateway, or that were changed.
#[derive(Clone)]
pub struct Foreign {
    backend: Arc<str>,
    is_told: Arc<AtomicBool>,
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Foreign({})", self.backend)
    }
}

impl Foreign {
    pub fn on(backend: &str) -> Self {
        Self {
            backend: backend.into(),
            is_told: Arc::default(),
        }
    }

    fn hear(&self, names: usize) {
        if names == 0 {
            return;
        }
        metrics::foreign_names(&self.backend, names);
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                backend = &*self.backend,
                names,
                "a directory has names that are not encrypted with the backend's key, or were changed; clients don't see them. This is said once"
            );
        }
    }
}

/// A session whose operations name what is stored as clients do.
#[derive(Debug)]
pub struct Renamed {
    names: Arc<Names>,
    backend: Arc<dyn Backend>,
    foreign: Foreign,
}

impl Renamed {
    /// `backend` must be the session at the stored path of the mount's directory.
    pub fn new(names: Arc<Names>, backend: Arc<dyn Backend>, foreign: Foreign) -> Self {
        Self {
            names,
            backend,
            foreign,
        }
    }

    /// What a backend can do whose names are encrypted.
    pub(super) fn over(below: Capabilities) -> Capabilities {
        Capabilities {
            any_name: true,
            ..below
        }
    }

    /// The operation at its stored names.
    fn stored(&self, recorded: &Recorded<Permit>) -> Result<Recorded<Permit>, BackendError> {
        let asked = recorded.intent();
        let stored =
            Stored::of(asked, &self.names).map_err(|error| too_long(asked.operation(), error))?;
        let permit = stored.permit().clone();
        let proof = recorded.cover(stored).map_err(|_| unproven(asked))?;
        proof.cover(permit).map_err(|_| unproven(asked))
    }

    fn below(&self, recorded: &Recorded<Permit>) -> Execution {
        match self.stored(recorded) {
            Ok(stored) => self.backend.execute(stored),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn list(&self, recorded: Recorded<Permit>) -> Execution {
        let (backend, names) = (Arc::clone(&self.backend), Arc::clone(&self.names));
        let foreign = self.foreign.clone();
        let shows_foreign = recorded.intent().is_verifying();
        let again = move || {
            let asked = recorded.intent();
            match recorded.cover(asked.step(asked.operation().clone())) {
                Ok(step) => backend.execute(step),
                Err(permit) => ready(Err(unproven(&permit))).boxed(),
            }
        };
        let mut next = again();
        async move {
            loop {
                let outcome = next.await?;
                let Outcome::Names(entries) = outcome else {
                    return Ok(outcome);
                };
                let mut strange = 0;
                let mut found = Vec::with_capacity(entries.len());
                for entry in entries {
                    match shown(&names, &entry) {
                        Some(entry) => found.push(entry),
                        None if shows_foreign => found.push(strangely_named(entry)),
                        None => strange += 1,
                    }
                }
                foreign.hear(strange);
                let entries = found;
                // No name is no answer but the end's.
                if !entries.is_empty() {
                    return Ok(Outcome::Names(entries));
                }
                next = again();
            }
        }
        .boxed()
    }

    pub(super) async fn settle(
        &self,
        recorded: Recorded<Permit>,
        announced: i64,
    ) -> Result<Settled, BackendError> {
        let stored = self.stored(&recorded)?;
        match self.backend.halfway_renames() {
            Some(renames) => renames.settle(stored, announced).await,
            None => Err(unproven(recorded.intent())),
        }
    }
}

impl Backend for Renamed {
    fn capabilities(&self) -> Capabilities {
        Self::over(self.backend.capabilities())
    }

    fn execute(&self, recorded: Recorded<Permit>) -> Execution {
        match recorded.intent().operation() {
            Operation::Readdir { .. } => self.list(recorded),
            Operation::Readlink { .. } => {
                let (reading, names) = (self.below(&recorded), Arc::clone(&self.names));
                async move {
                    let outcome = reading.await?;
                    if let Outcome::Target(stored) = &outcome {
                        return shown_target(&names, stored).map(Outcome::Target);
                    }
                    Ok(outcome)
                }
                .boxed()
            }
            Operation::Statvfs { .. } => with_longest_name(self.below(&recorded)),
            Operation::Fstatvfs { .. } => with_longest_name(self.backend.execute(recorded)),
            // They name what is open, and no path.
            Operation::Close { .. }
            | Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Fstat { .. }
            | Operation::Fsetstat { .. }
            | Operation::Fsync { .. }
            | Operation::CheckFile { .. }
            | Operation::CopyData { .. } => self.backend.execute(recorded),
            Operation::Open { .. }
            | Operation::Stat { .. }
            | Operation::Lstat { .. }
            | Operation::Setstat { .. }
            | Operation::Lsetstat { .. }
            | Operation::Opendir { .. }
            | Operation::Remove { .. }
            | Operation::Mkdir { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::PosixRename { .. }
            | Operation::Symlink { .. }
            | Operation::Hardlink { .. }
            | Operation::Realpath { .. }
            | Operation::CheckFileName { .. }
            | Operation::Tend { .. }
            | Operation::Limits
            | Operation::HomeDirectory
            | Operation::UsersGroupsById { .. } => self.below(&recorded),
        }
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        self.backend.end()
    }

    fn tending(&self) -> Option<&dyn Tending> {
        self.backend.tending().map(|_| self as _)
    }
}

impl Tending for Renamed {
    fn is_in_place(&self) -> bool {
        self.backend.tending().is_some_and(Tending::is_in_place)
    }

    fn exchange(
        &self,
        recorded: Recorded<Permit>,
        beginning: Beginning,
    ) -> BoxFuture<'static, Result<u64, BackendError>> {
        let exchanged = match (self.backend.tending(), self.stored(&recorded)) {
            (Some(tending), Ok(stored)) => return tending.exchange(stored, beginning),
            (None, _) => Err(unproven(recorded.intent())),
            (Some(_), Err(error)) => Err(error),
        };
        ready(exchanged).boxed()
    }

    fn destroy(&self, recorded: Recorded<Permit>, beginning: Beginning) -> Execution {
        let destroyed = match (self.backend.tending(), self.stored(&recorded)) {
            (Some(tending), Ok(stored)) => return tending.destroy(stored, beginning),
            (None, _) => Err(unproven(recorded.intent())),
            (Some(_), Err(error)) => Err(error),
        };
        ready(destroyed).boxed()
    }

    fn version(
        &self,
        recorded: Recorded<Permit>,
    ) -> BoxFuture<'static, Result<FileVersion, BackendError>> {
        let version = match (self.backend.tending(), self.stored(&recorded)) {
            (Some(tending), Ok(stored)) => return tending.version(stored),
            (None, _) => Err(unproven(recorded.intent())),
            (Some(_), Err(error)) => Err(error),
        };
        ready(version).boxed()
    }

    // It names what is open, and no path.
    fn close_over(&self, recorded: Recorded<Permit>, version: FileVersion) -> Execution {
        match self.backend.tending() {
            Some(tending) => tending.close_over(recorded, version),
            None => ready(Err(unproven(recorded.intent()))).boxed(),
        }
    }
}

fn shown(names: &Names, entry: &Entry) -> Option<Entry> {
    if matches!(&entry.name[..], b"." | b"..") {
        return Some(entry.clone());
    }
    let name = names.decrypt(&entry.name)?.into();
    let attributes = entry.attributes.clone();
    Some(Entry { name, attributes })
}

fn strangely_named(entry: Entry) -> Entry {
    Entry {
        attributes: Attributes {
            is_foreign: true,
            ..entry.attributes
        },
        ..entry
    }
}

/// What a link's target is to clients.
fn shown_target(names: &Names, stored: &[u8]) -> Result<Bytes, BackendError> {
    let parts: Option<Vec<_>> = stored
        .split(|byte| *byte == b'/')
        .map(|part| match part {
            b"" | b"." | b".." => Some(part.to_vec()),
            name => names.decrypt(name),
        })
        .collect();
    match parts {
        Some(parts) if !stored.starts_with(b"/") => Ok(parts.join(&b'/').into()),
        Some(_) | None => {
            let message = "the link was not made through the gateway, or was changed: it names no file of the backend";
            let (kind, origin) = (ErrorKind::NotAuthentic, Origin::Backend);
            Err(BackendError::new(kind, origin, message))
        }
    }
}

fn with_longest_name(asked: Execution) -> Execution {
    async move {
        let mut outcome = asked.await?;
        if let Outcome::FilesystemStatus(status) = &mut outcome {
            status.name_max = status.name_max.min(LONGEST as u64);
        }
        Ok(outcome)
    }
    .boxed()
}

/// Nothing can have such a name, and nothing can get it.
fn too_long(operation: &Operation, error: NameTooLong) -> BackendError {
    let creates = match operation {
        Operation::Open { access, .. } => access.create,
        Operation::Mkdir { .. }
        | Operation::Rename { .. }
        | Operation::PosixRename { .. }
        | Operation::Symlink { .. }
        | Operation::Hardlink { .. } => true,
        Operation::Close { .. }
        | Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::Stat { .. }
        | Operation::Lstat { .. }
        | Operation::Fstat { .. }
        | Operation::Setstat { .. }
        | Operation::Lsetstat { .. }
        | Operation::Fsetstat { .. }
        | Operation::Opendir { .. }
        | Operation::Readdir { .. }
        | Operation::Remove { .. }
        | Operation::Rmdir { .. }
        | Operation::Realpath { .. }
        | Operation::Readlink { .. }
        | Operation::Statvfs { .. }
        | Operation::Fstatvfs { .. }
        | Operation::Fsync { .. }
        | Operation::CheckFile { .. }
        | Operation::CheckFileName { .. }
        | Operation::CopyData { .. }
        | Operation::Tend { .. }
        | Operation::Limits
        | Operation::HomeDirectory
        | Operation::UsersGroupsById { .. } => false,
    };
    let kind = if creates {
        ErrorKind::Unsupported
    } else {
        ErrorKind::NotFound
    };
    BackendError::new(kind, Origin::Client, error.to_string())
}

fn unproven(permit: &Permit) -> BackendError {
    let name = permit.operation().name();
    let message = format!("{name} has no stored names that its record covers");
    BackendError::new(ErrorKind::Failure, Origin::Gateway, message)
}
