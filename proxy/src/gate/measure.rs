//! What lies on a mount, summed up for its quota. The gateway looks by itself, whatever the account may list, and each look is
//! on record as an operation of the session that needed it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use portcullis_journal::{Journal, Urgency};

use super::{gateway_error, next_operation, outcome::outcome_event};
use crate::{
    backend::{Backend, BackendError, ErrorKind},
    operation::{HandleId, Outcome},
    path::VirtualPath,
    policy::{Look, Mount, MountId, Permit, Requester},
};

/// Files and directories that are looked at; a mount with more can't have a quota.
const MAX_ENTRIES: usize = 1_000_000;

/// One mount, as a session may look at it.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) journal: Journal,
    pub(super) requester: Arc<Requester>,
    pub(super) mounts: Arc<Vec<Mount>>,
    pub(super) mount: MountId,
    pub(super) backend: Arc<dyn Backend>,
}

impl Measured {
    /// Bytes of all files, uploads under way included. Symbolic links are not followed.
    pub(super) async fn bytes(self) -> Result<u64, BackendError> {
        let root = match self.mounts.get(self.mount.0) {
            Some(mount) => mount.at.clone(),
            None => return Err(gateway_error("the mount is gone".to_owned())),
        };
        let mut left = vec![root.clone()];
        let (mut bytes, mut seen) = (0_u64, 0);
        while let Some(directory) = left.pop() {
            let handle = next_handle();
            match self.look(&directory, Look::Open(handle)).await {
                Ok(_) => {}
                // Somebody removed it meanwhile.
                Err(error) if directory != root && error.kind == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            while let Outcome::Names(entries) = self.look(&directory, Look::Next(handle)).await? {
                seen += entries.len();
                if seen > MAX_ENTRIES {
                    return Err(gateway_error(format!(
                        "a quota is kept over at most {MAX_ENTRIES} files; this mount has more"
                    )));
                }
                for entry in entries {
                    if !entry.attributes.is_directory() {
                        bytes = bytes.saturating_add(entry.attributes.size.unwrap_or_default());
                    } else if !matches!(&entry.name[..], b"." | b"..")
                        && let Ok(below) = join(&directory, &entry.name)
                    {
                        left.push(below);
                    }
                }
            }
            self.look(&directory, Look::Close(handle)).await?;
        }
        Ok(bytes)
    }

    async fn look(&self, directory: &VirtualPath, look: Look) -> Result<Outcome, BackendError> {
        let permit = Permit::measuring(
            &self.requester,
            &self.mounts,
            self.mount,
            next_operation(),
            directory,
            look,
        )
        .ok_or_else(|| gateway_error("a directory outside the mount".to_owned()))?;
        perform(&self.journal, &self.backend, permit).await
    }
}

/// Does what nobody asked for, on record like any operation.
pub(super) async fn perform(
    journal: &Journal,
    backend: &Arc<dyn Backend>,
    permit: Permit,
) -> Result<Outcome, BackendError> {
    let (id, requester) = (permit.id(), Arc::clone(permit.requester()));
    let begun = Instant::now();
    let recorded = journal
        .record_intent(permit, Urgency::Now)
        .await
        .map_err(|error| gateway_error(error.to_string()))?;
    let result = backend.execute(recorded).await;
    let event = outcome_event(&requester, id, &result, None, begun.elapsed());
    drop(journal.append_soon(event));
    result
}

fn join(directory: &VirtualPath, name: &[u8]) -> Result<VirtualPath, crate::path::PathError> {
    VirtualPath::clean(&[directory.as_bytes(), b"/", name].concat())
}

/// Above all that channels give out, and below 2^53.
pub(super) fn next_handle() -> HandleId {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 52);
    HandleId(NEXT.fetch_add(1, Ordering::Relaxed))
}
