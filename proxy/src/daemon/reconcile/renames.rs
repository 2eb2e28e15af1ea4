//! Renames that were under way on a backend that copies and then removes: both files may be there.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use portcullis_journal::Recovery;
use serde_json::{Map, Value};

use super::{Announced, LOOKS_AT_ONCE, MOST_LOOKS, Name, Written};
use crate::{
    backend::{BackendError, Content, ErrorKind, Settled},
    gate::reconcile::Looker,
    operation::Operation,
};

/// How long the backends may take together, before they are asked what is there.
const DEADLINE: Duration = Duration::from_secs(3);

/// What became of a rename.
pub(super) type Ended = Result<Settled, ErrorKind>;

/// Ends the renames that stopped half-way, as far as that is safe; what a backend that renames in one step has done is not
/// among them.
pub(super) async fn settle<'a>(
    recovery: &Recovery,
    announced: &HashMap<Name, Announced>,
    looker: impl Fn(&Announced) -> Option<Looker<'a>>,
) -> HashMap<Name, Ended> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let settled = recovery
        .unknown
        .iter()
        .filter_map(|name| {
            let one = announced.get(name)?;
            Some((*name, rename(one)?, one.time?, looker(one)?))
        })
        .take(MOST_LOOKS)
        .map(|(name, rename, time, looker)| async move {
            let settling = looker.settle(rename.clone(), time);
            let ended = match tokio::time::timeout_at(deadline, settling).await {
                Ok(None) => return None,
                Ok(Some(settled)) => settled.map_err(|error| {
                    tracing::warn!(%error, "what a rename has left that was under way at the crash is not known");
                    error.kind
                }),
                Err(_) => Err(ErrorKind::TimedOut),
            };
            if let Operation::Rename { from, to } | Operation::PosixRename { from, to } = &rename {
                say(&format!("{from:?}"), &format!("{to:?}"), &ended);
            }
            Some((name, ended))
        });
    // Collected before it runs, or the compiler can't tell that it may move between threads.
    let settled: Vec<_> = settled.collect();
    stream::iter(settled)
        .buffer_unordered(LOOKS_AT_ONCE)
        .filter_map(|ended| async { ended })
        .collect()
        .await
}

fn rename(announced: &Announced) -> Option<Operation> {
    let [Written::Clear(from), Written::Clear(to)] = announced.paths.as_slice() else {
        return None;
    };
    let (from, to) = (from.clone(), to.clone());
    match announced.operation.as_str() {
        "rename" => Some(Operation::Rename { from, to }),
        "posix_rename" => Some(Operation::PosixRename { from, to }),
        _ => None,
    }
}

fn say(from: &str, to: &str, ended: &Ended) {
    match ended {
        Ok(Settled::Removed | Settled::NotCopied) => {}
        Ok(Settled::Copied {
            removed: Ok(()), ..
        }) => tracing::warn!(
            from,
            to,
            "a rename had been copied and not removed at the crash: the old name was removed by this start"
        ),
        Ok(Settled::Copied {
            removed: Err(error),
            ..
        }) => tracing::error!(
            from,
            to,
            %error,
            "a rename had been copied and not removed at the crash, and the old name can't be removed: both have the same content; remove one"
        ),
        Ok(Settled::CopiedInPart { copied, files }) => tracing::error!(
            from,
            to,
            copied,
            files,
            "the rename of a directory had been copied in part at the crash: the old directory is whole; compare them, then remove what was copied and rename it again"
        ),
        Ok(Settled::Both(content)) => tracing::error!(
            from,
            to,
            content = word(*content),
            "a rename was under way at the crash and both names are there; compare them and remove one"
        ),
        Err(kind) => tracing::error!(
            from,
            to,
            error = kind.code(),
            "a rename was under way at the crash, and whether both names are left is not known; look at them"
        ),
    }
}

/// Puts it into the body of a record. What the states of the two paths say already is not repeated.
pub(super) fn describe(ended: &Ended, body: &mut Map<String, Value>) {
    let mut put = |field: &str, value: Value| body.insert(field.to_owned(), value);
    match ended {
        Ok(Settled::Removed | Settled::NotCopied) => {}
        Ok(Settled::Copied { files, removed }) => {
            put("rename", "copied_not_removed".into());
            put("content", word(Content::Same).into());
            put("files", (*files).into());
            put("recovered", removed.is_ok().into());
            if let Err(BackendError { kind, .. }) = removed {
                put("recovery_error", kind.code().into());
            }
        }
        Ok(Settled::CopiedInPart { copied, files }) => {
            put("rename", "copied_in_part".into());
            put("copied", (*copied).into());
            put("files", (*files).into());
            put("recovered", false.into());
        }
        Ok(Settled::Both(content)) => {
            put("rename", "both_present".into());
            put("content", word(*content).into());
            put("recovered", false.into());
        }
        Err(kind) => {
            put("rename", "unknown".into());
            put("recovery_error", kind.code().into());
        }
    }
}

fn word(content: Content) -> &'static str {
    match content {
        Content::Same => "same",
        Content::Different => "different",
        Content::Unknown => "unknown",
    }
}
