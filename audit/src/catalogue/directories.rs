//! Directories of backends that sessions had as mounts.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_journal::token::beginning;
use serde_json::Value;

use super::{Catalogue, clean};
use crate::{
    hidden::PathKey,
    operations::{bytes, text},
};

/// What records say of them.
#[derive(Debug, Default)]
pub(super) struct Directories {
    /// By place, and whether it is absolute on its server.
    pub(super) clear: BTreeMap<(Vec<u8>, bool), (String, Vec<u8>)>,
    hidden: BTreeSet<Hidden>,
    /// Mounts as accounts were given them, which no record hides: backend and directory.
    given: BTreeSet<(String, Vec<u8>)>,
}

/// A directory that a record names by its token.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hidden {
    backend: String,
    is_absolute: bool,
    token: Vec<u8>,
}

impl Hidden {
    fn is_in(&self, token: &[u8]) -> bool {
        let rest = self.token.strip_prefix(token);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

/// As records of sessions name it.
fn token(key: &PathKey, directory: &[u8]) -> Vec<u8> {
    beginning(key.token(&clean(directory)).as_bytes()).to_vec()
}

impl Directories {
    pub(super) fn hide(&mut self, backend: &str, is_absolute: bool, token: &[u8]) {
        self.hidden.insert(Hidden {
            backend: backend.to_owned(),
            is_absolute,
            token: beginning(token).to_vec(),
        });
    }

    /// Takes the mounts that are anywhere in the record of a change of accounts.
    pub(super) fn give(&mut self, body: &Value) {
        match body {
            Value::Object(fields) => {
                if let (Some(backend), Some(directory)) =
                    (text(body, "backend"), bytes(body, "directory"))
                {
                    self.given.insert((backend.to_owned(), directory));
                }
                fields.values().for_each(|value| self.give(value));
            }
            Value::Array(values) => values.iter().for_each(|value| self.give(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Those that were given and are hidden elsewhere.
    fn told<'a>(&'a self, key: &'a PathKey) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.given.iter().filter_map(|(backend, directory)| {
            let hidden = Hidden {
                backend: backend.clone(),
                is_absolute: directory.starts_with(b"/"),
                token: token(key, directory),
            };
            let is_used = self.hidden.contains(&hidden);
            is_used.then_some((backend.as_str(), directory.as_slice()))
        })
    }
}

impl Catalogue {
    /// Directories that sessions had, as far as a record says them in clear: backend, and path below its root. One that is absolute
    /// on its server begins with `/`; others may.
    pub fn directories(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let clear = self.directories.clear.values();
        let clear = clear.map(|(backend, directory)| (backend.as_str(), directory.as_slice()));
        let key = self.key.iter();
        clear.chain(key.flat_map(|key| self.directories.told(key)))
    }

    /// True if sessions had a directory of the backend that is hidden and lies in none of these. `by_root`: all of them count from
    /// the backend's root.
    pub fn hides_a_directory<'a>(
        &self,
        backend: &str,
        known: impl IntoIterator<Item = &'a [u8]>,
        by_root: bool,
    ) -> bool {
        let known = known.into_iter().filter_map(|directory| {
            let token = token(self.key.as_ref()?, directory);
            Some((directory.starts_with(b"/"), token))
        });
        let known: Vec<_> = known.collect();
        let mut hidden = self.directories.hidden.iter();
        hidden.any(|hidden| {
            let is_covered = |(is_absolute, token): &(bool, Vec<u8>)| {
                (by_root || *is_absolute == hidden.is_absolute) && hidden.is_in(token)
            };
            hidden.backend == backend && !known.iter().any(is_covered)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalogue(key: Option<PathKey>) -> Catalogue {
        Catalogue::new(key, [], [])
    }

    #[test]
    fn a_hidden_directory_is_told_by_the_account_that_had_it_and_is_covered_by_one_above_it() {
        let key = PathKey::new(&[7; 32]);
        let hidden = |path: &str| key.token(path.as_bytes()).into_bytes();
        let mut catalogue = catalogue(Some(key.clone()));
        let directories = &mut catalogue.directories;
        directories.hide("peer", true, &hidden("/srv/a.d"));
        directories.hide("peer", false, &hidden("/srv/b"));
        directories.hide("disk", false, &hidden("/c"));
        let hides = |catalogue: &Catalogue, known: &[&str], by_root| {
            let known = known.iter().map(|known| known.as_bytes());
            catalogue.hides_a_directory("peer", known, by_root)
        };
        for (known, by_root, expected) in [
            (&[] as &[&str], false, true),
            (&["/srv/a.d"], false, true),
            (&["/srv/a.d", "srv/b"], false, false),
            (&["/srv", "srv"], false, false),
            (&["/", "."], false, false),
            (&["/srv"], false, true),
            (&["/srv"], true, false),
            (&["/srv/a", "srv/b"], false, true),
        ] {
            assert_eq!(hides(&catalogue, known, by_root), expected, "{known:?}");
        }
        assert!(!catalogue.hides_a_directory("third", [], false));
        assert_eq!(catalogue.directories().count(), 0);

        let given = json!({ "backend": "peer", "directory": "/srv/a.d/", "permissions": [] });
        let changed = json!({ "accounts": [{ "mounts": [
            { "backend": "peer", "directory": "srv/b" }, { "backend": "peer", "directory": "never/used" },
        ] }] });
        catalogue.directories.give(&given);
        catalogue.directories.give(&changed);
        let told: Vec<_> = catalogue.directories().collect();
        let expected: [(&str, &[u8]); 2] = [("peer", b"/srv/a.d/"), ("peer", b"srv/b")];
        assert_eq!(told, expected);
    }

    #[test]
    fn without_the_key_no_hidden_directory_is_covered() {
        let key = PathKey::new(&[7; 32]);
        let mut catalogue = catalogue(None);
        let token = key.token(b"/a").into_bytes();
        catalogue.directories.hide("peer", false, &token);
        assert!(catalogue.hides_a_directory("peer", [b"a".as_slice()], false));
        catalogue
            .directories
            .give(&json!({ "backend": "peer", "directory": "a" }));
        assert_eq!(catalogue.directories().count(), 0);
    }
}
