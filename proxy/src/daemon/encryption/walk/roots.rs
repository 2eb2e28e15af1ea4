//! Where files of a backend lie: all that is its own, and of a server the directories that are or were mounted.

use std::collections::BTreeSet;

use super::{super::Kept, Look, WalkError};
use crate::{daemon::rest::mounts, path::VirtualPath};

/// A directory that is walked through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// Of the session.
    pub(super) directory: &'static [u8],
    /// At the place of the backend's name.
    pub(super) at: VirtualPath,
}

impl Look<'_> {
    pub(super) fn roots(&mut self, name: &str, kept: &Kept) -> Result<Vec<Root>, WalkError> {
        let mut directories = BTreeSet::new();
        if kept.is_server {
            let is_its = |backend: &str| kept.backends.iter().any(|its| its == backend);
            for mount in mounts(self.walk.accounts)? {
                if is_its(&mount.backend) {
                    directories.insert(mount.directory);
                }
            }
            if let Some(reader) = &mut self.reader {
                reader.advance()?;
                let known = reader.catalogue.directories();
                let known = known.filter(|(backend, _)| is_its(backend));
                directories.extend(known.map(|(_, directory)| directory.to_vec()));
                let by_root = kept.names.is_some();
                let mut backends = kept.backends.iter();
                if backends.any(|backend| {
                    let known = directories.iter().map(Vec::as_slice);
                    reader.catalogue.hides_a_directory(backend, known, by_root)
                }) {
                    self.hidden_on.insert(name.to_owned());
                }
            }
        } else {
            directories.insert(b".".to_vec());
        }
        Ok(outermost(name, kept.names.is_some(), &directories))
    }
}

/// None lies in another. Where names are encrypted all count from the backend's root.
fn outermost(name: &str, has_names: bool, directories: &BTreeSet<Vec<u8>>) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    let mut places: Vec<_> = directories
        .iter()
        .filter_map(|directory| {
            let is_absolute = directory.starts_with(b"/") && !has_names;
            let at = [name.as_bytes(), b"/", directory].concat();
            Some((VirtualPath::clean(&at).ok()?, is_absolute))
        })
        .collect();
    places.sort_by_key(|(at, _)| at.components().count());
    for (at, is_absolute) in places {
        let directory: &[u8] = if is_absolute { b"/" } else { b"." };
        let mut others = roots.iter();
        if !others.any(|root| root.directory == directory && at.below(&root.at).is_some()) {
            roots.push(Root { directory, at });
        }
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(has_names: bool, directories: &[&str]) -> Vec<(String, String)> {
        let directories = directories.iter().map(|path| path.as_bytes().to_vec());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        outermost("peer", has_names, &directories.collect())
            .iter()
            .map(|root| (text(root.directory), text(root.at.as_bytes())))
            .collect()
    }

    fn root(directory: &str, at: &str) -> (String, String) {
        (directory.to_owned(), at.to_owned())
    }

    #[test]
    fn directories_in_others_are_walked_through_with_them_and_absolute_ones_by_themselves() {
        let mounted = ["/srv/a", "srv/a", "/srv/a/b", "/srv/ab", "srv/a/b"];
        let expected = [
            root("/", "/peer/srv/a"),
            root("/", "/peer/srv/ab"),
            root(".", "/peer/srv/a"),
        ];
        assert_eq!(found(false, &mounted), expected);
        assert_eq!(
            found(false, &[".", "a", "/a"]),
            [root(".", "/peer"), root("/", "/peer/a")]
        );
        assert_eq!(found(true, &["/a", "a/b"]), [root(".", "/peer/a")]);
        assert_eq!(found(false, &[]), []);
    }
}
