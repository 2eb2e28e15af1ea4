//! The gateway's own work on stored files: their keys are wrapped to others.
//!
//! A head is exchanged where it lies, so that nobody who has the file open notices and nothing else of it is written. Three things
//! make that safe: object and realm, by which a file is known, are the same in both heads; a reader that finds neither of them reads
//! again; and the new head is on a disk of the gateway before, so that one that was torn by a crash is written again.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use portcullis_at_rest::{DataKey, Head, HeadError};

use super::{
    Foreign,
    fault::Fault,
    pending::{Entry, Pending, Place},
    session::Session,
    steps::Steps,
};
use crate::{
    backend::{BackendError, Beginning, Tending},
    operation::{Access, HandleId, Outcome, Tended},
    path::VirtualPath,
};

/// How often a head that can't be opened is read, if it is another one each time.
const READS: usize = 3;
/// Magic, version, length, object and realm: what all heads of a file begin with.
pub(super) const CONSTANT: usize = 64;

/// True if both are heads of one file, or are the same.
pub(super) fn is_same_file(one: &[u8], other: &[u8]) -> bool {
    match (Head::parse(one), Head::parse(other)) {
        (Ok(one), Ok(other)) => one.object() == other.object() && one.realm() == other.realm(),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => one == other,
    }
}

impl Session {
    /// The key of what is open under `handle` and begins with `head`. It is read again if it is just being exchanged.
    pub(super) async fn unwrap(
        &self,
        steps: &Steps,
        handle: HandleId,
        mut head: Head,
    ) -> Result<(Head, DataKey), BackendError> {
        for _ in 1..READS {
            let fault = match self.vault.unwrap(&head).await {
                Ok(key) => return Ok((head, key)),
                Err(fault) => fault,
            };
            let again = steps.read(handle, 0, Head::LENGTH).await?;
            if again == head.as_bytes()[..] {
                return Err(fault.into());
            }
            head = Head::parse(&again).map_err(Fault::from)?;
        }
        let key = self.vault.unwrap(&head).await?;
        Ok((head, key))
    }

    /// Wraps the key of a file as those of new files are.
    pub(super) async fn rewrap(
        self,
        steps: Steps,
        path: VirtualPath,
    ) -> Result<Outcome, BackendError> {
        let Some(tending) = self.backend.tending() else {
            return Err(Fault::NotInPlace.into());
        };
        let handle = self.own_handle();
        steps.open(&path, handle, Access::READ).await?;
        let found = self.find(&steps, handle).await;
        let closed = steps.close(handle).await;
        let tended = match found? {
            Found::Plain => Tended::Plain,
            Found::Current => Tended::Current,
            Found::Other {
                before,
                times,
                entry,
            } => {
                closed?;
                let after = Bytes::copy_from_slice(entry.head.as_bytes());
                let beginning = Beginning {
                    before,
                    after,
                    times,
                    pace: self.pace.clone(),
                };
                let bytes = self.exchange(&steps, tending, beginning, entry).await?;
                Tended::Rewrapped { bytes }
            }
        };
        Ok(Outcome::Tended(tended))
    }

    fn place(&self, steps: &Steps) -> Result<Place, BackendError> {
        let below = steps.place().map(|path| path.as_bytes());
        let path = VirtualPath::clean(below.unwrap_or_default());
        Ok(Place {
            directory: (*self.directory).into(),
            path: path.map_err(|_| Fault::NoSuchHandle)?,
        })
    }

    async fn find(&self, steps: &Steps, handle: HandleId) -> Result<Found, BackendError> {
        let beginning = steps.read(handle, 0, Head::LENGTH).await?;
        let attributes = steps.attributes(handle).await?;
        let vault = &self.vault;
        let head = match Head::parse(&beginning) {
            Err(HeadError::Foreign | HeadError::Empty | HeadError::Short)
                if vault.foreign == Foreign::Read =>
            {
                return Ok(Found::Plain);
            }
            head => head.map_err(Fault::from)?,
        };
        let place = self.place(steps)?;
        let left = kept(&vault.pending).await?;
        // Somebody may have renamed it since.
        let left = left.filter(|entry| is_of_one(&beginning, &entry.head));
        let opened = self.unwrap(steps, handle, head).await;
        if let Some(entry) = left {
            let modified = |times: Option<(u32, u32)>| times.map(|(_, modified)| modified);
            // The crash came in the middle of the head, or before the times were put back.
            let is_unfinished = match &opened {
                Err(_) => vault.unwrap(&entry.head).await.is_ok(),
                Ok((head, _)) => {
                    *head == entry.head
                        && entry.place == place
                        && modified(entry.times) != modified(attributes.times)
                }
            };
            if is_unfinished {
                return Ok(Found::Other {
                    before: beginning,
                    times: entry.times,
                    entry: Box::new(entry),
                });
            }
        }
        let (head, _) = opened?;
        if vault.ring.is_current(&head) {
            return Ok(Found::Current);
        }
        let new = vault.rewrap(&head).await?;
        Ok(Found::Other {
            before: Bytes::copy_from_slice(head.as_bytes()),
            times: None,
            entry: Box::new(Entry {
                place,
                head: new,
                times: attributes.times,
            }),
        })
    }

    async fn exchange(
        &self,
        steps: &Steps,
        tending: &dyn Tending,
        beginning: Beginning,
        entry: Box<Entry>,
    ) -> Result<u64, BackendError> {
        let recorded = steps.prove(steps.operation().clone())?;
        if !tending.is_in_place() {
            return tending.exchange(recorded, beginning).await;
        }
        let left = kept(&self.vault.pending).await?;
        if let Some(other) = left.filter(|left| left.place != entry.place) {
            return Err(Fault::Unsettled(other.place.path).into());
        }
        let pending = self.vault.pending.clone();
        on_a_thread(move || pending.put(&entry)).await?;
        let pace = beginning.pace.clone();
        let bytes = tending.exchange(recorded, beginning).await?;
        pace.take(bytes).await;
        let pending = self.vault.pending.clone();
        on_a_thread(move || pending.clear()).await?;
        Ok(bytes)
    }
}

/// What stands there.
enum Found {
    Plain,
    Current,
    /// A head that another is to replace.
    Other {
        before: Bytes,
        /// To be put back.
        times: Option<(u32, u32)>,
        entry: Box<Entry>,
    },
}

/// True if both begin as heads of one file.
fn is_of_one(beginning: &[u8], head: &Head) -> bool {
    beginning.get(..CONSTANT) == head.as_bytes().get(..CONSTANT)
}

pub(super) async fn kept(pending: &Pending) -> Result<Option<Entry>, BackendError> {
    let pending = pending.clone();
    on_a_thread(move || pending.get()).await
}

pub(super) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(std::io::Error::other);
    Ok(done.and_then(|done| done).map_err(Fault::Pending)?)
}
