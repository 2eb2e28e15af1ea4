//! Places, and paths that may be hidden.

use crate::record::HIDDEN;

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

/// Whether this stands in place of a path.
pub(in super::super) fn is_token(path: &[u8]) -> bool {
    path.starts_with(HIDDEN.as_bytes())
}

/// A path as it stands in what is below it: `/` is empty, and a token has no extension.
pub(in super::super) fn beginning(path: &[u8]) -> &[u8] {
    let path = if is_token(path) {
        without_extension(path)
    } else {
        path
    };
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Tokens have no dot in them.
fn without_extension(path: &[u8]) -> &[u8] {
    let name = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let last = path.get(name..).unwrap_or_default();
    match last.iter().position(|&byte| byte == b'.') {
        Some(at) if at > 0 => path.get(..name + at).unwrap_or(path),
        Some(_) | None => path,
    }
}
