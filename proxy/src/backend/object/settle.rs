//! What a rename has left that was under way when the gateway died: its copy may stand beside the original.
//!
//! The original is removed only if it is known that nothing is lost by it: what stands under the new name has the same content,
//! and came there after the rename was announced. All else is left as it is.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, try_join};
use sha2::{Digest as _, Sha256};

use super::{
    bucket::Bucket,
    fault::Fault,
    location::Key,
    names::{self, MOVED_MAX, Standing},
    wire::{Listing, Object, Version},
};
use crate::backend::{Content, Settled};

/// What two files may have together that are read because their tags don't tell whether they are the same.
const COMPARED_MAX: u64 = 128 * 1024 * 1024;
/// By how many seconds the clocks of the gateway and the server may differ.
const CLOCKS_DIFFER: i64 = 5;

/// A file, as far as it is compared.
struct File {
    key: Key,
    size: u64,
    modified: Option<i64>,
    version: Version,
}

/// `announced` is when the rename was, in seconds since 1970. It may be dropped at any point.
pub(super) async fn settle(
    bucket: &Arc<Bucket>,
    from: &Key,
    to: &Key,
    root: &Key,
    announced: i64,
) -> Result<Settled, Fault> {
    if from == root || from == to {
        return Ok(Settled::NotCopied);
    }
    let (source, destination) = try_join!(
        names::standing(bucket, from, root),
        names::standing(bucket, to, root)
    )?;
    let since = announced - CLOCKS_DIFFER;
    match (source, destination) {
        (None, _) => Ok(Settled::Removed),
        (Some(_), None) => Ok(Settled::NotCopied),
        (Some(Standing::File(original)), Some(Standing::File(copy))) => {
            let [original, copy] = [(from, original), (to, copy)].map(|(key, meta)| File {
                key: key.clone(),
                size: meta.size,
                modified: Some(meta.last_modified.timestamp()),
                version: Version::of(&meta),
            });
            settle_file(bucket, original, &copy, since).await
        }
        (Some(Standing::Directory), Some(Standing::Directory)) => {
            settle_directory(bucket, from, to, since).await
        }
        (Some(Standing::File(_)), Some(Standing::Directory))
        | (Some(Standing::Directory), Some(Standing::File(_))) => {
            Ok(Settled::Both(Content::Different))
        }
    }
}

async fn settle_file(
    bucket: &Arc<Bucket>,
    original: File,
    copy: &File,
    since: i64,
) -> Result<Settled, Fault> {
    let mut left = COMPARED_MAX;
    let content = compare(bucket, &original, copy, &mut left).await?;
    if content != Content::Same || !came_after(copy, since) {
        return Ok(Settled::Both(content));
    }
    Ok(remove(bucket, vec![original]).await)
}

/// The originals go once all are copied, so as long as one has no copy none was removed.
async fn settle_directory(
    bucket: &Arc<Bucket>,
    from: &Key,
    to: &Key,
    since: i64,
) -> Result<Settled, Fault> {
    let (old, new) = (from.children(), to.children());
    let (originals, copies) = try_join!(below(bucket, &old), below(bucket, &new))?;
    // A rename of more is refused, and one into itself too.
    let (Some(originals), Some(copies)) = (originals, copies) else {
        return Ok(Settled::Both(Content::Unknown));
    };
    if new.starts_with(&old) || old.starts_with(&new) {
        return Ok(Settled::Both(Content::Unknown));
    }
    let copies: HashMap<&str, &File> = copies
        .iter()
        .map(|file| (file.key.as_str(), file))
        .collect();
    let (files, mut copied, mut left) = (originals.len(), 0, COMPARED_MAX);
    for original in &originals {
        let target = original.key.moved(&old, &new);
        let copy = target.and_then(|target| copies.get(target.as_str()).copied());
        if let Some(copy) = copy.filter(|copy| came_after(copy, since))
            && compare(bucket, original, copy, &mut left).await? == Content::Same
        {
            copied += 1;
        }
    }
    if copied == 0 {
        return Ok(Settled::Both(Content::Unknown));
    }
    if copied < files {
        return Ok(Settled::CopiedInPart { copied, files });
    }
    Ok(remove(bucket, originals).await)
}

/// What is below a directory; `None` if it is more than a rename moves.
async fn below(bucket: &Bucket, prefix: &str) -> Result<Option<Vec<File>>, Fault> {
    let page = bucket
        .list(&Listing {
            prefix,
            by_directory: false,
            count: MOVED_MAX,
            after: None,
        })
        .await?;
    let file = |object: Object| File {
        key: Key::listed(&object.key),
        size: object.size,
        modified: object.modified,
        version: object.version,
    };
    Ok(page
        .next
        .is_none()
        .then(|| page.objects.into_iter().map(file).collect()))
}

fn came_after(copy: &File, since: i64) -> bool {
    copy.modified.is_some_and(|modified| modified >= since)
}

/// Equal tags are those of equal content (S3 API reference, Object), but those of equal content may differ. `left` is how many
/// bytes may yet be read.
async fn compare(
    bucket: &Bucket,
    original: &File,
    copy: &File,
    left: &mut u64,
) -> Result<Content, Fault> {
    if original.size != copy.size {
        return Ok(Content::Different);
    }
    let (Some(tag), Some(tag_of_copy)) = (original.version.tag(), copy.version.tag()) else {
        return Ok(Content::Unknown);
    };
    if tag == tag_of_copy || original.size == 0 {
        return Ok(Content::Same);
    }
    let Some(rest) = left.checked_sub(original.size.saturating_mul(2)) else {
        return Ok(Content::Unknown);
    };
    *left = rest;
    let (one, other) = try_join!(digest(bucket, original), digest(bucket, copy))?;
    Ok(match (one, other) {
        (Some(one), Some(other)) if one == other => Content::Same,
        (Some(_), Some(_)) => Content::Different,
        (None, _) | (_, None) => Content::Unknown,
    })
}

/// Of the version that was found; `None` if it did not come whole.
async fn digest(bucket: &Bucket, file: &File) -> Result<Option<[u8; 32]>, Fault> {
    let mut fetched = bucket
        .get(&file.key, 0..file.size, file.version.tag())
        .await?;
    let (mut digest, mut read) = (Sha256::new(), 0);
    while let Some(piece) = fetched.content.next().await {
        let piece = piece.map_err(|error| bucket.content_fault(&error))?;
        read += piece.len() as u64;
        digest.update(&piece);
    }
    Ok((read == file.size).then(|| digest.finalize().into()))
}

/// Removes the originals, those versions alone.
async fn remove(bucket: &Arc<Bucket>, originals: Vec<File>) -> Settled {
    let files = originals.len();
    let originals = originals.into_iter().map(|file| (file.key, file.version));
    let removed = names::in_turns(originals, |key, version| {
        let bucket = Arc::clone(bucket);
        async move { bucket.delete_version(&key, &version).await }
    })
    .await;
    match removed {
        // Somebody has put something else there since it was compared.
        Err(fault) if fault.is_failed_precondition() => Settled::Both(Content::Unknown),
        removed => Settled::Copied {
            files,
            removed: removed.map_err(|fault| fault.at(bucket.name())),
        },
    }
}
