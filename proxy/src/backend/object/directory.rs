//! One directory being listed, page by page: a prefix may hold millions of keys.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    bucket::Bucket,
    fault::Fault,
    location::Key,
    names,
    wire::{Listing, Page},
};
use crate::{
    backend::{ErrorKind, staging},
    operation::{Entry, Outcome},
};

/// Keys in one page, the most that S3 gives; Azure gives up to 5,000.
const PAGE: u16 = 1000;
/// Names in one answer to READDIR: a reply of some 25 KiB with names of usual length.
const NAMES_AT_ONCE: usize = 100;

/// A directory that is open for reading.
#[derive(Debug)]
pub(super) struct Directory {
    bucket: Arc<Bucket>,
    prefix: String,
    entries: VecDeque<Entry>,
    /// Where the next page begins; `None` after the last one.
    next: Option<String>,
}

impl Directory {
    pub(super) async fn open(bucket: &Arc<Bucket>, key: &Key, root: &Key) -> Result<Self, Fault> {
        let mut directory = Self {
            bucket: Arc::clone(bucket),
            prefix: key.children(),
            entries: VecDeque::new(),
            next: None,
        };
        let page = directory.page(None).await?;
        if page.objects.is_empty() && page.prefixes.is_empty() && key != root {
            return Err(match bucket.head(key).await? {
                Some(_) => Fault::judged(
                    ErrorKind::NotADirectory,
                    format!("{key} is not a directory"),
                ),
                None => names::not_found(key),
            });
        }
        directory.take(page);
        Ok(directory)
    }

    /// The next names, in the order of the bucket.
    pub(super) async fn read(&mut self) -> Result<Outcome, Fault> {
        while self.entries.is_empty() {
            let Some(next) = self.next.take() else {
                return Ok(Outcome::End);
            };
            let page = self.page(Some(&next)).await?;
            if page.next.as_deref() == Some(&next) {
                return Err(Fault::Garbled {
                    request: "LIST",
                    cause: "its pages go round in a circle".to_owned(),
                });
            }
            self.take(page);
        }
        let count = self.entries.len().min(NAMES_AT_ONCE);
        Ok(Outcome::Names(self.entries.drain(..count).collect()))
    }

    /// Names that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.entries.len()
    }

    async fn page(&self, after: Option<&str>) -> Result<Page, Fault> {
        self.bucket
            .list(&Listing {
                prefix: &self.prefix,
                by_directory: true,
                count: PAGE,
                after,
            })
            .await
    }

    fn take(&mut self, page: Page) {
        let files = page.objects.iter().map(|object| {
            let attributes = names::file_attributes(object.size, object.modified);
            (object.key.as_str(), attributes)
        });
        let directories = page.prefixes.iter().map(|prefix| {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            (prefix, names::directory_attributes())
        });
        for (key, attributes) in files.chain(directories) {
            match key.strip_prefix(&self.prefix) {
                // The directory's own marker, and keys with two slashes in a row, which no path leads to.
                None | Some("") => {}
                Some(name) if !is_name(name) => {
                    tracing::debug!(key, "a key can't be shown as a file name");
                }
                Some(name) => self.entries.push_back(Entry {
                    name: Bytes::copy_from_slice(name.as_bytes()),
                    attributes,
                }),
            }
        }
        self.next = page.next;
    }
}

/// True for what a client may see and can name.
fn is_name(name: &str) -> bool {
    !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
        && !staging::is_reserved(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_clients_cannot_use_are_not_shown() {
        for hidden in [
            ".",
            "..",
            "a/b",
            "a\0b",
            ".portcullis-0123456789abcdef.part",
        ] {
            assert!(!is_name(hidden), "{hidden:?}");
        }
        for shown in ["a", "...", ".a", "a b", "é", "portcullis-a"] {
            assert!(is_name(shown), "{shown:?}");
        }
    }
}
