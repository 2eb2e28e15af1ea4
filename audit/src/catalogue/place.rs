//! Names of places: from what a record says to a path below a backend's root.

use portcullis_journal::token::{beginning, is_token};

use super::Catalogue;

/// Links that are followed one after the other.
const LINKS: usize = 8;

/// An absolute path without empty names, `.` and `..`; `..` stops at the root.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    for name in names {
        out.push(b'/');
        out.extend_from_slice(name);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// `below`, which may be absolute, under `above`; both in clear.
pub fn joined(above: &[u8], below: &[u8]) -> Vec<u8> {
    clean(&[above, b"/", below].concat())
}

/// A token without what tells it from a path.
fn tail(token: &[u8]) -> &[u8] {
    let begin = token.iter().position(|&byte| byte == b'/');
    token
        .get(begin.unwrap_or(token.len())..)
        .unwrap_or_default()
}

/// The directories above a place, nearest first, and the place itself before them.
pub(super) fn ancestors(place: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = place.iter().enumerate().rev();
    let ends = ends.filter_map(|(at, &byte)| (byte == b'/' && at > 0).then_some(at));
    std::iter::once(place).chain(ends.filter_map(|at| place.get(..at)))
}

impl Catalogue {
    /// Of a backend, in clear.
    pub(super) fn root(&self, backend: &str) -> Vec<u8> {
        let known = self.roots.get(backend).cloned();
        known.unwrap_or_else(|| joined(b"/", backend.as_bytes()))
    }

    /// The place of a session's path: `at` is the mount's, and `directory` below the root of `backend`.
    pub(super) fn place_of(
        &self,
        backend: &str,
        directory: &[u8],
        at: &[u8],
        path: &[u8],
    ) -> Option<Vec<u8>> {
        let rest = path.strip_prefix(beginning(at))?;
        if !rest.is_empty() && !rest.starts_with(b"/") {
            return None;
        }
        let root = self.root(backend);
        if !is_token(path) {
            return Some(self.name(&[&joined(&root, directory), rest].concat()));
        }
        let token = self.key.as_ref().map(|key| key.token(&root).into_bytes());
        // Without the key, the name of the backend is all that stays in clear.
        let root = token.unwrap_or_else(|| [b"hmac:", root.as_slice()].concat());
        let directory = beginning(directory);
        let directory = if is_token(directory) {
            tail(directory)
        } else {
            directory
        };
        Some([beginning(&root), directory, rest].concat())
    }

    /// Where a path leads, over the links that are on record; the last name counts only with `follows_last`. `None` if that
    /// can't be known.
    pub(super) fn resolved(&self, place: &[u8], follows_last: bool) -> Option<Vec<u8>> {
        let mut place = place.to_vec();
        if self.links.is_empty() {
            return Some(place);
        }
        for _ in 0..LINKS {
            let mut upwards = ancestors(&place);
            let itself = upwards.next().filter(|_| follows_last);
            // The outermost first, as the kernel does.
            let all: Vec<&[u8]> = itself.into_iter().chain(upwards).collect();
            let hit = all
                .into_iter()
                .rev()
                .find_map(|path| Some((path.to_vec(), self.links.get(beginning(path))?)));
            let Some((link, target)) = hit else {
                return Some(place);
            };
            let target = target
                .as_deref()
                .filter(|target| !target.starts_with(b"/"))?;
            let rest = place.get(link.len()..).unwrap_or_default().to_vec();
            place = joined(&link, &[b"../", target, &rest].concat());
        }
        None
    }

    pub(super) fn link_name(place: &[u8]) -> Vec<u8> {
        beginning(place).to_vec()
    }
}
