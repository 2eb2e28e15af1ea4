//! Stored files are written anew by the gateway itself: an object can't be changed. A copy with other first bytes takes its place if it
//! is still the version that was copied, and whoever has it open goes on with that.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join, stream};
use object_store::{PutPayload, multipart::PartId};

use super::{
    bucket::Bucket,
    fault::Fault,
    interface::{Interface, PartSizes},
    location::Key,
    names,
    turns::Turn,
    upload::hidden_beside,
    wire::{Over, Version},
};
use crate::backend::{Beginning, ErrorKind, FileVersion};

const MIB: u64 = 1024 * 1024;
/// Bytes that a server copies in one request, where it can: within the shortest deadline also on slow disks.
const COPIED: u64 = 64 * MIB;
/// Most parts that a server copies; S3 has up to 10,000 in all.
const COPIES: u64 = 9_000;
/// Copies that are under way.
const AT_ONCE: usize = 4;

/// What stands at the key.
pub(super) async fn version(bucket: &Bucket, key: &Key) -> Result<FileVersion, Fault> {
    let found = bucket.head(key).await?;
    let meta = found.ok_or_else(|| names::not_found(key))?;
    Ok(FileVersion::Object {
        size: meta.size,
        tag: meta.e_tag,
        generation: meta.version,
    })
}

/// The version as conditions name it, on a server that keeps them.
pub(super) async fn condition(
    bucket: &Bucket,
    key: &Key,
    version: FileVersion,
) -> Result<(u64, Version), Fault> {
    let FileVersion::Object {
        size,
        tag,
        generation,
    } = version
    else {
        return Err(unsupported("the version of another backend"));
    };
    let version = Version::new(tag, generation);
    let is_told = match bucket.interface() {
        Interface::S3 | Interface::Azure => version.tag().is_some(),
        Interface::Gcs => version.has_generation(),
    };
    if !is_told {
        return Err(unsupported(
            "the server does not say which version of a file it has",
        ));
    }
    if !bucket.keeps_conditions(key).await? {
        return Err(unsupported(
            "the server does not keep the condition If-Match, so that what a client uploads meanwhile could be lost",
        ));
    }
    Ok((size, version))
}

fn unsupported(why: &str) -> Fault {
    let message = format!(
        "{why}: files of this bucket can't be written anew by the gateway; each is when it is uploaded again"
    );
    Fault::judged(ErrorKind::Unsupported, message)
}

pub(super) fn replaced(key: &Key) -> Fault {
    Fault::judged(
        ErrorKind::Failure,
        format!("somebody else has replaced {key} meanwhile; it stays as it is"),
    )
}

/// Puts a copy with other first bytes in the place of the file. Gives how many bytes went through the gateway.
pub(super) async fn exchange(
    bucket: &Arc<Bucket>,
    key: &Key,
    beginning: &Beginning,
) -> Result<u64, Fault> {
    let copy = Copy::of(bucket, key, beginning).await?;
    match copy.publish().await {
        Err(fault) if fault.is_failed_precondition() => Err(replaced(key)),
        published => published,
    }
}

/// Removes the file if it begins so.
pub(super) async fn destroy(
    bucket: &Bucket,
    key: &Key,
    beginning: &Beginning,
) -> Result<(), Fault> {
    let copy = Copy::of(bucket, key, beginning).await?;
    let range = 0..copy.size.min(beginning.before.len() as u64);
    match copy.fetch(range).await {
        Ok(begins) => copy.compare(&begins)?,
        Err(fault) if fault.is_failed_precondition() => return Err(replaced(key)),
        Err(fault) => return Err(fault),
    }
    let _turn = Turn::of(bucket, key).await;
    match bucket.delete_version(key, &copy.version).await {
        Err(fault) if fault.is_failed_precondition() => Err(replaced(key)),
        deleted => deleted,
    }
}

/// One version of a file, and what its copy begins with.
struct Copy<'a> {
    bucket: &'a Bucket,
    key: &'a Key,
    size: u64,
    version: Version,
    beginning: &'a Beginning,
}

impl<'a> Copy<'a> {
    /// Of what stands at the key.
    async fn of(bucket: &'a Bucket, key: &'a Key, beginning: &'a Beginning) -> Result<Self, Fault> {
        let found = version(bucket, key).await?;
        let (size, version) = condition(bucket, key, found).await?;
        Ok(Self {
            bucket,
            key,
            size,
            version,
            beginning,
        })
    }

    async fn publish(&self) -> Result<u64, Fault> {
        let sizes = self.bucket.interface().part_sizes();
        let first = self.fetch(0..self.size.min(sizes.of(0) as u64)).await?;
        let first = self.exchanged(first)?;
        self.beginning.pace.take_all(first.len() as u64).await;
        if first.len() as u64 == self.size {
            let content = PutPayload::from_bytes(first);
            let over = Over::Only(&self.version);
            let _turn = Turn::of(self.bucket, self.key).await;
            self.bucket.put(self.key, content, over).await?;
            return Ok(2 * self.size);
        }
        // The condition is kept by the copy at the end, where a service can't join parts under one.
        let is_hidden = !self.bucket.interface().completes_conditionally();
        let joined = if is_hidden {
            hidden_beside(self.key)?
        } else {
            self.key.clone()
        };
        let id = self.bucket.begin(&joined).await?;
        let gathered = self.gather((&joined, &id), first, sizes).await;
        let over = if is_hidden {
            Over::Anything
        } else {
            Over::Only(&self.version)
        };
        let completed = match gathered {
            Ok((parts, moved)) => {
                let _turn = Turn::of(self.bucket, self.key).await;
                let completed = self.bucket.complete(&joined, &id, &parts, over).await;
                completed.map(|_| moved)
            }
            Err(fault) => Err(fault),
        };
        let moved = match completed {
            Ok(moved) => moved,
            Err(fault) => {
                if let Err(left) = self.bucket.abort(&joined, &id).await
                    && !left.is_not_found()
                {
                    tracing::warn!(
                        bucket = self.bucket.name(), key = %self.key, upload = id, fault = %left,
                        "the parts of a copy could not be dropped; a lifecycle rule of the bucket should do it"
                    );
                }
                return Err(fault);
            }
        };
        if is_hidden {
            let (whole, over) = (Version::default(), Over::Only(&self.version));
            let turn = Turn::of(self.bucket, self.key).await;
            let copied = self.bucket.copy(&joined, &whole, self.key, over).await;
            drop(turn);
            if let Err(fault) = self.bucket.delete(&joined).await {
                tracing::warn!(
                    bucket = self.bucket.name(), key = %joined, %fault,
                    "a hidden file that a copy was gathered in could not be removed"
                );
            }
            copied?;
        }
        Ok(moved)
    }

    /// All parts, and how many bytes went through the gateway for them.
    async fn gather(
        &self,
        upload: (&Key, &str),
        first: Bytes,
        sizes: PartSizes,
    ) -> Result<(Vec<PartId>, u64), Fault> {
        let begun = first.len() as u64;
        if self.bucket.interface() == Interface::S3 {
            let (key, id) = upload;
            let content = PutPayload::from_bytes(first.clone());
            let part = self.bucket.put_part(key, id, 0, content).await?;
            match self.copy_rest(upload, begun).await {
                Ok(copied) => return Ok(([vec![part], copied].concat(), 2 * begun)),
                Err(fault) if fault.kind() == ErrorKind::Unsupported => {}
                Err(fault) if fault.is_unknown_condition() => {}
                Err(fault) => return Err(fault),
            }
        }
        let parts = self.send_rest(upload, first, sizes).await?;
        Ok((parts, 2 * self.size))
    }

    /// The server copies what comes after the first part.
    async fn copy_rest(&self, (key, id): (&Key, &str), begun: u64) -> Result<Vec<PartId>, Fault> {
        let copies = copied_ranges(begun, self.size).into_iter();
        stream::iter(copies.enumerate())
            .map(|(index, range)| {
                let from = (self.key, &self.version);
                self.bucket.copy_part((key, id), index + 1, from, range)
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// What comes after the first part goes through the gateway, a part at a time: the next one comes while one goes.
    async fn send_rest(
        &self,
        (key, id): (&Key, &str),
        first: Bytes,
        sizes: PartSizes,
    ) -> Result<Vec<PartId>, Fault> {
        let (mut parts, mut next, mut at) = (Vec::new(), first, 0);
        while !next.is_empty() {
            at += next.len() as u64;
            let end = self.size.min(at + sizes.of(parts.len() + 1) as u64);
            let (length, number) = (next.len() as u64, parts.len());
            let sending = async {
                if number > 0 {
                    self.beginning.pace.take_all(length).await;
                }
                let content = PutPayload::from_bytes(next);
                self.bucket.put_part(key, id, number, content).await
            };
            let (part, fetched) = try_join(sending, self.fetch(at..end)).await?;
            parts.push(part);
            next = fetched;
        }
        Ok(parts)
    }

    /// Bytes of this version and no other, each piece of them when it is due.
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        let pace = &self.beginning.pace;
        if !pace.is_limited() {
            pace.take(range.end - range.start).await;
            return self.fetch_at_once(range).await;
        }
        let mut bytes = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + pace.piece() as u64);
            pace.take(end - at).await;
            bytes.extend_from_slice(&self.fetch_at_once(at..end).await?);
            at = end;
        }
        Ok(bytes.freeze())
    }

    async fn fetch_at_once(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let fetched = self.bucket.get(self.key, range, self.version.tag()).await?;
        let (meta, mut content) = (fetched.meta, fetched.content);
        if meta.size != self.size {
            return Err(replaced(self.key));
        }
        let mut bytes = BytesMut::with_capacity(length);
        while let Some(piece) = content.next().await {
            let piece = piece.map_err(|error| self.bucket.content_fault(&error))?;
            bytes.extend_from_slice(&piece);
            if bytes.len() > length {
                break;
            }
        }
        if bytes.len() == length {
            return Ok(bytes.freeze());
        }
        let message = format!("{} of {length} bytes of {} came", bytes.len(), self.key);
        Err(Fault::judged(ErrorKind::Failure, message))
    }

    fn compare(&self, begins: &[u8]) -> Result<(), Fault> {
        if begins.starts_with(&self.beginning.before) {
            Ok(())
        } else {
            Err(replaced(self.key))
        }
    }

    /// The first part, with other first bytes.
    fn exchanged(&self, first: Bytes) -> Result<Bytes, Fault> {
        let Beginning { before, after, .. } = self.beginning;
        self.compare(&first)?;
        if before.len() != after.len() {
            return Err(unsupported("a beginning of another length"));
        }
        let rest = first.slice(before.len()..);
        Ok([&after[..], &rest].concat().into())
    }
}

/// What a server copies of a file after its first `begun` bytes.
fn copied_ranges(begun: u64, size: u64) -> Vec<Range<u64>> {
    let length = COPIED.max(size.div_ceil(COPIES));
    let mut ranges = Vec::new();
    let mut start = begun;
    while start < size {
        let end = size.min(start + length);
        ranges.push(start..end);
        start = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_copies_is_all_the_rest_in_so_many_parts_as_are_allowed() {
        for size in [8 * MIB + 1, 72 * MIB, 72 * MIB + 1, 5 << 40] {
            let ranges = copied_ranges(8 * MIB, size);
            assert!(ranges.len() < 10_000, "{size}");
            let mut at = 8 * MIB;
            for (number, range) in ranges.iter().enumerate() {
                assert_eq!(range.start, at);
                let length = range.end - range.start;
                assert!(length <= 5 << 30);
                assert!(length >= 5 * MIB || number + 1 == ranges.len());
                at = range.end;
            }
            assert_eq!(at, size);
        }
    }
}
