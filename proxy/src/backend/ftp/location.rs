//! Where a path of a mount is on the server.

use std::fmt;

use super::fault::Fault;
use crate::backend::ErrorKind;

/// A path on the server, as bytes; absolute, and fit for a command line.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Location(Vec<u8>);

/// The mount's directory on the server: absolute, without a trailing slash except for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base(Location);

impl Base {
    /// `directory` as the mount has it, counted from the login directory if it is relative.
    pub(super) fn new(directory: &[u8], login_directory: &[u8]) -> Result<Self, Fault> {
        let mut path = Vec::new();
        if !directory.starts_with(b"/") {
            path.extend_from_slice(login_directory);
            path.push(b'/');
        }
        path.extend_from_slice(directory);
        let mut clean = Vec::with_capacity(path.len());
        for component in path.split(|&byte| byte == b'/') {
            if !component.is_empty() && component != b"." {
                clean.push(b'/');
                clean.extend_from_slice(component);
            }
        }
        if clean.is_empty() {
            clean.push(b'/');
        }
        Ok(Self(Location::new(clean)?))
    }

    /// `path` below it, in the server's bytes.
    pub(super) fn join(&self, path: &[u8]) -> Result<Location, Fault> {
        let mut joined = self.0.0.clone();
        if !path.is_empty() {
            if joined != b"/" {
                joined.push(b'/');
            }
            joined.extend_from_slice(path);
        }
        Location::new(joined)
    }
}

impl Location {
    /// A command ends at CR LF: a name with either would be a second command (RFC 959 section 5.3.1).
    fn new(path: Vec<u8>) -> Result<Self, Fault> {
        if path.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(Fault::judged(
                ErrorKind::InvalidArgument,
                "FTP can't carry names with a line break; rename the file",
            ));
        }
        Ok(Self(path))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What follows the last slash.
    pub(super) fn file_name(&self) -> &[u8] {
        self.0
            .rsplit(|&byte| byte == b'/')
            .next()
            .unwrap_or_default()
    }

    /// The file `name` in this directory.
    pub(super) fn child(&self, name: &[u8]) -> Result<Self, Fault> {
        Base(self.clone()).join(name)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{RelativePath, VirtualPath};

    fn below(path: &[u8]) -> RelativePath {
        VirtualPath::clean(path)
            .unwrap()
            .below(&VirtualPath::root())
            .unwrap()
    }

    #[test]
    fn a_path_is_joined_to_the_mounts_directory_and_a_relative_one_counts_from_the_login_directory()
    {
        for (directory, login, path, expected) in [
            (
                &b"/srv/in"[..],
                &b"/home/x"[..],
                &b"/a/b"[..],
                &b"/srv/in/a/b"[..],
            ),
            (b"/srv//in/", b"/home/x", b"/", b"/srv/in"),
            (b"in", b"/home/x", b"/a", b"/home/x/in/a"),
            (b"", b"/", b"/a", b"/a"),
            (b".", b"/home/x/", b"/", b"/home/x"),
            (b"/", b"/home/x", b"/-a", b"/-a"),
            (b"/", b"/home/x", b"/", b"/"),
            (b"/\xe9", b"/", b"/\xff", b"/\xe9/\xff"),
        ] {
            let joined = Base::new(directory, login)
                .unwrap()
                .join(below(path).as_bytes())
                .unwrap();
            assert_eq!(joined.as_bytes(), expected);
        }
    }

    #[test]
    fn a_line_break_in_a_name_is_refused_and_its_neighbours_pass() {
        let base = Base::new(b"/", b"/").unwrap();
        for name in [&b"/a\r\nDELE b"[..], b"/a\nDELE b", b"/a\rDELE b", b"/a\n"] {
            let fault = base.join(below(name).as_bytes()).unwrap_err();
            assert_eq!(fault.kind(), Some(ErrorKind::InvalidArgument));
        }
        assert!(Base::new(b"/in\r\nQUIT", b"/").is_err());
        assert!(Base::new(b"in", b"/home\n").is_err());
        for name in [&b"/a\tb"[..], b"/a\x0bb", b"/a\x0cb", b"/a\xc2\x85b"] {
            assert!(base.join(below(name).as_bytes()).is_ok());
        }
    }
}
