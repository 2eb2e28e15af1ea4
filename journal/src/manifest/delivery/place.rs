//! Places, and paths that may be hidden.

use crate::token::{beginning, is_token, without_extension};

/// Where a file lies: two mounts of one directory are one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) backend: String,
    pub(super) path: Vec<u8>,
    /// The path is made of tokens: its last one may have an extension, which those of a path further down have not.
    pub(super) is_hidden: bool,
}

impl Place {
    /// The directory of a mount; `path` only tells whether names are hidden.
    pub(super) fn of(directory: &[u8], backend: &str, path: &[u8]) -> Self {
        let directory = beginning(directory);
        let begin = directory.iter().position(|&byte| byte == b'/');
        let named = directory.get(begin.unwrap_or(directory.len())..);
        Self {
            backend: backend.to_owned(),
            path: named.unwrap_or_default().to_vec(),
            is_hidden: is_token(path),
        }
    }

    pub(super) fn with(mut self, rest: &[u8]) -> Self {
        self.path.extend_from_slice(rest);
        self
    }

    /// What lies `rest` below it.
    pub(super) fn with_below(self, rest: &[u8]) -> Self {
        let path = [self.beginning(), rest].concat();
        Self { path, ..self }
    }

    /// As it stands in what is below it.
    pub(super) fn beginning(&self) -> &[u8] {
        if self.is_hidden {
            without_extension(&self.path)
        } else {
            &self.path
        }
    }

    /// What `other` has behind this place; `None` if it does not lie at or below it.
    pub(super) fn rest<'a>(&self, other: &'a Self) -> Option<&'a [u8]> {
        if self == other {
            return Some(b"");
        }
        if self.backend != other.backend {
            return None;
        }
        let rest = other.path.strip_prefix(self.beginning())?;
        rest.starts_with(b"/").then_some(rest)
    }

    pub(super) fn is_above(&self, other: &Self) -> bool {
        self.rest(other).is_some_and(|rest| !rest.is_empty())
    }
}
