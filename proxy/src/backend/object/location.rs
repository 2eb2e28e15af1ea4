//! Where a path of a mount is in the bucket.

use std::fmt;

use object_store::path::{Path, PathPart};

use super::{fault::Fault, interface::Interface};
use crate::{backend::ErrorKind, path::RelativePath};

/// Longest key, in bytes of UTF-8 (S3 user guide, "Naming Amazon S3 objects"). Azure counts characters.
const KEY_MAX: usize = 1024;

/// The mount's directory: a prefix of keys without a slash at either end, empty for the whole bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    interface: Interface,
    prefix: String,
}

/// The key of a file, or of a directory without the slash at its end. Empty for the root of a bucket.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl Base {
    pub(super) fn new(interface: Interface, prefix: &str, directory: &[u8]) -> Result<Self, Fault> {
        let directory = text(interface, directory)?;
        let components: Vec<_> = prefix
            .split('/')
            .chain(directory.split('/'))
            .filter(|component| !component.is_empty() && *component != ".")
            .collect();
        Ok(Self {
            interface,
            prefix: components.join("/"),
        })
    }

    /// The mount's directory itself.
    pub(super) fn root(&self) -> Key {
        Key(self.prefix.clone())
    }

    pub(super) fn key(&self, path: &RelativePath) -> Result<Key, Fault> {
        let path = text(self.interface, path.as_bytes())?;
        let key = if self.prefix.is_empty() || path.is_empty() {
            format!("{}{path}", self.prefix)
        } else {
            format!("{}/{path}", self.prefix)
        };
        // One byte is kept for the slash of a directory's marker.
        if key.len() >= KEY_MAX {
            return Err(Fault::judged(
                ErrorKind::InvalidArgument,
                format!(
                    "the key would be {} bytes; {} takes up to {KEY_MAX}",
                    key.len(),
                    self.interface
                ),
            ));
        }
        Ok(Key(key))
    }
}

impl Key {
    /// A key of a listing.
    pub(super) fn listed(key: &str) -> Self {
        Self(key.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of all that is below this directory: it ends in a slash, or is empty for the root.
    pub(super) fn children(&self) -> String {
        if self.0.is_empty() {
            String::new()
        } else {
            format!("{}/", self.0)
        }
    }

    /// The directory that holds it; `None` for the root of a bucket.
    pub(super) fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let parent = self.0.rsplit_once('/').map_or("", |(parent, _)| parent);
        Some(Self(parent.to_owned()))
    }

    /// The key with another prefix: `from` must be a prefix of it.
    pub(super) fn moved(&self, from: &str, to: &str) -> Option<Self> {
        self.0
            .strip_prefix(from)
            .map(|rest| Self(format!("{to}{rest}")))
    }

    /// As the library has it. A slash at the end is kept: with it, the key is a directory's marker.
    pub(super) fn path(&self) -> Result<Path, Fault> {
        let path = Path::parse(&self.0).map_err(|error| {
            Fault::judged(
                ErrorKind::Unsupported,
                format!("{self} can't be used as a key: {error}"),
            )
        })?;
        if self.is_marker() && !path.is_root() {
            return Ok(path.join(PathPart::from("")));
        }
        Ok(path)
    }

    /// True for what [`marker`](Self::marker) gives.
    pub(super) fn is_marker(&self) -> bool {
        self.0.ends_with('/')
    }

    /// The zero-byte object that stands for an empty directory.
    pub(super) fn marker(&self) -> Self {
        Self(self.children())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Keys are UTF-8. Control characters can't be listed: XML 1.0 has no way to write most of them.
fn text(interface: Interface, bytes: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.chars().any(|character| character.is_ascii_control()))
        .ok_or_else(|| {
            Fault::judged(
                ErrorKind::Unsupported,
                format!(
                    "{interface} takes names in UTF-8 without control characters; rename the file"
                ),
            )
        })?;
    let is_plain = |component| matches!(component, "" | ".") || interface.keeps(component);
    if text.split('/').all(is_plain) {
        Ok(text)
    } else {
        Err(Fault::judged(
            ErrorKind::Unsupported,
            format!(
                "{interface} would change a name with a backslash or a dot at its end; rename the file"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::VirtualPath;

    fn below(path: &[u8]) -> RelativePath {
        VirtualPath::clean(path)
            .unwrap()
            .below(&VirtualPath::root())
            .unwrap()
    }

    #[test]
    fn a_path_is_put_behind_the_prefix_and_the_mounts_directory() {
        for (prefix, directory, path, expected) in [
            ("", &b"/"[..], &b"/a/b"[..], "a/b"),
            ("", b"", b"/", ""),
            (
                "",
                b"/partners/alice/",
                b"/in/a.csv",
                "partners/alice/in/a.csv",
            ),
            ("/site//one/", b"./alice", b"/", "site/one/alice"),
            (
                "site",
                b"alice",
                "/käse 100% #1?.txt".as_bytes(),
                "site/alice/käse 100% #1?.txt",
            ),
        ] {
            let key = Base::new(Interface::S3, prefix, directory)
                .unwrap()
                .key(&below(path))
                .unwrap();
            assert_eq!(key.as_str(), expected);
        }
    }

    #[test]
    fn a_directorys_marker_ends_in_a_slash_also_for_the_library() {
        let key = Key::listed("a/b 1%");
        assert_eq!(key.path().unwrap().as_ref(), "a/b 1%");
        assert_eq!(key.marker().path().unwrap().as_ref(), "a/b 1%/");
        assert_eq!(key.children(), "a/b 1%/");
        assert_eq!(Key::listed("").children(), "");
        assert_eq!(Key::listed("a/b/c").parent(), Some(Key::listed("a/b")));
        assert_eq!(Key::listed("a").parent(), Some(Key::listed("")));
        assert_eq!(Key::listed("").parent(), None);
        let moved = Key::listed("a/b/c").moved("a/b/", "x/").unwrap();
        assert_eq!(moved.as_str(), "x/c");
        assert_eq!(Key::listed("ab/c").moved("a/", "x/"), None);
    }

    #[test]
    fn names_that_no_key_can_have_are_refused_and_their_neighbours_pass() {
        let base = Base::new(Interface::S3, "", b"/").unwrap();
        for name in [&b"/caf\xe9"[..], b"/a\nb", b"/a\x01", b"/\x7f"] {
            let fault = base.key(&below(name)).unwrap_err();
            assert_eq!(fault.kind(), ErrorKind::Unsupported, "{name:?}");
        }
        for name in ["/café", "/a b", "/a+b", "/a\u{80}b", "/.a"] {
            assert!(base.key(&below(name.as_bytes())).is_ok(), "{name:?}");
        }
        assert!(Base::new(Interface::S3, "", b"caf\xe9").is_err());
        let azure = Base::new(Interface::Azure, "", b"./a").unwrap();
        for name in [&b"/a\\b"[..], b"/a.", b"/a./b"] {
            let fault = azure.key(&below(name)).unwrap_err();
            assert_eq!(fault.kind(), ErrorKind::Unsupported, "{name:?}");
            assert!(base.key(&below(name)).is_ok(), "{name:?}");
        }
        assert!(azure.key(&below(b"/a.b/.c")).is_ok());
    }

    #[test]
    fn a_key_has_room_for_the_slash_of_its_marker_within_the_1024_bytes_of_s3() {
        let base = Base::new(Interface::S3, "", b"/").unwrap();
        let path = |length: usize| {
            let mut path = "/abc".repeat(length / 4);
            path.push_str(&"x".repeat(length - path.len() + 1));
            below(path.as_bytes())
        };
        assert_eq!(base.key(&path(1023)).unwrap().marker().as_str().len(), 1024);
        let fault = base.key(&path(1024)).unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::InvalidArgument);
    }
}
