//! Which virtual paths are meant: one and what lies below it, or all that a glob describes.

use std::str::FromStr;

use globset::{Candidate, GlobBuilder, GlobMatcher};

use crate::{
    hidden::{PathKey, base, is_token},
    raw,
};

/// Characters that make a glob of a text.
const META: [char; 5] = ['*', '?', '[', '{', '\\'];

/// Virtual paths, compared by component and byte for byte.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// This path and what lies below it; without a slash at the end.
    Below(Vec<u8>),
    Glob(GlobMatcher),
}

/// Why a text describes no paths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    #[error("{text:?} is not an absolute path such as /inbox, or a glob such as /inbox/**/*.csv")]
    Relative { text: String },
    #[error("{text:?} is not a glob such as /inbox/**/*.csv")]
    Glob {
        text: String,
        source: globset::Error,
    },
}

impl PathPattern {
    /// The path itself, and no other.
    pub fn is_match(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Below(prefix) => is_at_or_below(path, prefix),
            Kind::Glob(glob) => glob.is_match_candidate(&Candidate::new(bytes_as_path(path))),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the canonical form of every path that matches has in it, unless that is encoded as a whole.
    pub(crate) fn needle(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Below(prefix) => quoted(&String::from_utf8_lossy(prefix)),
            Kind::Glob(_) => {
                let begin = self.text.split(META).next().unwrap_or_default();
                // `a?` and `a{b,c}` stand behind what is certain; `[` and `\` begin something else.
                quoted(begin)
            }
        }
    }
}

/// True if `path` is `prefix` or lies below it, by component. Both are in clear, or tokens.
pub fn is_at_or_below(path: &[u8], prefix: &[u8]) -> bool {
    path == prefix
        || path
            .strip_prefix(base(prefix))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// True if a text describes paths by more than their names.
pub fn is_glob(text: &[u8]) -> bool {
    text.iter().any(|&byte| META.contains(&char::from(byte)))
}

fn quoted(begin: &str) -> Vec<u8> {
    let mut needle = b"\"".to_vec();
    needle.extend(raw::escaped(begin));
    needle
}

fn bytes_as_path(path: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::path::Path::new(std::ffi::OsStr::from_bytes(path))
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.to_owned();
        if text.contains(META) {
            if !text.starts_with(['/', '*']) {
                return Err(PatternError::Relative { text });
            }
            let glob = GlobBuilder::new(&text)
                .literal_separator(true)
                .backslash_escape(true)
                .build();
            return match glob {
                Ok(glob) => Ok(Self {
                    kind: Kind::Glob(glob.compile_matcher()),
                    text,
                }),
                Err(source) => Err(PatternError::Glob { text, source }),
            };
        }
        if !text.starts_with('/') {
            return Err(PatternError::Relative { text });
        }
        let prefix = text.trim_end_matches('/').as_bytes().to_vec();
        Ok(Self {
            kind: Kind::Below(prefix),
            text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_itself_and_what_lies_below_by_component() {
        let pattern: PathPattern = "/inbox/".parse().unwrap();
        for (path, expected) in [
            ("/inbox", true),
            ("/inbox/a.csv", true),
            ("/inbox/a/b", true),
            ("/inbox2", false),
            ("/", false),
            ("/archive/inbox", false),
        ] {
            assert_eq!(pattern.is_match(path.as_bytes()), expected, "{path}");
        }
        let all: PathPattern = "/".parse().unwrap();
        assert!(all.is_match(b"/") && all.is_match(b"/a\xff"));
    }

    #[test]
    fn a_star_of_a_glob_stays_within_a_component() {
        let pattern: PathPattern = "/in*/*.csv".parse().unwrap();
        assert!(pattern.is_match(b"/inbox/a.csv"));
        assert!(!pattern.is_match(b"/inbox/a/b.csv"));
        assert!(
            "/inbox/**"
                .parse::<PathPattern>()
                .unwrap()
                .is_match(b"/inbox/a/b")
        );
        assert!(
            "**/*.exe"
                .parse::<PathPattern>()
                .unwrap()
                .is_match(b"/a/b/\xfe.exe")
        );
    }

    #[test]
    fn what_is_no_absolute_path_is_refused() {
        for wrong in ["", "inbox", "inbox/*", "/inbox/[a"] {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong:?}");
        }
    }
}
