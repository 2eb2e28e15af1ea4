//! What is done to names. Directories are prefixes: one is there as long as its marker or anything below it is.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, future::join, stream};
use object_store::ObjectMeta;

use super::{
    bucket::Bucket,
    fault::Fault,
    location::Key,
    turns::Turn,
    wire::{Listing, Object, Over, Version},
};
use crate::{backend::ErrorKind, operation::Attributes};

/// Object stores know no permissions.
pub(super) const FILE_MODE: u32 = Attributes::REGULAR | 0o644;
pub(super) const DIRECTORY_MODE: u32 = Attributes::DIRECTORY | 0o755;

/// Most files that are moved with their directory: one page of a listing.
pub(super) const MOVED_MAX: u16 = 1000;
/// Copies and deletions at a time.
const AT_ONCE: usize = 8;

pub(super) fn file_attributes(size: u64, modified: Option<i64>) -> Attributes {
    let time = modified.map(|time| u32::try_from(time.max(0)).unwrap_or(u32::MAX));
    Attributes {
        size: Some(size),
        permissions: Some(FILE_MODE),
        times: time.map(|time| (time, time)),
        ..Attributes::default()
    }
}

pub(super) fn directory_attributes() -> Attributes {
    Attributes {
        permissions: Some(DIRECTORY_MODE),
        ..Attributes::default()
    }
}

/// What stands at a path.
pub(super) enum Standing {
    File(ObjectMeta),
    Directory,
}

impl Standing {
    fn attributes(&self) -> Attributes {
        match self {
            Self::File(meta) => file_attributes(meta.size, Some(meta.last_modified.timestamp())),
            Self::Directory => directory_attributes(),
        }
    }
}

/// What stands at a path; `None` if nothing does. A file hides a directory of the same name. The mount's own directory,
/// which is a prefix that the operator chose, always counts as there.
pub(super) async fn standing(
    bucket: &Bucket,
    key: &Key,
    root: &Key,
) -> Result<Option<Standing>, Fault> {
    if key == root {
        return Ok(Some(Standing::Directory));
    }
    let (file, is_directory) = join(bucket.head(key), bucket.is_directory(key)).await;
    match file? {
        Some(meta) => Ok(Some(Standing::File(meta))),
        None => Ok(is_directory?.then_some(Standing::Directory)),
    }
}

/// As [`standing`], as clients see it.
pub(super) async fn find(
    bucket: &Bucket,
    key: &Key,
    root: &Key,
) -> Result<Option<Attributes>, Fault> {
    let found = standing(bucket, key, root).await?;
    Ok(found.map(|found| found.attributes()))
}

/// As [`find`], where something must stand.
pub(super) async fn attributes(
    bucket: &Bucket,
    key: &Key,
    root: &Key,
) -> Result<Attributes, Fault> {
    find(bucket, key, root).await?.ok_or_else(|| not_found(key))
}

/// Fails if nothing can be made at `key` because its directory is missing.
pub(super) async fn parent_exists(bucket: &Bucket, key: &Key, root: &Key) -> Result<(), Fault> {
    let Some(parent) = key.parent().filter(|parent| parent != root) else {
        return Ok(());
    };
    if bucket.is_directory(&parent).await? {
        return Ok(());
    }
    Err(match bucket.head(&parent).await? {
        Some(_) => not_a_directory(&parent),
        None => not_found(&parent),
    })
}

pub(super) async fn remove(bucket: &Bucket, key: &Key, root: &Key) -> Result<(), Fault> {
    match find(bucket, key, root).await? {
        None => Err(not_found(key)),
        Some(found) if found.is_directory() => Err(is_a_directory(key)),
        Some(_) => {
            let _turn = Turn::of(bucket, key).await;
            bucket.delete(key).await
        }
    }
}

pub(super) async fn make_directory(bucket: &Bucket, key: &Key, root: &Key) -> Result<(), Fault> {
    let (found, parent) = join(find(bucket, key, root), parent_exists(bucket, key, root)).await;
    if found?.is_some() {
        return Err(already_exists(key));
    }
    parent?;
    bucket.put_marker(&key.marker()).await.map_err(|fault| {
        if fault.is_failed_precondition() {
            already_exists(key)
        } else {
            fault
        }
    })
}

pub(super) async fn remove_directory(bucket: &Bucket, key: &Key, root: &Key) -> Result<(), Fault> {
    if key == root {
        return Err(root_stays());
    }
    let marker = key.marker();
    // The marker and one more.
    let page = bucket
        .list(&Listing {
            prefix: marker.as_str(),
            by_directory: false,
            count: 2,
            after: None,
        })
        .await?;
    if page.objects.is_empty() {
        return Err(match bucket.head(key).await? {
            Some(_) => not_a_directory(key),
            None => not_found(key),
        });
    }
    if page
        .objects
        .iter()
        .any(|object| object.key != marker.as_str())
    {
        return Err(Fault::judged(
            ErrorKind::NotEmpty,
            format!("{key} is not empty"),
        ));
    }
    bucket.delete(&marker).await
}

/// RENAME, which never replaces.
pub(super) async fn rename(
    bucket: &Arc<Bucket>,
    from: &Key,
    to: &Key,
    root: &Key,
) -> Result<(), Fault> {
    if from == root {
        return Err(root_stays());
    }
    let (source, destination, parent) = tokio::join!(
        standing(bucket, from, root),
        find(bucket, to, root),
        parent_exists(bucket, to, root)
    );
    let source = source?.ok_or_else(|| not_found(from))?;
    if destination?.is_some() {
        return Err(already_exists(to));
    }
    parent?;
    match source {
        Standing::Directory => move_directory(bucket, from, to).await,
        Standing::File(meta) => move_file(bucket, from, to, &meta, true).await,
    }
}

/// `posix-rename@openssh.com`, which replaces a file.
pub(super) async fn replace(
    bucket: &Arc<Bucket>,
    from: &Key,
    to: &Key,
    root: &Key,
) -> Result<(), Fault> {
    if from == root {
        return Err(root_stays());
    }
    let (source, destination, parent) = tokio::join!(
        standing(bucket, from, root),
        standing(bucket, to, root),
        parent_exists(bucket, to, root)
    );
    let source = source?.ok_or_else(|| not_found(from))?;
    let destination = destination?;
    if from == to {
        return Ok(());
    }
    parent?;
    match (source, destination) {
        (Standing::Directory, None) => move_directory(bucket, from, to).await,
        (Standing::Directory, Some(_)) => Err(already_exists(to)),
        (Standing::File(_), Some(Standing::Directory)) => Err(is_a_directory(to)),
        (Standing::File(meta), Some(Standing::File(_)) | None) => {
            move_file(bucket, from, to, &meta, false).await
        }
    }
}

/// A copy, then the removal of the original. If it ends between the two there are both, never neither: `settle` finds them.
async fn move_file(
    bucket: &Bucket,
    from: &Key,
    to: &Key,
    meta: &ObjectMeta,
    only_if_absent: bool,
) -> Result<(), Fault> {
    check_size(bucket, from, Some(meta.size))?;
    let version = Version::of(meta);
    let over = if only_if_absent {
        Over::Nothing
    } else {
        Over::Anything
    };
    // In the same order by whoever has two.
    let (first, second) = if from.as_str() <= to.as_str() {
        (from, to)
    } else {
        (to, from)
    };
    let _first = Turn::of(bucket, first).await;
    let _second = if first == second {
        None
    } else {
        Some(Turn::of(bucket, second).await)
    };
    match bucket.copy(from, &version, to, over).await {
        Err(fault) if fault.is_failed_precondition() => {
            return Err(if is_still(bucket, from, &version).await? {
                already_exists(to)
            } else {
                Fault::judged(
                    ErrorKind::Failure,
                    format!("{from} was replaced while it was renamed; nothing was done"),
                )
            });
        }
        copied => copied?,
    }
    remove_original(bucket, from, &version)
        .await
        .map_err(|fault| {
            tracing::error!(
                bucket = bucket.name(), %from, %to, %fault,
                "a file was copied to its new name and the old one could not be removed: both exist"
            );
            Fault::judged(
                fault.kind(),
                format!("{from} was copied to {to}, but is still there too: {fault}"),
            )
        })
}

async fn is_still(bucket: &Bucket, key: &Key, version: &Version) -> Result<bool, Fault> {
    let found = bucket.head(key).await?;
    Ok(found.is_some_and(|meta| Version::of(&meta) == *version))
}

/// Removes the version that was copied. What somebody has put there since is his, and stays.
async fn remove_original(bucket: &Bucket, key: &Key, version: &Version) -> Result<(), Fault> {
    match bucket.delete_version(key, version).await {
        Err(fault) if fault.is_unknown_condition() => bucket.delete(key).await,
        Err(fault) if fault.is_failed_precondition() => {
            // A server that keeps the condition badly.
            if is_still(bucket, key, version).await? {
                bucket.delete(key).await
            } else {
                Ok(())
            }
        }
        removed => removed,
    }
}

/// Copies all files below a directory, then removes the originals.
async fn move_directory(bucket: &Arc<Bucket>, from: &Key, to: &Key) -> Result<(), Fault> {
    let (old, new) = (from.children(), to.children());
    if new.starts_with(&old) {
        return Err(Fault::judged(
            ErrorKind::InvalidArgument,
            format!("{to} is below {from}"),
        ));
    }
    let page = bucket
        .list(&Listing {
            prefix: &old,
            by_directory: false,
            count: MOVED_MAX,
            after: None,
        })
        .await?;
    if page.next.is_some() {
        return Err(Fault::judged(
            ErrorKind::Unsupported,
            format!(
                "{from} holds more than {MOVED_MAX} files: an object store has no directories, and each would have to be copied"
            ),
        ));
    }
    for object in &page.objects {
        check_size(bucket, &Key::listed(&object.key), Some(object.size))?;
    }
    let moves = page
        .objects
        .iter()
        .map(|object| moved(object, &old, &new))
        .collect::<Result<Vec<_>, Fault>>()?;
    let originals: Vec<_> = moves
        .iter()
        .map(|moved| (moved.source.clone(), moved.version.clone()))
        .collect();
    let (ours, failed) = copy_all(bucket, moves).await;
    if let Some(fault) = failed {
        let ours = ours.into_iter().map(|key| (key, ()));
        in_turns(ours, |key, ()| {
            let bucket = Arc::clone(bucket);
            async move { bucket.delete(&key).await }
        })
        .await?;
        return Err(fault);
    }
    let removed = in_turns(originals, |key, version| {
        let bucket = Arc::clone(bucket);
        async move { remove_original(&bucket, &key, &version).await }
    });
    removed.await.map_err(|fault| {
        tracing::error!(
            bucket = bucket.name(), %from, %to, %fault,
            "a directory was copied to its new name and not all of the old one could be removed"
        );
        Fault::judged(
            fault.kind(),
            format!("{from} was copied to {to}, but some of it is still there too: {fault}"),
        )
    })
}

/// What was copied, and the last fault. Markers come first, a directory's before those of what it holds: a server that keeps
/// real directories makes those on the way to a file, and would then find a marker there already.
async fn copy_all(bucket: &Arc<Bucket>, moves: Vec<Move>) -> (Vec<Key>, Option<Fault>) {
    let (markers, files): (Vec<_>, Vec<_>) = moves
        .into_iter()
        .partition(|moved| moved.source.is_marker());
    let mut ours = Vec::new();
    // Listings are in the order of the keys.
    for Move { target, .. } in markers {
        // Not every server copies them.
        match bucket.put_marker(&target).await {
            Ok(()) => ours.push(target),
            Err(fault) => return (ours, Some(fault)),
        }
    }
    let mut failed = None;
    let mut copies = stream::iter(files)
        .map(|moved| {
            let bucket = Arc::clone(bucket);
            async move {
                let (source, version) = (&moved.source, &moved.version);
                let copied = bucket.copy(source, version, &moved.target, Over::Nothing);
                copied.await.map(|()| moved.target)
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(copy) = copies.next().await {
        match copy {
            Ok(target) => ours.push(target),
            Err(fault) => failed = Some(fault),
        }
    }
    drop(copies);
    (ours, failed)
}

/// Fails for a file that no single request copies.
fn check_size(bucket: &Bucket, key: &Key, size: Option<u64>) -> Result<(), Fault> {
    match (bucket.interface().copy_max(), size) {
        (Some(most), Some(size)) if size > most => Err(Fault::judged(
            ErrorKind::Unsupported,
            format!(
                "{key} is larger than {} GiB, which {} can't copy and so can't rename in one request",
                most >> 30,
                bucket.interface()
            ),
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

/// A file that goes with its directory.
struct Move {
    source: Key,
    version: Version,
    target: Key,
}

fn moved(object: &Object, old: &str, new: &str) -> Result<Move, Fault> {
    let source = Key::listed(&object.key);
    let target = source.moved(old, new).ok_or_else(|| not_found(&source))?;
    // Keys that the library can't name are found before anything is copied.
    source.path()?;
    Ok(Move {
        source,
        version: object.version.clone(),
        target,
    })
}

/// Removes files first, then markers, a directory's after those of what it held: a server that keeps real directories does not remove
/// one that holds something.
pub(super) async fn in_turns<T, R>(
    keys: impl IntoIterator<Item = (Key, T)>,
    remove: impl Fn(Key, T) -> R,
) -> Result<(), Fault>
where
    R: Future<Output = Result<(), Fault>>,
{
    let mut turns = BTreeMap::<_, Vec<_>>::new();
    for (key, what) in keys {
        let depth = key.as_str().matches('/').count();
        let turn = key.is_marker().then_some(Reverse(depth));
        turns.entry(turn).or_default().push((key, what));
    }
    for keys in turns.into_values() {
        stream::iter(keys)
            .map(|(key, what)| remove(key, what))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

fn root_stays() -> Fault {
    Fault::judged(
        ErrorKind::PermissionDenied,
        "the mount's own directory stays where it is",
    )
}

pub(super) fn cannot_set_attributes() -> Fault {
    Fault::judged(
        ErrorKind::Unsupported,
        "an object store can't set times, permissions, owners or sizes",
    )
}

pub(super) fn not_found(key: &Key) -> Fault {
    Fault::judged(ErrorKind::NotFound, format!("{key} does not exist"))
}

pub(super) fn is_a_directory(key: &Key) -> Fault {
    Fault::judged(ErrorKind::IsADirectory, format!("{key} is a directory"))
}

fn not_a_directory(key: &Key) -> Fault {
    Fault::judged(
        ErrorKind::NotADirectory,
        format!("{key} is not a directory"),
    )
}

fn already_exists(key: &Key) -> Fault {
    Fault::judged(ErrorKind::AlreadyExists, format!("{key} exists already"))
}
