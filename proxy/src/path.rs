//! [`VirtualPath`]: the only place that cleans a path.
//!
//! Policy, journal and backend all use the cleaned value, so that what was decided, what was recorded and what was done
//! are the same path. Names are bytes: SFTP v3 fixes no character set.

use std::fmt;

/// Longest path, in bytes, as in Linux.
pub const PATH_MAX: usize = 4096;
/// Longest component, in bytes.
pub const NAME_MAX: usize = 255;
/// Names that begin so belong to the gateway (uploads that are not yet published); clients can't name or see them.
pub const RESERVED_PREFIX: &[u8] = b".portcullis-";

/// An absolute path of the virtual file system that an account sees.
///
/// Begins with `/`, has no empty, `.` or `..` component, no NUL, and no trailing slash except for the root itself.
/// Compared by component, never by string prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualPath(Vec<u8>);

/// Why bytes from a client are not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    #[error("the path contains a NUL byte")]
    Nul,
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
    #[error("a component of the path is longer than {NAME_MAX} bytes")]
    ComponentTooLong,
    #[error("names that begin with .portcullis- are reserved for uploads in progress")]
    Reserved,
}

impl VirtualPath {
    /// The root.
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// Cleans what a client sent. A relative path counts from the root; `..` stops at the root.
    ///
    /// # Errors
    /// For a NUL byte, an over-long path or component, or a reserved name, wherever in the path it stands.
    pub fn clean(raw: &[u8]) -> Result<Self, PathError> {
        if raw.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        if raw.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop();
                }
                name if name.len() > NAME_MAX => return Err(PathError::ComponentTooLong),
                name if name.starts_with(RESERVED_PREFIX) => return Err(PathError::Reserved),
                name => components.push(name),
            }
        }
        let mut cleaned = Vec::with_capacity(raw.len() + 1);
        for component in components {
            cleaned.push(b'/');
            cleaned.extend_from_slice(component);
        }
        if cleaned.is_empty() {
            cleaned.push(b'/');
        }
        Ok(Self(cleaned))
    }

    /// The path as the client sees it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for `/`.
    pub fn is_root(&self) -> bool {
        self.0 == b"/"
    }

    /// The names from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
    }

    /// The last name; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().last()
    }

    /// A file of the gateway's own in this directory; `name` must be [reserved](RESERVED_PREFIX), so that no client's is meant.
    pub(crate) fn reserved(&self, name: &[u8]) -> Self {
        debug_assert!(
            name.starts_with(RESERVED_PREFIX) && !name.contains(&b'/'),
            "no client can name it"
        );
        let directory = if self.is_root() { &[][..] } else { &self.0 };
        Self([directory, b"/", name].concat())
    }

    /// What remains below `ancestor`, or `None` if this path is not `ancestor` and not below it.
    pub fn below(&self, ancestor: &Self) -> Option<RelativePath> {
        let mut own = self.components();
        for expected in ancestor.components() {
            if own.next()? != expected {
                return None;
            }
        }
        let mut relative = Vec::new();
        for component in own {
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(component);
        }
        Some(RelativePath(relative))
    }
}

impl fmt::Debug for VirtualPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A cleaned path below a mount's directory: empty for the directory itself, never absolute, no `..`.
///
/// Only [`VirtualPath::below`], [`RelativePath::beside`], [`RelativePath::sibling`] and [`RelativePath::renamed`] make one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Vec<u8>);

impl RelativePath {
    /// The names joined with `/`; empty for the mount's directory itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for the mount's directory itself.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the mount's directory down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
    }

    /// The last name; `None` for the mount's directory itself.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().last()
    }

    /// The directory that holds this path; `None` for the mount's directory itself.
    pub fn parent(&self) -> Option<Self> {
        if self.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().to_vec()))
    }

    /// What a link at this path leads to, if `target` is relative and has no `..`; `None` for other targets.
    pub(crate) fn beside(&self, target: &[u8]) -> Option<Self> {
        let mut path = self.parent()?.0;
        for name in target.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return None,
                name => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                }
            }
        }
        (!target.starts_with(b"/")).then_some(Self(path))
    }

    /// The path with each name replaced by what `name` makes of it, which must be one component.
    ///
    /// # Errors
    /// The first one of `name`.
    pub(crate) fn renamed<E>(&self, name: impl Fn(&[u8]) -> Result<Vec<u8>, E>) -> Result<Self, E> {
        let names: Result<Vec<_>, E> = self.components().map(name).collect();
        let names = names?;
        debug_assert!(
            names.iter().all(|name| !name.is_empty()
                && !name.contains(&b'/')
                && !matches!(&name[..], b"." | b"..")),
            "a name is one component"
        );
        Ok(Self(names.join(&b'/')))
    }

    /// The path with its last name replaced, for uploads that are not yet published; `name` must be one component.
    pub(crate) fn sibling(&self, name: &[u8]) -> Self {
        debug_assert!(
            !name.is_empty() && !name.contains(&b'/'),
            "a sibling is one component"
        );
        let mut path = self.parent().map_or_else(Vec::new, |parent| parent.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clean(raw: &str) -> Vec<u8> {
        VirtualPath::clean(raw.as_bytes())
            .unwrap()
            .as_bytes()
            .to_vec()
    }

    #[test]
    fn dots_and_slashes_are_cleaned_and_dot_dot_stops_at_the_root() {
        for (raw, expected) in [
            ("", "/"),
            (".", "/"),
            ("/", "/"),
            ("//", "/"),
            ("a", "/a"),
            ("/a/./b//c/", "/a/b/c"),
            ("..", "/"),
            ("/../..", "/"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a"),
            ("a/../../../etc/passwd", "/etc/passwd"),
            ("/...", "/..."),
            ("/a..b/..c", "/a..b/..c"),
        ] {
            assert_eq!(clean(raw), expected.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn a_nul_an_overlong_path_and_a_reserved_name_are_refused_and_their_neighbours_pass() {
        assert_eq!(VirtualPath::clean(b"/a\0b"), Err(PathError::Nul));
        assert_eq!(
            VirtualPath::clean(&vec![b'/'; PATH_MAX + 1]),
            Err(PathError::TooLong)
        );
        assert!(VirtualPath::clean(&vec![b'/'; PATH_MAX]).is_ok());
        assert_eq!(
            VirtualPath::clean(&[b'a'; NAME_MAX + 1]),
            Err(PathError::ComponentTooLong)
        );
        assert!(VirtualPath::clean(&[b'a'; NAME_MAX]).is_ok());
        assert_eq!(
            VirtualPath::clean(b"/in/.portcullis-1/x"),
            Err(PathError::Reserved)
        );
        assert_eq!(
            VirtualPath::clean(b"/in/.portcullis-1/.."),
            Err(PathError::Reserved)
        );
        assert!(VirtualPath::clean(b"/in/portcullis-1").is_ok());
    }

    #[test]
    fn a_path_is_below_by_component_and_not_by_string_prefix() {
        let inbox = VirtualPath::clean(b"/inbox").unwrap();
        let below = |raw: &[u8]| VirtualPath::clean(raw).unwrap().below(&inbox);
        assert_eq!(below(b"/inbox/a/b").unwrap().as_bytes(), b"a/b");
        assert!(below(b"/inbox").unwrap().is_empty());
        assert_eq!(below(b"/inbox2"), None);
        assert_eq!(below(b"/"), None);
    }

    proptest! {
        #[test]
        fn a_cleaned_path_is_a_fixed_point_and_never_leaves_the_root(raw in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..200)) {
            if let Ok(path) = VirtualPath::clean(&raw) {
                prop_assert_eq!(VirtualPath::clean(path.as_bytes()), Ok(path.clone()));
                prop_assert!(path.components().all(|component| component != b".." && component != b"."));
                prop_assert!(path.below(&VirtualPath::root()).is_some());
            }
        }
    }
}
