//! Which virtual paths are meant: one and what lies below it, or all that a glob describes.

use std::str::FromStr;

use globset::{Candidate, GlobBuilder, GlobMatcher};
use portcullis_journal::record::HIDDEN;

use crate::{
    hidden::{PathKey, SEALED, base, is_token, kept_extension},
    raw,
};

/// Characters that make a glob of a text.
const META: [char; 5] = ['*', '?', '[', '{', '\\'];

/// Virtual paths, compared by component and byte for byte.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    kind: Kind,
    hidden: Hidden,
}

/// How paths that records hide are compared.
#[derive(Debug, Clone)]
enum Hidden {
    /// Without a key nobody knows.
    Unknown,
    Tokens {
        kind: Kind,
        /// What the token of every path that matches has in it.
        begin: String,
    },
    /// Only once they are opened.
    Opened,
}

#[derive(Debug, Clone)]
enum Kind {
    /// This path and what lies below it; without a slash at the end.
    Below(Vec<u8>),
    Glob(Box<GlobMatcher>),
}

/// Why a text describes no paths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    #[error("{text:?} is not an absolute path such as /inbox, or a glob such as /inbox/**/*.csv")]
    Relative { text: String },
    #[error(
        "{text:?} can't be asked of a log that hides its paths: there a * can only stand for whole components, or for the name of \
         a last one such as *.csv; ask for less and look through what comes, or give --unseal with the auditor's key"
    )]
    NotOfTokens { text: String },
    #[error("{text:?} is not a glob such as /inbox/**/*.csv")]
    Glob {
        text: String,
        source: globset::Error,
    },
}

impl PathPattern {
    /// The path itself, and no other.
    pub fn is_match(&self, path: &[u8]) -> bool {
        if !is_token(path) || self.is_of_tokens() {
            return self.kind.is_match(path);
        }
        match &self.hidden {
            Hidden::Tokens { kind, .. } => kind.is_match(path),
            Hidden::Unknown | Hidden::Opened => false,
        }
    }

    /// The same of records that hide paths under `key`, too.
    ///
    /// # Errors
    /// For a glob that tokens say nothing of.
    pub fn with_key(self, key: &PathKey) -> Result<Self, PatternError> {
        if self.is_of_tokens() {
            return Ok(self);
        }
        let hidden = match &self.kind {
            Kind::Below(prefix) => {
                let token = key.token(if prefix.is_empty() { b"/" } else { prefix });
                let token = token.trim_end_matches('/');
                Hidden::Tokens {
                    kind: Kind::Below(token.as_bytes().to_vec()),
                    begin: String::from_utf8_lossy(base(token.as_bytes())).into_owned(),
                }
            }
            Kind::Glob(_) => {
                let not_of_tokens = || PatternError::NotOfTokens {
                    text: self.text.clone(),
                };
                let glob = glob_of_tokens(&self.text, key).ok_or_else(not_of_tokens)?;
                let matcher = matcher(&glob).map_err(|_| not_of_tokens())?;
                Hidden::Tokens {
                    kind: Kind::Glob(Box::new(matcher)),
                    begin: glob.split('*').next().unwrap_or_default().to_owned(),
                }
            }
        };
        Ok(Self { hidden, ..self })
    }

    /// The same of records that hide paths, once those are opened.
    #[must_use]
    pub fn opened(self) -> Self {
        Self {
            hidden: Hidden::Opened,
            ..self
        }
    }

    /// Whether records that hide their paths are passed over.
    pub fn is_blind(&self) -> bool {
        matches!(self.hidden, Hidden::Unknown) && !self.is_of_tokens()
    }

    fn is_of_tokens(&self) -> bool {
        is_token(self.text.as_bytes())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the canonical form of a path that matches has in it, of each kind, unless that is encoded as a whole.
    pub(crate) fn needles(&self) -> Vec<Vec<u8>> {
        let hidden = match &self.hidden {
            Hidden::Unknown => None,
            Hidden::Tokens { begin, .. } => Some(quoted(begin)),
            Hidden::Opened => Some(format!("{SEALED}\":\"").into_bytes()),
        };
        std::iter::once(self.clear_needle()).chain(hidden).collect()
    }

    fn clear_needle(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Below(prefix) => quoted(&String::from_utf8_lossy(base(prefix))),
            Kind::Glob(_) => {
                let begin = self.text.split(META).next().unwrap_or_default();
                // `a?` and `a{b,c}` stand behind what is certain; `[` and `\` begin something else.
                quoted(begin)
            }
        }
    }
}

impl Kind {
    fn is_match(&self, path: &[u8]) -> bool {
        match self {
            Self::Below(prefix) => is_at_or_below(path, prefix),
            Self::Glob(glob) => glob.is_match_candidate(&Candidate::new(bytes_as_path(path))),
        }
    }
}

/// A glob over tokens; `None` if it asks for more of a name than its extension.
fn glob_of_tokens(glob: &str, key: &PathKey) -> Option<String> {
    let components: Vec<&str> = glob.split('/').collect();
    let (last, above) = components.split_last()?;
    let of_name = |name: &str| {
        let is_whole = matches!(name, "" | "*" | "**");
        if is_whole {
            Some(name.to_owned())
        } else {
            (!is_glob(name.as_bytes())).then(|| key.component(name.as_bytes()))
        }
    };
    let mut tokens = above
        .iter()
        .map(|name| of_name(name))
        .collect::<Option<Vec<_>>>()?;
    let extension = last.strip_prefix("*.");
    tokens.push(match extension {
        Some(extension) if kept_extension(last.as_bytes()) == Some(extension) => (*last).to_owned(),
        Some(_) => return None,
        None if is_glob(last.as_bytes()) => of_name(last)?,
        // With the extension, as a path of its own.
        None => key.token(last.as_bytes()).strip_prefix(HIDDEN)?.to_owned(),
    });
    let begin = if glob.starts_with('/') { HIDDEN } else { "" };
    Some(format!("{begin}{}", tokens.join("/")))
}

fn matcher(glob: &str) -> Result<GlobMatcher, globset::Error> {
    let glob = GlobBuilder::new(glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()?;
    Ok(glob.compile_matcher())
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
            return match matcher(&text) {
                Ok(matcher) => Ok(Self {
                    kind: Kind::Glob(Box::new(matcher)),
                    hidden: Hidden::Unknown,
                    text,
                }),
                Err(source) => Err(PatternError::Glob { text, source }),
            };
        }
        if !text.starts_with('/') && !is_token(text.as_bytes()) {
            return Err(PatternError::Relative { text });
        }
        let prefix = text.trim_end_matches('/').as_bytes().to_vec();
        Ok(Self {
            kind: Kind::Below(prefix),
            hidden: Hidden::Unknown,
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
    fn hidden_paths_are_asked_for_by_their_clear_names() {
        let key = PathKey::new(&[7; 32]);
        let other = PathKey::new(&[8; 32]);
        for (pattern, path, expected) in [
            ("/inbox", "/inbox", true),
            ("/inbox", "/inbox/a/b.csv", true),
            ("/inbox", "/inbox2", false),
            ("/inbox.d", "/inbox.d", true),
            ("/inbox.d", "/inbox.d/a.csv", true),
            ("/", "/a", true),
            ("/inbox/**", "/inbox/a/b", true),
            ("/inbox/*", "/inbox/a.csv", true),
            ("/inbox/*", "/inbox/a/b", false),
            ("/*/a.csv", "/x/a.csv", true),
            ("/*/a.csv", "/x/b.csv", false),
            ("/**/*.csv", "/x/y/b.csv", true),
            ("/**/*.csv", "/x/y/b.dcm", false),
            ("**/*.csv", "/x/y/b.csv", true),
        ] {
            let blind: PathPattern = pattern.parse().unwrap();
            let token = key.token(path.as_bytes());
            assert!(blind.is_blind() && !blind.is_match(token.as_bytes()));
            let pattern = blind.with_key(&key).unwrap();
            assert!(!pattern.is_blind());
            assert_eq!(
                pattern.is_match(token.as_bytes()),
                expected,
                "{pattern:?} {path}"
            );
            assert_eq!(
                pattern.is_match(path.as_bytes()),
                expected,
                "{pattern:?} {path}"
            );
            let needles = pattern.needles();
            let line = serde_json::to_vec(&token).unwrap();
            let is_found = needles
                .iter()
                .any(|needle| memchr::memmem::find(&line, needle).is_some());
            assert!(is_found || !expected, "{pattern:?} {path}");
            if !matches!(pattern.as_str(), "/" | "**/*.csv" | "/**/*.csv") {
                assert!(!pattern.is_match(other.token(path.as_bytes()).as_bytes()));
            }
        }
    }

    #[test]
    fn a_token_is_a_pattern_too() {
        let key = PathKey::new(&[7; 32]);
        let pattern: PathPattern = key.token(b"/in.d").parse().unwrap();
        assert!(pattern.is_match(key.token(b"/in.d").as_bytes()));
        assert!(pattern.is_match(key.token(b"/in.d/a.csv").as_bytes()));
        assert!(!pattern.is_match(key.token(b"/in").as_bytes()));
        assert!(!pattern.is_match(b"/in.d"));
    }

    #[test]
    fn a_glob_within_a_name_is_refused_for_hidden_paths_with_the_way_out() {
        let key = PathKey::new(&[7; 32]);
        for glob in [
            "/in*/a",
            "/inbox/a?.csv",
            "/inbox/[ab]",
            "/inbox/*.c*",
            "/a/x*.csv",
            "/*.123",
        ] {
            let pattern: PathPattern = glob.parse().unwrap();
            let refused = pattern.clone().with_key(&key).unwrap_err();
            assert!(refused.to_string().contains("--unseal"), "{refused}");
            assert!(!pattern.opened().is_blind());
        }
    }

    #[test]
    fn what_is_no_absolute_path_is_refused() {
        for wrong in ["", "inbox", "inbox/*", "/inbox/[a"] {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong:?}");
        }
    }
}
